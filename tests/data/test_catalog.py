"""Folders as people have them: official archives, badly unpacked ones, their own, and what is wrong with each."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from links import link
from segmae.config import Preprocess
from segmae.data.catalog import Case, Dataset, find_data, open_dataset, open_datasets
from segmae.data.dataset import prepare
from segmae.data.phantom import write_dataset
from segmae.data.splits import load_split, make_split
from segmae.errors import DataError
from segmae.evaluate import evaluate
from segmae.photographs import photographs_among


def lay(root: Path, *names: str) -> Path:
    """Files of these names; what is in them is no matter of the catalog's."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def table(root: Path, text: str, name: str = "metadata.csv", encoding: str = "utf-8") -> Path:
    (root / name).write_text(text, encoding=encoding)
    return root


def pairs(dataset: Dataset) -> dict[str, str | None]:
    return {case.id: case.mask.name if case.mask else None for case in dataset.cases}


def the_case(dataset: Dataset) -> Case:
    (case,) = dataset.cases
    return case


# Official layouts


def test_isic2017_knows_the_part_of_every_case(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, 10, "isic2017", size=(32, 24)))
    assert dataset.name == "isic2017"
    assert [case.part for case in dataset.cases] == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    assert pairs(dataset) == {
        f"ISIC_{9000000 + i}": f"ISIC_{9000000 + i}_segmentation.png" for i in range(10)
    }


def test_isic2018_leaves_the_division_of_its_training_part_to_the_splits(tmp_path: Path) -> None:
    write_dataset(tmp_path, 2, "isic2018", size=(32, 24))
    lay(tmp_path, "ISIC2018_Task1-2_Validation_Input/ISIC_7.jpg", "ISIC2018_Task1-2_Test_Input/ISIC_8.jpg")
    dataset = open_dataset(tmp_path)
    assert dataset.name == "isic2018"
    parts = {case.id: case.part for case in dataset.cases}
    assert parts == {"ISIC_9000000": None, "ISIC_9000001": None, "ISIC_7": "val", "ISIC_8": "test"}
    assert [case.mask is None for case in dataset.cases] == [True, True, False, False]


def test_ph2_has_diagnoses_and_names_masks_whose_image_is_gone(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, "ph2", size=(32, 24))
    images = tmp_path / "PH2Dataset" / "PH2 Dataset images"
    (images / "IMD004" / "IMD004_Dermoscopic_Image" / "IMD004.bmp").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.name == "ph2"
    assert {case.id: case.label for case in dataset.cases} == {
        "IMD001": "common nevus",
        "IMD002": "atypical nevus",
        "IMD003": "melanoma",
    }
    assert [path.name for path in dataset.orphans] == ["IMD004_lesion.bmp"]
    assert open_dataset(tmp_path / "PH2Dataset").cases == dataset.cases, "the folder below serves as well"


HAM_ROWS = (
    "lesion_id,image_id,dx,dx_type\nHAM_1,ISIC_1,nv,histo\nHAM_1,ISIC_2,nv,histo\nHAM_2,ISIC_3,mel,histo\n"
)
HAM_MASKS = [f"ISIC_{i}_segmentation.png" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("HAM10000_images_part_1/ISIC_1 HAM10000_images_part_1/ISIC_2 HAM10000_images_part_2/ISIC_3",
         "HAM10000_segmentations_lesion_tschandl"),
        ("HAM10000_images_part_1/HAM10000_images_part_1/ISIC_1 HAM10000_images_part_1/HAM10000_images_part_1/ISIC_2 "
         "HAM10000_images_part_2/HAM10000_images_part_2/ISIC_3",
         "HAM10000_segmentations_lesion_tschandl/HAM10000_segmentations_lesion_tschandl"),
        ("images/ISIC_1 images/ISIC_2 images/ISIC_3", "masks"),
    ],
    ids=["as published", "unpacked too deep", "images and masks"],
)  # fmt: skip
def test_ham10000_knows_which_images_show_one_lesion(tmp_path: Path, images: str, masks: str) -> None:
    lay(tmp_path, *(f"{name}.jpg" for name in images.split()), *(f"{masks}/{name}" for name in HAM_MASKS))
    dataset = open_dataset(table(tmp_path, HAM_ROWS, "HAM10000_metadata.csv"))
    assert dataset.name == "ham10000"
    assert [(case.id, case.group, case.label) for case in dataset.cases] == [
        ("ISIC_1", "HAM_1", "nv"),
        ("ISIC_2", "HAM_1", "nv"),
        ("ISIC_3", "HAM_2", "mel"),
    ]
    assert list(pairs(dataset).values()) == HAM_MASKS


