"""The service: `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmae.commands.options import Device, Engine, Model, given
from segmae.commands.show import note


def serve(
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 127.0.0.1: for this machine alone.", show_default="127.0.0.1"
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0: a free one.", show_default="8000")
    ] = None,
    model: Model = None,
    engine: Engine = None,
    device: Device = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores but one")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of keys and jobs.", show_default="segmae/serve in ~/.local/state"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images that the network sees at once.", show_default="8")
    ] = None,
    waiting: Annotated[
        int | None, typer.Option(min=1, help="Requests at once; more get 429.", show_default="64")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=0, help="Requests a minute and key; 0: no limit.", show_default="600")
    ] = None,
    keep_hours: Annotated[
        float | None, typer.Option(min=0, help="How long results of jobs are kept.", show_default="24")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, for https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    open_without_keys: Annotated[
        bool | None, typer.Option("--open-without-keys", help="Listen beyond this machine without API keys.")
    ] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make an API key, print it, and end.")] = False,
    note_of_key: Annotated[str | None, typer.Option("--note", help="With --new-key: whose it is.")] = None,
) -> None:
    """Serve the model over HTTP, with a web page, until Ctrl-C. docs/serve.md has the interface and the limits."""
    from segmae.errors import require

    for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(module, "serve")
    from segmae.serve.keys import new_key as make_key
    from segmae.serve.run import serve as run
    from segmae.serve.settings import Settings

    settings = Settings(
        **given(host=host, port=port, model=model, engine=engine, device=device, threads=threads, state=state,
                batch=batch, waiting=waiting, rate=rate, keep_hours=keep_hours, open_without_keys=open_without_keys)
    )  # fmt: skip
    if new_key:
        print(make_key(settings.state, note_of_key or ""))
        note(
            "Keep it: it is stored as a hash and cannot be shown again. A running server knows it after a restart."
        )
        return
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("give both --tls-cert and --tls-key")
    tls = (tls_cert, tls_key) if tls_cert and tls_key else None
    if run(settings, tls, lambda address: print(f"segmae serves on {address}", flush=True)):
        raise typer.Exit(2)
