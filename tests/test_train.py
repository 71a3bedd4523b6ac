"""Training as users rely on it: what moves, what resumes, what stops and what is refused."""

from __future__ import annotations

import copy
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lightning_fabric import Fabric  # noqa: E402
from lightning_fabric.plugins import MixedPrecision  # noqa: E402

from segmae import metrics, runstate, train  # noqa: E402
from segmae.checkpoint import WEIGHTS, read_info, save_threshold  # noqa: E402
from segmae.config import Config, Preprocess, config_to_dict  # noqa: E402
from segmae.data.augment import Augment  # noqa: E402
from segmae.data.catalog import Case, open_dataset  # noqa: E402
from segmae.data.dataset import prepare  # noqa: E402
from segmae.data.phantom import write_dataset  # noqa: E402
from segmae.data.splits import Split, load_split, make_split, met_ids, save_split  # noqa: E402
from segmae.errors import ConfigError, DataError, InUse  # noqa: E402
from segmae.files import locked  # noqa: E402
from segmae.mask_loss import segmentation_loss  # noqa: E402
from segmae.models import create_model  # noqa: E402
from segmae.optimizer import build_optimizer, learning_rate  # noqa: E402
from segmae.recipe import load_config  # noqa: E402
from segmae.runlog import RunLog  # noqa: E402
from segmae.runstate import State  # noqa: E402
from segmae.stopping import OutOfTime, Terminated, TrainingStopped  # noqa: E402
from segmae.tasks import Batch, create_task, freeze_for  # noqa: E402
from segmae.train import other_preprocessing, run, train_step, update_average, validate  # noqa: E402
from segmae.trainset import Trainset, epoch_batches, load_batch, make_resident, refuse_seen_images  # noqa: E402

