"""Studies as YAML: the committed ones are whole, and slips are told with the nearest name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("omegaconf")

from segmae.config import Config
from segmae.errors import ConfigError
from segmae.files import read_json
from segmae.models import list_models
from segmae.recipe import load_config, merge_settings
from segmae.study.cells import Study, digest, training_images
from segmae.study.grid import PAPER_SCALE, find_study, load_study
from segmae.study.printed import _tables, printed

Write = Callable[..., Path]
STUDIES = sorted((Path(__file__).parents[2] / "recipes" / "studies").glob("*.yaml"))
OURS = {"best", "better", "longer", "ph2"}  # recipes beyond the paper
WANTED = {
    "table1",
    "table2",
    "table3",
    "table4",
    "folds",
    "external",
    "masking",
    "beta",
    "start",
    "data",
    "seeds",
} | OURS


@pytest.fixture(scope="module")
def studies() -> dict[tuple[str, str], Study]:
    return {
        (path.stem, scale): load_study(path, scale)
        for path in STUDIES
        if path.stem not in OURS
        for scale in (PAPER_SCALE, "cpu")
    }


def test_the_studies_of_the_paper_and_beyond_it_are_there() -> None:
    assert {path.stem for path in STUDIES} == WANTED
    for path in STUDIES:
        header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert any(f"segmae study run {path.stem}" in line for line in header), (
            "the header states the command"
        )


def test_every_cell_has_a_configuration_that_its_network_can_be_trained_by(
    studies: dict[tuple[str, str], Study],
) -> None:
    torch = pytest.importorskip("torch")
    from segmae.models import create_model
    from segmae.tasks import create_task

    networks: dict[str, Any] = {}
    for study in studies.values():
        assert len({cell.id for cell in study.cells}) == len(study.cells)
        for cell in study.cells:
            assert cell.config.model.name in list_models("segmentation")
            key = f"{cell.config.model.name} {cell.config.model.options}"
            if key not in networks:
                with torch.device("meta"):
                    networks[key] = create_model(cell.config.model.name, **cell.config.model.options)
            for each in (cell.config, cell.stage1):
                if each is not None:  # raises where the network cannot do the task
                    create_task(each.task, each.losses, each.reconstruction, networks[key])
            if cell.stage1 is not None:
                assert cell.config.task == "hybrid" and cell.stage1.task == "pretrain"
                assert cell.stage1.data.split == cell.config.data.split
                assert cell.stage1.model.name == cell.config.model.name
                assert cell.stage1.preprocess == cell.config.preprocess
            for test in cell.tests:
                assert test.load(cell.config.data.split).parts[test.part]


def test_every_row_of_the_papers_tables_is_in_a_study(studies: dict[tuple[str, str], Study]) -> None:
    mapped = set()
    for table in ("table1", "table2", "table3", "table4"):
        study = studies[table, PAPER_SCALE]
        for row in study.rows.values():
            for data in study.data.values():
                if row["printed"]:
                    assert printed(study.table, data["printed"], row["printed"]) is not None, (table, row)
                    mapped.add((study.table, data["printed"], row["printed"]))
    assert mapped == set(_tables())


def test_full_studies_follow_the_paper_and_small_ones_say_that_they_do_not(
    studies: dict[tuple[str, str], Study],
) -> None:
    for (name, scale), study in studies.items():
        c = study.cells[0].config
        if scale == "cpu":
            assert study.name == f"{name}-cpu" and "not the paper's schedule" in study.scale_label
            assert (
                f"{c.preprocess.size} px" in study.scale_label and f"{c.epochs} epochs" in study.scale_label
            )
            assert (c.preprocess.size, c.epochs) in ((64, 5), (96, 8))
            seeds = {
                "seeds": 5,
                "longer": 5,
                "table1": 3,
                "table2": 3,
                "table3": 3,
                "better": 2,
                "masking": 2,
                "table4": 3,
                "beta": 3,
                "start": 3,
                "data": 3,
            }.get(name, 1)
            assert {cell.seed for cell in study.cells} == set(range(seeds))
        else:
            assert (c.preprocess.size, c.epochs, c.batch_size, c.optimizer.name, c.optimizer.lr) == (
                224,
                100,
                24,
                "sgd",
                0.008,
            )
            stage1 = next(cell.stage1 for cell in study.cells if cell.stage1)
            assert (stage1.epochs, stage1.optimizer.name, stage1.reconstruction.weighted) == (
                50,
                "adamw",
                False,
            )


def test_the_gpu_scale_changes_the_precision_alone(studies: dict[tuple[str, str], Study]) -> None:
    gpu = load_study(next(path for path in STUDIES if path.stem == "beta"), "gpu")
    for one, two in zip(gpu.cells, studies["beta", PAPER_SCALE].cells, strict=True):
        assert one.config.precision == "bf16-mixed" and one.config.data.resident
        written = replace(one.config, name="", precision="32-true", save_every=200)
        assert replace(written, data=replace(written.data, resident=False)) == replace(two.config, name="")


def test_cells_of_equal_settings_share_a_stage_1(studies: dict[tuple[str, str], Study]) -> None:
    first = {cell.id: cell.stage1.name for cell in studies["table4", PAPER_SCALE].cells if cell.stage1}
    assert first["full_isic2018_s0"] == first["mae-stage1_isic2018_s0"] != first["full_isic2018_s1"]
    assert len({cell.stage1.name for cell in studies["beta", PAPER_SCALE].cells if cell.stage1}) == 1
    other = next(cell for cell in studies["table2", PAPER_SCALE].cells if cell.row == "segmae-base")
    assert other.stage1 is not None and other.stage1.name == first["full_isic2018_s0"], (
        "studies share them too"
    )
    few = {cell.row: cell for cell in studies["data", "cpu"].cells}
    assert few["mae-25"].stage1 == few["mae-1816"].stage1 and training_images(few["mae-25"].stage1) == 1816
    assert training_images(few["mae-25"].config) == 25


def test_an_unseen_test_has_no_image_that_the_training_split_met(
    studies: dict[tuple[str, str], Study],
) -> None:
    from segmae.data.splits import load_split

    (cell, *_) = [cell for cell in studies["external", PAPER_SCALE].cells if cell.data == "isic2018"]
    unseen = next(test for test in cell.tests if test.name == "isic2017-unseen").load(cell.config.data.split)
    met = load_split("isic2018/paper").parts
    kept = set(unseen.parts["test"])
    assert kept and not kept & {*met["train"], *met["val"]}
    assert (
        kept < set(load_split("isic2017/official").parts["test"]) and "without isic2018/paper" in unseen.name
    )


def test_the_order_of_importance(write_study: Write) -> None:
    rows = {"a": {}, "b": {}}
    study = load_study(write_study(rows=rows, reference="a", seeds=[0, 1]))
    assert [cell.id for cell in study.cells] == ["a_drawn_s0", "b_drawn_s0", "a_drawn_s1", "b_drawn_s1"]
    study = load_study(write_study(rows=rows, reference="a", seeds=[0, 1], order=["row", "data", "seed"]))
    assert [cell.id for cell in study.cells] == ["a_drawn_s0", "a_drawn_s1", "b_drawn_s0", "b_drawn_s1"]


def test_a_scale_keeps_some_rows_in_its_order_and_a_row_has_the_last_word(write_study: Write) -> None:
    rows = {"a": {"settings": {"epochs": 7}}, "b": {}, "c": {}}
    scales = {
        "cpu": {
            "label": "small",
            "settings": {"epochs": 1},
            "rows": ["b", "a"],
            "reference": "b",
            "seeds": [5],
        }
    }
    study = load_study(write_study(rows=rows, reference="c", scales=scales), "cpu")
    assert [(cell.row, cell.config.epochs, cell.seed) for cell in study.cells] == [("b", 1, 5), ("a", 7, 5)]
    assert (study.name, study.reference, study.scale_label) == ("drawn-cpu", "b", "small")


def test_a_digest_tells_settings_apart_and_ignores_where_a_run_lies() -> None:
    config = load_config(None, ["epochs=3"])
    assert digest(config) == digest(
        replace(config, name="other", output="elsewhere", device="cuda", threads=3)
    )
    assert digest(config) != digest(replace(config, seed=1))
    weights = [
        digest(load_config(None, [f"losses.own={{{__file__}:some: {weight}}}"])) for weight in (0.5, 1)
    ]
    assert len({digest(load_config(None, [])), *weights}) == 3
    assert digest(load_config(None, ["model.options.depth=1"])) != digest(
        load_config(None, ["model.options.depth=2"])
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"sedes": [1]}, r"unknown key 'sedes'\. Did you mean 'seeds'\?"),
        ({"rows": {"plain": {"setings": {}}}}, r"rows\.plain: unknown key 'setings'\. Did you mean 'settings'\?"),
        ({"rows": {"plain": {"settings": {"epoch": 1}}}}, r"rows\.plain\.settings: unknown setting 'epoch'\. Did you mean 'epochs'\?"),
        ({"rows": {"plain": {"settings": {"model": {"name": "segmae-tyni"}}}}}, r"\.yaml: rows\.plain: unknown model 'segmae-tyni'\. Did you mean 'segmae-tiny'\?"),
        ({"rows": {"a_b": {}}}, "'a_b' becomes part of a file's name"),
        ({"rows": {}}, "'rows' is missing"),
        ({"reference": "plane"}, r"reference 'plane' is not one of the rows\. Did you mean 'plain'\?"),
        ({"claims": [{"row": "mea", "than": "plain"}]}, r"claims name the row 'mea'\. Did you mean 'mae'\?"),
        ({"rows": {1: {}}}, r"rows: the name 1 is no text\. Put it in quotes"),
        ({"reference": 2}, "reference '2' is not one of the rows"),
        ({"claims": [{"row": "mae", "than": 1}]}, "claims name the row '1'"),
        ({"reference": ["plain"]}, "is not one of the rows"),
        ({"claims": 3}, "claims: must be a list"),
        ({"order": 3}, "order is a list of seed, data and row"),
        ({"order": ["seed", "data", 1]}, "order is a list of seed, data and row"),
        ({"data": {"drawn": {"tests": {"x": {"split": 5}}}}, "settings": {"data": {"root": "d", "split": "isic2018/fold1"}}},
         r"tests\.x: split: 5 is no text"),
        ({"order": ["seed", "rows"]}, "order is a list of seed, data and row"),
        ({"data": {"drawn": {"tests": {"x": {"data": "d", "split": "isic2018/fold9"}}}},
          "settings": {"data": {"root": "d", "split": "isic2018/fold1"}}}, r"fold9: no such split.* Did you mean 'isic2018/fold"),
        ({"data": {"drawn": {"tests": {"x": {"views": 9}}}}, "settings": {"data": {"root": "d", "split": "isic2018/fold1"}}},
         r"data\.drawn\.tests\.x: views=9: choose 1 to 8"),
        ({"data": ["drawn"]}, "data: must be a mapping of names"),
        ({"scales": ["cpu"]}, "scales: must be a mapping of names"),
        ({"title": [5]}, r"title: \[5\] is no text"),
        ({"rows": {"plain": {"label": 1}}}, r"rows\.plain: label: 1 is no text"),
        *(({"data": {"drawn": {"tests": tests}}, "settings": {"data": {"root": "d", "split": "isic2018/fold1"}}}, message)
          for tests, message in ((["test"], "tests: must be a mapping of names"), ({"x": {"unseen": "no"}}, "unseen: no is neither true nor false"),
                                 ({"x": {"part": "foo"}}, r"tests\.x: split isic2018/fold1 has no part 'foo'\. It has train, val, test"),
                                 ({"x": {"part": "train"}}, "1816 of these 1816 images are trained on"))),
        ({"data": {"drawn": {}}}, r"the settings name no data\.root or no data\.split"),
        ({"rows": {"plain": {"settings": {"epochs": 0}}}}, r"drawn\.yaml: rows\.plain on drawn: epochs=0: must be at least 1"),
        ({"rows": {"plain": {"settings": {}, "stage1": {"epochs": 0}}}}, r"rows\.plain\.stage1 on drawn: epochs=0"),
        ({"rows": {"plain": {"settings": 7}}}, "is a mapping of settings, a recipe's file, or a list of them"),
        ({"rows": {"plain": {"settings": "none.yaml"}}}, r"drawn\.yaml: rows\.plain\.settings: .*none\.yaml: no such recipe"),
        ({"rows": {"plain": {"settings": {"task": "hybrid", "model": {"options": {"decoder": None}}}}}},
         r"rows\.plain: task=hybrid rebuilds patches, and model\.options\.decoder=null"),
        ({"rows": {"plain": {"settings": {"model": {"options": {"decoder": None}}}, "stage1": {}}}}, r"rows\.plain: task=hybrid"),
        *(({"seeds": seeds}, r"drawn\.yaml: seeds: .* must be a list of different whole numbers from 0 on")
          for seeds in (3, ["a"], [0.5, -1], [-1], [0, 0], [True], [], 0, None, "1", [2**64])),
    ],
)  # fmt: skip
def test_slips_are_told(write_study: Write, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write_study(**parts))


def test_scales_and_names_that_are_not_there(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"no scale 'cpx'\. Did you mean 'cpu'\?"):
        load_study(write_study(scales={"cpu": {}}), "cpx")
    with pytest.raises(ConfigError, match=r"no such study"):
        find_study("none.yaml")
    monkeypatch.chdir(STUDIES[0].parents[2])
    assert find_study("table2") == Path("recipes/studies/table2.yaml")
    with pytest.raises(
        ConfigError, match=r"study 'tabel2': not in \./recipes/studies\. Did you mean 'table2'\?"
    ):
        find_study("tabel2")


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"cpu": 3}, "a mapping, a file, or a list"),
        ({"cpu": {"rows": 3}}, "must be a list of names"),
        ({5: {}}, "no scale 'cpu'"),
    ],
)
def test_slips_in_a_scale_are_named(write_study: Write, scales: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write_study(scales=scales), "cpu")


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ({"seed": [1]}, r"small\.yaml: unknown key 'seed'"),
        ({"seeds": 1}, r"small\.yaml: seeds: "),
        ({"reference": "plian"}, r"small\.yaml: reference 'plian' is not one"),
        ({"rows": ["plian"]}, r"small\.yaml: 'plian' is not in this study"),
        ({"settings": {"epoch": 1}}, r"small\.yaml: settings: unknown setting 'epoch'"),
    ],
)
def test_slips_in_a_scales_own_file_are_named_with_that_file(
    write_study: Write, tmp_path: Path, slip: dict[str, Any], message: str
) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps(slip))
    for scale in ("small.yaml", ["small.yaml", {"label": "smaller"}]):
        with pytest.raises(ConfigError, match=message):
            load_study(write_study(scales={"cpu": scale}), "cpu")


@pytest.mark.parametrize("seeds", [0, [0, 0], []])
def test_wrong_seeds_of_a_scale_are_not_passed_over(write_study: Write, seeds: Any) -> None:
    with pytest.raises(ConfigError, match=r"drawn\.yaml: scales\.cpu: seeds: .* must be a list"):
        load_study(write_study(scales={"cpu": {"seeds": seeds}}), "cpu")


def test_the_module_says_what_a_file_may_hold() -> None:
    from segmae.study import grid

    for keys in grid._KEYS.values():
        assert all(key in inspect.getdoc(grid) for key in keys)  # type: ignore[operator]


def _without_places(config: Config) -> Config:
    """Without the folder of the first stage and those of weights, which outcomes do not keep."""
    files = {key: Path(getattr(config.model, key) or "").name for key in ("vit", "cnn", "encoder")}
    return replace(config, model=replace(config.model, start="", **files))


def test_the_settings_that_results_were_made_by_are_still_those_of_their_cells() -> None:
    """A digest leaves defaults out, so that a default which changes would silently belie the results made before."""
    checked = 0
    for plan in sorted((STUDIES[0].parents[2] / "results").glob("*/study.json")):
        written = read_json(plan)
        name = written["name"].removesuffix(f"-{written['scale']}")
        for cell in load_study(STUDIES[0].parent / f"{name}.yaml", written["scale"]).cells:
            path = plan.parent / f"{cell.id}.json"
            if path.exists() and (outcome := read_json(path))["digest"] == cell.digest:
                then = merge_settings([(str(path), outcome["settings"])])
                assert digest(_without_places(then)) == digest(_without_places(cell.config)), path
                checked += 1
    assert checked > 50
