"""Frozen DINOv2 (Oquab et al., TMLR 2024) with a linear head, as in its section 7.4, or a small convolutional one.

What a general-purpose encoder knows about skin lesions without being trained on any: only the heads learn.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import conv_bn_relu
from segmae.models.vit import VisionTransformer

PATCH, DIM = 14, 384


class FrozenDINOv2(nn.Module):
    """ViT-S/14 whose weights never move, and a head on its patch tokens.

    Args:
        head: map of tokens `[B,384,h,w]` to logits `[B,1,h',w']` of any scale.
    """

    public_weights: ClassVar[dict[str, str]] = {"encoder": "DINOv2 ViT-S/14 (timm vit_small_patch14_dinov2)"}

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.encoder = VisionTransformer(DIM, depth=12, heads=6, patch=PATCH, grid=37, layer_scale=1e-5)
        self.encoder.requires_grad_(False)
        self.head = head

    def train(self, mode: bool = True) -> FrozenDINOv2:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]`, resized inside to the next multiples of 14, to logits `[B,1,H,W]`."""
        size = image.shape[2:]
        # not -(-side // PATCH): ONNX's division of integers truncates
        grid = tuple((side + PATCH - 1) // PATCH for side in size)
        side = (grid[0] * PATCH, grid[1] * PATCH)
        if side != tuple(size):
            image = F.interpolate(image, size=side, mode="bilinear", align_corners=False)
        tokens = self.encoder(image)[:, 1:]
        logits = self.head(tokens.transpose(1, 2).reshape(-1, DIM, *grid))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def dinov2_linear() -> FrozenDINOv2:
    """Batch norm and a linear layer for each patch: 1,153 of 22,057,345 parameters are trained."""
    return FrozenDINOv2(nn.Sequential(nn.BatchNorm2d(DIM), nn.Conv2d(DIM, 1, 1)))


def dinov2_conv() -> FrozenDINOv2:
    """Three 3x3 convolutions with two doublings between them, so that edges are finer than a patch.

    535,009 of 22,591,201 parameters are trained.
    """
    return FrozenDINOv2(
        nn.Sequential(
            conv_bn_relu(DIM, 128),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv_bn_relu(128, 64),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv_bn_relu(64, 32),
            nn.Conv2d(32, 1, 1),
        )
    )
