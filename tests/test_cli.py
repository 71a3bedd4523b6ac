"""The command line as a user meets it: exit codes, one-line errors, JSON, and no defaults of its own."""

from __future__ import annotations

import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pytest
import typer

import segmae
from segmae import cli
from segmae.data.phantom import write_dataset
from segmae.photographs import safe_name

ASSETS = Path(segmae.__file__).parent / "assets" / "segmae-tiny"
needs_model = pytest.mark.skipif(not (ASSETS / "model.onnx").exists(), reason="no model shipped yet")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.app([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn lesions as images/ + masks/."""
    return write_dataset(tmp_path_factory.mktemp("drawn") / "lesions", 10, seed=1)


def one_line_error(err: str) -> str:
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_version_and_models(run: Run) -> None:
    assert run("--version") == (0, segmae.__version__ + "\n", "")
    code, out, _ = run("models", "--json")
    assert code == 0
    assert [entry["name"] for entry in json.loads(out)] == segmae.list_models()
    code, out, _ = run("models")
    assert "105.28 M" in out


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "segmae", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, segmae.__version__ + "\n")


@pytest.mark.parametrize("arguments", [("trian",), ("train",), ("models", "--jsn"), ("evaluate", "x")])
def test_wrong_usage_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert "Usage:" in out + err


def test_pretrain_refuses_what_is_no_stage_1(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    stage2 = tmp_path / "stage2.yaml"
    stage2.write_text("task: supervised\n")
    for settings in ((stage2,), ("epochs=1", "task=hybrid")):
        code, _, err = run("pretrain", *settings)
        assert code == 2 and "is no stage 1. `segmae train` runs it" in err
    smoke = Path(__file__).parents[1] / "recipes" / "smoke"
    for recipe in (smoke / "small.yaml", smoke / "tiny.yaml"):
        code, _, err = run("pretrain", recipe, f"output={tmp_path}", "data.root=nowhere")
        assert code == 2 and "is no stage 1" in err, "a later train would be refused its folder"
    for settings in ((stage2, "task=pretrain"), ("epochs=1",)):
        code, _, err = run("pretrain", *settings)
        assert code == 2 and "data.root" in err, "all is well but for the dataset, which is not named"


def test_unknown_settings_name_the_nearest_one(run: Run) -> None:
    pytest.importorskip("omegaconf")
    code, _, err = run("train", "optimizer.lrr=1")
    assert code == 2
    assert "'optimizer.lr'" in one_line_error(err)
    code, _, err = run("train", "epochs=many")
    assert code == 2
    assert "epochs" in one_line_error(err)


def test_a_missing_recipe_dataset_or_model_is_one_line(run: Run, lesions: Path) -> None:
    pytest.importorskip("omegaconf")
    code, _, err = run("train", "nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml" in one_line_error(err)
    code, _, err = run("data", "prepare", "no-such-folder")
    assert code == 2
    assert "no-such-folder" in one_line_error(err)
    code, _, err = run("evaluate", "no-such-model", "--data", lesions)
    assert code == 2
    assert "no-such-model" in one_line_error(err)


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["omegaconf"] = None
sys.argv = ["segmae", "train", "epochs=1"]
from segmae.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert 'pip install -c constraints.txt ".[train]"' in one_line_error(done.stderr)


def test_an_error_of_the_system_names_the_file_in_words(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("segmae.photographs.masks_in", closed)
    code, _, err = run("measure", tmp_path, "-o", tmp_path / "sizes.csv")
    assert (code, one_line_error(err)) == (
        2,
        f"error: {tmp_path}: Permission denied. Check the path, its permissions and the disk's space",
    )


def test_splits_are_made_shown_and_verified(run: Run, lesions: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    code, out, _ = run("data", "splits", "make", lesions, "-o", file, "--ratios", "0.6,0.2,0.2")
    assert (code, out) == (0, f"{file}: 6 train, 2 val, 2 test\n")
    code, out, _ = run("data", "splits", "show", file, "--json")
    parts = json.loads(out)["parts"]
    assert {part: len(ids) for part, ids in parts.items()} == {"train": 6, "val": 2, "test": 2}
    code, out, _ = run("data", "splits", "show", file, "--part", "test")
    assert out == "id,part\n" + "".join(f"{name},test\n" for name in parts["test"])
    (tmp_path / "shown.csv").write_text(run("data", "splits", "show", file)[1])
    assert (tmp_path / "shown.csv").read_text() == file.read_text()
    assert run("data", "splits", "verify", file, "--data", lesions)[0] == 0

    file.write_text(file.read_text() + f"{parts['train'][0]},test\n")
    code, _, err = run("data", "splits", "verify", file, "--data", lesions)
    assert code == 1
    assert parts["train"][0] in err


def test_shares_that_are_none_are_wrong_usage(run: Run, lesions: Path, tmp_path: Path) -> None:
    for ratios in ("1,2", "a,b,c"):
        assert run("data", "splits", "make", lesions, "-o", tmp_path / "x.csv", "--ratios", ratios)[0] == 2
    assert run("data", "splits", "make", lesions, "-o", tmp_path / "x.csv", "--seed", "-1")[0] == 2
    assert run("evaluate", "--data", lesions, "--seed", "-1")[0] == 2
    code, _, err = run("data", "splits", "make", lesions, "-o", tmp_path / "x.csv", "--ratios", "1,2,3")
    assert code == 2
    assert "add up to 1" in one_line_error(err)
    assert not (tmp_path / "x.csv").exists()


def test_a_split_says_what_it_found_out_about_the_images(run: Run, lesions: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(lesions, tmp_path / "data"))
    for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
        shutil.copy(data / folder / f"drawn_0001{suffix}", data / folder / f"again{suffix}")
    (data / "metadata.csv").write_text("image_id,person\ndrawn_0001,anna\n")
    code, _, err = run("data", "splits", "make", data, "-o", tmp_path / "split.csv")
    assert code == 0
    assert "1 image is a byte for byte copy of another: it is in the same part" in err
    assert "metadata.csv: says of no image which lesion or patient it shows" in err


def test_listed_splits_are_those_of_the_package(run: Run) -> None:
    code, out, _ = run("data", "splits", "list", "--json")
    assert code == 0
    fold = next(split for split in json.loads(out) if split["name"] == "isic2018/fold1")
    assert (fold["train"], fold["val"], fold["test"]) == (1816, 260, 518)


def test_preparing_goes_on_after_a_broken_image_and_ends_with_1(run: Run, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "lesions", 3, seed=2)
    broken = sorted((folder / "images").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:200])
    options = ("--size", "64", "--cache", tmp_path / "cache", "--workers", "1")
    code, out, err = run("data", "prepare", folder, *options)
    assert code == 1
    assert out.startswith("2 images of lesions at 64 px")
    assert broken.name in err


def test_check_reports_what_is_wrong_and_ends_with_1_for_errors_only(run: Run, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "lesions", 4, size=(96, 72), seed=2)
    code, out, err = run("data", "check", folder, "--workers", "1")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"4 images in {folder}: errors 0, warnings 0, notes 0"

    split = tmp_path / "split.csv"
    ids = [path.stem for path in sorted((folder / "images").iterdir())]
    split.write_text("id,part\n" + "".join(f"{name},train\n" for name in ids) + f"{ids[0]},test\n")
    (folder / "masks" / f"{ids[3]}.png").rename(folder / "masks" / "nobody.png")
    (folder / "images" / f"{ids[1]}.jpg").write_bytes(b"")
    code, out, err = run("data", "check", folder, "--split", split, "--workers", "1")
    assert code == 1
    assert out.splitlines()[0].split()[:3] == ["severity", "finding", "where"]
    kinds = [line.split("  ")[0] for line in out.splitlines()[1:-1]]
    assert kinds == ["error", "error", "error", "warning"]
    assert out.splitlines()[-1] == f"4 images in {folder}: errors 3, warnings 1, notes 0"
    assert f"{ids[1]}.jpg" in out

    code, out, _ = run("data", "check", folder, "--split", split, "--workers", "1", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    assert {f["kind"]: f["count"] for f in report["findings"]} == {
        "unreadable image": 1,
        "missing mask": 1,
        "ids in two parts": 1,
        "orphaned mask": 1,
    }
    code, _, err = run("data", "check", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in one_line_error(err)


def test_progress_is_silent_off_a_terminal(run: Run, lesions: Path, tmp_path: Path) -> None:
    code, _, err = run("data", "prepare", lesions, "--size", "32", "--cache", tmp_path)
    assert (code, err) == (0, "")


@needs_model
def test_names_that_the_output_cannot_show_end_nothing(lesions: Path, tmp_path: Path) -> None:
    """Windows gives files and pipes cp1252."""
    photo = tmp_path / "病変 Größe" / "a.jpg"
    photo.parent.mkdir()
    shutil.copy(next((lesions / "images").iterdir()), photo)
    command = [sys.executable, "-m", "segmae", "predict", str(photo), "-o", str(photo.parent / "out")]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    assert r"\u75c5\u5909 Größe" in done.stdout.decode("cp1252")
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, env=environment)
    assert json.loads(done.stdout)["results"][0]["file"] == str(photo)


def test_brackets_in_a_name_are_no_pattern_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There typer expands patterns, and `photo[1].jpg` was photo1.jpg."""
    names = ("photo1.jpg", "photo[1].jpg")
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "WINDOWS", True)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "argv", ["segmae", "predict", "photo[1].jpg", "photo*.jpg", "-o", "out[1]"])
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "app", lambda: seen.extend(sorted(glob(word)) for word in sys.argv[1:]))
    cli.main()
    assert seen == [[], ["photo[1].jpg"], list(names), [], []]


