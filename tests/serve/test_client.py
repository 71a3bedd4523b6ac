"""`segmae.client` where the service is busy, refuses, or is not there."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Running, Start, drawn, encoded

from segmae import client as module
from segmae.client import Client, ServiceError, multipart
from segmae.errors import ImageError


class Script(BaseHTTPRequestHandler):
    answers: list[tuple[int, dict[str, str], bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        status, headers, body = type(self).answers.pop(0)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *values: Any) -> None:
        pass


@pytest.fixture
def script() -> Iterator[tuple[type[Script], Client]]:
    class One(Script):
        answers, asked = [], []

    server = HTTPServer(("127.0.0.1", 0), One)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield One, Client(f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    server.server_close()


JSON = {"Content-Type": "application/json"}


def test_it_asks_again_when_the_service_says_so(script: tuple[type[Script], Client], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    one, client = script
    one.answers = [
        (503, {"Retry-After": "2"}, b""),
        (429, {"Retry-After": "900"}, b""),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""),  # as proxies may
        (503, {"Retry-After": "-3"}, b""),
        (200, JSON, b'{"models": []}'),
    ]
    assert client.models() == []
    assert waited == [2, module.LONGEST_WAIT, 1, 1]
    one.answers = [(429, {}, b"{}")] * module.TRIES
    with pytest.raises(ServiceError) as refused:
        client.models()
    assert refused.value.status == 429 and not one.answers


class Clock:
    """Stands for `time` in the client: it passes where the client sleeps, and there alone."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


RUNNING, DONE = (200, JSON, b'{"state": "running"}'), (200, JSON, b'{"state": "done"}')


def test_who_waits_for_a_job_asks_ever_more_rarely(script: tuple[type[Script], Client], clock: Clock) -> None:
    one, client = script
    one.answers = [*[RUNNING] * 40, DONE]
    assert client.wait("1")["state"] == "done"
    assert clock.slept == sorted(clock.slept) and clock.slept[0] < 0.5
    assert clock.slept[-1] == module.LONGEST_PAUSE
    assert 600 * clock.now / 60 > 40 * 30, "thirty who wait with one key stay below its rate"


def test_who_waits_for_a_job_bears_a_busy_service_until_time_is_up(
    script: tuple[type[Script], Client], clock: Clock
) -> None:
    one, client = script
    busy = [(429, {"Retry-After": "7"}, b"{}"), (503, {"Retry-After": "7"}, b"{}")] * module.TRIES
    one.answers = [*busy, RUNNING, *busy, DONE]
    assert client.wait("1")["state"] == "done"
    one.answers = [*busy]
    clock.now = 0.0
    with pytest.raises(ServiceError) as refused:
        client.wait("1", timeout=10)
    assert refused.value.status == 429 and clock.now == 10
    one.answers = [RUNNING] * 9
    with pytest.raises(ServiceError, match="not finished after 2 s"):
        client.wait("1", timeout=2)
    assert clock.now == 12


def test_who_waits_for_a_job_bears_a_service_that_is_started_again(
    script: tuple[type[Script], Client], clock: Clock
) -> None:
    one, client = script
    cut = (200, {**JSON, "Content-Length": "99"}, b'{"state"')  # its process ends in the middle of an answer
    gone = [cut, (502, {}, b"<html>"), (504, {}, b"")]
    one.answers = [RUNNING, *gone * 5, RUNNING, *gone * 5, DONE]
    assert client.wait("1")["state"] == "done"
    one.answers, clock.now = [RUNNING, *gone * 20], 0.0
    with pytest.raises(ServiceError, match=r"502|504|no answer"):
        client.wait("1")
    assert module.RESTART <= clock.now < module.RESTART + 2 * module.LONGEST_PAUSE
    one.answers = [RUNNING, (404, JSON, b'{"error": {"message": "none", "code": "job", "request_id": "r"}}')]
    with pytest.raises(ServiceError, match="none"):
        client.wait("1")
    one.answers, clock.now = [RUNNING, *gone * 20], 0.0
    with pytest.raises(ServiceError, match=r"502|504|no answer"):
        client.wait("1", timeout=3)
    assert clock.now == 3
    one.answers, clock.now = gone, 0.0
    with pytest.raises(ServiceError, match="no answer"):
        client.wait("1")
    assert clock.now == 0, "a wrong address is told at once"


