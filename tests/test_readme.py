"""README.md: every command and line of Python in it is executed, on drawn lesions. Those that install are marked slow."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from segmae.data.phantom import draw_lesion, write_dataset
from segmae.data.splits import load_split

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [shlex.split(line, comments=True) for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.strip()]  # fmt: skip
TRAINING = [c for c in COMMANDS if c[:2] in (["segmae", "pretrain"], ["segmae", "train"], ["segmae", "export"])
            or "isic2018" in c or "runs/small-random" in c]  # fmt: skip
PREDICTING = [c for c in COMMANDS if c[0] == "segmae" and c not in TRAINING]
INSTALLING = [c for c in COMMANDS if c[0] in ("make", "pip")]
SMALL = [
    "epochs=1",
    "preprocess.size=64",
    "data.split=mini.csv",
    "data.subset=8",
    "batch_size=4",
    "model.options.depth=1",
    "threads=1",
]


def run(*command: str, cwd: Path, **variables: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
    done = subprocess.run(command, cwd=cwd, env=inherited | variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder as README's reader has it: photographs, lesion.jpg, the recipes."""
    write_dataset(tmp_path / "drawn", 2, seed=7)
    (tmp_path / "drawn" / "images").rename(tmp_path / "photos")
    Image.fromarray(draw_lesion(3)[0]).save(tmp_path / "lesion.jpg")
    Image.fromarray(draw_lesion(4)[0]).save(tmp_path / "my photo.jpg")
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    return tmp_path


def test_every_command_belongs_to_one_of_the_tests_below() -> None:
    assert len(PREDICTING) >= 3 and len(TRAINING) >= 6 and len(INSTALLING) >= 6
    assert len(PREDICTING) + len(TRAINING) + len(INSTALLING) == len(COMMANDS)


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"])
def test_python(code: str, folder: Path) -> None:
    run(sys.executable, "-c", code, cwd=folder)
    with Image.open(folder / "overlay.png") as picture, Image.open(folder / "lesion.jpg") as photo:
        assert picture.size == photo.size


def test_predicting(folder: Path) -> None:
    for command in PREDICTING:
        run(sys.executable, "-m", *command, cwd=folder)
    names = {path.name for path in (folder / "out").iterdir()}
    assert {
        "drawn_0000_mask.png",
        "drawn_0000_overlay.png",
        "results.jsonl",
        "coco.json",
        "results.csv",
        "gallery.html",
    } <= names


@pytest.mark.slow
def test_training(folder: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    data = folder / "data"
    parts = load_split("isic2018/fold1").parts
    ids = [*parts["train"][:8], *parts["val"][:3], *parts["test"][:3]]
    images, masks = (
        data / "isic2018/ISIC2018_Task1-2_Training_Input",
        data / "isic2018/ISIC2018_Task1_Training_GroundTruth",
    )
    images.mkdir(parents=True)
    masks.mkdir()
    for seed, name in enumerate(ids):
        picture, mask = draw_lesion(seed, (96, 72))
        Image.fromarray(picture).save(images / f"{name}.jpg")
        Image.fromarray(mask * 255).save(masks / f"{name}_segmentation.png")
    lines = [f"{name},{part}" for part in ("train", "val", "test") for name in parts[part] if name in ids]
    (folder / "mini.csv").write_text("\n".join(["id,part", *lines]) + "\n", encoding="utf-8")
    for command in TRAINING:
        small = SMALL if command[1] in ("pretrain", "train") else []
        run(
            sys.executable,
            "-m",
            *command,
            *small,
            cwd=folder,
            SEGMAE_DATA=str(data),
            XDG_CACHE_HOME=str(folder / "cache"),
        )
    assert (folder / "runs/small-random/best/model.onnx").is_file()
    assert (folder / "out/drawn_0001_mask.png").is_file()


@pytest.mark.slow
def test_installing(folder: Path) -> None:
    """In a clone, with environments of its own; the tests that `make test` runs there are one file's."""
    clone = folder / "clone"
    run("git", "clone", "--quiet", str(REPOSITORY), str(clone), cwd=folder)
    (clone / "my photo.jpg").write_bytes((folder / "my photo.jpg").read_bytes())
    run(sys.executable, "-m", "venv", str(folder / "fresh"), cwd=folder)
    pip = str(folder / "fresh" / "bin" / "pip")
    for command in INSTALLING:
        if command[0] == "pip":
            run(pip, *command[1:], "--quiet", cwd=clone)
        else:
            extra = ["ARGS=tests/test_png.py"] if command == ["make", "test"] else []
            run(*command, *extra, cwd=clone)
    assert (clone / "demo/report.html").is_file()


@pytest.mark.skipif(shutil.which("make") is None, reason="Windows has no make")
@pytest.mark.parametrize("given", ["argument", "variable"])
def test_make_demo_takes_a_name_as_it_is(tmp_path: Path, given: str) -> None:
    """What make or the shell would expand, or run, in a name reaches `segmae demo` unchanged."""
    name = "my $5 $(shell touch ran) $(touch ran) `touch ran` 'a' \"b\" ; #.jpg"
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    program = tmp_path / ".venv-core" / "bin" / "segmae"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / ".venv-core" / "installed").touch()
    command = ["make", "--silent", "--old-file=.venv-core/installed", "demo"]
    if given == "argument":
        out = run(*command, f"IMAGE={name}", cwd=tmp_path)
    else:
        out = run(*command, cwd=tmp_path, IMAGE=name)
    assert out == f"demo\n{name}\n"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (REPOSITORY / link).exists()


def test_the_figures_are_those_of_the_files() -> None:
    import json

    rows = re.findall(r"\| (\.\d+ \[[^]]+\]) \| (\.\d+ \[[^]]+\]) \| \[[^]]+\]\((results/[^)]+)\)", README)
    assert len(rows) == 3
    for *printed, file in rows:
        means = json.loads((REPOSITORY / file).read_text(encoding="utf-8"))["per_image_mean"]
        for measure, text in zip(("dice", "iou"), printed, strict=True):
            figure = means[f"{measure}@original"]
            expected = f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]".replace("0.", ".")
            assert text == expected
