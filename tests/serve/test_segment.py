"""What /v1/segment and /v1/measure answer, compared with the direct prediction of the same file."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import PATIENCE, Running, drawn, encoded, opened, until

import segmae
from segmae import contour
from segmae.client import multipart
from segmae.data.preprocess import restore
from segmae.measure import measure
from segmae.trust import entropy

KINDS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_bits_of_the_direct_prediction(
    running: Running, predictor: segmae.Predictor, kind: str
) -> None:
    data = drawn(3, (301, 200), kind)
    result = predictor(data)
    found = running.client.segment(data, include="mask,probability,uncertainty,measurements")
    assert (found["width"], found["height"]) == (301, 200)
    assert (opened(base64.b64decode(found["mask"]["png"])) == result.mask * 255).all()
    grey = np.rint(restore(result.network, (301, 200)) * 255)
    assert (opened(base64.b64decode(found["probability"]["png"])) == grey).all()
    assert (
        opened(base64.b64decode(found["uncertainty_map"]["png"]))
        == np.rint(entropy(result.probability) * 255)
    ).all()
    assert found["measurements"] == _plain(result.measure().to_dict())
    assert found["lesion_share"] == round(result.lesion_share, 6) > 0
    assert found["expected_dice"] == pytest.approx(result.expected_dice, abs=1e-4)
    assert found["uncertainty"] == round(result.uncertainty, 6)
    assert found["model"] == {
        "name": "segmae-tiny",
        "weights": predictor.digest,
        "threshold": result.threshold,
    }
    assert set(found["timing_ms"]) == {"decode", "queue", "network", "finish"}


def test_a_list_may_be_several_fields_of_one_name(running: Running) -> None:
    body, kind = multipart({"image": [drawn(3)]}, {"include": "mask"})
    boundary = kind.partition("boundary=")[2].encode()
    body = b'--%s\r\nContent-Disposition: form-data; name="include"\r\n\r\nmeasurements\r\n' % boundary + body
    found = running.ask("POST", "/v1/segment", body, Content_Type=kind).json
    assert {"mask", "measurements"} <= set(found) and "probability" not in found


def test_the_files_it_gives_hold_the_direct_prediction(running: Running, predictor: segmae.Predictor) -> None:
    data, ask = drawn(5, kind="JPEG"), running.client.segment
    result = predictor(data)
    assert (opened(ask(data, output="mask")) == result.mask * 255).all()
    assert (opened(ask(data, output="probability")) == np.rint(result.probability * 65535)).all()
    assert (opened(ask(data, output="uncertainty")) == np.rint(result.uncertainty_map * 65535)).all()
    for style in ("contour", "fill", "side"):
        assert (
            opened(ask(data, output="overlay", overlay_style=style)) == np.asarray(result.overlay(style))
        ).all()


def test_options_change_the_mask_as_they_do_in_python(running: Running, predictor: segmae.Predictor) -> None:
    data = drawn(5)
    result = predictor(data)
    for options in ({"keep_largest": True}, {"fill_holes": True}):
        mask = opened(running.client.segment(data, output="mask", **options))
        assert (mask == result.cleaned(**options).mask * 255).all()
    scaled = running.client.segment(data, include="measurements", mm_per_pixel=0.05)["measurements"]
    assert scaled["area_mm2"] == pytest.approx(scaled["area_px"] * 0.05**2)


def test_eight_views_are_those_of_the_predictor(running: Running) -> None:
    data, eight = drawn(5), segmae.load(threads=1, views=8)
    found, result = running.client.segment(data, views=8, include="mask"), eight(data)
    assert (opened(base64.b64decode(found["mask"]["png"])) == result.mask * 255).all()
    assert found["model"]["weights"] == eight.digest
    assert found["expected_dice"] == round(result.expected_dice or 0, 4)


def test_polygons_are_the_outline_of_the_mask(running: Running, predictor: segmae.Predictor) -> None:
    data = drawn(7)
    found, wanted = running.client.segment(data)["polygons"], predictor(data).contours
    assert len(found) == len(wanted) > 0
    for one, exact in zip(found, wanted, strict=True):
        for ring, points in zip([one["outer"], *one["holes"]], [exact.outer, *exact.holes], strict=True):
            assert np.abs(np.array(ring) - points).max() <= 0.0005
            assert ring[0] == ring[-1]


def test_a_turned_photograph_comes_back_upright(running: Running, predictor: segmae.Predictor) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    data = drawn(3, (200, 150), "JPEG", exif=exif.tobytes())
    found = running.client.segment(data, include="mask")
    assert (found["width"], found["height"], found["orientation"]) == (150, 200, 6)
    assert (opened(base64.b64decode(found["mask"]["png"])) == predictor(data).mask * 255).all()


def test_answers_of_one_batch_are_not_mixed_up(running: Running, predictor: segmae.Predictor) -> None:
    """Clients at once, so that their images share batches; each gets the bits of its own image alone."""
    images = [drawn(seed, (160 + seed, 120)) for seed in range(6)]
    wanted = [predictor(data).mask for data in images]
    assert len({mask.tobytes() for mask in wanted}) == len(images)
    answers: dict[int, bytes] = {}

    def ask(number: int) -> None:
        answers[number] = running.client.segment(images[number], output="mask")

    before = _batches(running)
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for number, mask in enumerate(wanted):
        assert (opened(answers[number]) == mask * 255).all(), number
    assert _batches(running) - before < len(images), "no two images shared a batch"


def test_the_network_gives_the_same_bits_in_every_batch(predictor: segmae.Predictor) -> None:
    from segmae.data.preprocess import prepare_photo

    images = np.stack([prepare_photo(predictor.read(drawn(seed)), predictor.info.preprocess) for seed in range(5)])  # fmt: skip
    alone = np.concatenate([predictor.network_probability(image[None]) for image in images])
    for size in (2, 3, 5):
        together = np.concatenate(
            [predictor.network_probability(images[i : i + size]) for i in range(0, 5, size)]
        )
        assert (together == alone).all(), size


def test_measure_says_what_python_says_of_a_corrected_mask(running: Running) -> None:
    pixels, mask = segmae_drawn(4)
    mask = mask.copy()
    mask[:20, :30] = 1
    found = running.client.measure(encoded(pixels), encoded(mask * 255), mm_per_pixel=0.1)
    wanted = measure(pixels, mask, 0.1, contour.smooth_outlines(mask)).to_dict()
    assert found["measurements"] == _plain(wanted)
    assert len(found["polygons"]) == 2
    coco = running.client.measure(encoded(pixels), encoded(mask * 255), output="coco")
    assert coco["annotations"][0]["area"] == int(mask.sum())
    drawing = opened(running.client.measure(encoded(pixels), encoded(mask * 255), output="overlay"))
    assert drawing.shape == pixels.shape and (drawing != pixels).any()
    empty = running.client.measure(encoded(pixels), encoded(mask * 0), output="coco")
    assert empty["annotations"] == []


@pytest.mark.parametrize("kind", ["size", "grey", "broken"])
def test_measure_refuses_what_is_no_mask_of_the_image(running: Running, kind: str) -> None:
    mask = {"size": encoded(np.zeros((10, 10), np.uint8)), "grey": encoded(np.arange(30000, dtype=np.uint8).reshape(150, 200)),
            "broken": b"\x89PNG\r\n\x1a\n, but no more"}[kind]  # fmt: skip
    answer = running.post("/v1/measure", {"image": [drawn()], "mask": [mask]})
    assert (answer.status, answer.code) == (422, "unreadable_mask")


def test_real_photographs(running: Running, predictor: segmae.Predictor, real_data: Path) -> None:
    """At their full size, JPEG decoded at reduced scale as `Predictor` does."""
    files = (
        sorted((real_data / "isic2018").rglob("ISIC_*.jpg"))[:3]
        + sorted((real_data / "ph2").rglob("IMD*.bmp"))[:2]
    )
    assert files
    for file in files:
        mask = opened(running.client.segment(file, output="mask"))
        assert (mask == predictor(file).mask * 255).all(), file.name


def segmae_drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    from segmae.data.phantom import draw_lesion

    return draw_lesion(seed, (200, 150))


def _plain(values: Any) -> Any:
    import json

    return json.loads(json.dumps(values))


def _batches(running: Running) -> float:
    until(lambda: running.service.worker is not None)
    return running.service.metrics.registry.get_sample_value("segmae_batch_images_count") or 0.0
