"""MB-DCNN (Xie et al., IEEE TMI 2020): networks that bootstrap one another.

Coarse-SN finds the lesion, mask-CN names it and so points at what matters, enhanced-SN segments with that hint.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.deeplab import DeepLabHead
from segmae.models.layers import pad_to_multiple, resize

norm_layer = partial(nn.BatchNorm2d, eps=1e-3)  # of the public weights, which come from TensorFlow


class AlignedSeparable(nn.Module):
    """Depth-wise 3x3, norm, point-wise 1x1, norm; with `activate`, a ReLU after each norm."""

    def __init__(self, c_in: int, c_out: int, stride: int, activate: bool) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False)
        self.bn_dw = norm_layer(c_in)
        self.conv_pw = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn_pw = norm_layer(c_out)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_dw(self.conv_dw(x))
        x = self.bn_pw(self.conv_pw(F.relu(x) if self.activate else x))
        return F.relu(x) if self.activate else x


class ConvNorm(nn.Module):
    """Convolution and norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = norm_layer(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class AlignedBlock(nn.Module):
    """Three separable convolutions, the last with the stride, and a shortcut; the exit flow has none.

    Returns the block's map and the one after its second convolution.
    """

    def __init__(
        self, c_in: int, widths: tuple[int, int, int], stride: int = 1, exit_flow: bool = False
    ) -> None:
        super().__init__()
        self.exit_flow = exit_flow
        self.shortcut = None
        if not exit_flow and (stride > 1 or c_in != widths[-1]):
            self.shortcut = ConvNorm(c_in, widths[-1], 1, stride)
        self.stack = nn.ModuleDict()
        for index, width in enumerate(widths, 1):
            self.stack[f"conv{index}"] = AlignedSeparable(c_in, width, stride if index == 3 else 1, exit_flow)
            c_in = width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second, third = self.stack.values()
        if self.exit_flow:
            second_map = second(first(x))
            return third(second_map), second_map
        second_map = second(F.relu(first(F.relu(x))))
        y = third(F.relu(second_map))
        return y + (x if self.shortcut is None else self.shortcut(x)), second_map


class AlignedXception(nn.Module):
    """Xception-65 as DeepLabv3+ aligns it, at stride 16: image to 256 channels at 1/4 and 2048 at 1/16 of its side.

    Names as in timm.

    Args:
        middle: blocks of the middle flow.
    """

    def __init__(self, middle: int = 16) -> None:
        super().__init__()
        self.stem = nn.ModuleList([ConvNorm(3, 32, 3, 2), ConvNorm(32, 64, 3, 1)])
        self.blocks = nn.ModuleList()
        for c_in, width in ((64, 128), (128, 256), (256, 728)):
            self.blocks.append(AlignedBlock(c_in, (width, width, width), 2))
        self.blocks.extend(AlignedBlock(728, (728, 728, 728)) for _ in range(middle))
        self.blocks.append(AlignedBlock(728, (728, 1024, 1024)))
        self.blocks.append(AlignedBlock(1024, (1536, 1536, 2048), exit_flow=True))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x, low = image, image
        for conv in self.stem:
            x = F.relu(conv(x))
        for index, block in enumerate(self.blocks):
            x, second = block(x)
            low = second if index == 1 else low
        return low, x


class SegmentationNetwork(nn.Module):
    """DeepLabv3+ on the aligned Xception, image to logits `[B,1,H,W]`; enhanced-SN also takes a map at stride 16."""

    def __init__(self, middle: int, guided: bool = False) -> None:
        super().__init__()
        self.encoder = AlignedXception(middle)
        self.head = DeepLabHead(2048, 256, True, (nn.Dropout(0.5), nn.Dropout(0.5), nn.Dropout(0.1)), guided)

    def forward(self, image: Tensor, guide: Tensor | None = None) -> Tensor:
        low, deep = self.encoder(image)
        return resize(self.head(deep, low, guide), image.shape[2:])


class Separable(nn.Module):
    """Depth-wise 3x3 and point-wise 1x1."""

    def __init__(self, c_in: int, c_out: int, rate: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_in, 3, padding=rate, dilation=rate, groups=c_in, bias=False)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """ReLU, separable convolution, norm, once for each width, then perhaps a pool to half the size; with a shortcut."""

    def __init__(
        self, c_in: int, widths: tuple[int, ...], pool: bool = False, relu_first: bool = True
    ) -> None:
        super().__init__()
        self.skip = self.skipbn = None
        if pool or c_in != widths[-1]:
            self.skip = nn.Conv2d(c_in, widths[-1], 1, 2 if pool else 1, bias=False)
            self.skipbn = nn.BatchNorm2d(widths[-1])
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.ReLU(), Separable(c_in, width), nn.BatchNorm2d(width)]
            c_in = width
        layers += [nn.MaxPool2d(3, 2, 1)] if pool else []
        self.rep = nn.Sequential(*layers[0 if relu_first else 1 :])

    def forward(self, x: Tensor) -> Tensor:
        return self.rep(x) + (x if self.skip is None or self.skipbn is None else self.skipbn(self.skip(x)))


