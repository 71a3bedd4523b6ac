"""A photograph to its result: decoding, network and what follows, each off the event loop.

What the network is asked is what `Predictor.__call__` asks it, and what is made of the answer too: a result is the same bits
as the direct prediction's, whatever batch it was computed in.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segmae.background import Room
from segmae.data.images import PIXELS_AT_ONCE, Photo
from segmae.data.preprocess import prepare_image
from segmae.dicom import DicomObject, open_object
from segmae.errors import TOO_LARGE, ImageError, MissingExtra
from segmae.measure import with_aspect
from segmae.predictor import Predictor
from segmae.result import Result
from segmae.serve.engine import Closed, Engine, Full, Output
from segmae.serve.metrics import Metrics
from segmae.serve.problems import Problem

Done = TypeVar("Done")

SIGNATURES = {  # of the files that are read: how each begins
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
}


@dataclass(frozen=True)
class Prepared:
    """A photograph ready for the network.

    Attributes:
        photo: without its pixels.
        image: uint8 `[S,S,3]`.
        source: what `Result.source` will be: the file's bytes, or a DICOM frame's pixels.
        mm_per_pixel: (width, height), where the file says it.
        pixel_aspect: height / width of a pixel, by the file's scale or its ratio alone; 1 where it says neither.
        frames: pages or frames of the file; this is one of them.
    """

    photo: Photo
    image: NDArray[np.uint8]
    source: Any = field(repr=False)
    mm_per_pixel: tuple[float, float] | None = None
    frames: int = 1
    pixel_aspect: float = 1.0

    @property
    def pixels(self) -> int:
        return self.photo.width * self.photo.height

    def scale(self, given: tuple[float, float] | None) -> tuple[float, float] | None:
        """(width, height) of a pixel in mm: what a request gives, else what the file says."""
        return with_aspect(given, self.pixel_aspect) or self.mm_per_pixel


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a photograph in each stage. `decode` and `finish` include the wait for a free thread."""

    decode: float
    queue: float
    network: float
    finish: float = 0.0


def kind_of(data: bytes) -> str:
    """`JPEG`, `PNG`, `TIFF`, `BMP`, `GIF`, `WEBP` or `DICOM`, by how the file begins; empty for all else."""
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for kind, starts in SIGNATURES.items() if data.startswith(starts)), "")


@contextmanager
def held_file(data: bytes) -> Iterator[Path]:
    """A path under which bytes can be read, for as long as the block lasts: in memory where the system can."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("segmae", os.MFD_CLOEXEC)
        try:
            with os.fdopen(handle, "wb", closefd=False) as file:
                file.write(data)
            yield Path(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
        return
    with tempfile.TemporaryDirectory(prefix="segmae-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        yield path


def open_dicom(data: bytes) -> DicomObject:
    """See `segmae.dicom.open_object`; the object needs its file no more."""
    with held_file(data) as path:
        return open_object(path)


class Worker:
    """Takes photographs through decoding, network and the finish.

    Args:
        predictors: by number of views; all with one engine.
        engine: gathers the images of all.
        threads: that decode and finish.
    """

    def __init__(
        self, predictors: dict[int, Predictor], engine: Engine, threads: int, metrics: Metrics
    ) -> None:
        self.predictors, self.engine, self.metrics = predictors, engine, metrics
        self.pool = ThreadPoolExecutor(threads, "work")
        self.room = Room(PIXELS_AT_ONCE)  # pixels that the threads work on

    # -- steps; they block

    def prepare(self, data: bytes, frame: int = 1) -> Prepared:
        """Decode a file.

        Raises:
            Problem: 415 for another kind of file, 422 where it cannot be read.
        """
        kind = kind_of(data)
        if not kind:
            types = "the image is not of a type that is read: JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM"
            raise Problem(415, types if data else "the image's file is empty")
        with refused():
            if kind == "DICOM":
                opened = open_dicom(data)
                with self.room.taken(opened.width * opened.height):
                    pixels, said = opened.frame(frame)
                    image = prepare_image(pixels, self.predictors[1].info.preprocess)
                photo = Photo(pixels[:0], opened.width, opened.height, "DICOM", frames=opened.count)
                width, height = said.mm_per_pixel or (1.0, said.pixel_aspect)
                return Prepared(photo, image, pixels, said.mm_per_pixel, opened.count, height / width)
            photo, image = self.predictors[1].read_prepared(data, self.room)
        return Prepared(replace(photo, pixels=photo.pixels[:0, :0].copy()), image, data, frames=photo.frames)

    def result(self, prepared: Prepared, output: Output, views: int) -> Result:
        """What the network found at the photograph's own size; as `Predictor.__call__` makes it."""
        return self.predictors[views].result(
            output.probability, prepared.image, prepared.photo, prepared.source
        )

    # -- for requests

    async def segment(
        self, data: bytes, views: int, finish: Callable[[Prepared, Result], Done], frame: int = 1
    ) -> tuple[Done, Timing]:
        """Decode, ask the network, and make an answer. Cancelling it stops whatever has not begun.

        Args:
            finish: makes the answer, in a thread.

        Raises:
            Problem: the file or the service does not allow it.
        """
        started = time.perf_counter()
        prepared = await self.in_pool(self.prepare, data, frame)
        decode = self._observed("decode", started)
        try:
            output = await asyncio.wrap_future(self.engine.submit(prepared.image, views))
        except Full as error:
            raise Problem(429, "too many photographs wait. Send it again later", self.wait_s()) from error
        except Closed as error:
            raise Problem(503, "the service is shutting down", 5) from error
        started = time.perf_counter()

        def made() -> Done:
            with self.room.taken(prepared.pixels), refused():
                return finish(prepared, self.result(prepared, output, views))

        done = await self.in_pool(made)
        finished = self._observed("finish", started)
        return done, Timing(decode, 1000 * output.queue_s, 1000 * output.network_s, finished)

    async def in_pool(self, function: Callable[..., Done], *args: Any) -> Done:
        """Run it in a thread of the pool; cancelled before it begins, it never runs."""
        future: Future[Done] = self.pool.submit(function, *args)
        return await asyncio.wrap_future(future)

    def wait_s(self) -> float:
        """Seconds until what waits now is done, about."""
        return (self.engine.waiting + self.engine.batch) * self.engine.mean_s

    def close(self) -> None:
        """Finish what was taken."""
        self.engine.close()
        self.pool.shutdown()

    def _observed(self, stage: str, started: float) -> float:
        seconds = time.perf_counter() - started
        self.metrics.stage.labels(stage).observe(seconds)
        return 1000 * seconds


@contextmanager
def refused(what: str = "image") -> Iterator[None]:
    """What is wrong with a file, as the answer 422: without its name, of which the service keeps nothing."""
    code = f"unreadable_{what}"
    try:
        yield
    except ImageError as error:
        problem = error.problem.removeprefix(f"{what} ")
        raise Problem(422, f"the {what} {problem}. {error.remedy}", code=code) from error
    except MemoryError as error:
        raise Problem(422, f"the {what} {TOO_LARGE}", code=code) from error
    except MissingExtra as error:
        raise Problem(415, "this service reads no DICOM: segmae's extra 'dicom' is not installed") from error