# without its CNN, of whose 400 tensors saving takes longer than training
SMALL = ["model.name=segmae-tiny", "model.options.depth=1", "model.options.decoder=[32,1,2]", "model.options.cnn=none",
         "preprocess.size=64", "batch_size=4", "epochs=2", "device=cpu", "threads=1", "optimizer.name=adamw", "optimizer.lr=1e-3",
         "tensorboard=false"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty drawn lesions with a split of their own."""
    root = tmp_path_factory.mktemp("data")
    folder = write_dataset(root / "lesions", 20, seed=0)
    save_split(make_split(open_dataset(folder).cases, ratios=(0.6, 0.2, 0.2), seed=0), root / "split.csv")
    return root


def config_for(data: Path, output: Path, *overrides: str) -> Config:
    paths = [
        f"data.root={data / 'lesions'}",
        f"data.split={data / 'split.csv'}",
        f"data.cache={data / 'cache'}",
    ]
    return load_config(None, [*SMALL, *paths, f"output={output}", *overrides])


def without_a_loss(config: Config) -> Config:
    """The same, but every loss is no number, which settings that are read cannot say."""
    return replace(config, losses=replace(config.losses, bce=float("nan")))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")  # mapped; Windows replaces no file that is
    return {name: value.clone() for name, value in found.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module", params=["hybrid", "pretrain"])
def undisturbed(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], Path]:
    """Settings, and the folder of a run by them that nothing stopped."""
    options = (
        f"task={request.param}",
        "save_every=2",
        "ema=0.9",
        "schedule.name=plateau",
        "schedule.patience=0",
    )
    return options, run(config_for(data, tmp_path_factory.mktemp("undisturbed"), *options))


@pytest.mark.parametrize(
    "kill", [(1, 1), (1, 3), (2, 2)], ids=["before any save", "inside epoch 1", "in epoch 2"]
)
def test_a_killed_run_resumes_and_ends_with_the_same_bits(
    data: Path, undisturbed: tuple[tuple[str, ...], Path], tmp_path: Path, kill: tuple[int, int]
) -> None:
    options, whole = undisturbed
    config = config_for(data, tmp_path / "killed", *options)
    script = (
        "import os, sys\n"
        "from segmae.recipe import load_config\n"
        "from segmae.train import run\n"
        "def listener(event):\n"
        f"    if event['kind'] == 'step' and (event['epoch'], event['step']) == {kill}:\n"
        "        os.kill(os.getpid(), 9)\n"
        "run(load_config(sys.argv[1]), listener)\n"
    )
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(config_to_dict(config)))
    killed = subprocess.run([sys.executable, "-c", script, str(recipe)], capture_output=True)
    assert abs(killed.returncode) == 9, killed.stderr.decode()[-2000:]
    resumed = run(config)

    for kind in ("best", "last"):
        assert same(weights(whole / kind), weights(resumed / kind))
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (whole, resumed)]
    timing = ("seconds", "images_per_second")
    records = [
        [{k: v for k, v in json.loads(line).items() if k not in timing} for line in text] for text in lines
    ]
    assert records[0] == records[1]


def test_a_deadline_saves_inside_an_epoch_and_the_run_ends_with_the_same_bits(
    data: Path, tmp_path: Path
) -> None:
    undisturbed = run(config_for(data, tmp_path / "undisturbed"))
    config, steps = config_for(data, tmp_path / "stopped"), []

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            steps.append((event["epoch"], event["step"]))

    for _ in range(5):
        with pytest.raises(OutOfTime, match=r"stopped in time at epoch \d, step \d"):
            run(config, listener, deadline=time.monotonic())
    stopped = run(config, listener)
    assert steps == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert same(weights(undisturbed / "best"), weights(stopped / "best"))


def test_sigterm_after_the_last_step_is_told_and_the_run_is_whole(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path)

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch" and event["epoch"] == config.epochs:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated, match="after its last epoch"):
        run(config, listener)
    steps: list[dict[str, Any]] = []
    run(config, lambda event: steps.append(event) if event["kind"] == "step" else None)
    assert not steps and (tmp_path / "run" / "best" / WEIGHTS).is_file()


def test_ctrl_c_while_the_state_is_written_is_ctrl_c(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.RawIOBase):
        """A file that is interrupted at its fifth piece."""

        pieces = 0

        def write(self, piece: Any) -> int:
            self.pieces += 1
            if self.pieces == 5:
                raise KeyboardInterrupt
            return len(piece)

    real = torch.save
    with pytest.raises(RuntimeError):  # torch's own, of the half file
        real({"a": torch.zeros(1000), "b": torch.zeros(1000)}, Interrupted())
    monkeypatch.setattr(runstate.torch, "save", lambda values, file: real(values, Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        run(config_for(data, tmp_path))
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*state*"))
    run(config_for(data, tmp_path))


@pytest.mark.parametrize("stopped", [False, True])
def test_where_epochs_are_short_they_are_saved_in_one_go_and_the_best_is_kept(
    data: Path, tmp_path: Path, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: nothing is written after most epochs, and `best/` is of the epoch that was best."""
    options = ("epochs=6", "ema=0.9", "optimizer.lr=2e-2")
    undisturbed = run(config_for(data, tmp_path / "undisturbed", *options))
    monkeypatch.setattr(train, "Saver", lambda *settings: runstate.Saver(*settings[:-1], train.GPU_PAUSE))
    config, left = config_for(data, tmp_path / "short", *options), []

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch" and event["epoch"] < config.epochs:
            left.append(any((tmp_path / "short" / "run").glob("*/" + WEIGHTS)))
        if stopped and event["kind"] == "step" and (event["epoch"], event["step"]) == (5, 2):
            late = SimpleNamespace(monotonic=lambda: 1e12, perf_counter=time.perf_counter)
            monkeypatch.setattr(
                train, "time", late
            )  # there alone: servers in other threads keep the real one

    if stopped:
        with pytest.raises(OutOfTime):
            run(config, listener, deadline=time.monotonic() + 1e6)
        monkeypatch.undo()
    short = run(config, listener)
    assert left[:4] == [False] * 4
    for kind in ("best", "last"):
        assert same(weights(undisturbed / kind), weights(short / kind))
    epochs = [read_info(folder / "best").provenance["epochs"] for folder in (undisturbed, short)]
    assert epochs[0] == epochs[1]


def test_a_folder_that_another_process_trains_in_is_refused(data: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run" / "lock"), pytest.raises(InUse, match="another process is at work here"):
        run(config_for(data, tmp_path))


def test_another_seed_gives_another_model(data: Path, tmp_path: Path) -> None:
    one = run(config_for(data, tmp_path, "name=one", "epochs=1"))
    two = run(config_for(data, tmp_path, "name=two", "epochs=1", "seed=1"))
    assert not same(weights(one / "last"), weights(two / "last"))


def test_preparing_is_told_where_it_is_done(data: Path, tmp_path: Path) -> None:
    told: list[list[str]] = []
    for name in ("one", "two"):
        told.append([])
        config = config_for(data, tmp_path, f"name={name}", "epochs=1", f"data.cache={tmp_path / 'cache'}")
        run(config, lambda event: told[-1].append(str(event.get("text", ""))))
    assert [sum(text.startswith("preparing ") for text in texts) for texts in told] == [1, 0]


def test_a_spoilt_state_file_falls_back_to_the_one_before(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, "epochs=2")
    folder = run(config)
    expected = weights(folder / "last")
    (folder / "state.pt").write_bytes(b"half a file")
    messages: list[str] = []
    run(config, lambda event: messages.append(str(event.get("text", ""))))
    assert any("state.pt: is damaged" in text for text in messages)
    assert any(text.startswith("resuming") and "epoch 2" in text for text in messages), messages
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2], "what is run again is recorded once"
    assert same(expected, weights(folder / "last"))
    for name in ("state.pt", "state.previous.pt"):
        (folder / name).write_bytes(b"half a file")
    with pytest.raises(ConfigError, match="no state file can be read"):
        run(config)


def test_a_run_whose_state_was_removed_is_not_written_over_by_another(data: Path, tmp_path: Path) -> None:
    folder = run(config_for(data, tmp_path))
    expected = weights(folder / "best")
    for state in folder.glob("state*.pt"):
        state.unlink()
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        run(config_for(data, tmp_path, "seed=1"))
    assert same(expected, weights(folder / "best"))
    run(config_for(data, tmp_path))
    assert same(expected, weights(folder / "best"))


def test_other_threads_are_told_of_where_a_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They round sums otherwise, and with them a run ends with other bits."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    messages: list[str] = []
    for threads in (1, 1, 2):  # stopped in its first step, then again, then not
        config = config_for(data, tmp_path, f"threads={threads}", "epochs=1", "device=auto")
        with suppress(OutOfTime):
            run(
                config, lambda event: messages.append(str(event.get("text", ""))), 0 if threads == 1 else None
            )
    torch.set_num_threads(1)
    told = [text for text in messages if "ran with threads=1 so far and has 2 now" in text]
    assert len(told) == 1 and "threads=1 keeps them" in told[0]
    assert read_info(config.folder / "last").provenance["machine"].endswith("cpu, threads=2")


class OnePhase:
    """A task's phase on its own."""

    def __init__(self, task: Any, phase: str) -> None:
        self.task, self.phases = task, (phase,)

    def __call__(self, model: Any, batch: Batch, phase: str) -> Any:
        return self.task(model, batch, phase)


def moved(task_name: str, phase: str) -> set[str]:
    """The parts of the network that change by a bit in one optimiser step after a warm-up step of every phase."""
    torch.manual_seed(0)
    model = create_model("segmae-tiny", depth=1, decoder=[32, 1, 2])
    freeze_for(task_name, model)
    config = load_config(None, ["optimizer.weight_decay=0.1"])
    task = create_task(task_name, config.losses, config.reconstruction)
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(model, build_optimizer(model, config))
    state = State(wrapped, optimizer, None)
    batch = Batch(torch.randn(2, 3, 64, 64), (torch.rand(2, 1, 64, 64) > 0.5).float(), ["a", "b"])

    def step(name: str) -> None:
        train_step(fabric, config, state, OnePhase(task, name), [batch], steps=10)

    for name in task.phases:  # so that momentum exists for everything that any phase moves
        step(name)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(phase)
    return {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }


def test_stage_1_does_not_move_the_upsampler() -> None:
    assert moved("pretrain", "reconstruct") == {"encoder", "mae_decoder"}


def test_each_step_of_stage_2_moves_its_own_decoder_only() -> None:
    assert moved("hybrid", "segment") == {"encoder", "upsampler"}
    assert moved("hybrid", "reconstruct") == {"encoder", "mae_decoder"}


def test_pretraining_leaves_the_upsampler_as_it_was_built(data: Path, tmp_path: Path) -> None:
    folder = run(config_for(data, tmp_path, "task=pretrain", "epochs=1", "optimizer.weight_decay=0.5"))
    torch.manual_seed(0)
    fresh = create_model("segmae-tiny", depth=1, decoder=[32, 1, 2], cnn="none").state_dict()
    trained = weights(folder / "last")
    parts = [name for name in fresh if name.startswith("upsampler.")]
    assert parts and all(torch.equal(fresh[name], trained[name]) for name in parts)
    assert not torch.equal(fresh["mae_decoder.head.weight"], trained["mae_decoder.head.weight"])


def test_training_learns_and_saves_a_model_that_loads(data: Path, tmp_path: Path) -> None:
    from segmae.checkpoint import load_model

    folder = run(config_for(data, tmp_path, "epochs=6", "optimizer.lr=2e-3"))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["train_segment"] < records[0]["train_segment"]
    model, info = load_model(folder)
    assert info.preprocess.size == 64
    assert info.provenance["trained_on"]["images"] == 12
    assert (
        info.provenance["trained_on"]["dataset"] == "lesions"
    )  # the folder's name, which the split does not say
    parts = load_split(data / "split.csv").parts
    assert met_ids(info.provenance) == (set(parts["train"]), set(parts["val"]))
    assert info.provenance["val_ids"] == list(parts["val"])
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(data: Path, tmp_path: Path) -> None:
    for clip, remedy in ((0, "lower optimizer.lr or set optimizer.clip=1"), (1, "or lower optimizer.lr")):
        told = rf"loss is nan.*the batch: drawn_\d{{4}}, drawn_.*Look at these images, {remedy} \("
        with pytest.raises(TrainingStopped, match=told):
            run(without_a_loss(config_for(data, tmp_path / str(clip), f"optimizer.clip={clip}")))


def test_a_network_that_gives_no_numbers_in_evaluation_stops(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As norms do whose running statistics are spoilt: training never sees them."""
    (tmp_path / "spoilt.py").write_text(
        "import torch\n"
        "class Spoilt(torch.nn.Module):\n"
        "    def __init__(self, depth, decoder, cnn):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 1, 1)\n"
        "    def forward(self, image):\n"
        "        return self.conv(image) * (1.0 if self.training else float('nan'))\n"
    )
    monkeypatch.chdir(tmp_path)
    network = ["task=supervised", "model.name=spoilt.py:Spoilt"]
    with pytest.raises(TrainingStopped, match=r"loss of the validation images is nan after epoch 1"):
        run(config_for(data, tmp_path / "run", *network))
    assert not (tmp_path / "run" / "best").exists()


class Overflowing:
    """A task whose loss is 0 and whose gradient is no number."""

    phases = ("segment",)

    def __call__(self, model: Any, batch: Batch, phase: str) -> Any:
        return {"loss": (model(batch.image) * 0).sum().sqrt()}


@pytest.mark.parametrize("scaler", [False, True])
def test_a_gradient_that_is_not_finite_names_its_own_batch(scaler: bool) -> None:
    config = load_config(None, ["optimizer.clip=1"])
    plugins = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu")) if scaler else None
    fabric = Fabric(accelerator="cpu", devices=1, plugins=plugins)
    model = create_model("unet", widths=[4, 8])
    before = {name: value.clone() for name, value in model.named_parameters()}
    state = State(*fabric.setup(model, build_optimizer(model, config)), None)
    batch = Batch(torch.randn(2, 3, 32, 32), torch.zeros(2, 1, 32, 32), ["this", "one"])

    def step() -> dict[str, float]:
        return train_step(fabric, config, state, Overflowing(), [batch], steps=10)  # type: ignore[arg-type]

    if scaler:  # it leaves such a step out
        assert step() == {"segment": 0}
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    else:
        with pytest.raises(TrainingStopped, match=r"segment loss's gradient is nan.*the batch: this, one"):
            step()


def test_training_leaves_torchs_mode_as_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fills in (True, False):
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", fills)
        assert not torch.are_deterministic_algorithms_enabled()
        run(config_for(data, tmp_path / str(fills), "epochs=1"))
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory is fills


def test_averaged_weights_lie_in_memory_as_the_networks_do(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels last: else every tensor is averaged by a kernel of its own, and validation is slow on a GPU."""
    seen: list[int] = []

    def update(averaged: torch.nn.Module, model: Any, *rest: Any) -> None:
        source = model.state_dict()
        for name, value in averaged.state_dict().items():
            assert value.stride() == source[name].stride(), name
        convolutions = [m.weight for m in averaged.modules() if isinstance(m, torch.nn.Conv2d)]
        seen.append(sum(not weight.is_contiguous() for weight in convolutions))
        update_average(averaged, model, *rest)

    monkeypatch.setattr("segmae.train.update_average", update)
    config = config_for(data, tmp_path, "ema=0.9", "epochs=1")
    with pytest.raises(OutOfTime):
        run(config, deadline=time.monotonic())
    run(config)  # goes on from the state on disk
    assert min(seen) > 5


def test_averaged_weights_follow_at_once_in_early_steps_and_slowly_later() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    model[0].weight.data.fill_(1)
    model[1].num_batches_tracked.fill_(7)
    for step, decay in ((0, 1 / 10), (2, 3 / 12), (8, 9 / 18), (10_000, 0.9)):
        averaged = copy.deepcopy(model)
        averaged[0].weight.data.zero_()
        averaged[1].num_batches_tracked.zero_()
        update_average(averaged, model, 0.9, step)
        assert averaged[0].weight.item() == pytest.approx(1 - decay)
        assert averaged[1].num_batches_tracked == 7


def test_steps_of_all_epochs_count_for_averaged_weights() -> None:
    config = load_config(None, ["ema=0.99"])
    fabric = Fabric(accelerator="cpu", devices=1)
    model = create_model("unet", widths=[4, 8])
    averaged = copy.deepcopy(model)
    before = next(averaged.parameters()).clone()
    state = State(*fabric.setup(model, build_optimizer(model, config)), averaged, epoch=3, step=2)
    task = create_task("supervised", config.losses, config.reconstruction)
    batch = Batch(torch.randn(2, 3, 32, 32), torch.ones(2, 1, 32, 32), ["a", "b"])
    assert state.network is averaged, "which is validated and kept"
    (group,) = state.optimizer.param_groups
    group["scale"] = 0.5  # as layer decay sets it
    train_step(fabric, config, state, task, [batch], steps=10)
    assert group["lr"] == 0.5 * config.optimizer.lr
    wanted = before.lerp(next(model.parameters()), 1 - 33 / 42)  # the 32nd step
    torch.testing.assert_close(next(averaged.parameters()), wanted)


def test_accumulated_batches_move_the_network_as_one_batch() -> None:
    class Square:
        phases = ("segment",)

        def __call__(self, model: Any, batch: Batch, phase: str) -> Any:
            loss = model(batch.image).square().mean()
            return {"loss": loss, "parts": {"part": 2 * loss}}

    fabric, whole = Fabric(accelerator="cpu", devices=1), torch.nn.Conv2d(3, 1, 1)
    image = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        loss = float(whole(image).square().mean())
    before = torch.nn.utils.parameters_to_vector(whole.parameters())
    for clip in (0, 1e-3):
        config = load_config(None, ["optimizer.lr=0.1", "optimizer.weight_decay=0", f"optimizer.clip={clip}"])
        steps = []
        for parts in (1, 2):
            model = copy.deepcopy(whole)
            state = State(*fabric.setup(model, build_optimizer(model, config)), None)
            batches = [Batch(some, some[:, :1], ["a"] * len(some)) for some in image.chunk(parts)]
            values = train_step(fabric, config, state, Square(), batches, steps=1)  # type: ignore[arg-type]
            assert values == pytest.approx({"segment": loss, "part": 2 * loss}, rel=1e-5)
            steps.append((torch.nn.utils.parameters_to_vector(model.parameters()) - before).detach())
        torch.testing.assert_close(*steps, rtol=1e-3, atol=1e-7)
        lengths = [float(step.norm()) for step in steps]
        assert lengths == pytest.approx([1e-4] * 2, rel=1e-2) if clip else min(lengths) > 1e-3


@pytest.mark.parametrize(
    ("validations", "best", "factors"),
    [
        ({"val_dice": [0.5, 0.5, 0.6, 0.4, 0.5, 0.4, 0.4, 0.4]}, [1, 3], [1, 1, 1, 1, 1, 0.5, 0.5, 0.25]),
        ({"val_loss": [0.5, 0.4, 0.6]}, [1, 2], [1, 1, 1]),
        ({}, [1, 2], [1, 1]),
    ],
)
def test_epochs_are_counted_judged_and_slowed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    validations: dict[str, list[float]], best: list[int], factors: list[float],
) -> None:  # fmt: skip
    """By steps and validations that only say what is written here, stopped once: the rate halves after two epochs that were not better."""
    seen: list[list[list[str]]] = []
    rates: list[float] = []
    draws: set[float] = set()

    def step(fabric: Any, config: Config, state: State, task: Any, batches: list[Batch], steps: int) -> Any:
        assert steps == 3 and state.network.training
        seen.append([batch.ids for batch in batches])
        rates.append(learning_rate(config, state, steps) / config.optimizer.lr)
        draws.add(float(torch.rand(())))
        for parameter in state.network.parameters():
            parameter.data.fill_(len(seen))
        return {"segment": float(len(seen))}

    def scores(fabric: Any, config: Config, state: State, *rest: Any) -> dict[str, float]:
        state.network.eval()
        return {name: values[state.epoch] for name, values in validations.items()}

    monkeypatch.setattr(train, "train_step", step)
    monkeypatch.setattr(train, "validate", scores)
    pause = 0.0 if "val_loss" in validations else train.GPU_PAUSE
    monkeypatch.setattr(train, "Saver", lambda *settings: runstate.Saver(*settings[:-1], pause))
    options = (
        "task=supervised",
        "batch_size=2",
        "accumulate=2",
        "schedule.patience=1",
        "schedule.factor=0.5",
    )
    config = config_for(data, tmp_path, *options, f"epochs={len(factors)}")
    config = replace(config, model=replace(config.model, name="unet", options={"widths": [4, 8]}))

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and (event["epoch"], event["step"]) == (len(factors) - 1, 2):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated):
        run(config, listener)
    assert (config.folder / "last").exists() == (pause == 0), "inside an epoch it is not written"
    folder = run(config)
    assert len(draws) == len(seen) == 3 * len(factors), "each step has its own random numbers"
    train_ids = sorted(load_split(data / "split.csv").parts["train"])
    for epoch in range(len(factors)):
        steps = seen[3 * epoch : 3 * epoch + 3]
        assert [[len(batch) for batch in batches] for batches in steps] == [[2, 2]] * 3
        assert sorted(name for batches in steps for batch in batches for name in batch) == train_ids
    assert seen[:3] != seen[3:6]
    assert rates == pytest.approx(np.repeat(factors, 3))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if record["best"]] == best
    assert [record["train_segment"] for record in records] == [3 * n + 2 for n in range(len(factors))]
    kept = [read_info(folder / kind).provenance["epochs"] for kind in ("best", "last")]
    assert kept == [best[-1], len(factors)]
    name = "head.weight"
    assert [weights(folder / kind)[name].unique().tolist() for kind in ("best", "last")] == [
        [3 * epochs] for epochs in kept
    ]


