"""Photographs and masks in every form that cameras, scanners and labelling tools write, and files that are broken."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from links import link
from segmae.config import Preprocess
from segmae.data.decode import MAX_PIXELS
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import draw_lesion
from segmae.data.preprocess import (
    prepare_image,
    prepare_photo,
    resize_image,
)
from segmae.errors import ImageError

PIXELS, MASK = draw_lesion(seed=5, size=(64, 48))
PICTURE = Image.fromarray(PIXELS)
GREY = np.asarray(PICTURE.convert("L"))
ORIENTATION = 0x0112
TO_STORED = {  # how a camera that writes this orientation lays an upright picture down
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(path: Path, values: NDArray[Any] | Image.Image, **options: Any) -> Path:
    (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(path, **options)
    return path


def difference(one: NDArray[Any], two: NDArray[Any]) -> float:
    assert one.shape == two.shape
    return float(np.abs(one.astype(float) - two).mean())


def png_header(width: int, height: int) -> bytes:
    """A PNG file that promises this size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


# Orientation


@pytest.mark.parametrize("orientation", TO_STORED)
@pytest.mark.parametrize(("kind", "at_least"), [("PNG", None), ("TIFF", None), ("JPEG", None), ("JPEG", 20)])
def test_every_orientation_is_turned_upright(orientation: int, kind: str, at_least: int | None) -> None:
    upright = PICTURE.resize((160, 120))
    way = TO_STORED[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    photo = read_image(
        encoded(upright if way is None else upright.transpose(way), kind, exif=exif, **options), at_least
    )
    assert (photo.width, photo.height) == (160, 120)
    assert photo.orientation == orientation
    assert photo.pixels.shape == ((30, 40, 3) if at_least else (120, 160, 3))
    assert difference(photo.pixels, np.asarray(upright.reduce(4) if at_least else upright)) < 2


@pytest.mark.parametrize("size", [(1024, 1023), (1023, 1024), (1025, 1024), (801, 800), (640, 640)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_nearly_square_jpegs_keep_their_size_when_decoded_at_a_reduced_scale(
    size: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    photo = read_image(encoded(Image.new("RGB", size), "JPEG", exif=exif), at_least=80)
    assert max(photo.pixels.shape) < 200
    assert (photo.width, photo.height) == (size if orientation < 5 else size[::-1])


def test_a_pil_image_is_turned_as_well_and_left_as_it_was() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.open(io.BytesIO(encoded(PICTURE, "PNG", exif=exif)))
    photo = read_image(image)
    assert (photo.width, photo.height) == (48, 64)
    assert image.size == (64, 48)
    assert np.array_equal(photo.pixels, np.asarray(ImageOps.exif_transpose(image)))


def test_a_mask_is_turned_like_its_photograph(tmp_path: Path) -> None:
    for orientation, way in TO_STORED.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        upright = Image.fromarray(MASK * 255)
        stored = upright if way is None else upright.transpose(way)
        stored.save(tmp_path / "mask.png", exif=exif)
        assert np.array_equal(read_mask(tmp_path / "mask.png"), MASK)


# Strips, by which large photographs fit into memory


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "I;16", "F", "I"])
@pytest.mark.parametrize("orientation", [1, 5])
def test_a_photograph_read_in_strips_is_the_same(
    monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    image = PICTURE.convert("L").convert(mode) if mode in ("I;16", "F", "I") else PICTURE.convert(mode)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(image, "TIFF" if mode in ("CMYK", "F", "I") else "PNG", exif=exif)
    whole = read_image(data)
    monkeypatch.setattr("segmae.data.images.STRIP", 64 * 7)  # seven rows, which do not divide 48
    assert np.array_equal(read_image(data).pixels, whole.pixels)


# Colours


def test_transparency_is_laid_over_white() -> None:
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 0, 128
    photo = read_image(encoded(Image.fromarray(np.dstack([PIXELS, alpha])), "PNG"))
    assert (photo.pixels[:, :10] == 255).all()
    assert difference(photo.pixels[:, 10:20], PIXELS[:, 10:20] / 2 + 127.5) < 1
    assert np.array_equal(photo.pixels[:, 20:], PIXELS[:, 20:])
    assert np.array_equal(read_image(np.dstack([PIXELS, alpha])).pixels, photo.pixels)

    grey = read_image(
        encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]), "PNG")
    ).pixels
    assert (grey[:, :10] == 255).all()
    assert np.array_equal(grey[:, 20:], np.dstack([GREY[:, 20:]] * 3))


