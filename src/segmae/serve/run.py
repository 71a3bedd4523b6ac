"""`segmae serve`: check, bind, run until told to stop."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from segmae.checkpoint import read_info
from segmae.errors import ConfigError
from segmae.serve.app import create_app
from segmae.serve.keys import FILE, read_keys
from segmae.serve.settings import Settings


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
    """
    if not settings.is_local and not settings.open_without_keys and not read_keys(settings.state):
        raise ConfigError(
            f"{settings.host} can be reached from other machines, and {settings.state / FILE} holds no API key. "
            "Make one with `segmae serve --new-key`, or open the service to everyone with --open-without-keys"
        )
    read_info(settings.model)
    app = create_app(settings)
    logger = logging.getLogger("segmae.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    listening = _bound(settings.host, settings.port)
    certificate, private = tls or (None, None)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, date_header=True,
        timeout_graceful_shutdown=round(settings.drain_s), ssl_certfile=certificate, ssl_keyfile=private,
        limit_concurrency=None, h11_max_incomplete_event_size=1 << 16, ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)

    def failed() -> None:
        server.should_exit = True

    app.state.service.on_failure = failed
    host, port = listening.getsockname()[:2]
    if announce:
        announce(f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        server.run(sockets=[listening])
    finally:
        logger.removeHandler(handler)
        listening.close()
    return int(app.state.service.failed)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: cannot be listened on ({error.strerror or error}). Choose another --port or --host"
        ) from error
    return listening
