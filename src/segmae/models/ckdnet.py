"""CKDNet (Jin et al., Applied Soft Computing 2021): a coarse network, a classifier and a final network in chain.

What the coarse network sees gates the classifier; what the classifier sees guides the final network.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.deeplab import DeepLabHead
from segmae.models.layers import conv_bn_relu, init_layers, pad_to_multiple, resize
from segmae.models.resnet import ResNet


class CoarseNetwork(nn.Module):
    """DeepLabv3+ on a ResNet of stride 32: image to logits `[B,1,H,W]` and the maps of layers 1 to 4."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.encoder = ResNet(depth)
        _, low, *_, deep = self.encoder.channels
        dropout = (nn.Dropout2d(0.5), nn.Identity(), nn.Dropout2d(0.5))
        self.head = DeepLabHead(deep, low, bias=False, dropout=dropout)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = self.encoder(image)[1:]
        logits = self.head(maps[-1], maps[0])
        return resize(logits, image.shape[2:]), maps


class ChannelAttention(nn.Module):
    """Self-attention between channels (Fu et al., CVPR 2019), its share learned from 0: `[B,C,H,W] -> [B,C,H,W]`."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # [B,C,HW]
        energy = flat @ flat.transpose(1, 2)  # [B,C,C]
        attention = (energy.amax(2, keepdim=True) - energy).softmax(2)  # least alike weighs most, as in DANet
        return x + self.gamma * (attention @ flat).reshape(x.shape)


class Classifier(nn.Module):
    """ResNet on image and coarse probability, its layers gated by the coarse network's maps.

    Returns class logits `[B,classes]` and the maps of layers 1 to 4 before their gates.
    """

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        self.encoder = ResNet(depth)
        self.encoder.conv1 = nn.Conv2d(4, 64, 7, 2, 3, bias=False)  # 4th channel: the coarse mask
        self.attention = ChannelAttention()
        self.head = nn.Linear(self.encoder.channels[-1], classes)

    def forward(self, image: Tensor, coarse: Tensor, gates: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        e = self.encoder
        x = F.relu(e.bn1(e.conv1(torch.cat([image, coarse], 1))))
        x, maps = F.max_pool2d(x, 3, 2, 1), []
        for index, gate in enumerate(gates, 1):
            maps.append(e.get_submodule(f"layer{index}")(x))
            x = maps[-1] * (1 + gate.sigmoid())
        return self.head(self.attention(x).mean((2, 3))), maps


class Entangle(nn.Module):
    """Join a map with the sum over channels of the classifier's map, whose share is learned from 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.conv = conv_bn_relu(channels + 1, channels, bias=True)

    def forward(self, x: Tensor, knowledge: Tensor | None) -> Tensor:
        told = torch.zeros_like(x[:, :1]) if knowledge is None else knowledge.sum(1, keepdim=True)
        return self.conv(torch.cat([x, self.gamma * told], 1))


