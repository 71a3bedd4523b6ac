"""A real browser for tests: Debian's chromium driven by playwright, and a watch over what a page does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MS = 60_000  # after which a test that waits has failed
FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


def launched() -> Iterator[Any]:
    """A browser; the test is skipped, with the reason, where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}: apt install chromium")
    sync.expect.set_options(timeout=PATIENCE_MS)
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Watch:
    """What went wrong on a page: console errors, exceptions, breaches of the content policy, requests to elsewhere."""

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.statuses: list[int] = []
        self.hosts: set[str] = set()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("response", lambda response: self.statuses.append(response.status))

    def _said(self, message: Any) -> None:
        # chromium logs each answer of 4xx and 5xx; which of these a test expects is looked at by their status
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(f"console: {message.text}")

    def check(self, host: str, expected: frozenset[int] = frozenset()) -> None:
        assert not self.errors, self.errors
        assert self.hosts - {""} <= {host}, "a request to another host"
        assert {status for status in self.statuses if status >= 400} == set(expected)


@contextmanager
def opened(browser: Any, url: str, expected: frozenset[int] = frozenset(), **options: Any) -> Iterator[Any]:
    """A page at a desktop's size in a fresh context; what it did is checked at the end.

    Args:
        expected: statuses of 400 and more that the test brings about.
        options: of the browser's context.
    """
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 800}, "accept_downloads": True, **options}
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    watch = Watch(page)
    page.goto(url)
    try:
        yield page
        watch.check(urlsplit(url).netloc, expected)
    finally:
        context.close()


def axe_source() -> str:
    """axe-core's script: $SEGMAE_AXE, or node_modules of the folder above tests/. Skips without it."""
    places = [os.environ.get("SEGMAE_AXE"), Path(__file__).parents[1] / "node_modules/axe-core/axe.min.js"]
    for place in places:
        if place and Path(place).is_file():
            return Path(place).read_text(encoding="utf-8")
    pytest.skip("no axe-core: `npm install axe-core` here, or set SEGMAE_AXE to its axe.min.js")


def violations(page: Any, axe: str) -> list[str]:
    """Breaches of WCAG 2.2 A and AA in what a page shows now, contrast included."""
    page.evaluate(f"() => {{ {axe} }}")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", tags)
    return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in found["violations"] for node in rule["nodes"]]  # fmt: skip
