"""schemathesis against a running `segmae serve`: requests made from its OpenAPI, none of which may answer 5xx.

    pip install schemathesis
    python benchmarks/serve_contract.py --json results/serve/contract.json

Besides 5xx it counts what the answers' statuses and types say against the description.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path

from segmae.files import write_json
from serve_load import hardware, server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"
STATUS = re.compile(r'segmae_request_seconds_count\{route="([^"]+)",status="(\d+)"\} ([\d.]+)')


def counts(url: str) -> Counter[tuple[str, str]]:
    """Answers so far, by route and status."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = STATUS.findall(answer.read().decode())
    return Counter({(route, status): int(float(count)) for route, status, count in found})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--examples", type=int, default=100, help="of each operation and phase")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tool = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis"
    with server("--threads", "1") as (port, _):
        url = f"http://127.0.0.1:{port}"
        command = [tool, "run", f"{url}/openapi.json", "--url", url, "--checks", CHECKS, "--max-examples", str(given.examples),
                   "--seed", str(given.seed), "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"]  # fmt: skip
        before = counts(url)  # of the server's start: 503 while the model loads
        with tempfile.TemporaryDirectory() as folder:  # where it leaves what it remembers
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=folder)
        print(done.stdout[-6000:], done.stderr[-2000:])
        after = counts(url)
    answers: dict[str, dict[str, int]] = {}
    statuses: Counter[str] = Counter()
    for (route, status), count in sorted((after - before).items()):
        answers.setdefault(route, {})[status] = count
        statuses[status] += count
    summary = done.stdout[done.stdout.rfind("SUMMARY") :]
    found = {
        "hardware": hardware(),
        "schemathesis": importlib.metadata.version("schemathesis"), "seed": given.seed, "examples": given.examples,
        "checks": CHECKS.split(","), "exit_code": done.returncode, "requests": sum(statuses.values()),
        "server_errors": sum(count for status, count in statuses.items() if status.startswith("5")),
        "answers": answers, "summary": [line.rstrip() for line in summary.splitlines() if line.strip(" =")],
    }  # fmt: skip
    if given.json:
        write_json(given.json, found)
    if found["server_errors"] or done.returncode:
        sys.exit(f"{found['server_errors']} answers of 5xx; schemathesis ended with {done.returncode}")


if __name__ == "__main__":
    main()
