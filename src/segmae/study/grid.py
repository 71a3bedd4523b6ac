"""A study's YAML file -> its cells: every row on every dataset with every seed, each with a whole configuration.

    title, text          what is studied
    settings             for every run, as in a recipe: a mapping, a recipe's file, or a list of them
    stage1               the same, for the first stage of those rows that have one
    data                 NAME: {label, group, printed, settings, tests}; folds of one dataset share a `group`
    tests                of a dataset: NAME: {data, split, part, unseen, views}; default: `test`, the split's own test part
    rows                 NAME: {label, printed, note, settings, stage1}; a row with `stage1` is pretrained first
    seeds                a list of different whole numbers; default: [0]
    order                what changes slowest, then less slowly, then fastest: [seed, data, row]
    reference            the row that the others are tested against
    table                of the paper, whose figures stand beside ours (see paper.csv)
    claims               [{text, row, than}]: `row` is said to be better than `than`, a row or a list of them
    scales               NAME: {label, settings, stage1, seeds, rows, data, reference}: the same study, smaller

Later settings win: the study's, the scale's, the row's, the dataset's. Stage 1 takes from its row the network and the
preprocessing alone. Files are named from the study's folder.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segmae.config import MOST_SEED, Config, Losses
from segmae.data.splits import overlap
from segmae.errors import ConfigError, SegmaeError, did_you_mean
from segmae.models import code_file, find_entry
from segmae.ownfiles import read_split
from segmae.recipe import merge_settings, read_settings
from segmae.study.cells import Study, Test, make_cell
from segmae.views import check_views

FOLDER = Path("recipes/studies")
PAPER_SCALE = "paper"  # the scale that changes nothing
SUFFIXES = (".yaml", ".yml")
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}  # as labels write them

Layer = tuple[str, Mapping[str, Any]]  # where settings come from, and the settings

_KEYS = {
    "study": ("title", "text", "settings", "stage1", "data", "rows", "seeds", "order", "reference", "table", "claims",
              "scales"),
    "data": ("label", "group", "printed", "settings", "tests"),
    "row": ("label", "printed", "note", "settings", "stage1"),
    "scale": ("label", "settings", "stage1", "seeds", "rows", "data", "reference"),
    "test": ("data", "split", "part", "unseen", "views"),
    "claim": ("text", "row", "than"),
}  # fmt: skip


def list_studies(folder: Path = FOLDER) -> list[Path]:
    """The study files in a folder."""
    return sorted(folder.glob("*.yaml"))


def find_study(name: str | Path) -> Path:
    """A study's file, given by its path or by the name of one in ./recipes/studies.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"{path}: no such study. Give the path of a YAML file")
        return path
    names = [file.stem for file in list_studies()]
    if str(name) in names:
        return FOLDER / f"{name}.yaml"
    raise ConfigError(f"study '{name}': not in ./{FOLDER.as_posix()}.{did_you_mean(name, names)} Give the path of a YAML file, or "
                      "change to the folder that has recipes/")  # fmt: skip


def folder_name(study: str, scale: str = PAPER_SCALE) -> str:
    """Of a study's folders in results and runs."""
    return study if scale == PAPER_SCALE else f"{study}-{scale}"


def scales(path: Path) -> list[str]:
    """Names of a study's scales, `paper` first.

    Raises:
        ConfigError: the file cannot be read, or its scales are no mapping.
    """
    return [str(name) for name in _scales(read_settings(path), path)]


def _scales(text: Mapping[str, Any], path: Path) -> dict[str, Any]:
    named = text.get("scales") or {}
    if not isinstance(named, Mapping):
        raise ConfigError(f"{path}: scales: must be a mapping of names to scales")
    return {PAPER_SCALE: {}, **named}


