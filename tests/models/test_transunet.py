"""TransUNet is what SegMAE's segmenting part would be if its upsampling aligned corners."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segmae.models.segmae import SegMAE
from segmae.models.transunet import TransUNet


def test_differs_from_segmae_in_the_corners_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = dict(dim=24, depth=1, heads=2)
    model = TransUNet(**small, units=(1, 1, 1)).eval()
    assert not model.encoder.position.any()
    segmae = SegMAE(**small, cnn_options={"units": (1, 1, 1)}, decoder=None).eval()
    segmae.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        logits = model(image)
        assert not torch.allclose(segmae(image), logits, atol=1e-4)
        interpolate = F.interpolate
        monkeypatch.setattr(
            F, "interpolate", lambda x, **options: interpolate(x, **{**options, "align_corners": True})
        )
        assert torch.equal(segmae(image), logits)
