"""The routes: each reads what it needs, awaits the work, and answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from segmae.dicom import DicomObject
from segmae.result import Result
from segmae.serve import answers, metrics, openapi
from segmae.serve.answers import Json
from segmae.serve.page_files import PageFile, load_page
from segmae.serve.problems import Problem
from segmae.serve.service import Service
from segmae.serve.uploads import MEASURED, Options, files_of, one_file, options_in
from segmae.serve.work import Prepared, Worker, kind_of, open_dicom, refused

SEG_PIXELS = 500_000_000  # of all frames of one DICOM object whose SEG is asked for


def add_routes(app: FastAPI, service: Service) -> None:
    """Everything that the service answers to."""
    settings = service.settings
    _add_page(app, load_page())

    @app.head("/health", include_in_schema=False)
    @app.get("/health", **openapi.HEALTH)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", **openapi.READY)
    async def ready() -> JSONResponse:
        service.ready()
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", **openapi.METRICS)
    async def prometheus() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": metrics.TYPE})

    @app.get("/v1/models", **openapi.MODELS)
    async def models() -> JSONResponse:
        worker, _ = service.ready()
        return JSONResponse({"models": [answers.model_json(worker.predictors[1], settings.model_name)]})

    @app.post("/v1/segment", **openapi.SEGMENT)
    async def segment(request: Request) -> Response:
        async with service.place(request):
            worker, _ = service.ready()
            form = await service.form(request)
            options = options_in(form)
            data = await one_file(form, "image").read()
            await form.close()
            if options.output == "seg":
                return await service.answer(request, _seg(worker, data, options))

            def finish(prepared: Prepared, result: Result) -> bytes | Json:
                return answers.segmented(prepared, result, options)

            found, timing = await service.answer(request, worker.segment(data, options.views, finish))
        if isinstance(found, bytes):
            return Response(found, media_type="image/png")
        predictor = worker.predictors[options.views]
        return json_response(
            answers.completed(found, predictor, settings.model_name, timing, request.state.request_id)
        )

    @app.post("/v1/measure", **openapi.MEASURE)
    async def measure(request: Request) -> Response:
        async with service.place(request):
            worker, _ = service.ready()
            form = await service.form(request)
            options = options_in(form, MEASURED)
            image, mask = await one_file(form, "image").read(), await one_file(form, "mask").read()
            await form.close()

            found = await service.answer(request, worker.in_pool(_measured, worker, image, mask, options))
        if isinstance(found, bytes):
            return Response(found, media_type="image/png")
        return json_response({"request_id": request.state.request_id, **found, "note": answers.NOTE})

    @app.post("/v1/jobs", status_code=202, **openapi.NEW_JOB)
    async def new_job(request: Request) -> Response:
        async with service.place(request):
            _, jobs = service.ready()
            form = await service.form(request, settings.job_images)
            options = options_in(form)
            files = files_of(form, "images")
            status = await jobs.accept(files, options, request.state.caller)
            await form.close()
        return json_response(status, 202)

    @app.get("/v1/jobs/{id}", **openapi.JOB)
    async def job(request: Request) -> Response:
        _, jobs = service.ready()
        return json_response(await jobs.status(request.path_params["id"], request.state.caller))

    @app.get("/v1/jobs/{id}/results", **openapi.RESULTS)
    async def results(request: Request) -> Response:
        _, jobs = service.ready()
        path = await jobs.results(request.path_params["id"], request.state.caller)
        return FileResponse(path, media_type="application/zip", filename="segmae-results.zip")

    @app.delete("/v1/jobs/{id}", **openapi.CANCEL)
    async def cancel(request: Request) -> Response:
        _, jobs = service.ready()
        return json_response(await jobs.cancel(request.path_params["id"], request.state.caller))


def _measured(worker: Worker, image: bytes, mask: bytes, options: Options) -> bytes | Json:
    prepared = worker.prepare(image)
    want = replace(options.want, mm_per_pixel=prepared.scale(options.want.mm_per_pixel))
    with worker.room.taken(prepared.pixels), refused("mask"):
        return answers.measured(prepared.source, mask, want, options.output)


async def _seg(worker: Worker, data: bytes, options: Options) -> Response:
    """A DICOM SEG object with the lesions of all frames."""
    if kind_of(data) != "DICOM":
        raise Problem(422, "output=seg: the image is no DICOM object. Ask for output=mask", code="not_dicom")

    def opened() -> DicomObject:
        with refused():
            found = open_dicom(data)
        if found.count * found.width * found.height > SEG_PIXELS:
            raise Problem(
                422, f"the DICOM object has more than {SEG_PIXELS} pixels in all its frames. Split it"
            )
        return found

    def mask_of(prepared: Prepared, result: Result) -> NDArray[np.bool_]:
        return result.cleaned(options.want.keep_largest, options.want.fill_holes).mask

    source = await worker.in_pool(opened)
    masks = []
    for frame in range(1, source.count + 1):
        mask, _ = await worker.segment(data, options.views, mask_of, frame)
        masks.append(mask)

    def made() -> bytes:
        with refused():
            return answers.dicom_seg(source, masks, worker.predictors[options.views])

    return Response(await worker.in_pool(made), media_type="application/dicom")


def _add_page(app: FastAPI, page: dict[str, PageFile]) -> None:
    def add(path: str, file: PageFile) -> None:
        async def answer(request: Request) -> Response:
            headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
            if request.headers.get("if-none-match") == file.etag:
                return Response(status_code=304, headers=headers)
            return Response(file.content, headers={**headers, "Content-Type": file.type})

        app.add_route(path, answer, methods=["GET"], include_in_schema=False)

    for path, file in page.items():
        add(path, file)


def json_response(content: Json, status: int = 200) -> Response:
    """Compact JSON; numbers that are none would be a fault of ours, so they raise."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Response(text, status, media_type="application/json")
