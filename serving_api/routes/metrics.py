"""`/metrics` for Prometheus, and the middleware that counts and times every request."""

import time

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving_api.instruments import Instruments
from serving_api.routes.parts import parts_of

router = APIRouter(tags=["health"])

NO_ROUTE = "none"


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters and histograms in the Prometheus text format."""
    return Response(parts_of(request).instruments.exposition(), media_type=CONTENT_TYPE_LATEST)


class CountRequests:
    """ASGI middleware: requests by route template and status, and their latency."""

    def __init__(self, app: ASGIApp, instruments: Instruments) -> None:
        self._app = app
        self._instruments = instruments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._instruments.requests_of(route, status).inc()
            self._instruments.latency_of(route).observe(time.perf_counter() - start)
