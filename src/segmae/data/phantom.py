"""Drawn dermoscopic lesions with their masks: for tests, the demo and pictures that may be shown anywhere.

Skin is a colour field; pigment absorbs light in it as melanin does (blue most, red least), so that one density map,
with a ragged border, a honeycomb of pigment network, dots and patches, gives colours that belong together. Hairs, the
dermoscope's shading and the camera's noise lie on top. Lengths are in units of the picture's short side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from segmae.data.names import IMAGE_SUFFIXES
from segmae.errors import DataError

Field = NDArray[Any]  # float32
Layout = Literal["folder", "isic2018", "isic2017", "ph2"]

SKIN_TONES = ((236, 205, 192), (231, 187, 170), (224, 172, 150), (214, 170, 134), (196, 142, 108), (222, 160, 160))  # fmt: skip
MELANIN: Field = np.array((0.66, 1.0, 1.22), np.float32)  # absorption of red, green and blue light, relative
BLOOD: Field = np.array((0.12, 1.0, 0.85), np.float32)
DIAGNOSES = ("0", "1", "2")  # PH2's codes: common nevus, atypical nevus, melanoma
PICTURES = {  # where a layout has them
    "folder": ("images/*", "masks/*"),
    "isic2018": ("ISIC2018_*/*",),
    "isic2017": ("ISIC-2017_*/*",),
    "ph2": ("PH2Dataset/*/*/*/*",),
}
ISIC2017_PARTS = (("Training", 0.6), ("Validation", 0.8), ("Test_v2", 1.0))  # cumulated shares


def draw_lesion(seed: int, size: tuple[int, int] = (400, 300)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one lesion; the same seed and size give the same picture.

    Args:
        seed: not negative.
        size: width and height in pixels, at least 16 each.

    Returns:
        The photograph uint8 `[H,W,3]` and its mask uint8 `[H,W]` in {0, 1}: one lesion, never empty, never all.

    Raises:
        DataError: a size below 16 px.
    """
    width, height = size
    if min(size) < 16:
        raise DataError(f"a drawn lesion of {width} x {height} px: give at least 16 px for each side")
    random = np.random.default_rng([seed, 0x5E6])
    short = min(size)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x + 0.5 - width / 2) / short, (y + 0.5 - height / 2) / short

    inside = _lesion_depth(random, x, y)
    skin, edge = _skin(random, x, y), random.uniform(0.02, 0.085)
    tatters = random.uniform(0.1, 0.45) * _noise(random, x, 0.035) + 0.15 * _noise(random, x, 0.012)
    presence = _step(0.5 + 0.7 * (inside / edge + tatters))
    picture = _pigmented(random, skin, x, y, presence, inside)
    picture = _hairs(random, picture, short)
    picture = _camera(random, picture, x, y)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), (inside > 0).astype(np.uint8)


def write_dataset(
    folder: str | Path, n: int, layout: Layout = "folder", size: tuple[int, int] = (400, 300), seed: int = 0
) -> Path:
    """Write `n` drawn lesions in the layout of a public dataset, with invented ids, and return the folder.

    Args:
        layout: `folder` (images/ + masks/), `isic2018`, `isic2017` (three parts) or `ph2`.
        size: width and height in pixels.
        seed: of the first lesion; the others follow.

    Raises:
        DataError: no such layout, no lesions, a size below 16 px, or a folder in which pictures of another dataset lie.
    """
    root = Path(folder)
    if n < 1:
        raise DataError(f"{n} drawn lesions: give at least 1")
    if layout not in PICTURES:
        raise DataError(f"layout '{layout}': choose folder, isic2018, isic2017 or ph2")
    places = [_places(root, layout, index, n) for index in range(n)]
    _refuse_others(root, layout, {path for pair in places for path in pair})
    for index, (image_path, mask_path) in enumerate(places):
        image, mask = draw_lesion(seed + index, size)
        for path, pixels in ((image_path, image), (mask_path, mask * 255)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=92)
    if layout == "ph2":
        table = ["||   Name || Histological Diagnosis || Clinical Diagnosis ||"]
        table += [f"|| IMD{i + 1:03} || || {DIAGNOSES[i % 3]} ||" for i in range(n)]
        (root / "PH2Dataset" / "PH2_dataset.txt").write_text("\n".join(table) + "\n", encoding="utf-8")
    return root