@pytest.mark.parametrize(
    ("folder", "name", "count"),
    [("isic2017", "isic2017", 2694), ("isic2018", "isic2018", 2594), ("ph2", "ph2", 200), ("ham10000", "ham10000", 2401)],
)  # fmt: skip
def test_the_real_datasets_are_recognised_in_full(
    real_data: Path, folder: str, name: str, count: int
) -> None:
    dataset = open_dataset(real_data / folder)
    assert (dataset.name, len(dataset.cases), dataset.strays, dataset.orphans) == (name, count, (), ())
    assert all(case.mask is not None for case in dataset.cases)
    assert all(case.label for case in dataset.cases) == (name in ("ph2", "ham10000"))
    if name == "ham10000":
        assert len({case.group for case in dataset.cases}) < count


# One's own images


@pytest.mark.parametrize("suffix", ["_segmentation", "_lesion", "_mask", "_MASK", "_Segmentation", ""])
@pytest.mark.parametrize("kind", ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "JPG", "Tiff"])
def test_masks_are_found_by_every_suffix_and_kind_of_file(tmp_path: Path, suffix: str, kind: str) -> None:
    lay(tmp_path, f"Images/a.{kind}", f"MASKS/a{suffix}.{kind}", f"MASKS/b{suffix}.{kind}")
    dataset = open_dataset(tmp_path)
    assert dataset.name == "folder"
    assert pairs(dataset) == {"a": f"a{suffix}.{kind}"}
    assert [path.stem for path in dataset.orphans] == [f"b{suffix}"]


def test_an_image_whose_own_name_ends_like_a_mask_keeps_its_mask(tmp_path: Path) -> None:
    lay(tmp_path, "images/left_lesion.jpg", "images/right_lesion.jpg")
    lay(tmp_path, "masks/left_lesion.png", "masks/right_lesion_mask.png")
    assert pairs(open_dataset(tmp_path)) == {
        "left_lesion": "left_lesion.png",
        "right_lesion": "right_lesion_mask.png",
    }


def test_names_that_macos_wrote_with_separate_accents_are_the_same_names(tmp_path: Path) -> None:
    composed, apart = "l\u00e4sion", "la\u0308sion"
    lay(tmp_path, f"images/{apart}.jpg", f"masks/{composed}_mask.png")
    table(tmp_path, f"image,lesion\n{composed},1\n")
    (case,) = open_dataset(tmp_path).cases
    assert (case.id, case.mask is not None, case.group) == (composed, True, "1")
    assert photographs_among([f"{apart}.jpg", f"{composed}_mask.png"]) == [f"{apart}.jpg"]
    split = tmp_path / "split.csv"
    split.write_text(f"id,part\n{apart},train\n", encoding="utf-8")
    assert open_dataset(tmp_path).select(load_split(split).parts["train"]) == (case,)


