"""Every way of storing pixels that is claimed: syntaxes, colours and grey values, and what else is known of a frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicom_objects import DERMOSCOPIC, EXACT, jpeg, jpeg_2000, lesions, photograph, pictures, save, uid
from profiles import SRGB, SWAPPED
from segmae.dicom import open_object, read_frames
from segmae.errors import ImageError

pytest.importorskip("pydicom")

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import ExplicitVRBigEndian


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("way", EXACT)
def test_pixels_come_back_exactly(tmp_path: Path, way: str, frames: int) -> None:
    pixels = lesions(frames)
    ds = photograph(pixels)
    EXACT[way](ds)
    found = list(read_frames(save(ds, tmp_path / "a.dcm")))
    assert [info.number for _, info in found] == list(range(1, frames + 1))
    for (got, info), want in zip(found, pixels, strict=True):
        assert got.dtype == np.uint8 and np.array_equal(got, want)
        assert (info.count, info.width, info.height) == (frames, 64, 48)
        assert info.sop_instance_uid == ds.SOPInstanceUID and info.sop_class_uid == DERMOSCOPIC


def test_big_endian_16_bits(tmp_path: Path) -> None:
    pixels = lesions()[..., 0].astype(np.uint16) * 257
    ds = photograph(pixels, "MONOCHROME2", PixelData=pixels.astype(">u2").tobytes())
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ((got, _),) = read_frames(save(ds, tmp_path / "a.dcm"))
    assert np.array_equal(got[..., 1], lesions()[0, ..., 0])


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_baseline(tmp_path: Path, frames: int, subsampling: int) -> None:
    pixels = lesions(frames)
    ds = jpeg(photograph(pixels), pixels, quality=95, subsampling=subsampling)
    for (got, _), want in zip(read_frames(save(ds, tmp_path / "a.dcm")), pixels, strict=True):
        assert np.abs(got.astype(int) - want).mean() < 4


@pytest.mark.parametrize("encoded", [lambda ds: jpeg(ds, lesions(2)), jpeg_2000], ids=["jpeg", "jpeg2000"])
def test_colours_by_planes_mean_nothing_in_a_compressed_picture(
    tmp_path: Path, encoded: Callable[[Dataset], Dataset]
) -> None:
    """The pixels were those of three small grey pictures: a header that said so beforehand may be kept when a file is compressed."""
    by_pixel, by_planes = (
        [
            got
            for got, _ in read_frames(save(encoded(photograph(lesions(2), PlanarConfiguration=planes)), path))
        ]
        for planes, path in ((0, tmp_path / "a.dcm"), (1, tmp_path / "b.dcm"))
    )
    assert np.array_equal(by_pixel, by_planes)


def test_jpeg_2000_with_loss(tmp_path: Path) -> None:
    ((got, _),) = read_frames(save(jpeg_2000(photograph(), lossy=True), tmp_path / "a.dcm"))
    assert np.abs(got.astype(int) - lesions()[0]).mean() < 4


@pytest.mark.parametrize("way", ["rle", "jpeg2000-lossless"])
def test_compressed_16_bits(tmp_path: Path, way: str) -> None:
    pixels = lesions()[..., 1].astype(np.uint16) * 257
    ds = photograph(pixels, "MONOCHROME2")
    EXACT[way](ds)
    ((got, _),) = read_frames(save(ds, tmp_path / "a.dcm"))
    assert np.array_equal(got[..., 2], lesions()[0, ..., 1])


def test_a_frame_may_lie_in_several_fragments(tmp_path: Path) -> None:
    pixels = lesions(2)
    ds = jpeg(photograph(pixels), pixels)
    want = [got for got, _ in read_frames(save(ds, tmp_path / "a.dcm"))]
    ds.PixelData = encapsulate(pictures(pixels), fragments_per_frame=3)
    got = [got for got, _ in read_frames(save(ds, tmp_path / "b.dcm"))]
    assert np.array_equal(got, want)


def read(ds: Dataset, path: Path) -> np.ndarray:
    ((pixels, _),) = read_frames(save(ds, path))
    return pixels


def test_grey_values_use_the_range_of_the_bits_stored(tmp_path: Path) -> None:
    grey = lesions()[..., 0]
    for allocated, stored in ((8, 8), (16, 16), (16, 12), (16, 10)):
        top = 2**stored - 1
        values = np.rint(grey / 255 * top).astype(np.uint16 if allocated == 16 else np.uint8)
        for kind in ("MONOCHROME2", "MONOCHROME1"):
            held = top - values if kind == "MONOCHROME1" else values
            ds = photograph(held.astype(values.dtype), kind, BitsStored=stored, HighBit=stored - 1)
            got = read(ds, tmp_path / "a.dcm")
            assert got.shape == (48, 64, 3)
            assert np.abs(got[..., 0].astype(int) - grey[0]).max() <= 1, (allocated, stored, kind)


def test_colours_by_planes_of_16_bits_and_as_differences(tmp_path: Path) -> None:
    pixels = lesions()
    planes = photograph(pixels, PlanarConfiguration=1, PixelData=pixels.transpose(0, 3, 1, 2).tobytes())
    assert np.array_equal(read(planes, tmp_path / "a.dcm"), pixels[0])
    assert np.array_equal(read(photograph(pixels.astype(np.uint16) * 257), tmp_path / "b.dcm"), pixels[0])
    full = convert_color_space(pixels[0], "RGB", "YBR_FULL")
    assert (
        np.abs(read(photograph(full[None], "YBR_FULL"), tmp_path / "c.dcm").astype(int) - pixels[0]).max()
        <= 2
    )
    flat = np.repeat(pixels[:, :, ::2], 2, axis=2)  # pairs of equal pixels lose nothing
    full = convert_color_space(flat[0], "RGB", "YBR_FULL")
    pairs = np.stack([full[:, ::2, 0], full[:, 1::2, 0], full[:, ::2, 1], full[:, ::2, 2]], axis=-1)
    half = photograph(flat, "YBR_FULL_422", PixelData=pairs.tobytes())
    assert np.abs(read(half, tmp_path / "d.dcm").astype(int) - flat[0]).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(tmp_path: Path, bits: int) -> None:
    image = Image.fromarray(lesions()[0]).quantize(256)
    colours = np.zeros((256, 3), np.uint8)
    held = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    colours[: len(held)] = held
    ds = photograph(np.asarray(image)[None], "PALETTE COLOR")
    for index, name in enumerate(("Red", "Green", "Blue")):
        table = colours[:, index] if bits == 8 else colours[:, index].astype(np.uint16) * 257
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        ds[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(ds, f"{name}PaletteColorLookupTableData", table.tobytes())
    assert np.array_equal(read(ds, tmp_path / "a.dcm"), colours[np.asarray(image)])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_profile_of_another_space_is_applied(tmp_path: Path, bits: int) -> None:
    """One whose red is sRGB's blue."""
    frames = lesions().astype(np.uint16) * 257 if bits == 16 else lesions()
    found = read(photograph(frames, ICCProfile=SWAPPED), tmp_path / "a.dcm")
    assert np.abs(found[..., ::-1].astype(int) - lesions()[0]).max() <= 1
    assert np.array_equal(read(photograph(frames, ICCProfile=SRGB), tmp_path / "b.dcm"), lesions()[0])


