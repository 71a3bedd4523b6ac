"""DICOM photographs that tests draw and break. Where the extra `dicom` is not installed, a file of tests that imports this is skipped."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segmae
from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.data.phantom import draw_lesion
from segmae.dicom import Algorithm
from segmae.predictor import Predictor

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("openjpeg", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

EMBEDDED = Path(segmae.__file__).parent / "assets" / "segmae-tiny" / "model.onnx"
needs_model = pytest.mark.skipif(not EMBEDDED.exists(), reason="no model shipped yet")

DERMOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.7"
CLINICAL = "1.2.840.10008.5.1.4.1.1.77.1.4"
SIZE = (64, 48)
MADE_BY = Algorithm("segmae-tiny", "0123456789abcdef", 0.5)
PATIENT = {
    "PatientName": "Müller^Ånne", "PatientID": "P-17", "PatientBirthDate": "19500607", "PatientSex": "F",
    "AccessionNumber": "ACC1", "StudyID": "S1", "StudyDate": "20240203", "StudyTime": "101112",
    "StudyDescription": "Left shoulder", "ReferringPhysicianName": "Who^Doctor", "PatientAge": "073Y",
}  # fmt: skip


class Darkness:
    """An engine that finds what is dark, with probabilities in between."""

    name, device = "none", "cpu"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return (-6 * images.mean(1, keepdims=True)).astype(np.float32)


def darkness() -> Predictor:
    info = ModelInfo("darkness", {}, Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    return Predictor(info, Darkness(), digest="0123456789abcdef")


def lesions(frames: int = 1, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 [F,H,W,3]"""
    return np.stack([draw_lesion(seed, size)[0] for seed in range(frames)])


def uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.10.1.{number}"


def photograph(frames: np.ndarray | None = None, kind: str = "RGB", number: int = 1, **tags: Any) -> Dataset:
    """A valid Dermoscopic Photography object, uncompressed: frames [F,H,W] or [F,H,W,3], uint8 or uint16."""
    pixels = lesions() if frames is None else frames
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = DERMOSCOPIC, uid(1000 + number)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid(1), uid(2), uid(3)
    ds.PositionReferenceIndicator, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "", "XC", 3, number
    ds.ImageType, ds.LossyImageCompression = ["ORIGINAL", "PRIMARY"], "00"
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "NO", "NO"
    ds.PatientOrientation, ds.PixelSpacing = ["L", "F"], ["0.02", "0.03"]
    for keyword, value in PATIENT.items():
        setattr(ds, keyword, value)
    ds.Rows, ds.Columns = pixels.shape[1:3]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3 if pixels.ndim == 4 else 1), kind
    if pixels.ndim == 4:
        ds.PlanarConfiguration = 0
    if len(pixels) > 1:
        ds.NumberOfFrames = len(pixels)
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    ds.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


def save(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_bytes(ds))
    return path


def as_bytes(ds: Dataset) -> bytes:
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if (ds.get("PixelData") or b"").startswith(bytes.fromhex("feff00e0")):
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    known = ds.file_meta.TransferSyntaxUID in pydicom.uid.AllTransferSyntaxes
    encoding = {} if known else {"implicit_vr": False, "little_endian": True}
    ds.save_as(buffer, enforce_file_format=True, **encoding)
    return buffer.getvalue()


def pictures(frames: np.ndarray, kind: str = "JPEG", **options: Any) -> list[bytes]:
    """Each frame as a JPEG or JPEG 2000 file."""
    found = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, kind, **options)
        found.append(buffer.getvalue())
    return found


def jpeg(ds: Dataset, frames: np.ndarray, **options: Any) -> Dataset:
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PhotometricInterpretation = "YBR_FULL_422" if frames.ndim == 4 else "MONOCHROME2"
    ds.PixelData = encapsulate(pictures(frames, **options))
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ds.LossyImageCompressionRatio = 10
    return ds


def jpeg_2000(ds: Dataset, lossy: bool = False) -> Dataset:
    kind = np.uint16 if ds.BitsAllocated == 16 else np.uint8
    colours = (3,) if ds.SamplesPerPixel == 3 else ()
    pixels = np.frombuffer(ds.PixelData, kind).reshape(-1, ds.Rows, ds.Columns, *colours)
    options = {"irreversible": True, "quality_mode": "dB", "quality_layers": [45]} if lossy else {}
    ds.file_meta.TransferSyntaxUID = JPEG2000 if lossy else JPEG2000Lossless
    if colours:
        ds.PhotometricInterpretation = "YBR_ICT" if lossy else "YBR_RCT"
    ds.PixelData = encapsulate(pictures(pixels, "JPEG2000", no_jp2=True, mct=int(bool(colours)), **options))
    return ds