@pytest.mark.skipif(
    sys.platform == "win32", reason="it throws away what came before a connection is broken off"
)
def test_a_refusal_is_seen_though_most_of_the_body_was_not_read() -> None:
    """As of a proxy that closes the connection at once."""
    listening = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        wire, _ = listening.accept()
        with wire:
            wire.recv(1000)
            wire.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=refuse)
    thread.start()
    with listening, pytest.raises(ServiceError) as refused:
        Client(f"http://127.0.0.1:{listening.getsockname()[1]}").segment(bytes(12 << 20))
    thread.join()
    assert refused.value.status == 413


def test_a_busy_service_is_asked_again_with_a_large_body_too(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.service, "_requests", running.service.settings.waiting)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: monkeypatch.undo())
    image = encoded(np.full((2000, 3000, 3), 120, np.uint8), "BMP")
    assert len(image) > 12 << 20
    assert running.client.segment(image)["width"] == 3000


@pytest.mark.parametrize(
    ("host", "goes_round"),
    [("127.0.0.1", False), ("localhost", False), ("[::1]", False), ("gpu.example", True)],
)
def test_only_requests_for_other_machines_go_through_a_proxy(
    script: tuple[type[Script], Client], monkeypatch: pytest.MonkeyPatch, host: str, goes_round: bool
) -> None:
    proxy, client = script
    proxy.answers += [(200, JSON, b'{"models": ["by the proxy"]}')]
    monkeypatch.setenv("http_proxy", client.url)
    monkeypatch.delenv("no_proxy", raising=False)
    other = Client(f"http://{host}:1", timeout=5)
    if goes_round:
        assert other.models() == ["by the proxy"] and proxy.asked == [f"http://{host}:1/v1/models"]
    else:
        with pytest.raises(ServiceError, match="no answer"):
            other.models()
        assert not proxy.asked


@pytest.mark.parametrize(
    ("status", "length", "told"), [(200, "99", "no answer"), (200, "9", "no answer"), (500, "99", "500")]
)
def test_an_answer_that_is_cut_short_is_an_error_too(
    script: tuple[type[Script], Client], status: int, length: str, told: str
) -> None:
    one, client = script
    one.answers = [(status, {**JSON, "Content-Length": length}, b'{"models"')]
    with pytest.raises(ServiceError, match=told):
        client.models()


