"""DICOM in and out: every way of storing pixels that is claimed, SEG objects read back, studies, broken files, privacy."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import segmae
import segmae.dicom.read
from links import link
from profiles import SRGB, SWAPPED
from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.data.phantom import draw_lesion
from segmae.dicom import (
    Algorithm,
    DicomObject,
    open_object,
    predict_dicom,
    read_frames,
    segment,
    walk,
    write_segmentation,
)
from segmae.errors import DataError, ImageError, MissingExtra, OutputError, SegmaeError
from segmae.masks import measure_masks
from segmae.outputs import FORMATS
from segmae.photographs import FILES
from segmae.predictor import Predictor

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
hd = pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("openjpeg", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import convert_color_space  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
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
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678)
CANARY = "ZQXCANARYQXZ"
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


@pytest.fixture
def by_darkness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmae.dicom.predict.load", lambda *a: darkness())


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


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# -- reading: transfer syntaxes


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


# -- reading: colours and grey values


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


# -- reading: what else is known


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


# -- writing


def lesion_frames(count: int) -> np.ndarray:
    return np.stack([draw_lesion(seed, SIZE)[1] for seed in range(count)]).astype(bool)


def read_back(path: Path, source: Dataset, count: int) -> np.ndarray:
    """The frames of a SEG object by highdicom, found by their references: [F,H,W]."""
    seg = hd.seg.segread(path)
    if count == 1:
        found = seg.get_pixels_by_source_instance([source.SOPInstanceUID], rescale_fractional=False)
    else:
        found = seg.get_pixels_by_source_frame(
            source.SOPInstanceUID, list(range(1, count + 1)), rescale_fractional=False
        )
    return found[..., 0]


@pytest.mark.parametrize("frame_of_reference", [True, False])
@pytest.mark.parametrize("sop_class", [DERMOSCOPIC, CLINICAL])
@pytest.mark.parametrize("count", [1, 3])
def test_a_mask_comes_back_pixel_by_pixel(
    tmp_path: Path, count: int, sop_class: str, frame_of_reference: bool
) -> None:
    source = photograph(lesions(count), SOPClassUID=sop_class)
    if not frame_of_reference:
        del source.FrameOfReferenceUID, source.PositionReferenceIndicator
    path = save(source, tmp_path / "a.dcm")
    before = path.read_bytes()
    masks = lesion_frames(count)
    written = write_segmentation(open_object(path), masks, tmp_path / "seg.dcm", MADE_BY)
    assert path.read_bytes() == before
    assert np.array_equal(read_back(written, source, count), masks)
    seg = pydicom.dcmread(written)
    assert np.array_equal(seg.pixel_array.reshape(masks.shape), masks)
    assert (seg.SegmentationType, int(seg.NumberOfFrames)) == ("BINARY", count)
    assert seg.get("FrameOfReferenceUID") == source.get("FrameOfReferenceUID")


@pytest.mark.parametrize("count", [1, 2])
def test_probabilities_come_back_within_a_255th(tmp_path: Path, count: int) -> None:
    source = photograph(lesions(count))
    path = save(source, tmp_path / "a.dcm")
    written = segment(path, tmp_path / "seg.dcm", darkness(), fractional=True)
    wanted = np.stack([darkness()(frame).probability for frame in lesions(count)])
    assert len(np.unique(np.rint(wanted * 255))) > 50
    seg = pydicom.dcmread(written)
    assert (seg.SegmentationType, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert int(seg.MaximumFractionalValue) == 255
    stored = seg.pixel_array.reshape(wanted.shape) / 255
    assert np.abs(stored - wanted).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(read_back(written, source, count), np.rint(stored * 255))


def test_segment_writes_what_the_predictor_finds(tmp_path: Path) -> None:
    path = save(photograph(), tmp_path / "a.dcm")
    written = segment(path, tmp_path / "new" / "seg.dcm", darkness())
    wanted = darkness()(lesions()[0]).mask
    assert 0.05 < wanted.mean() < 0.95
    assert np.array_equal(pydicom.dcmread(written).pixel_array, wanted)


def test_patient_study_and_references_are_the_sources(tmp_path: Path) -> None:
    source = photograph(lesions(3))
    path = save(source, tmp_path / "a.dcm")
    seg = pydicom.dcmread(segment(path, tmp_path / "seg.dcm", darkness(), created=WHEN))
    for keyword in PATIENT:
        assert seg[keyword].value == source[keyword].value, keyword
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    series = seg.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    for number, group in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedSOPClassUID == DERMOSCOPIC
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert image.ReferencedFrameNumber == number
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(value) for value in measures.PixelSpacing] == [0.02, 0.03]
    assert list(seg.PatientOrientation) == ["L", "F"]
    assert (seg.ContentDate, seg.InstanceCreationTime) == ("20260102", "030405.000678")


def test_the_algorithm_and_the_segment_are_named_by_codes(tmp_path: Path) -> None:
    from pydicom.sr.codedict import codes

    path = save(photograph(), tmp_path / "a.dcm")
    seg = pydicom.dcmread(segment(path, tmp_path / "seg.dcm", darkness()))
    (lesion,) = seg.SegmentSequence
    assert (lesion.SegmentLabel, lesion.SegmentAlgorithmType) == ("Lesion", "AUTOMATIC")
    for item, code in (
        (lesion.SegmentedPropertyCategoryCodeSequence[0], codes.SCT.MorphologicallyAbnormalStructure),
        (lesion.SegmentedPropertyTypeCodeSequence[0], codes.SCT.Lesion),
        (lesion.AnatomicRegionSequence[0], codes.SCT.Skin),
    ):
        assert (item.CodeValue, item.CodingSchemeDesignator) == (code.value, "SCT")
    made_by = lesion.SegmentationAlgorithmIdentificationSequence[0]
    assert (made_by.AlgorithmName, made_by.AlgorithmVersion) == ("segmae darkness", segmae.__version__)
    assert (
        "0123456789abcdef" in str(made_by.AlgorithmParameters)
        and seg.DeviceSerialNumber == "0123456789abcdef"
    )


def test_the_part_of_the_body_is_the_sources(tmp_path: Path) -> None:
    from pydicom.sr.codedict import codes

    back = Dataset()
    back.CodeValue, back.CodingSchemeDesignator = codes.SCT.SkinOfBack.value, "SCT"
    back.CodeMeaning = codes.SCT.SkinOfBack.meaning
    path = save(photograph(AnatomicRegionSequence=[back]), tmp_path / "a.dcm")
    seg = pydicom.dcmread(segment(path, tmp_path / "seg.dcm", darkness()))
    assert seg.SegmentSequence[0].AnatomicRegionSequence[0].CodeValue == back.CodeValue


def test_the_same_input_gives_the_same_uids_and_with_the_time_given_the_same_bytes(tmp_path: Path) -> None:
    path = save(photograph(lesions(2)), tmp_path / "a.dcm")
    one, two = (segment(path, tmp_path / name, darkness(), created=WHEN) for name in ("1.dcm", "2.dcm"))
    assert one.read_bytes() == two.read_bytes()
    later = pydicom.dcmread(segment(path, tmp_path / "3.dcm", darkness()))
    assert later.SOPInstanceUID == pydicom.dcmread(one).SOPInstanceUID
    other = pydicom.dcmread(segment(path, tmp_path / "4.dcm", darkness(), fractional=True))
    assert other.SOPInstanceUID != later.SOPInstanceUID and other.SeriesInstanceUID != later.SeriesInstanceUID


def test_the_source_is_never_written_to(tmp_path: Path) -> None:
    path = save(photograph(), tmp_path / "a.dcm")
    before = path.read_bytes()
    link(tmp_path / "link.dcm", path)
    for out in (path, tmp_path / "link.dcm"):
        with pytest.raises(OutputError, match="is the source"):
            segment(path, out, darkness())
    assert path.read_bytes() == before


def test_old_and_malformed_patient_entries_do_not_stop_it(tmp_path: Path) -> None:
    source = photograph(PatientWeight="123456", PatientName="A^B", PregnancyStatus=4)
    path = save(source, tmp_path / "a.dcm")
    data = path.read_bytes()
    for old, new in (
        (b"123456", b"heavy!"),
        (b"19500607", b"1950    "),
        (b"CS\x02\x00F ", b"CS\x02\x00X "),
        (b"US\x02\x00\x04\x00", b"US\x03\x00\x04\x00\x00"),  # three bytes are no number
    ):
        assert data.count(old) == 1
        data = data.replace(old, new)
    path.write_bytes(data)
    seg = pydicom.dcmread(segment(path, tmp_path / "seg.dcm", darkness()))
    assert (seg.PatientBirthDate, seg.PatientSex, seg.PatientName) == ("1950", "X", "A^B")
    assert "PregnancyStatus" not in seg


def test_absent_patient_entries_are_written_empty(tmp_path: Path) -> None:
    ds = photograph()
    for keyword in PATIENT:
        delattr(ds, keyword)
    del ds.SpecificCharacterSet, ds.Modality, ds.InstanceNumber, ds.PatientOrientation
    seg = pydicom.dcmread(segment(save(ds, tmp_path / "a.dcm"), tmp_path / "seg.dcm", darkness()))
    assert (seg.PatientName, seg.PatientID, seg.StudyDate) == ("", None, None) or not seg.PatientID


@pytest.mark.parametrize("count", [1, 2])
def test_a_ratio_of_sides_is_the_sources_where_there_is_no_spacing(tmp_path: Path, count: int) -> None:
    def written(**tags: Any) -> Dataset:
        path = save(photograph(lesions(count), **tags), tmp_path / "a.dcm")
        return pydicom.dcmread(segment(path, tmp_path / "seg.dcm", darkness()))

    assert list(written(PixelSpacing=None, PixelAspectRatio=["6", "5"]).PixelAspectRatio) == [6, 5]
    assert "PixelAspectRatio" not in written(PixelAspectRatio=["6", "5"])  # Pixel Spacing says it
    for useless in (["1", "1"], ["2", "2"], ["0", "1"], "2", None):
        assert "PixelAspectRatio" not in written(PixelSpacing=None, PixelAspectRatio=useless)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("ratio", [None, ["6", "5"]])
@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_dciodvfy_finds_no_fault(
    tmp_path: Path, count: int, fractional: bool, ratio: list[str] | None
) -> None:
    tags = {"PixelSpacing": None, "PixelAspectRatio": ratio} if ratio else {}
    path = save(photograph(lesions(count), **tags), tmp_path / "a.dcm")
    written = segment(path, tmp_path / "seg.dcm", darkness(), fractional=fractional)
    done = subprocess.run(["dciodvfy", "-new", written], capture_output=True, text=True, timeout=60)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # The standard has no photographs of several frames, so it has no words for a reference to one of them
    known = "Shall not be present for Referenced SOP Class that is not multi-frame"
    found = [line for line in lines if line != "Segmentation" and not (count > 1 and known in line)]
    assert found == []
    assert "Segmentation" in lines


# -- studies


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


def test_a_study_is_walked_and_what_is_passed_over_has_a_reason(tmp_path: Path) -> None:
    root = write_study(tmp_path / "study")
    study = walk([root])
    assert [path.relative_to(root).as_posix() for path in study.objects] == [
        "IM0001",
        "b/photo.dcm",
        "b/c/photo.jpg",
    ]
    reasons = {path.relative_to(root).as_posix(): reason for path, reason in study.passed_over}
    assert reasons == {
        "DICOMDIR": "is a DICOMDIR, a table of contents",
        "report": "is Comprehensive SR Storage, not a photograph",
        "letter.dcm": "is Encapsulated PDF Storage, not a photograph",
        "old_seg.dcm": "is a segmentation already",
        "private.dcm": "is an object of an unknown class, not a photograph",
        "snapshot.jpg": "is a photograph outside DICOM: segment it in a call of its own",
        "notes.txt": "is no DICOM object",
        "empty.dcm": "is no DICOM object",
    } | ({} if sys.platform == "win32" else {"pipe": "is no regular file", "nowhere.dcm": "no such file"})


def test_a_study_becomes_masks_overlays_segmentations_and_rows(by_darkness: None, tmp_path: Path) -> None:
    root, out = write_study(tmp_path / "study"), tmp_path / "out"
    seen: list[tuple[int, int]] = []
    done = predict_dicom([root], out, progress=lambda *state: seen.append(state))
    assert (done.failures, seen) == ([], [(1, 3), (2, 3), (3, 3)])
    assert [(Path(row["file"]).name, row["frame"]) for row in done.rows] == [
        ("IM0001", 1), ("photo.dcm", 1), ("photo.dcm", 2), ("photo.jpg", 1),
    ]  # fmt: skip
    assert json.loads(json.dumps(done.rows)) == rows_of(out)
    assert len({row["name"] for row in done.rows}) == 4 and len({row["seg"] for row in done.rows}) == 3
    for row in done.rows:
        mask = np.asarray(Image.open(out / row["mask"])) == 255
        assert Image.open(out / row["overlay"]).size == SIZE
        seg = pydicom.dcmread(out / row["seg"]).pixel_array.reshape(row["frames"], 48, 64)
        assert np.array_equal(mask, seg[row["frame"] - 1])
        assert mask.mean() == pytest.approx(row["lesion_share"], abs=1e-6)
        assert (row["mm_per_pixel"], row["patient_orientation"]) == ([0.03, 0.02], ["L", "F"]) or row[
            "mm_per_pixel"
        ] == (0.03, 0.02)
    assert {path.name for path in out.iterdir()} == {
        "results.jsonl", *(row[kind] for row in done.rows for kind in ("mask", "overlay", "seg"))
    }  # fmt: skip
    again = walk([out])
    assert not again.objects


def test_every_format_has_the_frames_and_their_own_scale(by_darkness: None, tmp_path: Path) -> None:
    root, out = tmp_path / "study", tmp_path / "out"
    pixels = lesions(2)
    save(photograph(pixels, number=1), root / "a.dcm")
    save(photograph(number=2, PixelSpacing=None), root / "b.dcm")
    done = predict_dicom([root], out, formats=FORMATS, mm_per_pixel=0.5, keep_largest=True)
    assert not done.notes
    one, two, other = done.rows
    assert [row["measurements"]["mm_per_pixel"] for row in done.rows] == [
        [0.03, 0.02],
        [0.03, 0.02],
        [0.5, 0.5],
    ]
    for row in done.rows:
        assert all((out / row[kind]).is_file() for kind in FILES)
        measured, scale = row["measurements"], row["measurements"]["mm_per_pixel"]
        assert measured["area_mm2"] == pytest.approx(measured["area_px"] * scale[0] * scale[1])
        mask = np.asarray(Image.open(out / row["mask"])) == 255
        seg = pydicom.dcmread(out / row["seg"]).pixel_array.reshape(row["frames"], 48, 64)
        assert np.array_equal(mask, seg[row["frame"] - 1])
    assert len(json.loads((out / "coco.json").read_text())["annotations"]) == 3
    assert len(json.loads((out / "labelstudio.json").read_text())) == 3
    table = (out / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == sorted(row["name"] for row in done.rows)
    page = (out / "gallery.html").read_text()
    shown = [base64.b64decode(text) for text in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    by_name = dict(zip(sorted(row["name"] for row in done.rows), shown, strict=True))
    second = np.asarray(Image.open(io.BytesIO(by_name[two["name"]])), float)
    assert np.abs(second - pixels[1]).mean() < 6 < np.abs(second - pixels[0]).mean()
    before = contents(out)
    assert (
        predict_dicom([root], out, formats=FORMATS, mm_per_pixel=0.5, keep_largest=True, resume=True).skipped
        == 3
    )
    assert contents(out) == before
    again = predict_dicom([root], out, keep_largest=True, resume=True, formats=["csv"], mm_per_pixel=0.25)
    assert again.skipped == 2  # the scale of the call is that of the last object alone
    changed = predict_dicom([root], out, formats=["mask"], fill_holes=True)
    assert "geojson" not in changed.rows[0]
    assert not (out / f"{one['name']}.geojson").exists()
    assert other["name"] in {row["name"] for row in changed.rows}


def test_masks_of_frames_keep_the_scales_in_the_table_of_results(by_darkness: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save(photograph(lesions(2), number=1), tmp_path / "study" / "a.dcm")
    save(photograph(number=2, PixelSpacing=None), tmp_path / "study" / "b.dcm")
    predict_dicom([tmp_path / "study"], out, formats=["mask", "csv"])
    found = measure_masks(out, mm_table=out / "results.csv")
    scales = sorted(str(row["measurements"]["mm_per_pixel"]) for row in found.rows)
    assert (scales, found.failures) == (["None", "[0.03, 0.02]", "[0.03, 0.02]"], [])
    assert not any("passed over: " in note for note in found.notes), "SEG objects are no masks to export"


def test_a_ratio_of_sides_is_kept_where_there_is_no_spacing(by_darkness: None, tmp_path: Path) -> None:
    """DICOM names the vertical side first: 2\\1 are pixels twice as high as wide."""
    path = save(photograph(PixelSpacing=None, PixelAspectRatio=["2", "1"]), tmp_path / "a.dcm")
    done = predict_dicom([path], tmp_path / "out", formats=["csv"], mm_per_pixel=0.1)
    measured = done.rows[0]["measurements"]
    assert measured["mm_per_pixel"] == [0.1, 0.2]
    assert measured["area_mm2"] == pytest.approx(measured["area_px"] * 0.02)
    assert (
        "1 of 1 frames have pixels that are not square" in done.notes[0]
        and "taken for the width" in done.notes[0]
    )
    assert (
        predict_dicom([path], tmp_path / "out", formats=["csv"], mm_per_pixel=0.1, resume=True).skipped == 1
    )
    kept = predict_dicom([path], tmp_path / "out", formats=["csv"], resume=True)
    assert kept.rows[0]["measurements"]["mm_per_pixel"] == [0.1, 0.2] and not kept.notes
    (note,) = predict_dicom([path], tmp_path / "out", measure=True).notes
    assert "shape is measured as if they were" in note
    given = predict_dicom([path], tmp_path / "out", mm_per_pixel=(0.1, 0.3))
    assert given.rows[0]["measurements"]["mm_per_pixel"] == [0.1, 0.3] and not given.notes
    for useless in (["0", "1"], ["1", "0"], ["1000", "1"], "2", None):
        save(photograph(PixelSpacing=None, PixelAspectRatio=useless), path)
        assert not predict_dicom([path], tmp_path / "out", mm_per_pixel=0.1).notes
    save(photograph(PixelAspectRatio=["2", "1"]), path)  # Pixel Spacing says more
    assert predict_dicom([path], tmp_path / "out").rows[0]["mm_per_pixel"] == (0.03, 0.02)


def test_masks_corrected_by_hand_are_measured_on_their_frames(by_darkness: None, tmp_path: Path) -> None:
    """By the names of the results, or of the file of one frame: the figures of predict but for the outline's."""
    study, out, drawn = tmp_path / "study", tmp_path / "out", tmp_path / "drawn"
    one = save(photograph(), study / "IM0001")
    save(photograph(lesions(2), number=2), study / "b" / "two.dcm")
    save(photograph(number=3, PixelSpacing=None, PixelAspectRatio=["6", "5"]), study / "b" / "x.dcm")
    for place in "ab":  # names that two objects share belong to neither
        save(photograph(number=4 + (place == "a")), study / place / "same.dcm")
    (study / "damaged.dcm").write_bytes(one.read_bytes()[:2000])
    Image.fromarray(lesions()[0]).save(study / "snapshot.jpg")
    rows = predict_dicom([study], out, formats=["mask", "csv"]).rows
    drawn.mkdir()
    named = {row["name"]: row for row in rows if row["file"].endswith(("IM0001", "two.dcm"))}
    for row in rows:
        file = row["mask"] if row["name"] in named else f"{Path(row['file']).stem}_mask.png"
        (out / row["mask"]).rename(drawn / file)
    done = measure_masks(drawn, photos=study, mm_per_pixel=0.1)
    assert [Path(failure["file"]).name for failure in done.failures] == ["same_mask.png"]
    found = {row["name"]: row for row in done.rows}
    assert found.keys() == named.keys() | {"x"} and len(named) == 3
    assert (
        len({row["measurements"]["colour_variegation_de"] for row in done.rows}) == 3
    )  # x shows what IM0001 does
    for name, row in named.items():
        for key in ("area_px", "area_mm2", "mm_per_pixel", "colours", "colour_variegation_de"):
            assert found[name]["measurements"][key] == row["measurements"][key], key
    assert found["x"]["measurements"]["mm_per_pixel"] == [0.1, 0.12]
    assert "1 of 4 frames have pixels that are not square" in done.notes[-1]
    (drawn / "x_mask.png").unlink()
    table = measure_masks(drawn, mm_table=out / "results.csv")  # which names the results
    assert len(table.failures) == 1  # same
    assert {r["name"]: r["measurements"]["area_mm2"] for r in table.rows} == {
        name: row["measurements"]["area_mm2"] for name, row in named.items()
    }


