"""Shapes with known measures come out as computed by hand, at any angle and scale; painted colours are found."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segmae.appearance import COLOURS, to_lab
from segmae.contour import outlines
from segmae.data.phantom import draw_lesion
from segmae.errors import ConfigError
from segmae.measure import Measurements, measure

SKIN = (224, 172, 150)
BROWN = COLOURS["light_brown"]


def turned(size: int, degrees: float, x0: float, y0: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels' centres in axes turned by `degrees` from x towards y, around (x0, y0)."""
    y, x = np.mgrid[:size, :size] + 0.5
    angle = math.radians(degrees)
    u = (x - x0) * math.cos(angle) + (y - y0) * math.sin(angle)
    v = (y - y0) * math.cos(angle) - (x - x0) * math.sin(angle)
    return u, v


def disc(size: int, radius: float) -> np.ndarray:
    return np.hypot(*turned(size, 0, size / 2 + 0.3, size / 2 - 0.2)) < radius


def ellipse(size: int, a: float, b: float, degrees: float = 0) -> np.ndarray:
    u, v = turned(size, degrees, size / 2 + 0.3, size / 2 - 0.2)
    return np.hypot(u / a, v / b) < 1


def photograph(mask: np.ndarray, colour: Any = BROWN) -> np.ndarray:
    pixels = np.empty((*mask.shape, 3), np.uint8)
    pixels[:] = SKIN
    pixels[mask] = colour if np.ndim(colour) == 1 else np.asarray(colour)[mask]
    return pixels


def measured(mask: np.ndarray, **options: Any) -> Measurements:
    return measure(photograph(mask), mask, **options)


@pytest.mark.parametrize("radius", [12, 40, 150])
def test_disc(radius: float) -> None:
    found = measured(disc(400, radius))
    assert found.area_px == pytest.approx(math.pi * radius**2, rel=0.01)
    assert found.equivalent_diameter_px == pytest.approx(2 * radius, rel=0.005)
    assert found.longest_diameter_px == pytest.approx(2 * radius, abs=0.7)
    assert found.perimeter_px == pytest.approx(2 * math.pi * radius, rel=0.012)
    assert found.compactness == pytest.approx(1, abs=0.02)
    assert found.border_irregularity == pytest.approx(1, abs=0.01)
    assert found.asymmetry_shape_major is not None and found.asymmetry_shape_major < 0.4 / radius
    assert found.asymmetry_shape_score == 0
    assert (found.pieces, found.holes, found.touches_border) == (1, 0, False)


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 140])
def test_ellipse_at_any_angle(degrees: float) -> None:
    a, b = 120, 60
    found = measured(ellipse(400, a, b, degrees))
    around = math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b)))  # Ramanujan
    assert found.longest_diameter_px == pytest.approx(2 * a, abs=1)
    assert found.perimeter_px == pytest.approx(around, rel=0.01)
    assert found.compactness == pytest.approx(4 * math.pi * math.pi * a * b / around**2, abs=0.015)
    assert found.border_irregularity == pytest.approx(1, abs=0.006)
    assert found.major_axis_deg is not None
    off = (found.major_axis_deg - degrees + 90) % 180 - 90
    assert abs(off) < 0.5
    (x1, y1), (x2, y2) = found.longest_diameter_ends_px or ((0, 0), (0, 0))
    assert math.hypot(x2 - x1, y2 - y1) == pytest.approx(found.longest_diameter_px)
    assert (x1 + x2) / 2 == pytest.approx(200.3, abs=2) and (y1 + y2) / 2 == pytest.approx(199.8, abs=2)
    for value in (found.asymmetry_shape_major, found.asymmetry_shape_minor):
        assert value is not None and value < 0.015


def test_rectangle_with_sides_along_the_pixels() -> None:
    mask = np.zeros((200, 300), bool)
    mask[50:110, 40:240] = True
    found = measured(mask)
    assert found.area_px == 60 * 200
    assert found.perimeter_px == pytest.approx(520, rel=0.01)
    assert found.longest_diameter_px == pytest.approx(math.hypot(60, 200), abs=2), "corners are rounded"
    assert found.compactness == pytest.approx(4 * math.pi * 60 * 200 / 520**2, rel=0.015)
    assert found.major_axis_deg == pytest.approx(0, abs=0.1)


