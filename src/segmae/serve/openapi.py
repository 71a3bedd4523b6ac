"""What /openapi.json says of each route: bodies, answers, examples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.responses import Response

from segmae.outputs import FORMATS
from segmae.overlay import STYLES
from segmae.serve.answers import NOTE
from segmae.serve.uploads import MEASURED, OUTPUTS, PARTS

Json = dict[str, Any]

ERROR_EXAMPLE = {
    "error": {
        "code": "unreadable_image",
        "message": "the image is damaged. It may be truncated: copy or download it again",
        "request_id": "5d0c1c1f0b5d4f6e8a4b1c2d3e4f5061",
    }
}
SAID = {
    400: "The head of the request is malformed",
    401: "No valid API key",
    403: "A page from elsewhere, or another name of the host",
    404: "Nothing there, or expired",
    405: "Not with this method",
    408: "The body took too long to arrive",
    409: "The job is not finished",
    413: "The body is too large",
    415: "Not multipart, or a type of file that is not read",
    422: "A field that cannot be used, or an image that cannot be read",
    429: "Too many requests",
    503: "The model is being loaded, the service is shutting down, or its disk is full",
    504: "No answer within the time limit",
}
ALWAYS = (400, 401, 403, 429)
UPLOAD = (*ALWAYS, 408, 413, 415, 422, 503, 504)


def _object(properties: Json, required: Iterable[str] = ()) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _file(text: str) -> Json:
    return {"type": "string", "format": "binary", "description": text}


RING = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
}
PICTURE = _object(
    {
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "png": {"type": "string", "format": "byte"},
    },
    ("width", "height", "png"),
)
POLYGONS = {
    "type": "array",
    "items": _object({"outer": RING, "holes": {"type": "array", "items": RING}}, ("outer", "holes")),
}
MODEL = _object(
    {"name": {"type": "string"}, "weights": {"type": "string"}, "threshold": {"type": "number"}},
    ("name", "weights", "threshold"),
)
SEGMENTATION = _object(
    {
        "request_id": {"type": "string"},
        "model": MODEL,
        "width": {"type": "integer", "description": "of the upright photograph, in pixels"},
        "height": {"type": "integer"},
        "orientation": {"type": "integer", "minimum": 1, "maximum": 8, "description": "EXIF's"},
        "frames": {"type": "integer", "description": "pages or frames of the file; the first is segmented"},
        "pixel_aspect": {"type": "number", "description": "height / width of a pixel, where DICOM says it; else 1"},
        "lesion_share": {"type": "number", "minimum": 0, "maximum": 1},
        "expected_dice": {"type": ["number", "null"], "description": "see docs/trust.md"},
        "uncertainty": {"type": "number", "description": "bits; it orders photographs"},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "polygons": POLYGONS,
        "measurements": {"type": "object", "description": "see docs/measurements.md"},
        "mask": PICTURE,
        "probability": PICTURE,
        "uncertainty_map": PICTURE,
        "timing_ms": _object({name: {"type": "number"} for name in ("decode", "queue", "network", "finish")}),
        "note": {"type": "string"},
    },
    ("request_id", "model", "width", "height", "orientation", "lesion_share", "expected_dice", "uncertainty",
     "warnings", "polygons", "timing_ms", "note"),
)  # fmt: skip
SEGMENTATION_EXAMPLE = {
    "request_id": "5d0c1c1f0b5d4f6e8a4b1c2d3e4f5061",
    "model": {"name": "segmae-tiny", "weights": "0123456789abcdef", "threshold": 0.5},
    "width": 400, "height": 300, "orientation": 1, "frames": 1, "pixel_aspect": 1.0, "lesion_share": 0.18, "expected_dice": 0.91,
    "uncertainty": 0.21, "warnings": [],
    "polygons": [{"outer": [[150.5, 80.2], [240.1, 95.7], [220.4, 210.9], [150.5, 80.2]], "holes": []}],
    "timing_ms": {"decode": 4.1, "queue": 3.9, "network": 30.2, "finish": 9.8},
    "note": NOTE,
}  # fmt: skip
MEASURED_SCHEMA = _object(
    {
        "request_id": {"type": "string"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "lesion_share": {"type": "number"},
        "polygons": POLYGONS,
        "measurements": {"type": "object"},
        "note": {"type": "string"},
    },
    ("request_id", "note"),
)
JOB_SCHEMA = _object(
    {
        "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "state": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
        "total": {"type": "integer"},
        "done": {"type": "integer"},
        "failed": {"type": "integer"},
        "created": {"type": "string", "format": "date-time"},
        "expires": {"type": "string", "format": "date-time"},
        "status_url": {"type": "string"},
        "results_url": {"type": ["string", "null"]},
    },
    ("id", "state", "total", "done", "failed", "created", "expires", "status_url", "results_url"),
)
JOB_EXAMPLE = {
    "id": "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "state": "running", "total": 3, "done": 1, "failed": 0,
    "created": "2026-01-31T09:30:00+00:00", "expires": "2026-02-01T09:30:00+00:00",
    "status_url": "/v1/jobs/0f1e2d3c4b5a69788796a5b4c3d2e1f0", "results_url": None,
}  # fmt: skip
TRUTH = {"type": "string", "enum": ["true", "false"], "default": "false"}
MM: Json = {"type": "number", "exclusiveMinimum": 0}
MANY = {"type": "string", "description": "several with commas"}
OPTIONS: Json = {
    "include": {**MANY, "description": f"for JSON: {', '.join(PARTS)}; several with commas", "example": "measurements"},
    "keep_largest": {**TRUTH, "description": "only the largest piece of the mask"},
    "fill_holes": {**TRUTH, "description": "a mask without holes"},
    "mm_per_pixel": {
        "anyOf": [MM, {"type": "array", "items": MM, "minItems": 2, "maxItems": 2}],
        "description": "measurements in mm too; twice: width and height of a pixel",
    },
    "views": {"type": "string", "enum": ["1", "8"], "default": "1", "description": "8: the mean of eight views"},
    "overlay_style": {"type": "string", "enum": list(STYLES), "default": STYLES[0]},
}  # fmt: skip
PHOTOGRAPH = _file("JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM")
ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "example": JOB_EXAMPLE["id"],
}


def _json(schema: Json, example: Any) -> Json:
    return {"application/json": {"schema": schema, "example": example}}


def _binary(*types: str) -> Json:
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in types}


def _route(summary: str, content: Json, errors: Iterable[int], text: str = "", status: int = 200, **extra: Any) -> Json:  # fmt: skip
    """Keyword arguments of a route."""
    error = _object(
        {"error": _object({key: {"type": "string"} for key in ("code", "message", "request_id")}, ("code", "message", "request_id"))},
        ("error",),
    )  # fmt: skip
    responses: dict[int | str, Json] = {status: {"description": summary, "content": content}}
    for code in sorted(set(errors)):
        answer: Json = {"description": SAID[code], "content": _json(error, ERROR_EXAMPLE)}
        if code in (429, 503):
            answer["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
        responses[code] = answer
    return {
        "summary": summary, "description": text or summary, "responses": responses, "response_model": None,
        "response_class": Response,
        "openapi_extra": {"security": [{}, {"key": []}], **extra},
    }  # fmt: skip


def _multipart(properties: Json, required: Iterable[str]) -> Json:
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _object(properties, required) | {"additionalProperties": False}}
        },
    }


HEALTH = _route("The process runs", _json({"type": "object"}, {"status": "ok"}), (400, 403))
READY = _route("The model is loaded", _json({"type": "object"}, {"status": "ready"}), (400, 403, 503))
METRICS = _route("For Prometheus", {"text/plain": {"schema": {"type": "string"}}}, ALWAYS)
MODELS = _route(
    "The model that is served",
    _json(_object({"models": {"type": "array", "items": MODEL}}, ("models",)), {"models": [SEGMENTATION_EXAMPLE["model"]]}),
    (*ALWAYS, 503),
)  # fmt: skip
SEGMENT = _route(
    "Segment one photograph",
    {**_json(SEGMENTATION, SEGMENTATION_EXAMPLE), **_binary("image/png", "application/dicom")},
    UPLOAD,
    "The lesion in a photograph or in a DICOM object's first frame, at the photograph's own size. `output=json` has polygons and, "
    "where included, measurements and maps; `mask` and `overlay` are PNG files, `probability` and `uncertainty` PNG files of 16 "
    "bits; `seg` is a DICOM SEG object of all frames, for DICOM only.",
    requestBody=_multipart(
        {
            "image": PHOTOGRAPH,
            "output": {"type": "string", "enum": list(OUTPUTS), "default": "json"},
            **OPTIONS,
        },
        ("image",),
    ),
)
MEASURE = _route(
    "Measure a mask that was drawn or corrected",
    {**_json(MEASURED_SCHEMA, {"request_id": "5d0c", "width": 400, "height": 300, "note": NOTE}), **_binary("image/png")},
    UPLOAD,
    requestBody=_multipart(
        {
            "image": PHOTOGRAPH,
            "mask": _file("PNG of the upright photograph's size: 0 is skin, 255 is lesion"),
            "output": {"type": "string", "enum": list(MEASURED), "default": "json"},
            **{key: OPTIONS[key] for key in ("keep_largest", "fill_holes", "mm_per_pixel", "overlay_style")},
        },
        ("image", "mask"),
    ),
)  # fmt: skip
NEW_JOB = _route(
    "Hand over a batch of photographs",
    _json(JOB_SCHEMA, JOB_EXAMPLE),
    UPLOAD,
    "Accepted once all are on disk; done in the background, also after a restart of the server.",
    202,
    requestBody=_multipart(
        {
            "images": {"type": "array", "items": PHOTOGRAPH, "minItems": 1},
            "formats": {**MANY, "description": f"{', '.join(FORMATS)}; several with commas", "default": "mask", "example": "mask,csv"},
            **{key: OPTIONS[key] for key in OPTIONS if key != "include"},
        },
        ("images",),
    ),
)  # fmt: skip
JOB = _route("How far a job is", _json(JOB_SCHEMA, JOB_EXAMPLE), (*ALWAYS, 404, 503), parameters=[ID])
RESULTS = _route(
    "The results of a finished job", _binary("application/zip"), (*ALWAYS, 404, 409, 503), parameters=[ID]
)
CANCEL = _route("Cancel a job and remove its files", _json(JOB_SCHEMA, {**JOB_EXAMPLE, "state": "cancelled"}),
                (*ALWAYS, 404, 503), parameters=[ID])  # fmt: skip
SECURITY = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
