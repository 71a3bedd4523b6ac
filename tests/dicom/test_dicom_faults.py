"""Objects that cannot be read: each is named with what is wrong and a remedy, whatever was changed in it."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segmae.dicom.read
from dicom_objects import (
    BROKEN,
    EXACT,
    MADE_BY,
    ONE,
    darkness,
    jpeg,
    lesions,
    photograph,
    save,
    valid_objects,
)
from segmae.dicom import open_object, predict_dicom, read_frames, segment, walk, write_segmentation
from segmae.errors import ImageError, MissingExtra

pytest.importorskip("pydicom")

from pydicom.uid import DeflatedExplicitVRLittleEndian


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
