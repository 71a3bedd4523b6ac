"""A network from a Python file outside the package: the page docs/add-a-model.md, carried out."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from segmae.card import publish  # noqa: E402
from segmae.checkpoint import ModelInfo, load_model, read_info, save_pretrained  # noqa: E402
from segmae.config import Losses, Preprocess, Reconstruction  # noqa: E402
from segmae.data.catalog import open_dataset  # noqa: E402
from segmae.data.phantom import write_dataset  # noqa: E402
from segmae.data.splits import make_split, save_split  # noqa: E402
from segmae.engines.export import export_onnx  # noqa: E402
from segmae.errors import CheckpointError, ConfigError  # noqa: E402
from segmae.models import create_model  # noqa: E402
from segmae.optimizer import build_optimizer  # noqa: E402
from segmae.predictor import load  # noqa: E402
from segmae.recipe import load_config  # noqa: E402
from segmae.stopping import TrainingStopped  # noqa: E402
from segmae.tasks import Batch, create_task  # noqa: E402
from segmae.train import run, tell_probabilities  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "add-a-model.md"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's own example as toy.py in the current folder, beside drawn lesions."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    (tmp_path / "toy.py").write_text(code[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGMAE_TRUST_CODE", raising=False)
    return tmp_path / "toy.py"


def test_the_pages_network_trains_is_saved_and_loads_only_where_trusted(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset("lesions", 10)
    save_split(make_split(open_dataset(folder).cases, ratios=(0.6, 0.2, 0.2)), "split.csv")
    command = re.search(r"segmae train (.*?)\n(?=export)", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert command
    settings = command[1].replace("\\\n", " ").split()
    mine = [
        "data.root=lesions",
        "data.split=split.csv",
        "data.cache=cache",
        "device=cpu",
        "threads=1",
        "batch_size=2",
    ]
    events: list[dict[str, object]] = []
    trained = run(load_config(None, [*settings, *mine]), events.append)
    assert "probabilities" not in str(events)
    with pytest.raises(CheckpointError, match=r"SEGMAE_TRUST_CODE=toy\.py"):
        load_model(trained)
    monkeypatch.setenv("SEGMAE_TRUST_CODE", str(toy))
    model, info = load_model(trained)
    assert info.architecture == "toy.py:Toy"
    assert model.get_parameter("body.0.weight").shape[0] == 8
    assert model(torch.zeros(1, 3, 40, 56)).shape == (1, 1, 40, 56)


def test_the_pages_loss_is_trained_with_and_logged(toy: Path) -> None:
    page = PAGE.read_text(encoding="utf-8").partition("## Add a loss")[2]
    code, command = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "sh"))
    assert code and command
    Path("loss.py").write_text(code[1], encoding="utf-8")
    folder = write_dataset("lesions", 10)
    save_split(make_split(open_dataset(folder).cases, ratios=(0.6, 0.2, 0.2)), "split.csv")
    mine = ["data.root=lesions", "data.split=split.csv", "data.cache=cache", "device=cpu", "threads=1", "batch_size=2",
            "epochs=1", "preprocess.size=32", "model.name=toy.py:Toy", "tensorboard=true"]  # fmt: skip
    config = load_config(None, [*shlex.split(command[1])[2:], *mine])
    assert config.losses.own == {"loss.py:tversky": 0.5}
    trained = run(config)
    (record,) = (json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines())
    assert 0 < record["train_own_tversky"] < 1
    whole = 1.2 * record["train_bce"] + 0.8 * record["train_patch_loss"] + 0.5 * record["train_own_tversky"]
    assert record["train_segment"] == pytest.approx(whole, rel=1e-4)
    assert load_config(trained / "config.json").losses == config.losses
    Path("loss.py").write_text(code[1] + "# another\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"losses\.own\.loss\.py:tversky: the file was edited"):
        run(config)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.py:f", r"losses\.own: 'none\.py:f': none\.py is no file here"),
        ("loss.py:g", r"losses\.own: 'loss\.py:g': loss\.py has no class or function 'g'"),
        ("dice", r"losses\.own: 'dice' names no Python file"),
        ("loss.py:f", r"losses\.own: f returns \[2, 1, 4, 4\], not one number"),
    ],
)
def test_what_is_wrong_with_a_loss_is_said(toy: Path, name: str, said: str) -> None:
    Path("loss.py").write_text("def f(logits, mask):\n    return logits - mask\n", encoding="utf-8")
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), ("one", "two"))
    with pytest.raises(ConfigError, match=said):
        task = create_task("supervised", Losses(own={name: 1.0}), Reconstruction())
        task(Constant(torch.zeros(2, 1, 4, 4)), batch, "segment")


def test_a_network_that_cannot_be_trained_is_refused(toy: Path) -> None:
    Path("two.py").write_text(
        "from torch import nn\nclass Two(nn.Module):\n    def forward(self, image, other):\n        return image\n"
    )
    with pytest.raises(ConfigError, match=r"forward cannot be called with the images alone .*'other'"):
        create_model("two.py:Two")
    Path("traced.py").write_text(
        "import torch\ndef net():\n    return torch.jit.trace(torch.nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 8, 8))\n"
    )
    assert create_model("traced.py:net")(torch.zeros(1, 3, 4, 4)).shape == (1, 1, 4, 4)
    with pytest.raises(ConfigError, match="no parameter to train"):
        build_optimizer(torch.nn.ReLU(), load_config(None))


def test_a_loss_without_a_gradient_is_refused_in_training_alone(toy: Path) -> None:
    Path("loss.py").write_text(
        "def f(logits, mask):\n    return ((logits > 0) != (mask > 0)).float().mean()\n"
    )
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), ("one", "two"))
    task = create_task("supervised", Losses(own={"loss.py:f": 1.0}), Reconstruction())
    logits = torch.ones(2, 1, 4, 4)
    with pytest.raises(ConfigError, match=r"losses\.own: f gives a number without a gradient"):
        task(Constant(logits.clone().requires_grad_()), batch, "segment")
    assert task(Constant(logits), batch, "segment")["parts"]["own_f"] == 1  # validation needs none


def test_two_losses_of_one_name_are_refused(toy: Path) -> None:
    for name in ("one.py", "two.py"):
        Path(name).write_text("def f(logits, mask):\n    return (logits - mask).mean()\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"losses\.own: two\.py:f: another loss is logged as 'own_f'"):
        create_task("supervised", Losses(own={"one.py:f": 1.0, "two.py:f": 1.0}), Reconstruction())


def train_toy(toy: Path, *edits: tuple[str, str], losses: str = "losses.own={}") -> list[str]:
    """Train the page's network for an epoch after these edits of its file; the messages."""
    code = toy.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in code
        code = code.replace(old, new)
    toy.write_text(code, encoding="utf-8")
    save_split(make_split(open_dataset(write_dataset("lesions", 6)).cases, ratios=(0.6, 0.2, 0.2)), "s.csv")
    mine = ["data.root=lesions", "data.split=s.csv", "data.cache=cache", "device=cpu", "threads=1", "batch_size=2", "epochs=2",
            "preprocess.size=32", "model.name=toy.py:Toy", "task=supervised", "name=toy", losses]  # fmt: skip
    events: list[dict[str, object]] = []
    run(load_config(None, mine), events.append)
    return [str(event["text"]) for event in events if event["kind"] == "message"]


