"""`segmae serve`: check, bind, run until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from segmae.checkpoint import members, read_info
from segmae.errors import ConfigError
from segmae.serve.app import create_app
from segmae.serve.connections import allow_more_files, connection_class
from segmae.serve.keys import FILE, read_keys
from segmae.serve.logs import logging_to_stderr
from segmae.serve.settings import Settings

BACKLOG = 128  # connections that wait to be accepted, and that are accepted at once


def serve(
    settings: Settings,
    tls: tuple[Path, Path] | None = None,
    announce: Callable[[str], None] | None = None,
) -> int:
    """Run the service until a signal stops it; requests under way are finished first.

    Args:
        tls: files of the certificate and of its private key, for https.
        announce: called with the address once the service listens.

    Returns:
        0, or 1 where the model could not be loaded.

    Raises:
        ConfigError: it would be open to others without a key, or the address cannot be used.
        CheckpointError: no such model.
        InUse: another server uses the folder of keys and jobs.
    """
    if not settings.is_local and not settings.open_without_keys and not read_keys(settings.state):
        raise ConfigError(
            f"{settings.host} can be reached from other machines, and {settings.state / FILE} holds no API key. "
            "Make one with `segmae serve --new-key`, or open the service to everyone with --open-without-keys"
        )
    for single in members(settings.model):
        read_info(single)
    allow_more_files()
    app = create_app(settings)
    listening = bound(settings.host, settings.port)
    config = uvicorn_config(app, settings, tls)
    try:
        config.load()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"{' and '.join(map(str, tls or ()))}: cannot be used as certificate and key ({error.strerror or error}). "
            "Give PEM files that belong together"
        ) from error
    server = uvicorn.Server(config)

    def leave(*_: object) -> None:
        server.should_exit = True

    app.state.service.on_failure = leave
    # uvicorn has handlers of its own while it runs, and at its end raises the signal again for those that were there before
    before = {number: signal.signal(number, leave) for number in uvicorn.server.HANDLED_SIGNALS}
    host, port = listening.getsockname()[:2]
    if announce:
        announce(f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        with logging_to_stderr():
            server.run(sockets=[listening])
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        listening.close()
    return int(app.state.service.failed)


def uvicorn_config(app: FastAPI, settings: Settings, tls: tuple[Path, Path] | None = None) -> uvicorn.Config:
    """How uvicorn runs the app: nothing logs requests, since those lines would hold addresses, query strings and bytes of broken forms."""
    logging.getLogger("uvicorn.access").disabled = True
    for parser in ("python_multipart", "multipart"):  # its name before 0.0.19
        logging.getLogger(parser).setLevel(logging.CRITICAL)
    certificate, private = tls or (None, None)
    return uvicorn.Config(
        app, http=connection_class(settings), backlog=BACKLOG, log_config=None, access_log=False, server_header=False, ws="none",
        timeout_graceful_shutdown=round(settings.drain_s), ssl_certfile=certificate, ssl_keyfile=private,
    )  # fmt: skip


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError: the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        if os.name != "nt":  # where it lets two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: cannot be listened on ({error.strerror or error}). Choose another --port or --host"
        ) from error
    return listening
