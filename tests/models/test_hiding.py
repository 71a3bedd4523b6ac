"""Which patches are hidden: counts, no repetition, and the promise of each strategy."""

from __future__ import annotations

import pytest
import torch

from segmae.errors import ConfigError
from segmae.models.hiding import (
    choose_visible,
    designated_visible,
    grid_visible,
    random_visible,
    uniform_visible,
    visible_count,
)

IDS = ["ISIC_0000001", "ISIC_0000002", "IMD003"]


def test_a_quarter_of_the_tokens_is_visible() -> None:
    assert visible_count(196, 0.75) == 49
    assert visible_count(16, 0.5) == 8
    assert visible_count(4, 0.99) == 1  # never none: an encoder without tokens has nothing to say


@pytest.mark.parametrize("strategy", ["random", "designated", "grid"])
@pytest.mark.parametrize(
    ("grid", "ratio"), [((14, 14), 0.75), ((13, 17), 0.75), ((10, 10), 0.5), ((2, 2), 0.9)]
)
def test_right_number_of_different_patches(strategy: str, grid: tuple[int, int], ratio: float) -> None:
    visible = choose_visible(strategy, IDS, grid, ratio)
    patches = grid[0] * grid[1]
    assert visible.shape == (3, visible_count(patches, ratio)) and visible.dtype == torch.int64
    assert visible.min() >= 0 and visible.max() < patches
    assert all(len(set(row.tolist())) == visible.shape[1] for row in visible)


def test_random_is_uniform_and_drawn_anew() -> None:
    torch.manual_seed(0)
    visible = random_visible(4000, (4, 4), 0.75)
    share = visible.flatten().bincount(minlength=16) / 4000
    assert (share - 0.25).abs().max() < 0.04  # six standard deviations
    assert not torch.equal(random_visible(2, (14, 14), 0.75), random_visible(2, (14, 14), 0.75))
    torch.manual_seed(7)
    first = random_visible(2, (14, 14), 0.75)
    torch.manual_seed(7)
    assert torch.equal(first, random_visible(2, (14, 14), 0.75))


def test_designated_depends_on_the_id_alone() -> None:
    torch.manual_seed(0)
    first = designated_visible(IDS, (14, 14), 0.75)
    torch.manual_seed(1)  # another epoch, another order of the batch
    again = designated_visible(IDS[::-1], (14, 14), 0.75)
    assert torch.equal(first, again.flip(0))
    assert len({tuple(sorted(row.tolist())) for row in first}) == 3


def test_designated_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(3)
    undisturbed = torch.rand(1)
    torch.manual_seed(3)
    designated_visible(IDS, (14, 14), 0.75)
    assert torch.equal(torch.rand(1), undisturbed)


def test_grid_at_three_quarters_is_every_second_row_and_column() -> None:
    for side in (14, 8):
        seen = torch.zeros(side * side)
        seen[grid_visible(1, (side, side), 0.75)[0]] = 1
        seen = seen.reshape(side, side)
        assert (seen[::2, ::2] == 1).all() and seen.sum() == (side // 2) ** 2


def test_grid_is_the_same_for_all_and_spread_at_any_ratio() -> None:
    visible = grid_visible(3, (8, 8), 0.5)
    assert (visible == visible[0]).all()
    seen = torch.zeros(64).scatter(0, visible[0], 1.0).reshape(4, 2, 4, 2).sum((1, 3))
    assert (seen == 2).all()  # two of four in each 2x2 group


def test_uniform_keeps_one_of_each_cell_and_each_place_as_often() -> None:
    torch.manual_seed(0)
    visible = uniform_visible(500, (8, 12), 0.75)
    seen = torch.zeros(500, 96).scatter(1, visible, 1.0).reshape(500, 4, 2, 6, 2)
    assert (seen.sum((2, 4)) == 1).all()
    cells = visible // 12 // 2 * 6 + visible % 12 // 2
    assert torch.equal(cells, torch.arange(24).expand(500, -1))  # UM-MAE's map of visible patches
    assert (seen.mean((0, 1, 3)) - 0.25).abs().max() < 0.02


@pytest.mark.parametrize(("grid", "ratio"), [((14, 14), 0.6), ((13, 14), 0.75), ((14, 13), 0.75)])
def test_uniform_refuses_what_leaves_no_cells_of_four(grid: tuple[int, int], ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"ratio.*0\.75.*multiple of 32"):
        choose_visible("uniform", IDS, grid, ratio)


def test_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="random, designated, grid or uniform"):
        choose_visible("radnom", IDS, (14, 14), 0.75)
