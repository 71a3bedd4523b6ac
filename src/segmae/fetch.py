"""One file over HTTP: resumed, from the first host that has it, whole or not at all. What it holds is for the caller to check.

While FILE is fetched, FILE.part lies in its place, beside FILE.part.json, which says of what it is a part.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmae import __version__
from segmae.errors import DataError
from segmae.files import read_json, replace, write_json

WAITS = (1, 2, 4, 8, 16)  # seconds before each further try; from the start again whenever bytes have come
TIMEOUT = 60  # seconds without a byte after which a connection counts as dropped
CHUNK = 1 << 20
DROPPED = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class Unreachable(DataError):
    """A host does not deliver; another may. `status` is the HTTP status where the last answer had one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Remote:
    """A file on a host as its headers describe it; two that differ in size or version are different files."""

    url: str
    size: int
    version: str  # ETag, else Last-Modified, else empty

    @property
    def identity(self) -> dict[str, Any]:
        return {"size": self.size, "version": self.version}


def open_url(url: str, start: int = 0, version: str = "", method: str = "GET") -> Any:
    """The response to a request for a file from byte `start` on; where it changed since `version`, for all of it."""
    headers = {"User-Agent": f"segmae/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version and not version.startswith("W/"):
            headers["If-Range"] = version
    request = urllib.request.Request(url, headers=headers, method=method)
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def described(url: str, response: Any) -> Remote:
    """The whole file as the headers of a response, perhaps of a part, describe it."""
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    size = whole[1] if whole else response.headers.get("Content-Length", "")
    if not size.isdigit():
        raise Unreachable(f"{url}: the server does not say how large the file is")
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return Remote(url, int(size), version)


def is_final(error: urllib.error.HTTPError) -> bool:
    """Whether asking again is of no use."""
    return error.code < 500 and error.code not in (408, 429)


def reason_of(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__


def locate(urls: Sequence[str], name: str, remedy: str) -> Remote:
    """The first of these places that has the file.

    Args:
        name: of the file, for the error.
        remedy: what else the user can do.

    Raises:
        Unreachable: none has it, or none answers.
    """
    problems: dict[str, str] = {}
    status = None
    for url in urls:
        for wait in (0, *WAITS[:3]):
            time.sleep(wait)
            try:
                with open_url(url, method="HEAD") as response:
                    return described(url, response)
            except Unreachable as error:  # it answers, and not with what can be fetched
                problems[url] = str(error)
                break
            except DROPPED as error:
                problems[url] = f"{url}: {reason_of(error)}"
                status = getattr(error, "code", None)
                if isinstance(error, urllib.error.HTTPError) and is_final(error):
                    break
    raise Unreachable(
        f"{name} cannot be downloaded: {'; '.join(problems.values())}. Check the network and try again later, or {remedy}",
        status,
    )


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def part_of(file: Path) -> Path:
    """Where a file lies while it is fetched."""
    return file.with_name(file.name + ".part")


def fetch(remote: Remote, file: Path, tell: Callable[[int], None]) -> None:
    """Download into FILE.part, going on with what is there of the same file; renamed when it is whole.

    Args:
        tell: called with the bytes that are there.

    Raises:
        Unreachable: the host stopped to deliver; what came stays for the next call.
    """
    part, label = part_of(file), part_of(file).with_suffix(".part.json")
    if not _is_part_of(label, remote):
        _start_over(part, label, remote)
    failures, furthest = 0, part.stat().st_size
    while (start := part.stat().st_size) != remote.size:
        problem = "the connection was dropped"
        try:
            with open_url(remote.url, start, remote.version) as response:
                found = described(remote.url, response)
                continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
                if response.status == 206 and not (continued and found == remote):
                    remote = found
                    _start_over(part, label, remote)
                    raise ConnectionError("the file changed while it was downloaded")
                if response.status != 206 and (start or found != remote):
                    remote = found  # another file, or a server that knows no ranges: all of it comes
                    _start_over(part, label, remote)
                with part.open("ab") as out:
                    while chunk := response.read1(CHUNK):
                        out.write(chunk)
                        tell(out.tell())
        except urllib.error.HTTPError as error:
            problem = reason_of(error)
            if error.code == 416:
                _start_over(part, label, remote)
            elif is_final(error):
                raise Unreachable(f"{remote.url}: {problem}", error.code) from error
        except DROPPED as error:
            problem = reason_of(error)
        reached = part.stat().st_size
        if reached == remote.size:
            break
        failures, furthest = (0 if reached > furthest else failures + 1), max(reached, furthest)
        if failures > len(WAITS):
            raise Unreachable(f"{remote.url}: {problem}. {gigabytes(reached)} of {gigabytes(remote.size)} are here: the same "
                               "command again goes on from there")  # fmt: skip
        time.sleep(WAITS[max(failures - 1, 0)])
    replace(part, file)
    label.unlink()


def _is_part_of(label: Path, remote: Remote) -> bool:
    part = label.with_suffix("")
    try:
        return bool(read_json(label) == remote.identity and part.stat().st_size <= remote.size)
    except (OSError, ValueError):
        return False


def _start_over(part: Path, label: Path, remote: Remote) -> None:
    part.write_bytes(b"")
    write_json(label, remote.identity)
