"""What is asked for and what is answered, as it goes over the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName, UserId
from online_models.contracts.rollouts import Variant
from serving_api.ranking import RankedItem


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for k recommendations; `ts_ms` is its event time, epoch milliseconds; `age` the user's, if it is told."""

    model: ModelName
    user_id: UserId
    k: int
    ts_ms: int
    age: float | None = None


class RecommendedItem(msgspec.Struct, frozen=True, gc=False):
    """One item of an answer; `rank` counts from 1, `score` is null where no model placed the item; `reason` is a code, about
    the item `because` of the user's history where there is one."""

    item_id: str
    title: str
    categories: list[str]
    score: float | None
    rank: int
    reason: str
    because: str | None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request; `page_token` asks for the next page, where there is one."""

    request_id: str
    user_id: str
    domain: str
    model_version: str | None
    variant: Variant
    source: str
    rollout_id: int | None
    stage: int
    degraded: bool
    items: list[RecommendedItem]
    page_token: str | None = None


def titled(
    items: Sequence[RankedItem], catalogue: Mapping[str, Item], first: int
) -> tuple[list[RecommendedItem], bool]:
    """Items as they are shown, of which `first` stand before them, and whether the catalogue knows all of them."""
    shown, known = [], True
    for place, each in enumerate(items, start=first + 1):
        entry = catalogue.get(each.item_id)
        if entry is None:
            entry, known = Item(each.item_id, "", title=each.item_id), False
        about = (each.reason, each.because)
        shown.append(RecommendedItem(each.item_id, entry.title, entry.categories, each.score, place, *about))
    return shown, known
