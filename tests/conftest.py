"""Shared fixtures. Tests on real images are skipped, with the reason, where the data is absent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsing import launched
from darkness import by_darkness, predictor  # noqa: F401  fixtures
from web_host import serve  # noqa: F401  a fixture

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts to see it stopped.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with isic2017/, isic2018/, ph2/ and ham10000/ in their official layouts."""
    root = Path(os.environ.get("SEGMAE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no real data at {root}: set SEGMAE_DATA")
    return root


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, for tests that open pages."""
    yield from launched()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights that sees 64 x 64 pixels, with model.onnx: of the network that is exported fastest."""
    torch = pytest.importorskip("torch")
    from segmae.checkpoint import ModelInfo, save_pretrained
    from segmae.config import Preprocess
    from segmae.models import create_model

    torch.manual_seed(0)
    options = {"widths": [16, 32]}
    info = ModelInfo("unet", options, Preprocess(size=64), provenance={"train_ids": ["none"]})
    folder = tmp_path_factory.mktemp("model") / "small"
    return save_pretrained(folder, create_model("unet", **options), info, onnx=True)
