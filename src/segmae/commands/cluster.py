"""What `predict --engine-cluster` adds: options of a batch, and how its result is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, NoReturn

import typer

from segmae.commands.show import print_json, progress

EngineCluster = Annotated[
    str | None,
    typer.Option(help="ray: on a Ray cluster; local: this process. Into Parquet shards: docs/cluster.md."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of the Ray cluster; 'local': one of this machine alone.",
        show_default="the one that Ray finds, else local",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Ray: how many processes hold the model.", show_default="as many as there is room for"
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        min=0, help="Ray: share of a GPU for each worker, such as 0.25.", show_default="1 on a GPU, else 0"
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", help="local: do every N-th shard only, beginning with the I-th.", show_default="1/1"
    ),
]
ShardSize = Annotated[int | None, typer.Option(min=1, help="Photographs in a shard.", show_default="256")]


def run_batch(
    sources: Sequence[str], out: str, cluster: str, options: dict[str, Any], as_json: bool
) -> NoReturn:
    """Do the batch, say what came of it, and end with 0, also where rows are errors.

    A scheduler takes another code for a reason to try again, and the same photographs would fail the same way.
    """
    from segmae.cluster import predict_batch

    if "part" in options:
        options["part"] = _part(options["part"])
    with progress("photographs") as advance:
        batch = predict_batch(sources, out, cluster=cluster, **options, progress=advance)
    if as_json:
        print_json({**asdict(batch), "complete": batch.complete})
    else:
        errors = f", {batch.errors} of them errors" if batch.errors else ""
        earlier = f" ({batch.earlier} shards earlier)" if batch.earlier else ""
        print(
            f"{batch.done} of {batch.photographs} photographs done{errors}{earlier}; results in {batch.place}"
        )
    raise typer.Exit(0)


def _part(text: str) -> tuple[int, int]:
    try:
        number, parts = (int(one) for one in text.split("/"))
    except ValueError:
        raise typer.BadParameter(f"--part {text}: give it as I/N, such as 1/4") from None
    return number, parts
