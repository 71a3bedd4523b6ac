"""Knowledge distillation (Hinton et al., 2015): what other models say of the training images, as soft masks.

The masks of two experts agree at a Dice of about .8; the mean of several models over several views is a steadier
answer. It is computed once, before the first step, on the images as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segmae.checkpoint import members, own_weights
from segmae.config import config_to_dict
from segmae.data.catalog import Case
from segmae.data.dataset import prepare
from segmae.data.preprocess import restore
from segmae.files import atomic_path
from segmae.predictor import load

BATCH = 16


def soft_masks(
    teachers: Sequence[str], views: int, cases: Sequence[Case], ids: Sequence[str], size: int, folder: Path, cache: str | None
) -> np.ndarray:  # fmt: skip
    """The teachers' mean probability of lesion.

    Args:
        teachers: models, see `segmae.checkpoint.resolve`; each prepares the images in its own way.
        views: how many of the eight ways to lay a picture are averaged, see `segmae.views`.
        cases: of the dataset, prepared as a whole, so that runs share the prepared images.
        ids: whose soft masks are wanted, in this order.
        size: side of the soft masks, pixels.
        folder: where they are kept for the next call, under a name that changes with the teachers' weights and preprocessing, the images,
            `views`, `ids` and `size`; not with what is exported beside the weights, so that a run goes on with the masks that it began with.
        cache: folder of prepared images; None: the user's.

    Returns:
        uint8 `[N,size,size]`, 0 to 255 for probabilities of 0 to 1.
    """
    predictors = [load(teacher, views=views) for teacher in teachers]
    prepared = [prepare(cases, predictor.info.preprocess, folder=cache) for predictor in predictors]
    images = [store.digest for store in prepared]
    weights = [[own_weights(single) for single in members(teacher)] for teacher in teachers]
    seen_as = [config_to_dict(predictor.info.preprocess) for predictor in predictors]
    asked = json.dumps([weights, seen_as, views, images, list(ids), size])
    keep = folder / f"soft_masks-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.npy"
    if keep.is_file():
        kept: np.ndarray = np.load(keep, allow_pickle=False)
        return kept
    total = np.zeros((len(ids), size, size), np.float32)
    for predictor, store in zip(predictors, prepared, strict=True):
        rows = store.rows(ids)
        for start in range(0, len(rows), BATCH):
            for i, one in enumerate(predictor.network_probability(store.images[rows[start : start + BATCH]])):
                total[start + i] += restore(one, (size, size))
    soft = np.rint(total * (255 / len(teachers))).astype(np.uint8)
    with atomic_path(keep) as temporary, temporary.open("wb") as file:
        np.save(file, soft)
    return soft