def test_validation_is_a_mean_over_images_whatever_the_batch(data: Path, tmp_path: Path) -> None:
    cache = prepare(open_dataset(data / "lesions").cases, Preprocess(size=64), tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1)
    model = torch.nn.Conv2d(3, 1, 1)  # what is darker than the mean is lesion
    model.weight.data.fill_(-1)
    rows, found, draws = np.arange(7), [], set()
    for size in (7, 3):
        config = config_for(data, tmp_path, "task=supervised", f"batch_size={size}")
        state = State(*fabric.setup(model.train(), build_optimizer(model, config)), None, epoch=size)
        task = create_task("supervised", config.losses, config.reconstruction)
        log = RunLog(tmp_path, config)
        found.append(validate(fabric, config, state, task, Trainset(cache, {"val": rows}), log))
        draws.add(float(torch.rand(())))  # the same in every epoch
        assert not model.training
        assert validate(fabric, config, state, task, Trainset(cache, {"val": rows[:0]}), log) == {}
    assert found[0] == pytest.approx(found[1], rel=1e-5) and len(draws) == 1
    batch = load_batch(Trainset(cache, {}), rows, Augment(config.preprocess), torch.device("cpu"))
    with torch.no_grad():
        logits = model.eval()(batch.image)
    c = metrics.counts((logits > 0)[:, 0].numpy(), batch.mask[:, 0].numpy() > 0.5)
    assert found[0]["val_dice"] == pytest.approx(metrics.dice(c).mean())
    assert found[0]["val_iou"] == pytest.approx(metrics.iou(c).mean())
    assert found[0]["val_loss"] == pytest.approx(
        float(segmentation_loss(logits, batch.mask, config.losses)[0])
    )


