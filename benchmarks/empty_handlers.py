"""Handlers that do nothing, served as the API is: `python -m benchmarks.empty_handlers NAME PORT`."""

import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

PATH = "/empty"
ANSWER = b"{}"


def fastapi_dict_app() -> ASGIApp:
    """FastAPI's usual form: the handler returns a dict."""
    app = FastAPI()

    @app.get(PATH)
    async def empty() -> dict[str, str]:
        return {}

    return app


def fastapi_app() -> ASGIApp:
    """FastAPI's cheapest form: no parameter, no response model, the bytes ready."""
    app = FastAPI()

    @app.get(PATH, response_class=Response)
    async def empty() -> Response:
        return Response(ANSWER, media_type="application/json")

    return app


def starlette_app() -> ASGIApp:
    async def empty(request: Request) -> Response:
        return Response(ANSWER, media_type="application/json")

    return Starlette(routes=[Route(PATH, empty)])


APPS = {"fastapi": fastapi_app, "fastapi_dict": fastapi_dict_app, "starlette": starlette_app}


def main(arguments: Sequence[str]) -> int:
    name, port = arguments
    uvicorn.run(APPS[name](), port=int(port), loop="uvloop", http="httptools", log_config=None, access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
