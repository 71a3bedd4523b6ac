"""A DICOM object to frames: its header is checked against its pixel data before anything large is decoded."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmae.data.decode import MAX_PIXELS, SCALE_IT
from segmae.data.icc import to_srgb
from segmae.data.names import IMAGE_SUFFIXES
from segmae.dicom.quiet import COPY_AGAIN, guarded, require_pydicom
from segmae.errors import ImageError
from segmae.measure import is_scale

PHOTOGRAPHS = {
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography",
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image",
}
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", DEFLATED, "1.2.840.10008.1.2.2")
RLE = "1.2.840.10008.1.2.5"
COMPRESSED = {  # transfer syntax -> what every picture in it starts with
    "1.2.840.10008.1.2.4.50": b"\xff\xd8",
    "1.2.840.10008.1.2.4.90": b"\xff\x4f",
    "1.2.840.10008.1.2.4.91": b"\xff\x4f",
    RLE: b"",  # one fragment is one frame
}
SYNTAXES = "uncompressed, deflated, JPEG baseline, JPEG 2000 and RLE"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # three samples a pixel
PALETTE = "PALETTE COLOR"
MAX_INFLATED = 1 << 30  # bytes of a deflated object; more is refused before it is unpacked

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One frame of a DICOM object: where its pixels come from and what is known of them.

    Attributes:
        path: the file.
        sop_class_uid, sop_instance_uid: the object. The instance's UID is a pseudonym of the patient.
        number, count: which frame, from 1, of how many.
        width, height: in pixels.
        mm_per_pixel: (width, height) of a pixel from Pixel Spacing, where the object says it.
        pixel_aspect: height / width of a pixel from Pixel Aspect Ratio; 1 where the object does not say it.
        patient_orientation: where rows and columns point to, e.g. ("L", "F"), where the object says it. Frames are
            given as they are stored, never turned.
    """

    path: str
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    number: int
    count: int
    width: int
    height: int
    mm_per_pixel: tuple[float, float] | None = None
    pixel_aspect: float = 1.0
    patient_orientation: tuple[str, ...] = ()


@dataclass(frozen=True)
class DicomObject:
    """An opened object whose header was found sound. Its pixels are decoded frame by frame.

    Attributes:
        path: the file.
        count: frames.
        width, height: in pixels.
        dataset: pydicom's, with everything that identifies the patient.
    """

    path: Path
    count: int
    width: int
    height: int
    dataset: Any = field(repr=False)

    @property
    def sop_instance_uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)

    def frame(self, number: int) -> tuple[Pixels, Frame]:
        """Decode one frame, counted from 1: uint8 RGB `[H,W,3]`, and what is known of it.

        Raises:
            ImageError: no such frame, or its pixels are damaged.
        """
        if not 1 <= number <= self.count:
            raise ImageError(
                self.path, f"has no frame {number}", f"Frames are counted from 1 to {self.count}"
            )

        def read() -> tuple[Pixels, Frame]:
            return _decode(self, number - 1), Frame(
                path=str(self.path), sop_class_uid=str(self.dataset.SOPClassUID), sop_instance_uid=self.sop_instance_uid,
                number=number, count=self.count, width=self.width, height=self.height,
                mm_per_pixel=pixel_size(self.dataset, number - 1), pixel_aspect=pixel_aspect_of(self.dataset),
                patient_orientation=patient_orientation_of(self.dataset),
            )  # fmt: skip

        pixels, frame = guarded(self.path, read, "its pixel data cannot be decoded", COPY_AGAIN)
        if pixels.shape != (self.height, self.width, 3):
            raise ImageError(self.path, "its pixels have another size than its header says", COPY_AGAIN)
        return pixels, frame


def read_frames(path: str | Path) -> Iterator[tuple[Pixels, Frame]]:
    """Every frame of a DICOM photograph, uint8 RGB `[H,W,3]`, and what is known of it.

    8 and 16 bits, grey values, palettes and colour differences are converted: grey by the range of the bits stored.
    Colours with the ICC profile of another space become sRGB; display windows are not applied.

    Raises:
        ImageError: not a photograph, or damaged; see `open_object`.
        MissingExtra: pydicom is not installed.
    """
    opened = open_object(path)
    for number in range(1, opened.count + 1):
        yield opened.frame(number)


def open_object(path: str | Path) -> DicomObject:
    """Read an object and check that header and pixel data agree, before anything large is decoded.

    Raises:
        ImageError: no DICOM file, another kind of object, damaged, or compressed in a way that is not read.
        MissingExtra: pydicom is not installed.
    """
    path = Path(path)
    require_pydicom()
    if not has_mark(path):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise ImageError(path, "is a photograph outside DICOM", "Segment it in a call of its own")
        raise ImageError(path, "is no DICOM object (its mark DICM is absent)", "Check which file it is")
    dataset = guarded(path, lambda: _parsed(path), "cannot be read as DICOM", COPY_AGAIN)
    return guarded(path, lambda: _checked(path, dataset), "its header is damaged", COPY_AGAIN)