def test_a_network_that_gives_probabilities_is_told_of_once(toy: Path) -> None:
    said = train_toy(toy, ("self.body(image)", "self.body(image).sigmoid()"))
    (text,) = (text for text in said if "probabilities" in text)
    assert "model 'toy.py:Toy'" in text and "leave that out" in text


@pytest.mark.parametrize(
    ("outputs", "expected"), [((0.1, 0.9), True), ((0, 1), True), ((0, 0), False), ((-0.1, 0.9), False), ((0.1, 1.1), False)]
)  # fmt: skip
def test_logits_are_told_from_probabilities(outputs: tuple[float, float], expected: bool) -> None:
    network, said = torch.nn.Identity(), list[dict[str, object]]()
    tell_probabilities(network, "toy.py:Toy", said.append)
    for _ in range(2):
        network({"logits": torch.tensor(outputs)})
    assert len(said) == expected


def test_what_fails_in_a_networks_own_file_is_said_with_its_line(toy: Path) -> None:
    said = r"^RuntimeError: Given groups=1, .* to have 4 channels, but got 3 channels instead \(toy\.py, line 15\), on images \[B,3,32,32\]\. A"
    with pytest.raises(ConfigError, match=said):
        train_toy(toy, ("nn.Conv2d(3,", "nn.Conv2d(4,"))


