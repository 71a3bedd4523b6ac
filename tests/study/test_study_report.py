"""A study's report, on outcomes that are written down here; no torch, no images."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from outcomes import seen, write_cell, write_plan, write_seeds

from segmae import statistics
from segmae.errors import ConfigError, DataError
from segmae.study import plots
from segmae.study.claims import _against
from segmae.study.comparison import Comparison, Interval, corrected
from segmae.study.evidence import load_evidence
from segmae.study.ledger import Ledger
from segmae.study.page import Table
from segmae.study.report import _tests, build_page, write_all_reports, write_report
from segmae.study.wording import p_value


def test_what_another_seed_may_change_as_much_is_not_decided(three_rows: Path) -> None:
    evidence = load_evidence(Ledger("three", three_rows))
    assert evidence.measured_spread is None
    text = build_page(evidence).markdown("three")
    assert "B beats A, on drawn: **not decided: other seeds may change as much**." in text
    assert "count by their own): drawn: not measured." in text
    for label, apart, spread in (("another", 0.03, None), ("small, for a CPU", 0.03, 0.03 / 6**0.5)):
        write_seeds(three_rows, apart, label)
        found = load_evidence(Ledger("three", three_rows)).measured_spread
        assert (found and found.deviation) == (spread and pytest.approx(spread))
    assert found is not None and found.freedom == 2
    assert found.least(4) == pytest.approx(4.3027 * 2**0.5 * found.deviation / 2, rel=1e-4)
    assert (
        found.p(found.least(4), 4) == pytest.approx(0.05)
        and found.source == "the study `seeds`, drawn-net on drawn"
    )
    (place,) = load_evidence(Ledger("three", three_rows)).places
    assert corrected(place.compare([("b", "a")]))[0].verdict == "worse"
    write_seeds(three_rows, 0.5)
    (place,) = load_evidence(Ledger("three", three_rows)).places
    assert corrected(place.compare([("b", "a")]))[0].verdict == "few seeds"
    assert corrected(place.compare([("c", "a")]))[0].verdict == "not shown"


def test_claims_are_corrected_for_all_datasets_of_a_study(tmp_path: Path) -> None:
    folder, random = tmp_path / "study", np.random.default_rng(0)
    claims = [{"text": text, "row": "a", "than": ["b"]} for text in ("A wins", "B loses")]  # one comparison
    write_plan(folder, {"a": "", "b": ""}, {"one": "one", "two": "two"}, [0], claims=claims)
    for data in ("one", "two"):
        write_cell(folder, "a", data, 0, seen(random, 10))
        write_cell(folder, "b", data, 0, seen(random, 10))
    evidence = load_evidence(Ledger("study", tmp_path))
    p = [place.compare([("a", "b")])[0].p for place in evidence.places]
    page = build_page(evidence).markdown("study")
    assert sorted(p) != sorted(statistics.holm(p))
    for value in statistics.holm(p):
        assert f"| {value:.3f} | – |" in page


@pytest.mark.parametrize(
    "verdicts, text",
    [
        ("better better", "holds against all 2"),
        ("better worse", "holds against 1 of 2; the other way round against c"),
        ("not_shown worse", "does not hold: the other way round against c; not shown against b"),
        ("not_shown few_seeds", "not decided by so few seeds against c; not shown against b"),
        ("not_shown not_shown", "not shown against b, c"),
    ],
)
def test_a_claim_on_several_rows_begins_with_what_is_the_case(verdicts: str, text: str) -> None:
    plan = {"rows": {name: {"label": name} for name in "abc"}}
    found = [SimpleNamespace(than=than, verdict=verdict.replace("_", " "))
             for than, verdict in zip("bc", verdicts.split(), strict=True)]  # fmt: skip
    assert _against(plan, found) == text


def test_the_bar_of_the_ranks_is_as_long_as_the_critical_difference(
    three_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = load_evidence(Ledger("three", three_rows)).places
    monkeypatch.setattr(plots, "_png", lambda figure: figure)
    (axes,) = plots.draw_ranks(place, {row: row for row in "abcd"}, "a", "").axes  # type: ignore[attr-defined]
    bar = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    ranks, critical, _ = place.ranks()
    assert (bar.x0, bar.x1) == pytest.approx((min(ranks.values()), min(ranks.values()) + critical))


def test_the_report_says_what_holds_what_is_printed_and_what_is_open(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    evidence = load_evidence(Ledger("three", three_rows))
    text = build_page(evidence).markdown("three")
    for c in corrected(evidence.places[0].compare([("a", "b"), ("a", "c"), ("b", "a")])):
        assert f"| {p_value(c.adjusted)} | {p_value(c.adjusted_runs)} |" in text
    assert "# Drawn (cpu scale)" in text and "**small, for a CPU.** 3 of 4 cells are finished" in text
    assert "A wins, on drawn: **holds against 1 of 2; not shown against C**; open against D." in text
    assert "B beats A, on drawn: **does not hold: it is the other way round**." in text
    assert "D wins, on drawn: open, the cells are not finished." in text
    assert "0.941†" in text and "† A on ph2: Dice 0.941 is above 2 IoU / (1 + IoU) = 0.937" in text
    assert "failed: `d_drawn_s0`: no memory left" in text and "Not finished yet: D." in text
    captions = [line for line in text.splitlines() if line.startswith("*") and not line.startswith("**")]
    assert len(captions) == 6 and all("(small, for a CPU)*" in line for line in captions)


def test_every_column_holds_what_its_header_says(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": "SegMAE", "b": "U-Net"}, {"drawn": "drawn"}, [0, 1, 2], claims=[{"text": "x", "row": "b", "than": ["a"]}])  # fmt: skip
    network = {"i1": (10, 0, 0), "i2": (10, 0, 10), "i3": (2, 6, 2)}  # Dice 1, 2/3, 1/3
    original = {"i1": (20, 0, 0), "i2": (10, 5, 5), "i3": (0, 4, 4)}  # Dice 1, 2/3, 0
    training = {"seconds": 150.0, "tflop": 1.0, "epochs": 3, "best_epoch": 3}
    for seed in range(3):
        write_cell(folder, "a", "drawn", seed, network, original=original, training=training)
        write_cell(folder, "b", "drawn", seed, {**network, "i2": (10 + seed, 0, 10)}, original=original)
    evidence = load_evidence(Ledger("study", tmp_path))
    (place,) = evidence.places
    page = build_page(evidence).markdown("study")
    overlap, pixels, at_original, cost = [line for line in page.splitlines() if line.startswith("| A |")]
    values = re.sub(r" \[[^]]*\]", "", overlap).split(" | ")[1:]
    assert values[:6] == ["3 of 3", "0.667", "0.000", f"{44 / 62:.3f}", "0.567", f"{22 / 40:.3f}"]
    assert values[6:] == ["0.941†", "0.881† |"]
    # of 64 pixels right: 64, 54, 56; of lesion found: 10 of 10, 10 of 20, 2 of 4; of skin left out: 54 of 54, 44 of 44, 54 of 60
    shares = [(64 + 54 + 56) / 192, 174 / 192, (1 + 0.5 + 0.5) / 3, 22 / 34, (1 + 1 + 0.9) / 3, 152 / 158]
    values = [value for n, value in enumerate(pixels.strip("| ").split(" | ")[1:]) if n % 3 < 2]
    assert values == [f"{share:.3f}" for share in shares]
    values = re.sub(r" \[[^]]*\]", "", at_original).strip("| ").split(" | ")[1:]
    assert values == [f"{v:.3f}" for v in (5 / 9, 60 / 78, 0.5, 30 / 48)] + ["3.0", "0.500"]
    assert cost == "| A | 2.00 | 3.00 | 3.5 | 1.5 | 4.0 |"
    assert "6 of 6 finished cells were at their best on validation images in their last epoch" in page
    for bounds in re.findall(r"(\d\.\d+) \[(\d\.\d+), (\d\.\d+)\]", page):
        value, low, high = map(float, bounds)
        assert low <= value <= high
    assert place.seed_spread and f"{2**0.5 * place.seed_spread.deviation:.4f}, by 2 rows and 3 seeds" in page
    (claim,) = [line for line in page.splitlines() if line.startswith("| B over A |")]
    assert "| −0.047† |" in claim, "of U-Net's printed Dice .894 and SegMAE's .941"


def test_p_is_shown_before_and_after_its_correction() -> None:
    gain = Interval(0.1, 0.05, 0.15)
    found = [Comparison("b", "a", 3, 40, gain, 0.03, 0.005, 0.03, 0.005), Comparison("c", "a", 3, 40, gain, 0.02, 0.2, 0.02, 0.2)]  # fmt: skip
    plan = {"reference": "a", "rows": {row: {"label": row} for row in "abc"}, "scale_label": "small"}
    (table,) = _tests(plan, SimpleNamespace(compare=lambda pairs: found))  # type: ignore[arg-type]
    assert isinstance(table, Table)
    gained = "+0.100 [+0.050, +0.150]"
    assert table.rows == [["b", "3", "40", gained, "0.030", "0.040", "0.010", "better"],
                          ["c", "3", "40", gained, "0.020", "0.040", "0.200", "few seeds"]]  # fmt: skip


def test_a_report_is_made_without_torch_and_without_data_and_stands_alone(three_rows: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from segmae.study.report import write_report\n"
        "root = Path(sys.argv[1])\n"
        "write_report('three', root, root / 'docs')\n"
        "assert not {'torch', 'omegaconf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(three_rows)], check=True, timeout=120)
    page = (three_rows / "docs" / "three.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "<link" not in page and 'src="http' not in page
    pictures = sorted(file.name for file in (three_rows / "docs" / "three").iterdir())
    assert pictures == [f"drawn-test-{kind}.png" for kind in ("boxes", "costs", "ranks")]
    first = {file.name: file.read_bytes() for file in (three_rows / "docs" / "three").iterdir()}
    write_report("three", three_rows, three_rows / "docs")
    assert first == {file.name: file.read_bytes() for file in (three_rows / "docs" / "three").iterdir()}


def test_all_reports_at_once_and_a_page_of_all_claims(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    write_plan(three_rows / "begun", {"a": ""}, {"drawn": "drawn"}, [0], claims=[{"text": "x", "row": "a", "than": ["a"]}])  # fmt: skip
    written, failed = write_all_reports(three_rows, three_rows / "docs")
    assert not failed
    names = [
        f"{name}.{ending}" for name in ("begun", "seeds-cpu", "three", "claims") for ending in ("md", "html")
    ]
    assert [path.name for path in written] == names and all(path.is_file() for path in written)
    page = (three_rows / "docs" / "claims.md").read_text()
    assert (
        "## Drawn (cpu scale)\n\n**small, for a CPU.** 3 of 4 cells are finished. The report: `three.md`."
        in page
    )
    assert all(
        f"**{verdict}**: " in page for verdict in ("holds", "not shown", "not decided", "does not hold")
    )
    assert "- B beats A, on drawn: **does not hold: it is the other way round**.\n" in page
    assert "begun.md" not in page, "it has nothing to say yet"
    with pytest.raises(DataError, match="holds no study"):
        write_all_reports(three_rows / "docs")


def test_a_study_that_was_never_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"study\.json: not here yet"):
        write_report("none", tmp_path, tmp_path)


def test_a_slip_in_the_name_is_told_with_the_nearest_study(three_rows: Path) -> None:
    with pytest.raises(DataError, match=r"not here yet\. Did you mean 'three'\?"):
        write_report("thre", three_rows, three_rows)


def test_a_study_without_a_finished_cell_says_so(tmp_path: Path) -> None:
    write_plan(
        tmp_path / "study",
        {"a": ""},
        {"drawn": "drawn"},
        [0],
        claims=[{"text": "x", "row": "a", "than": ["a"]}],
    )
    assert "No cell is finished yet" in build_page(load_evidence(Ledger("study", tmp_path))).markdown("study")


def test_a_damaged_study_is_named_and_the_others_are_reported(three_rows: Path) -> None:
    write_plan(three_rows / "begun", {"a": ""}, {"drawn": "drawn"}, [0])
    cell = next(path for path in (three_rows / "three").glob("*_s0.json"))
    whole = cell.read_text()
    for damage in ("", f"<<<<<<< HEAD\n{whole}", "[]", "{}", whole[:50]):
        cell.write_text(damage)
        with pytest.raises(
            DataError, match=rf"{cell.name}: is damaged.*Restore it from git, or remove it: the cell is run"
        ):
            write_report("three", three_rows, three_rows / "docs")
        written, failed = write_all_reports(three_rows, three_rows / "docs")
        assert [path.name for path in written] == ["begun.md", "begun.html"]
        assert [failure["study"] for failure in failed] == ["three"]
    cell.write_text(whole)
    (three_rows / "three" / "study.json").write_text("")
    with pytest.raises(DataError, match=r"study\.json: is damaged.*`segmae study run` writes it again"):
        write_report("three", three_rows, three_rows / "docs")


def test_a_comparison_that_two_claims_share_is_one_line_of_their_table(tmp_path: Path) -> None:
    claims = [{"text": text, "row": "a", "than": ["b"]} for text in ("One", "Another")]
    write_plan(tmp_path / "shared", {"a": "", "b": ""}, {"drawn": "drawn"}, [0], claims=claims)
    for row in "ab":
        write_cell(tmp_path / "shared", row, "drawn", 0, {"one": (10, 0, 0), "two": (8, 4, 4)})
    text = build_page(load_evidence(Ledger("shared", tmp_path))).markdown("shared")
    assert text.count("| A over B |") == 1 and "- One, on" in text and "- Another, on" in text


def test_a_report_is_named_by_a_file_a_name_or_a_folder(three_rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "drawn.yaml"
    file.write_text("")
    (three_rows / "three").rename(three_rows / "drawn-cpu")
    for study, scale in ((file, "cpu"), ("drawn", "cpu"), ("drawn-cpu", "paper")):
        written = write_report(study, three_rows, tmp_path / "docs", scale)
        assert [path.name for path in written] == ["drawn-cpu.md", "drawn-cpu.html"]
    with pytest.raises(ConfigError, match=r"none\.yaml: no such study"):
        write_report("none.yaml", three_rows, tmp_path)


def test_a_column_of_words_is_aligned_as_one_and_so_is_its_header() -> None:
    html = Table("c", ["row", "on", "Dice"], [["1: a", "ISIC2018", "0.8"], ["2: b", "PH2", "0.9"]]).html()
    assert re.findall(r"<t[hd]( class=text)?>(on|ISIC2018|PH2|Dice|0\.[89])<", html) == [
        (" class=text", "on"), ("", "Dice"), (" class=text", "ISIC2018"), ("", "0.8"), (" class=text", "PH2"), ("", "0.9"),
    ]  # fmt: skip
