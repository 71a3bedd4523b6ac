"""The regression gate looks at ratios alone, and the page says what the files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def report(**ratios: float) -> dict:
    return {
        "networks": {
            "net": {"rows": {name: {"ms": 1000.0, "ratio": value} for name, value in ratios.items()}}
        }
    }


def test_a_loss_of_more_than_15_percent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import check

    before = report(eager=1.0, openvino=2.0, int8=3.0)
    slower = report(eager=1.0, openvino=1.71, int8=9.0)
    slower["networks"]["net"]["rows"]["openvino"]["ms"] = 9000.0  # another machine
    assert check.losses(before, slower) == []
    assert check.losses(before, report(eager=1.0, openvino=1.69, int8=3.0)) == [
        "networks/net/rows/openvino: was 2.00, is 1.69 (-16%)"
    ]
    assert check.losses(before, report(eager=1.0, int8=3.0)) == [
        "networks/net/rows/openvino: was 2.00, is gone"
    ]


def test_each_kind_of_chip_is_compared_with_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import check
    import race

    monkeypatch.setattr(race, "RESULTS", tmp_path)
    names = []
    for extensions in ([], ["avx2"], ["avx2", "avx512f", "avx512_vnni"], ["avx2", "avx512f", "avx512_bf16"]):
        monkeypatch.setattr(race, "isa", lambda extensions=extensions: extensions)
        names.append(race.place("engines").name)
    assert names == ["engines-other.json", "engines-avx2.json", "engines-avx512f.json", "engines.json"]

    (tmp_path / "engines.json").write_text("{}")
    monkeypatch.setattr(race, "isa", lambda: ["avx2"])
    monkeypatch.setattr(check, "insist_on_quiet", lambda: pytest.fail("it measures"))
    monkeypatch.setattr(sys, "argv", ["check.py"])
    with pytest.raises(SystemExit, match="json: no ratios of a chip like this one"):
        check.main()


def test_the_tables_of_the_page_are_those_of_the_files() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "tables.py"), "--check"]
    assert subprocess.run(command, timeout=120).returncode == 0, "run: python benchmarks/tables.py"


def test_a_busy_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import race

    assert 0 <= race.busy_share(0.1) <= 1
    monkeypatch.setattr(race, "busy_share", lambda: 0.5)
    with pytest.raises(SystemExit, match="other work uses 50% of the cores"):
        race.insist_on_quiet()
    monkeypatch.setattr(race, "busy_share", lambda: 0.1)
    race.insist_on_quiet()


def test_help_or_a_wrong_word_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import check

    monkeypatch.setattr(check, "insist_on_quiet", lambda: pytest.fail("it measures"))
    monkeypatch.setattr(sys, "argv", ["check.py", "--help"])
    with pytest.raises(SystemExit, match="--help: it takes --busy alone"):
        check.main()
