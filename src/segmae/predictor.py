"""A model in memory: from a photograph to its mask at the photograph's own size.

Preprocessing and threshold come from the model; nothing is guessed here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmae.background import Room
from segmae.checkpoint import (
    CALIBRATION,
    CONFIG,
    ENSEMBLE,
    ONNX,
    OPENVINO,
    WEIGHTS,
    ModelInfo,
    embedded_models,
    members,
    read_info,
    refuse_stage_1,
    resolve,
)
from segmae.data.images import Photo, content_of, image_size, read_image
from segmae.data.preprocess import normalize, prepare_photo
from segmae.engines import Engine, create_engine, is_the_network
from segmae.ensemble import open_ensemble, tuned_threshold
from segmae.errors import CheckpointError, ConfigError
from segmae.photographs import file_stamp
from segmae.result import Result, find_mask
from segmae.trust import Trust, appearance, load_trust
from segmae.views import check_views, turn, turn_back

DEFAULT_MODEL = "segmae-tiny"

Models = str | Path | Sequence[str | Path]  # one model, or several of which the mean is taken


class Predictor:
    """A model in memory: call it with a photograph or several, from any thread. See `load`.

    What `load` made can be pickled, for worker processes: the copy loads the same files again, which have to be there unchanged.

    Attributes:
        info: what the model is, see `segmae.checkpoint.ModelInfo`.
        engine: what computes, see `segmae.engines.Engine`.
        views: how many of the eight ways to lay a picture are averaged, see `segmae.views`.
        trust: what the model's calibration knows, see `segmae.trust.Trust`; None without one.
        digest: SHA-256 of weights and settings, shortened, by which results name the model.
    """

    def __init__(
        self, info: ModelInfo, engine: Engine, views: int = 1, trust: Trust | None = None, digest: str = ""
    ) -> None:
        self.info, self.engine, self.views, self.trust, self.digest = info, engine, views, trust, digest
        # arguments of `load`, its models by their absolute paths
        self.loaded_by: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.loaded_by is None:
            raise TypeError("only predictors that segmae.load made can be pickled")
        return _load_again, (self.loaded_by, self.digest, self.info, self.views, self.trust)

    def __copy__(self) -> Predictor:
        copied = Predictor(self.info, self.engine, self.views, self.trust, self.digest)
        copied.loaded_by = self.loaded_by
        return copied

    def __repr__(self) -> str:
        size = self.info.preprocess.size
        return f"Predictor({self.info.architecture}, {size} px, {self.engine.name}, views={self.views}, weights={self.digest})"

    @overload
    def __call__(self, source: list[Any] | tuple[Any, ...]) -> list[Result]: ...
    @overload
    def __call__(self, source: Any) -> Result: ...
    def __call__(self, source: Any) -> Any:
        """Segment one photograph, or each of a list of them.

        Args:
            source: a path, bytes, an open file, a PIL image or an array, see `segmae.data.images.read_image`; or a list of these.

        Returns:
            A `Result`, or a list of them in the same order.

        Raises:
            ImageError: a photograph cannot be read. For a batch that goes on after it, see `predict_files`.
        """
        sources = list(source) if isinstance(source, list | tuple) else [source]
        found = []
        for one in map(content_of, sources):
            stamp = file_stamp(Path(one)) if isinstance(one, str | os.PathLike) else None
            photo = self.read(one)
            prepared = prepare_photo(photo, self.info.preprocess)
            if isinstance(one, Image.Image | np.ndarray):
                one = photo.pixels  # a copy: what was given may be changed or used again
            probability = self.network_probability(prepared[None])[0]
            found.append(replace(self.result(probability, prepared, photo, one), stamp=stamp))
        return found if isinstance(source, list | tuple) else found[0]

    def read(self, source: Any) -> Photo:
        """Decode a photograph, at reduced scale where the network sees no more of it."""
        return read_image(source, at_least=self.info.preprocess.size)

    def read_prepared(self, source: Any, room: Room) -> tuple[Photo, NDArray[np.uint8]]:
        """`read`, and the network's input `[S,S,3]`, as soon as there is room for the photograph's pixels; of a path or bytes."""
        width, height = image_size(source)
        with room.taken(width * height):
            photo = self.read(source)
            return photo, prepare_photo(photo, self.info.preprocess)

    def network_probability(self, images: NDArray[np.uint8], views: int | None = None) -> NDArray[np.float32]:
        """Probability of lesion as the network gives it.

        Args:
            images: prepared, uint8 `[B,S,S,3]` (`segmae.data.preprocess.prepare_photo`).
            views: the mean over so many of the eight ways to lay a picture (`segmae.views`); default: the predictor's.

        Returns:
            float32 `[B,S,S]` in [0, 1].

        Raises:
            CheckpointError: the network's output is not a number.
        """
        found = [turn_back(self._one_view(turn(images, view)), view) for view in range(views or self.views)]
        return found[0] if len(found) == 1 else np.mean(found, 0, dtype=np.float32)

    def _one_view(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = self.engine(normalize(images, self.info.preprocess))[:, 0]
        if not np.isfinite(logits).all():
            raise CheckpointError(
                "the network's output is not a number: its weights are damaged or training diverged. Take an earlier checkpoint"
            )
        # the logistic function, without overflow
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)

    def result(
        self, probability: NDArray[np.float32], prepared: NDArray[np.uint8], photo: Photo, source: Any
    ) -> Result:
        """The network's probability `[S,S]` for a prepared image `[S,S,3]`, at the photograph's size."""
        threshold, expected = self.info.threshold, None
        warnings: list[str] = []
        if self.trust is not None:
            seen = appearance(prepared, probability > threshold)
            expected = self.trust.expect(seen, probability, threshold, self.views)
            warnings = self.trust.exceeded(seen)
        mask = find_mask(probability, threshold, (photo.width, photo.height))
        return Result(mask, probability, threshold, source, photo.orientation, expected, tuple(warnings))


def load(
    model: Models = DEFAULT_MODEL,
    engine: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    views: int = 1,
) -> Predictor:
    """Load a model once, to predict with it many times.

    Args:
        model: an embedded model's name, a model folder, a run's folder, a `.safetensors` file or an ensemble's folder; or a list of
            these, of whose probabilities the mean is taken. Such a list has no calibration; an ensemble's folder may have one.
        engine, threads, device: see `segmae.engines.create_engine`.
        views: the mean over the first so many, 1 to 8, of the ways to lay a picture (`segmae.views`), at so many times the cost;
            8, all quarter turns and mirror images, is the usual test-time augmentation.

    Raises:
        CheckpointError: no such model, one named twice, or it is damaged.
        ConfigError: no model named, or a number of views that there is not.
        MissingExtra: the model has no model.onnx and torch is not installed.
    """
    check_views(views)
    threads = None if threads is None else int(threads)
    device = None if device is None else str(device)  # torch's own kind, too
    named: list[str | Path] = list(model) if isinstance(model, Iterable) and not isinstance(model, str) else [model]  # fmt: skip
    if not named or not all(isinstance(one, str | os.PathLike) for one in named):
        raise ConfigError(
            f"model={model!r}: no model is named so. Name a model or a folder, or a list of them"
        )
    singles = [single for one in named for single in members(one)]
    for single in singles:
        if singles.count(single) > 1:
            raise CheckpointError(f"{single}: is named twice. Its mean with itself changes nothing")
        refuse_stage_1(single)
    place = resolve(named[0]) if len(named) == 1 else None
    before = _stamps(singles, place)
    if len(singles) == 1:
        info, network = read_info(singles[0]), create_engine(singles[0], engine, threads, device)
    else:
        info, network = open_ensemble(
            singles, tuned_threshold(place) if place else None, engine, threads, device
        )
    trust = load_trust(place / CALIBRATION) if place else None
    digest = model_digest(singles, place, views, network.name)
    if _stamps(singles, place) != before:
        # a run that goes on has replaced them: results would be named after weights that they are not of
        return load(model, engine, threads, device, views)
    predictor = Predictor(info, network, views, trust, digest)
    places = [str(one) if str(one) in embedded_models() else str(resolve(one).absolute()) for one in named]
    predictor.loaded_by = {"model": places, "engine": engine, "threads": threads, "device": device, "views": views}  # fmt: skip
    return predictor


def _stamps(singles: Sequence[Path], place: Path | None) -> list[list[int] | None]:
    """By which the files that models are read from are known again."""
    names = (CONFIG, WEIGHTS, ONNX, *OPENVINO, ENSEMBLE, CALIBRATION)
    folders = [*singles, *([place] if place else [])]
    return [
        file_stamp(path) for one in folders for path in ([one] if one.is_file() else map(one.joinpath, names))
    ]


def _load_again(
    loaded_by: dict[str, Any], digest: str, info: ModelInfo, views: int, trust: Trust | None
) -> Predictor:
    """What may have been set after loading comes along."""
    predictor = copy(_load_once(json.dumps(loaded_by), digest))
    predictor.info, predictor.views, predictor.trust = info, views, trust
    return predictor


@lru_cache(maxsize=4)
def _load_once(loaded_by: str, digest: str) -> Predictor:
    """Loaded: a worker process gets the same predictor with every task. The last four stay in memory."""
    arguments = json.loads(loaded_by)
    predictor = load(**arguments)
    if predictor.digest != digest:
        raise CheckpointError(f"{', '.join(arguments['model'])}: has changed since the predictor was pickled")
    return predictor


def model_digest(singles: Sequence[Path], place: Path | None, views: int, engine: str) -> str:
    """SHA-256 of the weights and of what is done with them (threshold, preprocessing, views, calibration), shortened.

    torch and onnxruntime count as one, unless model.onnx holds other weights (bf16, int8, or those of an earlier model), as files of
    OpenVINO may.

    Args:
        place: the model's or the ensemble's folder, where its calibration lies; None for models named one by one.
    """
    files = []
    for model in singles:
        onnx = model / ONNX
        weights = [onnx, model / WEIGHTS, model]
        if "torch" in engine and onnx.is_file() and not is_the_network(onnx):
            weights.remove(onnx)
        if "openvino" in engine:  # an ensemble names the engines of all its members
            weights.insert(0, model / OPENVINO[1])
        files += [next(path for path in weights if path.is_file()), model / CONFIG]
    files += [place / ENSEMBLE, place / CALIBRATION] if place else []
    content = [path.read_bytes() for path in files if path.is_file()]
    if views > 1:
        content.append(f"{views} views".encode())
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]
