"""DICOM in and out: every way of storing pixels that is claimed, SEG objects read back, studies, broken files, privacy."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segmae.dicom
import segmae.dicom.read
from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.data.phantom import draw_lesion
from segmae.dicom import Algorithm, open_object, read_frames, segment, write_segmentation
from segmae.errors import ImageError, OutputError
from segmae.predict import Predictor

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
    return Predictor(info, Darkness(), "0123456789abcdef")


@pytest.fixture
def by_darkness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmae.dicom.study.load", lambda *a: darkness())


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
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if ds.file_meta.TransferSyntaxUID.is_compressed and "PixelData" in ds:
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    return path


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
    for useless in (None, ["0", "0"], ["-1", "1"], "1"):
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
    (tmp_path / "link.dcm").symlink_to(path)
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


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_dciodvfy_finds_no_fault(tmp_path: Path, count: int, fractional: bool) -> None:
    path = save(photograph(lesions(count)), tmp_path / "a.dcm")
    written = segment(path, tmp_path / "seg.dcm", darkness(), fractional=fractional)
    done = subprocess.run(["dciodvfy", "-new", written], capture_output=True, text=True, timeout=60)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # The standard has no photographs of several frames, so it has no words for a reference to one of them
    known = "Shall not be present for Referenced SOP Class that is not multi-frame"
    found = [line for line in lines if line != "Segmentation" and not (count > 1 and known in line)]
    assert found == []
    assert "Segmentation" in lines
