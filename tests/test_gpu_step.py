"""The training step on a GPU, without one: every operation is followed by its tensors' shapes, types and devices alone.

What computes on two devices at once fails as it would on a GPU, and so does what a mixed precision cannot take. Each time the
program would wait for the GPU is counted, whichever way the copy goes. Gradients are not followed: torch's engine asks for a real device.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lightning_fabric import Fabric  # noqa: E402
from lightning_fabric.plugins import MixedPrecision  # noqa: E402
from lightning_fabric.strategies import SingleDeviceStrategy  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

from segmae.config import Config  # noqa: E402
from segmae.data.augment import Augment  # noqa: E402
from segmae.data.dataset import Cache  # noqa: E402
from segmae.models import create_model  # noqa: E402
from segmae.optimizer import build_optimizer  # noqa: E402
from segmae.recipe import load_config  # noqa: E402
from segmae.runstate import State, load_state, save_state  # noqa: E402
from segmae.tasks import create_task, freeze_for  # noqa: E402
from segmae.train import train_step, validate  # noqa: E402
from segmae.trainset import Trainset, load_batch, make_resident  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends that there is a GPU, and here is one"),
    pytest.mark.skipif(
        not shutil.which("c++") or not shutil.which("ninja"), reason="needs a C++ compiler, and ninja in PATH"
    ),
]

GPU = torch.device("cuda:0")
SIZE, IMAGES = 64, 6
GUARD = """
#include <torch/extension.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
void pretend() {
  static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
  c10::impl::device_guard_impl_registry[static_cast<int>(c10::DeviceType::CUDA)].store(&guard);
}
"""
RECIPES = {
    "hybrid": ("recipes/paper/isic2018_base.yaml", "augmentation.hair=.5", "augmentation.elastic=.02", "augmentation.vignette=.3"),
    "pretrain": ("recipes/paper/isic2018_base_pretrain.yaml",),
    "um-mae": ("recipes/paper/isic2018_base_pretrain.yaml", "model.name=um-mae-swin", "reconstruction.strategy=uniform"),
    "supervised": ("recipes/paper/isic2018_unet.yaml", "optimizer.name=adamw", "optimizer.clip=1", "ema=.99"),
    "cascade": ("recipes/paper/ph2_mb_dcnn.yaml",),
}  # fmt: skip


class Pretended(TorchDispatchMode):
    """Tensors on the GPU have no content; those on the CPU stay real. `waits`: where the program waited for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.waits = FakeTensorMode(allow_non_fake_inputs=True), []  # type: ignore[var-annotated]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        on_gpu = any(isinstance(leaf, FakeTensor) for leaf in leaves)
        if not on_gpu and not any(isinstance(leaf, torch.device) and leaf == GPU for leaf in leaves):
            return func(*args, **(kwargs or {}))
        if _waits_for_its_copy(func, args, kwargs or {}):
            self.wait()
        if func is torch.ops.aten._local_scalar_dense.default:
            self.wait()
            return 1.0
        with self.fake:
            found = func(*args, **(kwargs or {}))
        if on_gpu and any(isinstance(x, FakeTensor) and x.device.type == "cpu" for x in tree_leaves(found)):
            self.wait()
        return tree_map(lambda x: torch.ones(x.shape, dtype=x.dtype) if _is_back(x) else x, found)

    def wait(self) -> None:
        ours = [
            f for f in traceback.extract_stack() if Path("src/segmae").resolve() in Path(f.filename).parents
        ]
        self.waits.append(f"{Path(ours[-1].filename).name}: {ours[-1].line}" if ours else "elsewhere")


