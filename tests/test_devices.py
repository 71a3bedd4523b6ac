"""Several processes train as one: the same losses, every image counted once, and one clear end for all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from segmae import devices  # noqa: E402
from segmae.config import Augmentation, Config, Preprocess, config_to_dict  # noqa: E402
from segmae.data.augment import Augment, Share  # noqa: E402
from segmae.data.catalog import open_dataset  # noqa: E402
from segmae.data.phantom import write_dataset  # noqa: E402
from segmae.data.splits import make_split, save_split  # noqa: E402
from segmae.devices import join_norms  # noqa: E402
from segmae.errors import ConfigError  # noqa: E402
from segmae.recipe import load_config  # noqa: E402
from segmae.train import run  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="starts and kills processes as Unix does")

SMALL = ["task=supervised", "model.name=unet", "model.options.widths=[8,16]", "preprocess.size=64", "batch_size=4", "epochs=2",
         "device=cpu", "threads=1", "tensorboard=false"]  # fmt: skip
WORKER = """
import json, os, signal, sys, time
from segmae.recipe import load_config
from segmae.errors import SegmaeError
from segmae.train import run
kill = json.loads(os.environ.get("KILL", "null"))
def listener(event):
    print(json.dumps(event), flush=True)
step = 0
import segmae.train as train
real = train.train_step
def train_step(*args):
    global step
    step += 1
    if kill and int(os.environ["RANK"]) == kill["rank"] and step == kill["step"]:
        os.kill(os.getpid(), kill["signal"])
    return real(*args)
train.train_step = train_step
try:
    run(load_config(sys.argv[1]), listener)
except SegmaeError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn lesions: 12 to train on, and 5 to validate on, which two processes cannot divide evenly."""
    root = tmp_path_factory.mktemp("data")
    folder = write_dataset(root / "lesions", 22, seed=0)
    split = make_split(open_dataset(folder).cases, ratios=(0.55, 0.23, 0.22), seed=0)
    assert [len(split.parts[part]) for part in ("train", "val")] == [12, 5]
    save_split(split, root / "split.csv")
    return root


def config_for(data: Path, output: Path, *overrides: str) -> Config:
    paths = [f"data.root={data / 'lesions'}", f"data.split={data / 'split.csv'}", f"data.cache={data / 'cache'}"]  # fmt: skip
    return load_config(None, [*SMALL, *paths, f"output={output}", *overrides])


def start(
    config: Config | None, processes: int, script: str = WORKER, folder: Path | None = None, kill: dict[str, int] | None = None
) -> list[subprocess.Popen[str]]:  # fmt: skip
    """The processes of a run, in the environment that torchrun gives them; they are told a recipe or a folder."""
    argument = folder
    if config is not None:
        Path(config.output).mkdir(parents=True, exist_ok=True)
        argument = Path(config.output) / "recipe.json"
        argument.write_text(json.dumps(config_to_dict(config)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
              "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
              "OMP_NUM_THREADS": "1", "KILL": json.dumps(kill)}  # fmt: skip
    return [
        subprocess.Popen([sys.executable, "-c", script, str(argument)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]  # fmt: skip


def ended(workers: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    done = []
    for worker in workers:
        out, err = worker.communicate(timeout=300)
        done.append((worker.returncode, out, err))
    return done


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def step_losses(out: str) -> list[float]:
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return [event["loss"] for event in events if event["kind"] == "step"]


def same_figures(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    assert [record["epoch"] for record in one] == [record["epoch"] for record in two]
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"seconds", "images_per_second"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), key


ALL = ["augmentation.elastic=0.02", "augmentation.hair=0.5", "augmentation.vignette=0.5", "augmentation.saturation=0.1",
       "ema=0.9", "optimizer.clip=1"]  # fmt: skip


def test_two_processes_give_the_losses_of_one_with_the_joined_batch(data: Path, tmp_path: Path) -> None:
    """With batch norms, every augmentation, averaged weights, and a validation part of an odd size."""
    alone: list[float] = []

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            alone.append(event["loss"])

    one = run(config_for(data, tmp_path / "one", *ALL), listener)
    config = config_for(data, tmp_path / "two", *ALL)
    first, second = ended(start(config, 2))
    assert first[0] == second[0] == 0, first[2] + second[2]
    told = [line for line in second[1].splitlines() if not line.startswith("[Gloo]")]  # of torch before 2.11
    assert not told, "one of the processes tells"
    assert step_losses(first[1]) == pytest.approx(alone, abs=1e-5)
    same_figures(records(one), records(tmp_path / "two" / "run"))


GRADIENTS = """
import os, sys, torch
from torch import distributed
from segmae.recipe import load_config
from segmae.devices import join_norms
from segmae.losses import focal_loss, label_loss
from segmae.models import create_model
from segmae.tasks import Batch, create_task
torch.manual_seed(0)
model = create_model("segmae-tiny", depth=1, decoder=[32, 1, 2]).double()
image, mask = torch.randn(4, 3, 64, 64).double(), (torch.rand(4, 1, 64, 64) > 0.7).double()
visible = torch.stack([torch.randperm(16)[:4] for _ in range(4)])
labels, logits = torch.tensor([1, -1, -1, -1]), torch.randn(4, 2).double().requires_grad_()
config, part, net = load_config(None), slice(None), model
if int(os.environ["WORLD_SIZE"]) > 1:
    distributed.init_process_group("gloo")
    join_norms(model, image.device)
    net, part = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True), slice(int(os.environ["RANK"]), None, 2)
