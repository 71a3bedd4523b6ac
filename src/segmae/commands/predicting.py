"""Photographs: `predict`, `rank`, `demo`, `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from segmae.commands.cluster import (
    Address,
    EngineCluster,
    Gpus,
    Part,
    ShardSize,
    Workers,
    run_batch,
)
from segmae.commands.options import Device, Engine, FillHoles, Json, KeepLargest, Model, Threads, Views, given
from segmae.commands.show import exit_code, note, print_failures, print_json, print_table, progress

NAMED = 3  # files of one reason


def predict(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|FOLDER...",
            help="Photographs, or folders of them; with --engine-cluster also patterns, lists (csv, json, jsonl, txt) and s3:// or gs://.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the results.")],
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="mask, overlay, probability, npz, entropy, geojson, coco, coco-rle, labelstudio, csv, html, sheet; "
            "several with commas.",
            show_default="mask,overlay",
        ),
    ] = None,
    overlay_style: Annotated[
        str | None, typer.Option(help="contour, fill or side.", show_default="contour")
    ] = None,
    keep_largest: KeepLargest = None,
    fill_holes: FillHoles = None,
    measure: Annotated[bool | None, typer.Option("--measure", help="Measurements, in results.jsonl.")] = None,
    mm_per_pixel: Annotated[
        float | None,
        typer.Option(
            help="Width of a pixel: measurements in mm too. DICOM: where an object has no Pixel Spacing."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model name, folder or run. May be repeated: the mean of all.",
            show_default="segmae-tiny",
        ),
    ] = None,
    engine: Engine = None,
    device: Device = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="one per core; with --engine-cluster 1"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photographs at once.", show_default="8")
    ] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help="Skip what is already done.")] = None,
    views: Views = None,
    fractional: Annotated[
        bool | None,
        typer.Option("--fractional", help="DICOM: probabilities instead of a mask in NAME_seg.dcm."),
    ] = None,
    include_identifiers: Annotated[
        bool | None,
        typer.Option("--include-identifiers", help="DICOM: the patient's data in results.jsonl too."),
    ] = None,
    engine_cluster: EngineCluster = None,
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
    part: Part = None,
    shard_size: ShardSize = None,
    as_json: Json = False,
) -> None:
    """Segment photographs: masks, overlays and results.jsonl, or the formats named. Goes on after a bad file.

    DICOM files, and folders that hold any, give NAME_seg.dcm as well. With --engine-cluster the results are Parquet shards.
    """
    of_cluster = given(address=address, workers=workers, gpus=gpus, part=part, shard_size=shard_size)
    if engine_cluster is not None:
        of_others = given(
            overlay_style=overlay_style,
            resume=resume,
            fractional=fractional,
            include_identifiers=include_identifiers,
        )
        if of_others:
            raise typer.BadParameter(f"{', '.join(of_others)}: not with --engine-cluster")
        if formats not in (None, "mask"):
            raise typer.BadParameter("with --engine-cluster, --format is 'mask' (PNG files too) or left out")
        options = given(
            model=model or None, engine=engine, device=device, threads=threads, views=views, batch_size=batch_size,
            masks=formats and True, keep_largest=keep_largest, fill_holes=fill_holes, measure=measure,
            mm_per_pixel=mm_per_pixel, **of_cluster,
        )  # fmt: skip
        run_batch(sources, out, engine_cluster, options, as_json)
    if of_cluster:
        raise typer.BadParameter(f"{', '.join(of_cluster)}: only with --engine-cluster")
    from segmae.dicom import predict_dicom
    from segmae.dicom.study import told_apart
    from segmae.photographs import refuse_nameless
    from segmae.predict import predict_files

    refuse_nameless(sources)
    options = given(
        model=model or None, engine=engine, device=device, threads=threads, resume=resume, views=views,
        formats=formats and [name.strip() for name in formats.split(",")], overlay_style=overlay_style,
        keep_largest=keep_largest, fill_holes=fill_holes, measure=measure, mm_per_pixel=mm_per_pixel,
    )  # fmt: skip
    of_pictures = given(batch_size=batch_size)
    of_dicom = given(fractional=fractional, include_identifiers=include_identifiers)
    done: Any
    is_dicom, unread = told_apart(sources)
    if foreign := of_pictures if is_dicom else of_dicom:
        what = "DICOM" if is_dicom else "photographs that are not DICOM"
        raise typer.BadParameter(". ".join([f"{', '.join(foreign)}: not for {what}", *unread]))
    try:
        with progress("photographs") as advance:
            if is_dicom:
                done = predict_dicom(sources, out, **options, **of_dicom, progress=advance)
            else:
                done = predict_files(sources, out, **options, **of_pictures, progress=advance)
    except KeyboardInterrupt:
        note(f"what is done is kept in {out}: the same command with --resume goes on")
        raise
    passed_over = getattr(done, "passed_over", [])
    print_passed_over(passed_over)
    print_failures(done.failures)
    done.notes += unread
    for text in done.notes:
        note(text)
    if as_json:
        left_out = {"files": done.ignored.files, "folders": done.ignored.folders, "masks": done.ignored.masks}
        print_json({"results": done.rows, "failures": done.failures, "skipped": done.skipped, "ignored": left_out,
                    "passed_over": passed_over, "notes": done.notes})  # fmt: skip
    else:
        already = f" ({done.skipped} of them earlier)" if done.skipped else ""
        failed = f", {len(done.failures)} failed" if done.failures else ""
        ignored = f", passed over: {done.ignored}" if str(done.ignored) else ""
        print(f"{len(done.rows)} segmented{already}{failed}{ignored}; results in {done.folder}")
    raise typer.Exit(exit_code(done.rows, done.failures))


def rank(
    folder: Annotated[Path, typer.Argument(help="Photographs without masks.")],
    model: Model = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many to rank.", show_default="50")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file to write.")] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Order photographs by how much a label would help: those the model is unsure of, and unlike each other."""
    from segmae.rank import rank as rank_photographs

    options = given(model=model, n=n, out=out, device=device, threads=threads)
    with progress("photographs") as advance:
        found = rank_photographs(folder, **options, progress=advance)
    print_failures(found.failures)
    for file in found.unlike:
        note(f"{file}: left out, unlike all photographs that the model was calibrated on")
    if as_json:
        print_json(found.to_dict())
    else:
        unsure = "1 - expected Dice" if found.calibrated else "entropy"
        rows = [
            (
                str(r.rank),
                r.name,
                f"{r.score:.3f}",
                f"{r.uncertainty:.3f}",
                "" if r.distance is None else f"{r.distance:.2f}",
            )
            for r in found.rows
        ]
        print_table(("rank", "photograph", "score", unsure, "distance"), rows)
        print(
            f"{len(found.rows)} of {found.photographs} photographs to label first{f'; all in {out}' if out else ''}"
        )
    raise typer.Exit(1 if found.failures else 0)


