"""Request bodies: how large they may be, and what is said of those that are not what a route takes.

- A body is counted as it is read, and refused by the length that it declares before any of it is.
- What is wrong is said without the input itself, which may be nothing that JSON can hold: NaN, half of a surrogate pair.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving_api.schemas import Problem

TOO_LARGE: Final[Mapping[str, Any]] = {"model": Problem, "description": "The body is too large."}


class BodyLimit:
    """ASGI middleware: who reads a body of more than `at_most` bytes gets an HTTPException 413."""

    def __init__(self, app: ASGIApp, at_most: int) -> None:
        self._app = app
        self._at_most = at_most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        declared, read = _declared(scope), 0

        async def counted() -> Message:
            nonlocal read
            if declared > self._at_most:
                raise self._too_large()
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._at_most:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self._at_most} bytes")


def _declared(scope: Scope) -> int:
    """The length in the headers; 0 where there is none."""
    length: bytes = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(length) if length.isdigit() else 0


async def refused(_: Request, error: Exception) -> JSONResponse:
    """422 with where, what and of which type each fault is."""
    assert isinstance(error, RequestValidationError)
    faults = [
        {"loc": [_safe(step) for step in fault["loc"]], "msg": _safe(fault["msg"]), "type": fault["type"]}
        for fault in error.errors()
    ]
    return JSONResponse({"detail": faults}, 422)


def _safe(told: str | int) -> str | int:
    """Text that can be encoded.

    >>> _safe("a\\ud800"), _safe(3)
    ('a\\\\ud800', 3)
    """
    return told if isinstance(told, int) else told.encode("utf-8", "backslashreplace").decode()