@pytest.mark.parametrize("step", ["train_step", "validate"])
def test_out_of_memory_names_the_settings_to_lower(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(f"segmae.train.{step}", full)
    with pytest.raises(TrainingStopped, match="Lower batch_size"):
        run(config_for(data, tmp_path))


def test_a_folder_is_not_continued_with_other_settings(data: Path, tmp_path: Path) -> None:
    run(config_for(data, tmp_path, "epochs=1"))
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.001 -> 0.5"):
        run(config_for(data, tmp_path, "epochs=1", "optimizer.lr=0.5"))
    with pytest.raises(ConfigError, match="a run is there already"):
        run(config_for(data, tmp_path, "epochs=1", "resume=never"))


def test_a_leaking_split_is_refused(data: Path, tmp_path: Path) -> None:
    lines = (data / "split.csv").read_text().splitlines()
    trained = next(line for line in lines if line.endswith(",train")).split(",")[0]
    (data / "leaking.csv").write_text("\n".join([*lines, f"{trained},test"]) + "\n")
    with pytest.raises(DataError, match=trained):
        run(config_for(data, tmp_path, f"data.split={data / 'leaking.csv'}"))


def test_a_split_that_divides_a_lesions_images_is_refused(data: Path, tmp_path: Path) -> None:
    lines = (data / "split.csv").read_text().splitlines()
    trained = next(line for line in lines if line.endswith(",train")).split(",")[0]
    tested = next(line for line in lines if line.endswith(",test")).split(",")[0]
    table = data / "lesions" / "metadata.csv"
    table.write_text(f"image_id,lesion_id\n{trained},L7\n{tested},L7\n")
    try:
        with pytest.raises(DataError, match=r"1 lesions or patients .*L7"):
            run(config_for(data, tmp_path))
        run(config_for(data, tmp_path, "data.allow_leaks=true", "epochs=1"))
    finally:
        table.unlink()


def test_a_copy_under_another_id_in_another_part_is_told(data: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "lesions", 6, seed=1)
    names = sorted(path.stem for path in (folder / "images").iterdir())
    parts = ["train"] * 4 + ["val", "test"]
    (tmp_path / "mine.csv").write_text("id,part\n" + "".join(map("{},{}\n".format, names, parts)))
    for part in ("images", "masks"):
        first, last = (next((folder / part).glob(f"{names[i]}*")) for i in (1, 5))
        last.write_bytes(first.read_bytes())
    config = config_for(
        data, tmp_path, f"data.root={folder}", f"data.split={tmp_path / 'mine.csv'}", "epochs=1"
    )
    messages: list[str] = []
    for _ in range(2):  # told once
        run(config, lambda event: messages.append(str(event.get("text", ""))))
    told = [text for text in messages if "in another part: 1, e.g." in text]
    assert len(told) == 1 and f"e.g. {names[1]}. They are learnt and judged on" in told[0]


def test_a_start_that_saw_the_images_judged_on_is_refused(data: Path, tmp_path: Path) -> None:
    first = run(config_for(data, tmp_path, "name=stage1", "task=pretrain", "epochs=1"))
    lines = (data / "split.csv").read_text().splitlines()
    swap = {"train": "test", "test": "train"}
    swapped = [lines[0]] + [
        f"{i},{swap.get(part, part)}" for i, part in (line.split(",") for line in lines[1:])
    ]
    (data / "swapped.csv").write_text("\n".join(swapped) + "\n")
    with pytest.raises(DataError, match=r"that split .* judges on"):
        run(
            config_for(
                data, tmp_path, "name=stage2", f"model.start={first}", f"data.split={data / 'swapped.csv'}"
            )
        )
    messages: list[str] = []
    run(config_for(data, tmp_path, "name=ok", "epochs=1", f"model.start={first}", "preprocess.gray_world=true"),
        lambda event: messages.append(str(event.get("text", ""))))  # fmt: skip
    assert any(text.startswith("start ") for text in messages)
    assert any(text.endswith("To go on as it did, set preprocess.gray_world=false") for text in messages)


def test_a_start_that_saw_its_images_otherwise_is_told_of(data: Path) -> None:
    config = load_config(
        None, ["preprocess.size=32", "preprocess.mean=[0,0,0]", "preprocess.gray_world=true"]
    )
    text = other_preprocessing(Preprocess(size=64), config.preprocess)
    theirs = "preprocess.gray_world=false preprocess.mean=[0.485,0.456,0.406]"
    assert (
        f"was trained with {theirs}, and this run has preprocess.gray_world=true preprocess.mean=[0.0,0.0,0.0]"
        in text
    )
    taken = load_config(None, ["preprocess.size=32", *text.split(", set ")[1].split()])
    assert taken.preprocess == Preprocess(size=32)
    assert not other_preprocessing(Preprocess(size=64), taken.preprocess)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path)
    first, again, second = (
        np.concatenate(epoch_batches(np.arange(12), config, epoch)) for epoch in (0, 0, 1)
    )
    assert sorted(first) == list(range(12))
    assert (first == again).all() and (first != second).any()