def has_mark(path: Path) -> bool:
    """Whether it is a DICOM file: a preamble of 128 bytes, then DICM."""
    try:
        if path.is_dir():
            raise ImageError(path, "is a folder, not an object", "Give it to predict_dicom, which walks it")
        if not path.exists():
            raise ImageError(path, "no such file", "Check the name")
        if not path.is_file():
            raise ImageError(path, "is no regular file", "Name a file")
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name cannot be used"
        raise ImageError(
            path, f"cannot be opened ({reason})", "Check the name and the permissions"
        ) from error


def _parsed(path: Path) -> Any:
    from pydicom import dcmread
    from pydicom.filereader import read_dataset, read_file_meta_info

    meta = read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
        return dcmread(path)
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)  # 12: the element that says this length
    dataset = read_dataset(_inflated(path, start), is_implicit_VR=False, is_little_endian=True)  # type: ignore[arg-type]
    dataset.file_meta = meta
    return dataset


def _inflated(path: Path, start: int) -> io.BytesIO:
    """Unpack a deflated object, but never more than `MAX_INFLATED` bytes of it."""
    inflater, buffer = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    with path.open("rb") as file:
        file.seek(start)
        while not inflater.eof and (chunk := file.read(1 << 16)):
            while chunk and not inflater.eof:
                buffer.write(inflater.decompress(chunk, 1 << 22))
                chunk = inflater.unconsumed_tail
                if buffer.tell() > MAX_INFLATED:
                    problem = f"unpacks to more than {MAX_INFLATED >> 20} MB"
                    raise ImageError(path, problem, "Export it without deflate, or in parts")
    if not inflater.eof:
        raise ImageError(path, "is truncated within its deflated data", COPY_AGAIN)
    buffer.seek(0)
    return buffer


def _checked(path: Path, dataset: Any) -> DicomObject:
    def refuse(problem: str, remedy: str = COPY_AGAIN) -> ImageError:
        return ImageError(path, problem, remedy)

    sop_class = str(dataset.get("SOPClassUID", ""))
    if not sop_class:  # pydicom gives an empty object where a file ends within compressed pixels
        raise refuse("is truncated, or damaged near its start")
    if sop_class not in PHOTOGRAPHS:
        kinds = " and ".join(PHOTOGRAPHS.values())
        raise refuse(f"is {class_name(sop_class)}, not a photograph", f"{kinds} objects are read")
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not re.fullmatch(r"[0-9.]{1,64}", str(dataset.get(keyword, ""))):
            raise refuse(f"has no usable {keyword}", "Export it again")
    if not dataset.get("PixelData"):
        raise refuse("has no pixel data", "Export it with its pixels")
    syntax = _syntax_of(dataset)
    if syntax not in (*NATIVE, *COMPRESSED):
        name = _uid_name(syntax)
        raise refuse(
            f"is compressed as {name or 'something unknown'}, which is not read",
            f"Export or convert it ({SYNTAXES} are read)",
        )

    rows, columns, samples, allocated = (
        whole_number(dataset, key) for key in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    )
    stored = whole_number(dataset, "BitsStored") if "BitsStored" in dataset else allocated
    frames = whole_number(dataset, "NumberOfFrames") if dataset.get("NumberOfFrames") is not None else 1
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if rows < 1 or columns < 1 or frames < 1:
        raise refuse("its header has no usable Rows, Columns or NumberOfFrames")
    if rows * columns > MAX_PIXELS:
        raise refuse(f"is {columns} x {rows} px by its header", SCALE_IT)
    if kind not in (*GREY, *COLOURS, PALETTE):
        known = ", ".join((*GREY, PALETTE, *COLOURS))
        raise refuse("has a PhotometricInterpretation that is not read", f"Convert it ({known} are read)")
    if (
        samples != (3 if kind in COLOURS else 1)
        or allocated not in (8, 16)
        or not 1 <= stored <= allocated
        or whole_number(dataset, "HighBit") >= stored < allocated  # beside bits of something else
        or whole_number(dataset, "PixelRepresentation") != 0
        or (kind.startswith("YBR") and allocated != 8)
    ):
        raise refuse("its pixels are not stored as 8 or 16 bits without sign", "Export it with 8 bits")

    size = len(dataset.PixelData)
    if syntax in COMPRESSED:
        found = _pictures(dataset.PixelData, COMPRESSED[syntax])
        if found == 0:
            raise refuse("has compressed pixel data without a picture in it")
        if found != frames:
            raise refuse(f"holds {found} compressed frames, but its NumberOfFrames says {frames}")
    else:
        one = rows * columns * samples * allocated // 8
        one = one * 2 // 3 if kind == "YBR_FULL_422" else one
        if size < one * frames:
            raise refuse(
                f"is truncated: {size} bytes of pixels where {frames} x {columns} x {rows} px need {one * frames}"
            )
        if size >= one * frames + max(one, 2):
            raise refuse(
                f"holds more pixels than the {frames} frames of {columns} x {rows} px that its header says"
            )
    return DicomObject(path, frames, columns, rows, dataset)


