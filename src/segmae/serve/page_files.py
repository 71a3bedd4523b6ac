"""The web page's files, read once at the start: no path from a request reaches the file system."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True)
class PageFile:
    content: bytes = field(repr=False)
    type: str
    etag: str


def load_page() -> dict[str, PageFile]:
    """Files of the page by the path that they are asked for: `/` is index.html, all others are below `/static/`."""
    found = {}
    for path in sorted(PAGE.rglob("*")):
        kind = TYPES.get(path.suffix)
        if kind is None or not path.is_file():
            continue
        content, name = path.read_bytes(), path.relative_to(PAGE).as_posix()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        found["/" if name == "index.html" else f"/static/{name}"] = PageFile(content, kind, etag)
    return found
