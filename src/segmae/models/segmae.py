"""SegMAE (Huang et al., ICIC 2025): one encoder, a decoder that segments and a decoder that rebuilds hidden patches.

In the paper's order: the hybrid encoder (3.1), the MAE decoder and the cascaded upsampler (3.2). A patch that the
encoder does not get is called hidden; a mask is always a lesion mask.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.efficientnet import EfficientNetLite
from segmae.models.layers import (
    Block,
    conv_bn_relu,
    init_transformer,
    pad_to_multiple,
    patch_grid,
    resize_position,
    sine_cosine_position,
)
from segmae.models.resnetv2 import ResNetV2

PATCH = 16  # pixels: one token stands for PATCH x PATCH pixels of the image


class HybridEncoder(nn.Module):
    """A CNN, then a ViT on patches of its stride-16 map (section 3.1).

    Args:
        cnn: the CNN stage, returning maps at strides 2, 4, 8, 16; None for a ViT on raw patches without skips.
        dim, depth, heads: width, blocks and heads of the ViT.
        embed: `cnn`: tokens come from the CNN's map alone, as in the paper. `residual`: tokens are the ViT's own
            embedding of the raw patches plus the CNN's map through a 1x1 convolution that starts at zero, so
            that a pretrained ViT starts undisturbed.
        dropout: on tokens and in the MLPs.
        layer_scale: start of the LayerScale factors; 0 for none.
        grid: side of the learned position grid; other sizes interpolate it.
    """

    def __init__(
        self,
        cnn: ResNetV2 | EfficientNetLite | None,
        dim: int,
        depth: int,
        heads: int,
        embed: str = "cnn",
        dropout: float = 0.0,
        layer_scale: float = 0.0,
        grid: int = 14,
    ) -> None:
        super().__init__()
        if embed not in ("cnn", "residual"):
            raise ValueError(f"embed='{embed}': choose 'cnn' or 'residual'")
        if depth < 1:
            raise ValueError(f"depth={depth}: the ViT has at least one block")
        self.dim = dim
        self.cnn = cnn
        self.skip_channels: tuple[int, ...] = () if cnn is None else cnn.channels[:3]  # strides 2, 4, 8
        self.cnn_embed = None if cnn is None else nn.Conv2d(cnn.channels[3], dim, 1)
        self.patch_embed = None
        if cnn is None or embed == "residual":
            self.patch_embed = nn.Conv2d(3, dim, PATCH, PATCH)
        self.position = nn.Parameter(torch.zeros(1, grid * grid, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.position, std=0.02)
        init_transformer(self.blocks)
        if self.cnn_embed is not None and self.patch_embed is not None:
            for parameter in self.cnn_embed.parameters():
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> dict[str, Tensor]:
        """Encode an image.

        Args:
            image: normalised, `[B,3,H,W]`, H and W multiples of 16.
            visible: indices `[B,V]` of the patches to encode; None for all N = H/16 * W/16.

        Returns:
            Named intermediates: `stride2`, `stride4`, `stride8`, `stride16` (CNN maps, where there is a CNN),
            `block1` ... `blockL` and `tokens` (after the last norm), each `[B,V or N,dim]`.
        """
        features: dict[str, Tensor] = {}
        embedded: list[Tensor] = []
        if self.cnn is not None and self.cnn_embed is not None:
            maps = self.cnn(image)
            features = dict(zip(("stride2", "stride4", "stride8", "stride16"), maps, strict=True))
            embedded.append(self.cnn_embed(maps[3]))
        if self.patch_embed is not None:
            embedded.append(self.patch_embed(image))
        x = embedded[0] if len(embedded) == 1 else embedded[0] + embedded[1]
        grid = patch_grid(image, PATCH)
        x = x.flatten(2).transpose(1, 2) + resize_position(self.position, grid)  # [B,N,dim]
        if visible is not None:  # eq. 2: hidden tokens are dropped, not replaced
            x = x.gather(1, visible[:, :, None].expand(-1, -1, x.shape[2]))
        x = self.dropout(x)
        for index, block in enumerate(self.blocks, 1):
            x = block(x)
            features[f"block{index}"] = x
        features["tokens"] = self.norm(x)
        return features


class MAEDecoder(nn.Module):
    """Rebuild hidden patches from the visible tokens (eq. 3 and 4): `[B,V,encoder_dim] -> [B,N,16*16*3]`."""

    def __init__(self, encoder_dim: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_dim, dim)
        self.hidden_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, PATCH * PATCH * 3)
        init_transformer(self)
        nn.init.normal_(self.hidden_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.embed(tokens)
        everywhere = self.hidden_token.to(x.dtype).expand(x.shape[0], grid[0] * grid[1], -1)
        x = everywhere.scatter(1, visible[:, :, None].expand(-1, -1, x.shape[2]), x)
        x = x + sine_cosine_position(x.shape[2], grid, x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class CascadedUpsampler(nn.Module):
    """CUP: tokens back to a grid, then four times 2x upsampling with skips: `[B,N,dim] -> logits [B,1,H,W]`.

    Args:
        dim: width of the tokens.
        skips: channels of the CNN maps at strides 2, 4, 8; empty for none.
        widths: channels after the first convolution and after each of the four stages.
    """

    align_corners = False  # of the upsampling; TransUNet's does

    def __init__(self, dim: int, skips: tuple[int, ...], widths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        self.first = conv_bn_relu(dim, widths[0])
        self.stages = nn.ModuleList()
        for index in range(4):
            skip = skips[2 - index] if skips and index < 3 else 0
            c_in, c_out = widths[index] + skip, widths[index + 1]
            self.stages.append(nn.Sequential(conv_bn_relu(c_in, c_out), conv_bn_relu(c_out, c_out)))
        self.head = nn.Conv2d(widths[4], 1, 3, padding=1)

    def forward(self, features: dict[str, Tensor], grid: tuple[int, int]) -> Tensor:
        tokens = features["tokens"]
        x = self.first(tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *grid))
        for stage, name in zip(self.stages, ("stride8", "stride4", "stride2", ""), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
            if name in features:
                x = torch.cat([x, features[name]], 1)
            x = stage(x)
        return self.head(x)


class SegMAE(nn.Module):
    """The dual-decoder network.

    Args:
        cnn: `resnet`, `efficientnet-lite` or `none` (a ViT on raw patches, row 1 of the ablation).
        cnn_options: keyword arguments of the CNN stage.
        dim, depth, heads, embed, dropout, layer_scale, grid: see `HybridEncoder`.
        upsampler: channel widths of the cascaded upsampler, five numbers.
        decoder: width, depth and heads of the MAE decoder; None builds a network that only segments.
    """

    def __init__(
        self,
        cnn: str = "resnet",
        cnn_options: dict[str, Any] | None = None,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        embed: str = "cnn",
        dropout: float = 0.1,
        layer_scale: float = 0.0,
        grid: int = 14,
        upsampler: tuple[int, int, int, int, int] = (512, 256, 128, 64, 16),
        decoder: tuple[int, int, int] | None = (512, 8, 16),
    ) -> None:
        super().__init__()
        stages = {"resnet": ResNetV2, "efficientnet-lite": EfficientNetLite}
        if cnn != "none" and cnn not in stages:
            raise ValueError(f"cnn='{cnn}': choose {', '.join(stages)} or none")
        stage: Any = None if cnn == "none" else stages[cnn](**(cnn_options or {}))
        self.encoder = HybridEncoder(stage, dim, depth, heads, embed, dropout, layer_scale, grid)
        self.upsampler = CascadedUpsampler(dim, self.encoder.skip_channels, upsampler)
        self.mae_decoder = None if decoder is None else MAEDecoder(dim, *decoder)
        self.rebuilds = self.mae_decoder is not None

    def forward(
        self, image: Tensor, task: str = "segment", visible: Tensor | None = None, blank: bool = False
    ) -> Tensor:
        """Segment (`task="segment"`) or rebuild (`task="reconstruct"`, see there). One door for both tasks, so
        that wrappers for several devices see every call.

        Args:
            image: normalised, `[B,3,H,W]` of any size of at least 16 px; padded inside to multiples of 16.

        Returns:
            Logits `[B,1,H,W]`; above 0 is lesion. For `reconstruct`: `[B,N,768]`.
        """
        if task == "reconstruct":
            if visible is None:
                raise ValueError("task='reconstruct' needs the indices of the visible patches")
            return self.reconstruct(image, visible, blank)
        height, width = image.shape[2:]
        image = pad_to_multiple(image, PATCH)
        grid = patch_grid(image, PATCH)
        return self.upsampler(self.encoder(image), grid)[:, :, :height, :width]

    def reconstruct(self, image: Tensor, visible: Tensor, blank: bool = False) -> Tensor:
        """Rebuild all patches from the visible ones.

        Args:
            image: normalised, `[B,3,H,W]`, H and W multiples of 16.
            visible: indices `[B,V]` of the visible patches.
            blank: also blank the hidden pixels before the CNN, whose receptive field otherwise carries some of
                them into visible tokens.

        Returns:
            `[B,N,768]`: for each patch 16 x 16 x 3 values (row, column, channel), see `patchify`.
        """
        if self.mae_decoder is None:
            raise ValueError("this network was built without an MAE decoder (decoder=None)")
        grid = patch_grid(image, PATCH)
        if blank:
            seen = image.new_zeros(len(image), grid[0] * grid[1]).scatter(1, visible, 1.0)
            seen = seen.reshape(-1, 1, *grid)
            image = image * F.interpolate(seen, scale_factor=PATCH, mode="nearest")
        return self.mae_decoder(self.encoder(image, visible)["tokens"], visible, grid)


def patchify(image: Tensor) -> Tensor:
    """`[B,3,H,W] -> [B,N,768]`: patches in row-major order; within one: row, column, channel."""
    b, c, h, w = image.shape
    x = image.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, PATCH * PATCH * c)


def unpatchify(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`: `[B,N,768] -> [B,3,H,W]`."""
    x = patches.reshape(len(patches), *grid, PATCH, PATCH, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, grid[0] * PATCH, grid[1] * PATCH)