def _refuse_others(root: Path, layout: Layout, mine: set[Path]) -> None:
    """Raises DataError: pictures lie where a dataset is written that are none of it, as of an earlier one of more lesions."""
    for pattern in PICTURES[layout]:
        for path in root.glob(pattern):
            is_read = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
            if is_read and path not in mine:
                raise DataError(
                    f"{path}: is there already, and would pass for one of the lesions that are drawn. Choose another folder, or remove it"
                )


def _places(root: Path, layout: Layout, index: int, n: int) -> tuple[Path, Path]:
    """Image and mask file of the case with this index."""
    if layout == "ph2":
        name = f"IMD{index + 1:03}"
        case = root / "PH2Dataset" / "PH2 Dataset images" / name
        return (
            case / f"{name}_Dermoscopic_Image" / f"{name}.bmp",
            case / f"{name}_lesion" / f"{name}_lesion.bmp",
        )
    if layout == "folder":
        return root / "images" / f"drawn_{index:04}.jpg", root / "masks" / f"drawn_{index:04}.png"
    name = f"ISIC_{9000000 + index}"
    images, masks = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
    if layout == "isic2017":
        part = next(part for part, share in ISIC2017_PARTS if index < share * n)
        images, masks = f"ISIC-2017_{part}_Data", f"ISIC-2017_{part}_Part1_GroundTruth"
    return root / images / f"{name}.jpg", root / masks / f"{name}_segmentation.png"


def _lesion_depth(random: np.random.Generator, x: Field, y: Field) -> Field:
    """Signed distance to the border, roughly: positive inside, 0 on it.

    A star-shaped outline in coordinates that are smoothly displaced by less than they advance: one piece, no islands.
    """
    room = (abs(float(x[0, 0])), abs(float(y[0, 0])))
    radius = random.uniform(0.16, 0.34)
    shift = [random.uniform(-0.35, 0.35) * max(0.0, side - radius) for side in room]
    u: Field = x - np.float32(shift[0])
    v: Field = y - np.float32(shift[1])
    u, v = u + 0.022 * _noise(random, x, 0.16), v + 0.022 * _noise(random, x, 0.16)
    turn, stretch = random.uniform(0, np.pi), random.uniform(1.0, 1.5)
    along, across = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
    along, across = along / np.sqrt(stretch), across * np.sqrt(stretch)
    angle, distance = np.arctan2(across, along), np.hypot(along, across)
    outline: Field = np.ones_like(x)
    for wave in range(2, 9):
        outline += random.normal(0, 0.24 / wave**1.5) * np.cos(wave * angle + random.uniform(0, 2 * np.pi))
    return np.asarray(radius * np.clip(outline, 0.6, 1.5) - distance, np.float32)


def _skin(random: np.random.Generator, x: Field, y: Field) -> Field:
    """Colours of the skin around the lesion, float `[H,W,3]` in 0..255."""
    tone = np.array(SKIN_TONES[random.integers(len(SKIN_TONES))], np.float32)
    tone *= random.uniform(0.9, 1.04) * (1 + random.normal(0, 0.015, 3).astype(np.float32))
    slope = random.normal(0, 0.08, 2)
    light = 1 + slope[0] * x + slope[1] * y + 0.02 * _noise(random, x, 0.5)
    blush = 0.028 * _noise(random, x, 0.35) + 0.018 * _noise(random, x, 0.09)
    tan = 0.04 * _noise(random, x, 0.2) + 0.02 * _noise(random, x, 0.02)
    tan += random.uniform(0, 0.14) * np.clip(_noise(random, x, 0.12) - 0.9, 0, 1.5)  # freckles, sun spots
    furrows = _cells(random, x, y, random.uniform(0.03, 0.05))
    tan -= random.uniform(0.0, 0.028) * np.exp(-((furrows / 0.18) ** 2)) * (1 + 0.5 * _noise(random, x, 0.1))
    return np.asarray(tone * light[..., None] * _absorbed(blush, BLOOD) * _absorbed(tan, MELANIN), np.float32)