class Xception(nn.Module):
    """The original Xception (Chollet, CVPR 2017) kept at stride 16, `[B,c_in,H,W] -> [B,2048,H/16,W/16]`.

    The first two convolutions do not pad. Names as in timm's legacy_xception.
    """

    def __init__(self, c_in: int, middle: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, 32, 3, 2, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64)
        blocks = [Block(64, (128, 128), pool=True, relu_first=False)]
        blocks += [Block(128, (256, 256), pool=True), Block(256, (728, 728), pool=True)]
        blocks += [Block(728, (728, 728, 728)) for _ in range(middle)]
        blocks += [Block(728, (728, 1024))]
        for index, block in enumerate(blocks, 1):
            self.add_module(f"block{index}", block)
        self.depth = len(blocks)
        self.conv3, self.bn3 = Separable(1024, 1536, 2), nn.BatchNorm2d(1536)
        self.conv4, self.bn4 = Separable(1536, 2048, 2), nn.BatchNorm2d(2048)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        for index in range(1, self.depth + 1):
            x = self.get_submodule(f"block{index}")(x)
        x = F.relu(self.bn3(self.conv3(x)))
        return F.relu(self.bn4(self.conv4(x)))


class MaskCN(nn.Module):
    """Classifier on image and coarse probability: class logits `[B,classes]` and the class activation map.

    The map `[B,1,H/16,W/16]` is the sum of the last maps, weighted for the predicted class, over its maximum; values
    below 0 stay.
    """

    def __init__(self, middle: int, classes: int) -> None:
        super().__init__()
        self.encoder = Xception(4, middle)
        self.head = nn.Linear(2048, classes)

    def forward(self, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.encoder(torch.cat([image, coarse], 1)).float()
        logits = self.head(maps.mean((2, 3)))
        weights = self.head.weight[logits.argmax(1)]  # [B,2048]
        activation = (maps * weights[:, :, None, None]).sum(1, keepdim=True)
        peak = activation.amax((2, 3), keepdim=True)
        # where no value is above 0, the release divides by 0
        largest = activation.abs().amax((2, 3), keepdim=True)
        return logits, activation / torch.where(peak > 0, peak, largest + 1e-6)


class MBDCNN(nn.Module):
    """The chain coarse-SN -> mask-CN -> enhanced-SN; `task=chained` trains each with the ones before it held.

    Differs from the release: one lesion channel in place of two classes (257 parameters a head fewer); mask-CN gets
    coarse-SN's probability, not its thresholded mask; mask-CN's last block and convolutions also start from public
    weights; enhanced-SN does not start from coarse-SN, which is not trained before it but along with it; shortcuts
    carry the map before the ReLU (in the release identities carry it after, and in mask-CN projections too); norms of the aligned
    Xception have TensorFlow's epsilon; one view, not 18.
    The three biases of the class logits play no part in the mask.

    Nearest to the paper: `losses: {bce: 0, dice: 1, patch: 0}` (the task adds the rank loss; Dice is the lesion's smoothed by a pixel, in the paper
    the mean of both classes), Adam at 1e-4.

    Args:
        classes: diagnoses that mask-CN tells apart. 0, for data without diagnoses: coarse-SN and mask-CN are not
            built, and enhanced-SN gets zeros in place of the activation map.
        middle: blocks in the middle flow of the segmentation networks' Xception and of mask-CN's.
    """

    task = "chained"
    mask_losses: ClassVar[dict[str, float]] = {"rank": 0.05}

    def __init__(self, classes: int = 3, middle: tuple[int, int] = (16, 8)) -> None:
        super().__init__()
        self.public_weights = {"segment.encoder": "timm xception65"}
        if classes:
            earlier = {"coarse.encoder": "timm xception65", "classify.encoder": "timm legacy_xception"}
            self.public_weights = {**earlier, **self.public_weights}
        self.extra_losses: dict[str, tuple[str, float]] = (
            {"coarse": ("mask", 1.0), "classify": ("label", 1.0)} if classes else {}
        )
        self.coarse = SegmentationNetwork(middle[0]) if classes else None
        self.classify = MaskCN(middle[1], classes) if classes else None
        self.segment = SegmentationNetwork(middle[0], guided=True)

    def forward(
        self, image: Tensor, extras: bool = False, phase: str = "segment"
    ) -> Tensor | dict[str, Tensor]:
        """Run the chain up to and with the network of a phase.

        Args:
            image: normalised `[B,3,H,W]` of any size.
            extras: return the outputs of all networks.
            phase: coarse, classify or segment (enhanced-SN).

        Returns:
            The phase's logits: `[B,1,H,W]`, for `classify` `[B,classes]`. With `extras`: `coarse`, `classify`
            and `logits`.
        """
        height, width = image.shape[2:]
        image, outputs = pad_to_multiple(image, 16), {}
        guide = image.new_zeros(image.shape[0], 1, image.shape[2] // 16, image.shape[3] // 16)
        if self.coarse is not None and self.classify is not None:
            coarse = self.coarse(image)
            outputs["coarse"] = coarse[:, :, :height, :width]
            if phase == "coarse":
                return outputs["coarse"]
            outputs["classify"], guide = self.classify(image, coarse.sigmoid())
            if phase == "classify":
                return outputs["classify"]
        logits = self.segment(image, guide)[:, :, :height, :width]
        return {"logits": logits, **outputs} if extras else logits
