"""Fixtures of the tests of DICOM."""

from __future__ import annotations

import pytest


@pytest.fixture
def by_darkness(monkeypatch: pytest.MonkeyPatch) -> None:
    from dicom_objects import darkness

    monkeypatch.setattr("segmae.dicom.predict.load", lambda *a: darkness())
