"""Settings that cannot be: one line that names the setting and says what it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("omegaconf")

from segmae.config import RANGES, Config, config_keys, config_to_dict
from segmae.errors import ConfigError
from segmae.recipe import load_config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augmentation.brightness=-0.1", "must be from 0 to 1"),
        ("augmentation.contrast=nan", "must be from 0 to 1"),
        ("augmentation.saturation=inf", "must be from 0 to 1"),
        ("augmentation.rotation=-1", "must be from 0 to 180"),
        ("augmentation.rotation=inf", "must be from 0 to 180"),
        ("augmentation.scale=[1.2,.8]", r"the first is the smaller\. Write \[0\.8,1\.2\]"),
        ("optimizer.momentum=-1", "must be from 0 to 0.999999"),
        ("optimizer.betas=[0.9,1.5]", r"1\.5: must be from 0 to 0\.999999"),
        ("optimizer.lr=inf", "must be a finite number, at least 0"),
        ("seed=-1", "must be from 0 to 9223372036854775807"),
        ("seed=99999999999999999999999", "must be from 0 to 9223372036854775807"),
        ("threads=1000000", "must be from 0 to 1024"),
        ("preprocess.size=1000000000", "must be a multiple of 16, from 32 to 4096"),
        ("preprocess.mean=[nan,0,0]", "must be from 0 to 1"),
        ("losses.bce=-1", "must be at least 0"),
        ("losses.dice=-0.4", "must be at least 0"),
        ("losses.patch=nan", "must be a finite number, at least 0"),
        ("schedule.factor=0", "must be from 1e-06 to"),
        ("schedule.factor=1", "must be from 1e-06 to"),
        ("schedule.patience=-1", "must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{override.split('=')[0]}=.*{message}"):
        load_config(None, [override])


def test_every_number_has_a_range() -> None:
    def numeric(key: str) -> bool:
        value: Any = config_to_dict(Config())
        for name in key.split("."):
            value = value[name]
        values = value if isinstance(value, list) else [value]
        return bool(values) and all(type(one) in (int, float) for one in values)

    without = [key for key in config_keys() if numeric(key) and key not in RANGES]
    assert without == ["preprocess.size"], "this has a rule of its own; give the others a row in RANGES"


def test_a_task_that_learns_from_the_segmentation_loss_needs_some_of_it() -> None:
    none = ["losses.bce=0", "losses.dice=0", "losses.patch=0"]
    for task in ("hybrid", "supervised"):
        with pytest.raises(ConfigError, match=rf"task={task} learns from them\. Set at least one"):
            load_config(None, [f"task={task}", *none])
        load_config(None, [f"task={task}", *none, "losses.own={loss.py:mine: 1}"])
    for task in ("pretrain", "adversarial", "chained"):  # the last two have losses of their own
        load_config(None, [f"task={task}", *none])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.betas=[a,b]", r"'optimizer\.betas' .*it takes 2 numbers, for example \[0\.9,0\.999\]"),
        ("optimizer.betas=[0.9]", r"'optimizer\.betas' .*it takes 2 numbers"),
        ("optimizer.betas=0.9", r"'optimizer\.betas' .*it takes 2 numbers"),
        ("preprocess.mean=[0,0]", r"'preprocess\.mean' .*it takes 3 numbers"),
        ("distillation.teachers=a", r"'distillation\.teachers' .*it takes a list"),
        ("model.options=[1]", r"'model\.options' .*it takes a mapping, for example model\.options\.NAME=1"),
        ("losses.own=[1]", r"'losses\.own' .*for example losses\.own=\{FILE\.py:NAME: 1\}"),
        ("losses.own={loss.py:mine: much}", r"'losses\.own\S*' has a wrong value"),
        ("losses.own.loss.py:mine=1", r"'losses\.own\S*' .*for example losses\.own=\{FILE\.py:NAME: 1\}"),
        ("losses.own={loss.py:mine: -1}", r"losses\.own: loss\.py:mine has the weight -1\.0: must be"),
        ("name=", r"'name' .*it is empty\. Write a value, or leave it out"),
        ("name=''", r"^name: is empty"),
        ("model.name.x=3", r"'model\.name' has a wrong value"),
        ("epochs=many", r"'epochs' has a wrong value: Value 'many'"),
    ],
)
def test_values_of_another_kind_are_told_by_their_names(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, [override])
    assert "$" not in str(caught.value) and "None" not in str(caught.value)


def test_files_of_other_kinds_are_known(tmp_path: Path) -> None:
    study = tmp_path / "mini.yaml"
    study.write_text("title: Mini\nrows: {a: {}}\ndata: {d: {}}\n")
    with pytest.raises(ConfigError, match=r"is a study, not a recipe\. `segmae study run .*mini\.yaml`"):
        load_config(study)
    model = tmp_path / "config.json"
    model.write_text(json.dumps({"format": 1, "architecture": "unet", "preprocess": {"size": 32}}))
    with pytest.raises(
        ConfigError, match=rf"saved model, not a recipe.*model\.start={re.escape(str(tmp_path))}"
    ):
        load_config(model)


def test_a_file_is_told_how_files_write_a_setting_in_a_group(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    for text, key in (("model.name: unet", "model.name"), ("model: unet", "model")):
        recipe.write_text(text)
        with pytest.raises(ConfigError, match=rf"own\.yaml: '{key}' .*Write model: \{{name: unet\}}$"):
            load_config(recipe)
    with pytest.raises(ConfigError, match=r"Write model\.name=unet$"):
        load_config(None, ["model=unet"])
