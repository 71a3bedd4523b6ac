"""What MkDocs calls while it builds the site: made pages, links out of docs/, formulas.

The pages under docs/ are written to be read in the repository as well, so a link may lead anywhere in it. On the site, a
link to one of the repository's own pages (README.md, CHANGELOG.md, ...) leads to its copy, and one to another file
to a copy of that file.
"""

from __future__ import annotations

import html
import re
from pathlib import Path, PurePosixPath

import api_page
import commands_page
import configuration_page
import results_page
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
# The repository's own pages that the site has a copy of, and their addresses there.
OWN_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "MODEL_CARD.md": "MODEL_CARD.md",
    "SECURITY.md": "SECURITY.md",
}
MADE_PAGES = {
    "reference/commands.md": commands_page.page,
    "reference/configuration.md": configuration_page.page,
    "reference/api.md": api_page.page,
    "results/index.md": lambda: results_page.page(REPOSITORY),
}
# What in the repository is read as a file, and on the site as a page that was made from it.
MADE_FROM = {"src/segmae/config.py": "reference/configuration.md", "docs/results": "results/index.md"}
LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
MATHS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
COPIES = "files"  # folder of the site with copies of the repository's other files
SHIM = "https://unpkg.com/iframe-worker/shim"  # what the theme would load from elsewhere


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Reports of studies come into the navigation by themselves."""
    reports = sorted(
        path.relative_to(REPOSITORY / "docs") for path in (REPOSITORY / "docs/results").glob("*.md")
    )
    for part in config.nav or []:
        if isinstance(part, dict) and "Results" in part:
            part["Results"] += [path.as_posix() for path in reports]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, make in MADE_PAGES.items():
        files.append(File.generated(config, name, content=make()))
    for source, name in OWN_PAGES.items():
        files.append(File.generated(config, name, content=(REPOSITORY / source).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        for match in LINK.finditer(_without_code(page.content_string)):
            target = _in_repository(page, match[2])
            if target is None or _on_site(target, files):
                continue
            for file in _copied(target):
                name = _text(f"{COPIES}/{file.relative_to(REPOSITORY).as_posix()}")
                if files.get_file_from_path(name) is None:
                    files.append(File.generated(config, name, abs_src_path=str(file)))
            if (REPOSITORY / target).is_dir() and files.get_file_from_path(
                f"{COPIES}/{target}/index.md"
            ) is None:
                files.append(_folder_page(config, target))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def mended(match: re.Match[str]) -> str:
        target = _in_repository(page.file, match[2])
        if target is None:
            return match[0]
        place = _on_site(target, files)
        if place is None:
            place = (
                f"{COPIES}/{target}/index.md"
                if (REPOSITORY / target).is_dir()
                else _text(f"{COPIES}/{target}")
            )
        up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        return f"{match[1]}{up}{place}{match[3] or ''}{match[4]}"

    pieces = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(piece if i % 2 else LINK.sub(mended, piece) for i, piece in enumerate(pieces))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas become MathML, which browsers draw by themselves."""

    def drawn(match: re.Match[str]) -> str:
        return convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline")

    return MATHS.sub(drawn, content)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The search of a page that was opened from a folder needs a stand-in for workers: ours, not one from elsewhere."""
    up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
    return output.replace(SHIM, f"{up}search-worker.js")


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page of a wrong address, which is no page of ours: its other files are at the site's root too."""
    return output_content.replace(SHIM, "/search-worker.js")


def _without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)


def _in_repository(page: File, link: str) -> str | None:
    """The repository's file or folder that a link means, as a relative path; None for one elsewhere or a wrong one."""
    if re.match(r"[a-z]+:|/", link) or page.src_uri.startswith((COPIES, "reference/")):
        return None
    own = next((source for source, name in OWN_PAGES.items() if name == page.src_uri), None)
    base = (REPOSITORY / own).parent if own else (REPOSITORY / "docs" / page.src_uri).parent
    target = (base / link).resolve()
    if not target.exists() or not target.is_relative_to(REPOSITORY):
        return None
    return target.relative_to(REPOSITORY).as_posix()


def _on_site(target: str, files: Files) -> str | None:
    """The page or picture of the site that a repository path is."""
    if page := (OWN_PAGES | MADE_FROM).get(target):
        return page
    name = target.removeprefix("docs/")
    return name if target.startswith("docs/") and files.get_file_from_path(name) else None


def _copied(target: str) -> list[Path]:
    path = REPOSITORY / target
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _text(name: str) -> str:
    """Copies of source files are served as text: browsers offer others for download."""
    return (
        f"{name}.txt"
        if name.endswith((".py", ".yaml", ".md", ".toml", ".cff")) or "." not in Path(name).name
        else name
    )


def _folder_page(config: MkDocsConfig, target: str) -> File:
    names = [file.name for file in _copied(target)]
    lines = [f"# {target}", "", *(f"- [{name}]({Path(_text(name)).name})" for name in names)]
    file = File.generated(config, f"{COPIES}/{target}/index.md", content="\n".join(lines) + "\n")
    file.inclusion = file.inclusion.NOT_IN_NAV
    return file