def test_one_bad_object_never_stops_a_batch(by_darkness: None, tmp_path: Path) -> None:
    root = tmp_path / "study"
    for number in range(1, 5):
        save(photograph(number=number), root / f"{number}.dcm")
    data = (root / "2.dcm").read_bytes()
    (root / "2.dcm").write_bytes(data[:-2000])
    (root / "3.dcm").write_bytes(data[:140])
    done = predict_dicom([root, tmp_path / "gone.dcm", root / "1.dcm"], tmp_path / "out")
    assert [Path(row["file"]).name for row in done.rows] == ["1.dcm", "4.dcm"]
    assert [Path(failure["file"]).name for failure in done.failures] == ["2.dcm", "3.dcm", "gone.dcm"]
    for failure in done.failures:
        assert failure["problem"].startswith(f"{failure['file']}: ")
    # mended, its old failure is forgotten
    save(photograph(number=2), root / "2.dcm")
    assert len(predict_dicom([root / "2.dcm"], tmp_path / "out").rows) == 1
    rows = rows_of(tmp_path / "out")
    assert [Path(row["file"]).name for row in rows if "error" in row] == ["3.dcm", "gone.dcm"]
    assert len(rows) == 5


def test_a_damaged_frame_leaves_nothing_of_its_object(by_darkness: None, tmp_path: Path) -> None:
    pixels = lesions(3)
    ds = jpeg(photograph(pixels), pixels)
    files = pictures(pixels)
    ds.PixelData = encapsulate([files[0], files[1], files[2][:300]])
    done = predict_dicom([save(ds, tmp_path / "a.dcm")], tmp_path / "out")
    assert not done.rows and "cannot be decoded" in done.failures[0]["problem"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.jsonl"]


def test_copies_of_an_object_are_segmented_once(by_darkness: None, tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        save(photograph(), tmp_path / "study" / name)
    for resume in (False, True):
        done = predict_dicom([tmp_path / "study"], tmp_path / "out", resume=resume)
        assert [Path(row["file"]).name for row in done.rows] == ["a.dcm"]
        assert done.passed_over[-1]["reason"].startswith("is the same object as ")


def test_resume_leaves_out_what_is_done_with_the_same_settings(by_darkness: None, tmp_path: Path) -> None:
    root, out = tmp_path / "study", tmp_path / "out"
    for number in (1, 2):
        save(photograph(lesions(number), number=number), root / f"{number}.dcm")
    first = predict_dicom([root], out)
    before = contents(out)
    again = predict_dicom([root], out, resume=True)
    assert (again.skipped, len(again.rows), contents(out)) == (3, 3, before)
    (out / first.rows[0]["seg"]).unlink()
    assert predict_dicom([root], out, resume=True).skipped == 2
    assert predict_dicom([root], out, resume=True, fractional=True).skipped == 0
    assert predict_dicom([root], out, resume=True, fractional=True, include_identifiers=True).skipped == 0
    save(photograph(number=1, PatientID="changed"), root / "1.dcm")
    assert predict_dicom([root], out, resume=True, fractional=True, include_identifiers=True).skipped == 2


def test_an_object_that_changes_once_it_was_read_is_done_again(
    by_darkness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "a.dcm", tmp_path / "out"
    save(photograph(), path)

    def change(name: Path) -> DicomObject:
        opened = open_object(name)
        save(photograph(PatientID="changed"), path)
        return opened

    with monkeypatch.context() as patch:
        patch.setattr("segmae.dicom.predict.open_object", change)
        predict_dicom(path, out)
    assert predict_dicom(path, out, resume=True).skipped == 0
    assert predict_dicom(path, out, resume=True).skipped == 1


def test_an_object_that_failed_in_between_leaves_no_file_of_the_model_before(
    by_darkness: None, tmp_path: Path
) -> None:
    path, out = tmp_path / "study" / "a.dcm", tmp_path / "out"
    save(photograph(lesions(2)), path)
    good = path.read_bytes()
    assert predict_dicom(path, out).notes == []
    for _ in range(2):
        path.write_bytes(good[: len(good) // 2])
        done = predict_dicom(path, out)
        assert done.notes == [f"{path}: its results in {out} are of an earlier call"] and done.failures
    path.write_bytes(good)
    for row in predict_dicom(path, out, formats=["mask"], keep_largest=True).rows:
        assert (out / row["mask"]).exists() and not (out / f"{row['name']}_overlay.png").exists()
    assert len(rows_of(out)) == 2


def test_a_call_that_was_killed_leaves_no_object_under_the_row_of_another(
    by_darkness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    save(photograph(), tmp_path / "study" / "a.dcm")
    (row,) = predict_dicom(tmp_path / "study", tmp_path / "out").rows
    with monkeypatch.context() as patch:
        patch.setattr("segmae.dicom.predict.merged", kill)
        with pytest.raises(KeyboardInterrupt):
            predict_dicom(tmp_path / "study", tmp_path / "out", fractional=True)
    assert pydicom.dcmread(tmp_path / "out" / row["seg"]).SegmentationType == "FRACTIONAL"
    assert predict_dicom(tmp_path / "study", tmp_path / "out", resume=True).skipped == 0
    assert pydicom.dcmread(tmp_path / "out" / row["seg"]).SegmentationType == "BINARY"


def test_a_row_keeps_its_files_where_the_object_is_named_in_another_way(
    by_darkness: None, tmp_path: Path
) -> None:
    path, out = save(photograph(), tmp_path / "study" / "a.dcm"), tmp_path / "out"
    other = out / ".." / "study"
    predict_dicom([tmp_path / "study"], out, formats=["overlay"])
    (row,) = predict_dicom([other], out, formats=["mask"]).rows
    assert (out / row["overlay"]).exists() and (out / row["mask"]).exists()
    assert predict_dicom([tmp_path / "study"], out, formats=["mask"], resume=True).skipped == 1
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    for study in (tmp_path / "study", other):
        assert len(predict_dicom([study], out).notes) == 1, "results of an earlier call are still there"
    path.write_bytes(good)
    predict_dicom([tmp_path / "study"], out)
    assert ["error" in row for row in rows_of(out)] == [False]


def test_nothing_to_segment_is_an_error(by_darkness: None, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "a.txt").write_text("text")
    with pytest.raises(DataError, match="has no name: is a variable empty"):
        predict_dicom([tmp_path / "study"], "")
    with pytest.raises(DataError, match=r"a\.txt is no DICOM object.*Name DICOM files"):
        predict_dicom([tmp_path / "study"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_model
def test_the_command_line_segments_a_study(tmp_path: Path) -> None:
    root, out = write_study(tmp_path / "study"), tmp_path / "out"
    (root / "broken").write_bytes((root / "IM0001").read_bytes()[:-500])
    command = [sys.executable, "-m", "segmae", "predict", root, "-o", out]
    done = subprocess.run([*command, "--fractional"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "4 segmented, 1 failed" in done.stdout and "broken: is truncated" in done.stderr
    assert "passed over: 1 x 'is a segmentation already': " in done.stderr and "Traceback" not in done.stderr
    segmented = next(row for row in rows_of(out) if "seg" in row)  # files come in the order of the system
    assert pydicom.dcmread(out / segmented["seg"]).SegmentationType == "FRACTIONAL"


# -- what cannot be read


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


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_object_is_named_with_what_is_wrong_and_a_remedy(tmp_path: Path, fault: str) -> None:
    break_it, message = BROKEN[fault]
    ds = photograph()
    break_it(ds)
    path = save(ds, tmp_path / "broken.dcm")
    with pytest.raises(ImageError, match=message) as raised:
        list(read_frames(path))
    assert str(raised.value).startswith(f"{path}: ") and str(raised.value).count(". ") >= 1
    assert raised.value.__cause__ is None and raised.value.__context__ is None


@pytest.mark.parametrize("way", [*EXACT, "jpeg"])
def test_a_truncated_file_is_named(tmp_path: Path, way: str) -> None:
    ds = photograph()
    EXACT[way](ds) if way in EXACT else jpeg(ds, lesions())
    data = save(ds, tmp_path / "a.dcm").read_bytes()
    # of 8 bytes, as the last 8 of compressed pixels are an end mark that a decoder can do without
    for length in (0, 100, 132, 140, 200, 400, 700, len(data) // 2, len(data) - 100, len(data) - 8):
        (tmp_path / "a.dcm").write_bytes(data[:length])
        with pytest.raises(ImageError, match=r"a\.dcm: (is|has|holds|its|cannot) .*\. "):
            list(read_frames(tmp_path / "a.dcm"))


def test_a_deflated_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = photograph()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(ds, tmp_path / "bomb.dcm")
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    inflated = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(inflated) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64))
    path.write_bytes(whole[:start] + bomb + packer.flush())
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(segmae.dicom.read, "MAX_INFLATED", 8 << 20)
    with pytest.raises(ImageError, match=r"bomb\.dcm: unpacks to more than 8 MB\. Export it without deflate"):
        open_object(path)


def test_what_is_no_object_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(ONE)
    for path, message in (
        (tmp_path / "a.jpg", "is a photograph outside DICOM. Segment it in a call of its own"),
        (tmp_path / "gone", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / ("x" * 300), "x: "),
        (Path(os.devnull), "is no regular file"),
    ):
        with pytest.raises(ImageError, match=message):
            open_object(path)


def test_the_extra_is_named_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(photograph(), tmp_path / "a.dcm")
    for name in ("pydicom", "highdicom"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(MissingExtra, match=rf"{name} is not installed.*\.\[dicom\]"):
                segment(path, tmp_path / "seg.dcm", darkness())
            with pytest.raises(MissingExtra):
                predict_dicom([path], tmp_path / "out")


# -- privacy


def with_canary(path: Path, break_it: Callable[[Dataset], Any] = lambda ds: None) -> Path:
    """An object with a canary in every kind of tag that says something of a person, also where it is malformed."""
    ds = photograph()
    for keyword in (
        "PatientName", "PatientID", "AccessionNumber", "StudyID", "InstitutionName", "ReferringPhysicianName",
        "StudyDescription", "SeriesDescription", "ImageComments", "PatientComments", "OperatorsName",
        "OtherPatientIDs", "PatientAddress", "StationName", "DeviceSerialNumber", "Manufacturer", "ProtocolName",
    ):  # fmt: skip
        setattr(ds, keyword, CANARY)
    ds.private_block(0x0011, "SOMEONE", create=True).add_new(1, "LO", CANARY)
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "1", "99X", CANARY
    ds.AnatomicRegionSequence = [region]
    ds.PatientWeight, ds.PatientSize, ds.StudyTime = "1" * 12, "2" * 12, "101112.13141"
    break_it(ds)
    data = save(ds, path).read_bytes()
    for value in ("1" * 12, "2" * 12, "101112.13141"):
        data = data.replace(value.encode(), CANARY.encode())
    data = data.replace(b"19500607", CANARY[:8].encode())
    path.write_bytes(data)
    return path


def everything_said(error: BaseException | None) -> str:
    """An error as the most talkative logger would write it, with all that hangs on it."""
    said = []
    while error is not None:
        said += ["".join(traceback.format_exception(error, chain=True)), repr(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    return "\n".join(said)


CANARY_BREAKS: dict[str, Callable[[Dataset], Any]] = {
    "sound": lambda ds: None,
    **{name: break_it for name, (break_it, _) in BROKEN.items()},
    "spacing": lie(PixelSpacing=["1" * 12, "2" * 12]),
    "character set": lie(SpecificCharacterSet="ISO_IR 999"),
}


@pytest.mark.parametrize("fault", CANARY_BREAKS)
def test_no_value_of_a_tag_gets_out(
    by_darkness: None,
    tmp_path: Path,
    fault: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = with_canary(tmp_path / "a.dcm", CANARY_BREAKS[fault])
    assert CANARY.encode() in path.read_bytes()
    caplog.set_level(logging.DEBUG)
    pydicom.config.debug(True)
    said = []
    capfd.readouterr()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            done = predict_dicom([path], tmp_path / "out", formats=FORMATS)
            for call in (
                lambda: list(read_frames(path)),
                lambda: segment(path, tmp_path / "seg.dcm", darkness()),
                lambda: said.append(repr(open_object(path))),
                lambda: walk([tmp_path]),
            ):
                try:
                    call()
                except SegmaeError as error:
                    said.append(everything_said(error))
    finally:
        pydicom.config.debug(False)
    assert len(done.rows) + len(done.failures) == 1
    assert (fault in ("sound", "spacing", "character set")) or done.failures
    said += [str(warning.message) for warning in warned] + [record.getMessage() for record in caplog.records]
    said += [json.dumps([done.rows, done.failures, done.passed_over]), *capfd.readouterr()]
    said += [file.name for file in (tmp_path / "out").iterdir()]
    for file in (tmp_path / "out").iterdir():
        if file.suffix != ".dcm":
            said.append(file.read_bytes().decode("latin-1"))
    for text in said:
        assert CANARY[:8] not in text
        assert fault != "sound" or uid(1001) not in text
    if done.rows:
        assert (
            CANARY.encode() in (tmp_path / "out" / done.rows[0]["seg"]).read_bytes()
        )  # the patient's own record


def test_a_truncated_object_with_a_canary_says_nothing(tmp_path: Path) -> None:
    path = with_canary(tmp_path / "a.dcm")
    data = path.read_bytes()
    for length in range(133, 1400, 7):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError) as raised:
            open_object(path)
        assert CANARY[:8] not in everything_said(raised.value)


@needs_model
def test_the_command_line_says_nothing_either(tmp_path: Path) -> None:
    for name in ("sound", "spacing", "truncated pixels", "no instance uid"):
        with_canary(tmp_path / "study" / f"{name}.dcm", CANARY_BREAKS[name])
    command = ["-W", "always", "-m", "segmae", "predict", "study", "-o", "out", "--json"]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    for text in (done.stdout, done.stderr, (tmp_path / "out" / "results.jsonl").read_text()):
        assert text and CANARY[:8] not in text and uid(1001) not in text


def test_identifiers_are_in_the_rows_when_asked_for(by_darkness: None, tmp_path: Path) -> None:
    path = save(photograph(), tmp_path / "a.dcm")
    assert "identifiers" not in predict_dicom([path], tmp_path / "out").rows[0]
    predict_dicom([path], tmp_path / "out", include_identifiers=True)
    (row,) = rows_of(tmp_path / "out")
    assert row["identifiers"]["PatientName"] == "Müller^Ånne"
    assert row["identifiers"]["SOPInstanceUID"] == uid(1001)
    predict_dicom([path], tmp_path / "out")
    assert "Müller" not in (tmp_path / "out" / "results.jsonl").read_text()


def test_loggers_and_warnings_are_as_before_afterwards(tmp_path: Path) -> None:
    path = save(photograph(), tmp_path / "a.dcm")
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers], list(warnings.filters)
    segment(path, tmp_path / "seg.dcm", darkness())
    assert ([logger.level for logger in loggers], list(warnings.filters)) == before


# -- fuzzing


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


VALID = valid_objects()


@settings(max_examples=300, deadline=20_000, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_is_changed_only_errors_for_users_come_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(132, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "fuzzed.dcm"
    path.write_bytes(content)
    try:
        walk([path.parent / "fuzzed.dcm"])
        opened = open_object(path)
        frames = [opened.frame(number)[0] for number in range(1, opened.count + 1)]
        assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)
        masks = np.zeros((opened.count, opened.height, opened.width), bool)
        write_segmentation(opened, masks, path.with_name("fuzzed_seg.dcm"), MADE_BY)
    except ImageError as error:
        assert str(error).startswith(f"{path}: ")
