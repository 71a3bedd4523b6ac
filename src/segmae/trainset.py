"""What is trained on: the cases of a split, their prepared images, and the batches of every step."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmae.checkpoint import members, read_info
from segmae.config import Config
from segmae.data.augment import Augment, Share
from segmae.data.catalog import Case, Dataset, find_data, open_dataset
from segmae.data.dataset import Cache, prepare
from segmae.data.splits import (
    Split,
    copies_apart,
    group_leaks,
    load_split,
    met_ids,
    overlap,
    training_leaks,
    with_lesions,
)
from segmae.distill import soft_masks
from segmae.errors import ConfigError, DataError
from segmae.losses import UNKNOWN
from segmae.models import model_function
from segmae.runstate import Listener, say
from segmae.tasks import Batch

WINDOW = 2  # stores of prepared images that are shuffled together


@dataclass(frozen=True)
class Trainset:
    """What a run trains and validates on.

    Attributes:
        cache: prepared images; of a set that `make_resident` gave, they are on the device.
        rows: of the cache, by part: `train` and `val`.
        classes: the diagnoses, whose places are the labels.
        targets: soft masks uint8 `[N,S,S]`, 0 to 255, one for each row of the cache, in place of its masks; None: these.
    """

    cache: Cache
    rows: Mapping[str, np.ndarray]
    classes: Sequence[str] = ()
    targets: Any = None


def choose_cases(config: Config) -> tuple[Split, Dataset, dict[str, tuple[Case, ...]]]:
    """The split, the dataset, and its cases in the parts train and val."""
    if not config.data.root or not config.data.split:
        raise ConfigError("data.root and data.split: name a dataset folder and a split, e.g. data.root=isic2018 "
                          "data.split=isic2018/fold1; `segmae data splits make` writes one for a folder of your own")  # fmt: skip
    split = load_split(config.data.split)
    leaks = training_leaks(split)
    if leaks and not config.data.allow_leaks:
        raise DataError(
            f"split {split.name}: {len(leaks)} ids are both trained and judged on, e.g. {', '.join(leaks[:3])}. "
            "Mend the split, or set data.allow_leaks=true if you must"
        )
    dataset = open_dataset(find_data(config.data.root))
    groups = group_leaks(split, dataset.cases)
    if groups and not config.data.allow_leaks:
        raise DataError(
            f"split {split.name}: {len(groups)} lesions or patients have images in two parts, e.g. {', '.join(groups[:3])}. "
            "Make it anew with `segmae data splits make`, or set data.allow_leaks=true if you must"
        )
    parts = {part: split.parts.get(part, ()) for part in ("train", "val")}
    if not parts["train"]:
        raise DataError(
            f"split {split.name}: it has no train part. `segmae data splits list` shows those that do"
        )
    if config.data.subset and config.data.subset < len(parts["train"]):
        chosen = np.random.default_rng(config.seed).permutation(len(parts["train"]))[: config.data.subset]
        parts["train"] = tuple(parts["train"][i] for i in sorted(chosen))
    cases = {part: dataset.select(ids) for part, ids in parts.items()}
    if config.task != "pretrain":
        without = [case.id for case in chain(*cases.values()) if case.mask is None]
        if without:
            raise DataError(f"{dataset.root}: {len(without)} cases have no mask, e.g. {', '.join(without[:3])}. "
                            "Add the masks or take the cases out of the split")  # fmt: skip
    return split, dataset, cases


def name_of(split: Split, dataset: Dataset) -> str:
    """The dataset's name, which a split of one's own does not say."""
    return split.dataset or dataset.title


def prepare_cases(
    config: Config, dataset: Dataset, parts: dict[str, tuple[Case, ...]], tell: Listener
) -> tuple[Cache, dict[str, np.ndarray]]:
    """The prepared images and the cache rows of each part."""
    told = False

    def preparing(done: int, total: int) -> None:  # is not called where the cache is there
        nonlocal told
        if not told:
            told = True
            say(tell, f"preparing {total} images of {dataset.title}")

    # all of the dataset, as `segmae data prepare` does: one cache for any split
    cache = prepare(dataset.cases, config.preprocess, folder=config.data.cache or None, progress=preparing)
    used = {case.id for case in chain(*parts.values())}
    if failures := [(name, reason) for name, reason in cache.failures if name in used]:
        name, reason = failures[0]
        raise DataError(f"{len(failures)} cases cannot be read, e.g. {name}: {reason}. "
                        f"`segmae data check {dataset.root}` lists them; repair them or take them out of the split")  # fmt: skip
    return cache, {part: cache.rows([case.id for case in cases]) for part, cases in parts.items()}


def count_classes(config: Config, classes: Sequence[str], dataset: str, tell: Listener) -> Config:
    """Set the option `classes` of a model with a classifier to the number of diagnoses in the training part; 0 for none."""
    if "classes" not in inspect.signature(model_function(config.model.name)).parameters:
        return config
    if not classes:
        say(tell, f"no class labels in {dataset}: the classifier of {config.model.name} is not trained")
    wanted = config.model.options.get("classes", len(classes))
    if wanted and (not classes or (isinstance(wanted, int) and wanted < len(classes))):
        raise ConfigError(
            f"model.options.classes={wanted}: the training part names {len(classes)} diagnoses ({', '.join(classes)}). "
            "Leave the option out, then they are counted; 0 leaves out the classifier"
        )
    return replace(config, model=replace(config.model, options={**config.model.options, "classes": wanted}))


def refuse_seen_images(
    provenance: dict[str, Any], split: Split, config: Config, what: str, cases: Sequence[Case], tell: Listener
) -> None:
    """A start (say, of stage 1) or a teacher must not have seen the images that this split validates or tests on.

    Args:
        cases: of the dataset; other images of a lesion or patient that it has seen count as seen.
        tell: is told where it does not say what it has seen.

    Raises:
        DataError: it has seen some, and `data.allow_leaks` is off.
    """
    trained, selected = met_ids(provenance)
    if not trained:
        text = f"those that split {split.name} judges on may be among them"
        say(tell, f"{what} does not say which images it was trained on: {text}")
    trained, selected = with_lesions(trained, cases), with_lesions(selected, cases)
    judged = split.parts.get("val", ()), split.parts.get("test", ())
    shared = sorted({*overlap(trained, [*judged[0], *judged[1]]), *overlap(selected, judged[1])})
    if shared and not config.data.allow_leaks:
        raise DataError(
            f"{what} was trained on, or chosen by, {len(shared)} images that split {split.name} judges on (or others of "
            f"their lesions), e.g. {', '.join(shared[:3])}. Train it on this split's own train part, or set data.allow_leaks=true"
        )


def tell_copies(split: Split, dataset: Dataset, tell: Listener) -> None:
    """Say which images lie in two parts under two ids; not refused, because public splits hold some."""
    if copied := copies_apart(split, dataset.cases):
        text = f"images with a copy, byte for byte, in another part: {len(copied)}, e.g. {', '.join(copied[:3])}. They are learnt and judged on"
        remedy = f"`segmae data check {dataset.root}` names the pairs: keep each in one part"
        say(tell, f"split {split.name}: {text}. {remedy}")


def check_teachers(
    config: Config, split: Split, cases: Sequence[Case], tell: Listener
) -> list[dict[str, Any]]:
    """The provenance of the teachers, each of which `refuse_seen_images` lets pass."""
    found = []
    for teacher in config.distillation.teachers:
        for single in members(teacher):
            found.append(read_info(single).provenance)
            refuse_seen_images(found[-1], split, config, f"distillation.teachers: {teacher}", cases, tell)
    return found


def soft_targets(
    config: Config,
    dataset: Dataset,
    cache: Cache,
    rows: np.ndarray,
    folder: Path,
    tell: Listener,
) -> np.ndarray | None:
    """The masks of the cache's rows mixed with what the teachers say of them, uint8 0 to 255; None without teachers."""
    c = config.distillation
    if not c.teachers:
        return None
    ids, size = [cache.ids[row] for row in rows], config.preprocess.size
    say(tell, f"soft masks of {len(ids)} images by {len(c.teachers)} teachers")
    soft = soft_masks(c.teachers, c.views, dataset.cases, ids, size, folder, config.data.cache or None)
    targets = np.zeros(cache.masks.shape, np.uint8)
    for row, said in zip(rows, soft, strict=True):
        targets[row] = np.rint(cache.masks[row] * (255 * (1 - c.weight)) + said * c.weight)
    return targets