def load_study(name: str | Path, scale: str = PAPER_SCALE) -> Study:
    """Read a study and resolve the settings of all its cells.

    Args:
        name: see `find_study`.
        scale: one of the file's `scales`; `paper` is as written.

    Raises:
        ConfigError: a key is unknown (the nearest is named), something is missing, or a setting cannot be.
    """
    path = find_study(name)
    text = read_settings(path)
    _check_keys(text, "study", str(path))
    for key in ("title", "data", "rows"):
        if not text.get(key):
            raise ConfigError(f"{path}: '{key}' is missing")
    for kind, key in (("data", "data"), ("row", "rows")):
        if not isinstance(text[key], Mapping):
            raise ConfigError(f"{path}: {key}: must be a mapping of names to settings")
        for entry, values in text[key].items():
            _check_name(entry, f"{path}: {key}")
            text[key][entry] = values = values or {}
            _check_keys(values, kind, f"{path}: {key}.{entry}")
            texts = ("label", "group", "printed") if kind == "data" else ("label", "note")
            _check_texts(values, texts, f"{path}: {key}.{entry}")
    _check_texts(text, ("title", "text", "table"), str(path))
    scales = _scales(text, path)
    if scale not in scales:
        raise ConfigError(
            f"{path}: no scale '{scale}'.{did_you_mean(scale, scales)} It has {', '.join(map(str, scales))}"
        )
    where = f"{path}: scales.{scale}"
    chosen, source = _gathered(scales[scale], path.parent, where)
    rows = _some(text["rows"], chosen.get("rows"), source.get("rows", where))
    data = _some(text["data"], chosen.get("data"), source.get("data", where))
    reference = chosen.get("reference") or text.get("reference") or next(iter(rows))
    if not isinstance(reference, str) or reference not in rows:
        raise ConfigError(
            f"{source.get('reference', path)}: reference '{reference}' is not one of the rows.{did_you_mean(reference, rows)}"
        )
    label = folder_name(path.stem, scale)
    study = Study(
        _check_name(label, str(path)), text["title"], text.get("text") or "", scale,
        chosen.get("label") or "", reference, text.get("table") or "",
        {row: {"label": values.get("label") or row, "printed": str(values.get("printed", "")), "note": values.get("note") or ""}
         for row, values in rows.items()},
        {name: {"label": values.get("label") or name, "group": values.get("group") or name, "printed": values.get("printed", "")}
         for name, values in data.items()},
        _claims(text.get("claims") or [], text["rows"], rows, str(path)),
    )  # fmt: skip
    layers = {
        key: (
            _layers(text.get(key), path, f"{path}: {key}"),
            _layers(chosen.get(key), path, f"{source.get(key, where)}: {key}"),
        )
        for key in ("settings", "stage1")
    }
    seeds = _seeds((text | chosen).get("seeds", [0]), source.get("seeds", str(path)))
    resolved = {
        (place, row): _resolve(path, layers, place, data[place], row, rows[row])
        for place in data
        for row in rows
    }
    ordered = _ordered(seeds, data, rows, text.get("order"), str(path))
    cells = tuple(make_cell(place, row, seed, *resolved[place, row]) for seed, place, row in ordered)
    if not study.scale_label:
        c = next(cell.config for cell in cells if cell.row == reference)
        facts = f"{c.preprocess.size} px, {c.epochs} epoch{'s' * (c.epochs != 1)}, batch {c.batch_size}, {OPTIMIZERS[c.optimizer.name]}"
        study = replace(study, scale_label=f"{'As written' if scale == PAPER_SCALE else scale}: {facts}")
    return replace(study, cells=cells)