def test_a_plain_folder_may_hold_masks_beside_the_images(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", "a_mask.png", "b.jpg", "c_segmentation.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.name, pairs(dataset)) == ("folder", {"a": "a_mask.png", "b": None})
    assert [path.name for path in dataset.orphans] == ["c_segmentation.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["ISIC-2017_Training_Data/ISIC-2017_Training_Data/ISIC_1.jpg",
         "ISIC-2017_Training_Part1_GroundTruth/ISIC-2017_Training_Part1_GroundTruth/ISIC_1_segmentation.png"],
        ["isic2018_task1-2_training_input/ISIC_1.JPG", "ISIC2018_TASK1_TRAINING_GROUNDTRUTH/ISIC_1_SEGMENTATION.PNG"],
        ["download/ISIC2018_Task1-2_Training_Input/ISIC_1.jpg",
         "download/ISIC2018_Task1_Training_GroundTruth/ISIC_1_segmentation.png"],
        ["PH2Dataset/PH2Dataset/PH2 Dataset images/ISIC_1/ISIC_1_Dermoscopic_Image/ISIC_1.bmp",
         "PH2Dataset/PH2Dataset/PH2 Dataset images/ISIC_1/ISIC_1_lesion/ISIC_1_lesion.bmp"],
        ["ph2dataset/ph2 dataset images/ISIC_1/isic_1_dermoscopic_image/ISIC_1.BMP",
         "ph2dataset/ph2 dataset images/ISIC_1/isic_1_LESION/ISIC_1_lesion.BMP"],
        ["images/images/ISIC_1.jpg", "masks/masks/ISIC_1.png"],
        ["lesions/images/ISIC_1.jpg", "lesions/masks/ISIC_1.png"],
    ],
    ids=["2017 twice nested", "2018 letter case", "2018 in a folder", "PH2 twice nested", "PH2 letter case",
         "own twice nested", "own in a folder"],
)  # fmt: skip
def test_archives_unpacked_one_level_too_deep_or_in_other_letters(tmp_path: Path, names: list[str]) -> None:
    case = the_case(open_dataset(lay(tmp_path, *names)))
    assert case.id == "ISIC_1"
    assert case.mask == tmp_path / names[1]


