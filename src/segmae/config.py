"""Every setting of segmae, its default and what it may be: frozen dataclasses, merged with a recipe by `segmae.recipe`."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmae.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """From a photograph to the network's input. Saved in every checkpoint; prediction reads it from there."""

    size: int = 224  # pixels; the network sees size x size, a multiple of 16
    gray_world: bool = False  # each channel scaled by (overall mean / channel mean), then clipped
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of RGB in [0, 1], subtracted
    std: tuple[float, float, float] = IMAGENET_STD  # of RGB in [0, 1], divided by


@dataclass(frozen=True)
class ModelConfig:
    name: str = "segmae-base"  # a name that `segmae models` lists
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the model's function
    start: str = ""  # a model or run folder whose weights are loaded where they fit
    vit: str = ""  # pretrained ViT weights: timm or DINOv2 .safetensors, Google .npz, MAE .pth
    cnn: str = ""  # pretrained weights of the CNN stage
    encoder: str = ""  # pretrained weights of a baseline's encoder: torchvision, timm or Hugging Face


@dataclass(frozen=True)
class DataConfig:
    root: str = ""  # dataset folder; a relative one is also looked for under $SEGMAE_DATA
    split: str = ""  # a name that `segmae data splits list` shows, or a CSV file with the columns id,part
    cache: str = ""  # where prepared images are kept; default: the user's cache folder
    resident: bool = False  # keep prepared images, as bytes, in the memory of the device
    subset: int = 0  # train on this many cases only (seeded choice); 0 = all
    allow_leaks: bool = False  # train although the split shares images with data it is judged on


@dataclass(frozen=True)
class Augmentation:
    """Drawn anew for each image of each batch; image and mask share one geometry."""

    horizontal_flip: float = 0.5  # probability
    vertical_flip: float = 0.5  # probability
    rotation: float = 15.0  # degrees, uniform in [-rotation, rotation]
    scale: tuple[float, float] = (1.0, 1.0)  # uniform zoom factor
    brightness: float = 0.2  # factor uniform in [1 - brightness, 1 + brightness]
    contrast: float = 0.2  # factor uniform in [1 - contrast, 1 + contrast]
    saturation: float = 0.0  # factor uniform in [1 - saturation, 1 + saturation]
    hue: float = 0.0  # shift uniform in [-hue, hue], in turns (at most 0.5)
    elastic: float = 0.0  # standard deviation of a smooth random shift, as a share of the side
    hair: float = 0.0  # probability that dark hairs are drawn over the image
    vignette: float = 0.0  # probability of dark corners, as a dermoscope's tube leaves them


@dataclass(frozen=True)
class Losses:
    """Segmentation loss, eq. 5-11 of the paper."""

    bce: float = 1.2  # lambda 1
    dice: float = 0.4  # lambda 2
    patch: float = 0.8  # lambda 3
    beta: float = 0.1  # temperature of the patch weights, eq. 7
    detach_weights: bool = True  # no gradient through the patch weights
    literal_eq8: bool = False  # divide the patch-wise loss once more by the number of patches
    literal_eq10: bool = False  # the second factor 2 of the printed Dice loss: range [-1, 1]
    own: dict[str, float] = field(default_factory=dict)  # weights of losses of one's own, by FILE.py:NAME


@dataclass(frozen=True)
class Reconstruction:
    """Hiding patches and the loss of rebuilding them, section 3.1 and eq. 12 of the paper."""

    ratio: float = 0.75  # share of the patches that is hidden
    strategy: str = "random"  # random | designated (one pattern per image id) | grid (one fixed pattern) | uniform (one of every 2x2)
    blank_hidden_pixels: bool = False  # also blank the hidden pixels before the CNN sees them
    normalize_patches: bool = False  # rebuild patches scaled to mean 0, variance 1, as an option of MAE
    weighted: bool = True  # softmax weights over the hidden patches; False: the plain mean of eq. 12
    beta: float = 0.1  # temperature of those weights


@dataclass(frozen=True)
class Distillation:
    """Soft masks: what the images' masks are in training is mixed with what other models say."""

    teachers: tuple[str, ...] = ()  # models, folders or runs; none = off
    weight: float = 0.5  # share of the teachers
    views: int = 8  # each says the mean over so many ways to lay the picture


@dataclass(frozen=True)
class Optimizer:
    name: str = "sgd"  # sgd | adamw
    lr: float = 0.008  # learning rate at the start, after the warm-up
    weight_decay: float = 0.001  # with adamw not of biases and norms
    momentum: float = 0.9  # sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adamw
    layer_decay: float = 1.0  # learning-rate factor per ViT block, counted from the last one
    clip: float = 0.0  # largest gradient norm; 0 = no clipping


@dataclass(frozen=True)
class Schedule:
    name: str = "plateau"  # plateau | cosine | constant
    warmup: float = 0.0  # epochs of linear warm-up
    floor: float = 0.0  # cosine: final learning rate as a share of the first
    factor: float = 0.1  # plateau
    patience: int = 10  # plateau: epochs without a better validation Dice


