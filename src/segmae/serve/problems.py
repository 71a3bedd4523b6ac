"""What is answered where a request cannot be served: one form for every error."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

CODES = {  # HTTP status -> the code of its answers, where a `Problem` names no other
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "upload_too_slow",
    409: "not_finished",
    413: "too_large",
    415: "unsupported_type",
    422: "unprocessable",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
    504: "time_limit",
}
CLIENT_LEFT = 499  # in logs alone: nobody reads that answer


class Problem(Exception):
    """An answer other than the one asked for.

    Args:
        status: HTTP's.
        message: what is wrong and what to do; it never quotes the request.
        retry_after: seconds after which it may work.
        code: for programs, where `CODES` is not exact enough.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code or CODES[status]
        self.headers = {} if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def response(self, request_id: str) -> JSONResponse:
        return problem_response(self.status, self.code, self.message, request_id, self.headers)


class Gone(Exception):
    """The client closed the connection: nobody reads an answer."""


def problem_response(
    status: int, code: str, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """`{"error": {"code", "message", "request_id"}}`."""
    content = {"error": {"code": code, "message": message, "request_id": request_id}}
    return JSONResponse(content, status, dict(headers or {}))