def step_seed(config: Config, epoch: int, step: int) -> int:
    """One seed for each step of a run; step -1 stands for the epoch's order of images."""
    return int.from_bytes(hashlib.sha256(f"{config.seed} {epoch} {step}".encode()).digest()[:7], "big")


def epoch_batches(
    rows: np.ndarray, config: Config, epoch: int, processes: int = 1, starts: Sequence[int] = (0,)
) -> list[np.ndarray]:
    """The rows of each batch of an epoch, shuffled; what does not fill a last batch waits for another epoch.

    Args:
        rows: of the cache, to train on.
        processes: that share every batch evenly.
        starts: first row of each store of the cache. Of several, `WINDOW` at a time are shuffled together, others in each
            epoch: what is read at a time fits into memory, and a disk is read from place to place.

    Raises:
        ConfigError: fewer images than processes.
    """
    draw, store = np.random.default_rng(step_seed(config, epoch, -1)), np.searchsorted(starts, rows, "right")
    stores = np.unique(store) if len(starts) <= WINDOW else draw.permutation(np.unique(store))
    windows = [stores[i : i + WINDOW] for i in range(0, len(stores), WINDOW)]
    order = np.concatenate([draw.permutation(rows[np.isin(store, window)]) for window in windows])
    size = min(config.batch_size, len(rows) - len(rows) % processes)
    if not size:
        raise ConfigError(f"{len(rows)} training images for {processes} processes. Start fewer of them")
    return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]