def with_syntax(syntax: str) -> Callable[[Dataset], None]:
    def apply(ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = syntax

    return apply


EXACT = {
    "implicit": with_syntax(ImplicitVRLittleEndian),
    "explicit": with_syntax(ExplicitVRLittleEndian),
    "deflated": with_syntax(DeflatedExplicitVRLittleEndian),
    "rle": lambda ds: ds.compress(RLELossless, generate_instance_uid=False),
    "jpeg2000-lossless": jpeg_2000,
}


def lie(**tags: Any) -> Callable[[Dataset], None]:
    def apply(ds: Dataset) -> None:
        for keyword, value in tags.items():
            setattr(ds, keyword, value)

    return apply


def compressed(*frames: bytes, syntax: str = JPEGBaseline8Bit, **tags: Any) -> Callable[[Dataset], None]:
    def apply(ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PhotometricInterpretation = "YBR_FULL_422"
        ds.PixelData = (
            encapsulate(list(frames)) if frames else bytes.fromhex("feff00e000000000feffdde000000000")
        )
        lie(**tags)(ds)

    return apply


def without(*keywords: str) -> Callable[[Dataset], None]:
    def apply(ds: Dataset) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return apply


ONE = pictures(lesions())[0]
HUGE = pictures(np.zeros((1, 9000, 9000, 3), np.uint8), quality=1)[0]
BROKEN: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "no pixel data": (without("PixelData"), "has no pixel data. Export it with its pixels"),
    "empty pixel data": (lie(PixelData=b""), "has no pixel data"),
    "truncated pixels": (lie(PixelData=b"\0" * 100), "is truncated: 100 bytes of pixels where"),
    "30000 x 30000": (lie(Rows=30000, Columns=30000), "is 30000 x 30000 px by its header. Scale it below"),
    "12000 x 12000": (lie(Rows=12000, Columns=12000), "is truncated"),
    "no rows": (lie(Rows=0), "no usable Rows"),
    "no Rows element": (without("Rows"), "no usable Rows"),
    "too many frames": (lie(NumberOfFrames=7), "is truncated"),
    "a billion frames": (lie(NumberOfFrames=10**9), "is truncated"),
    "too few frames": (lie(NumberOfFrames=1, PixelData=lesions(2).tobytes()), "holds more pixels than"),
    "no frames": (lie(NumberOfFrames=-3), "no usable Rows, Columns or NumberOfFrames"),
    "unknown syntax": (compressed(ONE, syntax=pydicom.uid.UID("1.2.3.4")), "compressed as something unknown, which is not read"),
    "jpeg lossless": (compressed(ONE, syntax=pydicom.uid.UID("1.2.840.10008.1.2.4.70")), "compressed as JPEG Lossless.*is not read.*convert"),
    "video": (compressed(ONE, syntax=pydicom.uid.UID("1.2.840.10008.1.2.4.102")), "compressed as MPEG-4"),
    "no fragments": (compressed(), "compressed pixel data without a picture"),
    "one of three": (compressed(ONE, NumberOfFrames=3), "holds 1 compressed frames, but its NumberOfFrames says 3"),
    "two for one": (compressed(ONE, ONE), "holds 2 compressed frames, but its NumberOfFrames says 1"),
    "no jpeg": (compressed(b"\xff\xd8" + b"no picture" * 9), "cannot be decoded"),
    "jpeg is jpeg 2000": (compressed(ONE, syntax=JPEG2000Lossless), "without a picture"),
    "truncated jpeg": (compressed(ONE[: len(ONE) // 2]), "cannot be decoded"),
    "jpeg bomb": (compressed(HUGE), "holds a picture of 9000 x 9000 px, but its header says 64 x 48"),
    "short rle": (compressed(b"\0" * 64, syntax=RLELossless, PhotometricInterpretation="RGB"), "cannot be decoded"),
    "32 bits": (lie(BitsAllocated=32), "8 or 16 bits"),
    "in the upper bits": (lie(BitsStored=6, HighBit=7), "8 or 16 bits"),
    "signed": (lie(PixelRepresentation=1), "without sign"),
    "cmyk": (lie(PhotometricInterpretation="CMYK"), "PhotometricInterpretation that is not read"),
    "one sample of rgb": (lie(SamplesPerPixel=1), "8 or 16 bits"),
    "palette without table": (
        lie(PhotometricInterpretation="PALETTE COLOR", SamplesPerPixel=1, PixelData=b"\0" * 64 * 48),
        "cannot be decoded",
    ),
    "no instance uid": (lie(StudyInstanceUID=""), "no usable StudyInstanceUID"),
    "a ct": (lie(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "is CT Image Storage, not a photograph"),
}  # fmt: skip


def other_object(sop_class: str, number: int = 50) -> Dataset:
    """An object without an image, such as a report."""
    ds = photograph(SOPClassUID=sop_class, number=number)
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(ds, keyword)
    return ds


def write_study(root: Path) -> Path:
    """Three photographs, one without ending and one two folders down, among everything else that studies hold."""
    save(photograph(), root / "IM0001")
    save(photograph(lesions(2), number=2), root / "b" / "photo.dcm")
    save(
        jpeg(photograph(lesions(), number=3, SOPClassUID=CLINICAL), lesions()), root / "b" / "c" / "photo.jpg"
    )
    save(other_object("1.2.840.10008.5.1.4.1.1.88.33"), root / "report")
    save(other_object("1.2.840.10008.5.1.4.1.1.104.1"), root / "letter.dcm")
    save(other_object("1.2.840.10008.5.1.4.1.1.66.4"), root / "old_seg.dcm")
    save(other_object("1.2.840.10008.1.3.10"), root / "DICOMDIR")
    save(other_object("1.2.3.4.5"), root / "private.dcm")
    Image.fromarray(lesions()[0]).save(root / "snapshot.jpg")
    (root / "notes.txt").write_text("no object")
    (root / "empty.dcm").write_bytes(b"")
    if sys.platform != "win32":
        os.mkfifo(root / "pipe")
        (root / "nowhere.dcm").symlink_to(root / "gone")
        (root / "b" / "up").symlink_to(root, target_is_directory=True)
        (root / "b" / "self").symlink_to(root / "b", target_is_directory=True)
    return root


def valid_objects() -> list[bytes]:
    """One object of each kind as bytes, small so that most changes hit the header."""
    pixels = lesions(2, (24, 16))
    ways: list[Callable[[Dataset], Any]] = [*EXACT.values(), lambda ds: jpeg(ds, pixels)]
    found = []
    for way in ways:
        ds = photograph(pixels)
        way(ds)
        found.append(as_bytes(ds))
    return found
