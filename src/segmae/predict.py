"""From photographs to masks at the photographs' own size: in Python, and for files and folders.

Preprocessing and threshold come from the model; nothing is guessed here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmae import overlay as drawing
from segmae.background import ahead, usable_cpus
from segmae.checkpoint import CONFIG, ONNX, WEIGHTS, ModelInfo, read_info, resolve
from segmae.data.catalog import MASK_ENDING, image_files, open_datasets
from segmae.data.preprocess import Photo, normalize, prepare_image, read_image, restore
from segmae.engines import Engine, create_engine
from segmae.errors import CheckpointError, DataError, ImageError
from segmae.files import atomic_path, atomic_write, make_folder

DEFAULT_MODEL = "segmae-tiny"
RESULTS = "results.jsonl"
OUTPUTS = ("_mask", "_overlay")  # endings of the pictures that `predict_files` writes
TOO_LARGE = "does not fit into memory. Scale it down"

Progress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True)
class Result:
    """What a model found in one photograph, upright and at the photograph's own size.

    Attributes:
        mask: bool `[height,width]`: True is lesion.
        probability: float32 `[height,width]` in [0, 1], of lesion.
        threshold: the mask is where the probability exceeds it.
        source: what was given: a path, an image or an array.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    threshold: float
    source: Any

    @property
    def lesion_share(self) -> float:
        """Share of the photograph that is lesion, in [0, 1]."""
        return float(self.mask.mean())

    def overlay(self) -> Image.Image:
        """The photograph with the lesion's contour in cyan."""
        return Image.fromarray(drawing.overlay(read_image(self.source).pixels, self.mask))