def test_greyscale_becomes_three_equal_channels() -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(read_image(encoded(Image.fromarray(GREY), kind)).pixels, np.dstack([GREY] * 3))
    photo = read_image(encoded(Image.fromarray(GREY).resize((640, 480)), "JPEG", quality=95), at_least=48)
    assert difference(photo.pixels, np.asarray(Image.fromarray(photo.pixels[..., 0]).convert("RGB"))) == 0
    assert photo.pixels.shape == (60, 80, 3)


def test_palettes_are_looked_up_and_their_transparent_colour_is_white() -> None:
    palette = PICTURE.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(read_image(encoded(palette, "PNG")).pixels, expected)
    assert np.array_equal(read_image(encoded(palette, "BMP")).pixels, expected)
    clear = int(np.asarray(palette)[0, 0])
    found = read_image(encoded(palette, "PNG", transparency=clear)).pixels
    where = np.asarray(palette) == clear
    assert (found[where] == 255).all()
    assert np.array_equal(found[~where], expected[~where])


def test_cmyk_and_other_colour_models_become_rgb() -> None:
    cmyk = encoded(PICTURE.convert("CMYK"), "JPEG", quality=98, subsampling=0)
    assert Image.open(io.BytesIO(cmyk)).mode == "CMYK"
    assert difference(read_image(cmyk).pixels, PIXELS) < 3
    assert difference(read_image(encoded(PICTURE.convert("CMYK"), "TIFF")).pixels, PIXELS) < 1
    large = encoded(PICTURE.convert("CMYK").resize((640, 480)), "JPEG", quality=98)
    assert difference(read_image(large, at_least=48).pixels, np.asarray(PICTURE.resize((80, 60)))) < 4
    for mode in ("YCbCr", "HSV", "RGBa", "RGBX"):
        image = PICTURE.convert("RGBA").convert(mode) if mode == "RGBa" else PICTURE.convert(mode)
        assert difference(read_image(image).pixels, PIXELS) < 3, mode
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(PICTURE, *profiles, outputMode="LAB")
    assert lab is not None
    assert difference(read_image(encoded(lab, "TIFF")).pixels, PIXELS) < 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greyscale_is_scaled_by_its_full_range(kind: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    expected = np.dstack([GREY] * 3)
    assert np.array_equal(read_image(encoded(Image.fromarray(deep), kind)).pixels, expected)
    assert np.array_equal(read_image(deep).pixels, expected)
    dark = read_image(encoded(Image.fromarray(np.minimum(deep, 200)), kind)).pixels
    assert dark.max() == 1, "a dark picture stays dark"


def test_16_bit_colour_arrays_and_float_tiffs_are_scaled() -> None:
    assert np.array_equal(read_image(PIXELS.astype(np.uint16) * 257).pixels, PIXELS)
    for values in (GREY / np.float32(255), GREY.astype(np.float32), GREY.astype(np.int32) * 257):
        assert np.array_equal(
            read_image(encoded(Image.fromarray(values), "TIFF")).pixels, np.dstack([GREY] * 3)
        )
    white = Image.fromarray(np.array([[0, 1]], np.float32))
    assert read_image(encoded(white, "TIFF")).pixels[..., 0].tolist() == [[0, 255]]


def test_1_bit_pictures_are_black_and_white() -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        photo = read_image(encoded(Image.fromarray(MASK > 0), kind))
        assert np.array_equal(photo.pixels, np.dstack([MASK * 255] * 3))


def test_of_animations_and_many_pages_the_first_is_taken(tmp_path: Path) -> None:
    others = [Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")]
    path = tmp_path / "renamed.jpg"
    path.write_bytes(encoded(PICTURE, "GIF", save_all=True, append_images=others))
    assert difference(read_image(path).pixels, PIXELS) < 12, "GIF has 256 colours"
    pages = read_image(encoded(PICTURE, "TIFF", save_all=True, append_images=others))
    assert np.array_equal(pages.pixels, PIXELS)
    assert (read_image(path).frames, pages.frames, read_image(PICTURE).frames) == (3, 3, 1)


# Sources


def test_paths_bytes_pil_images_and_arrays_give_the_same_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PIXELS)
    for source in (
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        memoryview(path.read_bytes()),
        io.BytesIO(path.read_bytes()),
        PICTURE,
        PIXELS,
        PIXELS[:, :, :],
    ):
        photo = read_image(source)
        assert photo.pixels.dtype == np.uint8
        assert np.array_equal(photo.pixels, PIXELS)
        assert (photo.width, photo.height) == (64, 48)
    assert np.array_equal(read_image(PIXELS[::-1, ::-1]).pixels, PIXELS[::-1, ::-1]), "strided arrays"
    for array in (GREY, GREY[:, :, None]):
        assert np.array_equal(read_image(array).pixels, np.dstack([GREY] * 3))


def test_threads_may_read_one_pil_image_that_was_only_opened() -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            opened = Image.open(io.BytesIO(buffer.getvalue()))
            for photo in pool.map(read_image, [opened] * 4):
                assert np.array_equal(photo.pixels, pixels)


def test_an_open_file_is_read_and_text_or_nothing_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PIXELS)
    with path.open("rb") as file:
        assert np.array_equal(read_image(file).pixels, PIXELS)
        with pytest.raises(ImageError, match=r"a\.png: has no bytes left to read\. Go back"):
            read_image(file)
    with (
        path.open(encoding="latin-1") as file,
        pytest.raises(ImageError, match=r"a\.png: was opened as text.*'rb'"),
    ):
        read_image(file)


