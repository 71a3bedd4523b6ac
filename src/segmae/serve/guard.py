"""What every request passes, before any of its body is read and after its answer: pure ASGI around the app.

Logs hold the request's id, method, route, status, time and size: nothing that the request brought itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segmae.serve.keys import Key, Rate, find_key
from segmae.serve.metrics import Metrics
from segmae.serve.problems import CLIENT_LEFT, CODES, Problem
from segmae.serve.settings import Settings

log = logging.getLogger("segmae.serve")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
OPEN = ("/", "/static/", "/health", "/ready", "/openapi.json")  # asked for without a key
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Size, origin, key and rate of each request; headers, id, log line and metrics of each answer."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: list[Key], metrics: Metrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.rate = Rate(settings.rate if keys else 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id = time.perf_counter(), uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"], state["caller"] = request_id, ""
        status, read, sent, unread = 0, 0, 0, _has_body(scope)
        limit = self.settings.job_bytes if scope["path"] == "/v1/jobs" else self.settings.body_bytes

        async def received() -> Message:
            nonlocal read, unread
            message = await receive()
            read += len(message.get("body", b""))
            unread = unread and bool(message.get("more_body"))  # as if read, too, when the client left
            return message

        async def counted() -> Message:
            message = await received()
            if read > limit:
                raise _too_large(limit)
            return message

        async def answered(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["X-Request-ID"] = request_id
                headers.setdefault("Cache-Control", "no-store")
                if unread:
                    headers["Connection"] = "close"
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                if unread and not message.get("more_body"):
                    await send({**message, "more_body": True})
                    await throw_away_rest()
                    message = {"type": "http.response.body"}
            await send(message)

        async def throw_away_rest() -> None:
            """Read what the client still sends: closed before that, its system would throw away the answer instead."""
            enough = read + self.settings.job_bytes
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.rest_s):
                    while unread and read < enough and not _waits_to_send(scope, read):
                        await received()

        try:
            self._admit(scope, Headers(scope=scope), limit)
            await self.app(scope, counted, answered)
        except Problem as problem:
            await problem.response(request_id)(scope, receive, answered)
        except Exception as error:
            log_error(request_id, error)
            if not status:  # else an answer has begun: the server closes the connection
                message = (
                    "the service failed at this request; its log has the details under this request's id"
                )
                await Problem(500, message).response(request_id)(scope, receive, answered)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            seconds = time.perf_counter() - started
            if status == CLIENT_LEFT:
                self.metrics.cancelled.inc()
            elif status >= 400:
                self.metrics.rejected.labels(CODES.get(status, "other")).inc()
            self.metrics.request.labels(route, str(status)).observe(seconds)
            said = dict(request=request_id, key=state["caller"] or None, method=_method(scope), route=route, status=status,
                        ms=round(1000 * seconds, 1), read=read, sent=sent)  # fmt: skip
            log.info(line("request", **said))

    def _admit(self, scope: Scope, headers: Mapping[str, str], limit: int) -> None:
        """Raise a `Problem` for what is refused by its head alone."""
        path = scope["path"]
        self._check_origin(headers)
        is_open = any(
            path == place or (place.endswith("/") and place != "/" and path.startswith(place))
            for place in OPEN
        )
        if self.keys and not is_open:
            given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
            key = find_key(self.keys, given)
            if key is None:
                raise Problem(401, "send a valid API key in the header X-API-Key")
            scope["state"]["caller"] = key.id
            if wait := self.rate.wait_s(key.id):
                raise Problem(
                    429,
                    f"more than {self.rate.per_minute} requests a minute with this key. Send it again later",
                    wait,
                    "rate_limit",
                )
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise Problem(400, "the header Content-Length is not a number")
        if int(length) > limit:
            raise _too_large(limit)

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Other web pages that the user has open cannot use the service, nor those that call themselves by its address."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname
            place = host if origin is None else urlsplit(origin).netloc
        except ValueError as error:
            raise Problem(400, "the header Host or Origin is malformed") from error
        names = dict.fromkeys((self.settings.host.lower(), *LOCAL_HOSTS))
        if self.settings.is_local and name not in names:
            raise Problem(403, f"the service answers by these names only: {', '.join(names)}")
        if place != host:
            raise Problem(403, "the service does not answer to pages from elsewhere")


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit} bytes. Send a smaller image, or fewer at once")


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _waits_to_send(scope: Scope, read: int) -> bool:
    """Whether the client asked before it sends a body, and now never will."""
    return not read and "expect" in Headers(scope=scope)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "-"


def line(event: str, **values: object) -> str:
    """A log line: one JSON object."""
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": when, "event": event, **values})


def log_error(request_id: str, error: BaseException) -> None:
    """Where it happened and of which kind it is, without its message, which may quote what was sent."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-8:]]
    log.error(line("failure", request=request_id, error=type(error).__name__, places=places))
