"""Files on a disk or in a bucket: read, listed, and created so that no reader sees half of one and no writer replaces one."""

from __future__ import annotations

import errno
import importlib.util
import os
import stat
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from segmae.errors import ConfigError, DataError, MissingExtra, OutputError, install, require
from segmae.files import HALF, flush, half_file, make_folder, replace

EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
AT_ONCE = 1000  # small files in memory together
TRIES = 4  # of a read from a bucket
PAUSE = 0.5  # seconds before the second one; each further pause is twice as long
# what S3 says of a file; all else that s3fs takes for absent or forbidden, such as keys that have expired, is of the bucket
OF_THE_FILE = ("AccessDenied", "AllAccessDisabled", "InvalidObjectState", "NoSuchBucket", "NoSuchKey", "NoSuchVersion", "403", "404")  # fmt: skip
# of a disk that is not there any more, or of a machine that may open no further file
OF_THE_SYSTEM = (
    errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
    errno.EMFILE, errno.ENFILE,
)  # fmt: skip
AGAIN = "the same call goes on where it stopped"
# how buckets say that the name is taken; s3fs keeps the words of some in the cause alone
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict")


def is_remote(place: str) -> bool:
    """An address such as `s3://bucket/key`, not a path."""
    return "://" in place and not place.startswith("file://")


def local(place: str) -> str:
    """The path of a place that is not remote, which may be given as `file:///...`."""
    return (
        urllib.request.url2pathname(place.removeprefix("file://")) if place.startswith("file://") else place
    )


def file_system(place: str) -> Any:
    """The fsspec file system of an address or a path. Keys and endpoints come from the environment, as each system documents.

    Raises:
        MissingExtra: its package is not installed.
        ConfigError: there is no such kind of address.
    """
    fsspec = require("fsspec", "batch")
    if not is_remote(place):
        return fsspec.filesystem("file")
    protocol = place.split("://", 1)[0]
    if protocol in EXTRAS and importlib.util.find_spec(EXTRAS[protocol][0]) is None:
        package, extra = EXTRAS[protocol]
        raise MissingExtra(
            f"{place}: needs {package}. It comes with the extra '{extra}': in the clone of segmae, {install(extra)}"
        )
    # more at once, and s3fs asks for the size first: a refusal of that names no reason, and a size that it remembers may be an older file's
    options = {"max_concurrency": 1} if protocol in EXTRAS and EXTRAS[protocol][0] == "s3fs" else {}
    try:
        return fsspec.filesystem(protocol, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"{place}: cannot be reached ({error}). Give a path, s3://... or gs://..."
        ) from error


def read_bytes(place: str) -> bytes:
    """The content of a file. A bucket that does not answer is asked again.

    Raises:
        OSError: absent, forbidden, no file but a folder, a pipe or a device.
        DataError: the bucket or host went on not answering, or the disk is gone: its failure, not the file's.
    """
    if not is_remote(place):
        try:
            return _read_file(Path(place))
        except OSError as error:
            if error.errno not in OF_THE_SYSTEM:
                raise
            raise DataError(
                f"{place}: cannot be read now ({error.strerror}). Check the disk, and how many files may be open; {AGAIN}"
            ) from error
    files, pause = file_system(place), PAUSE
    for attempt in range(1, TRIES + 1):
        try:
            return files.cat_file(place)
        except Exception as error:  # a connection that breaks off is no OSError in every kind of bucket
            answer = getattr(error.__cause__, "response", None) or {}  # botocore's
            of_the_file = answer.get("Error", {}).get("Code", "404") in OF_THE_FILE
            if isinstance(error, FileNotFoundError | PermissionError) and of_the_file:
                raise
            if attempt == TRIES:
                remedy = f"Check the address, the keys and the network; {AGAIN}"
                raise DataError(f"{place}: does not answer ({error}). {remedy}") from error
            time.sleep(pause)
            pause *= 2
    raise AssertionError("unreachable")


def _read_file(path: Path) -> bytes:
    try:
        kind = path.stat().st_mode
    except ValueError as error:
        raise FileNotFoundError(errno.ENOENT, "no file can have this name") from error
    if not stat.S_ISREG(kind):  # opening a pipe waits for whom writes into it, and some devices never end
        raise OSError(errno.EINVAL, "no file but a folder, a pipe or a device")
    return path.read_bytes()