def _waits_for_its_copy(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether it copies to the GPU and is not told `non_blocking`: then all that is queued there comes first."""
    if func is torch.ops.aten._to_copy.default:
        source, target, free = args[0], kwargs.get("device"), kwargs.get("non_blocking")
    elif func is torch.ops.aten.copy_.default:
        source, target, free = args[1], args[0].device, args[2:] and args[2]
    else:
        return False
    return not free and target is not None and target.type == "cuda" and source.device.type == "cpu"


def _is_back(value: Any) -> bool:
    return isinstance(value, FakeTensor) and value.device.type == "cpu"


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What torch asks which GPU is current."""
    from torch.utils import cpp_extension

    return cpp_extension.load_inline(
        "guard", GUARD, functions=["pretend"], build_directory=str(tmp_path_factory.mktemp("guard"))
    )


@pytest.fixture()
def gpu(guard: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    guard.pretend()
    monkeypatch.setattr(FakeTensorMode, "avoid_device_init", True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    lifted = torch._C._only_lift_cpu_tensors()
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Pretended() as mode:
            # one copy, not one for each number
            monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist())
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)


class _NoPictures:
    def pictures(self, *_: Any) -> None:
        pass


def _trained(config: Config, gpu: Pretended) -> tuple[Fabric, State, Any]:
    """As `train.run` sets them up."""
    model = create_model(config.model.name, **config.model.options)
    task = create_task(config.task, config.losses, config.reconstruction, model)
    freeze_for(config.task, model)
    model = model.to(memory_format=torch.channels_last).to(GPU)  # type: ignore[call-overload]
    averaged = create_model(config.model.name, **config.model.options).to(GPU) if config.ema else None
    optimizer = build_optimizer(model, config)
    precision = MixedPrecision("bf16-mixed", device="cuda")
    fabric = Fabric(accelerator="cpu", strategy=SingleDeviceStrategy(GPU, precision=precision))
    model, optimizer = fabric.setup(model, optimizer, move_to_device=False)

    def backward(loss: Any) -> None:
        assert loss.device == GPU and loss.requires_grad
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None

    fabric.backward = backward  # type: ignore[method-assign]
    return fabric, State(model, optimizer, averaged), task


def _images() -> Cache:
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    masks = noise.integers(0, 2, (IMAGES, SIZE, SIZE), dtype=np.uint8)
    ids = tuple("abcdef")
    return Cache(images, masks, ids, np.full((IMAGES, 2), SIZE), ("",) * IMAGES, "", [])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_computes_on_the_gpu_alone_and_waits_for_it_once(recipe: str, gpu: Pretended) -> None:
    file, *settings = RECIPES[recipe]
    config = load_config(file, [f"preprocess.size={SIZE}", "batch_size=4", *settings])
    fabric, state, task = _trained(config, gpu)
    data = make_resident(Trainset(_images(), {"train": np.arange(4), "val": np.array([4, 5])}), GPU)
    augment = Augment(config.preprocess, config.augmentation)
    for number in range(2):
        gpu.waits.clear()
        batch = load_batch(data, data.rows["train"], augment, GPU)
        assert batch.image.device == batch.mask.device == GPU
        assert not gpu.waits or number == 0, "mean and std are moved once"
        gpu.waits.clear()
        values = train_step(fabric, config, state, task, [batch], steps=10)
        assert set(task.phases) <= set(values)
        assert len(gpu.waits) == 1 and ".tolist()" in gpu.waits[0]
    record = validate(fabric, config, state, task, data, _NoPictures())  # type: ignore[arg-type]
    assert "val_loss" in record


def test_a_resumed_step_waits_once_too(gpu: Pretended, tmp_path: Path) -> None:
    file, *settings = RECIPES["supervised"]
    config = load_config(
        file, [f"preprocess.size={SIZE}", "batch_size=4", *settings, "precision=16-mixed"]
    )  # AdamW is not fused
    model = create_model(config.model.name, **config.model.options)
    fabric = Fabric(accelerator="cpu", devices=1)
    state = State(*fabric.setup(model, build_optimizer(model, config)), create_model(config.model.name))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    state.optimizer.step()
    save_state(fabric, tmp_path, state)

    fabric, state, task = _trained(config, gpu)
    assert load_state(fabric, tmp_path, state, lambda event: None)
    data = make_resident(Trainset(_images(), {"train": np.arange(4)}), GPU)
    batch = load_batch(data, data.rows["train"], Augment(config.preprocess, config.augmentation), GPU)
    gpu.waits.clear()
    train_step(fabric, config, state, task, [batch], steps=10)
    assert len(gpu.waits) == 1


def test_two_devices_at_once_and_waits_are_noticed(gpu: Pretended) -> None:
    value = torch.zeros(3, device=GPU)
    with pytest.raises(RuntimeError, match="device"):
        value + torch.zeros(3)
    assert not gpu.waits
    value.sum().item()
    value.cpu()
    torch.ones(3).to(GPU)
    torch.tensor([1.0, 2.0], device=GPU)
    torch.ones(3).to(GPU, non_blocking=True)
    assert gpu.waits == ["elsewhere"] * 4
