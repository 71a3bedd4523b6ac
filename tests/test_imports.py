"""Imports point one way, the core needs no torch, and nothing needs torchvision."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import segmae

SOURCE = Path(segmae.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# A room may import only from the rooms above it in this list, and from itself.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"files", "background", "client"}),
    frozenset({"png", "fetch", "weights_file"}),
    frozenset({"config"}),
    frozenset({"recipe"}),
    frozenset({"data", "models", "losses", "metrics", "statistics", "overlay", "contour", "views"}),
    frozenset({"appearance"}),
    frozenset({"measure", "trust", "paired", "ownfiles", "provenance"}),
    frozenset({"rows"}),
    frozenset({"photographs"}),
    frozenset({"result", "exchange", "gallery", "mask_loss"}),
    frozenset({"outputs"}),
    frozenset({"collection", "tasks", "checkpoint"}),
    frozenset({"engines", "runlog"}),
    frozenset({"ensemble"}),
    frozenset({"predictor"}),
    frozenset({"earlier"}),
    frozenset({"predict"}),
    frozenset({"scoring", "report", "evaluation_folder", "dicom", "cluster"}),
    frozenset({"evaluate"}),
    frozenset({"distill", "stopping", "runstate"}),
    frozenset({"trainset", "devices", "optimizer"}),
    frozenset({"train"}),
    frozenset({"study"}),
    frozenset({"doctor", "demo", "calibrate", "compare", "rank", "masks", "hub", "card"}),
    frozenset({"finetune"}),
    frozenset({"serve"}),
    frozenset({"commands"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
EXCEPTIONS = {("checkpoint", "engines")}  # save_pretrained(onnx=True) exports, and engines read model folders
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}

# These may import torch and what the extra `train` or `export` brings when they are imported themselves.
TORCH_FILES = {
    "losses.py",
    "mask_loss.py",
    "tasks.py",
    "runlog.py",
    "train.py",
    "engines/torch.py",
    "engines/export.py",
}
TORCH_FILES |= {"devices.py", "optimizer.py", "runstate.py", "stopping.py", "trainset.py"}
TORCH_FILES |= {"data/augment.py", "study/runner.py", "study/cellrun.py", "study/cost.py"}
EXTRAS = {"torch", "torchvision", "kornia", "lightning_fabric", "safetensors", "omegaconf", "tensorboardX"}
EXTRAS |= {"matplotlib", "onnx", "onnxscript", "monai", "pandas", "timm", "pydicom", "highdicom"}
EXTRAS |= {"openvino", "nncf", "pyarrow", "ray", "fsspec"}
EXTRAS |= {"fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client"}


def room_of(file: Path) -> str:
    relative = file.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of everything imported anywhere in a file, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the full path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_imports_point_one_way(file: Path) -> None:
    if file == SOURCE / "__init__.py":
        return  # the public names, imported lazily
    room = room_of(file)
    assert room in RANK, f"{room} has no place in LAYERS: give it one"
    for name in imported(ast.parse(file.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] == "segmae" and parts[1] not in (room, "__version__"):
            assert parts[1] in RANK, f"{name}: import it from the module that defines it"
            allowed = RANK[parts[1]] < RANK[room] or (room, parts[1]) in EXCEPTIONS
            assert allowed, f"{room} must not import {parts[1]}"


def test_files_of_one_room_import_each_other_one_way() -> None:
    names = {".".join(file.relative_to(SOURCE.parent).with_suffix("").parts): file for file in FILES}
    modules = {name.removesuffix(".__init__"): file for name, file in names.items()}
    needs: dict[str, set[str]] = {}
    for name, file in modules.items():
        found = set(imported(ast.parse(file.read_text(encoding="utf-8"))))
        found = {part for part in found if part.startswith(f"segmae.{room_of(file)}.")}
        found = {part if part in modules else part.rpartition(".")[0] for part in found}
        needs[name] = found - {name}
    graphlib.TopologicalSorter(needs).prepare()  # which names the circle, where there is one


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_the_core_imports_what_comes_with_an_extra_only_inside_functions(file: Path) -> None:
    relative = file.relative_to(SOURCE).as_posix()
    if relative.startswith("serve/"):  # the room of the extra `serve`
        return
    if relative in TORCH_FILES or (relative.startswith("models/") and relative != "models/__init__.py"):
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.split(".")[0] for node in at_import for name in imported(node)}
    assert not names & EXTRAS
    if relative != "cli.py" and not relative.startswith("commands/"):
        assert not names & {"typer", "rich"}, "only the command line prints"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCK = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    "code",
    [
        "import segmae",
        "import segmae; segmae.list_models()",
        "import sys; sys.argv = ['segmae', '--help']\ntry:\n    import segmae.__main__\nexcept SystemExit as e:\n    assert not e.code",
    ],
    ids=["import", "list_models", "help"],
)
def test_starting_loads_nothing_heavy(code: str) -> None:
    heavy = EXTRAS | {"numpy", "scipy", "PIL", "onnxruntime"}
    loaded = python(f"{code}\nimport sys\nprint('LOADED', sorted({heavy!r} & set(sys.modules)))")
    assert loaded.splitlines()[-1] == "LOADED []"


def test_nothing_needs_torchvision() -> None:
    pytest.importorskip("torch")
    python(
        BLOCK.format(blocked={"torchvision", "timm"})
        + """
import importlib, pkgutil, segmae
names = [m.name for m in pkgutil.walk_packages(segmae.__path__, "segmae.") if m.name != "segmae.__main__"]
assert len(names) > 20
for name in names:
    importlib.import_module(name)
segmae.create_model("segmae-tiny")
"""
    )


@pytest.mark.skipif(
    not (SOURCE / "assets" / "segmae-tiny" / "model.onnx").exists(), reason="no model shipped yet"
)
def test_predicting_works_where_torch_and_every_extra_are_absent() -> None:
    python(
        BLOCK.format(blocked=EXTRAS)
        + """
import segmae
from segmae.data.phantom import draw_lesion
image, mask = draw_lesion(seed=3, size=(301, 200))
result = segmae.load("segmae-tiny")(image)
assert result.mask.shape == result.probability.shape == (200, 301)
assert result.mask.dtype == bool and 0 <= result.probability.min() <= result.probability.max() <= 1
overlap = (result.mask & (mask > 0)).sum() * 2 / (result.mask.sum() + mask.sum())
assert overlap > 0.7, overlap
assert not {"torch", "safetensors", "omegaconf"} & set(__import__("sys").modules)
"""
    )
