"""Models on a host that speaks Hugging Face's routes, on this machine: dropped, damaged, lying, absent, offline."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segmae
from segmae import cli
from segmae.calibrate import calibrate
from segmae.card import publish
from segmae.checkpoint import read_info, save_threshold
from segmae.data.phantom import draw_lesion, write_dataset
from segmae.engines.convert import export_model
from segmae.errors import CheckpointError, ConfigError, DataError
from segmae.evaluate import evaluate_checkpoint
from segmae.hub import WANTED, from_pretrained
from web_host import Host

ID, COMMIT = "anna/lesions-1", "0123456789abcdef0123456789abcdef01234567"
API = "/api/models/anna/lesions-1/revision/{}?blobs=true"


class Hub:
    """A model on a host, with ways to break it."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.commit(COMMIT)

    def commit(
        self, commit: str, revision: str = "main", change: Callable[[dict[str, Any]], Any] = id
    ) -> None:
        siblings = []
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name):
            content = path.read_bytes()
            self.host.files[f"/{ID}/resolve/{commit}/{path.name}"] = content
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": path.name, "size": len(content), "blobId": blob}
            if path.suffix in (".safetensors", ".onnx"):
                entry["lfs"] = {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "pointerSize": 134,
                }
            siblings.append(entry)
        values = {"id": ID, "sha": commit, "siblings": siblings}
        change(values)
        for name in (revision, commit):
            self.host.files[API.format(name)] = json.dumps(values).encode()

    def path(self, name: str) -> str:
        return f"/{ID}/resolve/{COMMIT}/{name}"


