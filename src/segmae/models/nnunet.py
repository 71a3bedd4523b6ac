"""nnU-Net's default 2-D network (Isensee et al., Nature Methods 2021): a plain U-Net whose depth follows from a rule.

The network alone; the recipe around it (augmentation, SGD, five folds, mirrored inference) is a matter of settings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import init_layers, pad_to_multiple


def plan_widths(side: int) -> tuple[int, ...]:
    """Channels of the stages for square patches: halve while the side is at least 8, double from 32 up to 512."""
    widths = [32]
    while side >= 8:
        side //= 2
        widths.append(min(512, 2 * widths[-1]))
    return tuple(widths)


def conv_block(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """Two times 3x3 convolution, instance norm, leaky ReLU; the first may have a stride."""
    layers: list[nn.Module] = []
    for width, step in ((c_in, stride), (c_out, 1)):
        layers += [
            nn.Conv2d(width, c_out, 3, step, 1), nn.InstanceNorm2d(c_out, affine=True), nn.LeakyReLU(0.01, inplace=True)
        ]  # fmt: skip
    return nn.Sequential(*layers)


class NNUNet(nn.Module):
    """Strided convolutions down, transposed convolutions up, a head on the decoder stages.

    The reference also builds a head on the coarsest decoder stage, to which its loss gives the weight 0: left out
    here (513 parameters at 224). It compares the others with shrunken masks; here their logits are enlarged instead.

    Args:
        side: of the square patches that the plan is made for; 224 gives 6 stages, 256 gives 7, 512 gives 8.
    """

    def __init__(self, side: int = 224) -> None:
        super().__init__()
        widths = plan_widths(side)
        self.stride = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList()
        for stage, (c_in, width) in enumerate(zip((3, *widths), widths, strict=False)):
            self.encoder.append(conv_block(c_in, width, 2 if stage else 1))
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for deep, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(deep, width, 2, 2))
            self.merge.append(conv_block(2 * width, width))
        self.head = nn.Conv2d(widths[0], 1, 1)
        names = {f"stride{2**level}": widths[level] for level in range(1, len(widths) - 2)}
        self.extra_heads = nn.ModuleDict({name: nn.Conv2d(width, 1, 1) for name, width in names.items()})
        # 1/2, 1/4, ... beside the 1 of the full size; the reference also divides them by their sum
        self.extra_losses = {name: ("mask", 0.5**level) for level, name in enumerate(names, 1)}
        init_layers(self, nn.init.kaiming_normal_, nn.Conv2d, nn.ConvTranspose2d, a=0.01)

    def forward(self, image: Tensor, extras: bool = False) -> Tensor | dict[str, Tensor]:
        """Segment.

        Args:
            image: normalised, `[B,3,H,W]` of any size.
            extras: also return the logits of the coarser decoder stages that deep supervision trains.

        Returns:
            Logits `[B,1,H,W]`; with `extras` a dict of them at this size: `logits`, `stride2`, `stride4`, ...
        """
        height, width = image.shape[2:]
        # a deepest map of one pixel has no statistics for its instance norm
        stride = self.stride if max(height, width) > self.stride else 2 * self.stride
        x, skips = pad_to_multiple(image, stride), []
        size = x.shape[2:]
        for block in self.encoder:
            x = block(x)
            skips.append(x)  # [B,widths[stage],H/2^stage,W/2^stage]
        maps: dict[str, Tensor] = {}
        for level, (up, merge, skip) in enumerate(zip(self.up, self.merge, skips[-2::-1], strict=True)):
            x = merge(torch.cat([up(x), skip], 1))
            maps[f"stride{2 ** (len(self.up) - 1 - level)}"] = x
        logits = self.head(x)[:, :, :height, :width]
        if not extras:
            return logits
        found = {"logits": logits}
        for name, head in self.extra_heads.items():
            coarse = F.interpolate(head(maps[name]), size=size, mode="bilinear", align_corners=False)
            found[name] = coarse[:, :, :height, :width]
        return found