task = create_task("hybrid", config.losses, config.reconstruction, model)
found = {}
for phase in task.phases:
    task(net, Batch(image[part], mask[part], list("abcd")[part], visible=visible[part]), phase)["loss"].backward()
    found |= {f"{phase}.{name}": p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
found |= {f"norm.{name}": value for name, value in model.named_buffers()}
losses = [label_loss(logits[part], known[part]) for known in (labels, torch.full_like(labels, -1))]
losses = torch.stack([*losses, focal_loss(image[part, :1], mask[part])]).double()
if int(os.environ["WORLD_SIZE"]) > 1:
    distributed.all_reduce(losses)
found["losses"] = losses.detach() / int(os.environ["WORLD_SIZE"])
torch.save(found, f"{sys.argv[1]}/{os.environ['WORLD_SIZE']}.{os.environ['RANK']}.pt")
"""


def test_the_gradients_of_two_processes_are_those_of_the_joined_batch(tmp_path: Path) -> None:
    """Both phases of stage 2, in double precision: in single, the tiny variances of a fresh network's first batch norm after
    the tokens make .2 of 1e-7, with one process as well as with two.
    """
    ways = [start(None, 1, GRADIENTS, tmp_path), start(None, 2, GRADIENTS, tmp_path)]
    for way in ways:
        for code, _, err in ended(way):
            assert code == 0, err
    alone, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1.0", "2.0", "2.1")
    )
    unused = [name for name, value in alone.items() if value is None]
    assert any(name.startswith("segment.mae_decoder") for name in unused)
    for name, value in alone.items():
        for other in (first[name], second[name]):
            if value is None:
                assert other is None, f"{name}: momentum would move what a phase does not use"
            else:
                torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-9, msg=name)


def test_a_killed_process_ends_the_other_with_a_word_and_the_run_goes_on_with_another_number_of_processes(
    data: Path, tmp_path: Path
) -> None:
    config = config_for(data, tmp_path / "killed", "save_every=1")
    first, second = ended(start(config, 2, kill={"rank": 1, "step": 3, "signal": signal.SIGKILL}))
    assert second[0] == -signal.SIGKILL
    assert first[0] == 2 and "error: another process of this run has ended" in first[2], first[2]

    undisturbed = run(config_for(data, tmp_path / "one"))
    messages: list[str] = []
    resumed = run(config, lambda event: messages.append(str(event.get("text"))))  # with one process
    assert any("resuming" in text and "epoch 1, step 3" in text for text in messages), messages
    same_figures(records(undisturbed), records(resumed))


@pytest.mark.slow
def test_a_term_signal_to_one_process_stops_both_saved_with_the_code_for_requeueing(
    data: Path, tmp_path: Path
) -> None:
    config = config_for(data, tmp_path / "ended")
    done = ended(start(config, 2, kill={"rank": 1, "step": 2, "signal": signal.SIGTERM}))
    assert [code for code, _, _ in done] == [75, 75], done
    assert "ended by SIGTERM at epoch 1, step 2, and saved" in done[0][2]
    assert [code for code, _, _ in ended(start(config, 2))] == [0, 0]
    same_figures(records(run(config_for(data, tmp_path / "one"))), records(tmp_path / "ended" / "run"))  # fmt: skip


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    """Elastic restart: torchrun ends the rest of the group, starts all anew, and they resume."""
    config = config_for(data, tmp_path / "elastic", "save_every=1", "epochs=1")
    recipe, script = tmp_path / "recipe.json", tmp_path / "worker.py"
    recipe.write_text(json.dumps(config_to_dict(config)))
    script.write_text(WORKER.replace('"null"))', '"null"))\nif int(os.environ["TORCHELASTIC_RESTART_COUNT"]): kill = None'))  # fmt: skip
    kill = {"rank": 1, "step": 2, "signal": signal.SIGKILL}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", script, recipe],
        env=os.environ | {"KILL": json.dumps(kill), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "epoch 1, step 2" in done.stdout and "resuming" in done.stdout
    same_figures(records(run(config_for(data, tmp_path / "one", "epochs=1"))), records(tmp_path / "elastic" / "run"))  # fmt: skip


@pytest.mark.slow
def test_the_command_starts_the_processes_that_devices_names(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(config_to_dict(config_for(data, tmp_path, "epochs=1", "devices=2"))))
    done = subprocess.run(
        [sys.executable, "-m", "segmae", "train", str(recipe)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'run'}\n"), done.stderr
    same_figures(records(run(config_for(data, tmp_path / "one", "epochs=1"))), records(tmp_path / "run"))


def test_augmentation_of_a_share_is_the_share_of_an_augmented_batch() -> None:
    images = torch.randint(
        0, 256, (4, 32, 32, 3), dtype=torch.uint8
    )  # 4: as many as there are colour changes
    masks = torch.randint(0, 2, (4, 32, 32), dtype=torch.uint8)
    off = {field.name: 0.5 for field in fields(Augmentation) if field.default == 0}  # all of them on
    augment = Augment(Preprocess(size=32), Augmentation(**off, scale=(0.8, 1.2)))
    torch.manual_seed(5)
    whole = augment(images, masks)
    assert not torch.equal(whole[0], Augment(Preprocess(size=32))(images, masks)[0])
    for first in (0, 1):
        torch.manual_seed(5)
        share = Share(4, first, 2)
        part = augment(share.of(images), share.of(masks), share)
        for all_of_it, some in zip(whole, part, strict=True):
            torch.testing.assert_close(share.of(all_of_it), some, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("device", "kind"), [("cpu", "_JoinedBatchNorm"), ("cuda", "SyncBatchNorm")])
def test_norms_are_joined_by_torchs_own_where_it_works(device: str, kind: str) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    before = dict(model.state_dict(keep_vars=True))
    joined = join_norms(model, torch.device(device))
    assert [type(module).__name__ for module in joined[1]] == [kind]
    after = joined.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(value is before[name] for name, value in after.items()), "the optimizer holds these"


@pytest.mark.parametrize(
    ("device", "cuda", "wanted"), [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu")]
)
def test_a_gpu_is_one_of_cuda_or_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, cuda: bool, wanted: str
) -> None:
    """Fabric's own choice would be Apple's GPU, on which a validation cannot be summed."""
    asked: list[str] = []

    class Asked(Exception):
        pass

    def fabric(accelerator: str, **rest: Any) -> None:
        asked.append(accelerator)
        raise Asked

    monkeypatch.setattr(devices, "Fabric", fabric)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    with pytest.raises(Asked):
        devices.start(config_for(data, tmp_path, f"device={device}"))
    assert asked == [wanted]


def test_numbers_that_do_not_fit_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmae.devices import count_processes, refuse_several

    with pytest.raises(ConfigError, match="batch_size=4 is the joined batch of all 3 processes"):
        run(config_for(data, tmp_path, "devices=3"))
    with pytest.raises(ConfigError, match="a study is the work of one process, not of 2"):
        refuse_several(config_for(data, tmp_path, "devices=2"), "a study")
    with pytest.raises(ConfigError, match=r"num_nodes=2: .* started by torchrun or SLURM"):
        run(config_for(data, tmp_path, "num_nodes=2"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"devices=1000: this machine has \d+ cores"):
            run(config_for(data, tmp_path, "devices=1000", "batch_size=1000"))
    for name, value in {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    assert count_processes(config_for(data, tmp_path)) == (2, 2)
    with pytest.raises(ConfigError, match="torchrun started 2 processes on each of 2 machines"):
        run(config_for(data, tmp_path, "devices=4"))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    for name, value in {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    assert count_processes(config_for(data, tmp_path)) == (2, 2)


def test_a_precision_that_a_cpu_does_not_train_in_is_refused() -> None:
    config = load_config(None, ["precision=16-mixed", "device=cpu"])
    with pytest.raises(ConfigError, match="Set precision=bf16-mixed or 32-true, or device=cuda"):
        devices.check(config)
    devices.check(load_config(None, ["precision=bf16-mixed", "device=cpu"]))
