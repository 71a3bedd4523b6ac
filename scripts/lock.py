"""Write requirements.lock: every package that CI installs, with the hash of the very file. `make lock` runs it.

    python scripts/lock.py            asks pip what it would install, within constraints.txt, and writes the lock
    python scripts/lock.py --fits     ends with 0 if the lock was made for this Python and platform

pip itself chooses, through whatever registries it is set up with, so the lock holds files that they have. It is for one Python
and one platform, named in its first line; elsewhere `constraints.txt` pins the versions.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
EXTRAS = "train,export,dev"  # as in the Makefile's .venv


def here() -> str:
    """The Python and the platform that hashes of files hold for."""
    version = sys.version_info
    return f"{sys.implementation.name} {version.major}.{version.minor}, {sys.platform} {platform.machine()}"


def resolved() -> list[tuple[str, str, str]]:
    """Name, version and SHA-256 of what pip would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report,
                        "--constraint", "constraints.txt", f".[{EXTRAS}]"], cwd=ROOT, check=True)  # fmt: skip
        items = json.loads(report.read_text())["install"]
    found = []
    for item in items:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name == "segmae":
            continue
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if not digest:
            sys.exit(f"{name} {version}: the registry gives no SHA-256 of it. Ask another registry")
        found.append((name, version, digest))
    return sorted(found, key=lambda entry: entry[0].lower())


def main() -> None:
    if sys.argv[1:] == ["--fits"]:
        fits = LOCK.is_file() and LOCK.read_text(encoding="utf-8").splitlines()[0].endswith(here())
        sys.exit(0 if fits else 1)
    lines = [f"# Made by `make lock` for {here()}",
             f"# Install: pip install --no-deps --require-hashes -r {LOCK.name} && pip install --no-deps -e ."]  # fmt: skip
    lines += [f"{name}=={version} --hash=sha256:{digest}" for name, version, digest in resolved()]
    LOCK.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{LOCK.name}: {len(lines) - 2} packages")


if __name__ == "__main__":
    main()
