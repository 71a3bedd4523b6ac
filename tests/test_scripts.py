"""Scripts that read datasets or runs end in one line where these are not here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
NO_DATA = "SEGMAE_DATA"
CALLS = {
    "lent_gpu.py pack": NO_DATA,
    "overfit.py unet": NO_DATA,
    "ph2_agreement.py nowhere": "nowhere: no such folder",
    "repeatability.py": NO_DATA,
    "ship_model.py": NO_DATA,
    "ship_model.py nowhere": NO_DATA,  # before a model is replaced that cannot be measured
    "subgroups.py": NO_DATA,
    "trust_report.py": NO_DATA,
    "what_blocks_do.py nowhere -o x.json": "nowhere: no model here",
    "without_copies.py": NO_DATA,
}
WITH_TORCH = ("overfit.py", "what_blocks_do.py")


@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_here_is_said_in_one_line(call: str, tmp_path: Path) -> None:
    script, *words = call.split()
    if script in WITH_TORCH and importlib.util.find_spec("torch") is None:
        pytest.skip("no torch")
    clean = {name: value for name, value in os.environ.items() if name != "SEGMAE_DATA"}
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *words], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and CALLS[call] in line
    assert not list(tmp_path.iterdir())