@given(st.floats(-90, 90), st.floats(0.5, 2))
@settings(max_examples=20, deadline=None)
def test_shape_does_not_depend_on_angle_and_scale(degrees: float, scale: float) -> None:
    """A drop: symmetric about its long axis, and not about the short one."""

    def drop(degrees: float, scale: float) -> Measurements:
        u, v = turned(int(300 * scale), degrees, 150 * scale, 150 * scale)
        return measured(abs(v) < 45 * scale * np.cos(np.clip(u / (95 * scale), -1, 1) * np.pi / 2) ** 0.5
                        * (1 + u / (120 * scale)) * (abs(u) < 95 * scale))  # fmt: skip

    one, other = drop(0, 1), drop(degrees, scale)
    assert other.equivalent_diameter_px == pytest.approx(scale * one.equivalent_diameter_px, rel=0.01)
    assert other.longest_diameter_px == pytest.approx(scale * one.longest_diameter_px, rel=0.03)
    assert other.perimeter_px == pytest.approx(scale * one.perimeter_px, rel=0.02)
    assert other.asymmetry_shape_major == pytest.approx(one.asymmetry_shape_major, abs=0.02)
    assert other.asymmetry_shape_minor == pytest.approx(one.asymmetry_shape_minor, abs=0.02)
    assert (one.asymmetry_shape_major or 0) < 0.01 and (one.asymmetry_shape_minor or 0) > 0.15
    assert one.asymmetry_shape_score == other.asymmetry_shape_score == 1


def test_shape_that_is_asymmetric_about_both_axes() -> None:
    mask = ellipse(300, 100, 55)
    mask[:150, 150:] = False
    found = measured(mask)
    assert found.asymmetry_shape_score == 2


def test_asymmetry_of_shape_is_the_area_that_does_not_overlap() -> None:
    """An isosceles triangle, base along y: folding across the base's direction through the centroid, computed exactly."""
    size, height, half = 600, 400, 150
    y, x = np.mgrid[:size, :size] + 0.5
    u = x - 100
    mask = (u > 0) & (u < height) & (abs(y - 300) < half * (1 - u / height))
    found = measured(mask)
    # Width falls from 1 at u = 0 to 0 at 1 (unit height); the centroid is at 1/3. A slice at 1/3 + t meets that at 1/3 - t.
    t = np.linspace(0, 1 / 3, 100001)
    overlap = 2 / 3 * np.minimum(1 - (1 / 3 + t), 1 - (1 / 3 - t)).mean()
    assert found.asymmetry_shape_minor == pytest.approx(1 - overlap / 0.5, abs=0.01)
    assert found.asymmetry_shape_major == pytest.approx(0, abs=0.01)


def test_notches_make_the_border_irregular_and_elongation_does_not() -> None:
    u, v = turned(400, 0, 200, 200)
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    star = radius < 110 * (1 + 0.25 * np.cos(9 * angle))
    long = ellipse(400, 180, 30)
    found = measured(star)
    assert found.border_irregularity is not None and found.border_irregularity > 1.25
    assert found.compactness is not None and found.compactness < 0.6
    assert measured(long).border_irregularity == pytest.approx(1, abs=0.01)


def test_holes_and_pieces() -> None:
    mask = disc(300, 100) & ~disc(300, 40)
    mask[5:25, 5:25] = True
    found = measured(mask)
    assert (found.pieces, found.holes) == (2, 1)
    assert found.area_px == int(mask.sum())
    assert found.perimeter_px == pytest.approx(2 * math.pi * 100 + 80, rel=0.02), (
        "the hole's edge does not count"
    )
    assert found.compactness == pytest.approx(1, abs=0.02), "of the largest piece, filled"


def test_millimetres() -> None:
    mask = ellipse(300, 100, 50, 30)
    plain, scaled = measured(mask), measured(mask, mm_per_pixel=0.04)
    assert plain.area_mm2 is plain.perimeter_mm is plain.longest_diameter_mm is plain.mm_per_pixel is None
    assert scaled.area_mm2 == pytest.approx(plain.area_px * 0.0016)
    assert scaled.longest_diameter_mm == pytest.approx(plain.longest_diameter_px * 0.04)
    assert scaled.equivalent_diameter_mm == pytest.approx(plain.equivalent_diameter_px * 0.04)
    assert scaled.perimeter_mm == pytest.approx(plain.perimeter_px * 0.04)
    assert scaled.mm_per_pixel == (0.04, 0.04)
    for name in ("area_px", "perimeter_px", "longest_diameter_px", "asymmetry_shape_minor", "colours"):
        assert getattr(plain, name) == pytest.approx(getattr(scaled, name))


