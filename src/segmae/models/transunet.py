"""TransUNet (Chen et al., 2021): a hybrid encoder and a cascaded upsampler, which SegMAE took over and added to.

What differs from the part of SegMAE that segments: upsampling aligns corners, and the position table starts at zero.

What differs from the released code: strided convolutions and the pool pad as in the network whose public weights are
loaded (resnetv2.py), so that the map after the pool is 56 x 56 at 224 and not 55 x 55 with zeros appended to the skip;
norms of shortcuts have 32 groups; all epsilons and the start of the linear layers are SegMAE's; one channel of logits
stands for two classes with softmax.
"""

from __future__ import annotations

from torch import Tensor, nn

from segmae.models.layers import pad_to_multiple, patch_grid
from segmae.models.resnetv2 import ResNetV2
from segmae.models.segmae import PATCH, CascadedUpsampler, HybridEncoder


class Upsampler(CascadedUpsampler):
    """CUP whose bilinear upsampling aligns corners: `[B,N,dim] -> logits [B,1,H,W]`."""

    align_corners = True


class TransUNet(nn.Module):
    """R50-ViT-B/16 with three skips: 105,275,921 parameters. Names as in SegMAE, so `load_vit` fits.

    Args:
        dim, depth, heads, dropout, grid: see `HybridEncoder`.
        units: residual units of the three stages of the CNN.
    """

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        dropout: float = 0.1,
        grid: int = 14,
        units: tuple[int, int, int] = (3, 4, 9),
    ) -> None:
        super().__init__()
        self.encoder = HybridEncoder(ResNetV2(units=units), dim, depth, heads, dropout=dropout, grid=grid)
        self.upsampler = Upsampler(dim, self.encoder.skip_channels, (512, 256, 128, 64, 16))
        nn.init.zeros_(self.encoder.position)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size, padded inside to multiples of 16, to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        image = pad_to_multiple(image, PATCH)
        grid = patch_grid(image, PATCH)
        return self.upsampler(self.encoder(image), grid)[:, :, :height, :width]
