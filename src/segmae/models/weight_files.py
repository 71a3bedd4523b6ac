"""Files of weights, told apart by their content. Pickled code is never run."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from segmae.errors import CheckpointError

Weights = dict[str, Tensor]


def read_weights(path: str | Path) -> Weights:
    """The tensors of a safetensors, npz or torch file, or of a model folder's `model.safetensors`.

    Raises:
        CheckpointError: no such file, damaged, of another kind, or with more than tensors in it.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give a .safetensors, .npz or .pth file of weights")
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if head[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
            return load_file(path)
        if head[:4] == b"PK\x03\x04":  # a zip archive: numpy's or torch's
            with zipfile.ZipFile(path) as archive:
                is_numpy = all(name.endswith(".npy") for name in archive.namelist())
            if is_numpy:
                with np.load(path, allow_pickle=False) as arrays:
                    return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
            return _read_torch(path)
        if head[:1] == b"\x80":  # a bare pickle: torch before 1.6
            return _read_torch(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors (pickled objects can run code) or is damaged. "
            "Save the state_dict alone with torch.save, or as .safetensors"
        ) from error
    except Exception as error:  # whatever three libraries raise on damaged files
        raise CheckpointError(f"{path}: cannot be read ({error}). Download or copy it again") from error
    raise CheckpointError(f"{path}: no safetensors, npz or torch file. Check what was downloaded")


def _read_torch(path: Path) -> Weights:
    allowed = torch.serialization.safe_globals([argparse.Namespace])  # in what MAE's own training saves
    with allowed, path.open("rb") as file:  # a file, as torch would judge a path by its suffix
        content = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} instead of named tensors")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
