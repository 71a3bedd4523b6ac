"""Feed the readers with damaged files for as long as you like, led by coverage. Not a part of the tests: what it finds becomes one.

    pip install atheris                                     # Linux, Python 3.11 to 3.13
    python scripts/fuzz.py image --seconds 300              # data/images.py: photographs and masks
    python scripts/fuzz.py dicom --seconds 300              # dicom/read.py; needs the extra dicom
    python scripts/fuzz.py checkpoint --seconds 120         # config.json, headers of safetensors, trust.json, ensemble.json
    python scripts/fuzz.py image finding-1234               # a file that it kept, once more

A reader may give a result or raise an error meant for users (`SegmaeError`), and nothing else: no other error, no warning, no more than
20 seconds, no allocation of more than 2 GB. An input that breaks this is kept as `crash-...`, `timeout-...` or `oom-...` in the current folder.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["segmae", "PIL", "pydicom"]):
    import numpy as np
    from PIL import Image

    from segmae.checkpoint import members, read_info, weights_digests
    from segmae.data.images import read_image, read_mask
    from segmae.data.phantom import draw_lesion
    from segmae.ensemble import tuned_threshold
    from segmae.errors import SegmaeError
    from segmae.trust import load_trust

    with suppress(ImportError):
        from segmae.dicom import open_object

FOLDER = Path(tempfile.mkdtemp(prefix="segmae-fuzz-"))
ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src" / "segmae" / "assets" / "segmae-tiny"


def image(data: bytes) -> None:
    path = FOLDER / "a.png"
    path.write_bytes(data)
    for read in (lambda: read_image(data), lambda: read_image(path, at_least=4), lambda: read_mask(path)):
        with suppress(SegmaeError):
            read()


def dicom(data: bytes) -> None:
    path = FOLDER / "a.dcm"
    path.write_bytes(data)
    with suppress(SegmaeError):
        opened = open_object(path)
        for number in range(1, min(opened.count, 3) + 1):
            pixels, _ = opened.frame(number)
            assert pixels.shape == (opened.height, opened.width, 3) and pixels.dtype == np.uint8


def checkpoint(data: bytes) -> None:
    """The first byte says as which file of a model folder the rest is read."""
    if not data:
        return
    kind, content = data[0] % 4, data[1:]
    place = FOLDER / "model"
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    (place / "model.onnx").write_bytes(b"weights")
    (place / "config.json").write_bytes((ASSETS / "config.json").read_bytes())
    name = ("config.json", "model.safetensors", "trust.json", "ensemble.json")[kind]
    (place / name).write_bytes(content)
    for read in (
        lambda: read_info(place / "model.safetensors" if kind == 1 else place),
        lambda: load_trust(place / "trust.json"),
        lambda: members(place),
        lambda: weights_digests(place),
        lambda: tuned_threshold(place) if kind == 3 else None,
    ):
        with suppress(SegmaeError):
            read()


def pictures() -> Iterator[bytes]:
    yield (ROOT / "tests" / "data" / "assets" / "drawn.heic").read_bytes()
    photo, mask = (Image.fromarray(values).resize((24, 16)) for values in draw_lesion(0, (96, 64)))
    for picture in (
        photo,
        mask.point(lambda value: 255 * (value > 0)),
        photo.convert("I;16"),
        photo.convert("F"),
        photo.convert("P"),
    ):
        for kind, options in (
            ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("GIF", {}), ("WEBP", {}),
            ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {"compression": "jpeg"}),
            ("TIFF", {"compression": "packbits", "save_all": True, "append_images": [photo]}), ("PPM", {}), ("JPEG2000", {}),
        ):  # fmt: skip
            buffer = io.BytesIO()
            with suppress(OSError, ValueError, KeyError, TypeError):  # not every mode in every format
                picture.save(buffer, kind, **options)
                yield buffer.getvalue()


def objects() -> Iterator[bytes]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from dicom_objects import valid_objects

    yield from valid_objects()


def model_files() -> Iterator[bytes]:
    config = json.loads((ASSETS / "config.json").read_text())
    text = json.dumps({"__metadata__": {"segmae": json.dumps(config)}}).encode()
    yield b"\0" + json.dumps(config).encode()
    yield b"\1" + len(text).to_bytes(8, "little") + text
    yield b"\2" + (ASSETS / "trust.json").read_bytes()
    yield (
        b"\3" + json.dumps({"members": [{"model": "segmae-tiny", "weights": {}}], "threshold": 0.5}).encode()
    )


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "image": (image, pictures),
    "dicom": (dicom, objects),
    "checkpoint": (checkpoint, model_files),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("finding", nargs="?", help="a file to read once more")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--corpus", type=Path, help="folder that keeps what was interesting; default: a temporary one"
    )
    given = parser.parse_args()
    read, seeds = TARGETS[given.target]
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module=r"(numpy|pydicom|PIL)\..*")

    corpus: Path = given.corpus or FOLDER / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds()):
        (corpus / f"seed-{number:03}").write_bytes(content)
    options: list[Any] = [
        sys.argv[0],
        f"-max_total_time={given.seconds}",
        "-timeout=20",
        "-rss_limit_mb=6144",  # of the whole run, which keeps more than the input under test
        "-malloc_limit_mb=2048",
        "-max_len=20000",
    ]
    atheris.Setup([*options, given.finding or str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
