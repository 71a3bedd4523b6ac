"""`segmae serve` as a process of its own: started, killed without warning, told to stop."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Start, drawn, opened, until
from typer.testing import CliRunner

import segmae
from segmae.checkpoint import resolve, save_threshold
from segmae.cli import app
from segmae.client import Client, ServiceError
from segmae.ensemble import save_ensemble
from segmae.errors import ConfigError, InUse
from segmae.serve.run import bound, serve
from segmae.serve.settings import Settings

STOPPED = 1 if sys.platform == "win32" else 0  # which ends a process that is sent SIGTERM


class Process:
    """A server on a free port; its log is in a file beside the state folder."""

    def __init__(self, state: Path, *options: str) -> None:
        self.log = state.parent / "log.txt"
        command = [
            sys.executable,
            "-m",
            "segmae",
            "serve",
            "--port",
            "0",
            "--threads",
            "1",
            "--state",
            str(state),
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + self.log.read_text()
        self.client = Client(found[0], timeout=PATIENCE)

    def kill(self) -> None:
        self.process.kill()  # SIGKILL: nothing of it runs any more
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def test_a_broken_form_leaves_none_of_its_bytes_in_the_log(tmp_path: Path) -> None:
    server = Process(tmp_path / "state")
    for body in (b"--xZsecret", b'--x\r\nContent Disposition: form-data; name="image"\r\n\r\nsecret'):
        with pytest.raises(ServiceError) as refused:
            server.client._send("POST", "/v1/segment", body, "multipart/form-data; boundary=x")
        assert refused.value.status in (400, 422)
    server.stop()
    lines = server.log.read_text().splitlines()
    assert len(lines) >= 2 and all(json.loads(line) for line in lines), "JSON, and nothing else"


def done_images(state: Path) -> dict[tuple[str, int], float]:
    """When each image was finished, as the database says."""
    with sqlite3.connect(f"file:{state / 'jobs.sqlite'}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT job, number, finished FROM images WHERE state!='waiting'").fetchall()
    return {(job, number): finished for job, number, finished in rows}


def check_killed(tmp_path: Path, predictor: segmae.Predictor, kills: int, sizes: tuple[int, ...], after: tuple[int, ...]) -> None:  # fmt: skip
    """Kill a server several times while jobs are under way: each image is done once, none is lost.

    Args:
        sizes: images of each job.
        after: how many images must be done before each kill.
    """
    state = tmp_path / "state"
    server = Process(state)
    images = {seed: drawn(seed, (120 + seed, 90)) for seed in range(max(sizes))}
    jobs = [
        server.client.submit([images[seed] for seed in range(size)], formats="mask,csv") for size in sizes
    ]
    seen: dict[tuple[str, int], float] = {}
    for kill in range(kills):
        until(lambda: len(done_images(state)) >= after[kill])  # noqa: B023
        server.kill()
        left = done_images(state)
        assert len(left) < sum(sizes), "killed too late to test anything"
        assert seen.items() <= left.items(), "an image that was done before was done again"
        seen = left
        server = Process(state)
    for job, size in zip(jobs, sizes, strict=True):
        status = server.client.wait(job, PATIENCE)
        assert (status["state"], status["done"], status["failed"]) == ("done", size, 0)
        with zipfile.ZipFile(io.BytesIO(server.client.results(job))) as archive:
            names = archive.namelist()
            rows = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
            masks = [opened(archive.read(row["mask"])) for row in rows]
        assert max(Counter(names).values()) == 1
        assert [row["name"] for row in rows] == [
            f"{n:04d}" for n in range(1, size + 1)
        ]  # none twice, none lost
        for seed, mask in enumerate(masks):
            assert (mask == predictor(images[seed]).mask * 255).all(), (job["id"], seed)
    assert seen.items() <= done_images(state).items()
    with pytest.raises(ServiceError):
        server.client.results("0" * 32)
    assert server.stop() == STOPPED


def test_jobs_survive_a_kill(tmp_path: Path, predictor: segmae.Predictor) -> None:
    check_killed(tmp_path, predictor, 1, (6, 3), (2,))


@pytest.mark.slow
def test_jobs_survive_many_kills(tmp_path: Path, predictor: segmae.Predictor) -> None:
    check_killed(tmp_path, predictor, 4, (12, 1, 20), (1, 7, 14, 25))


@pytest.mark.skipif(
    sys.platform == "win32", reason="Ctrl-C alone stops it there, and reaches no single process"
)
def test_a_signal_lets_requests_finish_and_keeps_jobs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    server = Process(state)
    until(lambda: _ready(server.client))
    job = server.client.submit([drawn(n) for n in range(6)])
    answers: list[Any] = []
    asked = [threading.Thread(target=lambda: answers.append(server.client.segment(drawn(50), views=8))) for _ in range(2)]  # fmt: skip
    for thread in asked:
        thread.start()
    until(lambda: _metric(server.client, "segmae_requests_under_way") == 2)
    assert server.stop() == 0
    for thread in asked:
        thread.join(PATIENCE)
    assert len(answers) == 2 and all(answer["width"] == 200 for answer in answers)
    before = done_images(state)
    again = Process(state)
    assert _refused(again.client.url).startswith(b"HTTP/1.1 400")
    assert again.client.wait(job)["done"] == 6
    assert before.items() <= done_images(state).items()
    assert again.stop() == 0
    events = [json.loads(entry)["event"] for entry in again.log.read_text().splitlines()]
    assert {"ready", "request", "job", "server"} == set(events), "all lines are JSON, uvicorn's own too"


def test_the_command_makes_keys_and_refuses_to_be_open_without_one(tmp_path: Path) -> None:
    def command(*options: str) -> Any:
        return CliRunner().invoke(app, ["serve", "--state", str(tmp_path), *options])

    refused = command("--host", "0.0.0.0", "--port", "0")
    assert refused.exit_code == 2 and "--new-key" in refused.stderr
    made = command("--new-key", "--note", "ward 3")
    key = made.stdout.strip()
    assert made.exit_code == 0 and key.startswith("segmae_") and len(key.split()) == 1
    assert key not in (tmp_path / "keys.json").read_text()
    assert command("--model", "nothing-of-this-name").exit_code == 2
    assert command("--tls-cert", "cert.pem").exit_code == 2
    no_file = command("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--port", "0")
    assert no_file.exit_code == 2 and "cert.pem" in no_file.stderr and not no_file.stdout


def test_an_ensemble_is_served(tmp_path: Path) -> None:
    other = shutil.copytree(resolve("segmae-tiny"), tmp_path / "other")
    save_threshold(other, 0.4, {})
    both = save_ensemble(tmp_path / "both", ["segmae-tiny", other])
    process = Process(tmp_path / "state", "--model", str(both))
    try:
        until(lambda: _ready(process.client))
        assert process.client.segment(drawn())["lesion_share"] > 0
    finally:
        assert process.stop() == STOPPED


def test_a_second_server_on_the_same_state_is_refused(start: Start, tmp_path: Path) -> None:
    with start(wait=False), pytest.raises(InUse, match="--state"):
        serve(Settings(state=tmp_path / "state", port=0))


BREAK = """
import os, pathlib, signal, sys, threading, time, uvicorn
from segmae.client import Client, ServiceError
from segmae.serve.run import serve
from segmae.serve.settings import Settings

