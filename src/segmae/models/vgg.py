"""VGG (Simonyan and Zisserman, ICLR 2015) as an encoder. Names as in torchvision, so its public weights fit."""

from __future__ import annotations

from torch import Tensor, nn

from segmae.models.layers import init_layers

WIDTHS = (64, 128, 256, 512, 512)  # of the stages, at strides 1 to 16
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # of each stage, by depth


class VGG(nn.Module):
    """Image `[B,3,H,W]` to the maps before each pool, `[B,WIDTHS[i],H/2^i,W/2^i]`, strides 1 to 16.

    The last pool is left out, as no map comes after it.

    Args:
        depth: 16 or 19.
        norm: batch norm after each convolution.
    """

    channels: tuple[int, ...] = WIDTHS

    def __init__(self, depth: int, norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential()
        c_in = 3
        for stage, (width, count) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True)):
            if stage:
                self.features.append(nn.MaxPool2d(2))
            for _ in range(count):
                self.features.append(nn.Conv2d(c_in, width, 3, padding=1))
                self.features.extend([*([nn.BatchNorm2d(width)] if norm else []), nn.ReLU()])
                c_in = width
        init_layers(self, nn.init.kaiming_normal_, nn.Conv2d, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = image, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps, x]
