"""A shard as a Parquet file: one row a photograph, and the same rows give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from segmae.errors import require
from segmae.measure import Measurements

Row = dict[str, Any]
# measurements that are whole numbers
WHOLE = {"area_px", "asymmetry_shape_score", "colour_count", "pieces", "holes"}
MARK = b"segmae"  # in the file's metadata: the plan's digest and the shard's number


@cache
def schema() -> Any:
    """Columns of a shard. Where `error` is given all after it are null.

    `index` (among the sorted photographs), `file`, `sha256` (of the photograph's bytes), `error`, `width`, `height`, `orientation`,
    `frames`, `lesion_share`, `uncertainty`, `expected_dice`, `warnings`, `rle` (the mask as COCO's compressed run lengths, `size` and
    `counts`), `mask` (the PNG file, where asked for) and `measurements` (see `segmae.measure.Measurements`, where asked for).
    """
    pa = require("pyarrow", "batch")
    rle = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
    return pa.schema(
        [
            ("index", pa.int64()),
            ("file", pa.string()),
            ("sha256", pa.string()),
            ("error", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("orientation", pa.int8()),
            ("frames", pa.int32()),
            ("lesion_share", pa.float64()),
            ("uncertainty", pa.float64()),
            ("expected_dice", pa.float64()),
            ("warnings", pa.list_(pa.string())),
            ("rle", rle),
            ("mask", pa.string()),
            ("measurements", pa.struct([(name, _kind(pa, name)) for name in Measurements().to_dict()])),
        ]
    )


def _kind(pa: Any, name: str) -> Any:
    special = {
        "touches_border": pa.bool_(),
        "colours": pa.list_(pa.string()),
        "mm_per_pixel": pa.list_(pa.float64()),
        "longest_diameter_ends_px": pa.list_(pa.list_(pa.float64())),
    }
    return special.get(name, pa.int64() if name in WHOLE else pa.float64())


def to_parquet(rows: Sequence[Row], mark: Mapping[str, Any]) -> bytes:
    """The file's bytes.

    Args:
        rows: values by column; what is absent is null.
        mark: kept in the file's metadata, see `read_mark`.
    """
    pa = require("pyarrow", "batch")
    parquet = require("pyarrow.parquet", "batch")
    said = schema().with_metadata({MARK: json.dumps(mark, sort_keys=True).encode()})
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=said), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_mark(content: bytes) -> tuple[dict[str, Any], int, int]:
    """Of a shard's file: its mark, its rows, and how many of them are errors."""
    pa = require("pyarrow", "batch")
    parquet = require("pyarrow.parquet", "batch")
    table = parquet.read_table(pa.BufferReader(content), columns=["error"])
    mark = json.loads((table.schema.metadata or {}).get(MARK, b"{}"))
    return mark, table.num_rows, table.num_rows - table["error"].null_count


def readable(name: str) -> str:
    """A file's name as Parquet can hold it: what is no valid Unicode is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
