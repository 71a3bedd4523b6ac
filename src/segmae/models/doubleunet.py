"""DoubleU-Net (Jha et al., CBMS 2020): a U-Net on VGG-19, then a second U-Net on the image times the first one's mask."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.deeplab import ASPP
from segmae.models.layers import SqueezeExcitation, double_conv, pad_to_multiple, resize
from segmae.models.vgg import VGG

WIDTHS = (32, 64, 128, 256)  # of both decoders and the second encoder, at strides 1, 2, 4, 8
BOTTOM = 64  # channels at stride 16


def block(c_in: int, c_out: int) -> nn.Sequential:
    """Two convolutions with norm and ReLU, squeeze and excitation."""
    return nn.Sequential(double_conv(c_in, c_out), SqueezeExcitation(c_out, 8, bias=True))


class Decoder(nn.Module):
    """Four times 2x, join the skips, block: `[B,64,H/16,W/16]` to `[B,32,H,W]`.

    Args:
        skips: channels that join at strides 1, 2, 4, 8, of all skips together.
    """

    def __init__(self, skips: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        c_in = BOTTOM
        for skip, width in zip(skips[::-1], WIDTHS[::-1], strict=True):
            self.blocks.append(block(c_in + skip, width))
            c_in = width

    def forward(self, x: Tensor, *skips: list[Tensor]) -> Tensor:
        """Each list holds an encoder's maps at strides 1, 2, 4, 8."""
        for level, join in enumerate(self.blocks, 1):
            maps = [encoder[-level] for encoder in skips]
            x = join(torch.cat([resize(x, maps[0].shape[2:]), *maps], 1))
        return x


class DoubleUNet(nn.Module):
    """The second decoder gets skips of both encoders; its mask is the result.

    As the authors' PyTorch file (29,288,886 parameters), but the ASPP pools to one pixel, as the paper's first
    implementation does, not to 2 x 2. The image that the first mask gates is the normalised one, whose zero is the
    mean colour, where theirs is black.

    As in the paper, on ISIC 2018: Dice loss on both outputs, Adam at 1e-4, images of 384 x 512.
    """

    public_weights: ClassVar[dict[str, str]] = {"encoder": "torchvision vgg19"}
    extra_losses: ClassVar[dict[str, tuple[str, float]]] = {"first": ("mask", 1.0)}

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VGG(19, norm=False)
        *skips, deep = self.encoder.channels
        self.aspp = ASPP(deep, bias=False, width=BOTTOM)
        self.decoder = Decoder(tuple(skips))
        self.first_head = nn.Conv2d(WIDTHS[0], 1, 1)
        self.second_encoder = nn.ModuleList(block(*pair) for pair in pairwise((3, *WIDTHS)))
        self.second_aspp = ASPP(WIDTHS[-1], bias=False, width=BOTTOM)
        self.second_decoder = Decoder(tuple(sum(pair) for pair in zip(skips, WIDTHS, strict=True)))
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, image: Tensor, extras: bool = False) -> Tensor | dict[str, Tensor]:
        """Segment.

        Args:
            image: normalised, `[B,3,H,W]` of any size, padded inside to multiples of 16.
            extras: also return the first network's logits.

        Returns:
            Logits `[B,1,H,W]`; with `extras` a dict of them: `logits` and `first`.
        """
        height, width = image.shape[2:]
        image = pad_to_multiple(image, 16)
        *skips, x = self.encoder(image)
        first = self.first_head(self.decoder(self.aspp(x), skips))  # [B,1,H,W]

        x, second_skips = image * first.sigmoid(), []
        for down in self.second_encoder:
            x = down(x)
            second_skips.append(x)
            x = F.max_pool2d(x, 2)
        logits = self.head(self.second_decoder(self.second_aspp(x), skips, second_skips))
        logits = logits[:, :, :height, :width]
        return {"logits": logits, "first": first[:, :, :height, :width]} if extras else logits