uvicorn.server.HANDLED_SIGNALS = (signal.SIGUSR1,)

def announce(address):
    def stop():
        while True:  # until it answers, its handlers are not there
            try:
                Client(address).models()
                return os.kill(os.getpid(), signal.SIGUSR1)
            except ServiceError:
                time.sleep(0.05)
    threading.Thread(target=stop, daemon=True).start()

sys.exit(serve(Settings(state=pathlib.Path(sys.argv[1]), port=0, threads=1), announce=announce))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="simulates its SIGBREAK")
def test_every_signal_that_stops_it_stops_it_well(tmp_path: Path) -> None:
    """uvicorn ends on Ctrl-Break of Windows too, and then raises it again: that ended the process."""
    done = subprocess.run([sys.executable, "-c", BREAK, str(tmp_path / "state")], capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def test_two_servers_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lets them, where SO_REUSEADDR is set."""
    with bound("127.0.0.1", 0) as first, pytest.raises(ConfigError, match="cannot be listened on"):
        bound("127.0.0.1", first.getsockname()[1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        first = bound("127.0.0.1", 0)
    with first:
        assert not first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def _ready(client: Client) -> bool:
    try:
        return bool(client.models())
    except ServiceError:
        return False


def _refused(url: str) -> bytes:
    """What the server says to what is no HTTP."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as wire:
        wire.sendall(b"no request\r\n\r\n")
        return wire.recv(4096)


def _metric(client: Client, name: str) -> float:
    text = client._send("GET", "/metrics").decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " "))