@pytest.fixture
def hub(serve: Callable[[], Host], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    host = serve()
    monkeypatch.setattr("segmae.fetch.WAITS", (0.01, 0.01))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", host.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return Hub(host, publish(small_model, tmp_path / "published", licence="apache-2.0"))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_model_is_fetched_once_and_predicts_the_same(hub: Hub, small_model: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    found = from_pretrained(ID, progress=lambda *values: told.append(values))
    assert found == tmp_path / "cache" / "segmae" / "models" / "anna--lesions-1" / COMMIT
    assert names(found) == ["README.md", "config.json", "model.onnx", "model.safetensors"]
    assert told[-1][0] == told[-1][1] == sum(path.stat().st_size for path in found.iterdir())
    image = draw_lesion(seed=1, size=(90, 70))[0]
    one, other = segmae.load(found, threads=1)(image), segmae.load(small_model, threads=1)(image)
    assert np.array_equal(one.probability, other.probability)
    asked = len(hub.host.log)
    assert from_pretrained(ID) == from_pretrained(f"{ID}@main") == from_pretrained(ID, COMMIT) == found
    assert len(hub.host.log) == asked  # the cache answers
    assert from_pretrained(small_model) == small_model  # and a folder before it


def test_a_copy_that_lost_a_file_is_fetched_anew(hub: Hub) -> None:
    folder = from_pretrained(ID)
    there = names(folder)
    (folder / "config.json").unlink()
    assert from_pretrained(ID) == folder and names(folder) == there


def test_a_dropped_download_goes_on_where_it_stopped(hub: Hub) -> None:
    weights = hub.path("model.safetensors")
    half = len(hub.host.files[weights]) // 2
    hub.host.drops = [
        *[10**9] * 4,
        half,
        *[0] * 20,
    ]  # the listing, the card, config.json and model.onnx come whole
    with pytest.raises(DataError, match="the same command again goes on"):
        from_pretrained(ID)
    hub.host.drops = []
    found = from_pretrained(ID)
    assert hub.host.gets("model.safetensors")[-1] == f"bytes={half}-"
    assert (found / "model.safetensors").read_bytes() == hub.host.files[weights]
    assert len(hub.host.gets("model.onnx")) == 1  # what was whole is not fetched again
    assert names(found.parent) == [".lock", *sorted(f"{COMMIT}/{name}" for name in names(found)), "refs.json"]


def test_what_the_cache_holds_stays_what_the_host_has(hub: Hub, tmp_path: Path) -> None:
    """Calibrated or exported in place, it would be another model for everybody who loads it by name."""
    folder, data = from_pretrained(ID), write_dataset(tmp_path / "data", 50, seed=1)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(CheckpointError, match=r"belongs to the cache of fetched models.*Copy the folder"):
        calibrate(folder, data, threads=1)
    for model, out in ((folder, None), (folder / "model.safetensors", None), (folder, folder / "model.onnx")):
        with pytest.raises(ConfigError, match=r"belongs to the cache of fetched models.*--out FOLDER"):
            export_model(model, out=out)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    copy = shutil.copytree(folder, tmp_path / "mine")
    assert export_model(copy).path == copy / "model.onnx"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_refused_and_not_kept(hub: Hub, name: str) -> None:
    content = bytearray(hub.host.files[hub.path(name)])
    content[len(content) // 2] ^= 1
    good, hub.host.files[hub.path(name)] = hub.host.files[hub.path(name)], bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: its checksum is"):
        from_pretrained(ID)
    with pytest.raises(CheckpointError):
        from_pretrained(ID, offline=True)
    hub.host.files[hub.path(name)] = good
    assert (from_pretrained(ID) / name).read_bytes() == good


def test_a_file_of_another_size_is_refused_before_it_is_fetched(hub: Hub) -> None:
    hub.host.files[hub.path("model.onnx")] += bytes(10)
    with pytest.raises(CheckpointError, match=r"model\.onnx: has \d+ bytes, the host lists \d+"):
        from_pretrained(ID)
    assert not hub.host.gets("model.onnx")


def test_offline_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="offline mode"):
        from_pretrained(ID)
    assert not hub.host.log
    found = from_pretrained(ID, offline=False)
    asked = len(hub.host.log)
    assert from_pretrained(ID) == found
    assert len(hub.host.log) == asked


def test_a_revision_is_pinned_until_an_update_is_asked_for(hub: Hub) -> None:
    first = from_pretrained(ID)
    save_threshold(hub.folder, 0.4, {})
    later = COMMIT[::-1]
    hub.commit(later)
    assert from_pretrained(ID) == first
    second = from_pretrained(ID, update=True)
    assert second.name == later
    assert read_info(second).threshold == 0.4
    assert from_pretrained(ID) == second
    assert from_pretrained(ID, COMMIT) == first
    hub.commit(COMMIT, "release/v1.0")
    hub.host.files[API.format("release%2Fv1.0")] = hub.host.files.pop(API.format("release/v1.0"))
    assert from_pretrained(f"{ID}@release/v1.0", update=True).name == COMMIT


def test_another_hosts_branch_of_the_same_name_is_another(
    hub: Hub, serve: Callable[[], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = from_pretrained(ID)
    save_threshold(hub.folder, 0.25, {})
    other, commit = Hub(serve(), hub.folder), "f" * 40
    other.commit(commit)
    found = from_pretrained(ID, endpoint=other.host.url)
    assert found.name == commit and read_info(found).threshold == 0.25
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert from_pretrained(ID) == first and from_pretrained(ID, endpoint=other.host.url) == found
    with pytest.raises(CheckpointError, match=r"revision main of http://absent is not in the cache"):
        from_pretrained(ID, endpoint="http://absent")


def test_what_is_not_there_is_told(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"no such model or revision 'v9'.*HTTP 404"):
        from_pretrained(ID, "v9")
    with pytest.raises(CheckpointError, match="no such model"):
        from_pretrained("anna/other")
    del hub.host.files[hub.path("model.onnx")]
    with pytest.raises(DataError, match=r"model\.onnx cannot be downloaded.*404"):
        from_pretrained(ID)
    # a--b/c would share a folder of the cache with a/b--c, and a-/b with a/-b; Hugging Face has no such names either
    for text in ("a--b/c", "a-/b", "a/-b", "lesions", "./anna/x", "anna/../x", "/anna/x", "a/b/c"):
        with pytest.raises(CheckpointError, match="no model here") as refused:
            from_pretrained(text)
        assert "--" not in text or "segmae fetch" not in str(refused.value), "which has just said no"
    with pytest.raises(CheckpointError, match="`segmae fetch anna/lesions-1` looks for it"):
        segmae.load(ID)
    with pytest.raises(ConfigError, match="revision"):
        from_pretrained(ID, "../../x")
    with pytest.raises(ConfigError, match="endpoint"):
        from_pretrained(ID, endpoint="file:///etc")


@pytest.mark.parametrize(
    "hostile", ["../../evil.py", "/etc/passwd", "model.pt", "pytorch_model.bin", "a/config.json", "con"]
)
def test_other_files_are_never_asked_for(hub: Hub, hostile: str) -> None:
    entry = {"rfilename": hostile, "size": 4, "blobId": COMMIT}
    hub.commit(COMMIT, change=lambda values: values["siblings"].append(entry))
    hub.host.files[f"/{ID}/resolve/{COMMIT}/{hostile}"] = b"evil"
    found = from_pretrained(ID)
    assert set(names(found)) <= set(WANTED)
    asked = {path for _, path, _ in hub.host.log if "/resolve/" in path}
    assert asked == {hub.path(name) for name in names(found)}


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(sha="../../x"),
        lambda v: v.update(siblings=None),
        lambda v: v["siblings"][0].update(size=10**12),
        lambda v: v["siblings"][0].update(size="many"),
        lambda v: v["siblings"][0].pop("blobId"),
        lambda v: v["siblings"][0].update(blobId="0"),
        lambda v: v["siblings"].append({}),
        lambda v: v["siblings"].clear(),
        lambda v: v.update(siblings=[e for e in v["siblings"] if e["rfilename"] != "config.json"]),
    ],
)
def test_a_listing_that_is_none_is_refused(hub: Hub, change: Callable[[dict[str, Any]], Any]) -> None:
    hub.commit(COMMIT, change=change)
    with pytest.raises(CheckpointError):
        from_pretrained(ID)
    assert not [path for _, path, _ in hub.host.log if "/resolve/" in path]


def test_weights_that_the_disk_has_no_room_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="are free"):
        from_pretrained(ID)


