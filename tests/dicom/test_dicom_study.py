"""Which files of a study are photographs, and why others are passed over."""

from __future__ import annotations

import sys
from pathlib import Path

from dicom_objects import write_study
from segmae.dicom import walk


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
