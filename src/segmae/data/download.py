"""Public datasets from the hosts of their archives into the layout that `catalog` reads: resumed, checked, safely unpacked.

While an archive is fetched, NAME.zip.part lies in the target folder, beside NAME.zip.part.json, which says of what it
is a part; NAME.zip lies there until it is unpacked. Nothing here runs unless it is asked for.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from segmae.data.catalog import Dataset, open_dataset
from segmae.data.names import image_files
from segmae.data.splits import PARTS
from segmae.errors import DataError
from segmae.fetch import Remote, Unreachable, fetch, gigabytes, locate, part_of
from segmae.files import atomic_path

BASE_URLS = (
    "https://isic-archive.s3.amazonaws.com/challenges",
    "https://isic-challenge-data.s3.amazonaws.com",  # older
)
PH2_PAGE = "https://www.fc.up.pt/addi/ph2%20database.html"
PH2_CASES = 200
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError)

Progress = Callable[[int, int, str], None]  # bytes fetched, bytes of all archives, what is done now


@dataclass(frozen=True)
class Archive:
    """One zip file of a challenge.

    Attributes:
        name: of the file without its ending, and of the folder that it becomes.
        files: images or masks in it.
        md5: published by third parties; None where nobody did.
    """

    name: str
    year: int
    part: str
    files: int
    md5: str | None


ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "isic2017": (
        Archive("ISIC-2017_Training_Data", 2017, "train", 2000, "a14a7e622c67a358797ae59abb8a0b0c"),
        Archive("ISIC-2017_Training_Part1_GroundTruth", 2017, "train", 2000, "77fdbeb6fbec4139937224416b250f4c"),
        Archive("ISIC-2017_Validation_Data", 2017, "val", 150, "8d6419d942112f709894c0d82f6c9038"),
        Archive("ISIC-2017_Validation_Part1_GroundTruth", 2017, "val", 150, "64d3e68fa2deeb8a5e89aa8dec2efd44"),
        Archive("ISIC-2017_Test_v2_Data", 2017, "test", 600, "5f6a0b5e1f2972bd1f5ea02680489f09"),
        Archive("ISIC-2017_Test_v2_Part1_GroundTruth", 2017, "test", 600, "b1742de6bd257faca3b2b21a4aa3b781"),
    ),
    "isic2018": (
        Archive("ISIC2018_Task1-2_Training_Input", 2018, "train", 2594, "8b5be801f37b58ccf533df2928a5906b"),
        Archive("ISIC2018_Task1_Training_GroundTruth", 2018, "train", 2594, "ee5e5db7771d48fa2613abc7cb5c24e2"),
        Archive("ISIC2018_Task1-2_Validation_Input", 2018, "val", 100, "d8f15a08981c8d6c0646b5e3228ef20d"),
        Archive("ISIC2018_Task1_Validation_GroundTruth", 2018, "val", 100, "2323d7ed9350de0a463d529ef45a62f4"),
        Archive("ISIC2018_Task1-2_Test_Input", 2018, "test", 1000, "0a9ba80e1aee58716fbfcdde7131c45a"),
        Archive("ISIC2018_Task1_Test_GroundTruth", 2018, "test", 1000, None),
    ),
}  # fmt: skip


class ChecksumMismatch(DataError):
    """An archive is not the one whose checksum is known. `archive` is its name, for `accept_mismatch`."""

    def __init__(self, file: Path, archive: Archive, found: str) -> None:
        super().__init__(file, archive, found)  # all of them, or it could not be pickled
        self.archive = archive.name

    def __str__(self) -> str:
        file, archive, found = self.args
        return (
            f"{file}: its md5 is {found}; {archive.md5} was published by third parties. Delete it to download it again, "
            f"or use it all the same: --accept-mismatch {archive.name} (accept_mismatch=['{archive.name}'])"
        )


@dataclass(frozen=True)
class Download:
    """What lies in the folder now.

    Attributes:
        counts: part -> number of images and of masks; PH2 has one part, `all`.
        warnings: what is not as it should be, and was gone on with.
    """

    dataset: Dataset
    counts: dict[str, tuple[int, int]]
    warnings: tuple[str, ...] = ()


def download(
    name: str,
    folder: str | Path,
    *,
    parts: Sequence[str] = PARTS,
    keep_archives: bool = False,
    accept_mismatch: Collection[str] = (),
    base_urls: Sequence[str] = BASE_URLS,
    progress: Progress | None = None,
) -> Download:
    """Fetch and unpack a dataset, or what is missing of it. Called again after an interruption, it goes on.

    PH2 is not fetched, since its owners want a form to be filled in: the copy in `folder` is checked.

    Args:
        name: isic2017, isic2018 or ph2.
        folder: of this dataset alone; created where needed. Archives that already lie in it are used.
        parts: of train, val and test.
        keep_archives: keep the zip files after unpacking.
        accept_mismatch: names of archives to use although their checksum is not the known one.
        base_urls: hosts, in the order in which they are tried.
        progress: called as bytes arrive and files are unpacked.

    Raises:
        ChecksumMismatch: an archive is not the known one; it is kept.
        DataError: unknown name or part, no host delivers, no room on the disk, an archive that is damaged or would
            write elsewhere; for PH2, no complete copy.
    """
    folder = Path(folder).expanduser()
    if name == "ph2":
        return _check_ph2(folder)
    if name not in ARCHIVES:
        raise DataError(f"dataset '{name}': choose {', '.join(ARCHIVES)} or ph2")
    if not parts or not set(parts) <= set(PARTS):
        raise DataError(f"part '{', '.join(parts)}': choose from {', '.join(PARTS)}")
    for other in (archive for key in ARCHIVES if key != name for archive in ARCHIVES[key]):
        if (folder / other.name).is_dir():
            raise DataError(f"{folder}: holds {other.name} already. Give each dataset a folder of its own")
    chosen = [archive for archive in ARCHIVES[name] if archive.part in parts]
    missing = [archive for archive in chosen if _count(folder / archive.name) < archive.files]

    remotes = {a: _locate(a, base_urls) for a in missing if not _zip(folder, a).is_file()}
    sizes = {a: remotes[a].size if a in remotes else _zip(folder, a).stat().st_size for a in missing}
    _need_room(folder, sizes, keep_archives)
    folder.mkdir(parents=True, exist_ok=True)
    warnings: list[str] = []
    before, total = 0, sum(sizes.values())
    for archive, size in sizes.items():
        tell = _teller(progress, before, total)
        file = _zip(folder, archive)
        if archive in remotes:
            _fetch(archive, remotes[archive], base_urls, file, tell)
        before += size
        tell(size, f"checking {archive.name}")
        warnings += _verify(file, archive, accept_mismatch)
        _unpack(file, folder / archive.name, partial(tell, size))
        if not keep_archives:
            file.unlink()

    warnings += [
        f"{folder / archive.name}: {found} images or masks instead of {archive.files}"
        for archive in chosen
        if (found := _count(folder / archive.name)) != archive.files
    ]
    dataset = open_dataset(folder)
    # 2018's training part bears no name, since splits divide it
    images = Counter(case.part or "train" for case in dataset.cases)
    masks = Counter(case.part or "train" for case in dataset.cases if case.mask)
    counts = {part: (images[part], masks[part]) for part in PARTS if images[part]}
    return Download(dataset, counts, tuple(warnings))


def _check_ph2(folder: Path) -> Download:
    """A copy of PH2 that the user has put somewhere: all images and masks must be there."""
    how = f"PH2 is given out by its owners: fill in the form at {PH2_PAGE}, unpack what you get, and name the folder here"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. {how}")
    try:
        dataset = open_dataset(folder)
    except DataError as error:
        raise DataError(f"{error}. {how}") from error
    if dataset.name != "ph2":
        raise DataError(f"{folder}: holds no 'PH2 Dataset images', but {dataset.name}. {how}")
    bare = [case.id for case in dataset.cases if case.mask is None]
    images, masks = len(dataset.cases), len(dataset.cases) - len(bare)
    if min(images, masks) < PH2_CASES:
        found = [f"{images} of {PH2_CASES} images", f"{masks} of {PH2_CASES} masks"]
        found += [f"no mask for {_some(bare)}"] if bare else []
        found += [f"no image for {_some([path.stem for path in dataset.orphans])}"] if dataset.orphans else []
        raise DataError(f"{folder}: {'; '.join(found)}. Unpack the archive again. {how}")
    return Download(dataset, {"all": (images, masks)})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _zip(folder: Path, archive: Archive) -> Path:
    return folder / f"{archive.name}.zip"


def _count(place: Path) -> int:
    """Images or masks of an unpacked archive, which may hold a folder of the same name. Each file is whole."""
    place = place / place.name if (place / place.name).is_dir() else place
    return sum(not _superpixels(path.name) for path in image_files(place)) if place.is_dir() else 0


def _superpixels(name: str) -> bool:
    return name.lower().endswith("_superpixels.png")


def _teller(progress: Progress | None, before: int, total: int) -> Callable[[int, str], None]:
    """Progress within one archive as progress of all."""
    return lambda done, text: progress(before + done, total, text) if progress else None


def _need_room(folder: Path, sizes: dict[Archive, int], keep_archives: bool) -> None:
    """Refuse to start where the disk would be full before the end. Images take about as much as their archive."""
    grown = peak = 0
    for archive, size in sizes.items():
        files = (_zip(folder, archive), part_of(_zip(folder, archive)), *(folder / archive.name).glob("*"))
        present = sum(path.stat().st_size for path in files if path.is_file())
        peak = max(peak, grown + 2 * size - present)
        grown += (2 * size if keep_archives else size) - present
    _need(folder, peak, "to download and unpack")


def _need(folder: Path, size: int, what: str) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise DataError(f"{folder}: {gigabytes(size)} are needed {what}, {gigabytes(free)} are free. Make room, or choose "
                        "another disk or fewer parts")  # fmt: skip


# -- fetching


def _urls(archive: Archive, base_urls: Sequence[str]) -> list[str]:
    return [f"{base.rstrip('/')}/{archive.year}/{archive.name}.zip" for base in base_urls]


def _locate(archive: Archive, base_urls: Sequence[str]) -> Remote:
    return locate(_urls(archive, base_urls), archive.name, "put the zip file into the folder yourself")


def _fetch(
    archive: Archive, remote: Remote, base_urls: Sequence[str], file: Path, tell: Callable[[int, str], None]
) -> None:
    """Download an archive, from the next host where this one fails."""
    try:
        fetch(remote, file, lambda done: tell(done, archive.name))
    except Unreachable as error:
        further = base_urls[_urls(archive, base_urls).index(remote.url) + 1 :]
        if not further:
            raise
        try:
            remote = _locate(archive, further)
        except Unreachable:
            raise error from None
        _fetch(archive, remote, further, file, tell)


# -- checking and unpacking


def _verify(file: Path, archive: Archive, accept_mismatch: Collection[str]) -> list[str]:
    """Warnings about an archive whose checksum is not known or not the known one."""
    if archive.md5 is None:
        return [f"{archive.name}: no checksum of it is known, so it was not checked"]
    with file.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found == archive.md5:
        return []
    mismatch = ChecksumMismatch(file, archive, found)
    if archive.name not in accept_mismatch:
        raise mismatch
    return [f"{archive.name}: used although its md5 is {found} and not {archive.md5}"]


def _unpack(file: Path, place: Path, tell: Callable[[str], None]) -> None:
    """Write an archive's images and tables flat into the folder `place`, each whole or not at all.

    An archive that names a file elsewhere, a link, or more than the disk holds is refused before anything is written;
    no member can become larger than the archive's listing says.
    """
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise DataError(f"{place}: is a link or a file; the archive is not unpacked through it. Remove it")
    try:
        with zipfile.ZipFile(file) as archive:
            wanted = _members(archive, file)
            missing = {
                path: member
                for name, member in wanted.items()
                if not ((path := place / name).is_file() and path.stat().st_size == member.file_size)
            }
            size = sum(member.file_size for member in missing.values())
            _need(place.parent, size, f"to unpack {file.name}")
            for number, (path, member) in enumerate(missing.items(), 1):
                tell(f"unpacking {place.name}: {number} of {len(missing)}")
                with (
                    archive.open(member) as source,
                    atomic_path(path) as temporary,
                    temporary.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # EINVAL alone is the archive's fault: a member that would begin before the file
        raise DataError(
            f"{file}: is truncated or damaged ({error}). Delete it and download it again"
        ) from error


def _members(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """The files to unpack, by name. Superpixels, and what macOS hides in archives, are left out."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        problem = ""
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
            problem = "would be written outside the folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = "is a link or a device"
        elif member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = "is encrypted or packed in an unknown way"
        elif path.name in found:
            problem = "is there twice"
        if problem:
            raise DataError(f"{file}: '{member.filename}' {problem}. This is not the official archive, and nothing of it was "
                            "unpacked. Delete it")  # fmt: skip
        if not (member.is_dir() or _superpixels(path.name) or path.name.startswith(".")):
            found[path.name] = member
    return found