def test_a_warmup_that_outlasts_the_run_is_told(data: Path, tmp_path: Path) -> None:
    told: list[str] = []
    config = config_for(data, tmp_path, "epochs=1", "schedule.warmup=5")
    run(config, lambda event: told.append(str(event.get("text", ""))))
    assert any("schedule.warmup=5 is not over in epochs=1" in text for text in told)


def test_the_cosine_schedule_warms_up_and_falls_to_its_floor() -> None:
    config = load_config(
        None, ["epochs=10", "schedule.name=cosine", "schedule.warmup=2", "schedule.floor=0.1"]
    )
    lr = config.optimizer.lr
    at = [learning_rate(config, SimpleNamespace(epoch=e, step=s, factor=1.0), 10) for e, s in  # type: ignore[arg-type]
          [(0, 0), (1, 9), (2, 0), (6, 0), (10, 0)]]  # fmt: skip
    assert at == pytest.approx([lr / 20, lr, lr, lr * 0.55, lr * 0.1])


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 2), (0.5, 1), (1.5, 1), (0.25, 6)])
def test_a_warmup_that_ends_inside_a_step_does_not_exceed_the_rate(warmup: float, steps: int) -> None:
    config = load_config(None, ["epochs=4", f"schedule.warmup={warmup}"])
    rates = [learning_rate(config, SimpleNamespace(epoch=e, step=s, factor=1.0), steps)  # type: ignore[arg-type]
             for e in range(3) for s in range(steps)]  # fmt: skip
    assert rates == sorted(rates) and rates[-1] == config.optimizer.lr


