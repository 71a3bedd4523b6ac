"""The app: routes under /v1, the page, and what operators ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from segmae import __version__
from segmae.serve.guard import Guard
from segmae.serve.keys import read_keys
from segmae.serve.metrics import Metrics
from segmae.serve.openapi import SECURITY
from segmae.serve.problems import CLIENT_LEFT, CODES, Gone, Problem, problem_response
from segmae.serve.routes import add_routes
from segmae.serve.service import Service
from segmae.serve.settings import Settings

ABOUT = "Segments skin lesions in dermoscopic photographs. Research use. Not a medical device."


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI app; `app.state.service` is what lives behind it. The model loads when the app starts.

    Raises:
        ConfigError: the file of keys is damaged.
        InUse: another server uses the folder of keys and jobs.
    """
    metrics = Metrics()
    service = Service(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="segmae", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None,
        middleware=[Middleware(Guard, settings=settings, keys=read_keys(settings.state), metrics=metrics)],
    )  # fmt: skip
    app.state.service = service
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(Gone, _gone)
    app.add_exception_handler(HTTPException, _http)
    add_routes(app, service)
    app.openapi()["components"] = {"securitySchemes": SECURITY}
    return app


async def _problem(request: Request, problem: Any) -> Response:
    return problem.response(request.state.request_id)


async def _gone(request: Request, error: Any) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _http(request: Request, error: Any) -> Response:
    """What the router refuses: no such path, or not with this method."""
    code = CODES.get(error.status_code, "refused")
    message = {
        404: "there is nothing at this address. /openapi.json describes the service",
        405: "this address does not take this method",
    }
    return problem_response(
        error.status_code, code, message.get(error.status_code, "the request is refused"),
        request.state.request_id, error.headers,
    )  # fmt: skip
