"""`segmae data check`: each fault made for real, alone, and found alone, with its file and the remedy."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from links import link
from segmae import background
from segmae.data import check as module
from segmae.data.catalog import open_dataset
from segmae.data.check import COLUMNS, Finding, Report, check
from segmae.data.phantom import draw_lesion, write_dataset
from segmae.data.splits import Split, load_split, save_split
from segmae.errors import DataError

SIZE = (48, 36)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn") / "lesions", 4, size=SIZE)


@pytest.fixture
def lesions(drawn: Path, tmp_path: Path) -> Path:
    """Four drawn lesions, drawn_0000 to drawn_0003, that a test may break."""
    return Path(shutil.copytree(drawn, tmp_path / "lesions"))


def image(folder: Path, number: int = 1) -> Path:
    return folder / "images" / f"drawn_{number:04}.jpg"


def mask(folder: Path, number: int = 1) -> Path:
    return folder / "masks" / f"drawn_{number:04}.png"


def save(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path)


def kinds(report: Report) -> dict[str, int]:
    return {finding.kind: len(finding.items) for finding in report.findings}


def the_finding(report: Report, kind: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.kind == kind]
    return found


def split(path: Path, **parts: str) -> Path:
    """Parts as ids of drawn lesions: train="0 1" and so on."""
    ids = {part: tuple(f"drawn_000{number}" for number in text.split()) for part, text in parts.items()}
    return save_split(Split("own", "", ids, ""), path)


def test_good_data_has_no_findings(lesions: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check([lesions], workers=1, progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert report.findings == ()
    assert report.datasets == ({"name": "lesions", "folder": str(lesions), "images": 4, "masks": 4},)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


# One file each


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def promise_too_much(path: Path) -> None:
    """A PNG file whose header promises 100 000 x 100 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    )


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    link(path, path.parent / "moved" / path.name)


BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "copy or download it again"),
    "zero bytes": (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\). Copy or download it again"),
    "text": (
        lambda path: path.write_text("no picture"),
        "is not an image that can be read. Give a JPEG, PNG",
    ),
    "absurd size": (promise_too_much, "Scale it below 170 megapixels"),
    "link to nowhere": (link_to_nowhere, "which is absent. Mend or remove the link"),
}


@pytest.mark.parametrize("fault", BREAK)
@pytest.mark.parametrize("of", ["image", "mask"])
def test_a_broken_file_is_an_error_that_names_it_and_the_remedy(lesions: Path, fault: str, of: str) -> None:
    path = image(lesions) if of == "image" else mask(lesions)
    breaks, remedy = BREAK[fault]
    breaks(path)
    report = check([lesions], workers=1)
    assert not report.ok
    assert kinds(report) == {f"unreadable {of}": 1}
    finding = report.findings[0]
    assert (finding.severity, finding.where) == ("error", "lesions")
    assert "Copy or download them again" in finding.message
    assert finding.items[0]["id"] == "drawn_0001"
    assert finding.items[0]["file"] == str(path)
    with pytest.raises(AssertionError, match=remedy):
        raise AssertionError(finding.items[0]["problem"])
    assert str(path) in report.rows()[0][4], "the table shows the file as well"


def test_an_image_and_its_mask_may_both_be_broken(lesions: Path) -> None:
    truncate(image(lesions))
    truncate(mask(lesions))
    assert kinds(check([lesions], workers=1)) == {"unreadable image": 1, "unreadable mask": 1}


GREY, MASK = np.asarray(Image.fromarray(draw_lesion(1, SIZE)[0]).convert("L")), draw_lesion(1, SIZE)[1]


