"""What users would pick instead, in the same process conditions, eager and exported to ONNX: results/bench/peers.json.

segmentation_models.pytorch needs torchvision, which nothing here may need: MONAI's FlexibleUNet with a ResNet-34 stands
for its `Unet("resnet34")`, the same design. All at 224 px and batch 1 with random weights.
"""

from __future__ import annotations

from bench_models import exported
from race import place, race, save

NETWORKS = ("segmae-tiny", "segmae-base", "monai-unet", "unet-resnet34", "segformer-b2")
SIZE = 224


def main() -> None:
    contenders = {}
    for network in NETWORKS:
        contenders[f"{network} eager"] = {"network": network, "engine": "torch", "size": SIZE}
        file = str(exported(network, SIZE, "onnxruntime"))
        contenders[f"{network} onnxruntime"] = {"file": file, "engine": "onnxruntime", "size": SIZE}
    found = race(contenders, rounds=6)
    reference = found["segmae-base eager"]["ms"]
    for row in found.values():
        row["ratio"] = round(reference / row["ms"], 3)
    save(place("peers"), {"size": SIZE, "batch": 1, "rows": found})


if __name__ == "__main__":
    main()
