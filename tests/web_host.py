"""A web server on this machine that drops, forgets, changes and lies, for the tests of downloads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Host:
    """A web server and what it does wrong.

    Attributes:
        files: path -> content.
        drops: after how many bytes of the body each GET is cut off; those after the last one are served whole.
        ranges: whether it knows Range requests.
        etag: added to every file's ETag.
        log: method, path and Range header of every request.
        sent: bytes of the bodies.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    drops: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: str | None = "1"
    slow: float = 0
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def gets(self, name: str = "") -> list[str | None]:
        """The Range headers of the GETs of files whose path holds `name`."""
        return [asked for method, path, asked in self.log if method == "GET" and name in path]


@pytest.fixture
def serve() -> Iterator[Callable[[], Host]]:
    """Start hosts; they stop after the test."""
    servers: list[ThreadingHTTPServer] = []

    def start() -> Host:
        host = Host()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                asked = self.headers.get("Range")
                host.log.append((self.command, self.path, asked))
                self.close_connection = True
                content = host.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                etag = f'"{host.etag}"'
                same = self.headers.get("If-Range") in (None, etag)
                start = int(asked[6:-1]) if asked and host.ranges and same else 0
                if start and start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                if host.etag:
                    self.send_header("ETag", etag)
                self.end_headers()
                if body:
                    end = start + host.drops.pop(0) if host.drops else len(content)
                    for place in range(start, min(end, len(content)), 4096):
                        chunk = content[place : min(place + 4096, end)]
                        host.sent += len(chunk)  # before: who has it all may look at once
                        try:
                            self.wfile.write(chunk)
                        except ConnectionError:
                            host.sent -= len(chunk)
                            return
                        time.sleep(host.slow)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        host.url = f"http://127.0.0.1:{server.server_port}"
        return host

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