@pytest.mark.parametrize(
    ("values", "kind", "severity", "problem"),
    [
        (MASK[:, :-1] * 255, "mask of another size", "error", "47 x 36 px, its image 48 x 36"),
        (MASK.T * 255, "mask of another size", "error", "36 x 48 px, its image 48 x 36"),
        (GREY, "mask not two-valued", "error", "instead of 0 and 255"),
        (draw_lesion(1, SIZE)[0], "mask not two-valued", "error", "is a colour picture"),
        (MASK * 0, "empty mask", "warning", "no lesion"),
        (MASK * 0 + 255, "full mask", "warning", "all lesion"),
        (255 - MASK * 255, "inverted mask", "warning", "lesion in all four corners"),
    ],
    ids=["smaller", "turned", "grey", "colour", "empty", "full", "inverted"],
)
def test_a_mask_that_is_none_is_named_with_the_remedy(
    lesions: Path, values: np.ndarray, kind: str, severity: str, problem: str
) -> None:
    save(mask(lesions), values)
    report = check([lesions], workers=1)
    assert kinds(report) == {kind: 1}
    assert report.ok == (severity == "warning")
    finding = report.findings[0]
    assert finding.severity == severity
    assert finding.items[0]["file"] == str(mask(lesions))
    assert str(mask(lesions)) in finding.items[0]["problem"]
    assert problem in finding.items[0]["problem"]
    remedies = ("Export each mask", "Write masks with 0", "Take them out unless", "exchange 0 and 255")
    assert any(remedy in finding.message for remedy in remedies)