def test_ctrl_c_ends_with_130_and_one_line(lesions: Path, tmp_path: Path) -> None:
    code = """
import signal, sys
from segmae.data import catalog
catalog.find_data = lambda root: signal.raise_signal(signal.SIGINT)
sys.argv = ["segmae", "data", "prepare", "somewhere"]
from segmae.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("length", [10, 1_000_000], ids=["at the end", "while it prints"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_output_that_nobody_reads_or_that_has_no_room(length: int) -> None:
    code = f"""
import sys, typer
from segmae.data import catalog
def find_data(root):
    print("x" * {length})
    raise typer.Exit(1)  # as where some inputs failed
catalog.find_data = find_data
sys.argv = ["segmae", "data", "prepare", "somewhere"]
from segmae.cli import main
main()
"""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody, Path("/dev/full").open("wb") as full:
        closed, no_room = (
            subprocess.run([sys.executable, "-c", code], stdout=place, stderr=subprocess.PIPE, text=True)
            for place in (nobody, full)
        )
    assert (closed.returncode, closed.stderr) == (141, "")
    assert no_room.returncode == 2
    assert no_room.stderr.startswith("error: standard output: cannot be written (No space left on device)")
    assert no_room.stderr.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_stops_a_training_run_which_then_resumes(lesions: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert make_split_file(lesions, tmp_path / "split.csv")
    command = [sys.executable, "-m", "segmae", "train", *small_run(lesions, tmp_path), "epochs=500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "runs" / "small" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "stopped"


def test_ctrl_c_in_predict_says_how_to_go_on(
    run: Run, lesions: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segmae.predict.append", interrupted)  # after the first batch was written
        code, _, err = run("predict", lesions / "images", "--model", small_model, "-o", tmp_path / "out")
    assert code == 130
    assert "--resume goes on" in err and err.splitlines()[-1] == "stopped"
    assert (
        run("predict", lesions / "images", "--model", small_model, "-o", tmp_path / "out", "--resume")[0] == 0
    )


def test_train_evaluate_and_predict_from_the_command_line(run: Run, lesions: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    make_split_file(lesions, tmp_path / "split.csv")
    settings = small_run(lesions, tmp_path)
    code, out, _ = run("train", *settings)
    folder = Path(out.strip())
    assert (code, folder) == (0, tmp_path / "runs" / "small")
    code, _, err = run("train", *settings, "batch_size=3")
    assert code == 2
    assert "batch_size" in one_line_error(err.splitlines()[-1])

    evaluation = (
        "evaluate",
        folder,
        "--data",
        lesions,
        "--split",
        tmp_path / "split.csv",
        "--resamples",
        "50",
    )
    code, out, _ = run(*evaluation, "-o", tmp_path / "evaluation", "--json")
    assert code == 0
    assert json.loads(out)["data"]["evaluated"] == 2
    code, out, _ = run(*evaluation, "-o", tmp_path / "evaluation")
    assert "dice" in out
    assert "2 of 2 images" in out

    code, out, err = run("predict", lesions / "images", "-o", tmp_path / "out", "--model", folder)
    assert code == 0, err
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 10


def make_split_file(lesions: Path, path: Path) -> Path:
    from segmae.data.catalog import open_dataset
    from segmae.data.splits import make_split, save_split

    return save_split(make_split(open_dataset(lesions).cases, ratios=(0.6, 0.2, 0.2)), path)


def small_run(lesions: Path, folder: Path) -> list[str]:
    return [
        "name=small", f"output={folder / 'runs'}", f"data.root={lesions}", f"data.split={folder / 'split.csv'}",
        f"data.cache={folder / 'cache'}", "task=supervised", "epochs=1", "batch_size=2", "device=cpu", "threads=1",
        "tensorboard=false", "preprocess.size=64", "model.name=segmae-tiny", "model.options.depth=1",
        "model.options.decoder=null",
    ]  # fmt: skip


def commands(group: Any, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        label = f"{path} {name}".strip()
        found |= commands(command, label) if hasattr(command, "commands") else {label: command}
    return found


COMMANDS = commands(typer.main.get_command(cli.app))


def test_every_verb_is_there() -> None:
    data = {"data check", "data prepare", "data download"}
    splits = {f"data splits {verb}" for verb in ("list", "show", "make", "verify")}
    rest = {"models", "pretrain", "train", "finetune", "evaluate", "calibrate", "predict", "compare", "rank"}
    rest |= {"measure", "export", "demo", "doctor", "ensemble", "publish", "fetch", "serve"}
    study = {f"study {verb}" for verb in ("run", "status", "report", "sheets", "list")}
    assert set(COMMANDS) == data | splits | study | rest


@pytest.mark.parametrize("verb", COMMANDS)
def test_verbs_have_help_and_no_defaults_of_their_own(verb: str) -> None:
    """An option that was not given is not passed on, so the Python function's default holds."""
    command = COMMANDS[verb]
    assert command.help
    for parameter in command.params:
        if not parameter.required:
            assert parameter.default in (None, False, (), []), f"{verb} {parameter.name}"


