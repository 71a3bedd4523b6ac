"""What a safetensors file says before its tensors: 8 bytes of length, then JSON, in whose metadata a model's configuration lies."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

from segmae.errors import CheckpointError, reason
from segmae.files import atomic_path

CONFIGURATION = "segmae"  # its key in the metadata


def configuration_in(path: Path) -> dict[str, Any]:
    """The configuration of the model whose weights these are.

    Raises:
        CheckpointError: it has none, or is damaged.
        ValueError: the configuration is no JSON.
    """
    with path.open("rb") as file:
        header = _header(path, file)
    if CONFIGURATION not in header.get("__metadata__", {}):
        raise CheckpointError(
            f"{path}: holds weights but no segmae configuration. Give a model folder saved by segmae"
        )
    return json.loads(header["__metadata__"][CONFIGURATION])


def replace_configuration(path: Path, values: dict[str, Any]) -> None:
    """Put another configuration into the file, or a first one; its tensors are copied as they are.

    Raises:
        CheckpointError: it is damaged.
    """
    with atomic_path(path) as temporary, path.open("rb") as source, temporary.open("wb") as target:
        header = _header(path, source)
        header.setdefault("__metadata__", {})[CONFIGURATION] = json.dumps(values)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        target.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(source, target)


def tensors_digest(path: Path) -> str:
    """SHA-256 of the tensors alone: another threshold in the configuration is no other weights.

    Raises:
        CheckpointError: it is damaged.
    """
    with path.open("rb") as file:
        header = _header(path, file)
        header.pop("__metadata__", None)
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _header(path: Path, file: BinaryIO) -> dict[str, Any]:
    """All of the header; the file is left where the tensors begin.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        length = struct.unpack("<Q", file.read(8))[0]
        if 8 + length > path.stat().st_size:
            raise ValueError("truncated, or no safetensors file")
        header = json.loads(file.read(length))
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("its header is no mapping, or its metadata is none")
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: is damaged ({reason(error)}). Copy or download it again") from error
    return header
