"""The web page in a real browser: one short test always, the others are slow ones."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photograph_page import (  # fmt: skip
    SIZE,
    canvas,
    choose,
    cyan,
    download,
    drag,
    facts,
    lesion_file,
    mask_of,
    measured,
    place,
    show,
)
from PIL import Image
from serving import Running, Start

import segmae
from browsing import axe_source, opened, violations
from segmae import contour
from segmae.data.phantom import draw_lesion
from segmae.serve.keys import new_key


def digits(text: str) -> float:
    return float(re.sub(r"[^\d.]", "", text.split("px")[0].split("mm")[0].split("%")[0]))


def test_a_photograph_gets_its_contour_and_measurements(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    path = lesion_file(tmp_path, 1)
    with opened(browser, running.url) as page:
        assert page.locator("footer").inner_text() == "Research use, not a medical device."
        show(page, path)
        answer = running.client.segment(path, include="measurements")
        found = facts(page)
        assert digits(found["Area"]) == answer["measurements"]["area_px"]
        assert digits(found["Longest diameter"]) == pytest.approx(
            answer["measurements"]["longest_diameter_px"], rel=5e-3
        )
        assert cyan(canvas(page)) > answer["measurements"]["perimeter_px"]
        assert "lesion found" in page.locator("#said").inner_text()
        page.keyboard.press("h")
        assert cyan(canvas(page)) == 0


@pytest.mark.slow
def test_views_opacity_and_swipe(browser: Any, running: Running, tmp_path: Path) -> None:
    with opened(browser, running.url) as page:
        show(page, lesion_file(tmp_path, 2))
        box = page.locator("#stage").bounding_box()
        plain = canvas(page)
        page.locator("#opacity").fill("60")
        assert cyan(canvas(page)) < 20000 and np.abs(canvas(page).astype(int) - plain).sum() > 1e6, (
            "the lesion is filled"
        )
        seen = {}
        for key, view in (("2", "probability"), ("3", "uncertainty")):
            page.keyboard.press(key)
            assert page.locator(f"input[value={view}]").is_checked()
            page.locator("#legend").wait_for()
            page.wait_for_timeout(300)
            seen[view] = canvas(page)
        assert (seen["probability"] != seen["uncertainty"]).any()
        page.locator("#opacity").fill("0")
        nothing = canvas(page)
        inside, outside = (nothing != plain).any(-1), (nothing != seen["uncertainty"]).any(-1)
        assert inside.sum() < outside.sum() / 20, "without opacity the photograph and its contour are left"
        page.locator("#opacity").fill("75")

        page.keyboard.press("h")
        bare = canvas(page)
        page.keyboard.press("h")
        page.click("[data-do=swipe]")
        handle = page.locator("#swipe")
        assert handle.get_attribute("aria-valuenow") == "50"
        half = canvas(page)
        middle = half.shape[1] // 2
        assert (half[:, : middle - 2] == bare[:, : middle - 2]).all()
        # not every byte: chromium draws on the processor once a canvas is read often
        assert np.abs(half.astype(int) - seen["uncertainty"])[:, middle + 2 :].mean() < 0.5
        grip = page.locator(".swipe-grip").bounding_box()
        drag(page, (grip["x"] + 20, grip["y"] + 20), (box["x"] + 0.25 * box["width"], grip["y"]))
        assert abs(int(handle.get_attribute("aria-valuenow")) - 25) <= 1
        handle.press("End")
        assert (canvas(page)[:, :-2] == bare[:, :-2]).all()
        for key, now in (("ArrowLeft", "98"), ("Home", "0")):
            handle.press(key)
            assert handle.get_attribute("aria-valuenow") == now
        page.click("[data-do=swipe]")
        assert handle.is_hidden()


@pytest.mark.slow
def test_zoom_and_pan(browser: Any, running: Running, tmp_path: Path) -> None:
    with opened(browser, running.url) as page:
        show(page, lesion_file(tmp_path, 3))
        fitted = canvas(page)
        middle = place(page, *(side / 2 for side in SIZE))

        def changed(before: Any) -> Any:
            now = canvas(page)
            assert (now != before).any()
            return now

        page.click("[data-do=zoom-in]")
        near = changed(fitted)
        assert (near[..., 3] > 0).sum() > (fitted[..., 3] > 0).sum(), "a larger picture"
        page.click("[data-do=zoom-out]")
        assert np.abs(canvas(page).astype(int) - fitted).mean() < 1
        page.click("[data-do=fit]")
        assert (canvas(page) == fitted).all()
        page.mouse.move(*middle)
        page.mouse.wheel(0, -300)
        near = changed(fitted)
        drag(page, middle, (middle[0] + 80, middle[1] + 30))
        near = changed(near)
        page.locator("#stage").focus()
        for key in ("+", "ArrowLeft", "ArrowDown", "-"):
            page.keyboard.press(key)
            near = changed(near)
        page.mouse.dblclick(*middle)
        changed(near)
        page.keyboard.press("0")
        assert (canvas(page) == fitted).all()


@pytest.mark.slow
def test_a_scale_turns_pixels_into_millimetres(browser: Any, running: Running, tmp_path: Path) -> None:
    path = lesion_file(tmp_path, 4)
    with opened(browser, running.url) as page:
        show(page, path)
        page.click("[data-tool=scale]")
        drag(page, place(page, 50, 60), place(page, 250, 60))
        page.fill("#scale-mm", "a cm")
        page.keyboard.press("Enter")
        assert "in mm" in page.locator("#scale-error").inner_text()
        page.fill("#scale-mm", "10,0")
        page.keyboard.press("Enter")
        page.locator("#facts dd", has_text="mm²").wait_for()
        expected = running.client.segment(path, include="measurements", mm_per_pixel=0.05)["measurements"]
        found = facts(page)
        assert digits(found["Longest diameter"]) == pytest.approx(expected["longest_diameter_mm"], rel=0.02)
        assert digits(found["Area"].replace("mm²", "mm")) == pytest.approx(expected["area_mm2"], rel=0.03)
        assert "50" in page.locator("#scale-said").inner_text()
        assert json.loads(download(page, "json"))["measurements"]["mm_per_pixel"] == pytest.approx(
            [0.05, 0.05], rel=0.01
        )
        page.click("[data-do=scale-remove]")
        page.locator("#facts dd", has_text="px").first.wait_for()

        page.locator("#stage").focus()  # and all of it by the keyboard
        for key in ("s", "ArrowLeft", "Enter", *["Shift+ArrowRight"] * 3, "Enter"):
            page.keyboard.press(key)
        page.keyboard.type("5")
        page.keyboard.press("Enter")
        page.locator("#facts dd", has_text="mm²").wait_for()


@pytest.mark.slow
def test_a_mask_is_corrected(
    browser: Any, running: Running, tmp_path: Path, predictor: segmae.Predictor
) -> None:
    path = lesion_file(tmp_path, 5)
    model = predictor(path).mask
    with opened(browser, running.url) as page:
        show(page, path)
        assert page.locator("[data-do=undo]").is_disabled()
        page.keyboard.press("b")
        page.locator("#brush-size").fill("100")
        diameter = int(page.locator("#brush-px").inner_text().split()[0])
        page.wait_for_timeout(300)
        drag(page, place(page, 40, 40), place(page, 140, 40))
        page.locator("#corrected").wait_for()
        measured(page)
        painted = mask_of(page)
        assert set(np.unique(painted)) == {0, 255} and painted.shape == model.shape
        added = (painted > 0) & ~model
        assert not ((painted == 0) & model).any() and added[40, 45:135].all()
        assert added[:, 90].sum() == pytest.approx(diameter, abs=1)
        assert digits(facts(page)["Area"]) == (painted > 0).sum()
        answer = running.client.measure(path, download(page, "mask"))
        assert digits(facts(page)["Perimeter"]) == pytest.approx(
            answer["measurements"]["perimeter_px"], rel=5e-3
        )

        page.keyboard.press("Control+z")
        measured(page)
        assert ((mask_of(page) > 0) == model).all() and page.locator("#corrected").is_hidden()
        page.keyboard.press("Control+Shift+z")
        measured(page)
        assert (mask_of(page) == painted).all()
        page.keyboard.press("e")
        drag(page, place(page, 20, 40), place(page, 160, 40))
        measured(page)
        assert not (mask_of(page) > 0)[40, 45:135].any()
        page.click("[data-do=undo]")
        page.click("[data-do=undo]")
        page.click("[data-do=redo]")
        measured(page)
        assert (mask_of(page) == painted).all()
        page.click("[data-do=reset]")
        measured(page)
        assert ((mask_of(page) > 0) == model).all()

        page.keyboard.press("b")  # by the keyboard alone
        page.keyboard.press("[")
        for key in ("Enter", *["Shift+ArrowLeft"] * 20, "Enter"):
            page.keyboard.press(key)
        measured(page)
        assert (mask_of(page) > 0)[SIZE[1] // 2, 1 : SIZE[0] // 2].all()
        page.keyboard.press("Escape")
        assert page.locator("[data-tool=move]").get_attribute("aria-pressed") == "true"


@pytest.mark.slow
def test_downloads(browser: Any, running: Running, tmp_path: Path, predictor: segmae.Predictor) -> None:
    path = lesion_file(tmp_path, 6)
    result = predictor(path)
    with opened(browser, running.url) as page:
        show(page, path)
        with page.expect_download() as waiting:
            page.click("[data-download=mask]")
        assert waiting.value.suggested_filename == "lesion 6_mask.png"
        assert ((mask_of(page) > 0) == result.mask).all()
        overlay = np.asarray(Image.open(io.BytesIO(download(page, "overlay"))))
        assert (overlay == np.asarray(result.overlay())).all()
        answer = json.loads(download(page, "json"))
        assert answer["file"] == path.name and answer["corrected"] is False and "mask" not in answer
        assert answer["polygons"] == running.client.segment(path)["polygons"]
        coco = json.loads(download(page, "coco"))
        assert coco["images"][0]["file_name"] == path.name
        assert coco["annotations"][0]["area"] == result.mask.sum()
        assert coco["annotations"][0]["score"] == pytest.approx(1 - result.uncertainty, abs=1e-6)
        assert page.locator("[data-download=seg]").is_hidden()


@pytest.mark.slow
def test_a_batch_is_sorted_and_one_bad_file_stops_nothing(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    good = [lesion_file(tmp_path, seed) for seed in (11, 7, 9, 8)]
    bad = tmp_path / "no photograph.png"
    bad.write_bytes(b"nothing")
    doubts = {path.name: running.client.segment(path)["uncertainty"] for path in good}
    with opened(browser, running.url, frozenset({415})) as page:
        choose(page, *good[:2], bad, *good[2:])
        progress = page.locator("#batch-progress")
        progress.filter(has_text="All done, 1 could not be segmented").wait_for()
        names = page.locator(".card-name")
        assert names.all_inner_texts() == [path.name for path in (*good[:2], bad, *good[2:])]
        assert (
            "not of a type that is read" in page.locator(".card[data-state=failed] .card-facts").inner_text()
        )
        assert page.locator(".card path.line").count() == 4
        page.select_option("#sort", "uncertainty")
        assert names.all_inner_texts() == [*sorted(doubts, key=lambda name: -doubts[name]), bad.name]
        page.select_option("#sort", "name")
        assert names.all_inner_texts() == [f"lesion {seed}.png" for seed in (7, 8, 9, 11)] + [bad.name]

        page.locator(".card").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        title = page.locator("#file-name")
        page.locator("#facts dd").first.wait_for()
        assert title.inner_text() == "lesion 8.png"
        page.keyboard.press("PageDown")
        assert title.inner_text() == "lesion 9.png"
        page.click("[data-do=previous]")
        assert title.inner_text() == "lesion 8.png"
        page.locator("#facts dd").first.wait_for()
        page.keyboard.press("Escape")
        assert page.locator(".card", has_text="lesion 8").evaluate("card => card === document.activeElement")

        with page.expect_download() as waiting:
            page.click("#download-all")
        with zipfile.ZipFile(waiting.value.path()) as archive:
            rows = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        assert sorted(row["file"] for row in rows) == sorted([*doubts, bad.name])
        assert [row["file"] for row in rows if "error" in row] == [bad.name]
        page.locator("#job-said").wait_for(state="hidden")
        page.click("#clear")
        assert page.locator("#start").is_visible()


@pytest.mark.slow
def test_what_was_not_measured_when_the_photograph_was_left_is_measured_later(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    with opened(browser, running.url) as page:
        choose(page, lesion_file(tmp_path, 5), lesion_file(tmp_path, 6))
        page.locator("#batch-progress").filter(has_text="All done").wait_for()
        page.locator(".card").first.click()
        page.locator("#facts dd").first.wait_for()
        before = facts(page)["Area"]
        page.keyboard.press("b")
        page.wait_for_timeout(300)
        page.route("**/v1/measure", lambda route: None)  # no answer before the photograph is left
        drag(page, place(page, 40, 40), place(page, 90, 40))
        page.keyboard.press("PageDown")
        page.locator("#facts dd").first.wait_for()
        page.unroute("**/v1/measure")
        page.keyboard.press("PageUp")
        page.locator("#facts dd").first.wait_for()
        assert page.locator("#corrected").is_visible()
        measured(page)
        assert digits(facts(page)["Area"]) == (mask_of(page) > 0).sum() != digits(before)
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        assert page.locator(".card").first.locator("path.line").count() == 1


@pytest.mark.slow
def test_a_late_answer_for_the_grid_takes_no_measurements_away(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    with opened(browser, running.url) as page:
        held: list[Any] = []
        page.route("**/v1/segment", lambda route: held.append(route) if len(held) < 2 else route.continue_())
        choose(page, lesion_file(tmp_path, 5), lesion_file(tmp_path, 6))
        page.locator(".card").first.click()
        page.locator("#facts dd").first.wait_for()
        assert len(held) == 2
        with page.expect_response("**/v1/segment"):
            held[0].continue_()
        held[1].abort()
        page.wait_for_timeout(300)
        page.keyboard.press("b")
        assert facts(page)["Area"]
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.locator("#batch-progress").filter(has_text="All done, 1 could").wait_for()


@pytest.mark.slow
def test_a_job_of_the_page_that_fails_is_forgotten_too(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    bad = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in bad:
        path.write_bytes(b"nothing")
    assert running.service.jobs is not None
    before = running.service.jobs.store.ids()
    with opened(browser, running.url, frozenset({415})) as page:
        choose(page, *bad)
        page.locator("#batch-progress").filter(has_text="All done, 2 could").wait_for()
        page.click("#download-all")
        page.locator("#job-said").filter(has_text="the job failed").wait_for()
    assert running.service.jobs.store.ids() == before


@pytest.mark.slow
def test_folders_drops_pastes_and_the_camera(browser: Any, running: Running, tmp_path: Path) -> None:
    folder = tmp_path / "photographs" / "deeper"
    folder.mkdir(parents=True)
    lesion_file(folder, 1)
    lesion_file(folder.parent, 2)
    (folder / "notes.txt").write_text("no photograph")
    with opened(browser, running.url) as page:
        page.set_input_files("#pick-folder", folder.parent)
        page.locator("#batch-progress", has_text="All done").wait_for()
        assert page.locator(".card-name").all_inner_texts() == ["lesion 1.png", "lesion 2.png"]
        page.click("#clear")

        devtools = page.context.new_cdp_session(page)
        data = {"items": [], "files": [str(folder.parent)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
            if kind == "dragOver":
                assert page.locator("#drop-veil").is_visible()
        page.locator("#batch-progress", has_text="All done").wait_for()
        assert page.locator("#drop-veil").is_hidden()
        assert page.locator(".card-name").all_inner_texts() == ["lesion 1.png", "lesion 2.png"]
        page.click("#clear")

        page.evaluate("""async () => {
          const canvas = new OffscreenCanvas(64, 48);
          canvas.getContext("2d").fillRect(20, 10, 20, 20);
          const data = new DataTransfer();
          data.items.add(new File([await canvas.convertToBlob()], "image.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        }""")
        page.locator("#facts dd").first.wait_for()
        assert page.locator("#file-facts").inner_text() == "64 × 48 px"

        page.click("header [data-do=camera]")
        take = page.locator("#camera-take")
        take.click()
        page.locator("#batch-nav").wait_for()
        assert page.locator("#file-name").inner_text().startswith("camera_")
        page.locator("#facts dd").first.wait_for()


@pytest.mark.slow
def test_a_key_is_asked_for(browser: Any, start: Start, tmp_path: Path) -> None:
    key = new_key(tmp_path / "state", "the page")
    with start() as running, opened(browser, running.url, frozenset({401})) as page:
        choose(page, lesion_file(tmp_path, 1), lesion_file(tmp_path, 2))
        said, dialog = page.locator("#key-said"), page.locator("#key-dialog")
        dialog.wait_for()
        page.keyboard.type("a wrong one")
        page.keyboard.press("Enter")
        said.filter(has_text="does not know").wait_for()
        page.keyboard.type(key)
        page.keyboard.press("Enter")
        page.locator("#batch-progress", has_text="All done").wait_for()
        assert page.locator(".card[data-state=done]").count() == 2
        page.click("#download-all")
        page.reload()
        show(page, lesion_file(tmp_path, 1))
        assert dialog.is_hidden(), "kept until the tab is closed"


@pytest.mark.slow
def test_errors_say_what_to_do(browser: Any, start: Start, tmp_path: Path) -> None:
    path = lesion_file(tmp_path, 1)
    large = tmp_path / "large.png"
    large.write_bytes(path.read_bytes() + bytes(3 << 20))
    busy = {
        "status": 429,
        "headers": {"Retry-After": "1"},
        "json": {"error": {"code": "too_many_requests", "message": "busy"}},
    }
    with start(body_bytes=2 << 20) as running, opened(browser, running.url, frozenset({413, 429})) as page:
        failure = page.locator("#failure-text")
        choose(page, large)
        failure.filter(has_text="larger than 2097152 bytes").wait_for()
        page.goto(running.url)
        page.route("**/v1/segment", lambda route: route.fulfill(**busy), times=1)
        choose(page, path)
        page.locator("#working-text", has_text="busy; again in 1 s").wait_for()
        page.locator("#facts dd").first.wait_for()
        page.route("**/v1/segment", lambda route: route.abort())
        page.goto(running.url)
        choose(page, path)
        failure.filter(has_text="does not answer").wait_for()
        page.unroute("**/v1/segment")
        page.click("[data-do=retry]")
        page.locator("#facts dd").first.wait_for()
        assert failure.is_hidden()


@pytest.mark.slow
def test_files_that_no_browser_shows_or_that_are_turned(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    turned = Image.open(lesion_file(tmp_path, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    with opened(browser, running.url) as page:
        for path, size in (
            (lesion_file(tmp_path, 2, suffix=".tif"), "400 × 300"),
            (tmp_path / "turned.jpg", "300 × 400"),
        ):
            page.goto(running.url)
            show(page, path)
            page.locator("#working").wait_for(state="hidden")
            assert page.locator("#file-facts").inner_text() == f"{size} px"
            shown = canvas(page)
            assert (shown[..., 3] > 0).mean() > 0.4 and cyan(shown) > 100


@pytest.mark.slow
def test_a_webp_file_is_shown_as_the_service_turns_it(browser: Any, running: Running, tmp_path: Path) -> None:
    picture = Image.new("RGB", SIZE, "red")
    picture.paste("blue", (SIZE[0] // 2, 0, *SIZE))
    picture.getexif()[0x0112] = 3
    paths = [tmp_path / "a.webp", lesion_file(tmp_path, 2)]
    picture.save(paths[0], exif=picture.getexif(), lossless=True)
    with opened(browser, running.url) as page:
        choose(page, *paths)
        page.locator("#batch-progress").filter(has_text="All done").wait_for()
        assert page.locator(".unseen-file").count() == 1
        page.locator(".card").first.click()
        page.locator("#facts dd").first.wait_for()
        page.locator("#working").wait_for(state="hidden")
        page.keyboard.press("h")
        box, (x, y) = page.locator("#stage").bounding_box(), place(page, 40, 150)
        shown = canvas(page)[round(y - box["y"]), round(x - box["x"])]
        assert shown[2] > 200 > 50 > shown[0], "what is stored on the right is shown on the left"
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.keyboard.press("PageDown")
        page.locator("#working").wait_for(state="hidden")
        page.keyboard.press("PageUp")
        page.locator("#working").wait_for(state="hidden")
        page.wait_for_timeout(300)
        assert len(asked) == 1, "of the other photograph alone"


@pytest.mark.slow
def test_dicom_brings_its_scale_and_goes_out_as_seg(browser: Any, running: Running, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from test_serve_dicom import photograph

    (tmp_path / "a.dcm").write_bytes(photograph(draw_lesion(4, SIZE)[0][None]))
    with opened(browser, running.url) as page:
        show(page, tmp_path / "a.dcm")
        page.locator("#working").wait_for(state="hidden")
        assert cyan(canvas(page)) > 100
        assert page.locator("#scale-said").inner_text() == "Scale: from the file."
        assert "mm" in facts(page)["Longest diameter"]
        page.click("[data-tool=scale]")  # 60 px down, each .02 mm, of a pixel that is .03 mm wide
        drag(page, place(page, 50, 60), place(page, 50, 120))
        page.fill("#scale-mm", "1.2")
        page.keyboard.press("Enter")
        page.locator("#scale-said", has_text="a pixel").wait_for()
        page.locator("#working").wait_for(state="hidden")
        assert json.loads(download(page, "json"))["measurements"]["mm_per_pixel"] == pytest.approx(
            [0.03, 0.02], rel=0.03
        )
        seg = pydicom.dcmread(io.BytesIO(download(page, "seg")))
        assert seg.Modality == "SEG" and (seg.Rows, seg.Columns) == SIZE[::-1]


@pytest.mark.slow
def test_a_photograph_without_a_lesion_and_one_with_an_evil_name(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    bare = io.BytesIO()
    Image.new("L", SIZE).save(bare, "PNG")
    path = lesion_file(tmp_path, 1)
    answer = running.client.segment(path, include="mask,probability,uncertainty,measurements")
    answer |= {"polygons": [], "lesion_share": 0}
    answer["mask"]["png"] = base64.b64encode(bare.getvalue()).decode()

    evil = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.rename(evil)
    with opened(browser, running.url) as page:
        page.route("**/v1/segment", lambda route: route.fulfill(json=answer))
        show(page, evil)
        assert page.locator("#none").is_visible()
        assert page.locator("#file-name").inner_text() == evil.name and page.locator("h1 img").count() == 0
        page.keyboard.press("b")
        page.wait_for_timeout(300)
        drag(page, place(page, 200, 150), place(page, 220, 150))
        page.locator("#corrected").wait_for()
        measured(page)
        assert (mask_of(page) > 0).sum() == digits(facts(page)["Area"]) > 0
        assert page.locator("#none").is_hidden()


@pytest.mark.slow
def test_a_phone(browser: Any, running: Running, tmp_path: Path) -> None:
    phone = {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    }
    with opened(browser, running.url, **phone) as page:

        def fits() -> bool:
            return page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        assert fits()
        show(page, lesion_file(tmp_path, 5))
        assert fits()
        fitted = canvas(page)
        x, y = place(page, 200, 150)
        devtools = page.context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            fingers = [{"x": px, "y": py, "id": n} for n, (px, py) in enumerate(points)]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

        touch("touchStart", (x - 20, y), (x + 20, y))
        for apart in (30, 45, 60):
            touch("touchMove", (x - apart, y), (x + apart, y))
        touch("touchEnd")
        near = canvas(page)
        assert (near[..., 3] > 0).sum() > 1.5 * (fitted[..., 3] > 0).sum(), "two fingers zoom"
        page.tap("[data-do=fit]")
        page.tap("[data-tool=brush]")
        page.wait_for_timeout(300)
        touch("touchStart", place(page, 30, 30))
        touch("touchMove", place(page, 60, 30))
        touch("touchEnd")
        page.locator("#corrected").wait_for()
        measured(page)
        assert (mask_of(page) > 0)[30, 30:60].all()
        choose(page, lesion_file(tmp_path, 6))
        page.locator("#batch-nav").wait_for()
        page.locator("#working").wait_for(state="hidden")
        for _ in range(3):  # Chromium makes no click of some taps that follow touches sent by the devtools
            page.tap("[data-do=all]")
            page.wait_for_timeout(500)
            if page.locator("#batch").is_visible():
                break
        page.locator("#batch-progress", has_text="All done").wait_for()
        assert fits()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barriers(browser: Any, running: Running, tmp_path: Path, scheme: str) -> None:
    axe = axe_source()
    (tmp_path / "torn.png").write_bytes(b"nothing")
    with opened(browser, running.url, frozenset({415}), color_scheme=scheme) as page:
        assert violations(page, axe) == []
        page.click("[data-do=help]")
        assert violations(page, axe) == []
        page.click("#help-close")
        show(page, lesion_file(tmp_path, 1))
        page.click("summary")
        assert violations(page, axe) == []
        page.keyboard.press("3")
        page.keyboard.press("w")
        page.keyboard.press("b")
        assert violations(page, axe) == []
        page.keyboard.press("s")
        drag(page, place(page, 50, 60), place(page, 250, 60))
        page.locator("#scale-form").wait_for()
        assert violations(page, axe) == []
        choose(page, lesion_file(tmp_path, 2), tmp_path / "torn.png")
        page.locator("#batch-progress", has_text="All done").wait_for()
        assert violations(page, axe) == []
        page.click(".card[data-state=failed]")
        page.locator("#failure").wait_for()
        assert violations(page, axe) == []


@pytest.mark.slow
def test_single_keys_can_be_turned_off_and_the_page_is_walked_by_tab(
    browser: Any, running: Running, tmp_path: Path
) -> None:
    with opened(browser, running.url) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("?")
        assert page.locator("#help-dialog").is_visible()
        page.uncheck("#keys-on")
        page.keyboard.press("Escape")
        show(page, lesion_file(tmp_path, 1))
        page.keyboard.press("2")
        assert page.locator("input[value=contour]").is_checked()
        wanted = {"canvas", "swipe"}
        seen = set()
        page.locator("#stage").focus()
        for _ in range(40):
            page.keyboard.press("Tab")
            seen.add(
                page.evaluate(
                    "(e => e.dataset.do || e.dataset.tool || e.dataset.download || e.name || e.id)(document.activeElement)"
                )
            )
        wanted = {
            "zoom-in",
            "fit",
            "hide",
            "swipe",
            "move",
            "brush",
            "erase",
            "scale",
            "view",
            "opacity",
            "mask",
            "overlay",
            "json",
            "coco",
        }
        assert wanted <= seen


@pytest.mark.slow
def test_real_photographs(
    browser: Any, running: Running, real_data: Path, predictor: segmae.Predictor
) -> None:
    paths = [
        next(p for p in sorted((real_data / name).rglob("*")) if p.suffix.lower() in (".jpg", ".bmp"))
        for name in ("isic2018", "ph2")
    ]
    with opened(browser, running.url) as page:
        for path in paths:
            page.goto(running.url)
            show(page, path)
            page.locator("#working").wait_for(state="hidden")
            result = predictor(path)
            assert digits(facts(page)["Area"]) == result.mask.sum()
            assert ((mask_of(page) > 0) == result.mask).all()
            length = sum(contour.length(polygon.outer) for polygon in result.contours)
            assert digits(facts(page)["Perimeter"]) == pytest.approx(length, rel=5e-3)
            assert cyan(canvas(page)) > 100