def test_a_runs_configuration_is_a_recipe(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, "epochs=1")
    first = run(config)
    assert load_config(first / "config.json") == config
    again = run(load_config(first / "config.json", ["name=again"]))
    assert same(weights(first / "last"), weights(again / "last"))


def test_the_shipped_model_is_no_start_for_a_fold_whose_test_images_it_saw() -> None:
    from segmae.checkpoint import read_info

    provenance = read_info("segmae-tiny").provenance
    config = load_config(None, ["model.start=segmae-tiny"])
    told: list[Any] = []
    refuse_seen_images(provenance, load_split("isic2018/fold1"), config, "the start", (), told.append)
    for chain in (provenance, {"started_from": provenance}):
        with pytest.raises(DataError, match="the start was trained on"):
            refuse_seen_images(chain, load_split("isic2018/fold2"), config, "the start", (), told.append)
    assert not told


def test_a_start_that_does_not_say_what_it_saw_is_told_of() -> None:
    told: list[dict[str, Any]] = []
    split = Split("mine", "", {"train": ("a",), "val": ("b",), "test": ("c",)}, "")
    refuse_seen_images({}, split, load_config(None), "model.start=x", (), told.append)
    assert [event["kind"] for event in told] == ["message"]
    assert told[0]["text"].startswith("model.start=x does not say which images it was trained on: those that")
    refuse_seen_images({"train_ids": ["z"]}, split, load_config(None), "model.start=x", (), told.append)
    assert len(told) == 1


def test_a_start_that_saw_another_image_of_a_lesion_has_seen_it() -> None:
    cases = [Case(name, Path(name), group=group) for name, group in (("b", "L1"), ("x", "L1"), ("z", None))]
    split = Split("mine", "", {"train": ("a",), "val": ("b",), "test": ("c",)}, "")
    config, told = load_config(None), []  # type: ignore[var-annotated]
    with pytest.raises(DataError, match=r"model\.start=x was trained on.* lesions\), e\.g\. b\."):
        refuse_seen_images({"train_ids": ["x"]}, split, config, "model.start=x", cases, told.append)
    refuse_seen_images({"train_ids": ["z"]}, split, config, "model.start=x", cases, told.append)
    chosen = {"train_ids": ["z"], "val_ids": ["x"]}  # the same image chooses again: no test image
    refuse_seen_images(chosen, split, config, "model.start=x", cases, told.append)
    assert not told


def test_training_reads_what_data_prepare_stored(data: Path, tmp_path: Path) -> None:
    from segmae.config import Preprocess
    from segmae.data.dataset import prepare

    cache = tmp_path / "cache"
    prepare(open_dataset(data / "lesions").cases, Preprocess(size=64), cache)
    (store,) = cache.iterdir()
    run(config_for(data, tmp_path, "epochs=1", f"data.cache={cache}"))
    assert list(cache.iterdir()) == [store]


