"""Laying pictures in eight ways and back."""

from __future__ import annotations

import numpy as np
import pytest

from segmae.views import VIEWS, turn, turn_back


@pytest.mark.parametrize("view", range(VIEWS))
def test_turned_back_every_view_is_the_picture_itself(view: int) -> None:
    pictures = np.arange(2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
    assert np.array_equal(turn_back(turn(pictures, view), view), pictures)
    maps = pictures[..., 0]
    assert np.array_equal(turn_back(turn(maps, view), view), maps)


def test_the_eight_views_differ() -> None:
    picture = np.arange(9).reshape(1, 3, 3)
    assert len({turn(picture, view).tobytes() for view in range(VIEWS)}) == VIEWS
    assert np.array_equal(turn(picture, 0), picture)