class SCSE(nn.Module):
    """Channel and spatial squeeze-and-excitation, summed (Roy et al., 2018); here the spatial gate is a full 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 16, 1), nn.ReLU(inplace=True),
            nn.Conv2d(channels // 16, channels, 1),
        )  # fmt: skip
        self.spatial = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.channel(x).sigmoid() + x * self.spatial(x).sigmoid()


class DecoderBlock(nn.Module):
    """Nearest 2x, join the skip (and gate both), two convolutions, gate."""

    def __init__(self, c_in: int, skip: int, c_out: int) -> None:
        super().__init__()
        self.joined = SCSE(c_in + skip) if skip else None
        self.convs = nn.Sequential(conv_bn_relu(c_in + skip, c_out), conv_bn_relu(c_out, c_out))
        self.gate = nn.Sequential(SCSE(c_out), nn.Dropout2d(0.2))

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2)
        if self.joined is not None and skip is not None:
            x = self.joined(torch.cat([x, skip], 1))
        return self.gate(self.convs(x))


class FinalNetwork(nn.Module):
    """U-Net on a ResNet whose maps are entangled with those of the classifier: image to logits `[B,1,H,W]`."""

    def __init__(self, depth: int, widths: tuple[int, ...] = (1024, 512, 256, 64, 32)) -> None:
        super().__init__()
        self.encoder = ResNet(depth)
        stem, *layers = self.encoder.channels
        self.entangle = nn.ModuleList(Entangle(channels) for channels in layers)
        self.decoder = nn.ModuleList()
        c_in = layers[-1]
        for skip, width in zip((*layers[-2::-1], stem, 0), widths, strict=True):
            self.decoder.append(DecoderBlock(c_in, skip, width))
            c_in = width
        self.head = nn.Conv2d(c_in, 1, 1)
        for part in (self.entangle, self.decoder, self.head):
            init_layers(part, nn.init.kaiming_uniform_, nn.Conv2d, nonlinearity="relu")

    def forward(self, image: Tensor, knowledge: list[Tensor] | None) -> Tensor:
        stem, *maps = self.encoder(image)
        told = [None] * len(maps) if knowledge is None else knowledge
        *skips, x = [join(*pair) for join, *pair in zip(self.entangle, maps, told, strict=True)]
        for block, skip in zip(self.decoder, [*skips[::-1], stem, None], strict=True):
            x = block(x, skip)
        return self.head(x)


class CKDNet(nn.Module):
    """The chain coarse -> classify -> segment; `task=chained` trains each network with the ones before it held.

    Differs from the release: the ASPP's pooled branch has its norm before its ReLU, as the other branches have. Left
    out is what the release builds and never calls, the dual-attention head (24,976,002 parameters) and the gate of a
    joined map in the last decoder block, which joins none (4,740). The 6,148 parameters that make class logits, the
    linear layer and the attention's factor, play no part in the mask.

    As in the paper: `losses: {bce: 0, dice: 1, patch: 0}` (the task adds the focal loss), Adam at 1e-4 with weight
    decay 1e-4, `optimizer.clip: 10`.

    Args:
        classes: diagnoses that the classifier tells apart. 0, for data without diagnoses: coarse network and
            classifier are not built, and the final network gets zeros in the classifier's place.
        depth: of the three ResNets: 18, 34, 50 or 101.
    """

    task = "chained"
    mask_losses: ClassVar[dict[str, float]] = {"focal": 1.0}

    def __init__(self, classes: int = 3, depth: int = 101) -> None:
        super().__init__()
        parts = ("coarse", "classify", "segment") if classes else ("segment",)
        self.public_weights = {f"{part}.encoder": f"torchvision resnet{depth}" for part in parts}
        self.extra_losses: dict[str, tuple[str, float]] = (
            {"coarse": ("mask", 1.0), "classify": ("label", 1.0)} if classes else {}
        )
        self.coarse = CoarseNetwork(depth) if classes else None
        self.classify = Classifier(depth, classes) if classes else None
        self.segment = FinalNetwork(depth)

    def forward(
        self, image: Tensor, extras: bool = False, phase: str = "segment"
    ) -> Tensor | dict[str, Tensor]:
        """Run the chain up to and with the network of a phase.

        Args:
            image: normalised `[B,3,H,W]` of any size.
            extras: return the outputs of all networks.
            phase: coarse, classify or segment.

        Returns:
            The phase's logits: `[B,1,H,W]`, for `classify` `[B,classes]`. With `extras`: `coarse`, `classify`
            and `logits`.
        """
        height, width = image.shape[2:]
        image, outputs, knowledge = pad_to_multiple(image, 32), {}, None
        if self.coarse is not None and self.classify is not None:
            coarse, gates = self.coarse(image)
            outputs["coarse"] = coarse[:, :, :height, :width]
            if phase == "coarse":
                return outputs["coarse"]
            outputs["classify"], knowledge = self.classify(image, coarse.sigmoid(), gates)
            if phase == "classify":
                return outputs["classify"]
        logits = self.segment(image, knowledge)[:, :, :height, :width]
        return {"logits": logits, **outputs} if extras else logits