class Predictor:
    """A model in memory: call it with a photograph or several. See `load`.

    Attributes:
        info: what the model is, see `segmae.checkpoint.ModelInfo`.
        engine: what computes, see `segmae.engines.Engine`.
        digest: SHA-256 of weights and settings, shortened, by which results name the model.
    """

    def __init__(self, info: ModelInfo, engine: Engine, digest: str = "") -> None:
        self.info, self.engine, self.digest = info, engine, digest

    @overload
    def __call__(self, source: list[Any] | tuple[Any, ...]) -> list[Result]: ...
    @overload
    def __call__(self, source: Any) -> Result: ...
    def __call__(self, source: Any) -> Any:
        """Segment one photograph, or each of a list of them.

        Args:
            source: a path, bytes, a PIL image or an array, see `segmae.data.preprocess.read_image`; or a list of these.

        Returns:
            A `Result`, or a list of them in the same order.

        Raises:
            ImageError: a photograph cannot be read. For a batch that goes on after it, see `predict_files`.
        """
        sources = list(source) if isinstance(source, list | tuple) else [source]
        found = []
        for one in sources:
            photo = self.read(one)
            probability = self.network_probability(prepare_image(photo.pixels, self.info.preprocess)[None])
            found.append(self.result(probability[0], photo, one))
        return found if isinstance(source, list | tuple) else found[0]

    def read(self, source: Any) -> Photo:
        """Decode a photograph, at reduced scale where the network sees no more of it."""
        return read_image(source, at_least=self.info.preprocess.size)

    def network_probability(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probability of lesion as the network gives it.

        Args:
            images: prepared, uint8 `[B,S,S,3]` (`segmae.data.preprocess.prepare_image`).

        Returns:
            float32 `[B,S,S]` in [0, 1].

        Raises:
            CheckpointError: the network's output is not a number.
        """
        logits = self.engine(normalize(images, self.info.preprocess))[:, 0]
        if not np.isfinite(logits).all():
            raise CheckpointError(
                "the network's output is not a number: its weights are damaged or training diverged"
            )
        return np.asarray(
            0.5 + 0.5 * np.tanh(0.5 * logits), np.float32
        )  # the logistic function, without overflow

    def result(self, probability: NDArray[np.float32], photo: Photo, source: Any) -> Result:
        """The network's probability `[S,S]` at the photograph's size."""
        full = restore(probability, (photo.width, photo.height))
        return Result(full > self.info.threshold, full, self.info.threshold, source)


def load(
    model: str | Path = DEFAULT_MODEL,
    engine: str = "auto",
    threads: int | None = None,
    device: str | None = None,
) -> Predictor:
    """Load a model once, to predict with it many times.

    Args:
        model: an embedded model's name, a model folder, a run's folder or a `.safetensors` file.
        engine, threads, device: see `segmae.engines.create_engine`.

    Raises:
        CheckpointError: no such model, or it is damaged.
        MissingExtra: the model has no model.onnx and torch is not installed.
    """
    info = read_info(model)
    if info.provenance.get("task") == "pretrain":
        raise CheckpointError(
            f"{resolve(model)}: was trained by stage 1 only and cannot segment yet. Train stage 2 with model.start={model}"
        )
    return Predictor(info, create_engine(model, engine, threads, device), _digest(resolve(model)))


@dataclass
class Predictions:
    """What `predict_files` did.

    Attributes:
        folder: where the pictures and results.jsonl are.
        rows: one per photograph that was segmented, as in results.jsonl, in the order given.
        failures: the others: `file` and `problem`.
        skipped: how many of the rows an earlier call had done.
    """

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    skipped: int = 0


def predict_files(
    sources: Sequence[str | Path],
    out: str | Path,
    model: str | Path = DEFAULT_MODEL,
    *,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    batch_size: int = 8,
    resume: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Segment files and folders; write `NAME_mask.png` (0/255), `NAME_overlay.png` and one `results.jsonl` into `out`.

    A file that cannot be read is listed in `failures` and in results.jsonl, and the rest goes on. The same input
    gives the same bytes. Results of other photographs that `out` holds already stay.

    Args:
        sources: image files, folders of images, or dataset folders, see `find_photographs`.
        out: folder, created where needed.
        batch_size: photographs that the network sees at once.
        resume: leave out what an earlier call with the same model has done and whose file has not changed since.
        progress: called after every file.

    Raises:
        DataError: not one file in `sources`, or `out` holds the results of another photograph of the same name.
        OutputError: `out` cannot be written.
        CheckpointError: no usable model.
    """
    photographs = find_photographs(sources)
    predictor = load(model, engine, threads, device)
    folder = make_folder(out)
    digest = _digest(resolve(model))
    rows = _earlier_rows(folder)
    for name, path in photographs.items():
        before = Path(rows[name]["file"]) if name in rows else path
        if before.resolve() != path.resolve():
            raise DataError(
                f"{folder}: '{name}' is the result of {before} there. Choose another folder for {path}"
            )
    done = {
        name
        for name, path in photographs.items()
        if resume and _is_done(rows.get(name), path, folder, digest)
    }
    todo = [item for item in photographs.items() if item[0] not in done]
    report, log = Predictions(folder, skipped=len(done)), folder / RESULTS
    atomic_write(log, _lines(rows.values()))  # later lines of a name replace earlier ones

    with ThreadPoolExecutor(min(4, usable_cpus())) as pool, log.open("a", encoding="utf-8") as journal:
        photos = ahead(pool, lambda item: _read(predictor, *item), todo, 2 * batch_size)
        batch: list[_Photograph] = []
        for index, photo in enumerate(photos, 1):
            if photo.decoded is None:
                rows[photo.name] = photo.row()
            else:
                batch.append(photo)
            if len(batch) == batch_size or (index == len(todo) and batch):
                inputs = [
                    prepare_image(p.decoded.pixels, predictor.info.preprocess) for p in batch if p.decoded
                ]
                found = predictor.network_probability(np.stack(inputs))
                pairs = zip(batch, found, strict=True)
                for row in ahead(pool, lambda pair: _write(folder, predictor, *pair, digest), pairs, 2):
                    rows[row["name"]] = row
                    journal.write(_lines([row]))
                journal.flush()
                batch = []
            if progress:
                progress(len(done) + index, len(photographs))
    ordered = [rows[name] for name in photographs]
    atomic_write(log, _lines([*(row for name, row in rows.items() if name not in photographs), *ordered]))
    report.rows = [row for row in ordered if "error" not in row]
    report.failures = [{"file": row["file"], "problem": row["error"]} for row in ordered if "error" in row]
    return report


def find_photographs(sources: Sequence[str | Path]) -> dict[str, Path]:
    """Files by the name that their results get, in the order given.

    Of a folder: the images directly in it without masks and pictures that segmae wrote, else the cases of the datasets
    that it holds. A name is the file's without ending; where several files share it, with ending, then numbered.

    Raises:
        DataError: not one image; a folder that holds none is named.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        try:
            files += _images_of(path) if path.is_dir() else [path]
        except DataError:
            if len(sources) == 1:
                raise
            files.append(path)  # it fails like a broken file, and the rest goes on
    if not files:
        raise DataError("no photographs given. Name image files or folders")
    files = list(dict.fromkeys(files))
    stems, names = Counter(path.stem.lower() for path in files), Counter(path.name.lower() for path in files)
    found: dict[str, Path] = {}
    for path in files:
        name = path.stem if stems[path.stem.lower()] == 1 else path.name
        number = 1
        if names[path.name.lower()] > 1:
            while (numbered := f"{path.stem}-{number}{path.suffix}") in found:
                number += 1
            name = numbered
        found[name] = path
    return found


def _images_of(folder: Path) -> list[Path]:
    written = {row.get(kind) for row in _earlier_rows(folder).values() for kind in ("mask", "overlay")}
    files = [path for path in image_files(folder) if path.name not in written]
    stems = {path.stem for path in files} | {path.name for path in files}  # results are named by either

    def made_of_another(path: Path) -> bool:
        ending = MASK_ENDING.search(path.stem)
        return bool(ending and path.stem[: ending.start()] in stems) or any(
            path.stem.endswith(end) and path.stem.removesuffix(end) in stems for end in OUTPUTS
        )

    files = [p for p in files if not (made_of_another(p) or p.stem.lower().endswith("_superpixels"))]
    if files:
        return files
    if written:
        raise DataError(
            f"{folder}: no photographs found, only results of an earlier run. Name image files or a folder of them"
        )
    try:
        return [case.image for dataset in open_datasets(folder) for case in dataset.cases]
    except DataError as error:
        raise DataError(
            f"{folder}: no photographs found. Name image files or a folder of them ({error})"
        ) from error


@dataclass(frozen=True)
class _Photograph:
    """A file on its way through `predict_files`: decoded, or with the reason why it cannot be used."""

    name: str
    path: Path
    decoded: Photo | None = None
    problem: str = ""

    def row(self, **found: Any) -> dict[str, Any]:
        return {"name": self.name, "file": str(self.path), **(found or {"error": self.problem})}


def _read(predictor: Predictor, name: str, path: Path) -> _Photograph:
    try:
        return _Photograph(name, path, predictor.read(path))
    except (ImageError, OSError) as error:
        return _Photograph(name, path, problem=str(error))
    except MemoryError:
        return _Photograph(name, path, problem=f"{path}: {TOO_LARGE}")


def _write(
    folder: Path, predictor: Predictor, photo: _Photograph, probability: NDArray[np.float32], digest: str
) -> dict[str, Any]:
    """Write one photograph's pictures; its row."""
    assert photo.decoded is not None
    mask, overlay = (folder / f"{photo.name}{ending}.png" for ending in OUTPUTS)
    try:
        result = predictor.result(probability, photo.decoded, photo.path)
        height, width = result.mask.shape
        whole = photo.decoded.pixels.shape[:2] == (height, width)
        pixels = photo.decoded.pixels if whole else read_image(photo.path).pixels
        pictures = (
            (mask, result.mask.astype(np.uint8) * np.uint8(255)),
            (overlay, drawing.overlay(pixels, result.mask)),
        )
    except ImageError as error:  # broken beyond what the reduced decoding saw
        return photo.row(error=str(error))
    except MemoryError:
        return photo.row(error=f"{photo.path}: {TOO_LARGE}")
    for path, picture in pictures:
        with atomic_path(path) as temporary:
            Image.fromarray(picture).save(temporary, "PNG", compress_level=3)
    return photo.row(
        width=width, height=height, lesion_share=round(result.lesion_share, 6), threshold=result.threshold,
        mask=mask.name, overlay=overlay.name, weights=digest, stamp=_stamp(photo.path),
    )  # fmt: skip


def _stamp(path: Path) -> list[int] | None:
    """Size in bytes and time of change, by which `resume` knows a file again."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _digest(model: Path) -> str:
    """SHA-256 of the weights and of what is done with them (threshold, preprocessing), shortened."""
    files = [path for path in (model / ONNX, model / WEIGHTS, model) if path.is_file()]
    content = [path.read_bytes() for path in (files[0], model / CONFIG) if path.is_file()]
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]


def _earlier_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What results.jsonl of a folder says, by name."""
    log = folder / RESULTS
    rows: dict[str, dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            row = json.loads(line)
            rows[row["name"]] = {**row, "file": str(row["file"])}
        except (
            json.JSONDecodeError,
            KeyError,
            TypeError,
        ):  # half a line of a killed call, or another program's file
            continue
    return rows


def _is_done(row: dict[str, Any] | None, path: Path, folder: Path, digest: str) -> bool:
    """An earlier call did it with this model, its pictures are there, and the photograph has not changed."""
    if row is None or row.get("weights") != digest or row.get("stamp") != _stamp(path):
        return False
    return all((folder / row[kind]).is_file() for kind in ("mask", "overlay"))


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