def test_pictures_change_no_number(data: Path, tmp_path: Path) -> None:
    folders = [
        run(
            config_for(data, tmp_path, "task=pretrain", "batch_size=2", f"name={name}", f"tensorboard={name}")
        )
        for name in ("true", "false")
    ]
    losses = [
        [json.loads(line)["val_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    ]
    assert losses[0] == losses[1]


def test_a_slip_that_stopped_a_run_before_it_began_can_be_mended(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped):
        run(without_a_loss(config_for(data, tmp_path)))
    run(config_for(data, tmp_path, "epochs=1"))


@pytest.mark.parametrize(
    ("task", "settings"),
    [("hybrid", ["model.options.decoder=null"]), ("pretrain", ["model.name=unet", "model.options={}"])],
)
def test_a_task_that_the_network_cannot_do_is_refused_before_it_begins(
    data: Path, tmp_path: Path, task: str, settings: list[str]
) -> None:
    config = config_for(data, tmp_path, f"task={task}", *settings)
    if "model.name=unet" in settings:
        config = replace(config, model=replace(config.model, options={"widths": [8, 16]}))
    with pytest.raises(ConfigError, match=r"has no decoder that rebuilds patches\. Set task=supervised"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_layer_decay_slows_the_vit_from_top_to_bottom_and_nothing_else() -> None:
    config = load_config(None, ["optimizer.layer_decay=0.5", "optimizer.name=adamw"])
    model = create_model("segmae-small", depth=3, decoder=None)
    optimizer = build_optimizer(model, config)
    scale = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    of = {name: scale[id(p)] for name, p in model.named_parameters()}
    for name, wanted in {
        "encoder.blocks.2.attn.qkv.weight": 1.0, "encoder.blocks.0.attn.qkv.weight": 0.25,
        "encoder.patch_embed.weight": 0.125, "encoder.position": 0.125,
        "encoder.cnn.stem.weight": 1.0, "encoder.cnn_embed.weight": 1.0, "upsampler.head.weight": 1.0,
    }.items():  # fmt: skip
        assert of[name] == wanted, name
    with pytest.raises(ConfigError, match=r"layer_decay=0\.5: segmae-base has no ViT blocks"):
        build_optimizer(torch.nn.Linear(2, 2), config)


@pytest.mark.parametrize(("network", "ending"), [("swin-unet", "relative_position_bias_table"), ("vm-unet", "A_logs"), ("vm-unet", "dt_projs_bias"),
                                                 ("segmae-tiny", ".bias")])  # fmt: skip
def test_adamw_lets_no_bias_decay_whatever_its_shape(network: str, ending: str) -> None:
    model = create_model(network)
    optimizer = build_optimizer(
        model, load_config(None, ["optimizer.name=adamw", "optimizer.weight_decay=0.1"])
    )
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    of = {name: decay[id(p)] for name, p in model.named_parameters()}
    spared = [name for name in of if name.endswith(ending)]
    vectors = [name for name, p in model.named_parameters() if p.ndim == 1]  # norms' weights among them
    assert spared and not any(of[name] for name in spared + vectors)
    assert all(of[name] == 0.1 for name in of if name.endswith(("conv.weight", "qkv.weight")))


def test_the_optimisers_settings_are_those_of_the_configuration() -> None:
    model = torch.nn.Linear(2, 2)
    settings = ["optimizer.lr=0.02", "optimizer.momentum=0.7", "optimizer.weight_decay=0.3"]
    sgd = build_optimizer(model, load_config(None, settings))
    assert [(g["lr"], g["momentum"], g["weight_decay"]) for g in sgd.param_groups] == [(0.02, 0.7, 0.3)]
    adamw = ["optimizer.name=adamw", "optimizer.betas=[0.8,0.95]"]
    groups = build_optimizer(model, load_config(None, adamw)).param_groups
    assert {(group["betas"], group["fused"]) for group in groups} == {((0.8, 0.95), True)}
    scaled = build_optimizer(model, load_config(None, [*adamw, "precision=16-mixed"])).param_groups
    assert not any(group["fused"] for group in scaled), "else clipping sees gradients of scaled losses"


def test_the_log_tells_the_rate_that_layer_decay_does_not_slow(data: Path, tmp_path: Path) -> None:
    folder = run(config_for(data, tmp_path, "epochs=1", "optimizer.layer_decay=0.5", "task=supervised"))
    assert json.loads((folder / "metrics.jsonl").read_text())["lr"] == 1e-3


@pytest.mark.parametrize(
    "setting",
    [
        "losses.beta=0",
        "ema=2",
        "preprocess.std=[0,0,0]",
        "data.subset=-5",
        "optimizer.lr=-1",
        "preprocess.size=40",
        "name=../evil",
        "model=segmae-tiny",
    ],
)
def test_values_that_cannot_work_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        load_config(None, [setting])


def test_images_kept_on_the_device_give_the_same_bits(data: Path, tmp_path: Path) -> None:
    """Of a part of the images, so that rows of the cache and of the device differ."""
    folders = [
        run(config_for(data, tmp_path / value, "data.subset=8", f"data.resident={value}"))
        for value in ("false", "true")
    ]
    assert same(*(weights(folder / "last") for folder in folders))
    infos = [json.loads((folder / "last" / "config.json").read_text())["provenance"] for folder in folders]
    assert infos[0]["train_ids"] == infos[1]["train_ids"] and len(infos[0]["train_ids"]) == 8
    assert infos[0]["last_record"]["val_dice"] == infos[1]["last_record"]["val_dice"]


def test_on_the_device_lies_what_the_rows_name_and_no_more(data: Path, tmp_path: Path) -> None:
    cache = prepare(open_dataset(data / "lesions").cases, Preprocess(size=32), tmp_path)
    rows = {"train": np.array([7, 2, 11]), "val": np.array([2, 19])}
    targets = np.arange(20 * 32 * 32, dtype=np.int64).reshape(20, 32, 32).astype(np.uint8)
    whole = Trainset(cache, rows, targets=targets)
    small = make_resident(whole, torch.device("cpu"))
    assert (
        isinstance(small.cache.images, torch.Tensor)
        and small.cache.images.dtype == torch.uint8
        and len(small.cache.images) == 4
    )
    augment = Augment(Preprocess(size=32))
    for part, chosen in rows.items():
        for change in ({}, {"targets": None}):
            before = load_batch(replace(whole, **change), chosen, augment, torch.device("cpu"))
            after = load_batch(replace(small, **change), small.rows[part], augment, torch.device("cpu"))
            assert torch.equal(before.image, after.image) and torch.equal(before.mask, after.mask)
            assert before.ids == after.ids
    # of large datasets, whose order follows from their stores, the same order too
    rows = {"train": np.array([7, 2, 17, 11, 16, 8, 12]), "val": np.array([19])}
    whole = Trainset(replace(cache, starts=(0, 5, 10, 15)), rows)
    small = make_resident(whole, torch.device("cpu"))
    config = config_for(data, tmp_path, "batch_size=1")
    before, after = (
        [kept.cache.ids[row] for (row,) in epoch_batches(kept.rows["train"], config, 0, 1, kept.cache.starts)]
        for kept in (whole, small)
    )
    assert before == after


def test_a_setting_that_came_later_does_not_stop_a_run(data: Path, tmp_path: Path) -> None:
    folder = run(config_for(data, tmp_path, "epochs=1"))
    before = json.loads((folder / "fingerprint.json").read_text())
    del before["losses"]["beta"], before["ema"]
    (folder / "fingerprint.json").write_text(json.dumps(before))
    run(config_for(data, tmp_path, "epochs=1"))
    with pytest.raises(ConfigError, match=r"losses\.beta: 0\.1 -> 0\.2"):
        run(config_for(data, tmp_path, "epochs=1", "losses.beta=0.2"))


def test_how_images_are_kept_and_compiled_is_no_other_run(data: Path, tmp_path: Path) -> None:
    run(config_for(data, tmp_path, "epochs=1"))
    run(config_for(data, tmp_path, "epochs=1", "data.resident=true", "compile=true"))  # done: not refused
    with pytest.raises(ConfigError, match="other settings"):
        run(config_for(data, tmp_path, "epochs=1", "optimizer.lr=2e-3"))


def test_compiling_changes_neither_names_nor_the_step(data: Path) -> None:
    """With the compiler's front half alone: its back half needs a C compiler and minutes."""
    steps = {}
    for compiled in (False, True):
        config = config_for(data, Path("unused"), "task=supervised", "augmentation.rotation=0")
        fabric = Fabric(accelerator="cpu", devices=1)
        torch.manual_seed(0)
        module = create_model("segmae-tiny", depth=1, decoder=None)
        model, optimizer = fabric.setup(module, build_optimizer(module, config))
        if compiled:
            model.module.compile(backend="eager")
        state = State(model, optimizer, None)
        batch = Batch(
            torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
            torch.ones(2, 1, 64, 64),
            ["a", "b"],
        )
        task = create_task("supervised", config.losses, config.reconstruction, module)
        train_step(fabric, config, state, task, [batch], steps=1)
        steps[compiled] = {name: value.clone() for name, value in module.state_dict().items()}
    assert same(steps[False], steps[True])


def test_a_run_is_not_resumed_with_an_edited_network_or_split(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy, split = Path("toy.py"), Path("mine.csv")
    code = "from torch import nn\ndef Toy():\n    return nn.Conv2d(3, 1, {}, padding='same')\n"
    toy.write_text(code.format(1))
    lists = (data / "split.csv").read_text()
    split.write_text(lists)
    options = ("task=supervised", "model.name=toy.py:Toy", "model.options={}", f"data.split={split}")
    config = load_config(None, [*SMALL[4:], f"data.root={data / 'lesions'}", f"data.cache={data / 'cache'}",
                                f"output={tmp_path}", *options])  # fmt: skip
    run(config)
    toy.write_text(code.format(1) + "# another\n")
    with pytest.raises(ConfigError, match=r"model\.name=toy\.py:Toy: the file was edited.*another name="):
        run(config)
    toy.write_text(code.format(1))
    split.write_text("\n".join(lists.splitlines()[:-1]))
    with pytest.raises(ConfigError, match=r"data\.split=mine\.csv: the file was edited"):
        run(config)
    split.write_text(lists.replace("\n", "\r\n"))
    run(config)
    fingerprint = json.loads((tmp_path / config.name / "fingerprint.json").read_text())
    del fingerprint["own_files"]  # as earlier versions wrote it
    (tmp_path / config.name / "fingerprint.json").write_text(json.dumps(fingerprint))
    run(config)


def test_a_run_starts_from_the_folder_of_a_model_and_knows_its_weights_again(
    data: Path, tmp_path: Path
) -> None:
    options = ("task=supervised", "epochs=1")
    start = run(config_for(data, tmp_path, "name=start", *options)) / "best"
    other = run(config_for(data, tmp_path, "name=other", "seed=1", *options)) / "best"
    config = config_for(data, tmp_path, "name=run", f"model.vit={start}", *options)
    run(config)
    save_threshold(start, 0.4, {})
    run(config)
    shutil.copy(other / WEIGHTS, start)
    with pytest.raises(
        ConfigError, match=r"model\.vit=.*best: other weights are there now.*remove the folder"
    ):
        run(config)


def test_a_damaged_fingerprint_is_named(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, "task=supervised", "epochs=1")
    path = run(config) / "fingerprint.json"
    for damage in ("", "{}"):
        path.write_text(damage)
        with pytest.raises(DataError, match=r"fingerprint\.json: is damaged.*Remove it to go on"):
            run(config)
    path.unlink()
    run(config)


def test_what_ctrl_c_leaves_is_said(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, "task=supervised", "save_every=1")
    told: list[str] = []
    stop_at = [(1, 1), (2, 1)]

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "message":
            told.append(event["text"])
        elif event["kind"] == "step" and (event["epoch"], event["step"]) == stop_at[0]:
            stop_at.pop(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, listener)
    assert told[-1].endswith("stopped before its first save. Started again, it begins anew")
    with pytest.raises(KeyboardInterrupt):
        run(config, listener)
    assert told[-1].endswith(
        "go on from its last save (after each epoch, and each save_every=1 steps inside one)"
    )
    run(config, listener=None)
