"""From a torch network to files that other engines read."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segmae.errors import CheckpointError, require
from segmae.files import atomic_write

PATCH, MAX_PATCHES = 16, 256  # a free side is a multiple of the first, up to this many of them
# Of logits between torch and onnxruntime, as a share of the largest one, by the type that weights are stored in.
TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 3e-2}
PRECISION = "segmae.precision"  # the file's own note of it


def export_onnx(
    model: Any,
    path: str | Path,
    size: int,
    precision: str = "fp32",
    free_size: bool = False,
    notes: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a network as one ONNX file: `image` float32 `[B,3,size,size]` to `logits` float32 `[B,1,size,size]`.

    Args:
        model: the network; it is put into eval mode, float32 and onto the CPU. Its norms are folded, see `segmae.models.folding.fold`.
        size: side of the network's input in pixels; the batch is free.
        precision: `fp16` and `bf16` store weights in half the space and cast them back at load: float32 arithmetic.
        free_size: leave height and width open too, as multiples of 16, unless the network's class says `free_size = False` or the file
            would not be equal to the network at other sizes.
        notes: what else the file's metadata is to say, as `segmae.NAME` in JSON.
        tell: called with a line that says so where `free_size` was asked for and both are fixed.

    Raises:
        CheckpointError: onnxruntime does not reproduce the network's logits within `TOLERANCES` of the largest.
    """
    onnx = require("onnx", "export")
    torch = require("torch", "export")
    require("onnxscript", "export")
    from segmae.models.folding import fold

    model = model.eval().float().cpu()
    folded = fold(model)

    def written(free: bool) -> bytes:
        made, sizes = _traced(folded, size, free)
        if precision != "fp32":
            _store_half(onnx, made, precision)
        _forget_origin(made.graph)
        del made.metadata_props[:]
        made.metadata_props.add(key=PRECISION, value=precision)
        for name, value in (notes or {}).items():
            made.metadata_props.add(key=f"segmae.{name}", value=json.dumps(value))
        onnx.checker.check_model(made)
        data: bytes = made.SerializeToString()
        for height, width in sizes:
            images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
            _verify(model, data, images.numpy(), precision)
        return data

    data = None
    if free_size and not getattr(model, "free_size", True):
        tell(f"height and width are fixed at {size}: {type(model).__name__} is exported at one size only")
    elif free_size:
        try:
            data = written(free=True)
        except Exception as error:  # whatever it is: what stands in the way of one size too is raised there
            said = str(error).strip().splitlines() or [""]
            reason = said[0] if isinstance(error, CheckpointError) else f"{type(error).__name__}: {said[0]}"
            tell(f"height and width are fixed at {size}: with free sides the export fails ({reason})")
    atomic_write(path, data or written(free=False))
    return Path(path)


def _traced(model: Any, size: int, free_size: bool) -> tuple[Any, list[tuple[int, int]]]:
    """The ONNX model of a network, and input sizes to try it at."""
    import torch

    if not free_size:
        return _trace(model, (size, size), {}), [(size, size)]
    dim = torch.export.Dim
    sides = {2: PATCH * dim("rows", max=MAX_PATCHES), 3: PATCH * dim("columns", max=MAX_PATCHES)}
    # an example that is not square, and of which no side is the usual one
    return _trace(model, (size + PATCH, size + 3 * PATCH), sides), [(size, size), (size + PATCH, size)]


def _trace(model: Any, size: tuple[int, int], free: dict[int, Any]) -> Any:
    import onnx
    import torch

    # a batch of 1 would be fixed
    example = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    shapes = {0: torch.export.Dim("batch"), **free}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                model, (example,), str(file), input_names=["image"], output_names=["logits"], dynamo=True,
                dynamic_shapes=(shapes,), external_data=False, verbose=False,
            )  # fmt: skip
        return onnx.load(str(file))


def _store_half(onnx: Any, model: Any, precision: str) -> None:
    """Keep float32 weights in 16 bits and cast them where they enter the graph; engines fold the casts at load."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < 1024 or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        if precision == "fp16":
            stored = onnx.numpy_helper.from_array(values.astype(np.float16), name + "_half")
        else:
            bits = values.view(np.uint32)
            # to nearest, ties to even
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            stored = onnx.helper.make_tensor(
                name + "_half", onnx.TensorProto.BFLOAT16, values.shape, rounded.tobytes(), raw=True
            )
        tensor.CopyFrom(stored)
        casts.append(onnx.helper.make_node("Cast", [name + "_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _forget_origin(graph: Any) -> None:
    """Drop what the exporter notes about its source: stack traces with paths of this machine."""
    graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):  # the body of a Scan
                _forget_origin(attribute.g)
    for values in (graph.value_info, graph.input, graph.output, graph.initializer):
        for value in values:
            value.doc_string = ""
            del value.metadata_props[:]
    del graph.metadata_props[:]


def _verify(model: Any, data: bytes, images: np.ndarray, precision: str) -> None:
    import onnxruntime
    import torch

    tolerance = TOLERANCES[precision]
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        with torch.inference_mode():
            wanted = model(torch.from_numpy(batch)).numpy()
        difference = float(np.abs(session.run(None, {"image": batch})[0] - wanted).max())
        if not difference <= tolerance * max(1.0, float(np.abs(wanted).max())):
            way_out = "" if precision == "fp32" else f": too much for {precision}. Export fp32"
            raise CheckpointError(
                f"the exported model differs from the network by {difference:.2g} in its logits{way_out}"
            )