def _resolve(
    path: Path, layers: Mapping[str, tuple[list[Layer], list[Layer]]], place: str, data: Mapping[str, Any], row: str,
    values: Mapping[str, Any],
) -> tuple[Config, Config | None, tuple[Test, ...]]:  # fmt: skip
    """The settings of a row on a dataset, of its stage 1, and what it is tested on; without a seed yet."""
    theirs = _layers(data.get("settings"), path, f"{path}: data.{place}.settings")
    own = _layers(values.get("settings"), path, f"{path}: rows.{row}.settings")
    base, scaled = layers["settings"]
    config = _merged([*base, *scaled, *own, *theirs], f"{path}: rows.{row} on {place}")
    config = replace(config, tensorboard=False)
    stage1 = None
    if "stage1" in values:
        config = replace(config, model=replace(config.model, start=""))  # set when it is there
        first, first_scaled = layers["stage1"]
        extra = _layers(values["stage1"], path, f"{path}: rows.{row}.stage1")
        every = [*base, *scaled, *first, *first_scaled, *extra, *theirs]
        stage1 = _merged(every, f"{path}: rows.{row}.stage1 on {place}")
        model = replace(stage1.model, name=config.model.name, options=config.model.options)
        stage1 = replace(stage1, task="pretrain", model=model, preprocess=config.preprocess, tensorboard=False,
                         losses=Losses())  # which stage 1 does not use  # fmt: skip
    if code_file(config.model.name) is None:
        try:
            find_entry(config.model.name)
        except ConfigError as error:
            raise ConfigError(f"{path}: rows.{row}: {error}") from None
    for each in (config, stage1):
        if each and each.task in ("pretrain", "hybrid") and each.model.options.get("decoder", True) is None:
            raise ConfigError(f"{path}: rows.{row}: task={each.task} rebuilds patches, and model.options.decoder=null leaves out what does. "
                              "Set task=supervised, or give a decoder")  # fmt: skip
    return config, stage1, _tests(data.get("tests"), config, f"{path}: data.{place}.tests")


def _tests(wanted: Mapping[str, Any] | None, config: Config, where: str) -> tuple[Test, ...]:
    if not config.data.root or not config.data.split:
        raise ConfigError(f"{where}: the settings name no data.root or no data.split")
    found = []
    if not isinstance(wanted or {}, Mapping):
        raise ConfigError(f"{where}: must be a mapping of names to tests")
    for name, values in (wanted or {"test": {}}).items():
        _check_name(name, where)
        _check_keys(values, "test", f"{where}.{name}")
        for key in ("data", "split", "part"):
            if not isinstance(values.get(key, "-"), str):
                raise ConfigError(
                    f"{where}.{name}: {key}: {values[key]} is no text. Leave it out or put it in quotes"
                )
        check_views(values.get("views", 1), f"{where}.{name}: ")
        if type(values.get("unseen", False)) is not bool:
            raise ConfigError(f"{where}.{name}: unseen: {values['unseen']} is neither true nor false")
        test = Test(name, **{"data": config.data.root, "split": config.data.split, **values})
        try:
            trained_on, tested_on = read_split(config.data.split), test.load(config.data.split)
        except SegmaeError as error:
            raise ConfigError(f"{where}: {error}") from error
        ids = tested_on.parts.get(test.part, ())
        if not ids and test.unseen:
            raise ConfigError(
                f"{where}.{name}: unseen: true leaves none of part '{test.part}' of split {test.split}"
            )
        if not ids:
            parts = ", ".join(part for part, ids in tested_on.parts.items() if ids)
            raise ConfigError(
                f"{where}.{name}: split {tested_on.name} has no part '{test.part}'. It has {parts}"
            )
        shared = overlap(trained_on.parts.get("train", ()), ids)
        if shared and not config.data.allow_leaks:
            raise ConfigError(f"{where}.{name}: {len(shared)} of these {len(ids)} images are trained on, e.g. {shared[0]}. "
                              "Test on others, or leave those out by unseen: true")  # fmt: skip
        found.append(test)
    return tuple(found)


def _layers(value: Any, path: Path, where: str) -> list[Layer]:
    """`settings` as written (a mapping, a file or a list of them) -> layers for `merge_settings`."""
    found: list[Layer] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            found.append((str(path.parent / item), _read(path.parent / item, where)))
        elif isinstance(item, Mapping):
            found.append((where, item))
        elif item is not None:
            raise ConfigError(f"{where} is a mapping of settings, a recipe's file, or a list of them")
    return found


