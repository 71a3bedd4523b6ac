"""From a recipe and KEY=VALUE overrides to a `Config`: merged over the defaults, checked, and every slip named with what is meant.

A recipe is a YAML file that names only what differs from the defaults in `segmae.config`. The resolved configuration is saved in
each run as config.json, which is a recipe too: `segmae train runs/NAME/config.json name=again`.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from segmae.config import CHOICES, LOSS_WEIGHTS, RANGES, Config, check_size, config_keys
from segmae.errors import ConfigError, did_you_mean, require


def load_config(
    recipe: str | Path | Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Merge the defaults, a recipe (a YAML file, or its content) and `key.sub=value` overrides, in this order.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a key is unknown (the nearest valid name is
            given), or a value has the wrong type.
    """
    omegaconf = require("omegaconf", "train")
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if isinstance(recipe, Mapping):
        layers.append(("recipe", recipe))
    elif recipe is not None:
        layers.append((str(recipe), read_settings(recipe)))
        _refuse_other_kinds(*layers[-1])
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ConfigError(f"'{override}': an override is KEY=VALUE, for example epochs=10")
        layers.append((override, omegaconf.OmegaConf.from_dotlist([override])))
    return merge_settings(layers)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file, not yet checked against the settings that there are.

    Raises:
        ConfigError: the file is missing or no YAML mapping.
    """
    omegaconf = require("omegaconf", "train")
    source = Path(path)
    if not source.is_file():
        raise ConfigError(f"{source}: no such recipe. Give a YAML file, for example recipes/smoke/tiny.yaml")
    try:
        loaded = omegaconf.OmegaConf.load(source)
    except Exception as error:  # YAML errors of several libraries
        reason = " ".join(str(error).split())
        raise ConfigError(f"{source}: not readable as YAML ({reason}). Mend the file") from error
    if not omegaconf.OmegaConf.is_dict(loaded):
        raise ConfigError(f"{source}: a recipe is a mapping of settings, e.g. 'epochs: 10'")
    return dict(omegaconf.OmegaConf.to_container(loaded))


def merge_settings(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Config:
    """The defaults with mappings of settings laid over them, a later one over an earlier.

    Args:
        layers: for each where it comes from, for messages, and its settings.

    Raises:
        ConfigError: an unknown key (the nearest valid name is given), or a value of the wrong type or out of range.
    """
    omegaconf = require("omegaconf", "train")
    config = copy.deepcopy(_defaults())
    for source, settings in layers:
        _merge(config, omegaconf.OmegaConf.create(settings), source)
    return _check(_with_tuples(omegaconf.OmegaConf.to_object(config)))


@lru_cache(maxsize=1)
def _defaults() -> Any:
    """The defaults as OmegaConf has them. Before 2.4 it makes frozen dataclasses read-only for itself too."""
    OmegaConf = require("omegaconf", "train").OmegaConf
    config = OmegaConf.structured(Config)
    for node in (config, *(config[name] for name in config if OmegaConf.is_dict(config[name]))):
        OmegaConf.set_readonly(node, False)
    return config


def _with_tuples(config: Any) -> Any:
    """Settings with tuples for the lists that OmegaConf before 2.4 makes of them, of whatever length."""
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return dataclasses.replace(config, **{
        name: tuple(value) if isinstance(value, list) else _with_tuples(value)
        for name, value in values.items() if isinstance(value, list) or dataclasses.is_dataclass(value)
    })  # fmt: skip


def _merge(config: Any, addition: Any, source: str) -> None:
    """Into `config`, in place: a copy for each layer was most of a study's loading."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    _refuse_bare_groups(addition, source)
    try:
        config.merge_with(addition)
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        if key in config_keys():  # as one word, `model.name: unet`
            group, _, inner = key.partition(".")
            wanted = f"{group}: {{{inner}: {addition[key]}}}"
            raise ConfigError(f"{source}: '{key}' is a setting in a group. Write {wanted}") from error
        near = difflib.get_close_matches(key, config_keys(), n=10, cutoff=0.4)
        last = key.split(".")[-1]
        near = [name for name in near or config_keys() if name.split(".")[-1] == last] or near
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"{source}: unknown setting '{key}'.{hint}") from error
    except (OmegaConfBaseException, TypeError) as error:
        # of an item of a list, and of a list for a mapping, it names none
        key = str(getattr(error, "full_key", None) or _wrong_one(config, addition)).partition("[")[0]
        reason = _takes(key, OmegaConf.select(addition, key)) or str(error).splitlines()[0]
        raise ConfigError(f"{source}: setting '{key}' has a wrong value: {reason}") from error


