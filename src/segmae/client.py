"""Ask a running `segmae serve` from Python, with nothing but the standard library.

>>> from segmae.client import Client
>>> service = Client("http://127.0.0.1:8000")
>>> found = service.segment("lesion.jpg", include=["measurements", "mask"])
>>> found["lesion_share"], found["polygons"], found["measurements"]["area_px"]
>>> Path("mask.png").write_bytes(service.segment("lesion.jpg", output="mask"))

A batch: `service.wait(service.submit(paths, formats="mask,csv"))`, then `service.results(id)`. docs/serve.md has the interface.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import math
import os
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segmae.errors import ImageError, SegmaeError

TRIES = 5  # of a request that the service is too busy for
LONGEST_WAIT = 30.0  # seconds between two tries, whatever the service asks for
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two looks at a job: the longer it takes, the rarer
RESTART = 120.0  # seconds for which who waits for a job bears that nothing answers: the service may be started again
NOT_THERE = (0, 502, 504)  # without an answer, and what a proxy before the service says then
OTHER_NAME = (62, 64)  # OpenSSL's codes for a certificate of another host or address
UNFINISHED = ("queued", "running")
OF_A_FILE = {  # codes of refusals of one file, whose name the service does not repeat -> its field
    "too_large": "image",
    "unsupported_type": "image",
    "not_dicom": "image",
    "unreadable_image": "image",
    "unreadable_mask": "mask",
}
CUT_SHORT = (http.client.HTTPException, ValueError)  # what reading such an answer, or its JSON, raises
File = str | Path | bytes


class ServiceError(SegmaeError):
    """The service cannot be reached, or refuses a request.

    Attributes:
        status: HTTP's; 0 where there was no answer.
        code, request_id: as the service says them, where it does.
    """

    def __init__(self, status: int, message: str, code: str = "", request_id: str = "") -> None:
        super().__init__(status, message, code, request_id)  # all of them, or it could not be pickled
        self.status, self.message, self.code, self.request_id = status, message, code, request_id

    def __str__(self) -> str:
        return self.message


class Client:
    """One service.

    Args:
        url: as `segmae serve` prints it.
        key: API key, where the service asks for one.
        timeout: seconds for one answer.
        cafile: PEM file of the certificates that are trusted instead of the system's, for https: the service's own, or its issuer's.

    Raises:
        ServiceError: the address or the file cannot be used.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str = "",
        timeout: float = 120.0,
        cafile: str | Path | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ServiceError(0, f"{url}: is no address of a service. Let it begin with http:// or https://")
        self.url, self.key, self.timeout = url.rstrip("/"), key, timeout
        self.cafile = None if cafile is None else os.path.abspath(cafile)
        _trusting(self.cafile)

    def segment(self, image: File, **options: Any) -> Any:
        """Segment one photograph.

        Args:
            image: a path, or a file's bytes.
            options: `output`, `include`, `keep_largest`, `fill_holes`, `mm_per_pixel`, `views`, `overlay_style`. Several values are
                a list, or text with commas; `mm_per_pixel` is a number or (width, height); None is the service's default.

        Returns:
            The JSON answer as a dict; for any other `output` the file's bytes.

        Raises:
            ImageError: the file cannot be read.
            ServiceError: the service refuses it, or cannot be reached. A refusal of the file begins with its path.
        """
        return self._post("/v1/segment", {"image": [image]}, options)

    def measure(self, image: File, mask: File, **options: Any) -> Any:
        """Measure a mask (PNG, 0 and 255) of a photograph; options `output` and `mm_per_pixel`."""
        return self._post("/v1/measure", {"image": [image], "mask": [mask]}, options)

    def submit(self, images: File | Iterable[File], **options: Any) -> dict[str, Any]:
        """Hand over a batch, of one photograph or several; its status with the `id`. Options as for `segment`, and `formats`."""
        several = [images] if isinstance(images, str | os.PathLike | bytes) else list(images)
        return self._post("/v1/jobs", {"images": several}, options)

    def job(self, job: str | dict[str, Any]) -> dict[str, Any]:
        """The status of a job, by its id or an earlier status."""
        return self._send("GET", f"/v1/jobs/{_id(job)}")

    def wait(self, job: str | dict[str, Any], timeout: float = 3600.0) -> dict[str, Any]:
        """The status of a job once it is finished. Where the service is busy or started again meanwhile, that counts as waiting.

        Raises:
            ServiceError: it is not, after so many seconds; nothing answers, at first or for two minutes later on.
        """
        until, heard, pause = time.monotonic() + timeout, -math.inf, FIRST_PAUSE
        while True:
            try:
                status = self._send("GET", f"/v1/jobs/{_id(job)}", until=until)
                if status["state"] not in UNFINISHED:
                    return status
                heard = time.monotonic()
            except ServiceError as error:
                if error.status not in NOT_THERE or time.monotonic() >= min(until, heard + RESTART):
                    raise
            left = until - time.monotonic()
            if left <= 0:
                raise ServiceError(0, f"the job is not finished after {timeout:g} s. Wait again")
            time.sleep(min(pause, left))
            pause = min(LONGEST_PAUSE, 1.5 * pause)

    def results(self, job: str | dict[str, Any]) -> bytes:
        """The zip of a finished job."""
        return self._send("GET", f"/v1/jobs/{_id(job)}/results")

    def cancel(self, job: str | dict[str, Any]) -> dict[str, Any]:
        """Stop a job, or remove the results of a finished one."""
        return self._send("DELETE", f"/v1/jobs/{_id(job)}")

    def models(self) -> list[dict[str, Any]]:
        """What the service serves."""
        return self._send("GET", "/v1/models")["models"]

    def _post(self, path: str, files: dict[str, list[File]], options: dict[str, Any]) -> Any:
        body, kind = multipart(files, options)
        try:
            return self._send("POST", path, body, kind)
        except ServiceError as error:
            about = files.get(OF_A_FILE.get(error.code, ""), [b""])[0]
            if isinstance(about, bytes):
                raise
            said = f"{about}: {error.message}"
            raise ServiceError(error.status, said, error.code, error.request_id) from error

    def _send(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", until: float | None = None
    ) -> Any:
        """One request, sent again while the service is too busy: `TRIES` times, or until then by `time.monotonic`."""
        headers = {"Content-Type": kind} if kind else {}
        headers |= {"X-API-Key": self.key} if self.key else {}
        # photographs for this machine do not go round by a proxy of the network, whatever the environment names
        proxies = urllib.request.ProxyHandler({} if _is_local(self.url) else None)
        opener = urllib.request.build_opener(proxies, _Http(), _Https(_trusting(self.cafile)))
        tries = 0
        while True:
            tries += 1
            request = urllib.request.Request(self.url + path, body, headers, method=method)
            try:
                with opener.open(request, timeout=self.timeout) as answer:
                    data: bytes = answer.read()
                    is_json = answer.headers.get_content_type() == "application/json"
                    return json.loads(data) if is_json else data
            except urllib.error.HTTPError as error:
                with error:
                    refusal = _refusal(error)
                wait = _wait_s(error.headers.get("Retry-After", ""))
                if until is not None:
                    wait = min(wait, until - time.monotonic())
                is_last = tries >= TRIES if until is None else wait <= 0
                if error.code not in (429, 503) or is_last:
                    raise refusal from error
                time.sleep(wait)
            except (OSError, *CUT_SHORT) as error:
                raise ServiceError(0, f"{self.url}: {_no_answer(error)}") from error