def functions_behind() -> Iterator[tuple[str, Callable[..., Any], dict[str, str]]]:
    """Verbs, the function behind each, and what it calls options that are called otherwise there."""
    from segmae.calibrate import calibrate
    from segmae.card import publish
    from segmae.compare import compare
    from segmae.data.check import check
    from segmae.data.dataset import prepare
    from segmae.data.download import download
    from segmae.demo import run_demo
    from segmae.doctor import diagnose
    from segmae.ensemble import save_ensemble
    from segmae.evaluate import evaluate_checkpoint
    from segmae.finetune import finetune
    from segmae.hub import from_pretrained
    from segmae.masks import measure_masks
    from segmae.predict import predict_files
    from segmae.rank import rank
    from segmae.study.ledger import status
    from segmae.study.report import write_report
    from segmae.study.runner import run_studies
    from segmae.study.sheets import write_sheets

    yield from (
        ("evaluate", evaluate_checkpoint, {"data_folder": "data"}),
        ("predict", predict_files, {}),
        ("calibrate", calibrate, {"data_folder": "data"}),
        ("ensemble", save_ensemble, {"out": "folder"}),
        ("publish", publish, {}),
        ("fetch", from_pretrained, {}),
        ("compare", compare, {"data_folder": "data"}),
        ("finetune", finetune, {"data_folder": "data"}),
        ("rank", rank, {}),
        ("measure", measure_masks, {}),
        ("demo", run_demo, {}),
        ("doctor", diagnose, {}),
        ("study run", run_studies, {}),
        ("study status", status, {}),
        ("study report", write_report, {"name": "study"}),
        ("study sheets", write_sheets, {}),
        ("data check", check, {}),
        ("data download", download, {}),
        ("data prepare", prepare, {"folder": "cases", "cache": "folder", "size": "preprocess", "gray_world": "preprocess"}),
    )  # fmt: skip


