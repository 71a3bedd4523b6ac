"""The frozen encoder stays as it is, whatever trains beside it, and its patches are 14 px at any image size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmae.engines.export import export_onnx
from segmae.models.dinov2 import DIM, FrozenDINOv2, dinov2_conv, dinov2_linear
from segmae.models.vit import VisionTransformer


def shallow(model: FrozenDINOv2) -> FrozenDINOv2:
    torch.manual_seed(0)
    model.encoder = VisionTransformer(DIM, 1, 6, 14, 37, 1e-5).requires_grad_(False)
    return model


@pytest.mark.parametrize("build", [dinov2_linear, dinov2_conv])
def test_training_moves_the_head_alone(build: type[FrozenDINOv2]) -> None:
    model = shallow(build()).train()
    assert model.head.training and not any(part.training for part in model.encoder.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.randn(2, 3, 56, 56)).square().mean().backward()
    optimizer.step()
    moved = {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"head"}
    assert all(p.grad is not None for p in model.head.parameters())


def test_the_image_is_resized_to_the_next_multiples_of_14() -> None:
    model, seen = shallow(dinov2_linear()).eval(), list[Tensor]()
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for height, width in ((56, 70), (57, 64)):
        assert model(torch.randn(1, 3, height, width)).shape == (1, 1, height, width)
    assert [tuple(x.shape[2:]) for x in seen] == [(56, 70), (70, 70)]


@pytest.mark.parametrize("build", [dinov2_linear, pytest.param(dinov2_conv, marks=pytest.mark.slow)])
def test_an_export_of_free_size_resizes_likewise(build: type[FrozenDINOv2], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, told = shallow(build()), list[str]()
    file = export_onnx(model, tmp_path / "model.onnx", 64, free_size=True, tell=told.append)
    assert told == []
    session = onnxruntime.InferenceSession(file)
    for height, width in ((64, 64), (112, 48)):
        image = torch.randn(1, 3, height, width)
        (logits,) = session.run(None, {"image": image.numpy()})
        assert np.abs(logits - model(image).detach().numpy()).max() < 1e-4


def test_each_logit_lies_over_its_patch() -> None:
    model = shallow(dinov2_linear()).eval()
    model.head = nn.Conv2d(DIM, 1, 1)
    nn.init.ones_(model.head.weight)
    tokens = torch.zeros(1, 1 + 16, DIM)
    tokens[0, 1 + 6] = 1  # row 1, column 2 of 4 x 4; the class token comes first
    model.encoder.forward = lambda image: tokens  # type: ignore[method-assign]
    logits = model(torch.zeros(1, 3, 56, 56))[0, 0]
    assert divmod(int(logits.argmax()), 56)[0] // 14 == 1 and divmod(int(logits.argmax()), 56)[1] // 14 == 2
