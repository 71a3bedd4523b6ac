"""All benchmarks of this folder in order, each in its own process, then the tables of docs/speed.md: `make bench`.

python benchmarks/run.py [--busy] [PART ...]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from accuracy import ROWS
from race import insist_on_quiet
from segmae.data.catalog import find_data
from segmae.errors import DataError

HERE = Path(__file__).parent
PARTS = {  # name -> commands, each within about three minutes where the models under .cache/bench are there
    "stages": [["stages.py"]],
    "engines": [["engines.py"]],
    "decoding": [["decoding.py"]],
    "predict": [["predict_bench.py"]],
    "peers": [["peers.py"]],
    "parity": [["parity.py"]],
    "accuracy": [["accuracy.py", row] for row in ROWS],
    "cpu_train": [["cpu_train.py"]],
}
NEED_DATA = {"decoding", "predict", "parity", "accuracy"}


def main(names: list[str]) -> int:
    if "--busy" not in names:
        insist_on_quiet()
    names = [name for name in names if name != "--busy"]
    unknown = set(names) - set(PARTS)
    if unknown:
        raise SystemExit(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    if NEED_DATA.intersection(names or PARTS):
        try:
            find_data("isic2018")
        except DataError as error:
            raise SystemExit(f"{error}. {', '.join(sorted(NEED_DATA))} need photographs") from None
    failed = []
    for name in names or PARTS:
        for script, *arguments in PARTS[name]:
            started = time.perf_counter()
            print(f"== {script} {' '.join(arguments)}", flush=True)
            done = subprocess.run([sys.executable, str(HERE / script), *arguments])
            print(f"== {time.perf_counter() - started:.0f} s", flush=True)
            if done.returncode:
                failed.append(name)
    subprocess.run([sys.executable, str(HERE / "tables.py")], check=True)
    print(f"failed: {', '.join(failed)}" if failed else "all done; tables in docs/speed.md")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
