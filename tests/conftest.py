"""Shared fixtures. Tests on real images are skipped, with the reason, where the data is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with isic2017/, isic2018/, ph2/ and ham10000/ in their official layouts."""
    root = Path(os.environ.get("SEGMAE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no real data at {root}: set SEGMAE_DATA")
    return root