def test_pixels_that_are_not_square() -> None:
    """An ellipse of pixels is a disc of millimetres where pixels are twice as high as they are wide."""
    mask = ellipse(400, 120, 60)
    found = measured(mask, mm_per_pixel=(0.05, 0.1))
    assert found.area_mm2 == pytest.approx(math.pi * 6**2, rel=0.005)
    assert found.longest_diameter_mm == pytest.approx(12, abs=0.1)
    assert found.perimeter_mm == pytest.approx(2 * math.pi * 6, rel=0.015)
    assert found.compactness == pytest.approx(1, abs=0.03)
    assert found.longest_diameter_px == pytest.approx(240, abs=1)
    upright = measured(disc(300, 80), mm_per_pixel=(0.05, 0.1))
    assert abs(upright.major_axis_deg or 0) == pytest.approx(90, abs=0.5)
    assert upright.asymmetry_shape_score == 0
    (x1, y1), (x2, y2) = upright.longest_diameter_ends_px or ((0, 0), (0, 0))
    assert abs(y2 - y1) == pytest.approx(160, abs=1.5) and abs(x2 - x1) < 20


@pytest.mark.parametrize(
    "scale",
    [0, -1.0, 1e-320, 1e300, math.nan, math.inf, (0.1, 0), (0.1, 0.1, 0.1), "0.02", ("1", "1"), (0.1, None)],
)
def test_scale_that_is_none_is_refused(scale: Any) -> None:
    for error in (ValueError, ConfigError):
        with pytest.raises(error, match="mm_per_pixel"):
            measured(disc(50, 10), mm_per_pixel=scale)


def test_a_scale_may_be_any_real_number() -> None:
    for scale in (1, np.float32(0.5), np.float64(0.5), np.int64(1), [0.5, 0.5]):
        assert measured(disc(50, 10), mm_per_pixel=scale).area_mm2


def test_sizes_and_types_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        measure(np.zeros((20, 30, 3), np.uint8), np.ones((30, 20), bool))
    with pytest.raises(ValueError, match="uint8"):
        measure(np.zeros((20, 30, 3), np.float32), np.ones((20, 30), bool))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [slice(0, 30), slice(70, 100), slice(40, 60)])
def test_contact_with_the_edge(rows: slice) -> None:
    mask = np.zeros((100, 120), bool)
    mask[rows, 30:60] = True
    found = measured(mask)
    assert found.touches_border == (rows != slice(40, 60))
    height = rows.stop - rows.start
    assert found.perimeter_px == pytest.approx(2 * (height + 30), rel=0.05), "corners are rounded"


def test_whole_photograph_is_lesion() -> None:
    found = measured(np.ones((60, 80), bool))
    assert found.area_px == 4800 and found.touches_border
    assert found.perimeter_px == pytest.approx(280, rel=0.02)
    assert found.colours == ("light_brown",)


