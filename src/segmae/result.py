"""What a model found in one photograph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segmae import contour
from segmae import measure as measuring
from segmae import overlay as drawing
from segmae.data.preprocess import restore, restored_strips
from segmae.photographs import read_again
from segmae.trust import entropy, mask_warnings

SURROUNDINGS = 1 / 16  # of the network's grid: how far around the lesion the uncertainty is looked at


@dataclass(frozen=True, eq=False)
class Result:
    """What a model found in one photograph, upright and at the photograph's own size.

    Attributes:
        mask: bool `[height,width]`: True is lesion.
        network: float32 `[S,S]` in [0, 1]: the probability as the network gave it.
        threshold: the mask is where the probability exceeds it.
        source: the path or the bytes that were given; of an image or an array its pixels, upright, as they were then.
        orientation: EXIF's, 1 to 8: how the stored photograph was turned to be upright.
        expected_dice: with an expert's mask, in [0, 1], see docs/trust.md; None where the model was not calibrated for this, or the
            photograph is unlike all others.
        photo_warnings: what speaks against the photograph: `dark`, `blurred`, `hair or ink`, `unlike ...`.
        stamp: of a path: size and time of the file when it was read, by which a change is noticed.
    """

    mask: NDArray[np.bool_]
    network: NDArray[np.float32]
    threshold: float
    source: Any
    orientation: int = 1
    expected_dice: float | None = None
    photo_warnings: tuple[str, ...] = ()
    stamp: list[int] | None = None

    def __repr__(self) -> str:
        height, width = self.mask.shape
        expected = "" if self.expected_dice is None else f", expected Dice {self.expected_dice:.2f}"
        warnings = f", look twice: {'; '.join(self.warnings)}" if self.warnings else ""
        return f"Result({width} x {height} px, lesion {self.lesion_share:.1%}{expected}{warnings})"

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """Of lesion, float32 `[height,width]` in [0, 1]; `cleaned` leaves it as it is."""
        return restore(self.network, (self.mask.shape[1], self.mask.shape[0]))

    @property
    def lesion_share(self) -> float:
        """Share of the photograph that is lesion, in [0, 1]."""
        return float(self.mask.mean())

    @property
    def warnings(self) -> list[str]:
        """Reasons to look twice: at the mask, and at the photograph."""
        return [*mask_warnings(self.mask), *self.photo_warnings]

    @cached_property
    def uncertainty_map(self) -> NDArray[np.float32]:
        """Entropy of the probability in bits, float32 `[height,width]`: 0 is sure, 1 is undecided."""
        return entropy(self.probability)

    @property
    def uncertainty(self) -> float:
        """See `segmae.result.uncertainty`."""
        return uncertainty(self.network, self.threshold)

    @cached_property
    def contours(self) -> list[contour.Polygon]:
        """The mask's outlines, the largest first, with sub-pixel edges: see `segmae.contour.outlines`."""
        field = restore(self.network, (self.mask.shape[1], self.mask.shape[0]))
        for top in range(0, len(field), 256):  # what `cleaned` changed; in strips, to bound the memory
            strip, mask = field[top : top + 256], self.mask[top : top + 256]
            found = strip > self.threshold
            strip[found & ~mask] = 0
            strip[mask & ~found] = 1
        return contour.outlines(field, self.threshold)

    def cleaned(self, keep_largest: bool = False, fill_holes: bool = False) -> Result:
        """The same with only the largest piece of the mask, without holes, or both."""
        return replace(self, mask=contour.cleaned(self.mask, keep_largest, fill_holes))

    def measure(self, mm_per_pixel: float | tuple[float, float] | None = None) -> measuring.Measurements:
        """Size, border, symmetry and colours: see `segmae.measure.measure`.

        Raises:
            WrongOption: a scale that is none; it is a ConfigError and a ValueError.
            ImageError: the photograph was given by its path, and the file has changed or is gone.
        """
        return measuring.measure(read_again(self.source, self.stamp), self.mask, mm_per_pixel, self.contours)

    def overlay(self, style: str = "contour") -> Image.Image:
        """The photograph with the lesion's contour in cyan; the styles are `segmae.overlay.STYLES`.

        Raises:
            WrongOption: no such style; it is a ConfigError and a ValueError.
            ImageError: as `measure`.
        """
        if style not in drawing.STYLES:
            raise measuring.WrongOption(f"overlay style '{style}': choose from {', '.join(drawing.STYLES)}")
        return Image.fromarray(drawing.overlay(read_again(self.source, self.stamp), self.mask, style=style))


def find_mask(network: NDArray[np.float32], threshold: float, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the restored probability exceeds the threshold: bool `[H,W]` for a size of (width, height)."""
    mask = np.empty((size[1], size[0]), bool)
    top = 0
    for strip in restored_strips(network, size):
        np.greater(strip, threshold, out=mask[top : top + len(strip)])
        top += len(strip)
    return mask


def uncertainty(network: NDArray[np.float32], threshold: float) -> float:
    """Mean binary entropy in and around the lesion, in bits: 0 where the network is sure, 1 where it says p = 1/2 throughout.

    `segmae.trust.entropy`, averaged over the pixels of the network's grid that lie in the lesion or within
    `SURROUNDINGS` of the grid's side from it, along rows and columns; over all where no lesion was found. A small lesion has
    more edge for its area, and with it a higher value. This is not calibrated: it orders images; `Result.expected_dice` is.

    Args:
        network: `[S,S]` in [0, 1], the probability before it is restored to the photograph's size.
        threshold: above it is lesion.
    """
    lesion = network > threshold
    reach = round(SURROUNDINGS * len(network))
    near = ndimage.maximum_filter(lesion, 2 * reach + 1, mode="constant") if lesion.any() else ~lesion
    return float(np.mean(entropy(network[near]), dtype=np.float64))
