"""UNet++ (Zhou et al., DLMIA 2018; IEEE TMI 2020): a U-Net whose skips are a triangle of convolution nodes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import double_conv, pad_to_multiple


class UNetPlusPlus(nn.Module):
    """Node (i, j) of row i (stride 2^i) and column j sees all earlier nodes of its row and, upsampled, node (i+1, j-1).

    The form with batch norm, biased convolutions and bilinear upsampling (widths 32 to 512, 9.16 M parameters). The
    paper's own has dropout 0.5 instead of the norm and upsamples by transposed convolutions.

    Args:
        widths: channels of the rows.
        deep_supervision: give the other nodes of row 0 a head too, so that each can be trained and the net pruned to it.
            Each head's loss counts in full; the authors take the mean of them.
    """

    def __init__(
        self, widths: tuple[int, ...] = (32, 64, 128, 256, 512), deep_supervision: bool = False
    ) -> None:
        super().__init__()
        self.rows = len(widths)
        self.nodes = nn.ModuleDict()
        for j in range(self.rows):
            for i in range(self.rows - j):
                c_in = j * widths[i] + widths[i + 1] if j else (3, *widths)[i]
                self.nodes[f"{i}{j}"] = double_conv(c_in, widths[i], bias=True)
        self.head = nn.Conv2d(widths[0], 1, 1)
        columns = range(1, self.rows - 1) if deep_supervision else ()
        self.extra_heads = nn.ModuleDict({f"node0{j}": nn.Conv2d(widths[0], 1, 1) for j in columns})
        self.extra_losses = dict.fromkeys(self.extra_heads, ("mask", 1.0))

    def forward(self, image: Tensor, extras: bool = False) -> Tensor | dict[str, Tensor]:
        """Segment.

        Args:
            image: normalised, `[B,3,H,W]` of any size.
            extras: also return the logits of nodes (0, 1), (0, 2), ... that deep supervision trains.

        Returns:
            Logits `[B,1,H,W]`; with `extras` a dict of them: `logits`, `node01`, `node02`, ...
        """
        height, width = image.shape[2:]
        x = pad_to_multiple(image, 2 ** (self.rows - 1))
        grid: list[list[Tensor]] = [[] for _ in range(self.rows)]  # grid[i][j]: [B,widths[i],H/2^i,W/2^i]
        for j in range(self.rows):
            for i in range(self.rows - j):
                if j:
                    up = F.interpolate(
                        grid[i + 1][j - 1], scale_factor=2, mode="bilinear", align_corners=True
                    )
                    x = torch.cat([*grid[i], up], 1)
                elif i:
                    x = F.max_pool2d(grid[i - 1][0], 2)
                grid[i].append(self.nodes[f"{i}{j}"](x))
        logits = self.head(grid[0][-1])[:, :, :height, :width]
        if not extras:
            return logits
        found = {"logits": logits}
        for j, (name, head) in enumerate(self.extra_heads.items(), 1):
            found[name] = head(grid[0][j])[:, :, :height, :width]
        return found
