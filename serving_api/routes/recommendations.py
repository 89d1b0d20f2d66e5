"""`GET /v1/recommendations/{user_id}`: the hot path; the answer is encoded once, by msgspec.

- `FastPath` answers every plain request before FastAPI sees it. It refuses nothing: what it does not take for plainly good,
  however odd, goes to the route below, which says what is wrong with it. So there is one set of rules, FastAPI's.
- Of an empty request's time FastAPI's own routing and dependency solving take half.
"""

import functools
import re
from typing import Annotated, Final, NamedTuple

import msgspec
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from online_models.contracts.events import MAX_ID_LENGTH
from online_models.contracts.ids import ModelName, UserId
from serving_api.answers import Answer, Ask
from serving_api.routes.parts import (
    Count,
    Domain,
    Parts,
    event_time_ms,
    now_ms,
    parts_of,
    served_model,
    store_errors_as_503,
    time_bounds,
    wanted_items,
)
from serving_api.schemas import Problem, RecommendationAnswer
from serving_api.sessions import PageToken

router = APIRouter(tags=["recommendations"])

PREFIX: Final = "/v1/recommendations/"

_encode: Final = msgspec.json.Encoder().encode

UserIdPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, examples=["1"])]
At = Annotated[
    str | None,
    Query(description="Event time (epoch ms or RFC 3339), where the settings allow it.", examples=["1767225600000"]),
]
Paged = Annotated[bool, Query(description="Begin a list that can be paged through: the answer has a `page_token`.")]
Token = Annotated[
    str | None,
    Query(
        description="The `page_token` of an answer, for the next k items of its list.",
        examples=["0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e.10"],
    ),
]


Age = Annotated[
    float | None,
    Query(
        ge=0, le=200, description="The user's age in years: items of a higher `min_age` are left out.", examples=[12]
    ),
]


@router.get(
    PREFIX + "{user_id:path}",
    response_class=Response,
    responses={
        200: {"model": RecommendationAnswer, "description": "The best unseen items for the user."},
        404: {"model": Problem, "description": "No such domain."},
        410: {"model": Problem, "description": "The list of the `page_token` has expired: begin a new one."},
        503: {
            "model": Problem,
            "description": "Redis does not say what the next page is; other requests are answered.",
        },
    },
)
async def recommend(
    request: Request,
    user_id: UserIdPath,
    domain: Domain,
    k: Count = None,
    at: At = None,
    paged: Paged = False,
    page_token: Token = None,
    age: Age = None,
) -> Response:
    """The k best items that the user has not met, each logged as an impression.

    With `paged=true` the list is kept for a while, and each answer's `page_token` gives the next k of it: no item comes twice,
    and none moves, whatever happens meanwhile.
    """
    parts = parts_of(request)
    model = served_model(parts, domain)
    if "\x00" in user_id:
        raise HTTPException(422, "user_id: NUL is not allowed")
    ask = Ask(model, UserId(user_id), wanted_items(parts, k), event_time_ms(parts, at), age)
    if page_token is not None:
        answer = await _turned(parts, ask, page_token)
    elif paged:
        answer = await parts.recommender.begin(ask)
    else:
        answer = await parts.recommender.recommend(ask)
    return Response(_encode(answer), media_type="application/json")


async def _turned(parts: Parts, ask: Ask, page_token: str) -> Answer:
    try:
        token = PageToken.parse(page_token)
    except ValueError as error:
        raise HTTPException(422, f"page_token: {error}") from error
    with store_errors_as_503("the next page cannot be read now: "):
        answer = await parts.recommender.turn(ask, token)
    if answer is None:
        seconds = f"{parts.settings.session_seconds:g}"
        raise HTTPException(410, f"no such list of this user: lists are kept for {seconds} s; begin a new one")
    return answer


class PlainQuery(NamedTuple):
    """A query string that needs no decoding: each name once, numbers as digits."""

    domain: str
    k: int | None
    at_ms: int | None


_PLAIN: Final = re.compile(rb"domain=([\w.-]+)(?:&k=([1-9][0-9]{0,8}))?(?:&at=([1-9][0-9]{0,14}))?", re.ASCII)


@functools.lru_cache(1024)
def plain_query(query: bytes) -> PlainQuery | None:
    """The query, when it is plain.

    >>> plain_query(b"domain=movies&k=10"), plain_query(b"domain=movies&k=many")
    (PlainQuery(domain='movies', k=10, at_ms=None), None)
    """
    found = _PLAIN.fullmatch(query)
    if found is None:
        return None
    domain, k, at = found.groups()
    return PlainQuery(domain.decode(), int(k) if k else None, int(at) if at else None)


def plain_ask(scope: Scope, parts: Parts) -> Ask | None:
    """What a request asks for, when all of it is plainly good; None leaves the judgement to the route."""
    query, settings = plain_query(scope["query_string"]), parts.settings
    user_id: str = scope["path"][len(PREFIX) :]
    if query is None or query.domain not in settings.domains or not user_id.isprintable():
        return None
    k = settings.default_k if query.k is None else query.k
    if k > settings.max_k or not 0 < len(user_id) <= MAX_ID_LENGTH:
        return None
    if query.at_ms is None:
        ts_ms = now_ms(parts)
    elif settings.allow_event_time:
        bounds, ts_ms = time_bounds(parts), query.at_ms
        if not bounds.earliest_ms <= ts_ms <= bounds.latest_ms:
            return None
    else:
        return None
    return Ask(ModelName(query.domain), UserId(user_id), k, ts_ms)


class FastPath:
    """ASGI middleware that answers plain requests for recommendations, and leaves everything else to the application.

    state : the application's, which gets its `parts` as it starts
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = None
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith(PREFIX):
            parts: Parts = self._state.parts
            if not scope.get("root_path"):
                ask = plain_ask(scope, parts)
        if ask is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = ROUTE
        body = _encode(await parts.recommender.recommend(ask))
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


ROUTE: Final = router.routes[-1]
"""What metrics know these requests by."""
