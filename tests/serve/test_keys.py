"""API keys, rates, and where the service refuses to listen."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from serving import Start, drawn

from segmae.client import Client, ServiceError
from segmae.errors import ConfigError, OutputError
from segmae.serve.keys import Rate, find_key, new_key, read_keys
from segmae.serve.run import serve
from segmae.serve.settings import Settings


def test_a_key_is_stored_as_a_hash_and_found_again(tmp_path: Path) -> None:
    first, second = new_key(tmp_path, "ward 3"), new_key(tmp_path)
    file = tmp_path / "keys.json"
    assert first != second and len(first) > 40
    assert first.encode() not in file.read_bytes() and second.encode() not in file.read_bytes()
    if sys.platform != "win32":  # where rights are those of the folder around it
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = read_keys(tmp_path)
    found = find_key(keys, first)
    assert found is not None and found.note == "ward 3"
    assert find_key(keys, first[:-1]) is None and find_key(keys, "") is None


def test_a_damaged_file_of_keys_does_not_open_the_service(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[{]")
    with pytest.raises(ConfigError, match=r"keys\.json"):
        read_keys(tmp_path)


def test_with_keys_only_the_page_and_health_are_open(start: Start, tmp_path: Path) -> None:
    key, other = new_key(tmp_path / "state"), new_key(tmp_path / "state")
    with start(state=tmp_path / "state") as running:
        for path in ("/health", "/ready", "/openapi.json"):
            assert running.ask("GET", path).status == 200, path
        for path in ("/metrics", "/v1/models", "/v1/jobs/x", "/nothing", "/statics"):
            answer = running.ask("GET", path)
            assert (answer.status, answer.code) == (401, "unauthorized"), path
        for headers in ({"X_API_Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"X_API_Key": ""}):
            assert running.ask("GET", "/v1/models", **headers).status == 401
        assert running.post("/v1/segment", {"image": [drawn()]}).status == 401
        assert running.ask("GET", "/v1/models", X_API_Key=key).status == 200
        assert running.ask("GET", "/metrics", Authorization=f"Bearer {key}").status == 200
        with pytest.raises(ServiceError) as refused:
            running.client.models()
        assert refused.value.status == 401
        mine = Client(running.url, key)
        assert mine.models()
        job = mine.submit([drawn()])
        with pytest.raises(ServiceError, match="no such job"):  # another key's job
            Client(running.url, other).job(job)
        assert mine.wait(job)["state"] == "done"


def test_each_key_has_its_own_rate(start: Start, tmp_path: Path) -> None:
    keys = [new_key(tmp_path / "state") for _ in range(2)]
    with start(state=tmp_path / "state", rate=2) as running:
        answers = [running.ask("GET", "/v1/models", X_API_Key=keys[0]) for _ in range(3)]
        assert [a.status for a in answers] == [200, 200, 429]
        assert answers[2].code == "rate_limit" and int(answers[2].headers["retry-after"]) >= 1
        assert running.ask("GET", "/v1/models", X_API_Key=keys[1]).status == 200
        assert running.ask("GET", "/health").status == 200


def test_the_rate_comes_back_with_time() -> None:
    rate = Rate(60)  # one a second, sixty at once
    assert all(rate.wait_s("a", now=0.0) == 0 for _ in range(60))
    assert rate.wait_s("a", now=0.0) == 1.0
    assert rate.wait_s("b", now=0.0) == 0
    assert rate.wait_s("a", now=0.5) == 0.5
    assert rate.wait_s("a", now=1.0) == 0
    assert all(rate.wait_s("a", now=1000.0) == 0 for _ in range(60))
    assert rate.wait_s("a", now=1000.0) > 0
    assert Rate(0).wait_s("a") == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_it_listens_beyond_this_machine_only_with_keys_or_when_told(tmp_path: Path, host: str) -> None:
    settings = Settings(host=host, state=tmp_path)
    assert not settings.is_local
    with pytest.raises(ConfigError, match="--new-key"):
        serve(settings)


@pytest.mark.skipif(sys.platform == "win32", reason="users have no such names and rights there")
def test_where_keys_and_jobs_can_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match="--state"):
        Settings()
    (tmp_path / "file").write_text("")
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)  # as for anyone but root
    for folder in (tmp_path / "file", closed):
        with pytest.raises(OutputError, match=rf"{folder}: .*--state"):
            new_key(folder)
        with pytest.raises(OutputError, match=rf"{folder}: .*--state"):
            serve(Settings(state=folder, port=0))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert Settings(host=host).is_local


def test_an_address_in_use_is_said(start: Start, tmp_path: Path) -> None:
    with start(wait=False) as running, pytest.raises(ConfigError, match="Choose another --port"):
        serve(Settings(port=running.port, state=tmp_path / "other"))


def test_keys_are_all_that_the_file_holds(tmp_path: Path) -> None:
    new_key(tmp_path)
    assert [set(key) for key in json.loads((tmp_path / "keys.json").read_text())] == [
        {"id", "sha256", "created", "note"}
    ]
