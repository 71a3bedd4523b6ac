"""SEG objects read back: their pixels, whose they are, and what names the algorithm."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segmae
from dicom_objects import CLINICAL, DERMOSCOPIC, MADE_BY, PATIENT, SIZE, darkness, lesions, photograph, save
from links import link
from segmae.data.phantom import draw_lesion
from segmae.dicom import open_object, segment, write_segmentation
from segmae.errors import OutputError

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")

from pydicom.dataset import Dataset  # noqa: E402

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678)


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
