"""DAGAN (Lei et al., Medical Image Analysis 2020): a dense dilated U-Net that draws masks, two discriminators that judge them.

Our reconstruction from the abstract: neither code nor the full text is public. Not the authors' network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmae.models.layers import conv_bn_relu
from segmae.models.unet import UNet

RATES = (1, 2, 4)


class DenseDilatedBlock(nn.Module):
    """Three dilated convolutions, each on all maps before it, then a 1x1 fusion: `[B,c_in,H,W] -> [B,c_out,H,W]`."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        growth = c_out // 2
        self.layers = nn.ModuleList()
        for rate in RATES:
            self.layers.append(conv_bn_relu(c_in, growth, rate=rate))
            c_in += growth
        self.fuse = conv_bn_relu(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.fuse(x)


class Generator(UNet):
    """UNet-SCDC: a U-Net of dense dilated blocks, image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""

    def block(self, c_in: int, c_out: int) -> nn.Module:
        return DenseDilatedBlock(c_in, c_out)


def discriminator(c_in: int, widths: tuple[int, ...] = (64, 128, 256, 512)) -> nn.Sequential:
    """`[B,c_in,H,W]` to one logit for each region, `[B,1,H/16-1,W/16-1]`: above 0 where it looks drawn by hand."""
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        norm = [nn.BatchNorm2d(width)] if index else []
        layers += [nn.Conv2d(c_in, width, 4, 2, 1), *norm, nn.LeakyReLU(0.2, inplace=True)]
        c_in = width
    return nn.Sequential(*layers, nn.Conv2d(c_in, 1, 4, 1, 1))


class DAGAN(nn.Module):
    """Generator and dual discriminators; only the generator runs at test time.

    In our reading, as the paper's settings are not known: `losses: {bce: 1, dice: 1, patch: 0}` and Adam at 2e-4 with betas .5 and .999.

    Args:
        widths: channels of the generator at strides 1, 2, 4, 8, 16.
        discriminators: False leaves them out; the generator alone is trained by `task=supervised`.
    """

    adversarial_weight = 0.05  # of each discriminator in the generator's loss: our choice

    def __init__(
        self, widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512), discriminators: bool = True
    ) -> None:
        super().__init__()
        self.task = "adversarial" if discriminators else "supervised"
        self.generator = Generator(widths)
        self.discriminators = nn.ModuleDict()
        if discriminators:
            self.discriminators["boundary"] = discriminator(1)  # sees the mask alone
            self.discriminators["object"] = discriminator(3 + 1)  # sees the mask on its image

    def forward(self, image: Tensor, judge: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Segment, or judge a mask. One door for both, so that wrappers for several devices see every call.

        Args:
            image: normalised `[B,3,H,W]` of any size.
            judge: a mask `[B,1,H,W]` in [0, 1], drawn by hand or by the generator.

        Returns:
            Logits `[B,1,H,W]`. With `judge`: each discriminator's logits by its name, see `discriminator`.
        """
        if judge is not None:
            seen = {"boundary": judge, "object": torch.cat([image, judge], 1)}
            return {name: network(seen[name]) for name, network in self.discriminators.items()}
        return self.generator(image)