def test_no_lesion() -> None:
    empty = np.zeros((40, 50), bool)
    found = measured(empty, mm_per_pixel=0.1)
    assert (
        found.area_px
        == found.perimeter_px
        == found.longest_diameter_px
        == found.area_mm2
        == found.perimeter_mm
        == 0
    )
    assert found.compactness is found.asymmetry_shape_score is found.longest_diameter_ends_px is None
    assert found.colour_count == 0 and sum(found.colour_shares.values()) == 0 and not found.touches_border
    assert measured(empty).area_mm2 is None
    json.dumps(found.to_dict(), allow_nan=False)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_tiny_lesions_have_measures_too(height: int, width: int, top: int, left: int) -> None:
    mask = np.zeros((24, 24), bool)
    mask[top : top + height, left : left + width] = True
    found = measured(mask)
    assert found.area_px == mask.sum()
    assert found.longest_diameter_px <= math.hypot(height, width) + 1e-6
    assert found.colours == ("light_brown",)
    assert found.asymmetry_shape_score == 0
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "places", [[(0, 0), (255, 255)], [(0, 10), (3, 290)], [(7, 7), (250, 11), (130, 200)]]
)
@pytest.mark.parametrize("scale", [None, (0.001, 1.0)])
@pytest.mark.parametrize("most", [2048, 100])
def test_scattered_specks_can_be_measured(
    places: list[tuple[int, int]], scale: Any, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those further apart than outlines are followed pixel by pixel."""
    monkeypatch.setattr("segmae.contour.MAX_SIDE", most)
    mask = np.zeros((300, 300), bool)
    mask[tuple(zip(*places, strict=True))] = True
    found = measured(mask, mm_per_pixel=scale)
    assert found.pieces == len(places) and found.area_px == len(places)
    assert sum(found.colour_shares.values()) == pytest.approx(1)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_any_mask_can_be_measured(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 40, 2))
    mask = random.random(shape) < random.random()
    found = measure(random.integers(0, 256, (*shape, 3), dtype=np.uint8), mask, (0.1, 0.2))
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    if mask.any():
        assert sum(found.colour_shares.values()) == pytest.approx(1)
        assert 0 <= values["asymmetry_shape_major"] <= 1 and 0 <= values["asymmetry_pigment_minor"] <= 1
        assert 0 < values["compactness"] <= 1 <= values["border_irregularity"]


def test_cielab_of_known_colours() -> None:
    # White and grey by definition; the primaries as Lindbloom's calculator gives them for sRGB and D65.
    assert to_lab(np.array([255, 255, 255])) == pytest.approx([100, 0, 0], abs=1e-3)
    assert to_lab(np.array([0, 0, 0])) == pytest.approx([0, 0, 0], abs=1e-9)
    assert to_lab(np.array([255, 0, 0])) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert to_lab(np.array([[0, 0, 255], [119, 119, 119]]))[0] == pytest.approx(
        [32.30, 79.19, -107.86], abs=0.02
    )


@pytest.mark.parametrize("name", COLOURS)
def test_each_painted_colour_is_found_alone(name: str) -> None:
    mask = disc(200, 60)
    pixels = photograph(mask, COLOURS[name])
    pixels[~mask] = (150, 110, 100)  # darker than the reference white
    found = measure(pixels, mask)
    assert found.colours == (name,) and found.colour_count == 1
    assert found.colour_variegation_de == pytest.approx(0, abs=1)


def test_shares_of_painted_sectors() -> None:
    u, v = turned(400, 0, 200.3, 199.8)
    mask = np.hypot(u, v) < 150
    turn = (np.arctan2(v, u) / (2 * np.pi)) % 1
    painted = np.select(
        [(turn < 0.5)[..., None], (turn < 0.8)[..., None]],
        [np.array(COLOURS["dark_brown"]), np.array(COLOURS["blue_grey"])],
        np.array(COLOURS["black"]),
    )
    found = measure(photograph(mask, painted.astype(np.uint8)), mask)
    assert set(found.colours) == {"dark_brown", "blue_grey", "black"}
    assert found.colour_shares["dark_brown"] == pytest.approx(0.5, abs=0.02)
    assert found.colour_shares["blue_grey"] == pytest.approx(0.3, abs=0.02)
    assert found.colour_shares["black"] == pytest.approx(0.2, abs=0.02)


def test_white_counts_only_where_it_is_lighter_than_the_skin() -> None:
    mask = disc(200, 60)
    pixels = photograph(mask, COLOURS["white"])
    pixels[~mask] = (235, 215, 225)
    assert "white" not in measure(pixels, mask).colours
    pixels[~mask] = (150, 110, 100)
    assert measure(pixels, mask).colours == ("white",)


@pytest.mark.parametrize("shape", [disc(60, 3), disc(60, 10), disc(2200, 1000), ellipse(320, 150, 2, 30)])
def test_skin_beside_a_small_or_thin_lesion_is_no_colour_of_it(shape: np.ndarray) -> None:
    pixels = np.where(shape[..., None], np.uint8(COLOURS["black"]), np.uint8(SKIN))
    found = measure(pixels, shape)
    assert found.colours == ("black",)
    assert found.colour_variegation_de == pytest.approx(0, abs=1e-6)


def test_hairs_and_dots_are_no_colour_and_a_patch_is() -> None:
    mask = disc(400, 120)
    pixels = photograph(mask)
    pixels[:, 150:400:60] = pixels[:, 151:400:60] = COLOURS["black"]
    assert measure(pixels, mask).colours == ("light_brown",)
    pixels[170:240, 170:240] = COLOURS["black"]
    assert measure(pixels, mask).colours == ("light_brown", "black")


def test_asymmetry_of_colour_about_one_axis() -> None:
    """The far half of a lying ellipse is darker: folding along the long axis matches, across it does not."""
    mask = ellipse(400, 150, 80, 25)
    u, _ = turned(400, 25, 200.3, 199.8)
    painted = np.where((u > 0)[..., None], np.array(COLOURS["black"]), np.array(BROWN)).astype(np.uint8)
    found = measure(photograph(mask, painted), mask)
    difference = float(np.linalg.norm(to_lab(np.array(BROWN)) - to_lab(np.array(COLOURS["black"]))))
    assert found.asymmetry_colour_minor_de == pytest.approx(difference, rel=0.05)
    assert found.asymmetry_colour_major_de == pytest.approx(0, abs=1.5)
    assert found.asymmetry_pigment_minor == pytest.approx(1, abs=0.05)
    assert found.asymmetry_pigment_major == pytest.approx(0, abs=0.05)
    assert found.colour_variegation_de == pytest.approx(difference / 2, rel=0.05)
    assert found.asymmetry_shape_score == 0


def test_what_has_no_counterpart_counts_for_shape_and_not_for_colour() -> None:
    """A lying ellipse with a black tail at one end: folded across, nothing of the lesion lies under it."""
    u, v = turned(400, 0, 200, 200)
    mask = (np.hypot(u / 110, v / 45) < 1) | ((u > 90) & (u < 180) & (abs(v) < 20))
    painted = np.where((u > 150)[..., None], np.array(COLOURS["black"]), np.array(BROWN)).astype(np.uint8)
    found = measure(photograph(mask, painted), mask)
    assert found.asymmetry_shape_minor is not None and found.asymmetry_shape_minor > 0.1
    assert found.asymmetry_colour_minor_de == pytest.approx(0, abs=2)


def test_even_pigment_is_symmetric_in_spite_of_noise() -> None:
    mask = disc(300, 90)
    noise = np.random.default_rng(0).normal(0, 4, (300, 300, 1))
    painted = np.clip(np.array(BROWN) + noise + np.linspace(0, 2, 300)[None, :, None], 0, 255).astype(
        np.uint8
    )
    found = measure(photograph(mask, painted), mask)
    assert found.asymmetry_pigment_major == found.asymmetry_pigment_minor == 0
    assert (found.asymmetry_colour_major_de or 9) < 2


def test_an_outline_of_the_probability_is_used() -> None:
    u, v = turned(200, 0, 100.3, 99.8)
    probability = np.clip(0.5 + 0.05 * (60.4 - np.hypot(u, v)), 0, 1)
    mask = probability > 0.5
    found = measure(photograph(mask), mask, outline=outlines(probability, 0.5))
    assert found.perimeter_px == pytest.approx(2 * math.pi * 60.4, rel=5e-4)
    assert found.longest_diameter_px == pytest.approx(120.8, abs=0.02)


def test_size_of_the_photograph_changes_the_units_and_little_else() -> None:
    pixels, lesion = draw_lesion(5, (600, 450))
    small = measure(pixels, lesion)
    upscaled = [
        Image.fromarray(picture).resize((3000, 2250), Image.Resampling.BICUBIC)
        for picture in (pixels, lesion * 255)
    ]
    large = measure(np.asarray(upscaled[0]), np.asarray(upscaled[1]) > 127)
    assert large.area_px == pytest.approx(25 * small.area_px, rel=0.005)
    assert large.perimeter_px == pytest.approx(5 * small.perimeter_px, rel=0.1), (
        "notches show at a larger scale"
    )
    assert large.longest_diameter_px == pytest.approx(5 * small.longest_diameter_px, rel=0.01)
    assert large.asymmetry_shape_minor == pytest.approx(small.asymmetry_shape_minor, abs=0.01)
    assert large.asymmetry_colour_minor_de == pytest.approx(small.asymmetry_colour_minor_de, rel=0.1)
    assert large.colour_shares == pytest.approx(small.colour_shares, abs=0.04)


def test_to_dict_is_flat_and_names_its_units() -> None:
    found = measured(disc(100, 30), mm_per_pixel=0.1).to_dict()
    assert found["colours"] == ["light_brown"] and found["colour_share_light_brown"] == 1
    assert found["mm_per_pixel"] == [0.1, 0.1] and len(found["longest_diameter_ends_px"]) == 2
    assert all(isinstance(value, int | float | bool | str | list | None) for value in found.values())
    assert json.loads(json.dumps(found)) == found
