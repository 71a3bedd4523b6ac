"""The checked-in lists are what they claim to be, and lists of one's own leak nothing."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmae.data import splits
from segmae.data.catalog import Case, open_dataset
from segmae.data.splits import (
    Split,
    copies_apart,
    group_copies,
    group_leaks,
    list_splits,
    load_split,
    make_folds,
    make_split,
    met_ids,
    overlap,
    save_split,
    training_leaks,
    without,
)
from segmae.errors import DataError
from segmae.ownfiles import read_split

SIZES = {
    "isic2017/official": (2000, 150, 600),
    "isic2018/paper": (1815, 259, 520),
    **{f"isic2018/fold{k}": (1816, 260, 518) for k in range(1, 6)},
    "ham10000/sample": (0, 0, 2401),
    "ph2/all": (0, 0, 200),
    "ph2/paper": (140, 20, 40),
    **{f"ph2/fold{k}": (140, 20, 40) for k in range(1, 6)},
}
OUR_SEED = 2025  # of the lists that nobody published


def sizes(split: Split) -> tuple[int, ...]:
    return tuple(len(split.parts.get(part, ())) for part in ("train", "val", "test"))


def ids(*splits: Split) -> set[str]:
    return {name for split in splits for part in split.parts.values() for name in part}


def cases(count: int, group: int = 1, labels: str = "") -> list[Case]:
    """Cases of which `group` at a time belong together and have one label."""
    return [
        Case(
            f"c{i:04}",
            Path(f"c{i:04}.jpg"),
            group=f"p{i // group}" if group > 1 else None,
            label=labels[i // group % len(labels)] if labels else None,
        )
        for i in range(count)
    ]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# The lists of the package


def test_the_package_has_these_lists_and_no_others() -> None:
    assert sorted(list_splits()) == sorted(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_checked_in_list_has_the_sizes_of_the_specification_and_leaks_nothing(name: str) -> None:
    split = load_split(name)
    assert (split.name, split.dataset, sizes(split)) == (name, name.split("/")[0], SIZES[name])
    assert training_leaks(split) == []
    assert len(ids(split)) == sum(SIZES[name]), "each id once"


@pytest.mark.parametrize(("dataset", "never"), [("isic2018", 4), ("ph2", 0)])
def test_the_five_folds_test_no_case_twice(dataset: str, never: int) -> None:
    folds = [load_split(f"{dataset}/fold{k}") for k in range(1, 6)]
    tested = Counter(name for fold in folds for name in fold.parts["test"])
    assert max(tested.values()) == 1
    assert all(ids(fold) == ids(load_split(f"{dataset}/paper")) for fold in folds)
    assert len(ids(*folds) - set(tested)) == never, "of 2594, the public folds test 5 x 518"


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_isic2018_shares_with_each_part_of_isic2017_what_is_known(part: str) -> None:
    shared = overlap(ids(load_split("isic2018/paper")), load_split("isic2017/official").parts[part])
    assert len(shared) == {"train": 1800, "val": 121, "test": 529}[part]
    assert list(shared) == sorted(shared)


@pytest.mark.parametrize("name", ["isic2018", "ph2"])
def test_real_datasets_hold_the_cases_of_their_lists(real_data: Path, name: str) -> None:
    dataset = open_dataset(real_data / name)
    here = {case.id for case in dataset.cases}
    assert all(ids(load_split(split)) == here for split in SIZES if split.startswith(name))


def test_of_isic2017_56_test_images_could_not_be_had_and_the_rest_lie_in_their_parts(real_data: Path) -> None:
    dataset, parts = open_dataset(real_data / "isic2017"), load_split("isic2017/official").parts
    with pytest.raises(DataError, match="56 of 600 ids of the split are not here"):
        dataset.select(parts["test"])
    listed = {name: part for part, some in parts.items() for name in some}
    assert all(case.part == listed[case.id] for case in dataset.cases)


def test_ph2_is_stratified_by_diagnosis(real_data: Path) -> None:
    label = {case.id: case.label for case in open_dataset(real_data / "ph2").cases}
    for name in [name for name in SIZES if name.startswith("ph2/") and not name.endswith("all")]:
        for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            found = Counter(label[i] for i in load_split(name).parts[part])
            assert found == {"common nevus": share * 80, "atypical nevus": share * 80, "melanoma": share * 40}


def test_our_own_lists_can_be_made_again(real_data: Path) -> None:
    ph2, isic = (open_dataset(real_data / name).cases for name in ("ph2", "isic2018"))
    assert make_split(ph2, seed=OUR_SEED).sha256 == load_split("ph2/paper").sha256
    for fold in make_folds(ph2, 5, 0.1, OUR_SEED, "ph2/fold", "ph2"):
        assert fold == load_split(fold.name)
    shares = (1815 / 2594, 259 / 2594, 520 / 2594)
    assert make_split(isic, shares, OUR_SEED).sha256 == load_split("isic2018/paper").sha256


# Tampering and files of one's own


@pytest.mark.parametrize(
    ("old", "new"),
    [(",test", ",train"), ("IMD002,", "IMD999,"), ("IMD002,train\n", ""), ("IMD002", "imd002")],
    ids=["moved", "renamed", "removed", "letter case"],
)
def test_a_checked_in_list_that_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    copy = tmp_path / "split_files"
    shutil.copytree(splits.FOLDER, copy)
    monkeypatch.setattr(splits, "FOLDER", copy)
    path = copy / "ph2" / "fold1.csv"
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert load_split("ph2/fold1").sha256, "line endings of a checkout do not matter"
    assert text.replace(old, new, 1) != text
    written(path, text.replace(old, new, 1))
    with pytest.raises(DataError, match=r"ph2/fold1: the package's list was changed .*Reinstall"):
        load_split("ph2/fold1")
    assert load_split("ph2/fold2")


def test_a_saved_split_is_read_back_the_same(tmp_path: Path) -> None:
    split = make_split([*cases(30), Case("photo, left", Path("x")), Case('the "big" one', Path("y"))])
    again = load_split(save_split(split, tmp_path / "deep" / "own.csv"))
    assert (again.parts, again.sha256) == (split.parts, split.sha256)
    assert (again.name, again.dataset) == (str(tmp_path / "deep" / "own.csv"), "")


def test_lists_from_spreadsheets_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes("\ufeffid,note,part\r\na,,train\r\n b ,x, val \r\n\r\nc,,test\r\nd,,train\r\n".encode())
    assert load_split(path).parts == {"train": ("a", "d"), "val": ("b",), "test": ("c",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,set\na,train\n", "first line must name the columns: id,part"),
        ("", "first line must name the columns: id,part"),
        ("id;part\na;train\n", "first line must name the columns: id,part"),
        ("id,part\n", "lists no cases"),
        ("id,part\na,train\nb,training\n", "line 3: part 'training' is not one of train, val, test"),
        ("id,part\na\n", "line 2: part '' is not one of"),
        ("part,id\ntrain\n", "line 2: names no id"),
        ("id,part\na,train\na,train\n", "line 3: id 'a' is in train twice"),
    ],
)
def test_a_file_that_is_no_list_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_split(written(tmp_path / "own.csv", text))
    assert "own.csv" in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 JFIF", b"PK\x03\x04\x00\x80"])
def test_a_binary_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"own\.csv"):
        load_split(tmp_path / "own.csv")


def test_unknown_names_get_the_nearest_one_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such split, and no such file. Did you mean 'isic2018/fold1'\?"):
        load_split("isic2018/fold_1")
    with pytest.raises(DataError, match=r"nonsense\.csv: no such split.*segmae data splits list"):
        load_split("nonsense.csv")
    with pytest.raises(DataError, match=r"is a folder\. Give the CSV file"):
        load_split(tmp_path)


def test_copies_in_two_parts_are_named_by_an_image_of_the_split(tmp_path: Path) -> None:
    cases = [Case(name, tmp_path / f"{name}.png") for name in "abcde"]
    for case, content in zip(cases, ("same", "same", "same", "alike", "alike"), strict=True):
        case.image.write_text(content)
    split = Split("mine", "drawn", {"train": ("b", "d", "e"), "test": ("c",)}, "")
    assert copies_apart(split, cases) == ["b"]


def test_a_part_that_another_model_met_whole_is_left_out() -> None:
    mine = Split("mine", "drawn", {"train": ("a", "b"), "test": ("c", "d")}, "")
    other = Split("theirs", "drawn", {"train": ("a", "c"), "val": ("b",), "test": ("d",)}, "")
    assert without(mine, other).parts == {"test": ("d",)}


# Making splits


def test_copies_byte_for_byte_stay_together_with_the_lesions_of_each(tmp_path: Path) -> None:
    some = [
        replace(
            case,
            image=written(tmp_path / case.image, f"picture {i % 15:02}"),
            group=f"p{i // 2}" if i < 6 else None,
        )
        for i, case in enumerate(cases(30))
    ]
    grouped, count = group_copies(some)
    assert count == 15
    group_of = {case.id: case.group for case in grouped}
    assert group_of["c0000"] == group_of["c0001"] == group_of["c0015"] == group_of["c0016"], (
        "through both pictures of p0"
    )
    assert group_of["c0007"] == group_of["c0022"] != group_of["c0008"]
    for seed in range(5):
        split = make_split(some, seed=seed)
        part_of = {name: part for part, names in split.parts.items() for name in names}
        assert all(part_of[f"c{i:04}"] == part_of[f"c{i + 15:04}"] for i in range(15))
        assert group_leaks(split, some) == []


def test_without_copies_groups_and_splits_are_as_they_were(tmp_path: Path) -> None:
    absent = cases(30, group=2)
    there = [replace(case, image=written(tmp_path / case.image, f"picture {case.id}")) for case in absent]
    assert group_copies(there) == (there, 0)
    assert make_split(there, seed=3) == make_split(absent, seed=3)


def test_the_same_seed_and_cases_give_the_same_split_in_whatever_order_they_come() -> None:
    some = cases(90, group=3, labels="ab")
    assert make_split(some, seed=4) == make_split(some[::-1], seed=4)
    assert make_split(some, seed=4) != make_split(some, seed=5)


@pytest.mark.parametrize("count", [6, 10, 100, 2594])
def test_sizes_follow_the_ratios(count: int) -> None:
    found = sizes(make_split(cases(count)))
    assert sum(found) == count
    assert all(abs(n - share * count) < 1 for n, share in zip(found, (0.7, 0.1, 0.2), strict=True))


def test_a_part_with_no_share_is_left_out() -> None:
    assert {part: len(some) for part, some in make_split(cases(10), (0.8, 0.2, 0)).parts.items()} == {
        "train": 8,
        "val": 2,
    }


@settings(max_examples=40, deadline=None)
@given(count=st.integers(30, 120), seed=st.integers(0, 2**32 - 1))
def test_any_split_covers_every_case_once_and_divides_no_group(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    some = [
        Case(
            f"c{i}",
            Path(f"c{i}"),
            group=random.choice(["p1", "p2", "p3", "p4", None]),
            label=random.choice([*"ab", None]),
        )
        for i in range(count)
    ] + cases(20)
    split = make_split(some, (0.5, 0.25, 0.25), seed)
    listed = [name for part in split.parts.values() for name in part]
    assert sorted(listed) == sorted(case.id for case in some)
    assert group_leaks(split, some) == training_leaks(split) == []
    folds = make_folds(some, 4, 0.1, seed, "own/fold", "own")
    assert Counter(name for fold in folds for name in fold.parts["test"]) == Counter(listed)
    for fold in folds:
        assert ids(fold) == set(listed)
        assert group_leaks(fold, some) == training_leaks(fold) == []


@pytest.mark.parametrize("seed", range(5))
def test_each_diagnosis_is_divided_by_the_same_ratios(seed: int) -> None:
    some = cases(400, group=2, labels="aaaaabbm")
    label = {case.id: case.label for case in some}
    total = Counter(label.values())
    for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        found = Counter(label[i] for i in make_split(some, seed=seed).parts[part])
        assert all(abs(found[name] - share * total[name]) < 4 for name in total), "two groups of two"


@pytest.mark.parametrize(
    "ratios", [(0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5), (float("nan"), 0.5, 0.5), (0, 0, 0)]
)
def test_ratios_that_are_no_shares_are_refused(ratios: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="three shares that add up to 1"):
        make_split(cases(50), ratios)


@pytest.mark.parametrize(
    "some",
    [[], cases(2), cases(4), cases(30, group=30), cases(30, group=15)],
    ids=["0", "2", "4", "1 group", "2 groups"],
)
def test_too_few_cases_or_groups_are_refused_instead_of_leaving_a_part_empty(some: list[Case]) -> None:
    with pytest.raises(DataError, match="Add images"):
        make_split(some)


# Leaks


def test_leaks_between_parts_and_within_groups_are_found() -> None:
    some = cases(6, group=2)
    parts = {"train": ("c0000", "c0001", "c0002"), "val": ("c0003", "c0000"), "test": ("c0004", "c0001")}
    split = Split("own", "", parts, "")
    assert training_leaks(split) == ["c0000", "c0001"]
    assert group_leaks(Split("own", "", {"train": parts["train"], "val": ("c0003",)}, ""), some) == ["p1"]
    assert (
        group_leaks(split, [Case("c0002", Path("a"), group="p"), Case("unlisted", Path("b"), group="p")])
        == []
    )


# What a model has met


def of_a_run(split: Split, *lists: str) -> dict[str, object]:
    """A provenance as `describe_data` writes it, with these of its two lists."""
    ids = {"train_ids": list(split.parts["train"]), "val_ids": list(split.parts["val"])}
    return {
        "trained_on": {"split": split.name, "sha256": split.sha256},
        **{name: ids[name] for name in lists},
    }


def test_a_models_lists_outlive_the_file_of_its_split(tmp_path: Path) -> None:
    split = load_split(save_split(make_split(cases(20)), tmp_path / "own.csv"))
    whole, shipped = of_a_run(split, "train_ids", "val_ids"), of_a_run(split)
    met = (set(split.parts["train"]), set(split.parts["val"]))
    assert met_ids(whole) == met_ids(shipped) == met_ids(of_a_run(split, "train_ids")) == met
    assert met_ids({"train_ids": ["a"], "started_from": whole}) == (met[0] | {"a"}, met[1])
    save_split(make_split(cases(20), seed=1), tmp_path / "own.csv")
    assert met_ids(whole) == met
    assert met_ids(of_a_run(split, "train_ids")) == (met[0], set()), (
        "another file's val part is not this model's"
    )
    assert met_ids(shipped) == (set(), set())
    (tmp_path / "own.csv").unlink()
    assert met_ids(whole) == met
    assert met_ids(shipped) == (set(), set())


def test_a_model_that_was_chosen_by_no_images_says_so(tmp_path: Path) -> None:
    split = load_split(save_split(make_split(cases(20)), tmp_path / "own.csv"))
    assert met_ids(of_a_run(split, "train_ids") | {"val_ids": []}) == (set(split.parts["train"]), set())


def test_the_shipped_model_names_its_ids_by_its_split() -> None:
    from segmae.checkpoint import read_info

    parts = load_split("isic2018/fold1").parts
    assert met_ids(read_info("segmae-tiny").provenance) == (set(parts["train"]), set(parts["val"]))


def test_a_list_that_is_read_once_is_the_one_of_the_folder_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id in ("a", "b"):  # of one size and, as archives of folds unpack, of one time
        (tmp_path / id).mkdir()
        (tmp_path / id / "split.csv").write_text(f"id,part\n{id},train\n")
        os.utime(tmp_path / id / "split.csv", ns=(0, 0))
        monkeypatch.chdir(tmp_path / id)
        assert read_split("split.csv").parts["train"] == (id,)
