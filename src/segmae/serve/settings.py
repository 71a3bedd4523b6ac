"""Every limit of the service and its default: nowhere else are there any."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from segmae.background import usable_cpus
from segmae.errors import ConfigError, OutputError
from segmae.files import make_folder
from segmae.predictor import DEFAULT_MODEL

MB = 1 << 20
LOCAL_NAMES = ("localhost",)


def state_folder() -> Path:
    """Where keys and jobs lie unless told otherwise: `segmae/serve` in XDG_STATE_HOME, by default ~/.local/state.

    Raises:
        ConfigError: the user has no home.
    """
    home = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".local" / "state") / "segmae" / "serve"
    except RuntimeError as error:
        raise ConfigError("this user has no home for keys and jobs. Name a folder with --state") from error


def make_state(folder: Path) -> None:
    """Make the folder of keys and jobs where it is not there yet.

    Raises:
        OutputError: it cannot be made, or not be written into.
    """
    try:
        make_folder(folder)
    except OutputError as error:
        raise OutputError(f"{error} with --state") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written into by this user. Choose another with --state")


@dataclass(frozen=True)
class Settings:
    """How the service runs.

    Attributes:
        model, engine, device: see `segmae.load`.
        threads: of the network; by default all cores but one, which decodes, draws outlines and answers meanwhile.
        host, port: where it listens; port 0 takes a free one.
        state: folder of keys and jobs.
        open_without_keys: listen beyond this machine although there is no key.
        batch: images that the network sees at once, at most.
        window_ms: how long a first request waits for others to share its batch.
        workers: threads that decode photographs and finish results.
        waiting: requests with photographs that are under way at once; more get 429.
        bytes_under_way: of their bodies, all together; more get 429.
        body_bytes: of one body with one photograph; more get 413.
        job_bytes, job_images: of the body of a job; more get 413, or 422.
        connections: open ones; of more, the one that was longest without a request is closed. No more than a quarter of the files
            that the process may have open.
        head_s: seconds for the head of a request to arrive, else its connection is closed.
        upload_s, answer_s: seconds for a body to arrive (else 408), and from there to the answer (else 504).
        rest_s: seconds in which the rest of a body is read that was refused meanwhile, so that its sender sees the answer; at most
            `job_bytes` of it.
        rate: requests per minute and key; 0 is no limit.
        keep_hours: after which the results of a finished job are removed.
        jobs_unfinished: jobs; more get 429.
        store_bytes: on disk, of the uploads of unfinished jobs and the results of finished ones; a job that comes on top gets 429.
        drain_s: seconds that requests under way have to finish in when the server is told to stop.
    """

    model: str | Path = DEFAULT_MODEL
    engine: str = "auto"
    threads: int = field(default_factory=lambda: max(1, usable_cpus() - 1))
    device: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    state: Path = field(default_factory=state_folder)
    open_without_keys: bool = False
    batch: int = 8
    window_ms: float = 4.0
    workers: int = field(default_factory=lambda: min(4, max(2, usable_cpus())))
    waiting: int = 64
    bytes_under_way: int = 1024 * MB
    body_bytes: int = 64 * MB
    job_bytes: int = 1024 * MB
    job_images: int = 1000
    connections: int = 512
    head_s: float = 10.0
    upload_s: float = 60.0
    answer_s: float = 60.0
    rest_s: float = 30.0
    rate: int = 600
    keep_hours: float = 24.0
    jobs_unfinished: int = 100
    store_bytes: int = 10240 * MB
    drain_s: float = 60.0

    @property
    def model_name(self) -> str:
        """The model without the folder that it lies in, which is nobody else's business."""
        return Path(self.model).name

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host in LOCAL_NAMES
