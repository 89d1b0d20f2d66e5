"""`POST /v1/recommendations/batch`: what each of many users would be answered, in one request."""

from typing import Final

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response

from online_models.contracts.ids import UserId
from serving_api.answers import Ask
from serving_api.routes.bodies import TOO_LARGE
from serving_api.routes.parts import event_time_ms, parts_of, served_model, wanted_items
from serving_api.schemas import BatchAnswer, BatchIn, Problem

router = APIRouter(tags=["recommendations"])

_encode: Final = msgspec.json.Encoder().encode


@router.post(
    "/v1/recommendations/batch",
    response_class=Response,
    responses={
        200: {"model": BatchAnswer, "description": "One answer for each user, in the order asked."},
        404: {"model": Problem, "description": "No such domain."},
        413: {**TOO_LARGE},
    },
)
async def recommend_many(request: Request, asked: BatchIn) -> Response:
    """The k best unseen items of each of many users; logged as impressions only when that is asked for.

    Users are read from Redis together. Their answers are those of single requests, but for exploration, which draws anew.
    """
    parts = parts_of(request)
    model = served_model(parts, asked.domain)
    if len(asked.user_ids) > parts.settings.batch_users:
        raise HTTPException(422, f"user_ids: expected 1 to {parts.settings.batch_users}, got {len(asked.user_ids)}")
    k, ts_ms = wanted_items(parts, asked.k), event_time_ms(parts, asked.at)
    asks = [Ask(model, UserId(user), k, ts_ms) for user in asked.user_ids]
    answers = parts.recommender.recommend_many(asks, log_impressions=asked.log_impressions)
    bodies = [_encode(answer) async for answer in answers]
    return Response(b'{"answers":[%b]}' % b",".join(bodies), media_type="application/json")
