"""How much a trained SegMAE's Transformer does: how far its blocks move the tokens, and Dice on the validation images without them.

    python scripts/what_blocks_do.py RUN... -o results/small_start/blocks.json      adds these runs to the file

Reads the datasets under $SEGMAE_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import in_one_line

from segmae import metrics
from segmae.checkpoint import load_model
from segmae.data.catalog import find_data, open_dataset
from segmae.data.images import read_mask
from segmae.data.preprocess import normalize, read_prepared, resize_mask
from segmae.data.splits import load_split
from segmae.files import read_json, write_json
from segmae.provenance import machine, versions

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    found = {run.name: what_blocks_do(run) for run in options.runs}
    before = read_json(options.out)["runs"] if options.out.exists() else {}
    write_json(
        options.out,
        {"command": f"python scripts/what_blocks_do.py RUN... -o {options.out.name}", "runs": before | found},
    )
    for name, one in found.items():
        print(
            f"{name:45} blocks move tokens by {one['moved']:.1%}; Dice {one['dice']:.4f}, without blocks {one['dice_without']:.4f}"
        )


def what_blocks_do(run: Path) -> dict[str, Any]:
    """Of the validation images of a run's split, at network size.

    Returns:
        `moved`: length of what all blocks add to a token over the token's own, mean; `dice`, `dice_without` the blocks;
        `layer_scale`: mean of the factors, where there are any.
    """
    network, info = load_model(run)
    data = info.provenance["config"]["data"]
    validation = set(load_split(data["split"]).parts["val"])
    cases = [case for case in open_dataset(find_data(data["root"])).cases if case.id in validation]
    size, encoder = info.preprocess.size, network.encoder
    images = np.stack([read_prepared(case.image, info.preprocess)[0] for case in cases])
    masks = np.stack([resize_mask(read_mask(case.mask), size) for case in cases if case.mask])
    moved, with_blocks = [], []
    kept = list(encoder.blocks)
    inputs: list[torch.Tensor] = []
    kept[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    for batch in batches(images, info.preprocess):
        features = encoder(batch)
        added = features[f"block{len(kept)}"] - inputs[-1]
        moved.append((added.norm(dim=-1) / inputs[-1].norm(dim=-1)).mean(dim=1))
        with_blocks.append(network(batch)[:, 0])
    encoder.blocks = torch.nn.ModuleList()
    without = [network(batch)[:, 0] for batch in batches(images, info.preprocess)]
    factors = [
        value.abs().mean().item()
        for name, value in kept[0].named_parameters()
        if "gamma" in name or "scale" in name
    ]
    return {
        "images": len(cases), "size": size, "epochs": info.provenance["epochs"],
        "moved": round(float(torch.cat(moved).mean()), 4), "layer_scale": round(float(np.mean(factors)), 5) if factors else None,
        "dice": dice(with_blocks, masks, info.threshold), "dice_without": dice(without, masks, info.threshold),
        "machine": machine(), "versions": versions(),
    }  # fmt: skip


def batches(images: np.ndarray, preprocess: Any) -> list[torch.Tensor]:
    return [
        torch.from_numpy(normalize(images[at : at + BATCH], preprocess))
        for at in range(0, len(images), BATCH)
    ]


def dice(logits: list[torch.Tensor], masks: np.ndarray, threshold: float) -> float:
    found = torch.sigmoid(torch.cat(logits)).numpy() > threshold
    return round(float(metrics.dice(metrics.counts(found, masks)).mean()), 4)


if __name__ == "__main__":
    with torch.inference_mode():
        in_one_line(main)
