"""Take the benchmark and the studies to a lent GPU machine without a network, and bring back what they find.

    SEGMAE_DATA=DATA python scripts/lent_gpu.py pack     here, before: fills .carry/, which git ignores, and says which calls it takes
    python3 scripts/lent_gpu.py run bench study          there, as the one command of a call

`pack` fetches the packages that such a machine lacks and packs the photographs. `run` puts the packages beside the machine's own torch, unpacks
the photographs, runs what is asked for, stops in time, and leaves results/ and the weights of models that ship in $OUT. What it has made
stays in .cache/lent for the next call on that machine, which goes on from there. CONTRIBUTING.md says how to use both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CARRY = ROOT / ".carry"
STATE = ROOT / ".cache" / "lent"  # of the lent machine: packages, photographs, results so far
MIB = 2**20
CALL = 64 * MIB  # that travel with a call: the working tree and what is carried
BACK, FILES, ALL_BACK = 16 * MIB, 8, 64 * MIB  # that return: of one file, how many, together
MARGIN = MIB
# What training, studies and the benchmark import and a machine with torch and pytorch-lightning lacks.
LACKING = ("kornia", "kornia_rs", "omegaconf", "tensorboardX", "lightning-fabric", "lightning-utilities")
NEEDED = ("torch", "numpy", "scipy", "PIL", "contourpy", "onnxruntime", "safetensors", "typer", "rich", "kornia",
          "omegaconf", "tensorboardX", "lightning_fabric", "segmae.cli", "segmae.study.runner")  # fmt: skip
SHIPPED = ("segmae-tiny",)
STUDIES = ("table2",)  # which needs ISIC2018 alone, and no weights
# What finishes soonest comes first: a cell that is open when the machine is given back is lost.
ROWS = "cpfnet,segmae-tiny,unet,transunet,fat-net,segmae-small,unet-plain,transunet-plain,attention-unet,segmae-base,ckdnet"
AFTER_BUDGET = 80  # seconds for what a study does past its budget: validation, tests, files
TESTS = 40  # of these, for tests
TURN = 10.0  # seconds after which it is looked whether there are new results
COMPILES = 120  # seconds that a part of the benchmark may need which compiles


def pack(data: str, python: str) -> None:
    """Fill .carry/ and print its sizes and the calls that they take."""
    images = photographs(data)
    shutil.rmtree(CARRY, ignore_errors=True)
    wheels = CARRY / "wheels"
    wheels.mkdir(parents=True)
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    platforms = [f"--platform=manylinux{kind}_x86_64" for kind in ("_2_28", "_2_17", "2014")]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp",
                    f"--python-version={python}", *platforms, "--dest", wheels, *(f"{name}=={pins[name]}" for name in LACKING)],
                   check=True)  # fmt: skip
    (wheels / "code.json").write_text(json.dumps({"commit": commit(), "sha256": code_digest()}))

    tree = sum(path.stat().st_size for path in travelling())
    small = size_of(wheels)
    total = sum(path.stat().st_size for path in images)
    count = max(1, -(-total // max(MIB, CALL - MARGIN - tree - small)))
    archives = write_archives(images, data, count)
    print(f"the working tree: {tree / MIB:.1f} MiB; packages: {small / MIB:.1f} MiB; photographs and masks of {data}: {len(images)} files, "
          f"{sum(size_of(path) for path in archives) / MIB:.1f} MiB")  # fmt: skip
    for number, archive in enumerate(archives, 1):
        carried = [wheels, archive] if number == 1 else [archive]
        load = tree + sum(map(size_of, carried))
        names = json.dumps([str(path.relative_to(ROOT)) for path in carried])
        print(f"call {number} of {count}: carry={names}, {load / MIB:.1f} of {CALL // MIB} MiB")
        if load > CALL:
            sys.exit(
                "that is too much for one call: make the working tree smaller, for example by git sparse-checkout"
            )


def photographs(data: str) -> list[Path]:
    """All files of a dataset under $SEGMAE_DATA."""
    base = os.environ.get("SEGMAE_DATA")
    if not base or not (Path(base) / data).is_dir():
        sys.exit(f"error: SEGMAE_DATA={base or ''}: set it to the folder above {data}/")
    return [path for path in sorted((Path(base) / data).rglob("*")) if path.is_file()]


def write_archives(files: list[Path], data: str, count: int) -> list[Path]:
    """The files of a dataset in so many archives of like size, each with its number and their count in its name."""
    base = Path(os.environ["SEGMAE_DATA"])
    share = sum(path.stat().st_size for path in files) / count
    found, waiting = [], list(files)
    for number in range(1, count + 1):
        path, size = CARRY / f"{data}-{number}of{count}.tar.gz", 0.0
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            while waiting and (size < share or number == count):
                size += waiting[0].stat().st_size
                archive.add(waiting[0], waiting.pop(0).relative_to(base))
        found.append(path)
    return found


def travelling() -> list[Path]:
    """The files that a call takes along by itself: tracked ones, and those that git does not ignore."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [path for name in set(listed) - {""} if (path := ROOT / name).is_file()]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def commit() -> str:
    """The commit of the code, as `segmae study` names it."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src/segmae").strip()
    return git("rev-parse", "HEAD").strip() + ("-changed" if changed else "")


def code_digest() -> str:
    """SHA-256 of the package's code, which tells whether a copy is that of a commit."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "segmae").rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


