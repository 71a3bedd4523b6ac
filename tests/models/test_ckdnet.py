"""CKDNet's knowledge: where the gates act, and how much the final network hears at first."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from segmae.models.ckdnet import ChannelAttention, CKDNet, Classifier, Entangle  # noqa: E402
from segmae.models.mb_dcnn import MBDCNN  # noqa: E402


def test_gates_act_after_each_layer_and_what_is_told_is_not_gated() -> None:
    torch.manual_seed(0)
    classifier = Classifier(depth=18, classes=3).eval()
    image, coarse = torch.randn(1, 3, 64, 64), torch.rand(1, 1, 64, 64)
    gates = [torch.zeros(1, *shape) for shape in ((64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2))]
    with torch.no_grad():
        logits, told = classifier(image, coarse, gates)
        for index in (1, 2, 3):
            layer = classifier.encoder.get_submodule(f"layer{index + 1}")
            assert torch.allclose(told[index], layer(told[index - 1] * 1.5), atol=1e-5)
        assert torch.allclose(logits, classifier.head(told[3].mean((2, 3)) * 1.5), atol=1e-5)


def test_channel_attention_starts_at_nothing_and_weighs_the_least_alike_most() -> None:
    attention, x = ChannelAttention(), torch.tensor([[1.0, 0.0], [0.0, 2.0]]).reshape(1, 2, 1, 2)
    assert torch.equal(attention(x), x)
    torch.nn.init.ones_(attention.gamma)
    # energies: [[1, 0], [0, 4]]; weights: softmax of [0, 1] and of [4, 0]
    a, b = torch.tensor([0.0, 1.0]).softmax(0), torch.tensor([4.0, 0.0]).softmax(0)
    added = torch.stack([a[0] * x[0, 0] + a[1] * x[0, 1], b[0] * x[0, 0] + b[1] * x[0, 1]])
    assert torch.allclose(attention(x)[0], x[0] + added)


def test_the_final_network_starts_deaf_and_hears_the_sum_over_channels() -> None:
    torch.manual_seed(0)
    entangle = Entangle(4).eval()
    x, knowledge = torch.randn(1, 4, 5, 5), torch.randn(1, 7, 5, 5)
    assert torch.equal(entangle(x, knowledge), entangle(x, None))
    torch.nn.init.ones_(entangle.gamma)
    assert not torch.equal(entangle(x, knowledge), entangle(x, None))
    assert torch.allclose(entangle(x, knowledge), entangle(x, knowledge.flip(1)), atol=1e-6)


def test_only_what_is_built_asks_for_public_weights_and_by_its_own_depth() -> None:
    with torch.device("meta"):
        assert CKDNet(classes=0, depth=18).public_weights == {"segment.encoder": "torchvision resnet18"}
        assert set(CKDNet(depth=34).public_weights.values()) == {"torchvision resnet34"}
        assert list(MBDCNN(classes=0, middle=(1, 1)).public_weights) == ["segment.encoder"]
