"""What a user gets by installing: public names, recipes that load, extras that match what the code asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import segmae
from segmae.errors import MissingExtra, require

REPOSITORY = Path(__file__).parents[1]
RECIPES = sorted(path for path in (REPOSITORY / "recipes").rglob("*.yaml") if "studies" not in path.parts)
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_public_names_exist() -> None:
    pytest.importorskip("torch")
    for name in segmae.__all__:
        assert getattr(segmae, name) is not None
    assert set(segmae.__all__) <= set(dir(segmae))


def test_a_public_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = segmae.no_such_name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_recipes_load_and_say_how_to_run_them(recipe: Path) -> None:
    pytest.importorskip("omegaconf")
    from segmae.recipe import load_config

    config = load_config(recipe)
    assert config.model.name in segmae.list_models()
    header = [line for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    command = "pretrain" if config.task == "pretrain" else "train"
    path = recipe.relative_to(REPOSITORY).as_posix()
    assert any(f"segmae {command} {path}" in line for line in header), "the header states the command"


def test_there_are_recipes() -> None:
    assert {path.parent.name for path in RECIPES} >= {"paper", "best", "smoke"}


def test_no_extra_needs_torchvision_and_the_core_needs_no_torch() -> None:
    project = PROJECT["project"]
    names = {re.split(r"[\[<>=~!; ]", line)[0].lower() for line in project["dependencies"]}
    assert names == {"numpy", "pillow", "scipy", "contourpy", "onnxruntime", "typer", "rich"}
    everything = [line for extra in project["optional-dependencies"].values() for line in extra]
    assert not [line for line in everything if re.match(r"torchvision|timm|lightning\b(?!-fabric)", line)]


def test_every_extra_that_the_code_asks_for_exists() -> None:
    asked = {
        extra
        for file in Path(segmae.__file__).parent.rglob("*.py")
        for extra in re.findall(r"require\(\"[\w.]+\", \"(\w+)\"\)", file.read_text(encoding="utf-8"))
    }
    assert asked
    assert asked <= set(PROJECT["project"]["optional-dependencies"])


def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingExtra, match=r"no_such_package.*pip install -c constraints.txt .\.\[train\]"):
        require("no_such_package", "train")


def test_the_data_that_the_package_reads_is_installed_with_it() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["segmae"]
    source = Path(segmae.__file__).parent
    packed = {file for pattern in patterns for file in source.glob(pattern)}
    data = {
        file
        for file in source.rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc"} and "__pycache__" not in file.parts
    }
    assert data <= packed


def test_the_page_on_variables_names_those_that_the_code_reads() -> None:
    text = (REPOSITORY / "docs" / "environment.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[A-Z].*?) \|", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    read, argument = set(), re.compile(r"""(?:\.\w+)?[\[(]["'](\w+)["']""")
    for file in sorted((REPOSITORY / "src").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        for use in re.finditer(r"\b(?:environ|getenv)\b", source):
            name = argument.match(source, use.end())
            assert name, (
                f"{file}: a variable without its name beside it cannot be compared with docs/environment.md"
            )
            read.add(name[1])
    assert read == named


def test_every_result_says_what_made_it() -> None:
    """`results/README.md` names each folder and file beside it; studies have a report instead."""
    text = (REPOSITORY / "results" / "README.md").read_text(encoding="utf-8")
    for path in (REPOSITORY / "results").iterdir():
        if (path / "study.json").exists():
            assert (REPOSITORY / "docs" / "results" / f"{path.name}.md").exists(), (
                f"{path.name} has no report"
            )
        elif path.name != "README.md":
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text, (
                f"{path.name} is not in results/README.md"
            )


def test_the_constraints_name_what_the_extras_bring() -> None:
    """But for Google's buckets, which were not tried."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    names = {canonical(re.split(r"[\[<>=~!; ]", requirement)[0]) for requirement in wanted}
    assert names - pinned == {"gcsfs"}


def canonical(name: str) -> str:
    """As packages are compared by name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
