"""Engines and precisions against PyTorch's eager float32, side by side: results/bench/engines.json.

python benchmarks/engines.py [segmae-base segmae-tiny]
"""

from __future__ import annotations

import sys

from bench_models import exported
from race import isa, place, race, save
from segmae.files import read_json

SIZES = {"segmae-tiny": 192, "segmae-base": 224}  # tiny as it ships
# bf16 is timed where the chip computes in it; elsewhere OpenVINO takes float32, and the time is that of fp32
PRECISIONS = ("fp32", *(("bf16",) if {"avx512_bf16", "amx_int8"} & set(isa()) else ()), "int8")
FORMS = ("eager", "folded", "folded_channels_last")


def main(networks: list[str]) -> None:
    """Measures each network in turn; the file keeps what was measured before of the others."""
    path = place("engines")
    rows = read_json(path)["networks"] if path.exists() else {}
    for network in networks:
        size = SIZES[network]
        contenders = {
            f"torch {form}": {"network": network, "engine": "torch", "form": form} for form in FORMS
        }
        for engine in ("onnxruntime", "openvino"):
            for precision in PRECISIONS:
                file = str(exported(network, size, engine, precision))
                contenders[f"{engine} {precision}"] = {"file": file, "engine": engine}
        found = race({name: {**spec, "size": size} for name, spec in contenders.items()})
        for row in found.values():
            row["ratio"] = round(found["torch eager"]["ms"] / row["ms"], 3)
        rows[network] = {"size": size, "batch": 1, "rows": found}
        save(place("engines"), {"networks": rows})


if __name__ == "__main__":
    main(sys.argv[1:] or list(SIZES))