def demo(
    image: Annotated[
        Path | None, typer.Argument(help="Your photograph, or a folder.", show_default="drawn lesions")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the pictures.", show_default="demo")
    ] = None,
    model: Model = None,
) -> None:
    """Segment lesions that the project draws, or your own photographs, and show the result as a page."""
    from segmae.demo import run_demo

    with progress("images") as advance:
        result = run_demo(**given(image=image, out=out, model=model), progress=advance)
    rows = [
        (
            r["name"],
            f"{r['width']} x {r['height']}",
            f"{r['lesion_share']:.1%}",
            f"{r['dice']:.4f}" if "dice" in r else "-",
        )
        for r in result.rows
    ]
    print_table(("image", "size", "lesion", "Dice"), rows)
    print_failures(result.failures)
    for text in result.notes:
        note(text)
    print(f"page      {result.page}\npictures  {result.sheet}\nmasks     {result.folder}")
    raise typer.Exit(1 if result.failures else 0)


def doctor(
    as_json: Json = False,
    model: Model = None,
) -> None:
    """Show versions, extras, device and model, and time one drawn image."""
    from segmae.doctor import diagnose

    report = diagnose(**given(model=model))
    if as_json:
        print_json(report)
    else:
        print_doctor(report)
    raise typer.Exit(0 if report["ok"] else 1)


def print_passed_over(files: Sequence[dict[str, str]]) -> None:
    """Files of a study that hold no photograph, counted by reason, with the names of the first."""
    by_reason: dict[str, list[str]] = {}
    for file in files:
        by_reason.setdefault(file["reason"], []).append(file["file"])
    for reason, names in by_reason.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        note(f"passed over: {len(names)} x '{reason}': {', '.join(names[:NAMED])}{more}")


def print_doctor(report: dict[str, Any]) -> None:
    device, model, test = report["device"], report["model"], report.get("self_test")
    rows = [("versions", "  ".join(f"{name} {version}" for name, version in report["versions"].items()))]
    rows.append(("machine", f"{device['platform']}, {device['cpus']} CPUs"))
    rows.append(("predicts on", f"onnxruntime: {', '.join(device['onnxruntime'])}"))
    rows.append(("trains on", device["torch"] or "torch is not installed"))
    for name, extra in report["extras"].items():
        state = (
            f"missing {', '.join(extra['missing'])}: {extra['install']}" if extra["missing"] else "installed"
        )
        rows.append((f"extra {name}", state))
    if test:
        rows.append(
            ("model", f"{model['name']} ({model['architecture']}, {model['size']} px) in {model['path']}")
        )
        rows += [("", f"{name} sha256 {digest}") for name, digest in model["sha256"].items()]
        rows.append(("self-test", f"{test['engine']} on {test['device']}: {test['seconds_per_image'] * 1000:.0f} ms an image, "
                                  f"Dice {test['dice']} on a drawn lesion, {test['longest_diameter_px']} px long"))  # fmt: skip
    rows += [(kind, report[kind]) for kind in ("problem", "warning") if kind in report]
    print_table(("", ""), rows)
