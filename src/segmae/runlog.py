"""What a run writes down as it goes: metrics.jsonl always, TensorBoard with pictures where it is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmae.config import Config
from segmae.errors import require
from segmae.files import append
from segmae.models.layers import patch_grid
from segmae.models.segmae import PATCH, patchify, unpatchify
from segmae.tasks import Batch, Pretrain, Task

PICTURES = 4  # validation images shown in TensorBoard


class RunLog:
    """Logs one run. Writes only where `active`, so that one process of several does it."""

    def __init__(self, folder: Path, config: Config, active: bool = True) -> None:
        self.folder, self.config, self.active = folder, config, active
        self.board = None
        if active and config.tensorboard:
            self.board = require("tensorboardX", "train").SummaryWriter(str(folder / "tensorboard"))

    def write(self, record: dict[str, Any]) -> None:
        """Append an epoch's record to metrics.jsonl and to TensorBoard."""
        if not self.active:
            return
        append(self.folder / "metrics.jsonl", json.dumps(record) + "\n")
        if self.board is not None:
            for key, value in record.items():
                if key != "epoch":
                    self.board.add_scalar(key, float(value), record["epoch"])
            self.board.flush()

    @torch.random.fork_rng()  # the run draws the same numbers with and without pictures
    @torch.no_grad()
    def pictures(self, model: Any, batch: Batch, task: Task, epoch: int) -> None:
        """Rows of image, mask and probability; and of visible patches, rebuilt image and original."""
        if self.board is None:
            return
        image = batch.image[:PICTURES]
        if "segment" in task.phases:
            mask = batch.mask[:PICTURES].expand(-1, 3, -1, -1)
            probability = model(image).float().sigmoid().expand(-1, 3, -1, -1)
            self._add(
                "segmentation: image, mask, probability", [self._colours(image), mask, probability], epoch
            )
        if isinstance(task, Pretrain):
            c, grid = task.reconstruction, patch_grid(image, PATCH)
            visible = task.choose_visible(batch, batch.ids[:PICTURES])
            rebuilt = model(image, task="reconstruct", visible=visible, blank=c.blank_hidden_pixels).float()
            patches = patchify(image)
            if c.normalize_patches:
                variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
                rebuilt = rebuilt * (variance + 1e-6).sqrt() + mean
            seen = torch.zeros_like(patches[:, :, :1]).scatter(1, visible[:, :, None], 1.0)
            columns = [patches * seen, patches * seen + rebuilt * (1 - seen), patches]
            self._add("reconstruction: visible, rebuilt, original",
                      [self._colours(unpatchify(column, grid)) for column in columns], epoch)  # fmt: skip

    def _colours(self, image: Tensor) -> Tensor:
        mean = torch.tensor(self.config.preprocess.mean, device=image.device).reshape(1, 3, 1, 1)
        std = torch.tensor(self.config.preprocess.std, device=image.device).reshape(1, 3, 1, 1)
        return (image * std + mean).clamp(0, 1)

    def _add(self, name: str, columns: list[Tensor], epoch: int) -> None:
        assert self.board is not None
        sheet = torch.cat([torch.cat(list(column), 1) for column in columns], 2)  # [3, rows*H, columns*W]
        self.board.add_image(name, (sheet.cpu().numpy() * 255).astype(np.uint8), epoch)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
