"""A folded network gives the same logits with less to do."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from shallow import SHALLOW  # noqa: E402
from torch import nn  # noqa: E402

from segmae.models import create_model, list_models  # noqa: E402
from segmae.models.folding import fold  # noqa: E402
from segmae.models.resnetv2 import StdConv2d  # noqa: E402

SMALL = {
    "segmae-base": {"dim": 64, "depth": 1, "heads": 2, "decoder": None, "cnn_options": {"width": 16, "units": (2, 2, 2)}},
    "segmae-tiny": {"depth": 1, "decoder": None},
    "unet": {"widths": (8, 16, 32)},
}  # fmt: skip
SINGLE = (
    "segmae-base",
    "segmae-small",
    "transunet",
    "mb-dcnn",
)  # parts of them compute in float32 whatever comes


def network(name: str) -> nn.Module:
    """With weights and running statistics that are all their own."""
    torch.manual_seed(0)
    model = create_model(name, **SMALL[name])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_the_logits_stay(name: str, size: tuple[int, int]) -> None:
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, found = model(image), fold(model)(image)
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", list_models("segmentation"))
def test_every_network_predicts_the_same_when_folded(name: str) -> None:
    torch.manual_seed(0)
    # in double precision rounding stays small where untrained norms divide by little
    kind = torch.float32 if name in SINGLE else torch.float64
    model = create_model(name, **SHALLOW.get(name, {})).to(kind).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = (
                1.0  # statistics of the batch below: from 0 and 1, untrained networks may explode
            )
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64, dtype=kind))
        image = torch.randn(1, 3, 64, 64, dtype=kind)
        wanted, found = model.eval()(image), fold(model)(image)
    assert wanted.isfinite().all()
    assert (found - wanted).abs().max() <= 1e-3 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_left_to_standardise_or_to_normalise_by_statistics(name: str) -> None:
    folded = fold(network(name))
    assert not any(isinstance(module, StdConv2d | nn.BatchNorm2d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        fold(network("unet").train())
