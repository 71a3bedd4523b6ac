"""DSNet (Hasan et al., Computers in Biology and Medicine 2020): a DenseNet-121 encoder and a depth-wise separable decoder.

Our reconstruction: no code of the authors was found, and widths of the decoder are those that come nearest to the
10.00 M parameters that others report.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import pad_to_multiple

GROWTH = 32


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3, joined to its input: `[B,c_in,H,W] -> [B,c_in+32,H,W]`."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 to half the channels, mean over 2x2."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(c_in)
        self.conv = nn.Conv2d(c_in, c_in // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """DenseNet (Huang et al., CVPR 2017): image to maps at strides 2, 4, 8, 16, 32, before each transition.

    Names as in torchvision.

    Args:
        blocks: layers of the four dense blocks; those of DenseNet-121 by default.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = (6, 12, 24, 16)) -> None:
        super().__init__()
        conv0 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.features = nn.ModuleDict({"conv0": conv0, "norm0": nn.BatchNorm2d(64)})
        c_in, widths = 64, [64]
        for index, depth in enumerate(blocks, 1):
            block = nn.Sequential()
            for layer in range(1, depth + 1):
                block.add_module(f"denselayer{layer}", DenseLayer(c_in))
                c_in += GROWTH
            self.features[f"denseblock{index}"] = block
            widths.append(c_in)
            if index < len(blocks):
                self.features[f"transition{index}"] = Transition(c_in)
                c_in //= 2
        self.features["norm5"] = nn.BatchNorm2d(c_in)
        self.channels = tuple(widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        f = self.features
        maps = [F.relu(f["norm0"](f["conv0"](image)))]
        x = F.max_pool2d(maps[0], 3, 2, 1)
        for index in (1, 2, 3):
            maps.append(f[f"denseblock{index}"](x))
            x = f[f"transition{index}"](maps[-1])
        return [*maps, F.relu(f["norm5"](f["denseblock4"](x)))]


def separable(c_in: int, c_out: int) -> nn.Sequential:
    """Depth-wise 3x3, point-wise 1x1, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False),
        nn.Conv2d(c_in, c_out, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class DSNet(nn.Module):
    """Five steps up, each nearest 2x, the encoder's map of that size, and one separable convolution.

    Args:
        widths: channels of the decoder at strides 16, 8, 4, 2, 1.
        blocks: see `DenseNet`.
    """

    public_weights: ClassVar[dict[str, str]] = {"encoder": "torchvision densenet121"}

    def __init__(
        self,
        widths: tuple[int, ...] = (1024, 512, 256, 128, 64),
        blocks: tuple[int, int, int, int] = (6, 12, 24, 16),
    ) -> None:
        super().__init__()
        self.encoder = DenseNet(blocks)
        self.decoder = nn.ModuleList()
        c_in = self.encoder.channels[-1]
        for skip, width in zip((*self.encoder.channels[-2::-1], 0), widths, strict=True):
            self.decoder.append(separable(c_in + skip, width))
            c_in = width
        self.head = nn.Conv2d(c_in, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        *skips, x = self.encoder(pad_to_multiple(image, 32))
        for level, block in enumerate(self.decoder):
            x = F.interpolate(x, scale_factor=2)
            x = block(torch.cat([x, skips[-1 - level]], 1) if level < len(skips) else x)
        return self.head(x)[:, :, :height, :width]
