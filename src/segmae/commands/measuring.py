"""Masks: `measure`."""

from __future__ import annotations

from typing import Annotated

import typer

from segmae.commands.options import FillHoles, Json, KeepLargest, given
from segmae.commands.show import exit_code, note, print_failures, print_json, progress


def measure(
    masks: Annotated[list[str], typer.Argument(metavar="MASK|FOLDER...", help="Masks, or folders of them.")],
    out: Annotated[str, typer.Option("--out", "-o", help="CSV file to write, one row a mask.")],
    photos: Annotated[
        str | None,
        typer.Option(help="Folder of the photographs, DICOM too; without it, shape alone is measured."),
    ] = None,
    mm_per_pixel: Annotated[
        float | None, typer.Option(help="Width of a pixel: measurements in mm too.")
    ] = None,
    mm_table: Annotated[
        str | None, typer.Option(help="CSV file with the columns file,mm_per_pixel, where scales differ.")
    ] = None,
    keep_largest: KeepLargest = None,
    fill_holes: FillHoles = None,
    as_json: Json = False,
) -> None:
    """Measure masks that were drawn or corrected by hand, as `predict --measure` does its own. Goes on after a bad file.

    x_mask.png, x_segmentation.png, x_lesion.png and x.png are masks of the photograph x.*.
    """
    from segmae.masks import measure_masks

    options = given(
        photos=photos, mm_per_pixel=mm_per_pixel, mm_table=mm_table, keep_largest=keep_largest, fill_holes=fill_holes,
    )  # fmt: skip
    with progress("masks") as advance:
        found = measure_masks(masks, out, **options, progress=advance)
    print_failures(found.failures)
    for text in found.notes:
        note(text)
    if as_json:
        print_json({"results": found.rows, "failures": found.failures, "notes": found.notes})
    else:
        failed = f", {len(found.failures)} failed" if found.failures else ""
        where = f"results in {out}" if found.rows else "nothing was written"
        print(f"{len(found.rows)} measured{failed}; {where}")
    raise typer.Exit(exit_code(found.rows, found.failures))