def _merged(layers: Sequence[Layer], where: str) -> Config:
    """`merge_settings`, whose errors name a layer, or none where a value is judged after the last."""
    try:
        return merge_settings(layers)
    except ConfigError as error:
        if any(str(error).startswith(name) for name, _ in layers):
            raise
        raise ConfigError(f"{where}: {error}") from error


def _gathered(value: Any, folder: Path, where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A scale as written (a mapping, a file with one, or a list of them, whose later keys replace earlier ones), and where each key is from."""
    found: dict[str, Any] = {}
    source: dict[str, str] = {}
    for item in value if isinstance(value, list) else [value]:
        file = str(folder / item) if isinstance(item, str) else where
        entry = _read(folder / item, where) if isinstance(item, str) else item or {}
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: a mapping, a file, or a list of them")
        _check_keys(entry, "scale", file)
        _check_texts(entry, ("label",), file)
        found |= entry
        source |= dict.fromkeys(entry, file)
    return found, source


def _read(file: Path, where: str) -> dict[str, Any]:
    """The settings in a file that a study names."""
    try:
        return read_settings(file)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _ordered(
    seeds: Sequence[int], data: Iterable[str], rows: Iterable[str], order: Sequence[str] | None, where: str
) -> list[tuple[int, str, str]]:
    axes: dict[str, list[Any]] = {"seed": list(seeds), "data": list(data), "row": list(rows)}
    order = order or list(axes)
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(axes):
        raise ConfigError(f"{where}: order is a list of seed, data and row, the slowest first; not {order}")
    found = []
    for values in itertools.product(*(axes[name] for name in order)):
        at = dict(zip(order, values, strict=True))
        found.append((at["seed"], at["data"], at["row"]))
    return found


def _seeds(value: Any, where: str) -> list[int]:
    """The seeds of a study or a scale: a seed twice would pass for two runs that agree."""
    good = isinstance(value, list) and all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in value)
    if not good or not value or len(set(value)) < len(value):
        raise ConfigError(
            f"{where}: seeds: {value} must be a list of different whole numbers from 0 on, e.g. [0, 1, 2]"
        )
    return list(value)


def _claims(
    claims: Sequence[Mapping[str, Any]], known: Iterable[str], rows: Iterable[str], where: str
) -> list[dict[str, Any]]:
    known, rows, found = list(known), list(rows), []
    if not isinstance(claims, list):
        raise ConfigError(f"{where}: claims: must be a list")
    for claim in claims:
        _check_keys(claim, "claim", f"{where}: claims")
        than = claim.get("than", [name for name in rows if name != claim.get("row")])
        than = list(than) if isinstance(than, list | tuple) else [than]
        for name in (claim.get("row", ""), *than):
            if name not in known:
                raise ConfigError(f"{where}: claims name the row '{name}'.{did_you_mean(name, known)}")
        if claim["row"] in rows and (than := [name for name in than if name in rows]):
            found.append({"text": claim.get("text", ""), "row": claim["row"], "than": than})
    return found


def _some(entries: Mapping[str, Any], wanted: Sequence[str] | None, where: str) -> dict[str, Any]:
    """The entries that a scale keeps, in its order."""
    if not isinstance(wanted or [], list):
        raise ConfigError(f"{where}: {wanted} must be a list of names")
    for name in wanted or ():
        if name not in entries:
            raise ConfigError(f"{where}: '{name}' is not in this study.{did_you_mean(name, entries)}")
    return {name: entries[name] for name in wanted or entries}


def _check_keys(values: Any, kind: str, where: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: must be a mapping with {', '.join(_KEYS[kind])}")
    for key in values:
        if key not in _KEYS[kind]:
            raise ConfigError(f"{where}: unknown key '{key}'.{did_you_mean(key, _KEYS[kind])}")


def _check_texts(values: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if not isinstance(values.get(key) or "", str):
            raise ConfigError(f"{where}: {key}: {values[key]} is no text. Put it in quotes")


def _check_name(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"{where}: the name {name} is no text. Put it in quotes")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise ConfigError(
            f"{where}: '{name}' becomes part of a file's name: use small letters, digits, '.', '+' and '-'"
        )
    return name