def test_what_fails_in_a_losss_own_file_is_said_with_its_line(toy: Path) -> None:
    Path("loss.py").write_text("def half(logits, mask):\n    return (logits[..., :7] - mask).mean()\n")
    with pytest.raises(
        ConfigError, match=r"^RuntimeError: The size of tensor .* \(loss\.py, line 2\), on images"
    ):
        train_toy(toy, losses="losses.own={loss.py:half: 1}")


def test_running_out_of_memory_in_a_networks_own_file_is_no_mistake_of_it(toy: Path) -> None:
    raising = "(_ for _ in ()).throw(MemoryError())"
    with pytest.raises(TrainingStopped, match="out of memory"):
        train_toy(toy, ("self.body(image)", raising))


def test_what_is_wrong_with_a_name_is_said(toy: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.py is no file here"):
        create_model("none.py:Toy")
    with pytest.raises(ConfigError, match="no class or function 'Tory'"):
        create_model("toy.py:Tory")
    with pytest.raises(ConfigError, match=r"toy\.py:Toy.*wide"):
        create_model("toy.py:Toy", wide=8)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class Toy(nn.Module):", "class Toy(nn.Module:", r"SyntaxError: .*toy\.py, line 4"),
        ("from torch import Tensor, nn", "import there_is_none", r"there_is_none.*toy\.py, line 1"),
        ("nn.BatchNorm2d(width)", "nn.BatchNorm2d()", r"cannot be built .*num_features.*toy\.py, line 9"),
    ],
)
def test_a_mistake_in_the_file_is_said_with_its_line(toy: Path, old: str, new: str, said: str) -> None:
    code = toy.read_text(encoding="utf-8")
    assert old in code
    toy.write_text(code.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        create_model("toy.py:Toy")


@pytest.mark.parametrize(
    "output", [torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4), torch.zeros(2, 1, 2, 2), ()]
)
def test_an_output_that_is_not_one_logit_a_pixel_is_said(output: object) -> None:
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), ("one", "two"))
    task = create_task("supervised", Losses(), Reconstruction())
    with pytest.raises(ConfigError, match=r"not logits \[2, 1, 4, 4\]"):
        task(Constant(output), batch, "segment")


def test_a_function_that_gives_no_network_is_said(toy: Path) -> None:
    toy.write_text("def make():\n    pass\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"toy\.py:make' gives a NoneType, not a torch\.nn\.Module"):
        create_model("toy.py:make")


@pytest.mark.parametrize(
    "wrong", [{"deep1": ("mosk", 0.4)}, {"deep1": 0.4}, {"deep1": ("mask", "much")}, ["deep1"]]
)
def test_extra_losses_of_no_known_kind_are_said(wrong: object) -> None:
    model = Constant({})
    model.extra_losses = wrong
    with pytest.raises(ConfigError, match=r"extra_losses.*mask, edge or label"):
        create_task("supervised", Losses(), Reconstruction(), model)


@pytest.mark.parametrize("output", [torch.zeros(2, 1, 4, 4), {"logits": torch.zeros(2, 1, 4, 4)}])
def test_an_extra_head_that_does_not_come_out_is_said(output: object) -> None:
    model = Constant(output)
    model.extra_losses = {"deep1": ("mask", 0.4)}
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), ("one", "two"))
    task = create_task("supervised", Losses(), Reconstruction(), model)
    with pytest.raises(ConfigError, match=r"extras=True\) returns .*, without '(logits|deep1)'"):
        task(model, batch, "segment")


def test_it_is_published_as_an_export_that_needs_no_file(toy: Path) -> None:
    name = f"{toy}:Toy"
    model = create_model(name, width=4)
    info = ModelInfo(name, {"width": 4}, Preprocess(size=32))
    saved = save_pretrained("saved", model, info)
    with pytest.raises(
        CheckpointError, match=r"toy\.py, a Python file of your own.*segmae export saved --to onnx"
    ):
        publish(saved, "public")
    assert not Path("public").exists()
    export_onnx(model, saved / "model.onnx", 32)
    found = publish(saved, "public")
    assert sorted(path.name for path in found.iterdir()) == ["README.md", "config.json", "model.onnx"]
    assert read_info(found).architecture == "toy.py:Toy"
    toy.unlink()
    assert load(found, threads=1)(np.zeros((20, 30, 3), np.uint8)).mask.shape == (20, 30)


class Constant(torch.nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: torch.Tensor, extras: bool = False) -> object:
        return self.output