def _pigmented(
    random: np.random.Generator, skin: Field, x: Field, y: Field, presence: Field, inside: Field
) -> Field:
    """The skin with the lesion's pigment, blood and scales in it."""
    depth = np.clip(inside / max(float(inside.max()), 1e-6), 0, 1)
    patches = _noise(random, x, random.uniform(0.08, 0.16)) + 0.2 * _noise(random, x, 0.03)
    patches = _step(0.6 * patches - random.uniform(-0.3, 0.4))
    density = 1 + 0.16 * _noise(random, x, 0.07) + 0.09 * _noise(random, x, 0.025)
    density += 0.06 * _noise(random, x, 0.009)
    density += random.uniform(0.1, 0.9) * patches
    density += random.uniform(-0.25, 0.35) * (depth - 0.4)  # a dark heart, or a dark rim
    density += random.uniform(0, 0.25) * np.exp(-(((depth - 0.12) / 0.1) ** 2))

    network = np.exp(-((_cells(random, x, y, random.uniform(0.020, 0.032)) / 0.2) ** 2))
    seen = _step(0.9 * _noise(random, x, 0.12) + random.uniform(-0.2, 0.8)) * (1 - 0.6 * patches)
    density += random.uniform(0.1, 0.5) * seen * (network - 0.35)
    density += _dots(random, x, y, inside)

    strength = random.uniform(0.42, 1.15)
    red = random.uniform(0.0, 0.26) * (1 + 0.35 * _noise(random, x, 0.1)) / (0.6 + strength)
    halo = random.uniform(0, 0.12) * np.exp(-((np.clip(-inside, 0, None) / 0.05) ** 2))
    picture = skin * _absorbed(strength * presence * np.clip(density, 0.1, 2.6), MELANIN)
    picture = picture * _absorbed(presence * red + halo, BLOOD)

    if random.random() < 0.45:  # a blue-white veil or a pale scar-like patch, somewhere well inside
        veil = _step(0.5 * _noise(random, x, 0.13) + 0.1 * _noise(random, x, 0.03)) * _step(7 * inside - 0.2)
        veil = veil * random.uniform(0.3, 0.7)
        colour = np.array((112, 110, 124) if random.random() < 0.6 else (214, 184, 176), np.float32)
        picture = picture + veil[..., None] * (colour - picture)
    return np.asarray(picture, np.float32)


def _dots(random: np.random.Generator, x: Field, y: Field, inside: Field) -> Field:
    """Extra density of dots and globules."""
    total = np.zeros_like(x)
    rows, columns = np.nonzero(inside > 0.02)
    if not len(rows):
        return total
    for _ in range(int(random.integers(0, 26))):
        place = int(random.integers(len(rows)))
        row, column = rows[place], columns[place]
        radius = random.uniform(0.004, 0.011)
        squared = (x - x[row, column]) ** 2 + (y - y[row, column]) ** 2
        total += random.uniform(0.3, 0.8) * np.exp(-((squared / radius**2) ** 1.5))
    return total