@pytest.mark.parametrize(
    ("source", "found"),
    [(None, "a NoneType"), ((x for x in "a"), "a generator"), (7, "a int"), ("", "an empty name")],
)
def test_what_is_no_source_is_refused_with_what_is(source: Any, found: str) -> None:
    with pytest.raises(ImageError, match=rf"{found}: is no photograph\. Give a path, bytes, an open file"):
        read_image(source)


def test_errors_say_where_a_picture_came_from(tmp_path: Path) -> None:
    assert read_image(Image.open(saved(tmp_path / "a.png", PIXELS))).path.endswith("a.png")
    assert (read_image(PICTURE).path, read_image(PIXELS).path) == ("image", "array")


def test_pictures_in_memory_have_the_limits_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = PICTURE.crop((5, 5, 5, 9))  # by a box that holds nothing
    with pytest.raises(ImageError, match=r"image: is 0 x 4 px and holds nothing"):
        read_image(empty)
    monkeypatch.setattr("segmae.data.decode.MAX_PIXELS", PICTURE.width * PICTURE.height - 1)
    for source in (PICTURE, PIXELS, encoded(PICTURE, "PNG")):
        with pytest.raises(ImageError, match=rf"is {PICTURE.width} x {PICTURE.height} px\. Scale it below"):
            read_image(source)


def test_of_a_picture_with_several_frames_the_one_that_it_stands_at_is_read() -> None:
    frames = [PICTURE, Image.new("RGB", PICTURE.size, "blue")]
    file = io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    picture = Image.open(file)
    for number, frame in enumerate(frames):
        picture.seek(number)
        assert np.array_equal(read_image(picture).pixels, np.asarray(frame)) and picture.tell() == number


def test_arrays_of_16_bits_may_have_either_byte_order() -> None:
    deep = PIXELS.astype(np.uint16) * 257
    for kind in ("<u2", ">u2"):
        assert np.array_equal(read_image(deep.astype(kind)).pixels, PIXELS)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS / 255,
        PIXELS > 9,
        PIXELS.astype(np.int64),
        PIXELS[..., :2],
        PIXELS[None],
        PIXELS[:0],
        PIXELS[0, 0],
    ],
    ids=["float", "bool", "int64", "two channels", "batch", "empty", "one dimension"],
)
def test_arrays_of_another_kind_are_refused_with_the_kind_that_is_wanted(array: NDArray[Any]) -> None:
    with pytest.raises(
        ImageError, match=r"array: has shape \(.*\) and type .*Give uint8 \[H,W,3\] in RGB order"
    ):
        read_image(array)