def test_of_many_masks_a_few_with_lesion_in_all_corners_are_not_told(
    lesions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmae.data.check.INVERTED", 0.3)
    save(mask(lesions), 255 - MASK * 255)
    assert kinds(check([lesions], workers=1)) == {}
    for number in (2, 3):
        mask(lesions, number).unlink()
    found = kinds(check([lesions], workers=1))
    assert found == {"inverted mask": 1, "missing mask": 2}, "half of the masks, whatever has none"


def test_missing_and_orphaned_masks(lesions: Path) -> None:
    mask(lesions, 2).rename(lesions / "masks" / "drown_0002.png")
    report = check([lesions], workers=1)
    assert kinds(report) == {"missing mask": 1, "orphaned mask": 1}
    missing, orphan = report.findings
    assert (missing.severity, orphan.severity) == ("error", "warning")
    assert missing.items == ({"id": "drawn_0002", "file": str(image(lesions, 2))},)
    assert orphan.items == ({"file": str(lesions / "masks" / "drown_0002.png")},)
    assert "Add the masks, or take the images out" in missing.message
    assert "Rename or remove them" in orphan.message


def test_images_without_any_masks_are_no_error(lesions: Path) -> None:
    shutil.rmtree(lesions / "masks")
    report = check([lesions], workers=1)
    assert report.ok
    assert kinds(report) == {"no masks": 4}
    assert "stage 1" in report.findings[0].message


def test_superpixels_and_stray_files_are_notes(lesions: Path) -> None:
    shutil.copy(mask(lesions), lesions / "images" / "drawn_0001_superpixels.png")
    (lesions / "images" / "scan.heic").write_bytes(b"heic")
    (lesions / "masks" / "folder.png").mkdir()
    report = check([lesions], workers=1)
    assert report.ok
    assert kinds(report) == {"superpixel file": 1, "stray file": 2}
    assert {finding.severity for finding in report.findings} == {"note"}
    assert {Path(item["file"]).name for item in the_finding(report, "stray file").items} == {
        "scan.heic",
        "folder.png",
    }
    assert "save them as JPEG, PNG" in the_finding(report, "stray file").message


# Copies


def test_exact_copies(lesions: Path) -> None:
    for number in (7, 8):
        shutil.copy(image(lesions), image(lesions, number))
        shutil.copy(mask(lesions), mask(lesions, number))
    report = check([lesions], workers=1)
    assert kinds(report) == {"exact duplicate": 2}
    finding = report.findings[0]
    assert [item["ids"] for item in finding.items] == [
        ["drawn_0001", f"drawn_000{number}"] for number in (7, 8)
    ]
    assert finding.items[0]["files"] == [str(image(lesions)), str(image(lesions, 7))]
    assert "Keep them in one part of a split" in finding.message
    assert "drawn_0001 and drawn_0007" in report.rows()[0][4]


def test_near_copies(lesions: Path) -> None:
    Image.open(image(lesions)).save(image(lesions, 8), quality=60)
    shutil.copy(mask(lesions), mask(lesions, 8))
    report = check([lesions], workers=1)
    assert kinds(report) == {"near duplicate": 1}
    assert report.findings[0].items[0]["ids"] == ["drawn_0001", "drawn_0008"]
    assert report.findings[0].items[0]["correlation"] > 0.8


def test_images_of_one_lesion_are_known_to_be_alike(lesions: Path) -> None:
    shutil.copy(image(lesions), image(lesions, 8))
    shutil.copy(mask(lesions), mask(lesions, 8))
    (lesions / "metadata.csv").write_text("image_id,lesion_id\ndrawn_0001,a\ndrawn_0008,a\n")
    assert check([lesions], workers=1).findings == ()


def test_pictures_of_one_shade_are_no_copies_of_each_other(lesions: Path) -> None:
    for number, shade in ((0, 90), (1, 120)):
        save(image(lesions, number), np.full((36, 48, 3), shade, np.uint8))
    assert check([lesions], workers=1).findings == ()


def test_copies_in_another_dataset_under_other_names(lesions: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "others", 3, size=SIZE, seed=50)
    shutil.copy(image(lesions, 0), tmp_path / "others" / "images" / "renamed.jpg")
    shutil.copy(mask(lesions, 0), tmp_path / "others" / "masks" / "renamed.png")
    report = check([lesions, tmp_path / "others"], workers=1)
    duplicate = the_finding(report, "exact duplicate")
    assert duplicate.where == "lesions + others"
    assert duplicate.items[0]["ids"] == ["drawn_0000", "renamed"]
    assert "Judge no model on one that saw the other" in duplicate.message
    shared = the_finding(report, "shared ids")
    assert [item["id"] for item in shared.items] == ["drawn_0000", "drawn_0001", "drawn_0002"]
    assert "unless the names only coincide" in shared.message


# Splits


def test_an_id_in_two_parts_is_an_error(lesions: Path, tmp_path: Path) -> None:
    own = split(tmp_path / "own.csv", train="0 1", val="2", test="1 3")
    report = check([lesions], [own], workers=1)
    assert not report.ok
    finding = the_finding(report, "ids in two parts")
    assert (finding.where, finding.items) == (str(own), ({"id": "drawn_0001"},))


def test_a_good_split_has_no_findings(lesions: Path, tmp_path: Path) -> None:
    assert (
        check([lesions], [split(tmp_path / "own.csv", train="0 1", val="2", test="3")], workers=1).findings
        == ()
    )


def test_a_lesion_in_two_parts_is_an_error(lesions: Path, tmp_path: Path) -> None:
    (lesions / "metadata.csv").write_text("image_id,patient_id\ndrawn_0001,p\ndrawn_0003,p\n")
    report = check([lesions], [split(tmp_path / "own.csv", train="0 1", val="2", test="3")], workers=1)
    assert not report.ok
    assert the_finding(report, "group in two parts").items == ({"group": "p"},)


def test_a_copy_in_two_parts_is_a_warning(lesions: Path, tmp_path: Path) -> None:
    shutil.copy(image(lesions, 0), image(lesions, 3))
    report = check([lesions], [split(tmp_path / "own.csv", train="0 1", val="2", test="3")], workers=1)
    finding = the_finding(report, "copy in two parts")
    assert finding.items == ({"ids": ["drawn_0000", "drawn_0003"], "parts": ["train", "test"]},)
    together = check([lesions], [split(tmp_path / "own.csv", train="0 3", val="2", test="1")], workers=1)
    assert "copy in two parts" not in kinds(together)


def test_cases_that_a_split_names_and_the_folder_lacks(lesions: Path, tmp_path: Path) -> None:
    report = check([lesions], [split(tmp_path / "own.csv", train="0 1", test="2 8")], workers=1)
    assert the_finding(report, "absent case").items == ({"id": "drawn_0008"},)


def test_a_split_of_another_dataset_is_an_error(lesions: Path, tmp_path: Path) -> None:
    report = check([lesions], [split(tmp_path / "own.csv", train="7", test="8 9")], workers=1)
    assert not report.ok
    assert kinds(report) == {"split of another dataset": 3}


def test_a_file_that_is_no_split_is_refused(lesions: Path) -> None:
    with pytest.raises(DataError, match=r"drawn_0001\.jpg: no list of a split"):
        check([lesions], [image(lesions)], workers=1)


# Folders


def test_an_unusable_folder_does_not_keep_others_from_being_checked(lesions: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(lesions, tmp_path / "bad"))
    (bad / "metadata.csv").write_text("name,dx\ndrawn_0000,mel\n")
    report = check([bad, lesions], workers=1)
    assert not report.ok
    assert [dataset["name"] for dataset in report.datasets] == ["lesions"]
    finding = the_finding(report, "unusable folder")
    assert finding.where == str(bad)
    assert "no column is named" in finding.items[0]["problem"]


def test_two_files_of_one_id_are_listed_with_the_rest(lesions: Path) -> None:
    shutil.copy(image(lesions), lesions / "images" / "drawn_0001.jpeg")
    shutil.copy(mask(lesions, 2), lesions / "masks" / "drawn_0002_mask.png")
    truncate(image(lesions, 3))
    report = check([lesions], workers=1)
    assert not report.ok
    assert kinds(report) == {"two files of one id": 2, "unreadable image": 1}
    one, two = the_finding(report, "two files of one id").items
    assert "two images with the id 'drawn_0001'. Rename one" in one["problem"]
    assert (two["id"], two["file"]) == ("drawn_0002_mask", str(lesions / "masks" / "drawn_0002_mask.png"))
    assert "two masks for 'drawn_0002'" in two["problem"]
    assert open_problem(lesions) == one["problem"], "elsewhere it is refused"


def open_problem(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (
            "image,person\ndrawn_0000,anna\n",
            "says of no image which lesion or patient it shows. Name that column patient_id,",
        ),
        (
            "image,patient\nscan0,anna\nscan1,bo\n",
            "none of its 2 ids is the name of an image here, e.g. 'scan0' and drawn_0000.jpg",
        ),
        (
            "image,patient\n0000,anna\ndrawn_0001,anna\n",
            "has no row of 3 of the images, e.g. drawn_0000.jpg, but rows of 1 that are not here, e.g. '0000'",
        ),
    ],
    ids=["columns", "ids", "some ids"],
)
def test_metadata_that_helps_nobody_is_said(lesions: Path, table: str, problem: str) -> None:
    (lesions / "metadata.csv").write_text(table)
    report = check([lesions], workers=1)
    assert kinds(report) == {"unused metadata": 1} and report.ok
    assert report.findings[0].severity == "warning"
    assert report.findings[0].items[0]["file"] == str(lesions / "metadata.csv")
    assert problem in report.findings[0].items[0]["problem"]