class _Heard(http.client.HTTPConnection):
    """A connection that reads the answer also where the service, or a proxy before it, closed it before it had the whole request."""

    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except (ConnectionError, ssl.SSLEOFError):
            if self.sock is None:  # it could not be made
                raise


class _HeardTls(_Heard, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Heard, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, trusted: ssl.SSLContext) -> None:
        super().__init__(context=trusted)
        self._trusted = trusted

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HeardTls, request, context=self._trusted)


def _trusting(cafile: str | None) -> ssl.SSLContext:
    try:
        status = None if cafile is None else os.stat(cafile)
        return _read_once(cafile, status and (status.st_mtime_ns, status.st_size))
    except OSError as error:
        reason = error.strerror or error
        raise ServiceError(
            0, f"{cafile}: cannot be used as certificates ({reason}). Give a PEM file"
        ) from error


@lru_cache
def _read_once(cafile: str | None, changed: tuple[int, int] | None) -> ssl.SSLContext:
    """One for all requests: reading what the system trusts takes longer than a request."""
    return ssl.create_default_context(cafile=cafile)


def _no_answer(error: Exception) -> str:
    """Why there is none, and what to do."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        said = f"its certificate is not trusted ({reason.verify_message})"
        if reason.verify_code in OTHER_NAME:
            return f"{said}. Ask it by a name that the certificate holds"
        return f'{said}. Where you know that it is the right one, give it: Client(url, cafile="cert.pem")'
    return f"no answer ({reason}). Is `segmae serve` running there?"


def _wait_s(retry_after: str) -> float:
    """Seconds that an answer asks to wait; a proxy may name a date instead, which counts as one second."""
    return min(LONGEST_WAIT, float(retry_after)) if retry_after.isdecimal() else 1.0


def multipart(files: dict[str, list[File]], options: dict[str, Any]) -> tuple[bytes, str]:
    """A body of the type multipart/form-data, and that type with its boundary.

    Args:
        options: a list becomes a field for each value; what is None is left out.

    Raises:
        ImageError: a file cannot be read.
    """
    boundary = secrets.token_hex(16)
    parts: list[bytes] = []
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple | set | frozenset) else [value]:
            text = str(one).lower() if isinstance(one, bool) else str(one)
            parts += [] if one is None else [_head(boundary, name), text.encode(), b"\r\n"]
    for name, some in files.items():
        for file in some:
            called = "image" if isinstance(file, bytes) else Path(file).name
            parts += [_head(boundary, name, called), _data(file), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _data(file: File) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ImageError(file, f"cannot be read ({error.strerror})", "Check the path") from error


def _head(boundary: str, name: str, filename: str = "") -> bytes:
    # As browsers write names: a quote or a line break would end the header
    escaped = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    of_file = f'; filename="{escaped}"\r\nContent-Type: application/octet-stream' if filename else ""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'
    return head.encode(errors="replace")  # where bytes of a file's name are no UTF-8


def _id(job: str | dict[str, Any]) -> str:
    return job if isinstance(job, str) else str(job["id"])


def _is_local(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _refusal(error: urllib.error.HTTPError) -> ServiceError:
    try:
        said = json.loads(error.read())["error"]
        return ServiceError(error.code, said["message"], said["code"], said["request_id"])
    except (KeyError, TypeError, OSError, *CUT_SHORT):  # a proxy between answers in its own form
        return ServiceError(error.code, f"{error.url}: {error.code} {error.reason}")
