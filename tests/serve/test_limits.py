"""What is refused, and how: every status, the queue, time limits, clients that leave, headers and logs."""

from __future__ import annotations

import json
import logging
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import PATIENCE, Answer, Gate, Running, Start, drawn, encoded, until

from segmae.client import multipart
from segmae.errors import CheckpointError
from segmae.serve.guard import HEADERS
from segmae.serve.keys import new_key

SEGMENT = "/v1/segment"


def test_each_way_to_ask_wrongly_has_its_status(running: Running) -> None:
    image, ask, post = {"image": [drawn()]}, running.ask, running.post
    assert ask("GET", "/v1/nothing").status == 404
    assert ask("GET", SEGMENT).status == 405
    assert ask("POST", SEGMENT, b"{}", Content_Type="application/json").status == 415
    assert ask("POST", SEGMENT, b"--x", Content_Type="multipart/form-data").status == 422  # no boundary
    assert ask("POST", SEGMENT, b"no parts", Content_Type="multipart/form-data; boundary=x").status == 422
    assert post(SEGMENT, {"picture": [drawn()]}).status == 422
    assert post(SEGMENT, {"image": [drawn(), drawn()]}).status == 422
    assert post(SEGMENT, {}, image="text").status == 422
    for field, value in {"output": "gif", "include": "all", "views": "3", "mm_per_pixel": "-1", "keep_largest": "maybe", "overlay_style": "red"}.items():  # fmt: skip
        answer = post(SEGMENT, image, **{field: value})
        assert answer.status == 422 and field.split("_")[0] in answer.json["error"]["message"], field
    for scale in ("nan", "inf", "0", "1e-320", "1e300"):  # squares of the last two are no numbers
        assert post(SEGMENT, image, mm_per_pixel=scale, include="measurements").status == 422, scale
    assert "Did you mean 'output'?" in post(SEGMENT, image, outptu="mask").json["error"]["message"]
    assert post(SEGMENT, image, output="seg").code == "not_dicom"
    assert post("/v1/measure", image).status == 422  # no mask


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 415), (b"hello", 415), (b"%PDF-1.7 no image", 415), (b"%!PS-Adobe-3.0 EPSF-3.0", 415),
        (drawn(kind="PNG")[:500], 422), (drawn(kind="JPEG")[:300], 422), (b"BM and nothing more", 422),
        (b"\0" * 128 + b"DICM and nothing more", 422),
    ],
    ids=["empty", "text", "pdf", "postscript", "half a PNG", "half a JPEG", "BMP", "DICOM"],
)  # fmt: skip
def test_what_is_no_image_is_told_from_what_is_broken(running: Running, data: bytes, status: int) -> None:
    answer = running.post(SEGMENT, {"image": [data]})
    assert answer.status == status
    assert answer.code == {415: "unsupported_type", 422: "unreadable_image"}[status]
    assert "/proc" not in answer.json["error"]["message"], "a path of the server"
    assert ("file is empty" in answer.json["error"]["message"]) == (not data)


