"""Which patches stay visible in the reconstruction branch (section 3.1 and 3.4 of the paper).

The paper calls its choice both random (3.2) and designated, that is deterministic (3.4): both are here. `uniform` is
UM-MAE's, which its encoders need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from segmae.errors import ConfigError


def visible_count(patches: int, ratio: float) -> int:
    """How many of `patches` stay visible when the share `ratio` is hidden: 49 of 196 at 0.75."""
    return max(1, int(patches * (1 - ratio) + 1e-6))  # 1e-6: 1 - 0.9 is a little below 0.1


def random_visible(
    batch: int, grid: tuple[int, int], ratio: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Visible patch indices `[B,V]`, uniform per sample and without repetition, by sorting noise (MAE)."""
    patches = grid[0] * grid[1]
    noise = torch.rand(batch, patches, device=device)
    return noise.argsort(1)[:, : visible_count(patches, ratio)]


def designated_visible(ids: Sequence[str], grid: tuple[int, int], ratio: float) -> Tensor:
    """Visible patch indices `[B,V]` that depend on each image's id alone: the same in every epoch."""
    patches = grid[0] * grid[1]
    rows = []
    for name in ids:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        order = torch.randperm(patches, generator=torch.Generator().manual_seed(seed))
        rows.append(order[: visible_count(patches, ratio)])
    return torch.stack(rows)


def grid_visible(batch: int, grid: tuple[int, int], ratio: float) -> Tensor:
    """Visible patch indices `[B,V]` of one fixed, evenly spread pattern: at 0.75 every second row and column.

    Patches are ranked by an 8x8 ordered-dither matrix (Bayer, 1973), so any ratio is spread evenly.
    """
    bayer = torch.zeros(1, 1)
    for _ in range(3):
        bayer = torch.cat(
            [torch.cat([4 * bayer, 4 * bayer + 2], 1), torch.cat([4 * bayer + 3, 4 * bayer + 1], 1)], 0
        )
    tiled = bayer.repeat(-(-grid[0] // 8), -(-grid[1] // 8))[: grid[0], : grid[1]].flatten()
    order = tiled.argsort(stable=True)[: visible_count(tiled.numel(), ratio)]
    return order.expand(batch, -1)


def uniform_visible(
    batch: int, grid: tuple[int, int], ratio: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Visible patch indices `[B,V]`, one drawn from each 2x2 cell, cell by cell in row-major order (Li et al., 2022).

    As there, the places are drawn without repetition from a pool that holds each of the four equally often, twice
    as many as there are cells.

    Raises:
        ConfigError: another share than 0.75, or a grid with an odd side.
    """
    if ratio != 0.75 or grid[0] % 2 or grid[1] % 2:
        raise ConfigError(
            f"reconstruction.strategy=uniform keeps one patch of each 2x2 cell: reconstruction.ratio={ratio} must be "
            f"0.75 and the {grid[0]}x{grid[1]} grid of patches even, so preprocess.size a multiple of 32"
        )
    rows, columns = grid[0] // 2, grid[1] // 2
    place = torch.rand(batch, 2 * rows * columns, device=device).argsort(1)[:, : rows * columns] % 4
    corner = 2 * torch.arange(rows, device=device)[:, None] * grid[1] + 2 * torch.arange(
        columns, device=device
    )
    return corner.flatten() + place // 2 * grid[1] + place % 2


def choose_visible(
    strategy: str, ids: Sequence[str], grid: tuple[int, int], ratio: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Visible patch indices `[B,V]` for images with these ids.

    Args:
        strategy: `random`, `designated`, `grid` or `uniform`.
        grid: rows and columns of patches.
        ratio: share of hidden patches, between 0 and 1.

    Raises:
        ConfigError: `uniform` cannot divide this grid, or hides another share.
        ValueError: no such strategy.
    """
    if strategy == "random":
        return random_visible(len(ids), grid, ratio, device)
    if strategy == "designated":
        return designated_visible(ids, grid, ratio).to(device, non_blocking=True)
    if strategy == "grid":
        return grid_visible(len(ids), grid, ratio).to(device, non_blocking=True)
    if strategy == "uniform":
        return uniform_visible(len(ids), grid, ratio, device)
    raise ValueError(f"hiding strategy '{strategy}': choose random, designated, grid or uniform")
