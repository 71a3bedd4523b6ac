"""What a batch is to compute: the sorted photographs cut into shards, the model and the options, fixed in the folder of the results.

`plan/plan.json` holds the settings and `plan/sources-DIGEST.jsonl` the photographs, one JSON string a line. The first call writes them; every
later one, and every worker, must agree with them. A worker gets the number of a shard and reads its lines from there. Of two first calls with
other photographs each writes a list of its own, so that the plan of the one that wins never names that of the other.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from typing import Any

from segmae.cluster.storage import Store
from segmae.data import heic
from segmae.engines import ENGINES
from segmae.errors import ConfigError, DataError
from segmae.files import differences
from segmae.predictor import Predictor

FORM = 2  # of the shards and of the plan
PLAN = "plan/plan.json"
SHARDS, MANIFESTS, MASKS, DONE = "shards", "manifests", "masks", "done.json"
PACKAGES = ("numpy", "pillow", "scipy", "pyarrow")  # beside the engine: what the bytes of a shard depend on


@dataclass(frozen=True)
class Settings:
    """What the bytes of the results depend on, besides the photographs and the model.

    Attributes:
        keep_largest, fill_holes: see `segmae.result.Result.cleaned`.
        measure: fill the column `measurements`; a scale asks for it too.
        mm_per_pixel: width and height of a pixel.
        masks: write each mask as a PNG file as well.
        shard_size: photographs in a shard.
        batch_size: photographs that the network sees at once. Their number changes the last bits of its result.
        threads: CPU threads of the network.
    """

    keep_largest: bool = False
    fill_holes: bool = False
    measure: bool = False
    mm_per_pixel: tuple[float, float] | None = None
    masks: bool = False
    shard_size: int = 256
    batch_size: int = 8
    threads: int = 1


@dataclass(frozen=True)
class Shard:
    """A part of the photographs.

    Attributes:
        number: from 0.
        first: index of its first photograph among all.
        start, end: where its lines are in the list of photographs, in bytes.
    """

    number: int
    first: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """By which its files are named: they sort by it up to a billion photographs of single shards."""
        return f"{self.number:09d}"

    def photographs(self, store: Store, plan: dict[str, Any]) -> list[str]:
        """Its photographs, as the plan lists them."""
        lines = store.read(sources_of(plan), self.start, self.end).splitlines()
        return [json.loads(line) for line in lines]


def made_by(predictor: Predictor, reads_heic: bool) -> dict[str, Any]:
    """The model and all software that the bytes of a shard depend on; workers that differ in any of it refuse to start."""
    from segmae import __version__

    # an ensemble names the engines of all its members
    packages = [*PACKAGES, *(name for name in ENGINES if name in predictor.engine.name)]
    packages += ["pi_heif"] if reads_heic else []
    return {
        "weights": predictor.digest,
        "threshold": predictor.info.threshold,
        "views": predictor.views,
        "engine": predictor.engine.name,
        "device": predictor.engine.device.split(":")[0],
        "processor": platform.machine(),
        "versions": {"segmae": __version__, **{name: _version(name) for name in packages}},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def make_plan(
    photographs: Sequence[str], settings: Settings, predictor: Predictor, device: str | None = None
) -> dict[str, Any]:
    """What `plan/plan.json` says; `device` is that of the workers, where it is not the predictor's."""
    digest = hashlib.sha256()
    for photograph in photographs:
        digest.update(_line(photograph))
    reads_heic = any(map(heic.is_named, photographs))
    return {
        "form": FORM,
        "photographs": {"number": len(photographs), "sha256": digest.hexdigest()},
        "settings": json.loads(json.dumps(asdict(settings))),
        "made_by": made_by(predictor, reads_heic) | ({"device": device} if device else {}),
    }


def sources_of(plan: dict[str, Any]) -> str:
    """The file that lists the photographs of a plan."""
    return f"plan/sources-{plan['photographs']['sha256'][:16]}.jsonl"


def settle(store: Store, plan: dict[str, Any], photographs: Sequence[str]) -> None:
    """Write the plan into a new folder, or see that the folder's is the same.

    Raises:
        DataError: the folder was begun with other photographs, another model or other options; or it holds something else.
    """
    try:
        before = store.read(PLAN)
    except FileNotFoundError:
        if not store.remote and store.names(".") - {"plan"}:
            raise DataError(f"{store.place}: holds files already. Choose an empty folder") from None
        with store.writing(sources_of(plan)) as file:
            for photograph in photographs:
                file.write(_line(photograph))
        if store.create(PLAN, to_json(plan)):
            return
        before = store.read(PLAN)  # another process came first
    try:
        said = json.loads(before)
    except ValueError as error:
        raise DataError(
            f"{store.at(PLAN)}: is damaged. Choose another folder, or bring the file back from a copy"
        ) from error
    if said == plan:
        return
    told = [
        f"{key}: {old} there, {new} now" for key, old, new in differences(said, plan) if "sha256" not in key
    ]
    if said.get("photographs") != plan["photographs"]:
        told.append(_first_other(store, said, photographs))
    remedy = "Give what it was begun with, or choose another folder"
    raise DataError(f"{store.place}: was begun with another plan ({'; '.join(told)}). {remedy}")


def cut(photographs: Sequence[str], size: int) -> Iterator[Shard]:
    """The shards, in order."""
    start = 0
    for number, first in enumerate(range(0, len(photographs), size)):
        end = start + sum(len(_line(one)) for one in photographs[first : first + size])
        yield Shard(number, first, start, end)
        start = end


def check_worker(plan: dict[str, Any], predictor: Predictor) -> None:
    """See that this process computes what the plan asks for.

    Raises:
        ConfigError: another model or other software than where the batch was begun.
    """
    planned = plan["made_by"]
    here = made_by(predictor, "pi_heif" in planned["versions"])
    if told := [f"{key}: {old} planned, {new} here" for key, old, new in differences(planned, here)]:
        raise ConfigError(
            f"{platform.node()}: cannot help with this batch ({'; '.join(told)}). Give every machine the same model and image"
        )


def digest_of(plan: dict[str, Any]) -> str:
    """By which a shard's file and manifest name their plan."""
    return hashlib.sha256(to_json(plan)).hexdigest()[:16]


def to_json(value: Any) -> bytes:
    """Indented, with a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _line(photograph: str) -> bytes:
    # in ASCII: a name may hold a newline, or be no valid Unicode
    return json.dumps(photograph).encode() + b"\n"


def _first_other(store: Store, plan: dict[str, Any], photographs: Sequence[str]) -> str:
    try:
        lines = store.read(sources_of(plan)).splitlines()
    except FileNotFoundError:
        return "the list of photographs is absent"
    for old, new in zip_longest((json.loads(line) for line in lines), photographs):
        if old != new:
            gone, come = (one if one is not None else "the end" for one in (old, new))
            return f"the photographs differ, first where {gone} was and {come} is"
    return "the list of photographs is damaged"
