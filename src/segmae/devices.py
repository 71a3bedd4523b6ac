"""The processes of one run, on many devices and machines: how they start, agree, and end together.

A run of N processes computes what one process computes on the joined batch: each process takes every N-th image of a batch,
what is drawn at random (augmentation, hidden patches) is drawn for the joined batch and shared out, gradients are averaged
by DDP, and batch norms use the statistics of the joined batch.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from segmae.background import usable_cpus
from segmae.config import Config
from segmae.data.augment import Share
from segmae.errors import ConfigError
from segmae.stopping import TrainingStopped

PATIENCE = timedelta(hours=2)  # that a process waits for another: the first one prepares the images
ENDED = ("closed by peer", "reset by peer", "timed out", "broken pipe", "not all ranks", "remote process",
         "connection refused", "read error", "nccl")  # fmt: skip
_left: Any = None  # the group of processes that this one left last


def count_processes(config: Config) -> tuple[int, int]:
    """Processes on each machine, and machines: as torchrun or SLURM started them, else as the settings say.

    Raises:
        ConfigError: the settings name other numbers, or the joined batch cannot be divided evenly.
    """
    wanted = (config.devices, config.num_nodes)
    if distributed.is_available() and distributed.is_torchelastic_launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        found, source = (local, int(os.environ["WORLD_SIZE"]) // local), "torchrun"
    elif SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        local = int(os.environ.get("SLURM_NTASKS_PER_NODE", int(os.environ["SLURM_NTASKS"]) // nodes))
        found, source = (local, nodes), "SLURM"
    else:
        found, source = (wanted[0] or 1, wanted[1] or 1), "the settings"
        if found[1] > 1:
            raise ConfigError(
                f"num_nodes={found[1]}: the processes of other machines are started by torchrun or SLURM, which then count them. "
                "See docs/many-devices.md"
            )
        cores = usable_cpus()
        if not on_gpu(config) and found[0] > max(4, cores):
            raise ConfigError(f"devices={found[0]}: this machine has {cores} cores, and more processes only wait for each other. "
                              f"Set devices={cores} or fewer")  # fmt: skip
    if any(want and want != have for want, have in zip(wanted, found, strict=True)):
        raise ConfigError(
            f"devices={wanted[0]}, num_nodes={wanted[1]}: {source} started {found[0]} processes on each of {found[1]} "
            "machines. Leave both out, then they are counted"
        )
    total = found[0] * found[1]
    if config.batch_size % total:
        raise ConfigError(
            f"batch_size={config.batch_size} is the joined batch of all {total} processes. Make it a multiple of {total}"
        )
    return found


def on_gpu(config: Config) -> bool:
    """Whether it trains on a GPU: on CUDA's, where `auto` finds one. Everything else is trained on the CPU."""
    return config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())


