"""Files from elsewhere run no code. Weights are tested in models/test_pretrained.py and test_checkpoint.py, archives in
data/test_download.py, networks from a Python file in models/test_own_code.py."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segmae
from segmae.errors import CheckpointError, ConfigError

SOURCE = Path(segmae.__file__).parent
SCRIPTS = Path(__file__).parents[1] / "scripts"


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize(
    "file", sorted(SOURCE.rglob("*.py")), ids=lambda file: file.relative_to(SOURCE).as_posix()
)
def test_no_loader_in_the_code_takes_pickles_or_unpacks_blindly(file: Path) -> None:
    for name, call in calls(ast.parse(file.read_text(encoding="utf-8"))):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", f"line {call.lineno}"
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", f"line {call.lineno}"
        assert name not in ("pickle.load", "pickle.loads", "joblib.load", "yaml.load", "eval", "exec", "marshal.loads",
                            "shutil.unpack_archive", "tarfile.open", "jit.load", "torch.jit.load"), f"line {call.lineno}"  # fmt: skip
        assert not name.endswith((".extractall", ".unsafe_load", ".full_load")), f"line {call.lineno}"


def test_a_state_to_resume_from_runs_no_code(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from lightning_fabric import Fabric

    from segmae.runstate import State, load_state

    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(net := torch.nn.Linear(1, 1), torch.optim.SGD(net.parameters(), lr=1.0))
    ran, state, told = tmp_path / "ran", tmp_path / "state.pt", []
    for save in (
        lambda: torch.save({"counters": Trap(ran)}, state),
        lambda: state.write_bytes(pickle.dumps(Trap(ran))),
    ):
        save()
        with pytest.raises(ConfigError, match="no state file can be read"):
            load_state(fabric, tmp_path, State(model, optimizer, None), told.append)
    assert len(told) == 2 and not ran.exists()


@pytest.mark.parametrize("name", ["images.npy", "masks.npy"])
def test_prepared_images_run_no_code_and_are_made_anew(tmp_path: Path, name: str) -> None:
    from segmae.config import Preprocess
    from segmae.data.catalog import open_dataset
    from segmae.data.dataset import prepare
    from segmae.data.phantom import write_dataset

    cases = open_dataset(write_dataset(tmp_path / "lesions", 2, seed=0)).cases
    digest = prepare(cases, Preprocess(size=32), tmp_path / "cache", workers=1).digest
    (store,) = (tmp_path / "cache").iterdir()
    np.save(store / name, np.array([Trap(tmp_path / "ran")] * 2, dtype=object), allow_pickle=True)
    again = prepare(cases, Preprocess(size=32), tmp_path / "cache", workers=1)
    assert again.digest == digest and not (tmp_path / "ran").exists()


def test_soft_masks_run_no_code(tmp_path: Path) -> None:
    from segmae.data.catalog import open_dataset
    from segmae.data.phantom import write_dataset
    from segmae.distill import soft_masks

    cases = open_dataset(write_dataset(tmp_path / "lesions", 2, seed=0)).cases
    asked = (["segmae-tiny"], 1, cases, [cases[0].id], 32, tmp_path, tmp_path / "cache")
    soft_masks(*asked)
    (kept,) = tmp_path.glob("soft_masks-*.npy")
    np.save(kept, np.array([Trap(tmp_path / "ran")], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        soft_masks(*asked)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_a_model_folder_runs_no_code(small_model: Path, tmp_path: Path, name: str) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(CheckpointError):
        if name == "model.onnx":
            segmae.load(folder)(np.zeros((64, 64, 3), np.uint8))
        else:
            from segmae.checkpoint import load_model

            load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_recipe_runs_no_code(tmp_path: Path) -> None:
    pytest.importorskip("omegaconf")
    from segmae.recipe import load_config

    ran = tmp_path / "ran"
    (tmp_path / "recipe.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{ran}']\n")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_config(tmp_path / "recipe.yaml")
    assert not ran.exists()


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True,
                          env=os.environ | environment)  # fmt: skip


def test_licences_are_reported_and_gpl_and_unknown_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    import licences

    for licence in ("GPL-3.0-only", "AGPL-3.0", "GNU General Public License v3 (GPLv3)", "GNU Affero General Public License", "",
                    "MIT AND GPL-2.0-or-later"):  # fmt: skip
        assert not licences.allowed(licence), licence
    for licence in (
        "MIT",
        "LGPL-2.1",
        "GNU Lesser General Public License v3 (LGPLv3)",
        "MPL-2.0",
        "GPL-2.0 OR MIT",
        "BSD License",
    ):
        assert licences.allowed(licence), licence
    done = script("licences.py")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("numpy", "onnxruntime", "typer"):
        assert f"\n{name} " in f"\n{done.stdout}"


def test_every_package_that_ci_asks_for_is_locked_with_its_hash() -> None:
    import re
    import tomllib

    root = SCRIPTS.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        line for line in (root / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["train"], *extras["export"], *extras["dev"]):
        name = re.split(r"[\s\[<>=!~;]", text)[0].lower().replace("_", "-")
        assert name in locked, f"{name}: run `make lock`"


def test_an_audit_without_a_network_says_so(tmp_path: Path) -> None:
    pytest.importorskip("pip_audit")
    nowhere = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    done = script("audit.py", **nowhere)
    assert done.returncode == 0 and done.stdout.startswith("NOT AUDITED"), done.stdout + done.stderr
    assert script("audit.py", STRICT="1", **nowhere).returncode == 3


def run_alone(home: Path, code: str) -> str:
    """What Python prints in a process of its own that finds none of these switches set, with a home of its own."""
    switches = {"ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "NNCF_CI", "CI", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in switches}
    done = subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(home)},
                          check=True, capture_output=True, text=True)  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_prediction_leaves_nothing_in_the_home_folder(tmp_path: Path, engine: str) -> None:
    """Where an engine reports its use, it notes the number of a device or a client there."""
    pytest.importorskip(engine)
    code = f"import numpy, segmae; print(segmae.load('segmae-tiny', engine='{engine}')(numpy.zeros((64, 64, 3), numpy.uint8)).mask.shape)"
    assert run_alone(tmp_path, code) == "(64, 64)"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "code"), [
    ("nncf", "from segmae.errors import require; require('nncf', 'openvino'); import sys; print('openvino_telemetry' in sys.modules)"),
    ("ray", "import segmae; from ray._common.usage.usage_lib import usage_stats_enabled as on; print(on())"),
])  # fmt: skip
def test_packages_beneath_report_nothing(tmp_path: Path, package: str, code: str) -> None:
    pytest.importorskip(package)
    assert run_alone(tmp_path, code).splitlines()[-1] == "False"
    assert not list(tmp_path.iterdir())


def test_whoever_wants_to_report_may(tmp_path: Path) -> None:
    code = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'; import segmae; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run_alone(tmp_path, code) == "0"
