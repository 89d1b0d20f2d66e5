"""`GET /`: where to go from here."""

from fastapi import APIRouter, Request

from serving_api.routes.parts import parts_of

router = APIRouter(tags=["health"])


@router.get("/")
async def index(request: Request) -> dict[str, object]:
    """The domains that are served, and links."""
    domains = parts_of(request).settings.domains
    return {
        "name": "Penstock",
        "domains": domains,
        "documentation": "/docs",
        "openapi": "/openapi.json",
        "recommendations": f"/v1/recommendations/{{user_id}}?domain={domains[0]}&k=10",
        "similar": f"/v1/items/{{item_id}}/similar?domain={domains[0]}&k=10",
        "preferences": f"/v1/users/{{user_id}}/preferences?domain={domains[0]}",
        "batch": "/v1/recommendations/batch",
        "events": "/v1/events",
        "rollouts": [f"/v1/rollouts/{domain}" for domain in domains],
        "models": [f"/v1/models/{domain}" for domain in domains],
        "health": ["/healthz", "/readyz", "/metrics"],
    }
