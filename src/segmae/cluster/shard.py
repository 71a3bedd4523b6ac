"""One shard from photographs to a file that is written once: the part of a batch that a worker does."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmae.background import Room, ahead
from segmae.cluster.plan import MANIFESTS, MASKS, SHARDS, Settings, Shard, check_worker, digest_of, to_json
from segmae.cluster.rows import Row, read_mark, readable, to_parquet
from segmae.cluster.storage import Store, read_bytes
from segmae.data.images import PIXELS_AT_ONCE, Photo, read_image
from segmae.errors import TOO_LARGE, DataError, ImageError
from segmae.exchange import run_lengths
from segmae.measure import measure
from segmae.outputs import summary_row, wanted
from segmae.photographs import safe_name
from segmae.predict import KEPT
from segmae.predictor import Predictor

READERS = 4  # threads that fetch and decode while the network computes: a bucket answers late


class Worker:
    """A model in memory that computes shards of one plan.

    Args:
        store: the folder of the results.
        plan: what `plan/plan.json` there says.
        predictor: the model.

    Raises:
        ConfigError: the model or the software is not the plan's.
    """

    def __init__(self, store: Store, plan: dict[str, Any], predictor: Predictor) -> None:
        check_worker(plan, predictor)
        settings = dict(plan["settings"])
        scale = settings.pop("mm_per_pixel")
        self.settings = Settings(**settings, mm_per_pixel=scale and (scale[0], scale[1]))
        self.store, self.plan, self.predictor = store, plan, predictor
        self.digest = digest_of(plan)
        self.want = wanted(
            ["mask"], "contour", self.settings.keep_largest, self.settings.fill_holes, self.settings.measure,
            self.settings.mm_per_pixel,
        )  # fmt: skip
        self.room = Room(PIXELS_AT_ONCE)

    def do(self, shard: Shard) -> dict[str, Any]:
        """Compute a shard and write its files, unless they are there; its manifest.

        Raises:
            OutputError: the results cannot be written.
            DataError: a bucket or host did not answer; or the file of the shard belongs to another plan, or was changed.
        """
        mark = {"plan": self.digest, "shard": shard.number}
        if not self.store.exists(shard_file(shard)):
            content = to_parquet(list(self._rows(shard)), mark)
            if self.store.create(shard_file(shard), content):
                return note(self.store, shard, mark, content)
        return note(self.store, shard, mark, self.store.read(shard_file(shard)))

    def _rows(self, shard: Shard) -> Iterator[Row]:
        """In the order of the photographs, of which a few batches are in memory.

        Every batch has its full number, a black picture in the place of a photograph that cannot be read: the network's result for one
        photograph then never depends on the others.
        """
        size = self.settings.batch_size
        items = list(enumerate(shard.photographs(self.store, self.plan), shard.first))
        black = np.zeros((self.predictor.info.preprocess.size,) * 2 + (3,), np.uint8)
        with ThreadPoolExecutor(READERS) as pool:
            read = ahead(pool, lambda item: self._read(*item), items, 2 * size)
            for first in range(0, len(items), size):
                batch = list(islice(read, len(items[first : first + size])))
                images = [black if one.prepared is None else one.prepared for one in batch]
                images += [black] * (size - len(batch))
                found = self.predictor.network_probability(np.stack(images))
                pairs = zip(batch, found[: len(batch)], strict=True)
                yield from ahead(pool, lambda pair: self._row(shard, *pair), pairs, 2)

    def _read(self, index: int, place: str) -> _Photograph:
        content = b""
        try:
            content = read_bytes(place)
            if not content:
                raise ImageError(place, "is empty (0 bytes)", "Copy or download it again")
            photo, prepared = self.predictor.read_prepared(content, self.room)
            whole = photo.pixels.shape[:2] == (photo.height, photo.width)
            if not (self.want.measure and whole and photo.width * photo.height <= KEPT):
                photo = replace(photo, pixels=np.empty((0, 0, 3), np.uint8))
            return _Photograph(index, place, content, photo, prepared)
        except ImageError as error:
            return _Photograph(index, place, content, problem=f"{place}: {error.problem}. {error.remedy}")
        except MemoryError:
            return _Photograph(index, place, content, problem=f"{place}: {TOO_LARGE}")
        except OSError as error:
            reason = error.strerror or "absent or forbidden"
            return _Photograph(
                index,
                place,
                problem=f"{place}: cannot be read ({reason}). Check the name and the permissions",
            )

    def _row(self, shard: Shard, one: _Photograph, probability: NDArray[np.float32]) -> Row:
        row: Row = {"index": one.index, "file": readable(one.place)}
        if one.content:
            row["sha256"] = hashlib.sha256(one.content).hexdigest()
        if one.photo is None or one.prepared is None:
            return {**row, "error": readable(one.problem)}
        photo, settings = one.photo, self.settings
        try:
            with self.room.taken(photo.width * photo.height):
                result = self.predictor.result(probability, one.prepared, photo, one.content).cleaned(
                    settings.keep_largest, settings.fill_holes
                )
                found: Row = {"rle": run_lengths(result.mask)}
                if self.want.measure:
                    pixels = photo.pixels if photo.pixels.size else read_image(one.content).pixels
                    values = measure(pixels, result.mask, self.want.mm_per_pixel, result.contours)
                    found["measurements"] = values.to_dict()
                if settings.masks:
                    found["mask"] = self._write_mask(shard, one, result.mask)
        except ImageError as error:  # broken beyond what the reduced decoding saw
            return {**row, "error": readable(f"{one.place}: {error.problem}. {error.remedy}")}
        except MemoryError:
            return {**row, "error": readable(f"{one.place}: {TOO_LARGE}")}
        said = summary_row(result, self.predictor.views, self.want)
        return {
            **row, "width": photo.width, "height": photo.height, "orientation": photo.orientation, "frames": photo.frames,
            **{key: said[key] for key in ("lesion_share", "uncertainty", "expected_dice", "warnings")}, **found,
        }  # fmt: skip

    def _write_mask(self, shard: Shard, one: _Photograph, mask: NDArray[np.bool_]) -> str:
        name = f"{MASKS}/{shard.name}/{one.index:012d}_{safe_name(PurePosixPath(one.place).stem)}.png"
        buffer = io.BytesIO()
        Image.fromarray(mask.view(np.uint8) * np.uint8(255)).save(buffer, "PNG")
        self.store.replace(name, buffer.getvalue())
        return name


@dataclass(frozen=True)
class _Photograph:
    """A photograph on its way: read, or with the reason why it cannot be used. `content` are the bytes of its file."""

    index: int
    place: str
    content: bytes = b""
    photo: Photo | None = None
    prepared: NDArray[np.uint8] | None = None
    problem: str = ""


def shard_file(shard: Shard) -> str:
    """Where the rows of a shard are."""
    return f"{SHARDS}/{shard.name}.parquet"


def manifest_file(shard: Shard) -> str:
    """Where it is noted that a shard is done."""
    return f"{MANIFESTS}/{shard.name}.json"


def note(store: Store, shard: Shard, mark: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Write the manifest of a shard whose file is there, if it is not noted yet; what it says.

    Raises:
        DataError: the file is damaged, belongs to another plan, or is not the one that was noted.
    """
    where = store.at(shard_file(shard))
    try:
        found, rows, errors = read_mark(content)
    except (KeyError, OSError, ValueError) as error:  # pyarrow's own kinds are among these
        raise DataError(f"{where}: is damaged ({error}). Remove it and call again") from error
    if found != mark:
        raise DataError(f"{where}: belongs to another batch. Choose an empty folder")
    manifest = {
        **mark, "file": shard_file(shard), "rows": rows, "errors": errors, "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    if not store.create(manifest_file(shard), to_json(manifest)):
        noted = json.loads(store.read(manifest_file(shard)))
        if noted != manifest:
            raise DataError(f"{where}: is not the file that its manifest notes. Remove both and call again")
    return manifest
