"""Is this commit fit to be released? Build, compare, install, try.

    python scripts/release_check.py        # or: make release-check

1. CITATION.cff validates and has the package's version. 2. sdist and wheel are built twice from the committed files, in two
folders, and must have the same bytes. 3. The wheel is installed into a clean environment, and `segmae demo` is run from it in an
empty folder, without the source tree. The files to upload are then under dist/.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).resolve().parents[1]
DIST = REPOSITORY / "dist"


def main() -> None:
    epoch = int(output("git", "log", "-1", "--format=%ct"))
    if output("git", "status", "--porcelain"):
        print("note: there are changes that are not committed; what is committed is checked")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        citation(place)
        first, second = build(place / "one", epoch), build(place / "two", epoch)
        for one, two in zip(first, second, strict=True):
            if one.read_bytes() != two.read_bytes():
                raise SystemExit(f"error: {one.name}: two builds of one commit differ. Do not release this")
        try_wheel(place, first[1])
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        for file in first:
            shutil.copy2(file, DIST)
            print(
                f"dist/{file.name}  {file.stat().st_size / 1e6:.2f} MB  sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
            )
    print("two builds have the same bytes; the demo runs from the wheel")


def citation(place: Path) -> None:
    """CITATION.cff against its schema, by cffconvert in an environment of its own: it needs an old jsonschema."""
    text = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    package = re.search(
        r'__version__ = "(.+)"', (REPOSITORY / "src/segmae/__init__.py").read_text(encoding="utf-8")
    )
    cited = re.search(r"^version: (.+)$", text, re.MULTILINE)
    if not package or not cited or package[1] != cited[1]:
        raise SystemExit("error: CITATION.cff: its version is not the package's. Make them equal")
    python = environment(place / "cff", ["cffconvert"], {})
    print(
        output(
            str(Path(python).with_name("cffconvert")), "--validate", "-i", str(REPOSITORY / "CITATION.cff")
        )
    )


def build(folder: Path, epoch: int) -> tuple[Path, Path]:
    """sdist and wheel of the committed files, built in `folder`; the wheel is built from the sdist."""
    source, out = folder / "source", folder / "dist"
    source.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(source, filter="data")
    output(sys.executable, "-m", "build", "--outdir", str(out), str(source), SOURCE_DATE_EPOCH=str(epoch))
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    same_times(sdist, epoch)
    return sdist, wheel


def same_times(sdist: Path, epoch: int) -> None:
    """setuptools puts the time of the build, the user and the order of the disk into an sdist: write it anew without."""
    with tarfile.open(sdist) as tar:
        members = [(member, _content(tar, member)) for member in sorted(tar, key=lambda member: member.name)]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.mode = member.type, member.mode & 0o755
            plain.mtime, plain.size = epoch, len(content)
            tar.addfile(plain, io.BytesIO(content))
    sdist.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def try_wheel(place: Path, wheel: Path) -> None:
    """The demo from the wheel: in an empty folder, without PYTHONPATH, with the constrained versions."""
    python = environment(
        place / "clean", [str(wheel)], {"PIP_CONSTRAINT": str(REPOSITORY / "constraints.txt")}
    )
    empty = place / "empty"
    empty.mkdir()
    print(output(python, "-m", "segmae", "demo", cwd=empty))
    where = output(python, "-c", "import segmae; print(segmae.__file__)", cwd=empty)
    if not Path(where).is_relative_to(place / "clean"):
        raise SystemExit(f"error: the demo ran {where}, not the wheel. Unset PYTHONPATH")
    if not (empty / "demo" / "report.html").is_file():
        raise SystemExit("error: the demo of the wheel wrote no page")


def environment(folder: Path, packages: list[str], variables: dict[str, str]) -> str:
    """The interpreter of a new virtual environment with these packages."""
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    output(python, "-m", "pip", "install", "--quiet", *packages, **variables)
    return python


def output(*command: str, cwd: Path = REPOSITORY, **variables: str) -> str:
    """What a command prints; a failing one ends everything with what it said."""
    inherited = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIP_CONSTRAINT")
    }
    done = subprocess.run(command, cwd=cwd, env=inherited | variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