def check(config: Config) -> None:
    """Raises ConfigError: a GPU is asked for, and torch sees none; or a precision that a CPU does not train in."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no GPU here. Set device=cpu, or install a torch with CUDA")
    if config.precision == "16-mixed" and not on_gpu(config):  # Fabric would take bf16 without asking
        raise ConfigError(
            "precision=16-mixed: a CPU does not train in it. Set precision=bf16-mixed or 32-true, or device=cuda"
        )


@contextmanager
def repeatable(config: Config) -> Iterator[None]:
    """The same run gives the same bits: on a CPU with as many threads always, on a GPU with `deterministic`, as far as torch can.

    On a GPU this costs more than it does on a CPU: bilinear interpolation, of which decoders are full, is then put together from
    many small kernels.
    """
    fill: Any = torch.utils.deterministic  # its stub lacks the setting
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        fill.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(config.deterministic or not on_gpu(config), warn_only=True)
    fill.fill_uninitialized_memory = False
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        fill.fill_uninitialized_memory = before[2]


def refuse_several(config: Config, what: str) -> None:
    """For work that is more than one run.

    Raises:
        ConfigError: more than one process would do it.
    """
    local, nodes = count_processes(config)
    if local * nodes > 1:
        raise ConfigError(
            f"{what} is the work of one process, not of {local * nodes}. Set devices=1, or use `segmae train`"
        )


def start(config: Config) -> Fabric:
    """The processes of a run, joined where there are several."""
    local, nodes = count_processes(config)
    strategy: Any = "auto"
    if local * nodes > 1:
        # Unused: each phase of a task moves its own part of the network. Buffers: batch norms agree by themselves.
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        strategy = DDPStrategy(find_unused_parameters=True, timeout=PATIENCE, **{buffers: False})
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        # not Fabric's own "auto": it takes Apple's GPU, which has no float64
        accelerator="cuda" if on_gpu(config) else "cpu",
        devices=local,
        num_nodes=nodes,
        strategy=strategy,
        precision=config.precision,  # type: ignore[arg-type]
    )
    if fabric.world_size > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _join_this_attempt("nccl" if fabric.device.type == "cuda" else "gloo")
    fabric.launch()
    return fabric


def _join_this_attempt(backend: str) -> None:
    """Join the group that torchrun started, by names that no earlier attempt used.

    torchrun keeps its store over restarts (seen in torch 2.13), and with it the addresses of processes that it killed; who
    comes first reads those, and is refused.
    """
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=PATIENCE
    )
    distributed.init_process_group(
        backend,
        store=PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )


@contextmanager
def ends_with_the_others() -> Iterator[None]:
    """Say what it means where another process of the run has gone.

    Raises:
        TrainingStopped: it has.
    """
    try:
        yield
    except RuntimeError as error:
        if not distributed.is_initialized() or not any(sign in str(error).lower() for sign in ENDED):
            raise
        raise TrainingStopped(
            "another process of this run has ended; its own message says why, if it could tell. Start all of them "
            f"again: the run goes on from the last save ({' '.join(str(error).split())[:120]})"
        ) from error
    finally:
        if distributed.is_initialized():
            # Kept until no DDP network is left: where one of these ends last, it waits for gloo's threads with Python's lock held,
            # and they wait for the lock (seen in torch 2.13).
            global _left
            _left = distributed.group.WORLD
            distributed.destroy_process_group()


@contextmanager
def first_alone(fabric: Fabric) -> Iterator[None]:
    """What the first process does here is done when the others begin it."""
    if fabric.global_rank > 0:
        fabric.barrier()
    yield
    if fabric.global_rank == 0:
        fabric.barrier()


def share_of(fabric: Fabric, whole: int) -> Share:
    """This process's images of a joined batch of `whole`."""
    return Share(whole, fabric.global_rank, fabric.world_size)


def agree(
    fabric: Fabric, values: dict[str, float], *reasons: bool
) -> tuple[dict[str, float], tuple[bool, ...]]:
    """The mean over processes of each logged value, and which reasons to stop any process has."""
    if fabric.world_size == 1:
        return values, reasons
    vector = torch.tensor([*values.values(), *map(float, reasons)], dtype=torch.float64, device=fabric.device)
    means = fabric.all_reduce(vector, reduce_op="mean").tolist()  # type: ignore[union-attr]
    return dict(zip(values, means, strict=False)), tuple(mean > 0 for mean in means[len(values) :])


def refuse_other_places(fabric: Fabric, reached: tuple[int, int]) -> None:
    """All processes must have resumed at the same epoch and step.

    Raises:
        ConfigError: they do not see the same folder.
    """
    if fabric.world_size > 1:
        least = torch.tensor([*reached, *(-n for n in reached)], device=fabric.device)
        distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
        if least.tolist() != [*reached, *(-n for n in reached)]:  # someone has less, or more
            raise ConfigError("the processes of this run found different states in its folder. "
                              "Set output= to a folder that all machines share")  # fmt: skip


def join_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms that, in training, use the statistics of the joined batch.

    Their parameters and buffers stay the same tensors, under the same names.

    Args:
        device: where it will train. On a GPU torch's own SyncBatchNorm, which works there alone; on a CPU one of ours.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.__class__ = _JoinedBatchNorm
    return model


class _Total(torch.autograd.Function):
    """The sum over processes. Each term moves the total in every process, so gradients are summed as well."""

    @staticmethod
    def forward(context: Any, term: Tensor) -> Tensor:
        total = term.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient


class _JoinedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the images of all processes on CPUs, by gloo."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        dims = [0, *range(2, x.ndim)]
        per_channel = [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() / x.shape[1] * distributed.get_world_size()  # shares are of equal size
        mean = _Total.apply(x.sum(dims)) / count
        centred = x - mean.view(per_channel)
        variance = (
            _Total.apply(centred.square().sum(dims)) / count
        )  # of what is centred: exact where means are large
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)
        y = centred * (variance + self.eps).rsqrt().view(per_channel)
        if self.affine:
            y = y * self.weight.view(per_channel) + self.bias.view(per_channel)
        return y.to(input.dtype)
