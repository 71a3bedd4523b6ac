"""Batches of photographs: accepted once they are on disk, done in the background, finished after a restart.

    STATE/jobs.sqlite        what was accepted and what is done, see `segmae.serve.store`
    STATE/jobs/ID/in/0001    an upload, until its job is finished
    STATE/jobs/ID/out/       what its images gave
    STATE/jobs/ID/results.zip

No name from a request reaches the file system: files are called by their number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile

from segmae import __version__
from segmae.collection import write_collections
from segmae.data.images import read_image
from segmae.errors import CheckpointError, OutputError
from segmae.files import atomic_path, atomic_write, make_folder
from segmae.outputs import Wanted, summary_row, wanted, write_files
from segmae.rows import RESULTS, json_lines
from segmae.serve.guard import line, log_error
from segmae.serve.problems import Problem
from segmae.serve.settings import Settings
from segmae.serve.store import UNFINISHED, Job, Store
from segmae.serve.uploads import Options
from segmae.serve.work import Worker, kind_of, open_dicom, refused

Noted = TypeVar("Noted")

log = logging.getLogger("segmae.serve")
DISK_ERRORS = (OSError, OutputError, sqlite3.OperationalError)  # what a full disk raises
SWEEP_S = 60.0  # between looks for what has expired
PAUSE_S = 1.0  # before something that failed is tried again
TRIES = 5  # of an image that the process dies or fails at
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # of entries in the zip: the same results give the same bytes


class Jobs:
    """The jobs of a state folder, which `Service` holds so that no other process uses it.

    Args:
        worker: does the images, beside those of requests.
    """

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings, self.worker = settings, worker
        self.folder = make_folder(settings.state / "jobs")
        self.folder.chmod(0o700)
        self.store = Store(settings.state / "jobs.sqlite")
        known = set(self.store.ids())
        for path in self.folder.iterdir():  # of uploads not accepted, and of jobs that were cancelled
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
        self._forget_other_models()
        self._change = threading.Condition()
        self._claimed: set[tuple[str, int]] = set()
        self._coming: list[int] = []  # bytes of each job that is being put on disk
        self._closed, self._swept = False, 0.0
        self._threads = [
            threading.Thread(target=self._run, name=f"job-{n}", daemon=True) for n in range(settings.workers)
        ]
        for thread in self._threads:
            thread.start()

    def _forget_other_models(self) -> None:
        """What an earlier server, with another model, had done of jobs that go on is done again: the results of a job are of one model."""
        for id in dict.fromkeys(id for id, _, _ in self.store.waiting(-1)):
            job = self.store.job(id)
            assert job is not None
            digest = self.worker.predictors[int(job.options["views"])].digest
            for row in self.store.rows(id):
                if row.get("weights", digest) != digest:
                    self.store.wait_again(id, int(row["name"]))
                    for path in (self.folder / id / "out").glob(f"{row['name']}[_.]*"):
                        path.unlink()

    # -- for the routes

    async def accept(self, files: Sequence[UploadFile], options: Options, caller: str) -> dict[str, Any]:
        """Put uploads on disk and promise to do them; the job's status."""
        return await asyncio.to_thread(self._accept, files, options, caller)

    async def status(self, id: str, caller: str) -> dict[str, Any]:
        """Raises Problem: 404, the caller has no such job."""
        return _status(await asyncio.to_thread(self._job, id, caller))

    async def results(self, id: str, caller: str) -> Path:
        """The zip of a finished job. Raises Problem: 404; 409 before it is finished."""
        job = await asyncio.to_thread(self._job, id, caller)
        if job.state in UNFINISHED:
            raise Problem(409, f"the job is not finished: {job.done + job.failed} of {job.total} are done")
        path = self.folder / job.id / "results.zip"
        if job.state == "cancelled" or not path.is_file():
            raise Problem(404, "the job was cancelled: it has no results")
        return path

    async def cancel(self, id: str, caller: str) -> dict[str, Any]:
        """Stop a job, or forget the results of a finished one; its files are removed. Raises Problem: 404."""
        return _status(await asyncio.to_thread(self._cancel, id, caller))

    def close(self) -> None:
        """Finish the images under way. The others wait on disk for the next start."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        self.store.close()

    def _accept(self, files: Sequence[UploadFile], options: Options, caller: str) -> dict[str, Any]:
        size = sum(file.size or 0 for file in files)
        with self._change:
            unfinished, stored = self.store.load()
            if unfinished + len(self._coming) >= self.settings.jobs_unfinished:
                raise Problem(429, "too many jobs wait. Send it again later", 30, "too_many_jobs")
            if stored + sum(self._coming) + size > self.settings.store_bytes:
                full = "there is no room for more jobs. Fetch results and DELETE their jobs, or send it again later"
                raise Problem(429, full, 30, "too_many_jobs")
            self._coming.append(size)
        id, now = secrets.token_hex(16), time.time()
        folder = self.folder / id / "in"
        try:
            make_folder(folder)
            for number, file in enumerate(files, 1):
                with atomic_path(folder / f"{number:04d}") as temporary, temporary.open("wb") as target:
                    shutil.copyfileobj(file.file, target)
            for path in (folder, folder.parent, self.folder):
                _flush(path)
            want = options.want
            asked = dict(
                formats=sorted(want.formats), overlay_style=want.overlay_style, keep_largest=want.keep_largest,
                fill_holes=want.fill_holes, measure=want.measure, mm_per_pixel=want.mm_per_pixel, views=options.views,
            )  # fmt: skip
            job = Job(id, caller, "queued", asked, len(files), size, now, now + self._kept_s, 0, 0)
            self.store.add(job, [_said(file.filename, number) for number, file in enumerate(files, 1)])
        except BaseException as error:
            shutil.rmtree(folder.parent, ignore_errors=True)
            if not isinstance(error, DISK_ERRORS):
                raise
            log_error(f"job {id}", error)
            raise Problem(
                503, "the job does not fit on the service's disk. Send it again later", 30
            ) from error
        finally:
            with self._change:
                self._coming.remove(size)
                self._change.notify_all()
        return _status(job)

    def _job(self, id: str, caller: str) -> Job:
        job = self.store.job(id) if re.fullmatch("[0-9a-f]{32}", id) else None
        if job is None or job.caller != caller:
            raise Problem(404, "there is no such job, or it has expired")
        return job

    def _cancel(self, id: str, caller: str) -> Job:
        job = self._job(id, caller)
        try:
            self.store.set_state(job.id, "cancelled")
        except sqlite3.OperationalError:  # a full disk: the job's own files make room for the note
            shutil.rmtree(self.folder / job.id, ignore_errors=True)
            self.store.set_state(job.id, "cancelled")
        shutil.rmtree(self.folder / job.id, ignore_errors=True)
        return self._job(id, caller)

    @property
    def _kept_s(self) -> float:
        return 3600 * self.settings.keep_hours

    # -- the threads

    def _run(self) -> None:
        while True:
            try:
                claim = self._claim()
            except sqlite3.Error as error:  # a full disk, on which nothing can be swept away
                log_error("-", error)
                time.sleep(PAUSE_S)
                continue
            if claim is None:
                return
            id, number, file = claim
            try:
                if number:
                    self._do(id, number, file)
                else:
                    self._finish(id)
            except Exception as error:  # tried again, so that nothing accepted is lost
                log_error(f"job {id}", error)
                time.sleep(PAUSE_S)
            finally:
                with self._change:
                    self._claimed.discard((id, number))
                    self._change.notify_all()

    def _claim(self) -> tuple[str, int, str] | None:
        """An image to do, or a job to finish (number 0); None at the end."""
        with self._change:
            while not self._closed:
                self._sweep()
                for id in self.store.complete():
                    if (id, 0) not in self._claimed:
                        self._claimed.add((id, 0))
                        return id, 0, ""
                for id, number, file in self.store.waiting(len(self._claimed) + 1):
                    if (id, number) not in self._claimed:
                        self._claimed.add((id, number))
                        return id, number, file
                self._change.wait(SWEEP_S)
            return None

    def _do(self, id: str, number: int, file: str) -> None:
        job = self.store.job(id)
        if job is None or job.state not in UNFINISHED:
            return
        name, row, state = f"{number:04d}", None, "failed"
        try:
            if self.store.begin(id, number) > TRIES:
                raise Problem(422, "the service ended or failed each time it was at this image")
            folder = self.folder / id
            row, state = self._segment(folder / "in" / name, folder / "out", name, job.options), "done"
        except Problem as problem:
            row = {"error": problem.message}
        except CheckpointError as error:  # what the network gives for it is no number
            row = {"error": str(error)}
        except (OSError, OutputError) as error:  # a full disk: tried again, so that nothing accepted is lost
            if self._is_open(id):
                self._noted(lambda: self.store.not_tried(id, number))
                log_error(f"job {id}", error)
                time.sleep(PAUSE_S)
        found = {"name": name, "file": file, **(row or {})}
        done = row is not None and self._noted(
            lambda: self.store.finish_image(id, number, state, found, time.time())
        )
        if done:
            self.worker.metrics.job_images.labels(state).inc()
        elif not self._is_open(id):  # cancelled meanwhile
            shutil.rmtree(self.folder / id, ignore_errors=True)

    def _noted(self, write: Callable[[], Noted]) -> Noted:
        """Write into the database, again and again where the disk is full: else that would count as a try of the image."""
        while True:
            try:
                return write()
            except sqlite3.OperationalError as error:
                if self._closed:
                    raise
                log_error("-", error)
                time.sleep(PAUSE_S)

    def _is_open(self, id: str) -> bool:
        job = self.store.job(id)
        return job is not None and job.state in UNFINISHED

    def _segment(self, path: Path, out: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Write one image's files; what its row says."""
        views, want = int(options["views"]), _wanted(options)
        worker = self.worker
        prepared = worker.prepare(path.read_bytes())
        output = worker.engine.submit(prepared.image, views, job=True).result()
        with worker.room.taken(prepared.pixels), refused():
            result = worker.result(prepared, output, views).cleaned(want.keep_largest, want.fill_holes)
            make_folder(out)
            want = replace(want, mm_per_pixel=prepared.scale(want.mm_per_pixel))
            files = write_files(out, name, result, lambda: read_image(prepared.source).pixels, want)
        return dict(
            width=prepared.photo.width, height=prepared.photo.height, orientation=prepared.photo.orientation,
            **({"frames": prepared.frames} if prepared.frames > 1 else {}),
            **summary_row(result, views, want), **files, weights=worker.predictors[views].digest, segmae=__version__,
        )  # fmt: skip

    def _finish(self, id: str) -> None:
        """Write what describes all images, then the zip, then say so; a process killed in between does it again."""
        job = self.store.job(id)
        if job is None or job.state not in UNFINISHED:
            return
        folder = self.folder / id
        out, rows = make_folder(folder / "out"), self.store.rows(id)
        atomic_write(out / RESULTS, json_lines(rows))

        def photograph(row: dict[str, Any], at_least: int) -> NDArray[np.uint8]:
            data = (folder / "in" / row["name"]).read_bytes()
            dicom = kind_of(data) == "DICOM"
            return open_dicom(data).frame(1)[0] if dicom else read_image(data, at_least=at_least).pixels

        write_collections(out, rows, _wanted(job.options).formats, photograph)
        with atomic_path(folder / "results.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for path in sorted(path for path in out.rglob("*") if not path.name.startswith(".")):
                if path.is_file():
                    entry = zipfile.ZipInfo(path.relative_to(out).as_posix(), FIXED_DATE)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    with path.open("rb") as source, archive.open(entry, "w") as target:
                        shutil.copyfileobj(source, target)
        state = "failed" if job.failed == job.total else "done"
        size = (folder / "results.zip").stat().st_size
        if self.store.finish(id, state, time.time() + self._kept_s, size):
            log.info(line("job", job=id, state=state, total=job.total, failed=job.failed))
            shutil.rmtree(folder / "in", ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what has expired."""
        now = time.time()
        if now - self._swept < SWEEP_S:
            return
        self._swept = now
        for id in self.store.expired(now):
            shutil.rmtree(self.folder / id, ignore_errors=True)
            self.store.remove(id)


def _wanted(options: dict[str, Any]) -> Wanted:
    keys = ("formats", "overlay_style", "keep_largest", "fill_holes", "measure", "mm_per_pixel")
    return wanted(*(options[key] for key in keys))


def _status(job: Job) -> dict[str, Any]:
    finished = job.state in ("done", "failed")
    return {
        "id": job.id, "state": job.state, "total": job.total, "done": job.done, "failed": job.failed,
        "created": _date(job.created), "expires": _date(job.expires), "status_url": f"/v1/jobs/{job.id}",
        "results_url": f"/v1/jobs/{job.id}/results" if finished else None,
    }  # fmt: skip


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _said(filename: str | None, number: int) -> str:
    """The name that the client gave a file, as results.jsonl repeats it: its last part on one line, as long as a file's may be."""
    name = re.split(r"[/\\]", filename or "")[-1]
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp"))[:255]
    return name if name.strip(".") else f"{number:04d}"  # `..` is no file


def _flush(folder: Path) -> None:
    """Names of new files in a folder are on disk only once the folder is."""
    with contextlib.suppress(OSError):  # not on every system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