@pytest.mark.parametrize("size", [(1600, 1200), (1023, 767), (900, 1201)])
def test_reduced_decoding_is_close_to_full_decoding(size: tuple[int, int]) -> None:
    data = encoded(Image.fromarray(draw_lesion(seed=9, size=(400, 300))[0]).resize(size), "JPEG", quality=92)
    full, reduced = read_image(data), read_image(data, at_least=128)
    assert min(reduced.pixels.shape[:2]) >= 128
    assert max(reduced.pixels.shape) < max(size) / 3
    assert (reduced.width, reduced.height) == (full.width, full.height) == size
    assert difference(resize_image(reduced.pixels, 128), resize_image(full.pixels, 128)) < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_shifts_nothing(orientation: int) -> None:
    """At 1/8 601 px become 76, of which the last one lies mostly beyond the photograph."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramps = np.zeros((529, 601, 3), np.uint8)
    ramps[..., 0], ramps[..., 1] = np.linspace(0, 255, 601), np.linspace(0, 255, 529)[:, None]
    data = encoded(Image.fromarray(ramps), "JPEG", quality=95, exif=exif)
    wanted = prepare_photo(read_image(data), Preprocess(size=64))
    photo = read_image(data, at_least=64)
    assert difference(prepare_photo(photo, Preprocess(size=64)), wanted) < 0.5
    assert difference(prepare_image(photo.pixels, Preprocess(size=64)), wanted) > 1, "as it would be shifted"


def test_nothing_is_decoded_smaller_than_asked_for() -> None:
    data = encoded(PICTURE.resize((400, 255)), "JPEG")
    assert [read_image(data, at_least=n).pixels.shape[0] for n in (31, 32, 63, 64, 127, 128, 300)] == [
        32, 64, 64, 128, 128, 255, 255,
    ]  # fmt: skip


def test_reduced_decoding_on_real_photographs(real_data: Path) -> None:
    apart = []
    for path in sorted((real_data / "isic2018" / "ISIC2018_Task1-2_Training_Input").iterdir())[:200:20]:
        full, reduced = read_image(path), read_image(path, at_least=64)
        assert reduced.pixels.shape[0] < full.pixels.shape[0]
        assert (reduced.width, reduced.height) == (full.width, full.height)
        apart.append(difference(resize_image(reduced.pixels, 64), resize_image(full.pixels, 64)))
    assert np.mean(apart) < 2.5
    assert max(apart) < 5, "thick dark hairs are sharper"


# Masks


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(MASK * 255),
        Image.fromarray(MASK),
        Image.fromarray(MASK > 0),
        Image.fromarray(MASK.astype(np.uint16) * 65535),
        Image.fromarray(MASK.astype(np.uint16) * 255),
        Image.fromarray(MASK * 255).convert("RGB"),
        Image.fromarray(MASK * 255).convert("LA"),
        Image.fromarray(MASK * 255).convert("RGBA"),
        Image.fromarray(MASK * 255).convert("P"),
        Image.fromarray(np.dstack([np.full((48, 64, 3), 255, np.uint8), MASK * 255])),
    ],
    ids=[
        "0/255",
        "0/1",
        "1 bit",
        "16 bit",
        "16 bit 0/255",
        "RGB",
        "LA",
        "RGBA",
        "palette",
        "white on nothing",
    ],
)
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_two_valued_masks_of_every_kind(tmp_path: Path, image: Image.Image, kind: str) -> None:
    if kind == "tif" and image.mode == "P":
        image = image.convert("L")
    found = read_mask(saved(tmp_path / f"m.{kind}", image), size=(64, 48))
    assert found.dtype == np.uint8
    assert np.array_equal(found, MASK)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_one_value_is_empty_or_full(tmp_path: Path, value: int) -> None:
    found = read_mask(saved(tmp_path / "m.png", np.full((4, 6), value, np.uint8)))
    assert (found == (value > 0)).all()


@pytest.mark.parametrize(("quality", "options"), [(95, {}), (75, {}), (40, {}), (90, {"subsampling": 2})])
def test_a_jpeg_mask_loses_only_what_the_compression_blurs(
    tmp_path: Path, quality: int, options: dict[str, int]
) -> None:
    large = draw_lesion(seed=2, size=(200, 150))[1]
    for values in (large * 255, np.dstack([large * 255] * 3)):
        found = read_mask(saved(tmp_path / "m.jpg", values, quality=quality, **options))
        assert set(np.unique(found)) == {0, 1}
        assert (found != large).mean() < 0.002


def soft() -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(MASK * 255).resize((33, 31), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (PIXELS, "is a colour picture, not a mask"),
        (np.dstack([MASK * 128, MASK * 0, MASK * 0]), "is a colour picture, not a mask"),
        (GREY, r"mask has \d+ values \(.*\.\.\.\) instead of 0 and 255. Write it with 0 for skin"),
        (soft(), "for example by thresholding at 128"),
        (np.where(MASK, 255, 1).astype(np.uint8), r"2 values \(1, 255\) instead of 0 and 255"),
        (MASK * 128, r"2 values \(0, 128\) instead of 0 and 255"),
        (np.full((4, 4), 7, np.uint8), r"1 values \(7\) instead of 0 and 255"),
    ],
    ids=["photograph", "colours", "grey", "soft edge", "1/255", "0/128", "7"],
)
def test_what_is_no_mask_is_refused_with_the_remedy(
    tmp_path: Path, values: NDArray[Any], message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_mask(saved(tmp_path / "m.png", values))
    assert str(tmp_path / "m.png") in str(caught.value)


def test_photographs_saved_as_jpeg_are_no_masks(tmp_path: Path) -> None:
    for values in (PIXELS, GREY):
        with pytest.raises(ImageError, match="mask"):
            read_mask(saved(tmp_path / "m.jpg", values))


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"m\.png: mask is 64 x 48 px, its image 48 x 64.*Export the mask"):
        read_mask(saved(tmp_path / "m.png", MASK * 255), size=(48, 64))


# Broken files


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.03, 0.5, 0.9])
def test_truncated_files_are_named_with_the_remedy(tmp_path: Path, kind: str, kept: float) -> None:
    data = encoded(PICTURE.resize((320, 240)), kind)
    path = tmp_path / "lesion.jpg"
    path.write_bytes(data[: int(len(data) * kept)])
    for read in (read_image, read_mask):
        with pytest.raises(ImageError, match=r"lesion\.jpg: .*copy or download it again"):
            read(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_truncated_compressed_tiff(tmp_path: Path, compression: str) -> None:
    data = encoded(PICTURE, "TIFF", compression=compression)
    with pytest.raises(ImageError, match="copy or download it again"):
        read_image(data[: len(data) // 2])


def test_a_flipped_bit_in_a_png(tmp_path: Path) -> None:
    data = bytearray(encoded(PICTURE, "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError, match="is damaged"):
        read_image(bytes(data))


def broken(folder: Path, kind: str) -> Path:
    path = folder / "lesion.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        link(path, folder / "moved.png")
    elif kind == "link to itself":
        link(path, path)
    elif kind != "absent":
        contents = {"text": b"hello, I am no picture\n" * 9, "empty": b"", "huge": png_header(60000, 60000)}
        contents |= {
            "large": png_header(17001, 10000),
            "pdf": b"%PDF-1.7\n",
            "html": b"<!doctype html><title>404</title>",
            "dicom": bytes(128) + b"DICM" + bytes(99),
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "problem", "remedy"),
    [
        ("absent", "no such file", "Check the name"),
        ("folder", "is a folder", "Name the files in it"),
        ("link", r"is a link to .*moved\.png, which is absent", "Mend or remove the link"),
        ("link to itself", "is a link to", "Mend or remove the link"),
        ("empty", r"is empty \(0 bytes\)", "Copy or download it again"),
        ("text", "is not an image that can be read", "Give a JPEG, PNG, BMP or TIFF file"),
        ("html", "is not an image that can be read", "Give a JPEG, PNG, BMP or TIFF file"),
        ("pdf", "is not an image that can be read", "Give a JPEG, PNG, BMP or TIFF file"),
        ("dicom", "is a DICOM object, not a photograph", "segmae.dicom.predict_dicom"),
        ("large", "is 17001 x 10000 px", "Scale it below 170 megapixels"),
        ("huge", "is absurdly large", "Scale it below 170 megapixels"),
    ],
)
def test_what_is_no_image_is_named_with_the_remedy(
    tmp_path: Path, kind: str, problem: str, remedy: str
) -> None:
    path = broken(tmp_path, kind)
    for read in (read_image, read_mask):
        with pytest.raises(ImageError, match=rf"lesion\.png: {problem}.*{remedy}"):
            read(path)


def test_the_limit_is_ours_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.MAX_IMAGE_PIXELS
    assert 2 * Image.MAX_IMAGE_PIXELS > MAX_PIXELS, "up to the limit that the message names, images are read"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as applications do that read microscope slides
    with pytest.raises(ImageError, match="is 60000 x 60000 px"):
        read_image(png_header(60000, 60000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    assert read_image(encoded(PICTURE, "PNG")).width == 64, "no warning below our own limit"


def test_names_that_no_file_can_have_are_refused() -> None:
    for name in ("x" * 5000 + ".png", "a\0b.png"):
        with pytest.raises(ImageError, match="Check the name"):
            read_image(name)


def test_colours_that_cannot_be_converted_are_refused() -> None:
    with pytest.raises(ImageError, match="Save it as RGB"):
        read_image(PICTURE.convert("LA").convert("La"))