def test_options_are_the_names_of_the_function_behind_them() -> None:
    from segmae.dicom import predict_dicom

    printing = {"as_json", "help"}
    of_dicom = {"fractional", "include_identifiers"}  # `predict` has three functions behind it
    of_cluster = {"engine_cluster", "address", "workers", "gpus", "shard_size", "part"}
    assert of_dicom <= set(inspect.signature(predict_dicom).parameters)
    for verb, function, renamed in functions_behind():
        names = (
            {renamed.get(p.name, p.name) for p in COMMANDS[verb].params} - printing - of_dicom - of_cluster
        )
        assert names <= set(inspect.signature(function).parameters), verb


def test_help_shows_the_defaults_of_the_function_behind_a_verb() -> None:
    from segmae.cluster import predict_batch
    from segmae.config import Preprocess
    from segmae.data.splits import make_split
    from segmae.engines.convert import export_model
    from segmae.serve.settings import Settings

    more = (
        ("predict", predict_batch, {"engine_cluster": "", "threads": ""}),
        ("export", export_model, {}),
        ("data prepare", Preprocess, {}),
        ("data splits make", make_split, {}),
        ("serve", Settings, {}),
    )
    settings = {("study run", "threads"), ("study run", "device")}  # theirs is the default
    compared = 0
    for verb, function, renamed in (*functions_behind(), *more):
        signature = inspect.signature(function).parameters
        for parameter in COMMANDS[verb].params:
            found = signature.get(renamed.get(parameter.name, parameter.name))
            if found is None or parameter.required or (verb, parameter.name) in settings:
                continue
            default = found.default
            if default is False or default in (None, (), found.empty) or "factory" in repr(default):
                continue  # nothing, or told in words
            if isinstance(default, tuple):
                text = "1/1" if parameter.name == "part" else ",".join(map(str, default))
            elif isinstance(default, Path):
                text = default.as_posix()
            else:
                text = f"{default:g}" if isinstance(default, float) else str(default)
            assert parameter.show_default == text, f"{verb} {parameter.name}"
            compared += 1
    assert compared > 50


