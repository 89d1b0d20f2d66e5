"""`GET /v1/recommendations/{user_id}`: the hot path; the answer is encoded once, by msgspec."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response

from online_models.contracts.events import MAX_ID_LENGTH, timestamp_ms
from online_models.contracts.ids import UserId
from serving_api.recommender import Ask
from serving_api.routes.parts import Parts, parts_of, served_model
from serving_api.schemas import Problem, RecommendationAnswer

router = APIRouter(tags=["recommendations"])

UserIdPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, examples=["1"])]
Domain = Annotated[str, Query(examples=["movies"])]
Count = Annotated[int | None, Query(ge=1, description="How many items; the settings say how many at most.")]
At = Annotated[
    str | None,
    Query(description="Event time (epoch ms or RFC 3339), where the settings allow it.", examples=["1767225600000"]),
]


@router.get(
    "/v1/recommendations/{user_id:path}",
    response_class=Response,
    responses={
        200: {"model": RecommendationAnswer, "description": "The best unseen items for the user."},
        404: {"model": Problem, "description": "No such domain."},
    },
)
async def recommend(request: Request, user_id: UserIdPath, domain: Domain, k: Count = None, at: At = None) -> Response:
    """The k best items that the user has not met, each logged as an impression."""
    parts = parts_of(request)
    model = served_model(parts, domain)
    if "\x00" in user_id:
        raise HTTPException(422, "user_id: NUL is not allowed")
    wanted = parts.settings.default_k if k is None else k
    if wanted > parts.settings.max_k:
        raise HTTPException(422, f"k: expected 1 to {parts.settings.max_k}, got {wanted}")
    answer = await parts.recommender.recommend(Ask(model, UserId(user_id), wanted, _event_time_ms(parts, at)))
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _event_time_ms(parts: Parts, at: str | None) -> int:
    if at is None:
        return round(parts.clock().timestamp() * 1000)
    if not parts.settings.allow_event_time:
        raise HTTPException(422, "at: not allowed here; set PENSTOCK_SERVING_ALLOW_EVENT_TIME for simulations")
    try:
        return timestamp_ms(int(at) if at.lstrip("-").isdecimal() else at)
    except ValueError as error:
        raise HTTPException(422, f"at: {error}") from error
