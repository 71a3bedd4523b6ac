"""The page of the Python API: the modules that a user calls, for mkdocstrings to fill in."""

from __future__ import annotations

MODULES = {
    "Predict": ("predictor", "predict", "earlier", "result", "outputs", "rows", "collection", "measure", "appearance", "contour", "overlay", "exchange", "gallery", "views", "trust", "ensemble", "dicom", "client"),
    "Your own data": ("finetune", "rank", "compare", "masks", "calibrate"),
    "Train": ("config", "recipe", "train", "tasks", "losses", "checkpoint", "models", "models.segmae", "models.layers", "models.hiding"),
    "Evaluate": ("evaluate", "metrics", "statistics", "report"),
    "Data": ("data.catalog", "data.splits", "data.images", "data.preprocess", "data.check", "data.augment", "data.dataset", "data.phantom", "data.download"),
    "Hand on": ("hub", "card"),
    "Rest": ("errors", "doctor", "demo"),
}  # fmt: skip

INTRODUCTION = """# API

Made from the docstrings. The names at the top of the package (`segmae.load`, `segmae.Predictor`, `segmae.Result`,
`segmae.create_model`, `segmae.list_models`, `segmae.load_model`, `segmae.save_pretrained`, `segmae.SegmaeError`) are those of the
modules below.
"""


def page() -> str:
    """Markdown with a directive for each module."""
    parts = [INTRODUCTION]
    for title, modules in MODULES.items():
        parts.append(f"\n## {title}\n")
        parts += [f"\n::: segmae.{module}\n    options:\n      heading_level: 3\n" for module in modules]
    return "".join(parts)