def test_help_prints_defaults(run: Run) -> None:
    _, out, _ = run("evaluate", "--help")
    assert "default: (2000)" in out


@needs_model
def test_doctor_finds_the_model_and_proves_that_it_predicts(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["ok"]
    assert report["self_test"]["dice"] > 0.7
    assert len(report["model"]["sha256"]["model.onnx"]) == 64
    code, out, _ = run("doctor")
    assert out.startswith("versions ")
    assert report["model"]["sha256"]["model.onnx"] in out


def test_doctor_warns_of_a_model_that_finds_nothing(run: Run, small_model: Path) -> None:
    code, out, _ = run("doctor", "--model", small_model)
    assert code == 0 and "misses a drawn lesion" in out


def test_evaluate_measures_masks_that_are_cleaned_as_asked(
    run: Run, small_model: Path, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "drawn", 3)
    for option in ("keep_largest", "fill_holes"):
        code, out, _ = run(
            "evaluate",
            small_model,
            "--data",
            tmp_path / "drawn",
            "--json",
            "-o",
            tmp_path / option,
            f"--{option.replace('_', '-')}",
        )
        assert code == 0
        assert {key for key in ("keep_largest", "fill_holes") if json.loads(out)["model"][key]} == {option}


def test_doctor_reports_a_model_that_is_not_there(run: Run) -> None:
    code, out, _ = run("doctor", "--json", "--model", "no-such-model")
    report = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    assert "no-such-model" in report["problem"]
    assert set(report["extras"]) >= {"train", "export", "serve", "dicom", "cluster"}
    code, out, _ = run("doctor", "--model", "no-such-model")
    assert "problem" in out


@needs_model
def test_the_demo_draws_lesions_and_finds_them(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("demo", "-o", tmp_path / "demo")
    assert code == 0
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "data:image/" in page
    assert 'src="http' not in page
    assert str(tmp_path / "demo" / "sheet.png") in out
    rows = [json.loads(line) for line in (tmp_path / "demo" / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 6


@needs_model
def test_a_demo_that_fails_leaves_the_page_of_an_earlier_one(run: Run, tmp_path: Path) -> None:
    assert run("demo", "-o", tmp_path / "demo")[0] == 0
    code, _, err = run("demo", tmp_path / "gone.jpg", "-o", tmp_path / "demo")
    assert code == 2 and "gone.jpg" in err
    assert (tmp_path / "demo" / "report.html").exists() and (tmp_path / "demo" / "sheet.png").exists()
    assert run("demo", "-o", tmp_path / "demo")[0] == 0


@needs_model
def test_a_demo_replaces_an_earlier_one_and_keeps_a_prediction_in_its_folder(
    run: Run, lesions: Path, tmp_path: Path
) -> None:
    photo = Path(shutil.copy(next(lesions.rglob("*.jpg")), tmp_path / "mine.jpg"))
    out, other = tmp_path / "out", Path(shutil.copy(photo, tmp_path / "other.jpg"))
    assert run("predict", photo, "-o", out)[0] == 0

    def there() -> set[str]:
        rows = {json.loads(row)["name"] for row in (out / "results.jsonl").read_text().splitlines()}
        for kind in ("mask", "overlay"):
            assert {path.name for path in out.glob(f"*_{kind}.png")} == {
                f"{name}_{kind}.png" for name in rows
            }
        return rows

    drawn = {f"drawn_{number:04}" for number in range(6)}
    for photographs, names in (((), drawn), ((other,), {"other"}), ((photo,), set()), ((), drawn)):
        assert run("demo", *photographs, "-o", out)[0] == 0
        assert there() == {"mine"} | names
    own = Path(shutil.copy(photo, out / "drawn" / "images"))
    # the second would draw lesions among one's own photographs
    for failing in ((tmp_path / "gone.jpg",), ()):
        assert run("demo", *failing, "-o", out)[0] == 2
        assert there() == {"mine"} | drawn, "a demo that fails leaves the earlier one"
    own.unlink()


@needs_model
def test_the_demo_takes_a_photograph_whose_name_has_spaces(run: Run, lesions: Path, tmp_path: Path) -> None:
    name = "my photo (1)" if sys.platform == "win32" else "my photo <1>"
    photo = tmp_path / f"{name}.jpg"
    photo.write_bytes(sorted((lesions / "images").iterdir())[0].read_bytes())
    code, _, err = run("demo", photo, "-o", tmp_path / "demo")
    assert code == 0, err
    assert (tmp_path / "demo" / f"{safe_name(name)}_mask.png").exists()
    assert safe_name(name) in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")


@needs_model
def test_the_demo_says_what_of_a_folder_it_passed_over(run: Run, lesions: Path, tmp_path: Path) -> None:
    shutil.copytree(lesions / "images", tmp_path / "photos")
    (tmp_path / "photos" / "mine.webp").write_bytes(b"")
    code, _, err = run("demo", tmp_path / "photos", "-o", tmp_path / "demo")
    assert code == 0 and "passed over: 1 .webp file" in err


def test_output_that_is_not_to_be_buffered_is_not() -> None:
    """As containers ask for it: what was printed is there though the process is killed."""
    code = "import os, segmae.cli; segmae.cli.app = lambda: (print('there'), os._exit(0)); segmae.cli.main()"
    done = subprocess.run([sys.executable, "-u", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "there\n"
