"""What each task adds up, what each of its phases moves, and how diagnoses reach it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from segmae.config import Config  # noqa: E402
from segmae.data.catalog import open_dataset  # noqa: E402
from segmae.data.phantom import write_dataset  # noqa: E402
from segmae.data.splits import make_split, save_split  # noqa: E402
from segmae.errors import ConfigError  # noqa: E402
from segmae.losses import edge_target  # noqa: E402
from segmae.models.ckdnet import CKDNet  # noqa: E402
from segmae.models.dagan import DAGAN  # noqa: E402
from segmae.models.mb_dcnn import MBDCNN  # noqa: E402
from segmae.models.segmae import SegMAE  # noqa: E402
from segmae.recipe import load_config  # noqa: E402
from segmae.tasks import (  # noqa: E402
    Adversarial,
    Batch,
    Chained,
    Supervised,
    Task,
    create_task,
    held,
)
from segmae.train import run  # noqa: E402

LN2 = math.log(2)
ONLY_BCE = load_config(None, ["losses.bce=1", "losses.dice=0", "losses.patch=0"])


def batch_of(labels: list[int] | None = None, side: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, side, side, generator=generator)
    mask = torch.zeros(2, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    return Batch(image, mask, ["a", "b"], *([] if labels is None else [torch.tensor(labels)]))


def moved(task: Task, model: nn.Module, batch: Batch) -> dict[str, set[str]]:
    """The parts of a network that change by a bit, parameters or statistics, in a step of each phase."""
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-3, 0.9, weight_decay=0.1)
    changed: dict[str, set[str]] = {}
    for phase in (
        task.phases * 2
    ):  # the second round counts: by then momentum exists for all that any phase moves
        before = {name: value.clone() for name, value in model.state_dict().items()}
        task(model, batch, phase)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after = model.state_dict()
        changed[phase] = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    return changed


def test_a_batch_without_labels_knows_none() -> None:
    assert batch_of().labels.tolist() == [-1, -1]
    assert batch_of().labels.dtype == torch.int64


class Heads(nn.Module):
    """Logits of 0 everywhere, with three extra heads."""

    extra_losses: ClassVar[dict[str, tuple[str, float]]] = {
        "deep": ("mask", 0.4), "rim": ("edge", 0.5), "kind": ("label", 2.0),
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor, extras: bool = False) -> Tensor | dict[str, Tensor]:
        logits = image[:, :1] * 0 + self.zero
        rim = logits + 100 * (2 * edge_target(batch_of().mask) - 1)  # as good as the target itself
        return (
            {"logits": logits, "deep": logits, "rim": rim, "kind": self.zero.expand(2, 3)}
            if extras
            else logits
        )


class TestSupervised:
    task = Supervised(ONLY_BCE.losses)

    def test_each_extra_head_adds_its_weight_times_its_loss(self) -> None:
        output = self.task(Heads(), batch_of([1, -1]), "segment")
        assert output["loss"].item() == pytest.approx(1.4 * LN2 + 0.5 * 0 + 2 * math.log(3))
        assert output["parts"]["deep"].item() == pytest.approx(LN2)
        assert output["parts"]["rim"].item() == pytest.approx(0, abs=1e-6)
        assert output["parts"]["kind"].item() == pytest.approx(math.log(3))
        output["loss"].backward()

    def test_a_forward_that_does_not_take_extras_is_named_before_training(self) -> None:
        class Plain(Heads):
            def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
                return image[:, :1]

        with pytest.raises(ConfigError, match="its forward takes no `extras`"):
            create_task("supervised", ONLY_BCE.losses, ONLY_BCE.reconstruction, Plain())

    @pytest.mark.parametrize(
        ("head", "output", "said"),
        [
            ("deep", torch.zeros(2, 1, 32, 32), r"the head 'deep' .* is \[2, 1, 32, 32\], not logits \[2, 1, 64, 64\]"),
            ("rim", torch.zeros(2, 1, 32, 32), r"the head 'rim' .* is \[2, 1, 32, 32\], not logits \[2, 1, 64, 64\]"),
            ("deep", None, r"the head 'deep' .* is a NoneType"),
            ("kind", torch.zeros(2, 2), r"the head 'kind' .* is \[2, 2\], .* 3 diagnoses\..* argument `classes`"),
            ("kind", torch.zeros(2, 3, 1), r"the head 'kind' .* is \[2, 3, 1\], not class logits \[2,K\]"),
        ],
    )  # fmt: skip
    def test_a_head_of_another_shape_is_named(self, head: str, output: object, said: str) -> None:
        class Wrong(Heads):
            def forward(self, image: Tensor, extras: bool = False) -> Any:
                return {**super().forward(image, extras=True), head: output}  # type: ignore[dict-item]

        batch = batch_of([2, 1])
        batch.classes = 3
        with pytest.raises(ConfigError, match=said):
            self.task(Wrong(), batch, "segment")

    def test_where_no_label_is_known_the_head_adds_nothing(self) -> None:
        output = self.task(Heads(), batch_of(), "segment")
        assert output["loss"].item() == pytest.approx(1.4 * LN2)

    def test_validation_does_not_ask_for_extra_heads(self) -> None:
        output = self.task(Heads().eval(), batch_of([1, 1]), "segment")
        assert output["loss"].item() == pytest.approx(LN2)
        assert set(output["parts"]) == {"bce", "dice_loss", "patch_loss"}


def test_held_networks_pass_gradients_on_and_come_back_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    network[0].bias.requires_grad_(False)
    network[1].eval()
    x = torch.randn(4, 1, 3, 3, requires_grad=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with held(network):
        network(x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [p.requires_grad for p in network.parameters()] == [True, False, True, True]
    assert [layer.training for layer in network] == [True, False, True] and network[1].track_running_stats
    with held(network, as_at_test=True):
        assert torch.equal(network(x), network(x))
    assert [layer.training for layer in network] == [True, False, True]


@pytest.mark.parametrize(
    ("task", "blank", "learns"),
    [("hybrid", True, False), ("hybrid", False, True), ("pretrain", True, True), ("pretrain", False, True)],
)
def test_norms_that_segmentation_uses_learn_nothing_from_blanked_images(
    task: str, blank: bool, learns: bool
) -> None:
    config = load_config(None, [f"reconstruction.blank_hidden_pixels={str(blank).lower()}"])
    torch.manual_seed(0)
    model = SegMAE(cnn="efficientnet-lite", dim=8, depth=1, heads=1, decoder=(8, 1, 1)).train()
    steps = create_task(task, config.losses, config.reconstruction, model)

    def learnt(phase: str) -> set[str]:
        before = {name: value.clone() for name, value in model.named_buffers()}
        steps(model, batch_of(), phase)["loss"].backward()
        return {
            name.split(".")[-1]
            for name, value in model.named_buffers()
            if name.startswith("encoder.cnn.") and not torch.equal(value, before[name])
        }

    everything = {"running_mean", "running_var", "num_batches_tracked"}
    assert learnt("reconstruct") == (everything if learns else set())
    reached = [p.grad for name, p in model.named_parameters() if name.startswith("encoder.cnn.")]
    assert all(gradient is not None for gradient in reached), "the CNN itself learns"
    if task == "hybrid":
        assert learnt("segment") == everything


class TestAdversarial:
    task = Adversarial(ONLY_BCE.losses)

    @pytest.fixture
    def model(self) -> DAGAN:
        torch.manual_seed(0)
        return DAGAN(widths=(4, 4, 4, 4, 4))

    def test_each_phase_moves_its_own_part(self, model: DAGAN) -> None:
        wanted = {"segment": {"generator"}, "discriminate": {"discriminators"}}
        assert moved(self.task, model, batch_of(side=32)) == wanted

    def test_the_discriminators_weigh_as_the_model_says(self, model: DAGAN) -> None:
        for network in (model.generator.head, *(judge[-1] for judge in model.discriminators.values())):
            nn.init.zeros_(network.weight)
            nn.init.zeros_(network.bias)
        output = self.task(
            model, batch_of(), "segment"
        )  # every judgement is 1/2: ln 2 for each of two discriminators
        assert output["parts"]["adversarial"].item() == pytest.approx(2 * LN2)
        assert output["loss"].item() == pytest.approx(LN2 + 0.05 * 2 * LN2)
        assert self.task(model, batch_of(), "discriminate")["loss"].item() == pytest.approx(4 * LN2)

    def test_the_generator_wants_masks_that_pass_for_real(self, model: DAGAN) -> None:
        for judge in model.discriminators.values():
            nn.init.zeros_(judge[-1].weight)
            nn.init.constant_(judge[-1].bias, 5.0)  # all of them look real
        assert self.task(model, batch_of(), "segment")["parts"]["adversarial"] < 0.1
        real_and_drawn = self.task(model, batch_of(), "discriminate")["loss"].item()
        assert real_and_drawn == pytest.approx(2 * (5 + 2 * math.log1p(math.exp(-5))), rel=1e-4)

    def test_the_mask_is_judged_alone_and_on_its_image(self, model: DAGAN) -> None:
        model.eval()
        batch = batch_of()
        here, elsewhere = (model(image, judge=batch.mask) for image in (batch.image, batch.image.flip(3)))
        assert here["boundary"].shape == (2, 1, 3, 3)
        assert torch.equal(here["boundary"], elsewhere["boundary"])
        assert not torch.equal(here["object"], elsewhere["object"])


class TestChained:
    def test_each_phase_moves_its_own_network(self) -> None:
        task, batch = Chained(ONLY_BCE.losses, Chain()), batch_of([0, 1])
        assert moved(task, Chain(), batch) == {phase: {phase} for phase in ("coarse", "classify", "segment")}

    @pytest.mark.parametrize("kind", ["ckdnet", "mb-dcnn"])
    def test_each_phase_reaches_all_of_its_own_network(self, kind: str) -> None:
        torch.manual_seed(0)
        model = CKDNet(classes=2, depth=18) if kind == "ckdnet" else MBDCNN(classes=2, middle=(0, 0))
        task = create_task("chained", ONLY_BCE.losses, ONLY_BCE.reconstruction, model)
        assert task.phases == ("coarse", "classify", "segment")
        for phase in task.phases:
            before = {name: value.clone() for name, value in model.named_buffers()}
            task(model, batch_of([0, 1], side=32), phase)["loss"].backward()
            reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
            assert reached == {name for name, _ in model.named_parameters() if name.startswith(f"{phase}.")}
            learnt = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
            assert {name.split(".")[0] for name in learnt} == {phase}
            model.zero_grad(set_to_none=True)

    @pytest.mark.parametrize("kind", ["ckdnet", "mb-dcnn"])
    def test_without_diagnoses_the_last_network_remains(self, kind: str) -> None:
        torch.manual_seed(0)
        model = CKDNet(classes=0, depth=18) if kind == "ckdnet" else MBDCNN(classes=0, middle=(0, 0))
        assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"segment"}
        task = create_task("chained", ONLY_BCE.losses, ONLY_BCE.reconstruction, model)
        assert task.phases == ("segment",)
        output = task(model, batch_of(side=32), "segment")
        assert output["logits"].shape == (2, 1, 32, 32) and output["loss"].isfinite()

    def test_losses_weigh_as_the_model_says(self) -> None:
        model = Chain(classes=3)
        task = Chained(ONLY_BCE.losses, model)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        batch = batch_of([2, -1])
        rank = task(model, batch, "segment")["parts"]["rank"].item()
        assert rank == pytest.approx(0.3)  # p = q = 1/2
        assert task(model, batch, "segment")["loss"].item() == pytest.approx(LN2 + 0.05 * 0.3)
        assert task(model, batch, "coarse")["loss"].item() == pytest.approx(0.7 * (LN2 + 0.05 * 0.3))
        assert task(model, batch, "coarse")["parts"].keys() >= {"coarse_bce", "coarse_rank"}
        assert task(model, batch, "classify")["loss"].item() == pytest.approx(2.0 * math.log(3))

    def test_networks_before_the_trained_one_work_as_at_test_time(self) -> None:
        model = Chain(classes=3).train()
        task, batch = Chained(ONLY_BCE.losses, model), batch_of([0, 1])
        nn.init.ones_(model.coarse[0].weight)
        told = [task(model, batch, "classify")["loss"].item() for _ in range(2)]
        assert told[0] == told[1]  # else its dropout would make noise
        assert model.training and all(layer.training for layer in model.coarse)


class Chain(nn.Module):
    """The smallest chain: a coarse convolution with dropout, a linear classifier, a last convolution."""

    task = "chained"
    mask_losses: ClassVar[dict[str, float]] = {"rank": 0.05}

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.extra_losses: dict[str, tuple[str, float]] = {}
        if classes:
            self.extra_losses = {"coarse": ("mask", 0.7), "classify": ("label", 2.0)}
            self.coarse = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Dropout(0.5))
            self.classify = nn.Linear(4, classes)
        self.segment = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, image: Tensor, phase: str = "segment") -> Tensor:
        coarse = image[:, :1] * 0
        if self.extra_losses:
            coarse = self.coarse(image)
            if phase == "coarse":
                return coarse
            if phase == "classify":
                return self.classify(torch.cat([image, coarse], 1).mean((2, 3)))
        return self.segment(torch.cat([image, coarse], 1))


class TestTheTaskThatAModelNeeds:
    @pytest.mark.parametrize("task", ["supervised", "hybrid", "pretrain", "adversarial"])
    def test_a_chain_is_trained_as_one_only(self, task: str) -> None:
        with pytest.raises(ConfigError, match=f"task={task}: Chain is trained by task=chained"):
            create_task(task, ONLY_BCE.losses, ONLY_BCE.reconstruction, Chain())

    def test_a_generator_needs_its_discriminators_or_none(self) -> None:
        widths = (4, 4, 4, 4, 4)
        with pytest.raises(ConfigError, match="Set task=adversarial"):
            create_task("supervised", ONLY_BCE.losses, ONLY_BCE.reconstruction, DAGAN(widths))
        alone = DAGAN(widths, discriminators=False)
        task = create_task("supervised", ONLY_BCE.losses, ONLY_BCE.reconstruction, alone)
        assert task(alone, batch_of(), "segment")["loss"].isfinite()

    @pytest.mark.parametrize("task", ["adversarial", "chained"])
    def test_other_models_are_not_trained_so(self, task: str) -> None:
        plain = SegMAE(cnn="none", dim=8, depth=1, heads=1, decoder=None)
        with pytest.raises(ConfigError, match="SegMAE is trained by task=supervised"):
            create_task(task, ONLY_BCE.losses, ONLY_BCE.reconstruction, plain)
        with pytest.raises(ConfigError, match="a model is trained"):
            create_task(task, ONLY_BCE.losses, ONLY_BCE.reconstruction)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn lesions; the split's train part names two diagnoses, its val part one more."""
    root = tmp_path_factory.mktemp("data")
    folder = write_dataset(root / "lesions", 8, size=(96, 72), seed=0)
    split = make_split(open_dataset(folder).cases, ratios=(0.7, 0.3, 0.0), seed=0)
    save_split(split, root / "split.csv")
    train, val = split.parts["train"], split.parts["val"]
    rows = [
        f"{name},{'nv' if index % 2 else 'mel'}" for index, name in enumerate(train[:-1])
    ]  # one is not known
    rows += [f"{name},{'df' if index else 'nv'}" for index, name in enumerate(val)]
    (root / "labels.csv").write_text("\n".join(["image_id,dx", *rows]) + "\n")
    (root / "chain.py").write_text(CHAIN_FILE)
    return root


