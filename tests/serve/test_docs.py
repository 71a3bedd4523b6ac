"""The examples of docs/serve.md run as they are printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from serving import PATIENCE, Running, drawn

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lesion.jpg").write_bytes(drawn(3, kind="JPEG"))
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_curl_examples(running: Running, folder: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) >= 9
    said = {}
    for line in lines:
        command = line.replace("curl -s", "curl -sS --fail-with-body", 1)
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, timeout=PATIENCE,
                              env={**os.environ, "SERVICE": running.url})  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        said[line] = done.stdout
    answers = [json.loads(text) for text in said.values() if text]
    assert answers[0]["polygons"] and answers[1]["measurements"]["area_mm2"] > 0
    for name in ("mask.png", "overlay.png", "probability.png"):
        with Image.open(folder / name) as picture:
            assert picture.size == (200, 150), name
    job = next(answer for answer in answers if "status_url" in answer)
    assert running.client.wait(job)["done"] == 2


def test_the_python_example(running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10, "ten lines"
    exec(compile(code, str(PAGE), "exec"), {"SERVICE": running.url})
    assert float(capsys.readouterr().out.split()[0]) > 0
    assert (folder / "mask.png").stat().st_size and (folder / "results.zip").stat().st_size


def test_every_address_and_status_of_the_page_is_in_openapi(running: Running) -> None:
    described = running.ask("GET", "/openapi.json").json
    text = PAGE.read_text(encoding="utf-8")
    for path in described["paths"]:
        if path.endswith("/results") or "{id}" in path:
            continue
        assert path in text, path
    statuses = {
        status
        for path in described["paths"].values()
        for route in path.values()
        for status in route["responses"]
    }
    for status in statuses - {"200", "202"}:
        assert status in text, status


def test_openapi_has_an_example_for_every_body_and_answer(running: Running) -> None:
    described = running.ask("GET", "/openapi.json").json
    assert described["openapi"].startswith("3.")
    for path, routes in described["paths"].items():
        for method, route in routes.items():
            for status, answer in route["responses"].items():
                content = answer.get("content", {}).get("application/json")
                assert content is None or "example" in content, (path, method, status)
            assert route["summary"] and route["description"]
