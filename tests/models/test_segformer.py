"""SegFormer against Hugging Face's network with the same weights, and its parts against the paper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from segmae.models.layers import DropPath, drop_path_rates
from segmae.models.segformer import EfficientSelfAttention, SegFormer


def test_weights_saved_by_transformers_load_by_name_and_give_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    widths, depths = (8, 16, 40, 64), (1, 2, 1, 1)
    twin = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            hidden_sizes=list(widths), depths=list(depths), num_attention_heads=[1, 2, 5, 8], decoder_hidden_size=24,
            num_labels=1,
        )
    ).eval()  # fmt: skip
    for parameter in twin.parameters():
        nn.init.normal_(parameter, std=0.3)
    twin.save_pretrained(tmp_path)  # under the names of the public files, whatever the classes call them
    weights = load_file(tmp_path / "model.safetensors")
    model = SegFormer(widths, depths, decoder_dim=24).eval()
    model.load_state_dict({name.removeprefix("segformer."): value for name, value in weights.items()})
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-5  # theirs has it everywhere, the authors' only in two places
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        wanted = twin(pixel_values=image).logits
        wanted = nn.functional.interpolate(wanted, scale_factor=4, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(image), wanted, rtol=1e-5, atol=1e-5)


def test_all_positions_see_one_key_where_the_map_shrinks_to_one() -> None:
    layer = EfficientSelfAttention(8, 2, reduction=4)
    x = torch.randn(1, 4, 4, 8)
    value = layer.value(layer.layer_norm(layer.sr(x.permute(0, 3, 1, 2)).flatten(1)))  # [1,8]
    torch.testing.assert_close(layer(x), value[:, None, None].expand(1, 4, 4, 8))


def test_drop_path_keeps_or_drops_whole_images_and_their_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 2, 3, 1)).flatten(1)
    assert torch.equal(dropped, dropped[:, :1].expand(-1, 6))
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert dropped.mean() == pytest.approx(1, abs=0.03)
    assert drop_path_rates(0.4, (2, 1, 2)) == [[0.0, 0.1], [0.2], [pytest.approx(0.3), 0.4]]
