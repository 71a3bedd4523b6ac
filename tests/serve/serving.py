"""Helpers: a service in this process, a real server on a free port of 127.0.0.1, whose inside a test can reach."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from segmae.client import Client, multipart
from segmae.data.phantom import draw_lesion
from segmae.serve.app import create_app
from segmae.serve.run import bound, uvicorn_config
from segmae.serve.service import Service
from segmae.serve.settings import Settings

PATIENCE = 60  # seconds after which a test that waits has failed


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]


@dataclass
class Running:
    """A started service."""

    port: int
    service: Service
    server: uvicorn.Server
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.url, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own; `_` in a header's name stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            said = {key.lower(): value for key, value in answer.getheaders()}
            return Answer(answer.status, said, answer.read())
        finally:
            connection.close()

    def post(
        self, path: str, files: dict[str, list[Any]], headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        body, kind = multipart(files, fields)
        return self.ask("POST", path, body, **{"Content_Type": kind, **(headers or {})})

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


Start = Callable[..., AbstractContextManager[Running]]  # the fixture `start`


@contextmanager
def started(
    state: Path, wait: bool = True, tls: tuple[Path, Path] | None = None, **options: Any
) -> Iterator[Running]:
    """A service with these settings; stopped at the end."""
    settings = Settings(**{"state": state, "port": 0, "threads": 1, "rate": 0, **options})
    app = create_app(settings)
    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn_config(app, settings, tls))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    service = app.state.service
    thread.start()
    running = Running(listening.getsockname()[1], service, server, thread)
    try:
        if wait:
            until(lambda: service.worker is not None or service.failed)
        yield running
    finally:
        running.stop()
        listening.close()


def until(condition: Callable[[], Any]) -> None:
    """Wait for it, and fail if it does not come."""
    waiting = threading.Event()
    for _ in range(PATIENCE * 100):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not happen")


class Gate:
    """Stands before a service's network: it waits until the gate is opened, and counts what passes.

    A picture passes as its own mean colour, so that answers can be told apart without computing.
    """

    def __init__(self, service: Service) -> None:
        assert service.worker is not None
        self.engine, self.open, self.batches = service.worker.engine, threading.Event(), []
        self.began = threading.Semaphore(0)
        self.network, self.engine.network = self.engine.network, self

    def __call__(self, images: np.ndarray, views: int) -> np.ndarray:
        self.batches.append(len(images))
        self.began.release()
        assert self.open.wait(PATIENCE)
        return np.broadcast_to(
            images.mean((1, 2, 3), dtype=np.float32)[:, None, None] / 255, images.shape[:3]
        )

    def wait_for_batch(self) -> None:
        assert self.began.acquire(timeout=PATIENCE)

    def close(self) -> None:
        self.open.set()
        self.engine.network = self.network


@lru_cache
def drawn(seed: int = 0, size: tuple[int, int] = (200, 150), kind: str = "PNG", **options: Any) -> bytes:
    """A drawn lesion as a file's bytes."""
    return encoded(draw_lesion(seed, size)[0], kind, **options)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
