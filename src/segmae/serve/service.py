"""What lives as long as the server: the model, the engine, the threads, and how much is under way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

from starlette.datastructures import FormData
from starlette.requests import Request

from segmae.checkpoint import members, resolve
from segmae.errors import InUse, SegmaeError
from segmae.files import locked
from segmae.predictor import Predictor, load, model_digest
from segmae.serve.engine import Engine
from segmae.serve.guard import line, log_error
from segmae.serve.jobs import Jobs
from segmae.serve.metrics import Metrics
from segmae.serve.problems import Gone, Problem
from segmae.serve.settings import Settings, make_state
from segmae.serve.uploads import VIEWS, read_form
from segmae.serve.work import Worker

log = logging.getLogger("segmae.serve")
Done = TypeVar("Done")
FILES = 4  # that a request other than a job may hold: more than any needs
LOAD_S = 2  # seconds after which a client may ask again while the model loads


class Service:
    """The state behind the routes. It holds the folder of keys and jobs until it is stopped.

    Raises:
        InUse: another server uses the folder.
        OutputError: the folder cannot be made, or not be written into.

    Attributes:
        worker, jobs: None until the model is loaded.
        failed: the model cannot be loaded.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self._held = ExitStack()
        try:
            make_state(settings.state)
            self._held.enter_context(locked(settings.state / "serve.lock"))
        except InUse as error:
            raise InUse(f"{error}. Or give this server a folder of its own with --state") from error
        self.worker: Worker | None = None
        self.jobs: Jobs | None = None
        self.failed = False
        self.on_failure: Callable[[], None] | None = None  # ends the server
        self._requests, self._bytes = 0, 0
        self._loader = threading.Thread(target=self._load, name="load", daemon=True)

    # -- from start to end

    def start(self) -> None:
        """Load the model in a thread; requests get 503 until it is there."""
        self._loader.start()

    def _load(self) -> None:
        s = self.settings
        try:
            one = load(s.model, s.engine, s.threads, s.device)
            predictors = {1: one}
            for views in VIEWS[1:]:
                digest = model_digest(members(s.model), resolve(s.model), views, one.engine.name)
                predictors[views] = Predictor(one.info, one.engine, views, one.trust, digest)
            engine = Engine(one.network_probability, s.batch, s.window_ms / 1000, s.waiting, self.metrics)
            worker = Worker(predictors, engine, s.workers, self.metrics)
            self.jobs = Jobs(s, worker)
            self.worker = worker
            log.info(line("ready", model=str(s.model), engine=one.engine.name, device=one.engine.device))
        except Exception as error:
            log_error("-", error)
            if isinstance(error, SegmaeError):  # it speaks of files of the server
                log.error(line("problem", message=str(error)))
            self.failed = True
            if self.on_failure is not None:
                self.on_failure()

    def stop(self) -> None:
        """Finish what was accepted; jobs go on at the next start."""
        self._loader.join()
        if self.jobs is not None:
            self.jobs.close()
        if self.worker is not None:
            self.worker.close()
        self._held.close()

    # -- for the routes

    def ready(self) -> tuple[Worker, Jobs]:
        """What serves requests.

        Raises:
            Problem: 503 while the model loads.
        """
        if self.worker is None or self.jobs is None:
            what = "the model could not be loaded" if self.failed else "the model is being loaded"
            raise Problem(503, f"{what}. Try again later", LOAD_S, "loading")
        return self.worker, self.jobs

    @asynccontextmanager
    async def place(self, request: Request) -> AsyncIterator[None]:
        """One of the places for requests with photographs, taken before the body is read.

        Raises:
            Problem: 429, all are taken.
        """
        worker, _ = self.ready()
        size = int(request.headers.get("content-length") or self.settings.body_bytes)
        crowded = self._bytes + size > self.settings.bytes_under_way and self._requests
        if self._requests >= self.settings.waiting or crowded:
            wait = self._requests * worker.engine.mean_s
            raise Problem(429, "too many requests are under way. Send it again later", wait)
        self._requests, self._bytes = self._requests + 1, self._bytes + size
        self.metrics.under_way.set(self._requests)
        try:
            yield
        finally:
            self._requests, self._bytes = self._requests - 1, self._bytes - size
            self.metrics.under_way.set(self._requests)

    async def form(self, request: Request, job_images: int = 0) -> FormData:
        """Read a multipart body within the time for it, which grows with what it may hold; 408 after that.

        Args:
            job_images: for a job, how many files it may hold; what is large waits on disk then, else all stays in memory.
        """
        s = self.settings
        limit = s.job_bytes if job_images else s.body_bytes
        seconds = s.upload_s * limit / s.body_bytes
        try:
            async with asyncio.timeout(seconds):
                return await read_form(request, limit, job_images or FILES, in_memory=not job_images)
        except TimeoutError as error:
            raise Problem(408, f"the body took longer than {seconds:g} s to arrive") from error

    async def answer(self, request: Request, work: Coroutine[Any, Any, Done]) -> Done:
        """Await work for a request whose body was read; it is cancelled when the client leaves or time is up.

        Raises:
            Gone: the client left.
            Problem: 504, it took too long; or what the work raises.
        """
        task, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait(
                {task, left}, timeout=self.settings.answer_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if left.done():
                raise Gone
            raise Problem(
                504, f"no answer within {self.settings.answer_s:g} s. Send a smaller image, or a job"
            )
        finally:
            for one in (task, left):
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await one


async def _left(request: Request) -> None:
    """Return when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
