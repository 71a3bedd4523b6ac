"""Fixtures of the service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import segmae

for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(module, reason="the extra serve is not installed")

from serving import Running, Start, started  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def one_model() -> Iterator[None]:
    """Services of these tests share one loaded model: reading it again for each would take most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segmae.serve.service.load", lru_cache(segmae.load))
        yield


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start services of one's own: `with start(batch=1) as running`."""
    return lambda **options: started(options.pop("state", tmp_path / "state"), **options)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service with the default settings, for tests that leave it as it is."""
    with started(tmp_path_factory.mktemp("serve")) as one:
        yield one


@pytest.fixture(scope="session")
def predictor() -> segmae.Predictor:
    return segmae.load(threads=1)