def _hairs(random: np.random.Generator, picture: Field, short: int) -> Field:
    """Draw hairs at four times the size, as arcs that taper, and lay them over the picture."""
    height, width = picture.shape[:2]
    count = int(random.choice((0, 0, 2, 4, 8, 16, 28)))
    if not count:
        return picture
    fine = 4 if max(width, height) <= 1024 else 2
    layer = Image.new("L", (width * fine, height * fine))
    draw = ImageDraw.Draw(layer)
    main = random.uniform(0, np.pi)
    steps = np.linspace(0, 1, 40)[:, None]
    for _ in range(count):
        start = random.uniform(-0.1, 1.1, 2) * (width, height)
        angle = main + random.normal(0, 0.5)
        length, bend = random.uniform(0.3, 1.1) * short, random.normal(0, 0.22)
        ahead = np.array((np.cos(angle), np.sin(angle))) * length
        middle = start + ahead / 2 + bend * np.array((-ahead[1], ahead[0]))
        path = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * middle + steps**2 * (start + ahead)
        thick = random.uniform(0.0025, 0.006) * short * fine
        shade = int(random.uniform(110, 235))
        for k in range(len(path) - 1):
            line = [tuple(path[k] * fine), tuple(path[k + 1] * fine)]
            draw.line(line, fill=shade, width=max(1, round(thick * (1 - 0.7 * k / len(path)))))
    layer = layer.resize((width, height), Image.Resampling.BOX)
    layer = layer.filter(ImageFilter.GaussianBlur(0.0016 * short))
    opacity = np.asarray(layer, np.float32)[..., None] / 255
    colour = np.array(((48, 34, 30), (82, 56, 40), (30, 24, 24))[random.integers(3)], np.float32)
    return np.asarray(picture + opacity * (colour - picture), np.float32)


def _camera(random: np.random.Generator, picture: Field, x: Field, y: Field) -> Field:
    """Shading towards the corners (in some pictures the dermoscope's tube), reflections, softness, noise."""
    radius = np.hypot(x, y)
    picture = picture * (1 - random.uniform(0.04, 0.22) * np.clip(radius / 0.83, 0, 1.3)[..., None] ** 2.5)
    if random.random() < 0.2:
        tube = _step((radius - random.uniform(0.60, 0.72)) / 0.05)[..., None]
        picture = picture * (1 - 0.94 * tube)
    if random.random() < 0.3:
        shine = np.clip(_noise(random, x, 0.01) + 0.8 * _noise(random, x, 0.15) - 3.6, 0, 1)[..., None]
        picture = picture + 70 * shine * (picture > 40)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.9))), np.float32)
    grain = random.normal(0, random.uniform(1.0, 2.6), (*x.shape, 1)) + random.normal(0, 0.8, picture.shape)
    return np.asarray(blurred + grain, np.float32)


def _noise(random: np.random.Generator, like: Field, scale: float) -> Field:
    """Smooth noise `[H,W]`, about normal (0, 1), with bumps of `scale` short sides."""
    height, width = like.shape
    cell = max(1.0, scale * min(height, width))
    rows, columns = int(np.ceil(height / cell)) + 3, int(np.ceil(width / cell)) + 3
    grid = Image.fromarray(random.normal(0, 1.35, (rows, columns)).astype(np.float32))
    left, top = random.uniform(0, 1, 2)
    box = (1 + left, 1 + top, 1 + left + width / cell, 1 + top + height / cell)
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)


def _cells(random: np.random.Generator, x: Field, y: Field, pitch: float) -> Field:
    """Distance to the nearest wall of irregular cells of this size, 0 on the wall, about .5 in their middle."""
    pitch = max(pitch, 3.0 / min(x.shape))  # a pixel for each wall
    u, v = (x - x.min()) / pitch, (y - y.min()) / pitch
    column, row = u.astype(np.int32), v.astype(np.int32)
    jitter = random.uniform(0.1, 0.9, (int(row.max()) + 3, int(column.max()) + 3, 2)).astype(np.float32)
    nearest, second = np.full_like(x, 9), np.full_like(x, 9)
    for down in range(3):
        for right in range(3):
            centre = jitter[row + down, column + right]
            distance = np.hypot(centre[..., 0] + column + right - 1 - u, centre[..., 1] + row + down - 1 - v)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return second - nearest


def _absorbed(density: Field, absorber: NDArray[np.float32]) -> Field:
    """Share of light that passes an absorber of this density: `[H,W] -> [H,W,3]`."""
    return np.asarray(np.exp(-density[..., None] * absorber), np.float32)


def _step(value: Any) -> Field:
    """0 below 0, 1 above 1, smooth between."""
    value = np.clip(value, 0, 1)
    return np.asarray(value * value * (3 - 2 * value), np.float32)
