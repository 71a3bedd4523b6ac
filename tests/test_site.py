"""The site: what it says of the code is what the code does, and its made pages name every command and setting."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
sys.path.insert(0, str(REPOSITORY / "scripts" / "site"))  # as MkDocs does for its hooks

SHAPES = re.compile(r"^\| `([\w.]+(?:: \w+)?)`([^|]*) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def shapes_of(name: str) -> dict[str, str]:
    """Shape of every row of the table in docs/how-it-works.md, on a device that computes none of the numbers."""
    torch = pytest.importorskip("torch")
    from segmae.models import create_model

    found: dict[str, str] = {}
    with torch.device("meta"):
        model = create_model(name).eval()
        image, visible = torch.zeros(1, 3, 224, 224), torch.zeros(1, 49, dtype=torch.long)
        for place, module in model.named_modules():
            module.register_forward_hook(
                lambda _module, _inputs, output, place=place: found.__setitem__(
                    place, " x ".join(map(str, getattr(output, "shape", ())[1:]))
                )
            )
        encoded = model.encoder(image)
        for key in ("stride2", "stride4", "stride8", "stride16"):
            found[f"encoder: {key}"] = " x ".join(map(str, encoded[key].shape[1:]))
        found["encoder: tokens, all"] = " x ".join(map(str, encoded["tokens"].shape[1:]))
        few = model.encoder(image, visible)["tokens"].shape[1:]
        found["encoder: tokens, a quarter visible"] = " x ".join(map(str, few))
        model(image)
        model(image, task="reconstruct", visible=visible)
    return found


@pytest.mark.parametrize("column, name", list(enumerate(("segmae-base", "segmae-small", "segmae-tiny"))))
def test_the_shapes_on_the_page_are_those_of_the_code(column: int, name: str) -> None:
    rows = SHAPES.findall((DOCS / "how-it-works.md").read_text(encoding="utf-8"))
    assert len(rows) == 14
    real = shapes_of(name)
    for place, note, *printed in rows:
        key = place + note if place == "encoder: tokens" else place
        assert printed[column].strip() == real[key], f"{name}: {key}"


def test_functions_beside_equations_exist() -> None:
    pytest.importorskip("torch")
    from segmae import losses, mask_loss, tasks

    text = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    table = text.split("| equation |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert named >= {"patch_wise_loss", "temperature_mean", "bce_loss", "dice_loss", "reconstruction_loss"}
    assert not [name for name in named if not any(hasattr(room, name) for room in (losses, mask_loss, tasks))]


def test_the_page_of_commands_has_every_option_of_every_command() -> None:
    import commands_page
    from typer.main import get_command

    from segmae.cli import app

    def leaves(command: object, path: str) -> list[tuple[str, object]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            return [(path, command)]
        return [leaf for name, found in inner.items() for leaf in leaves(found, f"{path} {name}")]

    sections = {}
    for part in re.split(r"^##+ ", commands_page.page(), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        sections[title] = body
    every = leaves(get_command(app), "segmae")
    assert len(every) > 15
    for path, command in every:
        for parameter in command.params:  # type: ignore[attr-defined]
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert all(option in sections[path] for option in parameter.opts), (path, parameter.name)
    assert "Bootstrap samples of the intervals. Default: 2000. |" in sections["segmae evaluate"]


def test_the_page_of_settings_has_every_key_with_a_meaning() -> None:
    import configuration_page

    from segmae.config import config_keys

    text = configuration_page.page()
    for key in config_keys():
        row = re.search(rf"^\| `{re.escape(key)}` \| `.*` \| `.*` \| (.*) \|$", text, re.MULTILINE)
        assert row and row[1], f"{key}: give it a comment in config.py"


def test_each_evaluation_of_the_results_page_has_a_heading_of_its_own() -> None:
    import results_page

    headings = re.findall(r"^### .*$", results_page.page(REPOSITORY), re.MULTILINE)
    assert len(headings) == len(set(headings)) > 4


def test_modules_of_the_api_page_exist() -> None:
    import api_page

    for modules in api_page.MODULES.values():
        for name in modules:
            path = REPOSITORY / "src/segmae" / name.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


def test_the_page_on_architecture_is_up_to_date() -> None:
    script = REPOSITORY / "scripts" / "architecture_page.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "source", sorted((REPOSITORY / "scripts" / "tutorials").glob("*.txt")), ids=lambda path: path.stem
)
def test_the_text_and_commands_of_a_tutorial_are_those_that_it_is_made_from(source: Path) -> None:
    page = (REPOSITORY / "docs" / "tutorials" / f"{source.stem}.md").read_text(encoding="utf-8")
    lines = [
        line.replace(" run", "") if line.startswith("```") else line
        for line in source.read_text(encoding="utf-8").splitlines()
    ]
    made = set(page.splitlines())
    assert [line for line in lines if line not in made and not line.endswith("  # not shown")] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[-1]
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        assert name in navigation or name.startswith("results/"), f"{name}: name it in mkdocs.yml"


PAGES = [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *(REPOSITORY / "results").rglob("*.md")]


def headings(page: Path) -> set[str]:
    """What `#name` in a link to a page may be, as GitHub and MkDocs name it."""
    lines = re.findall(r"^#+ +(.+)$", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE),
                       re.MULTILINE)  # fmt: skip
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere_in_the_repository_too(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in headings(target), link


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_pages_fetch_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+stylesheet[^>]+https?:", text
        ), page
