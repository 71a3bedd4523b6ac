"""API keys: made here, shown once, stored as hashes; and how often each may ask.

A key is 256 random bits, so that one round of SHA-256 hides it as well as a slow hash would: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from segmae.errors import ConfigError
from segmae.files import write_json
from segmae.serve.settings import make_state

PREFIX = "segmae_"
FILE = "keys.json"
KNOWN = 10_000  # callers whose rate is remembered; the longest silent ones are forgotten


@dataclass(frozen=True)
class Key:
    """id: by which logs and jobs name a key; sha256: of the key; created: ISO 8601; note: whose it is."""

    id: str
    sha256: str
    created: str
    note: str = ""


def new_key(folder: Path, note: str = "") -> str:
    """Make a key and add its hash to `keys.json` of the folder; the key itself is returned and kept nowhere.

    Raises:
        OutputError: the folder cannot be made, or not be written into.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    made = Key(secrets.token_hex(4), _hash(key), datetime.now(UTC).isoformat(timespec="seconds"), note)
    make_state(folder)
    keys = [*read_keys(folder), made]
    write_json(folder / FILE, [vars(one) for one in keys])
    (folder / FILE).chmod(0o600)
    return key


def read_keys(folder: Path) -> list[Key]:
    """The keys of a folder; none where it has no `keys.json`.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return []
    try:
        return [Key(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}). Mend it, or remove it and make new keys"
        ) from error


def find_key(keys: list[Key], given: str) -> Key | None:
    """The key that was given, compared in a time that tells nothing."""
    digest, found = _hash(given), None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Rate:
    """So many requests a minute for each caller: a bucket that fills steadily and holds one minute's worth.

    Args:
        per_minute: 0 is no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when that was

    def wait_s(self, caller: str, now: float | None = None) -> float:
        """Count one request; 0 if it may pass, else the seconds after which it may."""
        if not self.per_minute:
            return 0.0
        now = time.monotonic() if now is None else now
        left, before = self._buckets.pop(caller, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - before) * self.per_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self.per_minute
        self._buckets[caller] = (left if wait else left - 1, now)
        if len(self._buckets) > KNOWN:
            del self._buckets[next(iter(self._buckets))]  # the first one was asked for longest ago
        return wait
