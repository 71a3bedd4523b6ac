"""From a torch network to files that other engines read."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from segmae.errors import CheckpointError, require
from segmae.files import atomic_write

TOLERANCE, HALF_TOLERANCE = (
    1e-3,
    1e-2,
)  # of logits between torch and onnxruntime, as a share of the largest one


def export_onnx(model: Any, path: str | Path, size: int, half: bool = False) -> Path:
    """Write a network as one ONNX file: `image` float32 `[B,3,size,size]` to `logits` float32 `[B,1,size,size]`.

    Args:
        model: the network; it is put into eval mode.
        size: side of the network's input in pixels; the batch is free.
        half: store weights, with norms folded into them, as float16 and cast them back at load: half the file,
            float32 arithmetic.

    Raises:
        CheckpointError: onnxruntime does not reproduce the network's logits within 1e-3 (half: 1e-2) of the largest.
    """
    torch = require("torch", "export")
    onnx = require("onnx", "export")
    require("onnxscript", "export")
    model = model.eval().float().cpu()
    example = torch.randn(
        2, 3, size, size, generator=torch.Generator().manual_seed(0)
    )  # a batch of 1 would be fixed
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                model, (example,), str(file), input_names=["image"], output_names=["logits"], dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
            )  # fmt: skip
        graph = onnx.load(str(file))
    if half:
        _store_half(onnx, graph)
    _forget_origin(graph)
    onnx.checker.check_model(graph)
    data = graph.SerializeToString()
    _verify(model, data, example.numpy(), HALF_TOLERANCE if half else TOLERANCE)
    atomic_write(path, data)
    return Path(path)


def _store_half(onnx: Any, model: Any) -> None:
    """Keep float32 weights as float16 and cast them where they enter the graph; engines fold the casts at load."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < 1024 or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + "_half"))
        casts.append(onnx.helper.make_node("Cast", [name + "_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _forget_origin(model: Any) -> None:
    """Drop what the exporter notes about its source: stack traces with paths of this machine."""
    _forget_origin_of(model.graph)
    del model.metadata_props[:]


def _forget_origin_of(graph: Any) -> None:
    graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):  # the body of a Scan
                _forget_origin_of(attribute.g)
    for values in (graph.value_info, graph.input, graph.output, graph.initializer):
        for value in values:
            value.doc_string = ""
            del value.metadata_props[:]
    del graph.metadata_props[:]


def _verify(model: Any, data: bytes, images: np.ndarray, tolerance: float) -> None:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        with torch.inference_mode():
            wanted = model(torch.from_numpy(batch)).numpy()
        difference = float(np.abs(session.run(None, {"image": batch})[0] - wanted).max())
        if not difference <= tolerance * max(1.0, float(np.abs(wanted).max())):
            raise CheckpointError(
                f"the exported model differs from the network by {difference:.2g} in its logits"
            )