def whole_number(dataset: Any, keyword: str) -> int:
    """The value of an attribute as a whole number; absent or otherwise: -1."""
    try:
        return int(dataset.get(keyword, -1))
    except (TypeError, ValueError):
        return -1


def _syntax_of(dataset: Any) -> str:
    return str(dataset.file_meta.get("TransferSyntaxUID", ""))


def _pictures(data: bytes, start: bytes) -> int:
    """Frames in encapsulated pixel data: the fragments that begin one."""
    from pydicom.encaps import generate_fragments, parse_basic_offsets

    buffer = io.BytesIO(data)
    parse_basic_offsets(buffer)
    return sum(fragment.startswith(start) and len(fragment) > 0 for fragment in generate_fragments(buffer))


def _decode(source: DicomObject, index: int) -> Pixels:
    """A frame as uint8 `[H,W,3]` in sRGB."""
    from pydicom.pixels import apply_color_lut, pixel_array

    dataset = source.dataset
    _check_picture(source, index)
    # a JPEG's decoder gives the colours by pixel, whatever the header says, which means nothing there (PS3.3 C.7.6.3.1.3)
    by_pixel = {"planar_configuration": 0} if COMPRESSED.get(_syntax_of(dataset)) else {}
    values = pixel_array(dataset, index=index, **by_pixel)
    kind, top = str(dataset.PhotometricInterpretation), 2 ** int(dataset.get("BitsStored", 8)) - 1
    if kind == PALETTE:
        values = apply_color_lut(values, dataset)[..., :3]
        top = np.iinfo(values.dtype).max
    if values.dtype != np.uint8 or top != 255:
        values = np.minimum((values.astype(np.uint32) * 255 + top // 2) // top, 255).astype(np.uint8)
    if kind == "MONOCHROME1":  # the lowest value is white
        values = 255 - values
    if kind in GREY:
        values = np.repeat(values[..., None], 3, axis=2)
    elif profile := dataset.get("ICCProfile"):
        picture = Image.fromarray(np.ascontiguousarray(values))
        picture.info["icc_profile"] = profile
        values = np.asarray(to_srgb(picture))
    return np.ascontiguousarray(values)


def _check_picture(source: DicomObject, index: int) -> None:
    """A compressed picture's own header may lie too: refuse another size before a decoder reserves memory for it."""
    from pydicom.encaps import get_frame

    if not COMPRESSED.get(_syntax_of(source.dataset)):
        return
    data = get_frame(source.dataset.PixelData, index, number_of_frames=source.count)
    with Image.open(io.BytesIO(data), formats=("JPEG", "JPEG2000")) as picture:
        if picture.size != (source.width, source.height):
            raise ImageError(
                source.path,
                f"holds a picture of {picture.width} x {picture.height} px, but its header says "
                f"{source.width} x {source.height}",
                COPY_AGAIN,
            )


def pixel_size(dataset: Any, index: int) -> tuple[float, float] | None:
    """(width, height) of a pixel in mm: of the frame, of all frames, or of the object. DICOM names the height first."""

    def of_group(keyword: str, item: int) -> Any:
        return dataset[keyword][item].PixelMeasuresSequence[0].PixelSpacing

    for find in (
        lambda: of_group("PerFrameFunctionalGroupsSequence", index),
        lambda: of_group("SharedFunctionalGroupsSequence", 0),
        lambda: dataset.PixelSpacing,
    ):
        try:
            height, width = (float(value) for value in find())
        except Exception:  # absent or malformed: no scale from here
            continue
        if is_scale((width, height)):
            return width, height
    return None


def pixel_aspect_of(dataset: Any) -> float:
    """Height / width of a pixel; DICOM names the vertical side first. 1 where the ratio is absent or beyond belief."""
    try:
        height, width = (float(value) for value in dataset.PixelAspectRatio)
        return height / width if 0.1 <= height / width <= 10 else 1.0
    except Exception:
        return 1.0


def patient_orientation_of(dataset: Any) -> tuple[str, ...]:
    """Patient Orientation where it is one: letters, as in ("L", "F")."""
    value = dataset.get("PatientOrientation") or ()
    parts = tuple(str(part) for part in ([value] if isinstance(value, str) else value))
    return parts if all(re.fullmatch(r"[A-Z]{1,3}", part) for part in parts) else ()


def class_name(uid: str) -> str:
    """A SOP class by its name, never by a value from the file."""
    return PHOTOGRAPHS.get(uid) or _uid_name(uid) or "an object of an unknown class"


def _uid_name(uid: str) -> str:
    from pydicom.uid import UID_dictionary

    return UID_dictionary[uid][0] if uid in UID_dictionary else ""
