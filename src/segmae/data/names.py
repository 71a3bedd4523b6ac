"""Which files are images and which are masks, by their names alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MASK_ENDING = re.compile(r"_(segmentation|lesion|mask)$", re.IGNORECASE)


def composed(name: str) -> str:
    """A name whose accents are part of their letters (NFC): macOS may write ä as a and ¨, and both are one name to its readers."""
    return unicodedata.normalize("NFC", name)


def image_files(folder: Path) -> Iterator[Path]:
    """Image files directly in a folder, by name; hidden files are passed over, links to nowhere are not."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            yield path
