"""Batches: what they give, what survives, what is refused, and what is removed again."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import sqlite3
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import Gate, Running, Start, drawn, opened, until

import segmae
from segmae.checkpoint import resolve, save_threshold
from segmae.errors import OutputError
from segmae.serve import jobs
from segmae.serve.store import Job, Store


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(set(names)) == len(names)
        return {name: archive.read(name) for name in names}


@pytest.mark.skipif(sys.platform == "win32", reason="rights are those of the folder around it")
def test_names_of_uploads_are_for_the_owner_of_the_state_alone(running: Running) -> None:
    running.client.wait(running.client.submit([drawn()]))
    state = running.service.settings.state
    files = list(state.glob("jobs*"))
    assert {"jobs", "jobs.sqlite", "jobs.sqlite-wal"} <= {path.name for path in files}
    for path in files:
        assert not path.stat().st_mode & 0o077, path.name


def rows_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["results.jsonl"].splitlines()]


def test_a_job_gives_what_predict_writes(
    running: Running, predictor: segmae.Predictor, tmp_path: Path
) -> None:
    images = []
    for seed in (1, 2):
        images.append(tmp_path / f"lesion {seed}.png")
        images[-1].write_bytes(drawn(seed))
    (tmp_path / "broken.png").write_bytes(drawn()[:300])
    client = running.client
    job = client.submit(
        [*images, tmp_path / "broken.png"], formats="mask,csv,coco,html,probability", mm_per_pixel=0.1
    )
    assert (job["state"], job["total"], job["results_url"]) == ("queued", 3, None)
    status = client.wait(job)
    assert (status["state"], status["done"], status["failed"]) == ("done", 2, 1)
    files = unpacked(client.results(job))
    rows = rows_of(files)
    assert [row["file"] for row in rows] == ["lesion 1.png", "lesion 2.png", "broken.png"]
    assert "damaged" in rows[2]["error"]
    for row, image in zip(rows, images, strict=False):
        result = predictor(image)
        assert (opened(files[row["mask"]]) == result.mask * 255).all()
        assert (opened(files[row["probability"]]) == np.rint(result.probability * 65535)).all()
        assert row["measurements"]["area_px"] == int(result.mask.sum())
        assert row["measurements"]["area_mm2"] == pytest.approx(result.mask.sum() * 0.01)
        at_once = client.segment(image, include="measurements", mm_per_pixel=0.1)
        assert row["measurements"] == at_once["measurements"]
        assert row["weights"] == predictor.digest
    assert len(list(csv.reader(io.StringIO(files["results.csv"].decode())))) == 4
    assert len(json.loads(files["coco.json"])["images"]) == 2
    assert b"lesion" in files["gallery.html"]


def test_a_job_of_broken_images_alone_failed(running: Running) -> None:
    status = running.client.wait(running.client.submit([b"no image", drawn()[:300]]))
    assert (status["state"], status["failed"]) == ("failed", 2)
    rows = rows_of(unpacked(running.client.results(status)))
    assert all("error" in row for row in rows)


def test_names_of_files_go_nowhere_but_into_the_results(running: Running) -> None:
    body = (b'--x\r\nContent-Disposition: form-data; name="images"; filename="../../../evil\\..\\up.png"\r\n\r\n' + drawn()
            + b"\r\n--x--\r\n")  # fmt: skip
    for sent, told in ((body, "up.png"), (body.replace(b"up.png", b".."), "0001")):
        job = running.ask("POST", "/v1/jobs", sent, Content_Type="multipart/form-data; boundary=x").json
        running.client.wait(job)
        files = unpacked(running.client.results(job))
        assert sorted(files) == ["0001_mask.png", "results.jsonl"]
        assert rows_of(files)[0]["file"] == told


@pytest.mark.parametrize(
    "name", ["Screenshot 9.41.00\u202fAM.png", "می\u200cخواهم.png", "a\xa0b.png", 251 * "n" + ".png"]
)
def test_a_row_names_its_file_as_it_was_uploaded(running: Running, name: str) -> None:
    body = f'--x\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
    body += drawn() + b"\r\n--x--\r\n"
    job = running.ask("POST", "/v1/jobs", body, Content_Type="multipart/form-data; boundary=x").json
    running.client.wait(job)
    (row,) = rows_of(unpacked(running.client.results(job)))
    assert row["file"] == name


def test_a_page_shows_what_was_uploaded_and_no_file_of_the_server(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (200, 150), "lime").save("x.png")
    (tmp_path / "up").mkdir()
    sent = tmp_path / "up" / "x.png"
    Image.new("RGB", (200, 150), "red").save(sent)
    files = unpacked(running.client.results(running.client.wait(running.client.submit(sent, formats="html"))))
    (shown,) = re.findall(b'data:image/jpeg;base64,([^"]+)', files["gallery.html"])
    assert opened(base64.b64decode(shown))[0, 0].tolist() == pytest.approx([255, 0, 0], abs=9)


def test_unknown_jobs_and_unfinished_results_are_told_apart(start: Start) -> None:
    with start() as running:
        for id in ("0" * 32, "x", "%2e%2e"):
            for method, path in (("GET", ""), ("GET", "/results"), ("DELETE", "")):
                assert running.ask(method, f"/v1/jobs/{id}{path}").status == 404
        gate = Gate(running.service)
        job = running.client.submit([drawn()])
        gate.wait_for_batch()
        assert running.client.job(job)["state"] == "running"
        answer = running.ask("GET", f"/v1/jobs/{job['id']}/results")
        assert (answer.status, answer.code) == (409, "not_finished")
        gate.close()
        assert running.client.wait(job)["state"] == "done"


def test_a_cancelled_job_stops_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    with start(workers=1, batch=1) as running:
        gate = Gate(running.service)
        job = running.client.submit([drawn(n) for n in range(5)])
        gate.wait_for_batch()
        assert running.client.cancel(job)["state"] == "cancelled"
        gate.open.set()
        until(lambda: not running.service.jobs._claimed)
        assert gate.batches == [1], "four images were not computed"
        assert running.client.job(job)["state"] == "cancelled"
        assert running.ask("GET", f"/v1/jobs/{job['id']}/results").status == 404
        other = running.client.submit([drawn()])
        assert running.client.wait(other)["state"] == "done"
        until(lambda: [path.name for path in (tmp_path / "state" / "jobs").iterdir()] == [other["id"]])


def test_jobs_go_on_after_a_full_disk_let_nothing_be_swept_away(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmae.serve.jobs.SWEEP_S", 0.0)
    monkeypatch.setattr("segmae.serve.jobs.PAUSE_S", 0.01)
    failed = []

    def full(store: Store, now: float) -> list[str]:
        if len(failed) < 2:  # as often as there are threads
            failed.append(now)
            raise sqlite3.OperationalError("database or disk is full")
        return []

    with start(workers=2) as running:
        running.client.wait(running.client.submit([drawn()]))
        monkeypatch.setattr(Store, "expired", full)
        assert running.client.wait(running.client.submit([drawn(1)]), timeout=30)["state"] == "done"
        assert len(failed) == 2


def test_uploads_go_when_a_job_is_finished_and_results_when_it_expires(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("segmae.serve.jobs.SWEEP_S", 0.05)
    with start(keep_hours=1) as running:
        job = running.client.submit([drawn()])
        running.client.wait(job)
        folder = tmp_path / "state" / "jobs" / job["id"]
        until(lambda: sorted(path.name for path in folder.iterdir()) == ["results.zip"])
        running.service.jobs.store._write("UPDATE jobs SET expires=?", time.time() - 1)
        until(lambda: running.ask("GET", f"/v1/jobs/{job['id']}").status == 404)
        assert not folder.exists()


def test_too_many_jobs_answer_429(start: Start) -> None:
    with start(jobs_unfinished=1) as running:
        gate = Gate(running.service)
        running.client.submit([drawn()])
        answer = running.post("/v1/jobs", {"images": [drawn()]})
        assert (answer.status, answer.code) == (429, "too_many_jobs")
        gate.close()


def test_jobs_sent_at_once_count_before_they_are_on_disk(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    flush = jobs._flush
    monkeypatch.setattr(jobs, "_flush", lambda folder: (slow.wait(10), flush(folder)))
    with start(jobs_unfinished=1) as running, ThreadPoolExecutor(1) as pool:
        gate = Gate(running.service)
        first = pool.submit(running.post, "/v1/jobs", {"images": [drawn()]})
        until(lambda: bool(running.service.jobs._coming))
        assert running.post("/v1/jobs", {"images": [drawn()]}).code == "too_many_jobs"
        slow.set()
        assert first.result().status == 202
        gate.close()


def test_jobs_on_disk_are_bounded(start: Start) -> None:
    with start(store_bytes=1000) as running:
        assert running.post("/v1/jobs", {"images": [drawn()]}).status == 429


def test_results_that_are_kept_count_too(start: Start, tmp_path: Path) -> None:
    with start(store_bytes=60_000) as running:
        client = running.client
        job = client.wait(client.submit([drawn()], formats="mask,overlay,probability"))
        size = len(client.results(job))
        assert running.service.jobs.store.load() == (0, size)
        assert len(drawn()) < 60_000 < size + len(drawn()), "room for one of them alone"
        answer = running.post("/v1/jobs", {"images": [drawn()]})
        assert (answer.status, answer.code) == (429, "too_many_jobs")
        assert "DELETE" in answer.json["error"]["message"]
        client.cancel(job)
        assert running.service.jobs.store.load() == (0, 0)
        assert running.post("/v1/jobs", {"images": [drawn()]}).status == 202


def test_wrong_options_are_refused_before_anything_is_stored(running: Running) -> None:
    image = {"images": [drawn()]}
    assert running.post("/v1/jobs", image, formats="gif").status == 422
    assert running.post("/v1/jobs", image, views="2").status == 422
    assert running.post("/v1/jobs", {}).status in (415, 422)


def test_requests_and_jobs_share_the_network(start: Start) -> None:
    """A request is served while a job waits, and the job gets a place in its batch."""
    with start(batch=4, workers=2) as running:
        gate = Gate(running.service)
        job = running.client.submit([drawn(n) for n in range(6)])
        gate.wait_for_batch()
        gate.open.set()
        assert running.client.segment(drawn())["width"] == 200
        assert running.client.wait(job)["done"] == 6
        gate.close()


def test_a_job_that_goes_on_with_another_model_is_all_of_that_model(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, images = shutil.copytree(resolve("segmae-tiny"), tmp_path / "other"), [drawn(n) for n in range(3)]
    save_threshold(other, 0.9, {})
    waiting = Store.waiting
    monkeypatch.setattr(
        Store, "waiting", lambda store, limit: waiting(store, 9)[:-1]
    )  # all but the last image
    with start() as running:
        job = running.client.submit([*images[:2], b"no image", images[2]])
        until(lambda: running.client.job(job)["done"] == 2 and running.client.job(job)["failed"] == 1)
    monkeypatch.setattr(Store, "waiting", waiting)
    predictor = segmae.load(other, threads=1)
    with start(model=str(other)) as running:
        assert running.client.wait(job)["done"] == 3
        files = unpacked(running.client.results(job))
    rows = [row for row in rows_of(files) if "error" not in row]
    assert [row["name"] for row in rows] == ["0001", "0002", "0004"]
    for row, image in zip(rows, images, strict=True):
        assert row["weights"] == predictor.digest != segmae.load().digest
        assert (opened(files[row["mask"]]) == predictor(image).mask * 255).all()


def test_an_image_counts_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    store.add(Job("a" * 32, "", "queued", {}, 2, 10, 0.0, 9.0, 0, 0), ["x", "y"])
    assert store.finish_image("a" * 32, 1, "done", {"name": "1"}, 1.0)
    assert not store.finish_image("a" * 32, 1, "done", {"name": "again"}, 2.0)
    assert store.rows("a" * 32) == [{"name": "1"}]
    assert store.waiting(9) == [("a" * 32, 2, "y")]
    assert store.complete() == []
    assert store.finish_image("a" * 32, 2, "failed", {"name": "2"}, 2.0)
    assert store.complete() == ["a" * 32]
    assert store.finish("a" * 32, "done", 9.0, 5) and not store.finish("a" * 32, "done", 9.0, 5)
    store.close()


def test_an_image_at_which_the_process_always_dies_is_given_up(start: Start) -> None:
    """Else the server could never start again."""
    with start() as running:
        job = submit_aside(running, tries=5)
        assert running.client.wait(job)["state"] == "failed"
        assert "each time" in rows_of(unpacked(running.client.results(job)))[0]["error"]


def submit_aside(running: Running, tries: int) -> str:
    """A job as a process that was killed so many times at its image left it."""
    id, store = "ab" * 16, running.service.jobs.store
    options = dict(formats=["mask"], overlay_style="contour", keep_largest=False, fill_holes=False, measure=False,
                   mm_per_pixel=None, views=1)  # fmt: skip
    with running.service.jobs._change:  # the threads look for work once it is let go
        store.add(Job(id, "", "running", options, 1, 10, time.time(), time.time() + 100, 0, 0), ["x.png"])
        store._write("UPDATE images SET tries=? WHERE job=?", tries, id)
        running.service.jobs._change.notify_all()
    return id


def test_a_full_disk_is_waited_for(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    import segmae.serve.jobs as module

    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    write, failed = module.write_files, []

    def full(*values: Any) -> Any:
        if len(failed) < 2 * module.TRIES:
            failed.append(1)
            raise OutputError("the disk is full")
        return write(*values)

    monkeypatch.setattr(module, "write_files", full)
    with start() as running:
        status = running.client.wait(running.client.submit([drawn()]))
        assert (status["state"], len(failed)) == ("done", 2 * module.TRIES)


def full_disk(*values: Any) -> Any:
    raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("note", ["finish_image", "not_tried"])
def test_a_note_that_does_not_fit_on_the_disk_is_no_try_of_the_image(
    start: Start, monkeypatch: pytest.MonkeyPatch, note: str
) -> None:
    import segmae.serve.jobs as module

    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    write, noted, failed = module.write_files, getattr(Store, note), []

    def full(*values: Any) -> Any:
        if len(failed) < 2 * module.TRIES:
            failed.append(1)
            full_disk()
        return noted(*values)

    def no_room(*values: Any) -> Any:
        if len(failed) < 2 * module.TRIES:
            raise OutputError("the disk is full")
        return write(*values)

    monkeypatch.setattr(Store, note, full)
    if note == "not_tried":
        monkeypatch.setattr(module, "write_files", no_room)
    with start() as running:
        status = running.client.wait(running.client.submit([drawn()]))
        assert (status["state"], len(failed)) == ("done", 2 * module.TRIES)


def test_a_job_on_a_full_disk_is_refused_for_now_and_one_that_fills_it_can_be_deleted(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = tmp_path / "state" / "jobs"
    set_state = Store.set_state
    with start() as running:
        job = running.client.submit([drawn()])
        running.client.wait(job)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "add", full_disk)
            answer = running.post("/v1/jobs", {"images": [drawn()]})
            assert (answer.status, answer.code) == (503, "unavailable") and answer.headers["retry-after"]
            assert [path.name for path in jobs.iterdir()] == [job["id"]]
            patch.setattr(
                Store, "set_state", lambda *v: full_disk() if any(jobs.iterdir()) else set_state(*v)
            )
            assert running.client.cancel(job)["state"] == "cancelled"
            assert not any(jobs.iterdir())
