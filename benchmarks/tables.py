"""Write the tables of docs/speed.md from results/bench/*.json, between its two marks.

python benchmarks/tables.py           (writes)
python benchmarks/tables.py --check   (exits 1 where the page is not what the files say)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from race import REPOSITORY, RESULTS
from segmae.files import atomic_write, read_json

PAGE = REPOSITORY / "docs" / "speed.md"
BEGIN, END = "<!-- tables: python benchmarks/tables.py -->", "<!-- end of tables -->"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def hardware(report: dict[str, Any]) -> str:
    machine, versions = report["machine"], report["versions"]
    extras = ", ".join(machine["isa"]) or "no vector extensions known"
    load = report["load"][0]
    busy = f"; load average {load}: other work ran on these cores" if load > machine["cpus"] + 1 else ""
    return f"{machine['processor']}, {machine['cpus']} cores ({extras}); torch {versions.get('torch', '-')}{busy}"


def engines(report: dict[str, Any]) -> str:
    parts = []
    for network, found in report["networks"].items():
        rows = [
            (name, row["ms"], row["median_ms"], f"{row['ratio']:.2f}", row["start_seconds"], row["peak_mb"])
            for name, row in found["rows"].items()
        ]
        head = (
            f"{network}, {found['size']} px",
            "ms, fastest",
            "median",
            "times as fast as eager",
            "start, s",
            "peak, MB",
        )
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def stages(report: dict[str, Any]) -> str:
    parts = []
    for network, found in report["networks"].items():
        rows = [
            (name, f"{row['gflops']:.2f}", f"{row['gflops'] / found['gflops']:.1%}", f"{row['eager_share']:.1%}",
             row["eager_ms"], row["folded_ms"])
            for name, row in found["stages"].items()
        ]  # fmt: skip
        rows.append(
            ("all", f"{found['gflops']:.2f}", "100 %", "100 %", found["eager_ms"], found["folded_ms"])
        )
        head = (
            f"{network}, {report['size']} px",
            "GFLOP",
            "of operations",
            "of time",
            "eager, ms",
            "folded, ms",
        )
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def decoding(report: dict[str, Any]) -> str:
    rows = [
        (name, report[name]["ms"], report[name]["decoder_ms"], report[name]["ratio"])
        for name in ("isic2018", "24 megapixels")
    ]
    first = table(("photograph to network input", "ms", "decoder alone, ms", "ratio"), rows)
    rates = ", ".join(f"{rate} on {n}" for n, rate in report["over cores"]["images_per_second"].items())
    d = report["reduced against full decoding"]
    return (
        f"{first}\n\nPreparing, images a second by processes: {rates}. Dice with reduced decoding {d['reduced']:.5f}, with full "
        f"decoding {d['full']:.5f} ({d['images']} images; the largest difference of one image {d['largest_of_an_image']:.4f})."
    )


def accuracy(report: dict[str, Any]) -> str:
    rows = []
    for name, row in report["rows"].items():
        if "refused" in row:
            rows.append((name, "refused", row["refused"]))
        else:
            rows.append((name, f"{row['dice@original']['mean']:.4f}", f"{row['iou@original']['mean']:.4f}"))
    return table((f"{report['model']}, {report['split']} {report['part']}", "Dice", "IoU"), rows)


def parity(report: dict[str, Any]) -> str:
    rows = [
        (name, f"{row['equal']:.5%}", f"{row['worst_image']:.4%}") for name, row in report["engines"].items()
    ]
    return table((f"masks against torch's, {report['images']} images", "equal pixels", "worst image"), rows)


def peers(report: dict[str, Any]) -> str:
    rows = [(name, row["ms"], row["median_ms"], row["peak_mb"]) for name, row in report["rows"].items()]
    return table((f"{report['size']} px, batch {report['batch']}", "ms, fastest", "median", "peak, MB"), rows)


def cpu_train(report: dict[str, Any]) -> str:
    rows = [
        (network, form, row["images_per_second"], f"{row['ratio']:.2f}")
        for network, forms in report["networks"].items()
        for form, row in forms.items()
    ]
    return table(
        ("network", f"training at {report['size']} px, batch {report['batch']}", "images/s", "ratio"), rows
    )


def gpu_train(report: dict[str, Any]) -> str:
    s, ratio, rows = report["settings"], report["ratio"], report.get("rows", {})
    ladder = table(
        (f"{s['model']}, {s['size']} px, batch {s['batches'][0]}", "images/s", "ratio", "first step, s"),
        [
            (name, f"{row['images_per_second']:.1f}", f"{row['ratio']:.2f}" if "ratio" in row else "-",
             f"{row['first_step_seconds']:.1f}")
            for name, row in rows.items()
        ],
    )  # fmt: skip

    def shown(value: float | None, scale: float = 1000, form: str = ".2f") -> str:
        return "-" if value is None else format(scale * value, form)

    limits = table(
        ("batch", "images/s", "TFLOP a step", "ms", "compute floor, ms", "eager bytes, ms", "MFU", "of a measured product"),
        [
            (row["batch"], f"{row['images_per_second']:.1f}", shown(row["flops"], 1e-12), shown(row["seconds"]),
             shown(row["compute_floor_seconds"]), shown(row["eager_bytes_seconds"]), shown(row["mfu"], 1, ".1%"),
             shown(row["of_measured_product"], 1, ".1%"))
            for row in report.get("batches", {}).values()
        ],
    )  # fmt: skip
    goal = "not all of it is measured yet" if ratio is None else f"{ratio:.2f} times"
    peak = report.get("chip", {}).get("peaks", {})
    missing, share = [*report["failed"], *report["open"]], report["stage1_share_of_full_step"]
    return (
        f"{s['device']}, torch {s['torch']}, {s['precision']}. Peaks: {peak.get('source', 'not measured')}. Goal: at least "
        f"{report['goal']} times the plainest float32 eager loop; ours ({report['ours']}): {goal}."
        + (f" A step of stage 1 takes {share:.0%} of one of supervised training." if share else "")
        + (f" Missing: {', '.join(missing)}." if missing else "")
        + f"\n\n{ladder}\n\n{limits}\n\nEach row changes one thing more than the row above; the deterministic one is beside them. "
        "Compute floor: three times the forward pass's operations at the chip's peak; no step is faster. Eager bytes: what leaf modules "
        "read and write at the chip's bandwidth. It is no bound: compiling fuses modules, and sums and interpolation between them are left out."
    )


def predict(report: dict[str, Any]) -> str:
    head = ("photographs", "s", "images/s", "share of reading", "peak, MB")
    first = table(
        head,
        [
            (r["images"], r["seconds"], r["images_per_second"], f"{r['reading_share']:.0%}", r["peak_mb"])
            for r in report["images"]
        ],
    )
    growth = table(
        ("input, px", "batch", "ms", "ns a pixel", "peak, MB"),
        [
            (r["size"], r["batch"], r["ms"], r["ns_per_pixel"], r["peak_mb"])
            for r in [*report["batch"], *report["size"]]
        ],
    )
    return f"A cold `segmae predict photo.jpg` takes {report['cold']['seconds']} s.\n\n{first}\n\n{growth}"


PARTS = {
    "engines": ("Engines and precisions", engines), "accuracy": ("Accuracy", accuracy), "parity": ("Parity", parity),
    "stages": ("Stages of the network", stages), "decoding": ("Decoding", decoding), "predict": ("From end to end", predict),
    "peers": ("Beside peers", peers), "cpu_train": ("Training on a CPU", cpu_train),
    "gpu_train": ("Training on a GPU", gpu_train),
}  # fmt: skip


def written() -> str:
    parts = []
    for name, (title, make) in PARTS.items():
        tables = []
        for path in [RESULTS / f"{name}.json", *sorted(RESULTS.glob(f"{name}-*.json"))]:
            if path.exists():
                report = read_json(path)
                source = f"[{path.name}](../results/bench/{path.name}): {hardware(report)}."
                tables.append(f"{make(report)}\n\n{source}")
        if tables:
            parts.append("\n\n".join([f"### {title}", *tables]))
    return "\n\n".join(parts)


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page = f"{before}{BEGIN}\n\n{written()}\n\n{END}{after}"
    if "--check" in sys.argv:
        return int(page != text)
    atomic_write(PAGE, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
