"""Jobs in SQLite: what was accepted, what is done. Every change is on disk when its call returns.

A photograph's row changes from waiting to done or failed once, after its files are on disk. A process killed in between leaves it
waiting: the next one does it again and writes the same files, so that none is lost and none counts twice. One that serves another model
lets those of jobs that go on wait again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, state TEXT NOT NULL, options TEXT NOT NULL, total INTEGER NOT NULL,
    bytes INTEGER NOT NULL, created REAL NOT NULL, expires REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS images (
    job TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, number INTEGER NOT NULL, file TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', tries INTEGER NOT NULL DEFAULT 0,
    row TEXT, finished REAL, PRIMARY KEY (job, number)
);
CREATE INDEX IF NOT EXISTS waiting ON images(state, job, number);
"""
UNFINISHED = ("queued", "running")


@dataclass(frozen=True)
class Job:
    """A row of `jobs` with the counts of its images.

    Attributes:
        state: queued, running, done, failed (not one image could be used) or cancelled.
        options: as the request gave them, for `Jobs`.
        bytes: of its uploads; once it is finished, of its results.
        created, expires: seconds since 1970.
    """

    id: str
    caller: str
    state: str
    options: dict[str, Any]
    total: int
    bytes: int
    created: float
    expires: float
    done: int
    failed: int


class Store:
    """The database; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        path.touch(0o600)  # before SQLite makes it, whose log and index beside it get the same rights
        path.chmod(0o600)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # on disk before the answer is sent, also if the power fails
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, job: Job, files: Sequence[str]) -> None:
        """Accept a job with its images, whole or not at all."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            values = (job.id, job.caller, job.state, json.dumps(job.options), job.total, job.bytes, job.created, job.expires)  # fmt: skip
            self._db.execute("INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?)", values)
            rows = [(job.id, number, file) for number, file in enumerate(files, 1)]
            self._db.executemany("INSERT INTO images (job, number, file) VALUES (?,?,?)", rows)

    def job(self, id: str) -> Job | None:
        found = self._rows(
            "SELECT id, caller, state, options, total, bytes, created, expires,"
            " (SELECT count(*) FROM images WHERE job=jobs.id AND state='done'),"
            " (SELECT count(*) FROM images WHERE job=jobs.id AND state='failed') FROM jobs WHERE id=?",
            id,
        )
        if not found:
            return None
        _, caller, state, options, total, size, created, expires, done, failed = found[0]
        return Job(id, caller, state, json.loads(options), total, size, created, expires, done, failed)

    def ids(self) -> list[str]:
        """Jobs whose files are kept."""
        return [id for (id,) in self._rows("SELECT id FROM jobs WHERE state!='cancelled'")]

    def load(self) -> tuple[int, int]:
        """Jobs that are not finished, and bytes of all jobs that are kept."""
        found = self._rows(
            "SELECT count(*) FILTER (WHERE state IN ('queued','running')), coalesce(sum(bytes), 0) FROM jobs"
        )
        return int(found[0][0]), int(found[0][1])

    def waiting(self, limit: int) -> list[tuple[str, int, str]]:
        """Images to be done, oldest job first: job, number, file's name; all where the limit is negative."""
        return self._rows(
            "SELECT job, number, file FROM images JOIN jobs ON jobs.id=job WHERE images.state='waiting'"
            " AND jobs.state IN ('queued','running') ORDER BY jobs.created, job, number LIMIT ?",
            limit,
        )

    def complete(self) -> list[str]:
        """Unfinished jobs whose images are all done."""
        found = self._rows(
            "SELECT id FROM jobs WHERE state IN ('queued','running') AND NOT EXISTS"
            " (SELECT 1 FROM images WHERE job=jobs.id AND state='waiting')"
        )
        return [id for (id,) in found]

    def begin(self, id: str, number: int) -> int:
        """Note that an image is worked at; how many times it now was."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE jobs SET state='running' WHERE id=? AND state='queued'", (id,))
            self._db.execute("UPDATE images SET tries=tries+1 WHERE job=? AND number=?", (id, number))
            found = self._db.execute(
                "SELECT tries FROM images WHERE job=? AND number=?", (id, number)
            ).fetchone()
        return int(found[0]) if found else 1

    def not_tried(self, id: str, number: int) -> None:
        """Take back one `begin`: it was not the image's fault."""
        self._write("UPDATE images SET tries=tries-1 WHERE job=? AND number=?", id, number)

    def finish_image(self, id: str, number: int, state: str, row: dict[str, Any], now: float) -> bool:
        """Record an image; False if it was recorded before or its job was cancelled."""
        return self._write(
            "UPDATE images SET state=?, row=?, finished=? WHERE job=? AND number=? AND state='waiting'"
            " AND EXISTS (SELECT 1 FROM jobs WHERE id=job AND state IN ('queued','running'))",
            state, json.dumps(row), now, id, number,
        )  # fmt: skip

    def wait_again(self, id: str, number: int) -> None:
        """Take back that an image is done."""
        self._write(
            "UPDATE images SET state='waiting', tries=0, row=NULL, finished=NULL WHERE job=? AND number=?",
            id,
            number,
        )

    def finish(self, id: str, state: str, expires: float, size: int) -> bool:
        """Close an unfinished job; the bytes of its results count in place of its uploads. False if it was closed before."""
        return self._write(
            "UPDATE jobs SET state=?, expires=?, bytes=? WHERE id=? AND state IN ('queued','running')",
            state, expires, size, id,
        )  # fmt: skip

    def set_state(self, id: str, state: str) -> None:
        self._write("UPDATE jobs SET state=?, bytes=0 WHERE id=?", state, id)

    def rows(self, id: str) -> list[dict[str, Any]]:
        """What the images of a job gave, in their order."""
        found = self._rows("SELECT row FROM images WHERE job=? AND row IS NOT NULL ORDER BY number", id)
        return [json.loads(row) for (row,) in found]

    def expired(self, now: float) -> list[str]:
        found = self._rows("SELECT id FROM jobs WHERE expires<? AND state NOT IN ('queued','running')", now)
        return [id for (id,) in found]

    def remove(self, id: str) -> None:
        self._write("DELETE FROM jobs WHERE id=?", id)

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _write(self, query: str, *values: Any) -> bool:
        with self._lock:
            return self._db.execute(query, values).rowcount > 0