class Visit:
    """One call on the lent machine."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.a = arguments
        self.until = time.monotonic() + arguments.within
        self.out = Path(os.environ.get("OUT") or ROOT / "out" / "lent")
        self.python = os.environ.get("GPU_PYTHON", sys.executable)
        self.failed: list[str] = []
        self.known: dict[str, str] = {}  # SHA-256 of results that travelled here or are given back
        self.environment = {
            **os.environ, "PYTHONUNBUFFERED": "1", "SEGMAE_DATA": str(STATE / "data"), "XDG_CACHE_HOME": str(STATE / "prepared"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), str(STATE / "packages"), os.environ.get("PYTHONPATH")))),
        }  # fmt: skip

    def run(self) -> int:
        self.out.mkdir(parents=True, exist_ok=True)
        STATE.mkdir(parents=True, exist_ok=True)
        self.install()
        self.known = contents(ROOT / "results")
        # what an earlier call on this machine found, which the copy of the working tree may have replaced
        if (STATE / "results").is_dir():
            shutil.copytree(STATE / "results", ROOT / "results", dirs_exist_ok=True)
        if "bench" in self.a.what:
            limit = min(seconds(self.a.bench_budget), self.left() - COMPILES)
            self.call(["benchmarks/gpu_train.py", "--compile", "--budget", f"{max(1, limit):.0f}s", *shlex.split(self.a.bench)],
                      max(limit + COMPILES, 1) if "study" in self.a.what else self.left())  # fmt: skip
        if "study" in self.a.what:
            self.study()
        for name, size in self.give_back().items():
            print(f"{name}: {size / MIB:.1f} MiB", flush=True)
        for problem in self.failed:
            print(problem, file=sys.stderr)
        return int(bool(self.failed))

    def left(self) -> float:
        return self.until - time.monotonic()

    def install(self) -> None:
        """The carried packages beside the machine's own, and the carried photographs."""
        wheels, packages = sorted((CARRY / "wheels").glob("*.whl")), STATE / "packages"
        if wheels and not packages.is_dir():
            half = packages.with_name("packages.half")
            subprocess.run([self.python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir",
                            "--upgrade", "--target", half, *wheels], check=True)  # fmt: skip
            half.rename(packages)
        if (CARRY / "wheels" / "code.json").exists():
            shutil.copy(CARRY / "wheels" / "code.json", STATE)
        test = f"import importlib\nfor name in {NEEDED}: importlib.import_module(name)\nimport torch, platform\n" \
               "print('Python', platform.python_version(), 'torch', torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"  # fmt: skip
        if subprocess.run([self.python, "-c", test], env=self.environment, cwd=ROOT).returncode:
            sys.exit(
                "a package is missing here: see above. Name .carry/wheels in carry, or add the package to LACKING and pack again"
            )
        for path in sorted(CARRY.glob("*of*.tar.gz")):
            done = STATE / "data" / f"{path.name}.done"
            if not done.exists():
                with tarfile.open(path) as archive:
                    archive.extractall(STATE / "data", filter="data")
                done.touch()
        print(f"packages and photographs are there after {self.a.within - self.left():.0f} s", flush=True)

    def study(self) -> None:
        archives = [path.name for path in (STATE / "data").glob("*.done")]
        counts = {name.split("of")[-1].split(".")[0] for name in archives}
        if not archives or any(len(archives) < int(count) for count in counts):
            self.failed.append(
                f"no study: of the archives of photographs, {', '.join(archives) or 'none'} came so far"
            )
            return
        budget = min(seconds(self.a.budget), self.left() - AFTER_BUDGET)
        if budget < 20:
            self.failed.append(
                f"no study: {self.left():.0f} s are left, of which {AFTER_BUDGET} are for its end"
            )
            return
        rows = self.a.rows or (ROWS if tuple(self.a.studies) == STUDIES else "")
        self.call(["-m", "segmae", "study", "run", *self.a.studies, "--scale", self.a.scale, "--device", self.a.device,
                   "--budget", f"{budget:.0f}s", "--test-grace", f"{TESTS}s",
                   *(["--rows", rows] if rows else [])], self.left())  # fmt: skip

    def call(self, words: list[str], limit: float) -> None:
        """Run Python, and give back meanwhile what it finds; after so many seconds ask it to end, and insist some seconds later."""
        print(f"== {' '.join(words)}", flush=True)
        name = words[0] if words[0] != "-m" else words[2]
        end = time.monotonic() + max(1, min(limit, self.left()) - 20)
        process = subprocess.Popen([self.python, *words], env=self.environment, cwd=ROOT)
        try:
            while (left := end - time.monotonic()) > 0 and process.poll() is None:
                try:
                    process.wait(min(TURN, left))
                except subprocess.TimeoutExpired:
                    self.give_back()
            if process.poll() is None:
                print("== stopped: its time was over", flush=True)
                process.send_signal(signal.SIGTERM)  # training saves and ends
                process.wait(15)
            elif process.returncode:
                self.failed.append(f"{name}: ended with {process.returncode}")
        except subprocess.TimeoutExpired:
            self.failed.append(f"{name}: did not end when asked to")
        finally:
            process.kill()
            process.wait()

    def name_code(self, path: Path) -> None:
        """Write the commit into a result, where the code here is that of the commit: the copy of a tree has no history."""
        kept = STATE / "code.json"
        code = json.loads(kept.read_text()) if kept.exists() else {}
        result = json.loads(path.read_text(encoding="utf-8"))
        if code.get("sha256") == code_digest() and "code" in result and result["code"]["commit"] is None:
            result["code"]["commit"] = code["commit"]
            path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def give_back(self) -> dict[str, int]:
        """Results that this machine has made, and the weights of finished cells with a model that ships, as files in $OUT.

        Returns:
            Bytes of each file there. Nothing is written where nothing is new.
        """
        made, new = STATE / "results", not (self.out / "results.tar.gz").is_file()
        for name, digest in contents(ROOT / "results").items():
            if self.known.get(name) != digest:
                kept = made / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / "results" / name, kept)
                if kept.match(f"*-{self.a.scale}/*.json"):
                    self.name_code(kept)
                self.known[name], new = digest, True
        if new:
            half = self.out / ".half"  # the machine may be taken away at any moment
            with tarfile.open(half, "w:gz") as archive:
                if made.is_dir():
                    archive.add(made, "results")
            half.replace(self.out / "results.tar.gz")
            self.give_weights(made)
        return {path.name: size_of(path) for path in sorted(self.out.iterdir())}

    def give_weights(self, made: Path) -> None:
        for path in sorted(made.glob("*/*.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            if "training" not in result or result["settings"]["model"]["name"] not in self.a.weights:
                continue
            run = Path("runs") / "studies" / path.parent.name / result["training"]["run"]
            packed = self.out / re.sub(r"[^\w.-]", "_", f"best-{path.parent.name}-{path.stem}.tar")
            if not (ROOT / run / "best").is_dir() or list(self.out.glob(f"{packed.name}*")):
                continue
            given = list(self.out.iterdir())
            with tarfile.open(packed, "w") as archive:
                archive.add(ROOT / run / "best", str(run / "best"))
            pieces = in_pieces(packed)
            size = sum(map(size_of, pieces))
            if len(given) + len(pieces) > FILES or size + sum(map(size_of, given)) > ALL_BACK - MARGIN:
                for piece in pieces:
                    piece.unlink()
                print(f"left out, {size / MIB:.1f} MiB: {run / 'best'}")


def in_pieces(path: Path) -> list[Path]:
    """The file itself or, where it is too large to come back, `FILE.part1` and so on in its place."""
    if size_of(path) < BACK:
        return [path]
    pieces: list[Path] = []
    with path.open("rb") as file:
        while block := file.read(BACK - MARGIN):
            pieces.append(path.with_name(f"{path.name}.part{len(pieces) + 1}"))
            pieces[-1].write_bytes(block)
    path.unlink()
    return pieces


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name from the folder; a file that is being written has a hidden one."""
    files = (path for path in sorted(folder.rglob("[!.]*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def seconds(text: str) -> float:
    """`7m` or `45s` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([sm])", text)
    if not match:
        sys.exit(f"{text}: give a time such as 45s or 7m")
    return float(match[1]) * (60 if match[2] == "m" else 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    here = verbs.add_parser("pack", help="fill .carry/, here")
    here.add_argument("--data", default="isic2018", help="a folder under $SEGMAE_DATA")
    here.add_argument("--python", default="3.12", help="of the lent machine")
    there = verbs.add_parser("run", help="the command of a call, there")
    there.add_argument("what", nargs="+", choices=("bench", "study"))
    there.add_argument("--studies", nargs="+", default=STUDIES)
    there.add_argument("--rows", help=f"of the studies, the first first; default: of table2 {ROWS}, else all")
    there.add_argument("--scale", default="gpu")
    there.add_argument("--device", default="cuda")
    there.add_argument("--budget", default="7m", help="of the studies, if so much is left")
    there.add_argument("--bench-budget", default="4m", help="after which the benchmark begins no part")
    there.add_argument("--bench", default="", help="more arguments of benchmarks/gpu_train.py, in quotes")
    there.add_argument("--weights", nargs="*", default=SHIPPED, help="networks whose best weights come back")
    there.add_argument(
        "--within",
        type=float,
        default=560,
        help="seconds that all of it may take: some 40 less than are left",
    )
    a = parser.parse_args()
    if a.verb == "pack":
        pack(a.data, a.python)
        return 0
    return Visit(a).run()


if __name__ == "__main__":
    sys.exit(main())