def test_a_busy_service_whose_answer_is_cut_short_is_asked_again(
    script: tuple[type[Script], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    one, client = script
    one.answers = [(503, {**JSON, "Content-Length": "99"}, b"{"), (200, JSON, b'{"models": []}')]
    assert client.models() == []


def test_what_a_proxy_answers_is_an_error_too(script: tuple[type[Script], Client]) -> None:
    one, client = script
    one.answers = [(502, {"Content-Type": "text/html"}, b"<html>")]
    with pytest.raises(ServiceError, match="502"):
        client.models()


def test_a_refusal_comes_out_of_a_worker_process_whole() -> None:
    error = ServiceError(429, "busy", "rate_limit", "5d0c")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "busy"
    assert (again.status, again.code, again.request_id) == (429, "rate_limit", "5d0c")


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody signed but itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    made = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=segmae -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)  # fmt: skip
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_a_certificate_that_nobody_signed_is_given_to_the_client(
    start: Start, self_signed: tuple[Path, Path]
) -> None:
    certificate, _ = self_signed
    with start(tls=self_signed) as running:
        url = f"https://127.0.0.1:{running.port}"
        with pytest.raises(ServiceError, match=r"not trusted \(self.signed certificate\).*cafile"):
            Client(url).models()
        with pytest.raises(ServiceError, match="name that the certificate holds"):
            Client(url.replace("127.0.0.1", "localhost"), cafile=certificate).models()
        client = pickle.loads(pickle.dumps(Client(url, cafile=certificate)))  # as for worker processes
        assert client.segment(drawn())["width"] == 200
        with pytest.raises(ServiceError) as refused:  # its body is larger than what a connection holds
            client._send("POST", "/v1/nothing", bytes(12 << 20))
        assert refused.value.status == 404


def test_certificates_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    for name in ("none.pem", "text.pem"):
        with pytest.raises(ServiceError, match=rf"{name}: cannot be used.*PEM"):
            Client("https://127.0.0.1:1", cafile=tmp_path / name)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_a_certificate_is_the_file_as_it_is_now_wherever_the_process_has_gone(
    self_signed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(self_signed[0].parent)
    client = Client("https://127.0.0.1:1", cafile="cert.pem")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServiceError, match="no answer"):
        client.models()
    for content in (None, "no certificate"):
        if content is not None:
            (tmp_path / "cert.pem").write_text(content)
        with pytest.raises(ServiceError, match=r"cert\.pem: cannot be used"):
            Client("https://127.0.0.1:1", cafile="cert.pem")
    shutil.copy(self_signed[0], "cert.pem")
    Client("https://127.0.0.1:1", cafile="cert.pem")


def test_no_service_is_said() -> None:
    with pytest.raises(ServiceError, match="begin with http"):
        Client("127.0.0.1:1")
    with pytest.raises(ServiceError, match="segmae serve"):
        Client("http://127.0.0.1:1").models()


def test_refusals_carry_code_and_request(running: Running) -> None:
    with pytest.raises(ServiceError) as refused:
        running.client.segment(b"no image")
    assert (refused.value.status, refused.value.code) == (415, "unsupported_type")
    assert len(refused.value.request_id) == 32


def test_a_refusal_of_a_file_names_it(running: Running, tmp_path: Path) -> None:
    """The service does not know where it lies, and repeats no names."""
    good, cut, other = tmp_path / "good.png", tmp_path / "cut.png", tmp_path / "other.png"
    good.write_bytes(drawn())
    cut.write_bytes(drawn()[:2000])
    other.write_bytes(b"no image")
    client = running.client
    for path, code in ((cut, "unreadable_image"), (other, "unsupported_type")):
        with pytest.raises(ServiceError) as refused:
            client.segment(str(path))
        assert str(refused.value).startswith(f"{path}: the image is ") and refused.value.code == code
        assert len(refused.value.request_id) == 32
    with pytest.raises(ServiceError) as refused:
        client.measure(good, cut)
    assert str(refused.value).startswith(f"{cut}: the mask is ")
    with pytest.raises(ServiceError, match=r"^the image is "):
        client.segment(b"no image")
    with pytest.raises(ServiceError, match=r"^output: "):
        client.segment(good, output="maks")


def test_options_are_lists_text_or_none(running: Running) -> None:
    client = running.client
    found = client.segment(drawn(), include=["mask", "measurements"], views=None, mm_per_pixel=(0.1, 0.2))
    assert found["mask"]["png"]
    measured = found["measurements"]
    assert measured["area_mm2"] == pytest.approx(measured["area_px"] * 0.02)
    same = client.segment(drawn(), include="mask,measurements", output=None, mm_per_pixel=0.1)["measurements"]
    assert same["area_mm2"] == pytest.approx(same["area_px"] * 0.01)
    for wrong in ((0.1, 0.2, 0.3), "1,5", (0.1, "wide"), (0.1, 0.0)):  # some write a comma for the point
        with pytest.raises(ServiceError, match=r"mm_per_pixel.*width") as refused:
            client.segment(drawn(), mm_per_pixel=wrong)
        assert refused.value.status == 422


def test_one_photograph_is_a_batch_too(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "lesion.png"
    path.write_bytes(drawn())
    for image in (path, str(path), drawn(), iter([path])):
        assert running.client.submit(image, formats=["mask", "csv"])["total"] == 1


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:1")
    for path in (tmp_path / "none.jpg", tmp_path):
        for ask in (client.segment, client.submit):
            with pytest.raises(ImageError) as error:
                ask(path)
            assert str(error.value).startswith(f"{path}: cannot be read (")


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_names_with_quotes_and_line_breaks_arrive(running: Running, tmp_path: Path) -> None:
    path = tmp_path / 'a "b"\nü.png'
    path.write_bytes(drawn())
    assert running.client.segment(path)["width"] == 200
    body, kind = multipart({"image": [path]}, {"keep_largest": True})
    assert kind.startswith("multipart/form-data; boundary=") and b"\r\n\r\ntrue\r\n" in body


@pytest.mark.skipif(sys.platform != "linux", reason="no such names there")
def test_a_name_that_is_no_utf_8_keeps_no_photograph_back(running: Running, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"l\xe9sion.png")
    path.write_bytes(drawn())
    assert running.client.segment(path)["width"] == 200
