"""Options that make each network of the table small, with every kind of layer that it has, but for blocks that keep their input's shape
and the bottlenecks of ckdnet's ResNet."""

from typing import Any

# Repeated blocks and levels tell nothing new about files, and exporting each takes its time.
SHALLOW: dict[str, dict[str, Any]] = {
    "segmae-base": {"depth": 1, "cnn_options": {"units": (1, 1, 1)}},
    "segmae-small": {"depth": 1, "cnn_options": {"width": 32, "units": (1, 1, 1)}},
    "segmae-tiny": {"depth": 1},
    "unet": {"widths": (16, 32, 64)},
    "unetplusplus": {"widths": (16, 32, 64)},
    "attention-unet": {"widths": (16, 32, 64)},
    "segformer-b2": {"depths": (1, 1, 1, 1)},
    "swin-unet": {"depths": (2, 1, 1, 1)},
    "medt": {"global_blocks": (1, 1), "local_blocks": (1,)},
    "transunet": {"depth": 1, "units": (1, 1, 1)},
    "setr-pup": {"depth": 2, "auxiliary": (1, 2)},
    "fat-net": {"depth": 1},
    "resganet-msaspp": {"units": (1, 1, 1, 1)},
    "cpfnet": {"depth": 18},
    "focusnet": {"widths": (16, 32, 48, 64)},
    "dagan": {"widths": (8, 16, 16, 16, 16)},
    "dsnet": {"blocks": (1, 1, 1, 1)},
    "ckdnet": {"depth": 18},
    "mb-dcnn": {"middle": (1, 1)},
    "nnunet": {"side": 16},
    "vm-unet": {"depths": (1, 1, 1, 1), "up_depths": (1, 1, 1, 1)},
}
