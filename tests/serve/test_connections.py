"""Connections that ask nothing, and what is logged of them."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import sys
from contextlib import ExitStack

import pytest
from serving import PATIENCE, Running, Start

from segmae.serve import logs
from segmae.serve.connections import allow_more_files, open_files
from segmae.serve.logs import logging_to_stderr

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def connected(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), PATIENCE)


@pytest.mark.parametrize(
    ("requests", "sent"), [(0, b""), (0, HEAD), (1, HEAD)], ids=["nothing", "half a head", "a second half"]
)
def test_a_connection_without_a_whole_head_is_closed(start: Start, requests: int, sent: bytes) -> None:
    with start(head_s=0.2, wait=False) as running, connected(running) as wire:
        for _ in range(requests):
            wire.sendall(HEAD + b"\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                answer += wire.recv(4096)
        wire.sendall(sent)
        assert wire.recv(4096) == b""


def test_time_for_a_head_ends_with_the_head(start: Start) -> None:
    """A body may take longer, and so may an answer."""
    with start(head_s=0.1, upload_s=0.5) as running, connected(running) as wire:
        wire.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                     b"Content-Length: 5000\r\n\r\n")  # fmt: skip
        assert wire.recv(4096).startswith(b"HTTP/1.1 408")


def test_connections_that_ask_nothing_make_room_for_those_that_do(start: Start) -> None:
    with start(connections=3, head_s=10 * PATIENCE) as running:
        idle = [connected(running) for _ in range(8)]
        assert [wire.recv(1) for wire in idle[:5]] == [b""] * 5, "the oldest are closed"
        assert running.ask("GET", "/health").status == 200
        for wire in idle[-2:]:
            wire.sendall(HEAD + b"\r\n")
            assert wire.recv(4096).startswith(b"HTTP/1.1 200"), "the newest are not"
        for wire in idle:
            wire.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_the_process_takes_as_many_files_as_it_may() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
        assert open_files() == min(512, soft)
        allow_more_files()
        if sys.platform == "linux":
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_asyncio_says_is_one_line_of_json_and_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock[0])
    with logging_to_stderr():
        for seconds in (0, 0, logs.REPEAT_S):
            clock[0] += seconds
            try:
                raise OSError(24, "secret")
            except OSError:
                logging.getLogger("asyncio").exception("out of resources\nsocket: 192.0.2.1")
        logging.getLogger("asyncio").error("Exception in callback read('192.0.2.1')")
        logging.getLogger("asyncio").info("nothing that matters")
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for line in said:
        assert line.pop("time")
    first = {"event": "server", "level": "error", "message": "out of resources", "error": "OSError"}
    assert said == [
        first,
        {**first, "left_out": 1},
        {"event": "server", "level": "error", "message": "Exception in callback"},
    ]


def test_connections_that_are_kept_after_an_answer_make_room_too(start: Start) -> None:
    with start(connections=5) as running, ExitStack() as held:
        for _ in range(8):
            kept = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
            held.callback(kept.close)
            kept.request("GET", "/health")
            answer = kept.getresponse()
            assert answer.status == 200
            answer.read()
