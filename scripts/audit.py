"""Known vulnerabilities of the packages in requirements.lock, by pip-audit. `make audit` runs it after the licence report.

Ends with 0 where none is known; with 1 where one is; and where the vulnerability service cannot be reached, it says NOT
AUDITED and ends with 0, or with 3 if STRICT=1 is set (for a CI that has a network and must not pass by silence).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
UNREACHABLE = ("connectionerror", "max retries", "could not connect", "connection refused", "name resolution",
               "timed out", "proxyerror", "service unavailable", "failed to upgrade", "unable to connect")  # fmt: skip


def main() -> None:
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--timeout", "15"]
    command = [sys.executable, "-m", "pip_audit", *options, "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    if (
        done.returncode
        and "known vulnerabilit" not in said.lower()
        and any(sign in said.lower() for sign in UNREACHABLE)
    ):
        print(f"NOT AUDITED: the vulnerability service cannot be reached ({said.splitlines()[-1][:160]})")
        sys.exit(3 if os.environ.get("STRICT") == "1" else 0)
    print(said)
    sys.exit(1 if done.returncode else 0)


if __name__ == "__main__":
    main()
