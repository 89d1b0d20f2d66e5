"""`GET /v1/items/{item_id}/similar`: items like an item, for a page about it."""

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from online_models.contracts.events import MAX_ID_LENGTH, Item
from serving_api.reader import ModelState
from serving_api.routes.parts import Count, Domain, now_ms, parts_of, served_model, wanted_items
from serving_api.schemas import Problem, SimilarAnswer
from serving_api.similar import Shelf, Similar, similar

router = APIRouter(tags=["recommendations"])

_encode: Final = msgspec.json.Encoder().encode

ItemIdPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, examples=["318"])]


class SimilarItem(msgspec.Struct, frozen=True, gc=False):
    """One item of an answer, as it goes over the wire."""

    item_id: str
    title: str
    categories: list[str]
    score: float
    rank: int
    reason: str


@router.get(
    "/v1/items/{item_id:path}/similar",
    response_class=Response,
    responses={
        200: {"model": SimilarAnswer, "description": "The items that are most like it."},
        404: {"model": Problem, "description": "No such domain, or an item that nobody knows."},
    },
)
async def similar_items(request: Request, item_id: ItemIdPath, domain: Domain, k: Count = None) -> Response:
    """The k items most like an item: taken by the same people, often together with it, or like it by what it says of itself."""
    parts = parts_of(request)
    state = parts.reader.state(served_model(parts, domain))
    wanted = wanted_items(parts, k)
    # of a large catalogue all vectors are gone through
    stranger_age = parts.settings.reranking.stranger_age
    shelf = _shelf(state)
    found = await run_in_threadpool(similar, shelf, item_id, wanted, now_ms(parts), stranger_age)
    if found is None:
        raise HTTPException(404, f"unknown item {item_id[:64]!r} of {domain}")
    items = [_told(state, place, each) for place, each in enumerate(found, start=1)]
    answer = {
        "item_id": item_id,
        "domain": domain,
        "model_version": None if shelf.view is None else shelf.view.loaded.version,
        "items": items,
    }
    return Response(_encode(answer), media_type="application/json")


def _shelf(state: ModelState) -> Shelf:
    view = next(iter(state.versions.values()), None)
    if state.route is not None:
        view = state.versions.get(state.route.stable, view)
    return Shelf(view, state.content, state.facts)


def _told(state: ModelState, place: int, each: Similar) -> SimilarItem:
    entry = state.catalogue.get(each.item_id) or Item(each.item_id, state.model, title=each.item_id)
    return SimilarItem(each.item_id, entry.title, entry.categories, each.score, place, each.reason)