def load_batch(
    data: Trainset, rows: np.ndarray, augment: Augment, device: torch.device, share: Share | None = None
) -> Batch:
    """Read prepared images, move them to the device and augment them there.

    Args:
        rows: of the joined batch.
        share: of the joined batch that is read; default: all of it.
    """
    share, cache, soft = share or Share(len(rows)), data.cache, data.targets is not None
    rows = share.of(rows)
    images = _rows_of(cache.images, rows, device)
    masks = _rows_of(data.targets if soft else cache.masks, rows, device)
    if soft:
        # by a number torch would multiply: 255 would not give 1
        masks = masks.float() / torch.full((), 255.0, device=device)
    image, mask = augment(images, masks, share)
    names = [cache.labels[row] for row in rows]
    labels = torch.tensor(
        [data.classes.index(name) if name in data.classes else UNKNOWN for name in names], dtype=torch.int64
    )
    return Batch(
        image,
        mask,
        [cache.ids[row] for row in rows],
        labels.to(device, non_blocking=True),
        classes=len(data.classes),
    )


def _rows_of(values: Any, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values[torch.from_numpy(rows).to(values.device, non_blocking=True)]
    return torch.from_numpy(values[rows]).to(device, non_blocking=True)


def make_resident(data: Trainset, device: torch.device) -> Trainset:
    """The same with its images kept as bytes in the device's memory, but for those that no part has."""
    cache, used = data.cache, np.unique(np.concatenate(list(data.rows.values())))

    def kept(values: Any) -> Any:
        return torch.from_numpy(values[used]).to(device)

    ids, labels = (tuple(values[row] for row in used) for values in (cache.ids, cache.labels))
    starts = tuple(np.searchsorted(used, cache.starts).tolist())  # kept: each epoch's order follows from them
    small = replace(
        cache, images=kept(cache.images), masks=kept(cache.masks), ids=ids, labels=labels, sizes=cache.sizes[used],
        starts=starts,
    )  # fmt: skip
    moved = {part: np.searchsorted(used, chosen) for part, chosen in data.rows.items()}
    return replace(
        data, cache=small, rows=moved, targets=None if data.targets is None else kept(data.targets)
    )