def test_a_published_folder_says_what_it_is_and_names_nobody(small_model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    model = shutil.copytree(small_model, tmp_path / "run" / "best")
    values = json.loads((model / "config.json").read_text())
    values["provenance"] = {
        "train_ids": ["Mrs-Smith-1"], "val_ids": ["Mrs-Smith-3"], "task": "supervised", "seed": 0, "epochs": 3, "seconds": 60, "machine": "x",
        "trained_on": {"dataset": "mine", "split": "/home/anna/split.csv", "images": 12},
        "started_from": {"train_ids": ["Mr-Jones-2"], "val_ids": ["Mr-Jones-4"]},
        "config": {"name": "mine", "output": "../Jones/runs", "model": {"start": "~/Jones/a"}, "distillation": {"teachers": ["Jones/b"]},
                   "data": {"root": "Mrs-Smith/photos", "cache": "Smith/cache", "split": "Smith/split.csv"}},
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(values))
    write_dataset(tmp_path / "data", 6, seed=2)
    summary, _ = evaluate_checkpoint(
        model, tmp_path / "data", threads=1, out=tmp_path / "run" / "evaluation" / "a"
    )
    again, _ = evaluate_checkpoint(
        model,
        tmp_path / "data",
        threads=1,
        views=2,
        out=tmp_path / "run" / "evaluation" / "b",
        keep_largest=True,
    )
    met = "the model was trained on 6 of these 6 images"  # as by --allow-leaks
    again["warnings"] = [met, "1 masks, e.g. Mrs-Smith-4_mask.png, belong to no image"]
    (tmp_path / "run" / "evaluation" / "b" / "summary.json").write_text(json.dumps(again))
    found = publish(model, tmp_path / "hub" / "lesions", licence="cc-by-4.0")
    for path in found.iterdir():
        content = path.read_bytes()
        assert b"Smith" not in content and b"Jones" not in content and b"/home/anna" not in content, path
    settings = json.loads((found / "config.json").read_text())["provenance"]["config"]
    assert settings["model"]["start"] == "a" and settings["data"]["split"] == "split.csv"
    text = (found / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "cc-by-4.0"
    assert card["pipeline_tag"] == "image-segmentation"
    assert "datasets" not in card, "a folder of one's own is no dataset that anybody can look up"
    result, by_views = card["model-index"][0]["results"]
    assert by_views["dataset"]["name"] == f"{result['dataset']['name']}, mean of 2 views, largest piece"
    assert (
        "mean of 2 views" in by_views["metrics"][0]["name"]
        and body.count("images, mean of 2 views, largest piece)") == 1
    )
    assert met not in result["metrics"][0]["name"] and by_views["metrics"][0]["name"].endswith(f"; {met}")
    assert body.count(f"; {met}\n") == 1
    mean = summary["per_image_mean"]["dice@original"]
    assert result["metrics"][0]["value"] == mean["mean"]
    assert f"{mean['low']:.4f} to {mean['high']:.4f}" in result["metrics"][0]["name"]
    for heading in ("## Use", "## Training", "## Figures", "## Limits", "not a medical device"):
        assert heading in body
    assert segmae.load(found, threads=1).info.provenance["figures"]
    with pytest.raises(ConfigError, match="not empty"):
        publish(model, found)
    summary["model"]["weights_sha256"] = {"model.safetensors": "0"}
    (tmp_path / "other.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="figures of other weights"):
        publish(model, tmp_path / "b", results=[tmp_path / "other.json"])
    with pytest.raises(ConfigError, match="is no summary"):
        publish(model, tmp_path / "b", results=[model / "config.json"])


@pytest.mark.parametrize("change", ["threshold", "openvino"])
def test_figures_that_the_published_files_do_not_give_are_not_on_the_card(
    small_model: Path, tmp_path: Path, change: str
) -> None:
    model = tmp_path / "run" / "best"  # of ONNX alone its weights do not change with its threshold
    shutil.copytree(small_model, model, ignore=shutil.ignore_patterns("*.safetensors"))
    if change == "openvino":
        (model / "model.xml").write_text("<net/>")
    place = tmp_path / "run" / "evaluation" / "a"
    data = write_dataset(tmp_path / "data", 3, seed=2)
    summary, _ = evaluate_checkpoint(model, data, threads=1, out=place, engine="onnxruntime")
    before = publish(model, tmp_path / "before")
    assert "dice@original" in (before / "README.md").read_text()
    if change == "threshold":
        save_threshold(model, 0.3, {})
    else:
        summary["engine"]["name"] = "openvino"
        (place / "summary.json").write_text(json.dumps(summary))
    after = publish(model, tmp_path / "after")
    assert "dice@original" not in (after / "README.md").read_text()
    with pytest.raises(ConfigError, match="or of another threshold"):
        publish(model, tmp_path / "b", results=[place / "summary.json"])


def test_an_export_for_openvino_alone_is_not_published(small_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "int8"
    model.mkdir()
    shutil.copy(small_model / "config.json", model)
    (model / "model.xml").write_text("<net/>")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor model\.onnx"):
        publish(model, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["segmae", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.mark.skipif(os.name == "nt", reason="users without a name are of Unix")
def test_a_user_without_a_home_is_told_which_variable_to_set(
    hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number of which /etc/passwd knows nothing."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    code, out, err = run("fetch", ID)
    assert (code, out) == (2, "")
    assert err.startswith("error: no place for the cache") and "Set XDG_CACHE_HOME to a folder" in err


def test_the_command_line_publishes_and_fetches(hub: Hub, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("fetch", ID)
    assert (code, out.strip()) == (0, str(from_pretrained(ID, offline=True)))
    code, out, err = run("publish", out.strip(), str(tmp_path / "again"))
    assert code == 0
    assert "licence: unknown" in err
    code, _, err = run("fetch", "anna/none")
    assert code == 2
    assert err.startswith("error: anna/none: no such model")
