"""`/v1/users/{user_id}/preferences`: what a new user says they like, from the next request on.

They count in full before the first event and not at all from the fifth on: what people do says more than what they say.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, ParamSpec, TypeVar

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from online_models.contracts.events import MAX_ID_LENGTH
from online_models.contracts.ids import UserId, hashes_of
from online_models.contracts.preferences import Preferences
from serving_api.reader import ModelState
from serving_api.routes.bodies import TOO_LARGE
from serving_api.routes.parts import Domain, now_ms, parts_of, served_model, store_errors_as_503
from serving_api.schemas import NO_NUL, PreferencesAnswer, PreferencesIn, Problem

router = APIRouter(tags=["users"])

P = ParamSpec("P")
T = TypeVar("T")

PATH: Final = "/v1/users/{user_id:path}/preferences"

UserIdPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, pattern=NO_NUL, examples=["1"])]

NO_DOMAIN: Final[dict[str, Any]] = {"model": Problem, "description": "No such domain."}
NO_REDIS: Final[dict[str, Any]] = {
    "model": Problem,
    "description": "Redis does not answer; nothing is known to have changed.",
}


@router.put(PATH, responses={404: NO_DOMAIN, 413: {**TOO_LARGE}, 503: NO_REDIS})
async def put_preferences(request: Request, user_id: UserIdPath, said: PreferencesIn) -> PreferencesAnswer:
    """Replace what the user has said they like in a domain.

    What is not known yet is kept and tells once it is known; the answer names it, for it may be a slip of the pen.
    """
    parts = parts_of(request)
    model = served_model(parts, said.domain)
    preferences = Preferences(_once(said.items), _once(said.categories), now_ms(parts))
    await _kept(parts.kept.put_preferences, model, UserId(user_id), preferences)
    return _told(parts.reader.state(model), user_id, preferences)


@router.get(PATH, responses={404: NO_DOMAIN, 503: NO_REDIS})
async def get_preferences(request: Request, user_id: UserIdPath, domain: Domain) -> PreferencesAnswer:
    """What the user has said they like in a domain; empty lists when nothing."""
    parts = parts_of(request)
    model = served_model(parts, domain)
    preferences = await _kept(parts.kept.preferences, model, UserId(user_id))
    return _told(parts.reader.state(model), user_id, preferences)


@router.delete(PATH, status_code=204, responses={404: NO_DOMAIN, 503: NO_REDIS})
async def delete_preferences(request: Request, user_id: UserIdPath, domain: Domain) -> Response:
    """Forget what the user has said they like in a domain; nothing happens when that is nothing."""
    parts = parts_of(request)
    await _kept(parts.kept.drop_preferences, served_model(parts, domain), UserId(user_id))
    return Response(status_code=204)


async def _kept(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the store says. Raises HTTPException 503 when it does not."""
    with store_errors_as_503("preferences cannot be kept or read now: "):
        return await run_in_threadpool(work, *args, **kwargs)


def _once(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _told(state: ModelState, user_id: str, preferences: Preferences) -> PreferencesAnswer:
    known = {item for item in preferences.items if item in state.catalogue}
    for view in state.versions.values():
        rows = view.rows(hashes_of(preferences.items)).tolist()
        known.update(item for item, row in zip(preferences.items, rows, strict=True) if row >= 0)
    return PreferencesAnswer(
        user_id=user_id,
        domain=state.model,
        items=list(preferences.items),
        categories=list(preferences.categories),
        unknown_items=[item for item in preferences.items if item not in known],
        unknown_categories=[name for name in preferences.categories if name not in state.facts.names],
    )