class Store:
    """A folder for results, on a disk or in a bucket. Names are relative to it, with `/`.

    Args:
        place: a path, or an address such as `s3://bucket/prefix`.

    Raises:
        OutputError: the folder cannot be made; from every method, the bucket does not answer or lets nobody in.
    """

    def __init__(self, place: str) -> None:
        self.remote = is_remote(place)
        self.place = place.rstrip("/") if self.remote else os.path.abspath(local(place))
        self.files = file_system(place)
        if not self.remote:
            make_folder(self.place)

    def at(self, name: str) -> str:
        """Where a file of the folder lies."""
        return f"{self.place}/{name}"

    def names(self, folder: str) -> set[str]:
        """What lies directly in a folder of it; nothing where the folder is absent."""
        try:
            with self._asked():
                found = self.files.ls(self.at(folder), detail=False)
        except FileNotFoundError:
            return set()
        return {name.rstrip("/").rsplit("/", 1)[-1] for name in found}

    def sizes(self, folder: str) -> dict[str, int]:
        """The files that lie directly in a folder of it, with their bytes; nothing where the folder is absent."""
        try:
            with self._asked():
                found = self.files.ls(self.at(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in found}

    def exists(self, name: str) -> bool:
        """A file is there now."""
        with self._asked():
            return self.files.exists(self.at(name))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A file, or the bytes `start` to `end` of it.

        Raises:
            FileNotFoundError: it is absent.
        """
        with self._asked():
            return self.files.cat_file(self.at(name), start=start, end=end)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """Many small files, in the order of their names; from a bucket many at once."""
        places = [self.at(name) for name in sorted(names)]
        for first in range(0, len(places), AT_ONCE):
            with self._asked():  # not `cat`, which takes a [ or * in the folder's name for a pattern
                found = self.files.cat_ranges(places[first : first + AT_ONCE], None, None)
                for problem in (one for one in found if isinstance(one, Exception)):
                    raise problem
            yield from found

    def create(self, name: str, content: bytes) -> bool:
        """Write a whole file unless it is there already; whether this call wrote it.

        Of several processes that try at once, one succeeds: on a disk by a hard link, in a bucket by a conditional put.

        Raises:
            OutputError: it cannot be written.
        """
        if not self.remote:
            with self._half(name) as temporary:
                temporary.write_bytes(content)
                return _link(temporary, Path(self.at(name)))
        try:
            self.files.pipe_file(self.at(name), content, mode="create")
        except FileExistsError:
            return False
        except Exception as error:  # each file system has its own kinds
            said = f"{error} {error.__cause__}"
            if any(sign in said for sign in REFUSED) or str(getattr(error, "code", "")) == "412":
                return False
            raise OutputError(
                f"{self.at(name)}: cannot be written ({error}). Check the place and the keys"
            ) from error
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a whole file, over an old one where there is one.

        Raises:
            OutputError: it cannot be written.
        """
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write piece by piece; it appears, or replaces the old one, at the end.

        Raises:
            OutputError: it cannot be written.
        """
        if self.remote:
            try:
                with self.files.open(self.at(name), "wb") as file:
                    yield file
            except OSError as error:
                raise OutputError(
                    f"{self.at(name)}: cannot be written ({error}). Check the place and the keys"
                ) from error
            return
        with self._half(name) as temporary:
            with temporary.open("wb") as file:
                yield file
            flush(temporary)
            replace(temporary, Path(self.at(name)))

    def tidy(self, folder: str) -> None:
        """Remove what killed processes left half written; only when no other process writes there."""
        if not self.remote:
            for path in Path(self.at(folder)).rglob(f"{HALF}*"):
                path.unlink(missing_ok=True)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """A question to the folder as it is now. What a bucket fails with, each kind in its own way, is told with the place."""
        if self.remote:
            self.files.invalidate_cache()
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            if not self.remote:
                raise
            raise OutputError(
                f"{self.place}: cannot be reached ({error}). Check the place, the keys and the network"
            ) from error

    @contextmanager
    def _half(self, name: str) -> Iterator[Path]:
        """A temporary file beside a local one, removed after the block."""
        place = Path(self.at(name))
        make_folder(place.parent)
        try:
            with half_file(place.parent) as temporary:
                yield temporary
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
            raise OutputError(
                f"{place}: cannot be written ({reason}). Check the place, or choose another"
            ) from error


def _link(temporary: Path, place: Path) -> bool:
    """Give a whole file its name, unless that is taken."""
    flush(temporary)
    try:
        os.link(temporary, place)
    except FileExistsError:
        return False
    except OSError:  # no hard links here: a short moment remains in which another may come between
        if place.exists():
            return False
        os.replace(temporary, place)
    return True