def test_images_beside_a_folder_of_the_same_name_are_the_dataset(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.jpg", "images/images/old.jpg")
    assert list(pairs(open_dataset(tmp_path))) == ["a"]


def test_what_systems_and_archives_leave_behind_is_not_taken_for_images(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "images/a.jpg",
        "images/._a.jpg",
        "images/.hidden.heic",
        "images/Thumbs.db",
        "images/desktop.ini",
    )
    lay(
        tmp_path,
        "masks/a.png",
        "masks/._a.png",
        "masks/.DS_Store",
        "__MACOSX/images/._a.jpg",
        ".git/images/b.jpg",
    )
    dataset = open_dataset(tmp_path)
    assert pairs(dataset) == {"a": "a.png"}
    assert (dataset.strays, dataset.orphans) == ((), ())


def test_superpixels_foreign_files_and_folders_named_like_images_are_listed_not_used(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "images/a.jpg",
        "images/a_superpixels.png",
        "images/a.heic",
        "images/b.png/page.txt",
        "masks/a.dcm",
    )
    dataset = open_dataset(lay(tmp_path, "masks/a.png"))
    assert pairs(dataset) == {"a": "a.png"}
    assert {path.name for path in dataset.strays} == {"a_superpixels.png", "a.heic", "b.png", "a.dcm"}


def test_a_link_to_nowhere_stays_a_case_so_that_it_is_reported(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.jpg")
    link(tmp_path / "images" / "b.jpg", tmp_path / "gone.jpg")
    assert list(pairs(open_dataset(tmp_path))) == ["a", "b"]


@pytest.mark.parametrize(
    "name", ["CON.jpg", "nul.png", "photo, left (2).jpg", "läsion.jpg", "a.b.c.jpg", " x .jpg", "-rf.jpg"]
)
def test_any_name_is_an_id(tmp_path: Path, name: str) -> None:
    if sys.platform == "win32" and name in ("CON.jpg", "nul.png"):
        pytest.skip("no file of Windows has this name")
    case = the_case(open_dataset(lay(tmp_path, f"images/{name}", f"masks/{Path(name).stem}_mask.png")))
    assert case.id == Path(name).stem
    assert case.mask is not None


# Tables


@pytest.mark.parametrize(
    "text",
    [
        "image_id,patient_id,dx\na,p1,mel\nb,p1,nv\n",
        "Image,Patient,Label\na.jpg,p1,mel\nb.JPG,p1,nv\n",
        "\ufeff ID , lesion , diagnosis \r\n a , p1 , mel \r\n\r\nb,p1,nv\r\n,,\r\n",
        'id,note,group,label\na,"said: ""grows"", fast",p1,mel\nb,,p1,nv,too much\n',
        "Image ID,PatientID,DX\na,p1,mel\nb,p1,nv\n",
    ],
    ids=[
        "plain",
        "file names",
        "byte order mark, spaces, blank lines",
        "quotes, a cell too many",
        "other spellings",
    ],
)
def test_a_table_gives_groups_and_diagnoses(tmp_path: Path, text: str) -> None:
    table(lay(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg"), text)
    rows = [(case.id, case.group, case.label) for case in open_dataset(tmp_path).cases]
    assert rows == [("a", "p1", "mel"), ("b", "p1", "nv"), ("c", None, None)]


def test_a_patient_counts_more_than_a_lesion_and_a_dot_in_an_id_is_kept(tmp_path: Path) -> None:
    lay(tmp_path, "images/scan.1.jpg", "images/scan.2.jpg")
    table(tmp_path, "image_id,lesion_id,patient_id\nscan.1,l1,p1\nscan.2,l2,\n")
    assert [case.group for case in open_dataset(tmp_path).cases] == ["p1", "l2"]


def test_a_lesions_images_stay_together_where_not_every_row_names_the_patient(tmp_path: Path) -> None:
    lay(tmp_path, *(f"images/{name}.jpg" for name in "abcd"))
    table(tmp_path, "image_id,lesion_id,patient_id\na,l1,p1\nb,l1,\nc,l2,p1\nd,l3,\n")
    assert [case.group for case in open_dataset(tmp_path).cases] == ["p1", "p1", "p1", "l3"]
    table(
        tmp_path, "image_id,lesion_id,patient_id\na,1,p1\nb,2,p1\nc,1,p2\nd,1,\n"
    )  # numbered anew for each patient
    assert [case.group for case in open_dataset(tmp_path).cases] == ["p1", "p1", "p2", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,dx\na,mel\n", "image_id, image or id"),
        ("image_id;dx\na;mel\n", "separate columns by commas"),
        ("", "image_id, image or id"),
        ("image_id,dx\n,mel\n", "names no image"),
        ('image_id,patient_id\na,"p\nb,"p\n', "cannot be read as CSV"),
        ("image_id,patient_id\na,p\nb,q\na.jpg,q\n", "two rows of a differ"),
    ],
)
def test_a_table_that_says_nothing_about_images_is_refused(tmp_path: Path, text: str, message: str) -> None:
    table(lay(tmp_path, "images/a.jpg"), text)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(tmp_path)
    assert "metadata.csv" in str(caught.value)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    table(lay(tmp_path, "images/a.jpg"), "image_id,dx\na,Läsion\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"metadata\.csv: cannot be read as CSV .*UTF-8"):
        open_dataset(tmp_path)


# What cannot be used


def test_several_datasets_in_one_folder_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, 3, "isic2017", size=(16, 16))
    write_dataset(tmp_path, 3, "isic2018", size=(16, 16))
    assert [dataset.name for dataset in open_datasets(tmp_path)] == ["isic2017", "isic2018"]
    with pytest.raises(DataError, match=r"holds several datasets \(isic2017 in .*, isic2018 in .*\)"):
        open_dataset(tmp_path)


def test_several_datasets_in_folders_of_one_folder_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", 2, "folder", size=(16, 16))
    write_dataset(tmp_path / "two", 2, "ph2", size=(16, 16))
    assert {dataset.name: dataset.root.name for dataset in open_datasets(tmp_path)} == {
        "folder": "one",
        "ph2": "two",
    }
    with pytest.raises(DataError, match="holds several datasets"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path / "two").name == "ph2"


@pytest.mark.parametrize(
    "names",
    [
        ["images/a.jpg", "images/a.png"],
        ["images/a.jpg", "images/a.JPG"],
        ["a.jpg", "a.png"],
        ["HAM10000_images_part_1/a.jpg", "HAM10000_images_part_2/a.jpg"],
        ["ISIC-2017_Training_Data/a.jpg", "ISIC-2017_Test_v2_Data/a.jpg"],
    ],
    ids=["images", "letter case", "plain", "HAM10000", "two parts"],
)
def test_two_images_with_one_id_are_refused_and_both_are_named(tmp_path: Path, names: list[str]) -> None:
    lay(tmp_path, *names)
    if len(list(tmp_path.rglob("a.*"))) < 2:
        pytest.skip("this disk takes both for one name")
    with pytest.raises(DataError, match=r"two images with the id 'a'\. Rename one") as caught:
        open_dataset(tmp_path)
    assert all(str(tmp_path / name) in str(caught.value) for name in names)


def test_two_masks_for_one_image_are_refused_and_both_are_named(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.jpg", "masks/a.png", "masks/a_mask.png")
    with pytest.raises(DataError, match=r"a_mask\.png and .*a\.png: two masks for 'a'. Keep one"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["images/notes.txt"], ["masks/a.png"]])
def test_a_folder_without_images_is_refused_with_the_layouts_that_are_known(
    tmp_path: Path, names: list[str]
) -> None:
    with pytest.raises(
        DataError, match=r"no dataset recognised\. Known layouts: .*images/ with masks/"
    ) as caught:
        open_dataset(lay(tmp_path, *names))
    assert str(tmp_path) in str(caught.value)


def test_a_dataset_of_heic_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a\.HEIC and other HEIC files are not read here: export them as JPEG"
    ):
        open_dataset(lay(tmp_path, "images/a.HEIC", "masks/a.png"))


def test_no_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "absent", lay(tmp_path, "a.jpg") / "a.jpg"):
        with pytest.raises(DataError, match="no such folder"):
            open_dataset(place)
        with pytest.raises(DataError, match="SEGMAE_DATA"):
            find_data(str(place))


def test_relative_folders_are_also_looked_for_under_segmae_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    lay(there, "set/a.jpg", "other/a.jpg")
    lay(here, "set/a.jpg")
    monkeypatch.chdir(here)
    monkeypatch.setenv("SEGMAE_DATA", str(there))
    assert find_data("other") == there / "other"
    assert find_data("set") == Path("set"), "what is here comes first"
    with pytest.raises(DataError, match=f"^absent: no such folder, here or in {re.escape(str(there))}"):
        find_data("absent")


def test_select_keeps_the_order_of_the_ids_and_names_absent_ones(tmp_path: Path) -> None:
    dataset = open_dataset(lay(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg"))
    assert [case.id for case in dataset.select(["c", "a"])] == ["c", "a"]
    with pytest.raises(DataError, match=r"2 of 3 ids of the split are not here, e\.g\. x, y"):
        dataset.select(["x", "a", "y"])


def test_a_name_that_no_list_of_ids_can_hold_is_told(tmp_path: Path) -> None:
    """Of an archive in Latin-1."""
    cases = [Case(name, tmp_path / f"{name}.png") for name in ("a", "b", "L\udce4sion")]
    for use in (
        lambda: prepare(cases, Preprocess(size=64), tmp_path / "cache"),
        lambda: make_split(cases),
        lambda: evaluate(None, cases, tmp_path / "out", data="mine"),  # type: ignore[arg-type]
    ):
        with pytest.raises(DataError, match=r"L\\udce4sion\.png: its name is no valid UTF-8\. Rename it"):
            use()
