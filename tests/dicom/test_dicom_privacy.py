"""No value of a tag gets out: in errors, warnings, logs, results and what is printed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkness import rows_of
from dicom_objects import BROKEN, darkness, lie, needs_model, photograph, save, uid
from segmae.dicom import open_object, predict_dicom, read_frames, segment, walk
from segmae.errors import ImageError, SegmaeError
from segmae.outputs import FORMATS

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset  # noqa: E402

CANARY = "ZQXCANARYQXZ"


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