def test_health_answers_to_head_as_balancers_ask(running: Running) -> None:
    for path in ("/health", "/ready"):
        answer = running.ask("HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == str(len(running.ask("GET", path).body))
    assert running.ask("POST", "/health").headers["allow"] == "GET"
    assert "head" not in running.ask("GET", "/openapi.json").json["paths"]["/health"]


def test_errors_have_one_form_and_the_id_of_their_request(running: Running) -> None:
    answer = running.ask("GET", "/v1/nothing")
    error = answer.json["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert answer.headers["x-request-id"] == error["request_id"]


def test_a_body_too_large_is_refused_before_it_is_read(start: Start) -> None:
    with start(body_bytes=20_000, wait=False) as running, _connected(running) as wire:
        wire.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                     b"Content-Length: 999999999\r\n\r\n")  # fmt: skip
        assert _read(wire).status == 413  # though not one byte of the body was sent


def test_a_body_of_unknown_length_is_counted(start: Start) -> None:
    with start(body_bytes=20_000) as running, _connected(running) as wire:
        wire.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for chunk in (head, *[bytes(8000)] * 3):
            wire.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        answer = _read(wire)
        assert (answer.status, answer.code) == (413, "too_large")
        assert running.ask("GET", "/health").status == 200


LARGE = bytes(12 << 20)  # more than the buffers of a connection hold
REFUSED_UNREAD = {
    "no key": (401, {}, {}),
    "too large": (413, {"body_bytes": 1 << 20}, {}),
    "no multipart": (415, {}, {"Content_Type": "image/png"}),
    "not there": (404, {}, {}),
}


@pytest.mark.parametrize("why", REFUSED_UNREAD)
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_who_sends_a_large_body_sees_why_it_is_refused(
    start: Start, tmp_path: Path, why: str, connection: str
) -> None:
    """The rest of the body is read before the connection is closed, or the answer would never be seen."""
    status, options, headers = REFUSED_UNREAD[why]
    if status == 401:
        new_key(tmp_path / "state")
    with start(**options) as running:
        path = "/nothing" if status == 404 else SEGMENT
        answer = running.ask("POST", path, LARGE, Connection=connection, **headers)
        assert answer.status == status and answer.json["error"]["message"]
        assert answer.headers["connection"] == "close"
        assert running.ask("GET", "/health").status == 200


def test_the_rest_of_a_body_is_not_waited_for_without_end(start: Start) -> None:
    with start(rest_s=0.1) as running, _connected(running) as wire:
        wire.sendall(
            b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\nthe rest never comes"
        )
        assert _read(wire).status == 404
        assert wire.recv(1) == b"", "closed"


def test_who_asks_before_sending_a_body_is_not_waited_for(start: Start) -> None:
    with start(rest_s=PATIENCE) as running, _connected(running) as wire:
        wire.settimeout(PATIENCE / 2)
        wire.sendall(b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n")  # fmt: skip
        assert _read(wire).status == 404
        assert wire.recv(1) == b"", "closed"


def test_a_body_that_does_not_arrive_is_given_up(start: Start) -> None:
    with start(upload_s=0.2) as running, _connected(running) as wire:
        wire.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                     b"Content-Length: 5000\r\n\r\n--x")  # fmt: skip
        assert _read(wire).status == 408


def test_a_full_queue_answers_429_and_when_to_come_again(start: Start) -> None:
    with start(waiting=2) as running:
        gate = Gate(running.service)
        threads, answers = _ask_in_threads(running, 2)
        until(lambda: running.service._requests == 2)
        answer = running.post(SEGMENT, {"image": [drawn()]})
        assert (answer.status, answer.code) == (429, "too_many_requests")
        assert int(answer.headers["retry-after"]) >= 1
        assert running.ask("GET", "/health").status == 200, "what costs nothing is still served"
        gate.close()
        _join(threads)
        assert [a.status for a in answers] == [200, 200]
        assert running.post(SEGMENT, {"image": [drawn()]}).status == 200


def test_bodies_together_are_bounded_too(start: Start) -> None:
    data = drawn()
    with start(bytes_under_way=len(data) + 2000) as running:
        gate = Gate(running.service)
        threads, _ = _ask_in_threads(running, 1)
        gate.wait_for_batch()
        assert running.post(SEGMENT, {"image": [data]}).status == 429
        gate.close()
        _join(threads)


def test_what_takes_too_long_answers_504_and_frees_its_place(start: Start) -> None:
    with start(answer_s=0.3, waiting=1) as running:
        gate = Gate(running.service)
        answer = running.post(SEGMENT, {"image": [drawn()]})
        assert (answer.status, answer.code) == (504, "time_limit")
        assert running.service._requests == 0
        gate.close()


def test_the_image_of_a_client_that_left_is_never_computed(start: Start) -> None:
    with start(batch=1) as running:
        gate = Gate(running.service)
        threads, _ = _ask_in_threads(running, 1)
        gate.wait_for_batch()  # the network is busy with it
        body, kind = multipart({"image": [drawn(1)]}, {})
        with _connected(running) as wire:
            wire.sendall(f"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)  # fmt: skip
            until(lambda: running.service.worker.engine.waiting == 1)
        until(lambda: running.service._requests == 1)  # the other's place is free
        gate.open.set()
        _join(threads)
        assert running.post(SEGMENT, {"image": [drawn(2)]}).status == 200
        assert gate.batches == [1, 1], "two clients waited, one left: two batches"
        assert running.service.metrics.registry.get_sample_value("segmae_cancelled_total") == 1


def test_a_network_that_fails_on_one_image_serves_the_others_of_its_batch(start: Start) -> None:
    with start() as running:
        gate = Gate(running.service)

        def network(images: np.ndarray, views: int) -> np.ndarray:
            gate(images, views)
            if (images == 0).all((1, 2, 3)).any():
                raise CheckpointError("no number")
            return np.zeros(images.shape[:3], np.float32)

        gate.engine.network = network
        black = encoded(np.zeros((30, 40, 3), np.uint8))
        threads, first = _ask_in_threads(running, 1)
        gate.wait_for_batch()
        more, answers = _ask_in_threads(running, 3, lambda n: black if n == 1 else drawn(n))
        until(lambda: running.service.worker.engine.waiting == 3)
        gate.open.set()
        _join(threads + more)
        assert [a.status for a in (*first, *answers)] == [200, 200, 500, 200]
        assert "no number" not in answers[1].body.decode(), "messages of faults stay in the log"
        assert answers[1].code == "internal_error"
        assert answers[1].headers["x-request-id"] == answers[1].json["error"]["request_id"]
        assert HEADERS.items() <= {name: answers[1].headers[name.lower()] for name in HEADERS}.items()
        gate.close()


def test_while_the_model_loads_everything_but_the_photographs_is_served(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import segmae.serve.service as module

    go, load = threading.Event(), module.load

    def slow(*values: Any) -> Any:
        assert go.wait(PATIENCE)
        return load(*values)

    monkeypatch.setattr(module, "load", slow)
    with start(wait=False) as running:
        assert running.ask("GET", "/health").status == 200
        for answer in (running.ask("GET", "/ready"), running.post(SEGMENT, {"image": [drawn()]})):
            assert (answer.status, answer.code) == (503, "loading")
            assert int(answer.headers["retry-after"]) >= 1
        go.set()
        until(lambda: running.ask("GET", "/ready").status == 200)
        assert running.post(SEGMENT, {"image": [drawn()]}).status == 200


def test_a_model_that_cannot_be_loaded_is_said(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    import segmae.serve.service as module

    def broken(*values: Any) -> Any:
        raise CheckpointError("damaged")

    monkeypatch.setattr(module, "load", broken)
    with start() as running:
        answer = running.ask("GET", "/ready")
        assert answer.status == 503 and "could not be loaded" in answer.json["error"]["message"]


def test_stopping_finishes_what_was_accepted(start: Start) -> None:
    with start() as running:
        gate = Gate(running.service)
        threads, answers = _ask_in_threads(running, 3)
        until(lambda: running.service._requests == 3)
        running.server.should_exit = True
        with pytest.raises(OSError):  # it listens no more
            while True:
                running.ask("GET", "/health")
        gate.close()
        _join(threads)
        assert [a.status for a in answers] == [200, 200, 200]


def test_every_answer_has_the_headers_that_protect_the_page(running: Running) -> None:
    answers = [running.ask("GET", path) for path in ("/health", "/v1/nothing", "/openapi.json")]
    for answer in (*answers, running.post(SEGMENT, {"image": [b"x"]})):
        for name, value in HEADERS.items():
            assert answer.headers[name.lower()] == value
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_pages_from_elsewhere_and_other_names_of_the_host_are_refused(running: Running) -> None:
    post = running.post
    image = {"image": [drawn()]}
    own = f"127.0.0.1:{running.port}"
    assert post(SEGMENT, image, {"Origin": f"http://{own}"}).status == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://[broken"):
        assert post(SEGMENT, image, {"Origin": origin}).status in (400, 403), origin
    for host in ("evil.example", f"evil.example:{running.port}", "[broken"):
        assert running.ask("GET", "/health", Host=host).status in (400, 403), host
    assert running.ask("GET", "/health", Host=f"localhost:{running.port}").status == 200


@pytest.mark.parametrize("host", ["127.0.0.2", "0:0:0:0:0:0:0:1"])
def test_it_answers_by_the_address_that_it_was_given(start: Start, host: str) -> None:
    named = f"[{host}]" if ":" in host else host
    with start(host=host, wait=False) as running:
        for good in (named, f"{named}:{running.port}", "localhost"):
            assert running.ask("GET", "/health", Host=good).status == 200, good
        for bad in ("127.0.0.3", "evil.example"):
            assert running.ask("GET", "/health", Host=bad).status == 403, bad


def test_logs_hold_nothing_of_what_was_sent(running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Names of files, paths, fields and headers stay out; the id of the answer is in."""
    monkeypatch.setattr(logging.getLogger("segmae.serve"), "propagate", True)
    secret = "Jane-Doe-1970"
    body = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{secret}.png"\r\n\r\n'.encode()
    field = f'--x\r\nContent-Disposition: form-data; name="{secret}"\r\n\r\n{secret}\r\n'.encode()
    kind = "multipart/form-data; boundary=x"
    with caplog.at_level(0):
        good = running.ask(
            "POST", f"{SEGMENT}?{secret}", body + drawn() + b"\r\n--x--\r\n", Content_Type=kind, X_Name=secret
        )
        bad = running.ask("POST", SEGMENT, body + drawn()[:300] + b"\r\n--x--\r\n", Content_Type=kind)
        other = running.ask("POST", SEGMENT, field + body + drawn() + b"\r\n--x--\r\n", Content_Type=kind)
        running.ask("GET", f"/v1/jobs/{secret}")
        running.ask("GET", f"/{secret}")
    assert (good.status, bad.status, other.status) == (200, 422, 422)
    assert secret.encode() not in bad.body + other.body
    lines = [r.getMessage() for r in caplog.records if r.name == "segmae.serve"]
    said = [json.loads(line) for line in lines]
    assert good.headers["x-request-id"] in [line.get("request") for line in said]
    assert secret not in caplog.text
    assert "/v1/segment" in [line["route"] for line in said]


def test_metrics_tell_stages_batches_and_refusals(running: Running) -> None:
    def value(name: str, **labels: str) -> float:
        text = running.ask("GET", "/metrics").body.decode()
        wanted = name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "")
        lines = [line.rsplit(" ", 1) for line in text.splitlines()]
        return sum(float(number) for key, number in lines if key == wanted)

    watched: list[tuple[str, dict[str, str]]] = [("segmae_batch_images_sum", {}), ("segmae_rejected_total", {"code": "unsupported_type"})]  # fmt: skip
    watched += [
        ("segmae_stage_seconds_count", {"stage": stage}) for stage in ("decode", "queue", "network", "finish")
    ]
    watched += [("segmae_request_seconds_count", {"route": SEGMENT, "status": "200"})]
    before = [value(name, **labels) for name, labels in watched]
    assert running.post(SEGMENT, {"image": [drawn()]}).status == 200
    assert running.post(SEGMENT, {"image": [b"x"]}).status == 415
    after = [value(name, **labels) for name, labels in watched]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1] * len(watched)
    assert value("segmae_queue_images") == value("segmae_requests_under_way") == 0


def test_no_path_of_a_request_reaches_the_file_system(running: Running) -> None:
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "//etc/passwd", "/static//etc/passwd",
                 "/v1/jobs/..%2f..%2fetc", "/v1/jobs/../../results", "/static/%00"):  # fmt: skip
        answer = running.ask("GET", path)
        assert answer.status == 404, path
        assert b"import" not in answer.body and b"root:" not in answer.body


def _connected(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), PATIENCE)


def _read(wire: socket.socket) -> Answer:
    data = b""
    try:
        while part := wire.recv(65536):
            data += part
            head, _, body = data.partition(b"\r\n\r\n")
            headers = dict(
                line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line
            )
            if "content-length" in headers and len(body) >= int(headers["content-length"]):
                break
    except ConnectionResetError:  # it closed with bytes of ours unread; the answer came before
        pass
    return Answer(int(head.split()[1]), headers, body)


def _ask_in_threads(
    running: Running, count: int, image: Any = drawn
) -> tuple[list[threading.Thread], list[Answer]]:
    answers: list[Any] = [None] * count

    def ask(number: int) -> None:
        answers[number] = running.post(SEGMENT, {"image": [image(number)]})

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