def test_spacing_is_width_then_height_and_may_stand_in_functional_groups(tmp_path: Path) -> None:
    def spacings(ds: Dataset) -> list[Any]:
        return [info.mm_per_pixel for _, info in read_frames(save(ds, tmp_path / "a.dcm"))]

    def measures(values: list[str]) -> Dataset:
        group, item = Dataset(), Dataset()
        item.PixelSpacing = values
        group.PixelMeasuresSequence = [item]
        return group

    assert spacings(photograph()) == [(0.03, 0.02)]
    ds = photograph(lesions(2))
    ds.SharedFunctionalGroupsSequence = [measures(["0.1", "0.2"])]
    assert spacings(ds) == [(0.2, 0.1)] * 2
    ds.PerFrameFunctionalGroupsSequence = [measures(["1", "2"]), measures(["3", "4"])]
    assert spacings(ds) == [(2, 1), (4, 3)]
    bare = photograph()
    for useless in (None, ["0", "0"], ["-1", "1"], ["1e-300", "1e-300"], "1"):
        bare.PixelSpacing = useless
        assert spacings(bare) == [None]
    del bare.PixelSpacing
    assert spacings(bare) == [None]


def test_orientation_is_noted_and_pixels_are_not_turned(tmp_path: Path) -> None:
    ((pixels, info),) = read_frames(save(photograph(PatientOrientation=["P", "H"]), tmp_path / "a.dcm"))
    assert info.patient_orientation == ("P", "H") and np.array_equal(pixels, lesions()[0])
    ((_, info),) = read_frames(save(photograph(PatientOrientation=""), tmp_path / "a.dcm"))
    assert info.patient_orientation == ()


def test_what_is_printed_of_a_frame_names_no_instance(tmp_path: Path) -> None:
    opened = open_object(save(photograph(), tmp_path / "a.dcm"))
    for text in (repr(opened), repr(opened.frame(1)[1])):
        assert uid(1001) not in text and "Müller" not in text
    with pytest.raises(ImageError, match=r"a\.dcm: has no frame 2"):
        opened.frame(2)