def segmae_base(**options: Any) -> SegMAE:
    """The paper's network: R50-ViT-B/16 with CUP, 105.3 M parameters, and a 512 x 8 MAE decoder."""
    return SegMAE(**options)


def segmae_small(**options: Any) -> SegMAE:
    """ViT-S with LayerScale, so that DINOv2 weights fit, behind a ResNet of half the width, or another `cnn`.

    The factors start at 1e-5, as DINOv2's did, whose file brings its own. A file without them, or a random start under SGD, wants
    `layer_scale=1`: from 1e-5 a short training leaves the blocks at nothing (docs/lab-notes.md). The ResNet keeps 32 groups: at a width of
    32, in its stem and inside its first stage, GroupNorm is instance norm.
    """
    half = {"width": 32, "units": (3, 4, 6)}
    defaults: dict[str, Any] = dict(
        cnn_options=half if options.get("cnn", "resnet") == "resnet" else {}, dim=384, heads=6, embed="residual",
        dropout=0.0, layer_scale=1e-5, upsampler=(256, 128, 64, 32, 16), decoder=(256, 8, 8),
    )  # fmt: skip
    return SegMAE(**{**defaults, **options})


def segmae_tiny(**options: Any) -> SegMAE:
    """EfficientNet-Lite stage, six blocks of width 192: the model that ships with the package."""
    defaults: dict[str, Any] = dict(
        cnn="efficientnet-lite", dim=192, depth=6, heads=3, dropout=0.0,
        upsampler=(128, 64, 32, 16, 8), decoder=(128, 4, 4),
    )  # fmt: skip
    return SegMAE(**{**defaults, **options})
