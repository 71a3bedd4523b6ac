"""A page of headings, paragraphs, lists, tables and pictures, as Markdown and as one HTML file that needs no other.

Text may hold `code` and **bold**.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segmae.files import atomic_write

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #18181b; max-width: 76rem; margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.7rem; line-height: 1.25 } h2 { margin-top: 2.6rem; border-bottom: 1px solid #e4e4e7; padding-bottom: .3rem }
h3 { margin-top: 2rem; font-size: 1.02rem } p, li { max-width: 52rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e7 }
th { background: #fafafa; white-space: normal; vertical-align: bottom } th:first-child, td:first-child { text-align: left }
th.text, td.text { text-align: left } td.text { white-space: normal; min-width: 12rem }
caption { caption-side: top; text-align: left; color: #52525b; padding: .4rem 0 }
img { max-width: 100%; height: auto } code { font-size: .88em }
""".strip()


@dataclass(frozen=True)
class Heading:
    text: str

    def markdown(self, folder: str) -> str:
        return f"## {self.text}"

    def html(self) -> str:
        return f"<h2>{_inline(self.text)}</h2>"


@dataclass(frozen=True)
class Paragraph:
    text: str

    def markdown(self, folder: str) -> str:
        return self.text

    def html(self) -> str:
        return f"<p>{_inline(self.text)}</p>"


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]

    def markdown(self, folder: str) -> str:
        return "\n".join(f"- {item}" for item in self.items)

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in self.items) + "</ul>"


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self, folder: str) -> str:
        head, *body = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.columns, *self.rows)
        ]
        rule = "| --- |" + " ---: |" * (len(self.columns) - 1)
        return "\n".join([f"*{self.caption}*", "", head, rule, *body])

    def html(self) -> str:
        wordy = [
            any(re.match(r"[A-Za-z]{3}", cell) for cell in column) for column in zip(*self.rows, strict=True)
        ]
        kinds = [" class=text" if words else "" for words in wordy] or [""] * len(self.columns)
        head, *rows = [
            "".join(f"<{tag}{kind}>{_inline(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))
            for tag, row in (("th", self.columns), *(("td", row) for row in self.rows))
        ]
        body = "".join(f"<tr>{row}</tr>\n" for row in rows)
        return f'<div class="wide"><table><caption>{_inline(self.caption)}</caption>\n<tr>{head}</tr>\n{body}</table></div>'


@dataclass(frozen=True)
class Picture:
    file: str
    alt: str
    png: bytes

    def markdown(self, folder: str) -> str:
        return f"![{self.alt}]({folder}/{self.file})"

    def html(self) -> str:
        data = base64.b64encode(self.png).decode()
        return f'<p><img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data}"></p>'


Block = Heading | Paragraph | Bullets | Table | Picture


@dataclass
class Page:
    """Blocks below a title, in order."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        self.blocks += blocks

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write `NAME.md` with its pictures in `NAME/`, and `NAME.html` with them inside; the two paths."""
        for block in self.blocks:
            if isinstance(block, Picture):
                atomic_write(folder / name / block.file, block.png)
        atomic_write(folder / f"{name}.md", self.markdown(name))
        atomic_write(folder / f"{name}.html", self.html())
        return folder / f"{name}.md", folder / f"{name}.html"

    def markdown(self, folder: str) -> str:
        """The page as Markdown, with its pictures in `folder`."""
        return "\n\n".join([f"# {self.title}", *(block.markdown(folder) for block in self.blocks)]) + "\n"

    def html(self) -> str:
        """The page as one HTML file."""
        body = "\n".join([f"<h1>{_inline(self.title)}</h1>", *(block.html() for block in self.blocks)])
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(self.title)}</title>'
        return f'<!doctype html>\n<html lang="en">\n<head>{head}\n<style>{STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n'


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)
