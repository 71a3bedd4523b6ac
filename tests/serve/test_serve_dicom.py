"""DICOM through the service: masks of its frames, SEG objects, and nothing of the patient anywhere else."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from typing import Any

import numpy as np
import pytest
from serving import Running, opened

import segmae
from segmae.data.phantom import draw_lesion

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
hd = pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian  # noqa: E402

SECRET = "Doe^Jane"


def photograph(frames: np.ndarray, **tags: Any) -> bytes:
    """A Dermoscopic Photography object, uncompressed, of frames uint8 [F,H,W,3]."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.7", "2.25.1001"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.1", "2.25.2", "2.25.3"
    ds.PositionReferenceIndicator, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "", "XC", 3, 1
    ds.ImageType, ds.LossyImageCompression = ["ORIGINAL", "PRIMARY"], "00"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = SECRET, "Patient-4711", "19700101", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "120000", "S1", "A1"
    ds.ReferringPhysicianName = "Roe^Richard"
    ds.PixelSpacing = ["0.02", "0.03"]
    ds.NumberOfFrames, ds.Rows, ds.Columns = len(frames), *frames.shape[1:3]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = frames.tobytes()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lesions(count: int) -> np.ndarray:
    return np.stack([draw_lesion(seed, (120, 80))[0] for seed in range(count)])


def test_a_dicom_photograph_gives_the_mask_of_its_pixels(
    running: Running, predictor: segmae.Predictor
) -> None:
    frames = lesions(2)
    data = photograph(frames)
    found = running.client.segment(data, include="measurements")
    result = predictor(frames[0])
    assert (found["width"], found["height"], found["frames"]) == (120, 80, 2)
    assert found["measurements"]["mm_per_pixel"] == [0.03, 0.02]
    assert found["measurements"] == json.loads(json.dumps(result.measure((0.03, 0.02)).to_dict()))
    assert (opened(running.client.segment(data, output="mask")) == result.mask * 255).all()
    high = photograph(frames, PixelSpacing=None, PixelAspectRatio=["2", "1"])
    found = running.client.segment(high, include="measurements", mm_per_pixel=0.1)
    assert found["measurements"]["mm_per_pixel"] == [0.1, 0.2] and found["pixel_aspect"] == 2
    found = running.client.segment(data, include="measurements", mm_per_pixel=0.3)
    assert found["measurements"]["mm_per_pixel"] == pytest.approx([0.3, 0.2])
    mask = running.client.segment(data, output="mask")
    assert running.client.measure(data, mask, mm_per_pixel=0.3)["measurements"][
        "mm_per_pixel"
    ] == pytest.approx([0.3, 0.2])


def test_a_seg_object_holds_the_masks_of_all_frames(running: Running, predictor: segmae.Predictor) -> None:
    frames = lesions(3)
    answer = running.post("/v1/segment", {"image": [photograph(frames)]}, output="seg")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom")
    seg = pydicom.dcmread(io.BytesIO(answer.body))
    assert seg.PatientName == SECRET and seg.StudyInstanceUID == "2.25.1"
    masks = np.asarray(seg.pixel_array).reshape(3, 80, 120)
    for frame, mask in zip(frames, masks, strict=True):
        assert (mask == predictor(frame).mask).all()


def test_a_job_takes_dicom_too(running: Running, predictor: segmae.Predictor) -> None:
    import zipfile

    frames = lesions(1)
    status = running.client.wait(running.client.submit([photograph(frames)], formats="overlay,csv,html"))
    assert status["done"] == 1
    with zipfile.ZipFile(io.BytesIO(running.client.results(status))) as archive:
        mask = opened(archive.read("0001_mask.png"))
        assert SECRET.encode() not in (row := archive.read("results.jsonl"))
        (shown,) = re.findall(b'data:image/jpeg;base64,([^"]+)', archive.read("gallery.html"))
    assert json.loads(row)["measurements"]["mm_per_pixel"] == [0.03, 0.02]
    assert np.std(opened(base64.b64decode(shown))) > 5, "the photograph, not a grey place for it"
    assert (mask == predictor(frames[0]).mask * 255).all()


def test_nothing_of_the_patient_is_answered_or_logged(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segmae.serve"), "propagate", True)
    whole = photograph(lesions(1))
    with caplog.at_level(0):
        for data in (whole, whole[:-500], whole[:700], photograph(lesions(1), Rows=30), photograph(lesions(1), SOPClassUID="1.2.3")):  # fmt: skip
            answer = running.post("/v1/segment", {"image": [data]})
            assert answer.status == (200 if data == whole else 422)
            assert not any(word in answer.body for word in (b"Jane", b"Patient-4711", b"/proc"))
    assert "Jane" not in caplog.text and "Patient-4711" not in caplog.text


def test_frames_without_end_are_refused_before_they_are_computed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("segmae.serve.routes.SEG_PIXELS", 120 * 80)
    answer = running.post("/v1/segment", {"image": [photograph(lesions(2))]}, output="seg")
    assert answer.status == 422 and "Split it" in answer.json["error"]["message"]