def test_nothing_to_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        check([tmp_path / "absent"])
    with pytest.raises(DataError, match="no dataset recognised"):
        check([tmp_path])
    with pytest.raises(DataError, match="Name at least one dataset"):
        check([])


def test_what_a_list_has_shown_of_two_datasets_is_not_told_again(drawn: Path) -> None:
    cases = open_dataset(drawn)
    two = [replace(cases, name=name) for name in ("isic2017", "isic2018")]
    (found,) = module._shared_between(two, ["a", "b"], set())
    assert (found.kind, found.where, len(found.items)) == ("shared ids", "a + b", 4)
    assert not list(module._shared_between(two, ["a", "b"], {"isic2018"}))


def test_two_datasets_of_one_name_are_told_apart_by_their_folders(drawn: Path, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        shutil.copytree(drawn, tmp_path / parent / "lesions")
    report = check([tmp_path / "a" / "lesions", tmp_path / "b" / "lesions"], workers=1)
    assert [dataset["name"] for dataset in report.datasets] == [
        str(tmp_path / p / "lesions") for p in ("a", "b")
    ]
    assert kinds(report) == {"exact duplicate": 4, "shared ids": 4}


# The report


def test_errors_come_first_and_the_whole_is_json(lesions: Path) -> None:
    save(mask(lesions, 0), MASK * 0)
    truncate(image(lesions, 2))
    (lesions / "images" / "scan.heic").write_bytes(b"heic")
    report = check([lesions], workers=1)
    assert [finding.severity for finding in report.findings] == ["error", "warning", "note"]
    assert [len(row) for row in report.rows()] == [len(COLUMNS)] * 3
    assert report.rows()[0][:4] == ("error", "unreadable image", "lesions", "1")
    found = json.loads(json.dumps(report.to_dict()))
    assert found["ok"] is False
    assert [(finding["kind"], finding["count"]) for finding in found["findings"]] == list(
        kinds(report).items()
    )


def test_many_processes_find_the_same(tmp_path: Path) -> None:
    write_dataset(tmp_path / "many", background.FEW + 2, size=(16, 16))
    truncate(image(tmp_path / "many", 5))
    save(mask(tmp_path / "many", 60), np.zeros((16, 16), np.uint8))
    assert check([tmp_path / "many"], workers=2) == check([tmp_path / "many"], workers=1)


# Real data


def test_isic2018_shares_529_1800_and_121_images_with_isic2017(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_inspect", lambda case: module._Facts())  # the ids tell it without decoding
    report = check([real_data / "isic2018"], workers=1)
    shared = {f.message.split("'s ")[1].split()[0]: f for f in report.findings if f.kind == "shared ids"}
    assert {part: len(finding.items) for part, finding in shared.items()} == {
        "train": 1800,
        "val": 121,
        "test": 529,
    }
    official = load_split("isic2017/official")
    for part, finding in shared.items():
        assert finding.where == "isic2018"
        assert f"{len(finding.items)} of its ids are in isic2017/official's {part} part" in finding.message
        assert {item["id"] for item in finding.items} <= set(official.parts[part])
    assert report.ok, "whole datasets side by side are no error before something is trained"


def test_ph2_is_sound_and_shares_nothing(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_inspect", lambda case: module._Facts())
    assert check([real_data / "ph2"], workers=1).findings == ()


def test_real_photographs_are_sound_and_the_known_copies_among_them_are_found(
    real_data: Path, tmp_path: Path
) -> None:
    """ISIC2017 has one file under two ids and some lesions twice, on both sides of its official division."""
    copies = {"ISIC_0012175": "ISIC_0015982", "ISIC_0012887": "ISIC_0012989"}
    cases = {case.id: case for case in open_dataset(real_data / "isic2017").cases}
    for name in [*copies, *copies.values(), *list(cases)[:40:4]]:
        for path in (cases[name].image, cases[name].mask):
            assert path is not None
            place = tmp_path / path.relative_to(real_data / "isic2017")
            place.parent.mkdir(exist_ok=True)
            shutil.copy(path, place)
    report = check([tmp_path], workers=1)
    assert report.ok
    assert not [finding for finding in report.findings if "mask" in finding.kind]
    assert the_finding(report, "exact duplicate").items[0]["ids"] == ["ISIC_0012175", "ISIC_0015982"]
    assert [item["ids"] for item in the_finding(report, "near duplicate").items] == [
        ["ISIC_0012887", "ISIC_0012989"]
    ]
    apart = the_finding(report, "copy in two parts")
    assert (apart.where, len(apart.items)) == ("isic2017/official", 2)
    assert all(item["parts"] == ["train", "test"] for item in apart.items)
