"""How far to trust a mask: an uncertainty map, one calibrated number per photograph, and warnings.

What is learned for this from images with masks (`segmae.calibrate`) lies beside a model's weights in `trust.json`; without
that file there is no expected Dice, and the only warnings are those that need no limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import xlogy

from segmae.errors import CheckpointError, reason
from segmae.files import read_json

FORMAT = 1
NO_LESION, AT_BORDER = "no lesion found", "the lesion touches the photograph's edge"
DARK, BLURRED, HAIRY, UNFAMILIAR = "dark", "blurred", "hair or ink", "unlike the calibration photographs"
BORDER_SHARE = 0.02  # of the photograph's edge pixels
FOREIGN = 2.5  # no test image is as far out (results/trust); pictures of one colour are
HAIR_CONTRAST = 12  # grey levels by which a thin line is darker than its surroundings
THIN = tuple(
    line.astype(bool) for line in (np.ones((1, 9)), np.ones((9, 1)), np.eye(7), np.fliplr(np.eye(7)))
)
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def entropy(probability: NDArray[Any]) -> NDArray[np.float32]:
    """H(p) = -p log2 p - (1 - p) log2 (1 - p) of each pixel's probability, in bits: 0 is sure, 1 is a coin's toss; the shape stays."""
    p = np.asarray(probability, np.float32)
    return np.asarray((xlogy(p, p) + xlogy(1 - p, 1 - p)) * np.float32(-1 / np.log(2)), np.float32)


def soft_dice(probability: NDArray[Any], threshold: float) -> float:
    """The Dice that a mask would have if each pixel were lesion with its own probability, in [0, 1].

    2 sum(p over the mask) / (sum(p) + the mask's pixels): the ratio of expectations. Networks are too sure of themselves,
    so it is put through a calibration (`Trust.expected_dice`). 0 where the mask is empty.
    """
    p = np.asarray(probability, np.float64)
    mask = p > threshold
    return float(2 * p[mask].sum() / (p.sum() + mask.sum())) if mask.any() else 0.0


def appearance(image: NDArray[np.uint8], mask: NDArray[Any]) -> dict[str, Any]:
    """What a photograph looks like, from the network's input.

    Args:
        image: prepared, uint8 [S,S,3].
        mask: [S,S]; what is not 0 is lesion.

    Returns:
        `brightness`: mean grey level in [0, 255]. `sharpness`: logarithm of the deviation of the Laplacian.
        `hair`: share of the skin's pixels on thin lines that are darker than their surroundings by `HAIR_CONTRAST`
        (a closing along four directions, after Lee et al., DullRazor, 1997). `features`: 12 numbers for the comparison
        with other photographs: means and deviations of the channels and of their differences, sharpness, and by how much
        the middle is darker than the rim.
    """
    pixels = image.astype(np.float32)
    grey = pixels @ GREY
    smooth = ndimage.gaussian_filter(grey, 0.5)
    lines = np.maximum.reduce([ndimage.grey_closing(smooth, footprint=line) for line in THIN]) - smooth
    skin = np.asarray(mask) == 0
    hair = float((lines[skin] > HAIR_CONTRAST).mean()) if skin.any() else 0.0
    sharpness = float(np.log(ndimage.laplace(grey).std() + 1e-3))
    red_green, yellow_blue = pixels[..., 0] - pixels[..., 1], pixels[..., :2].mean(2) - pixels[..., 2]
    quarter = len(grey) // 4
    middle = grey[quarter:-quarter, quarter:-quarter].mean()
    channels = pixels.reshape(-1, 3)
    features = [
        *channels.mean(0), *channels.std(0), red_green.mean(), red_green.std(), yellow_blue.mean(), yellow_blue.std(),
        sharpness, grey.mean() - middle,
    ]  # fmt: skip
    return {
        "brightness": float(grey.mean()),
        "sharpness": sharpness,
        "hair": hair,
        "features": np.asarray(features, np.float64),
    }


@dataclass(frozen=True)
class Trust:
    """What was learned from photographs with masks that the model did not train on.

    Attributes:
        fitted_on: the dataset, its split and part, and the number of photographs.
        curves: by number of views ("1", "8"), two rising lists: soft Dice, and the Dice that it stands for.
        centre, whiten: mean [12] of `appearance`'s features, and the matrix [12,12] that makes them independent.
        limits: `dark` and `blurred`: below; `hair or ink` and `unlike ...`: above that, a photograph gets a warning.
    """

    fitted_on: dict[str, Any]
    curves: dict[str, tuple[list[float], list[float]]]
    centre: list[float]
    whiten: list[list[float]]
    limits: dict[str, float]

    def expected_dice(self, soft: float, views: int = 1) -> float | None:
        """The Dice to expect, from `soft_dice`; None where these views were not calibrated."""
        curve = self.curves.get(str(views))
        return None if curve is None else float(np.interp(soft, *curve))

    def distance(self, features: NDArray[np.float64]) -> float:
        """Mahalanobis distance of a photograph from those of the calibration."""
        return float(np.linalg.norm((features - self.centre) @ np.asarray(self.whiten)))

    def expect(
        self, seen: Mapping[str, Any], probability: NDArray[Any], threshold: float, views: int = 1
    ) -> float | None:
        """The Dice to expect of the mask of a photograph that looks as `appearance` says.

        None too for one `FOREIGN` times as far from the calibration's as the limit of its warning: a black picture, say, of which
        the network is sure.
        """
        if self.distance(seen["features"]) > FOREIGN * self.limits[UNFAMILIAR]:
            return None
        return self.expected_dice(soft_dice(probability, threshold), views)

    def exceeded(self, seen: Mapping[str, Any]) -> list[str]:
        """Which limits a photograph exceeds that looks as `appearance` says."""
        limits = self.limits
        checks = {
            DARK: seen["brightness"] < limits[DARK],
            BLURRED: seen["sharpness"] < limits[BLURRED],
            HAIRY: seen["hair"] > limits[HAIRY],
            UNFAMILIAR: self.distance(seen["features"]) > limits[UNFAMILIAR],
        }
        return [name for name, exceeded in checks.items() if exceeded]


def mask_warnings(mask: NDArray[Any]) -> list[str]:
    """What a mask [H,W] itself gives reason to warn of."""
    found = np.asarray(mask) != 0
    if not found.any():
        return [NO_LESION]
    edge = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
    return [AT_BORDER] if edge.mean() > BORDER_SHARE else []


def load_trust(path: Path) -> Trust | None:
    """Read a model folder's `trust.json`; None if there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        values = read_json(path)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        values["curves"] = {views: tuple(curve) for views, curve in values["curves"].items()}
        return Trust(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({reason(error)}). Make it anew with `segmae calibrate`, or remove it"
        ) from error