def _wrong_one(config: Any, addition: Any) -> str:
    """The first key of an addition that cannot be merged by itself."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key in config_keys():
        if (value := OmegaConf.select(addition, key)) is not None:
            try:
                alone = OmegaConf.create()
                OmegaConf.update(alone, key, value)
                OmegaConf.merge(config, alone)
            except (OmegaConfBaseException, TypeError):
                return key
    return "?"


def _takes(key: str, value: Any) -> str:
    """What a setting takes instead of a value that is of the wrong kind; "" where omegaconf says it well enough."""
    if key not in config_keys():
        return ""
    default = _value(Config(), key)
    if isinstance(default, tuple):
        numbers = ",".join(map(str, default))
        return (
            f"it takes {len(default)} numbers, for example [{numbers}]"
            if numbers
            else "it takes a list, for example [a,b]"
        )
    if isinstance(default, dict):
        example = "={FILE.py:NAME: 1}" if key == "losses.own" else ".NAME=1"
        return f"it takes a mapping, for example {key}{example}"
    return "it is empty. Write a value, or leave it out" if value is None else ""


def _refuse_other_kinds(source: str, settings: Mapping[str, Any]) -> None:
    """Files of ours that are mappings too, but no recipes."""
    if {"title", "rows"} <= settings.keys():
        raise ConfigError(f"{source}: is a study, not a recipe. `segmae study run {source}` runs it")
    if {"architecture", "preprocess"} <= settings.keys():
        raise ConfigError(f"{source}: is the configuration of a saved model, not a recipe. To start from its weights set model.start="
                          f"{Path(source).parent}; the recipe that it was trained by is config.json of its run")  # fmt: skip


def _refuse_bare_groups(addition: Any, source: str) -> None:
    """`model: segmae-tiny` is meant as `model.name`."""
    for name, group in vars(Config()).items():
        value = addition.get(name)
        if dataclasses.is_dataclass(group) and value is not None and not hasattr(value, "keys"):
            inner = dataclasses.fields(group)[0].name
            override = f"{name}.{inner}={value}"
            wanted = override if source.startswith(f"{name}=") else f"{name}: {{{inner}: {value}}}"
            raise ConfigError(f"{source}: '{name}' is a group of settings. Write {wanted}")


def _check(config: Config) -> Config:
    defaults = Config()
    for key in config_keys():
        default, value = _value(defaults, key), _value(config, key)
        if isinstance(default, tuple) and default and len(value) != len(default):
            raise ConfigError(f"setting '{key}' has a wrong value: {_takes(key, value)}")
    for key, allowed in CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            raise ConfigError(
                f"{key}={value}: not one of {', '.join(allowed)}.{did_you_mean(value, allowed)}"
            )
    for key, (low, high) in RANGES.items():
        numbers = _value(config, key)
        for number in numbers if isinstance(numbers, tuple | list) else (numbers,):
            if not low <= number <= high or number == math.inf:
                finite = "" if abs(number) < math.inf else "a finite number, "
                limits = f"{finite}at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ConfigError(f"{key}={number}: must be {limits}")
    low, high = config.augmentation.scale
    if low > high:
        raise ConfigError(
            f"augmentation.scale=[{low},{high}]: the first is the smaller. Write [{high},{low}]"
        )
    losses = config.losses
    for name, weight in losses.own.items():
        if not isinstance(weight, int | float):  # losses.own.FILE.py:NAME=1, whose points part it
            raise ConfigError(f"setting 'losses.own' has a wrong value: {_takes('losses.own', weight)}")
        if not 0 <= weight < math.inf:
            raise ConfigError(
                f"losses.own: {name} has the weight {weight}: must be a finite number, at least 0"
            )
    weights = (*(getattr(losses, name) for name in LOSS_WEIGHTS), *losses.own.values())
    if config.task in ("hybrid", "supervised") and not any(weights):
        raise ConfigError(f"losses.{', losses.'.join(LOSS_WEIGHTS)} are 0: task={config.task} learns from them. "
                          "Set at least one of them, or a weight in losses.own, above 0")  # fmt: skip
    check_size(config.preprocess.size)
    if not config.name:
        raise ConfigError("name: is empty. Give the run's folder inside output a name")
    if set(config.name) & set("/\\") or config.name in (".", ".."):
        raise ConfigError(f"name={config.name}: is the name of a folder inside output. Leave out / and \\")
    return config


def _value(config: Config, key: str) -> Any:
    """The value of a setting."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