CHAIN_FILE = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("chain_of_the_tests", {str(Path(__file__))!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
Chain, DAGAN = tests.Chain, tests.DAGAN
"""


def config_for(data: Path, output: Path, *overrides: str) -> Config:
    paths = [f"data.root={data / 'lesions'}", f"data.split={data / 'split.csv'}", f"data.cache={data / 'cache'}",
             f"model.name={data / 'chain.py'}:Chain", f"output={output}"]  # fmt: skip
    small = ["task=chained", "preprocess.size=32", "batch_size=2", "epochs=2", "device=cpu", "threads=1",
             "tensorboard=false", "save_every=1", "ema=0.9"]  # fmt: skip
    return load_config(None, [*small, *paths, *overrides])


@pytest.fixture
def labelled(data: Path) -> Any:
    table = data / "lesions" / "metadata.csv"
    table.write_text((data / "labels.csv").read_text())
    yield data
    table.unlink()


def weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


class TestDiagnosesInTraining:
    def test_they_are_counted_named_and_mapped(
        self, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, int] = {}

        def remember(batch: Batch) -> None:
            assert (
                batch.classes == 2
                and batch.labels.dtype == torch.int64
                and batch.labels.shape == (len(batch.ids),)
            )
            seen.update(zip(batch.ids, batch.labels.tolist(), strict=True))

        monkeypatch.setattr(Batch, "__post_init__", remember)
        folder = run(config_for(labelled, tmp_path))
        info = json.loads((folder / "last" / "config.json").read_text())
        assert info["options"] == {"classes": 2}
        assert info["provenance"]["classes"] == ["mel", "nv"]
        rows = dict(line.split(",") for line in (labelled / "labels.csv").read_text().splitlines()[1:])
        places = {"mel": 0, "nv": 1}  # df is in the val part only, one image has no diagnosis
        assert seen == {name: places.get(rows.get(name, ""), -1) for name in seen}
        assert len(seen) == 8 and set(seen.values()) == {-1, 0, 1}
        record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert {"train_coarse", "train_classify", "train_segment", "train_rank", "val_dice"} <= record.keys()

    def test_where_there_are_none_the_run_says_so_and_trains_the_rest(
        self, data: Path, tmp_path: Path
    ) -> None:
        messages: list[str] = []
        folder = run(config_for(data, tmp_path), lambda event: messages.append(str(event.get("text", ""))))
        said = [text for text in messages if text.startswith("no class labels in ")]
        assert len(said) == 1 and said[0].endswith("Chain is not trained")
        assert "in lesions: " in said[0]
        assert {name.split(".")[0] for name in weights(folder / "last")} == {"segment"}

    def test_a_classifier_too_small_or_without_diagnoses_is_refused(
        self, labelled: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"classes=1: .* 2 diagnoses \(mel, nv\)"):
            run(config_for(labelled, tmp_path, "model.options.classes=1"))
        (labelled / "lesions" / "metadata.csv").write_text("image_id,dx\nnobody,nv\n")
        with pytest.raises(ConfigError, match=r"classes=3: .* 0 diagnoses"):
            run(config_for(labelled, tmp_path, "model.options.classes=3"))
        assert not list(tmp_path.iterdir())

    def test_a_refused_task_claims_no_folder(self, labelled: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Set task=chained"):
            run(config_for(labelled, tmp_path, "task=supervised"))
        run(config_for(labelled, tmp_path, "epochs=1"))

    def test_a_chain_that_was_interrupted_ends_with_the_same_bits(
        self, labelled: Path, tmp_path: Path
    ) -> None:
        undisturbed = run(config_for(labelled, tmp_path / "undisturbed"))

        def interrupt(event: dict[str, Any]) -> None:
            if event["kind"] == "step" and (event["epoch"], event["step"]) == (2, 2):
                raise KeyboardInterrupt

        config = config_for(labelled, tmp_path / "disturbed")
        with pytest.raises(KeyboardInterrupt):
            run(config, interrupt)
        resumed = run(config)
        one, two = weights(undisturbed / "last"), weights(resumed / "last")
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

    def test_a_changed_diagnosis_is_other_data(self, labelled: Path, tmp_path: Path) -> None:
        run(config_for(labelled, tmp_path, "epochs=1"))
        table = labelled / "lesions" / "metadata.csv"
        table.write_text(table.read_text().replace("mel", "bcc"))
        with pytest.raises(ConfigError, match=r"data\.sha256"):
            run(config_for(labelled, tmp_path, "epochs=1"))


def test_dagan_trains_through_the_same_loop(data: Path, tmp_path: Path) -> None:
    model = [f"model.name={data / 'chain.py'}:DAGAN", "model.options.widths=[4,4,4,4,4]"]
    folder = run(config_for(data, tmp_path, *model, "task=adversarial", "epochs=1"))
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"train_segment", "train_discriminate", "train_adversarial", "val_dice"} <= record.keys()
