"""What the shipped model is measured on: dataset, split and part, by the name of the files in results/."""

from __future__ import annotations

JUDGED_ON = {
    "isic2018-fold1-test": ("isic2018", "isic2018/fold1", "test"),
    "ph2-all-test": ("ph2", "ph2/all", "test"),
    "ham10000-sample-test": ("ham10000", "ham10000/sample", "test"),
}
