"""Files that are either whole or absent: written beside their place, flushed, then renamed."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from segmae.errors import DamagedFile, InUse, OutputError

WINDOWS = os.name == "nt"
HALF = ".writing-"  # begins the names of files that are not whole yet
DISK_FULL = ("No space left", "os error 112")  # in errors that wrap the system's; 112 is Windows's
HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK, 0)  # by another process; 0 is what Wine says
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is run by spreadsheets


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on failure it is removed.

    Raises:
        OutputError: the folder or the file cannot be written, or the disk is full.
    """
    path = Path(path)
    make_folder(path.parent)
    try:
        with half_file(path.parent, path.suffix) as temporary:
            rights = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != rights:  # safetensors puts a file of its own there
                temporary.chmod(rights)
            flush(temporary)
            replace(temporary, path)
    except Exception as error:
        if _is_full(error) or (isinstance(error, OSError) and _is_about(error, path)):
            raise _not_written(path, error) from error
        raise


@contextmanager
def half_file(folder: Path, ending: str = "") -> Iterator[Path]:
    """A new, empty file with the rights that the umask leaves; removed at the end, where it still has its name.

    The system applies the umask: to read it, a process has to set it, for all of its threads.
    """
    temporary = folder / f"{HALF}{secrets.token_hex(8)}{ending}"
    os.close(os.open(str(temporary), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file on the disk before it gets its name. Windows flushes only what is open for writing."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def replace(path: Path, other: Path) -> None:
    """Let a file take the place of another, or a folder a free one. Windows refuses as long as anyone has a file of them open: wait for
    who only reads it."""
    for pause in (0.01, 0.05, 0.2, 0.8, None):
        try:
            path.replace(other)
        except PermissionError:
            if pause is None or not WINDOWS:
                raise
            time.sleep(pause)
        else:
            return


def append(path: str | Path, text: str) -> None:
    """Add UTF-8 text to the end of a file. Unlike the rest of this file it may leave half of it, where the disk is full.

    Raises:
        OutputError: the file cannot be written, or the disk is full.
    """
    try:
        with Path(path).open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise _not_written(path, error) from error


def _is_full(error: BaseException | None) -> bool:
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    while error is not None:
        if getattr(error, "errno", None) in full or any(sign in str(error) for sign in DISK_FULL):
            return True
        error = error.__context__  # torch stumbles over its own half-written file on top of it
    return False


def _is_about(error: OSError, path: Path) -> bool:
    """It names no file, or one of those that writing `path` touches."""
    name = str(error.filename)
    places = (str(path), str(path.parent))
    return error.filename is None or name in places or name.startswith(str(path.parent / HALF))


def _not_written(path: str | Path, error: Exception) -> OutputError:
    if _is_full(error):
        return OutputError(f"{path}: the disk is full. Free some space and run it again")
    reason = getattr(error, "strerror", None) or error
    held = (
        " and whether another program has it open" if WINDOWS and isinstance(error, PermissionError) else ""
    )
    return OutputError(
        f"{path}: cannot be written ({reason}). Check the place{held}, or choose another{too_long(path)}"
    )


def too_long(path: str | Path) -> str:
    """The end of a remedy: Windows, left as it comes, says of a path above 259 characters that it is absent, and a file that is not whole
    yet has a longer name."""
    if not WINDOWS:  # where a process's own folder may be gone, and no path is absolute
        return ""
    length = len(os.path.abspath(path))
    said = f". {length} characters may be too many for Windows: shorten the path, or set LongPathsEnabled"
    return said if length > 225 else ""


def make_folder(folder: str | Path) -> Path:
    """Create a folder with those above it, where it is not there yet.

    Raises:
        OutputError: it cannot be created, or a file has its name.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: no folder can be made here ({error.strerror}). Choose another{too_long(folder)}"
        ) from error
    return folder


@contextmanager
def locked(path: str | Path, wait: bool = False) -> Iterator[IO[str]]:
    """Hold a file so that no other process holds it; the system lets go of it when a process ends, however it ends.

    Args:
        wait: until another lets go of it.

    Raises:
        InUse: another holds it.
        OutputError: its file system knows no locks.
    """
    path = Path(path)
    make_folder(path.parent)
    with path.open("a") as file:
        try:
            if WINDOWS:
                import msvcrt

                while True:
                    try:
                        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
                        break
                    except OSError as error:
                        if not wait or error.errno not in HELD:
                            raise
                        time.sleep(0.05)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in HELD:
                reason = f"cannot be locked ({error.strerror})"
                raise OutputError(f"{path}: {reason}. Choose a place on a disk that knows locks") from error
            raise InUse(f"{path}: another process is at work here. Wait for it, or stop it") from error
        yield file


@contextmanager
def taking_turns(path: str | Path) -> Iterator[None]:
    """Hold a file for a while, after whoever holds it now. The last one who holds it removes it.

    Raises:
        OutputError: its file system knows no locks.
    """
    path, mine = Path(path), False
    try:
        while not mine:
            with locked(path, wait=True) as file:
                try:
                    mine = os.path.samestat(os.fstat(file.fileno()), path.stat())
                except FileNotFoundError:  # whoever held it before has removed it
                    continue
                if mine:
                    try:
                        yield
                    finally:
                        with suppress(OSError):  # Windows removes no open file
                            path.unlink()
    finally:
        if WINDOWS:
            with suppress(OSError):  # another has it open
                path.unlink()


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write bytes or UTF-8 text so that a reader sees the old file or the whole new one.

    What of a file's name is no valid Unicode is escaped, in the way that JSON reads.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def harmless(cell: Any) -> Any:
    """A cell for a CSV file that people open: text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Lines of a CSV file; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DamagedFile: it is empty, cut short or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"not JSON: {error}") from error


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: the dotted key, and what each has there, None where it has nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}, key=str):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file with one JSON object a line, [] if it is not there; a line that a kill cut short is left out."""
    path, found = Path(path), []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
