"""`/healthz` (this process runs) and `/readyz` (it should get requests, or what is missing for that).

A store that falls silent later does not make a process unready: all would leave at once, though each still answers.
"""

import msgspec
from fastapi import APIRouter, Request, Response

from serving_api.routes.parts import parts_of
from serving_api.schemas import Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={200: {"description": "The process runs."}})
async def healthz() -> dict[str, str]:
    """Alive, whatever the stores do: a restart would not help them."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    response_class=Response,
    responses={200: {"model": Readiness}, 503: {"model": Readiness}},
)
async def readyz(request: Request) -> Response:
    """Ready: Redis and PostgreSQL have answered since the start, and the stable version of every route is loaded; later, any
    version of every model. Other versions that are not loaded are told as `degraded`."""
    reader = parts_of(request).reader
    missing = reader.missing()
    body = msgspec.json.encode({"ready": not missing, "missing": missing, "degraded": reader.degraded()})
    return Response(body, 503 if missing else 200, media_type="application/json")
