"""Exported files: small, free of this machine's paths, equal to the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from segmae.checkpoint import ModelInfo, load_model, save_pretrained  # noqa: E402
from segmae.config import Preprocess  # noqa: E402
from segmae.engines import create_engine  # noqa: E402
from segmae.engines.export import _forget_origin, _verify, export_onnx  # noqa: E402
from segmae.errors import CheckpointError  # noqa: E402
from segmae.models import create_model  # noqa: E402


def test_the_file_holds_no_trace_of_where_it_was_made(small_model: Path) -> None:
    data = (small_model / "model.onnx").read_bytes()
    for trace in (str(Path(__file__).parents[2]), "site-packages", ".py"):
        assert trace.encode() not in data


def test_the_body_of_a_loop_holds_no_trace_either() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"], doc_string="File network.py, line 7")
    node.metadata_props.add(key="stack", value="network.py")
    body = onnx.helper.make_graph([node], "body", [], [], doc_string="network.py")
    loop = onnx.helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    model = onnx.helper.make_model(onnx.helper.make_graph([loop], "graph", [], []))
    _forget_origin(model.graph)
    assert b"network.py" not in model.SerializeToString()


def test_names_shapes_and_a_free_batch(small_model: Path) -> None:
    graph = onnx.load(str(small_model / "model.onnx")).graph
    (image,), (logits,) = graph.input, graph.output
    assert (image.name, logits.name) == ("image", "logits")
    sizes = [
        [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in (image, logits)
    ]
    assert sizes[0][1:] == [3, 64, 64] and sizes[1][1:] == [1, 64, 64]
    assert isinstance(sizes[0][0], str)


def test_half_precision_halves_the_files_and_both_engines_agree(tmp_path: Path) -> None:
    torch.manual_seed(1)
    options = {"depth": 1, "decoder": None, "cnn": "none"}
    info = ModelInfo("segmae-tiny", options, Preprocess(size=64))
    network = create_model("segmae-tiny", **options)
    whole = save_pretrained(tmp_path / "whole", network, info, onnx=True)
    half = save_pretrained(tmp_path / "half", network, info, onnx=True, half=True)
    for name in ("model.onnx", "model.safetensors"):
        assert (half / name).stat().st_size < 0.6 * (whole / name).stat().st_size
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    engines = [create_engine(half, name, device="cpu") for name in ("onnxruntime", "torch")]
    assert np.abs(engines[0](images) - engines[1](images)).max() < 1e-3


@pytest.mark.parametrize(("precision", "way_out"), [("fp32", "logits$"), ("bf16", "Export fp32$")])
def test_a_model_that_differs_from_its_network_is_refused(
    small_model: Path, precision: str, way_out: str
) -> None:
    network, _ = load_model(small_model)
    with torch.no_grad():
        list(network.parameters())[-1].add_(1)  # the bias of its head
    with pytest.raises(CheckpointError, match=f"differs from the network .*{way_out}"):
        _verify(
            network,
            (small_model / "model.onnx").read_bytes(),
            np.zeros((2, 3, 64, 64), np.float32),
            precision,
        )


class Pointwise(torch.nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 1, 1)


class OneSize(Pointwise):
    free_size = False


class RoundedUp(Pointwise):
    """Resizes to multiples of 14 by a division that ONNX rounds the other way."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        sides = [-(-side // 14) * 14 for side in image.shape[2:]]
        resized = torch.nn.functional.interpolate(super().forward(image), sides, mode="bilinear")
        return torch.nn.functional.interpolate(resized, image.shape[2:], mode="bilinear")


class Unrolled(Pointwise):
    """As many steps as there are rows of patches, so the exporter cannot leave their number open."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for _ in range(image.shape[2] // 16):
            image = image + 1
        return super().forward(image)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Pointwise, None),
        (OneSize, "OneSize is exported at one size only"),
        (RoundedUp, "differs from the network"),
        (Unrolled, "with free sides the export fails"),
    ],
)
def test_sides_are_free_where_the_network_allows_it_and_else_the_user_is_told(
    build: type[Pointwise], reason: str | None, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network, told = build(), list[str]()
    file = export_onnx(network, tmp_path / "model.onnx", 32, free_size=True, tell=told.append)
    session = onnxruntime.InferenceSession(file)
    sides = session.get_inputs()[0].shape[2:]
    if reason is None:
        assert told == [] and all(isinstance(side, str) for side in sides)
    else:
        assert sides == [32, 32] and len(told) == 1
        assert told[0].startswith("height and width are fixed at 32: ") and reason in told[0]
    image = torch.randn(1, 3, 32, 32 if reason else 64)
    (logits,) = session.run(None, {"image": image.numpy()})
    np.testing.assert_allclose(logits, network(image).detach().numpy(), atol=1e-5)