@dataclass(frozen=True)
class Config:
    """One run. `segmae train RECIPE.yaml key=value` resolves to one of these."""

    name: str = "run"  # of the run's folder
    task: str = "hybrid"  # pretrain | hybrid | supervised | adversarial | chained
    output: str = "runs"  # the run's folder is OUTPUT/NAME
    seed: int = 0  # of everything that is drawn: weights, order, augmentation, hidden patches
    epochs: int = 100  # passes over the training part
    batch_size: int = 24  # images of a batch, over all processes
    accumulate: int = 1  # batches per optimiser step
    precision: str = "32-true"  # 32-true | bf16-mixed | 16-mixed
    device: str = "auto"  # auto | cpu | cuda
    devices: int = 0  # processes on each machine; 0 = as many as torchrun or SLURM started, else one
    num_nodes: int = 0  # machines; 0 = as many as torchrun or SLURM started on, else one
    threads: int = 0  # CPU threads; 0 = all; another number rounds sums otherwise
    deterministic: bool = False  # on a GPU: kernels that repeat to the bit where torch has them, some far slower; a CPU always does
    compile: bool = False  # torch.compile: minutes to start, then faster; another machine or version may differ in rounding
    ema: float = 0.0  # decay of the averaged weights that are validated and kept; 0 = off
    save_every: int = 200  # optimiser steps between saves inside an epoch
    resume: str = "auto"  # auto (go on where the run's folder stopped) | never (refuse a folder in use)
    tensorboard: bool = True  # also log for TensorBoard, with pictures
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: Preprocess = field(default_factory=Preprocess)
    augmentation: Augmentation = field(default_factory=Augmentation)
    losses: Losses = field(default_factory=Losses)
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    distillation: Distillation = field(default_factory=Distillation)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def folder(self) -> Path:
        """The run's."""
        return Path(self.output) / self.name


# Settings that change no result beyond rounding, beside `data.resident`: they may differ between a run and its resumption.
WITHOUT_EFFECT = ("output", "threads", "devices", "num_nodes", "compile", "deterministic", "save_every", "resume", "tensorboard")  # fmt: skip

CHOICES = {
    "task": ("pretrain", "hybrid", "supervised", "adversarial", "chained"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
    "device": ("auto", "cpu", "cuda"),
    "resume": ("auto", "never"),
    "reconstruction.strategy": ("random", "designated", "grid", "uniform"),
    "optimizer.name": ("sgd", "adamw"),
    "schedule.name": ("plateau", "cosine", "constant"),
}
TINY = 1e-6  # what has to be above 0, or below 1
MOST_SIZE = 4096  # pixels: more than such networks are fed with, and a slip before it fills the memory
MOST_SEED = 2**63 - 1  # that torch takes
LOSS_WEIGHTS = ("bce", "dice", "patch")  # of the segmentation loss: one of them, or of losses.own, is above 0
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, MOST_SEED), "epochs": (1, math.inf), "batch_size": (1, math.inf), "accumulate": (1, math.inf), "save_every": (1, math.inf),
    "threads": (0, 1024), "devices": (0, math.inf), "num_nodes": (0, math.inf), "ema": (0, 1 - TINY), "data.subset": (0, math.inf),
    "preprocess.mean": (0, 1), "preprocess.std": (TINY, math.inf), "augmentation.horizontal_flip": (0, 1), "augmentation.vertical_flip": (0, 1),
    "augmentation.rotation": (0, 180), "augmentation.scale": (0.01, 100),
    "augmentation.brightness": (0, 1), "augmentation.contrast": (0, 1), "augmentation.saturation": (0, 1), "augmentation.hue": (0, 0.5), "augmentation.elastic": (0, 1),
    "augmentation.hair": (0, 1), "augmentation.vignette": (0, 1), "distillation.weight": (0, 1), "distillation.views": (1, 8),
    "losses.bce": (0, math.inf), "losses.dice": (0, math.inf), "losses.patch": (0, math.inf), "losses.beta": (TINY, math.inf),
    "reconstruction.ratio": (0.01, 0.99), "reconstruction.beta": (TINY, math.inf), "optimizer.lr": (0, math.inf),
    "optimizer.weight_decay": (0, math.inf), "optimizer.momentum": (0, 1 - TINY), "optimizer.betas": (0, 1 - TINY), "optimizer.layer_decay": (TINY, 1), "optimizer.clip": (0, math.inf),
    "schedule.warmup": (0, math.inf), "schedule.floor": (0, 1), "schedule.factor": (TINY, 1 - TINY), "schedule.patience": (0, math.inf),
}  # fmt: skip


def config_to_dict(config: Any) -> dict[str, Any]:
    """A dataclass of settings as plain nested dicts and lists, ready for JSON or YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    values: dict[str, Any] = plain(dataclasses.asdict(config))
    return values


def preprocess_settings(wanted: Preprocess, base: Preprocess) -> list[str]:
    """The overrides `preprocess.KEY=VALUE` that turn `base` into `wanted`."""
    there = config_to_dict(base)
    return [
        f"preprocess.{key}={json.dumps(value, separators=(',', ':'))}"
        for key, value in config_to_dict(wanted).items()
        if value != there[key]
    ]


def config_keys(group: Any = None, prefix: str = "") -> list[str]:
    """Every settable key in dotted form."""
    keys = []
    for item in dataclasses.fields(group := group or Config()):
        value = getattr(group, item.name)
        nested = dataclasses.is_dataclass(value)
        keys += config_keys(value, f"{prefix}{item.name}.") if nested else [prefix + item.name]
    return keys


def check_size(size: int) -> None:
    """Refuse a side of the network's input that no network here takes.

    Raises:
        ConfigError: not a multiple of 16, below 32, or so large that no memory holds a batch.
    """
    if size % 16 or not 32 <= size <= MOST_SIZE:
        raise ConfigError(f"preprocess.size={size}: must be a multiple of 16, from 32 to {MOST_SIZE}")
