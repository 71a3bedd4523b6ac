"""The figures that the paper printed: those that cannot be are known."""

from __future__ import annotations

from segmae.study.printed import _tables, faults, printed


def test_the_papers_impossible_figures_are_those_of_its_known_slips() -> None:
    faulty = {key for key, row in _tables().items() if row.faults}
    assert faulty == {
        ("table1", "isic2017", "SegMAE"), ("table2", "isic2018", "SegMAE"), ("table3", "ph2", "SegMAE"),
        ("table3", "ph2", "MB-DCNN"), ("table3", "ph2", "DSNet"),
        *(("table4", "isic2017", str(row)) for row in range(2, 8)), *(("table4", "ph2", str(row)) for row in (1, 2, 4, 5, 6, 7)),
    }  # fmt: skip
    assert len(_tables()) == 23 + 21
    found = printed("table2", "isic2018", "FAT-Net")
    assert found is not None and found.figures["dice"] == 0.89 and not found.faults
    assert printed("table2", "isic2018", "none") is None


def test_rounding_alone_is_no_fault() -> None:
    assert faults({"dice": 0.8, "iou": 0.6667}) == []
    _, of_accuracy = faults({"dice": 0.81, "iou": 0.6667, "accuracy": 0.5, "sensitivity": 0.9, "specificity": 0.8})  # fmt: skip
    assert of_accuracy.endswith("is below both sensitivity and specificity, as only means over images can be")
