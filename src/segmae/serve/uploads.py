"""Multipart bodies to files and options: never read without a limit, and kept in memory where no job asks for more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from segmae.errors import ConfigError, did_you_mean
from segmae.outputs import Wanted, wanted
from segmae.serve.problems import Gone, Problem

OUTPUTS = ("json", "mask", "overlay", "probability", "uncertainty", "seg")
MEASURED = ("json", "coco", "overlay")
PARTS = ("mask", "probability", "uncertainty", "measurements")
VIEWS = (1, 8)
FIELD = 4096  # bytes of a form field that is no file
KNOWN = ("image", "images", "mask", "output", "include", "views", "mm_per_pixel", "formats", "overlay_style", "keep_largest", "fill_holes")  # fmt: skip
SPOOL = 1 << 20  # bytes of a job's photograph above which it waits on disk


@dataclass(frozen=True)
class Options:
    """What a request asks for.

    Attributes:
        output: of `OUTPUTS`.
        include: of `PARTS`, beside what JSON always has.
        views: 1 or 8.
        want: how the mask is cleaned, drawn and measured, see `segmae.outputs.wanted`.
    """

    output: str
    include: frozenset[str]
    views: int
    want: Wanted


async def read_form(request: Request, limit: int, files: int, in_memory: bool) -> FormData:
    """Read a multipart body whose size the guard counts.

    Args:
        limit: bytes that one file may have in memory.
        files: how many it may hold.
        in_memory: never put one on disk.

    Raises:
        Problem: 415 for another type of body, 422 where it cannot be parsed.
        Gone: the client left.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise Problem(415, "send a body of the type multipart/form-data")
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=files, max_fields=32, max_part_size=FIELD
    )
    parser.spool_max_size = limit if in_memory else SPOOL
    try:
        return await parser.parse()
    except ClientDisconnect as error:
        raise Gone from error
    except (MultiPartException, FormParserError) as error:  # older Starlettes pass the parser's own on
        reason = getattr(error, "message", error)
        raise Problem(422, f"the multipart body cannot be read: {reason}") from error


def files_of(form: FormData, name: str) -> list[UploadFile]:
    """The files under a name.

    Raises:
        Problem: 422, there is none.
    """
    found = [value for value in form.getlist(name) if isinstance(value, UploadFile)]
    if not found:
        raise Problem(422, f"send a file in the field '{name}'")
    return found


def one_file(form: FormData, name: str) -> UploadFile:
    """The only file under a name; 422 for none and for several."""
    found = files_of(form, name)
    if len(found) > 1:
        raise Problem(422, f"send one file in the field '{name}', or several to /v1/jobs")
    return found[0]


def options_in(form: FormData, outputs: Iterable[str] = OUTPUTS) -> Options:
    """The fields that are no files.

    Raises:
        Problem: 422 for a field that does not exist or a value that cannot be used, naming it.
    """
    for name in form:
        if name not in KNOWN:  # and is not repeated: what was sent stays out of answers
            raise Problem(
                422,
                f"there is no field of the name of one that was sent.{did_you_mean(name, KNOWN)} /openapi.json lists them",
            )
    output = _one_of(form, "output", outputs)
    include = _list(form, "include", ())
    for part in include:
        if part not in PARTS:
            raise Problem(422, f"include: choose from {', '.join(PARTS)}")
    views = _one_of(form, "views", [str(number) for number in VIEWS])
    scale = _scale(form)
    try:
        want = wanted(
            _list(form, "formats", ("mask",)), _text(form, "overlay_style") or "contour",
            _truth(form, "keep_largest"), _truth(form, "fill_holes"), "measurements" in include, scale,
        )  # fmt: skip
    except ConfigError as error:
        raise Problem(422, str(error)) from error
    return Options(output, frozenset(include), int(views), want)


def _scale(form: FormData) -> float | tuple[float, float] | None:
    """Millimetres of a pixel: one field, or one for its width and one for its height. No commas, which some write for a point."""
    fields = [str(value) for value in form.getlist("mm_per_pixel") if value != ""]
    try:
        match [float(value) for value in fields]:
            case []:
                return None
            case [side]:
                return side
            case [width, height]:
                return width, height
    except ValueError:
        pass
    raise Problem(422, "mm_per_pixel: give one positive number, or two fields: width and height of a pixel")


def _text(form: FormData, name: str) -> str:
    value: Any = form.get(name)
    if isinstance(value, UploadFile):
        raise Problem(422, f"{name}: send text, not a file")
    return (value or "").strip()


def _list(form: FormData, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Values of a field with commas between them, or of several fields of that name."""
    values: list[Any] = form.getlist(name)
    if any(isinstance(value, UploadFile) for value in values):
        raise Problem(422, f"{name}: send text, not a file")
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip()) or default


def _one_of(form: FormData, name: str, choices: Iterable[str]) -> str:
    choices = list(choices)
    value = _text(form, name) or choices[0]
    if value not in choices:
        raise Problem(422, f"{name}: choose from {', '.join(choices)}")
    return value


def _truth(form: FormData, name: str) -> bool:
    value = _text(form, name).lower() or "false"
    if value not in ("true", "false", "1", "0"):
        raise Problem(422, f"{name}: choose true or false")
    return value in ("true", "1")
