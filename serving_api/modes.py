"""Serving modes: who is answered by ranking now, and who from a list that `precompute` has made."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from online_models.contracts.preferences import PrecomputedList
from online_models.errors import StoreError
from serving_api.facts import Facts
from serving_api.ranked_list import RankedList
from serving_api.ranking import RankedItem, Ranking
from serving_api.reranking.candidates import Hashes
from serving_api.reranking.explanations import Code
from serving_api.settings import Mode

PRECOMPUTED: Final = "precomputed"

decode: Final = msgspec.json.Decoder(PrecomputedList).decode


@dataclass(frozen=True, slots=True)
class Modes:
    """mode : `realtime` ranks for everybody, `precomputed` for those without a list, `hybrid` for the active ones too
    active : a user whose newest event is older is not active
    """

    mode: Mode
    active: timedelta

    @property
    def reads_lists(self) -> bool:
        """Whether lists are used at all."""
        return self.mode != "realtime"

    def prefers_list(self, newest_ms: int, now_ms: int) -> bool:
        """Whether a user is answered from a list, where there is one.

        newest_ms : event time of the newest thing known of the user, epoch milliseconds; now_ms : of the request

        >>> Modes("hybrid", timedelta(seconds=1)).prefers_list(5_000, 6_001)
        True
        """
        match self.mode:
            case "realtime":
                return False
            case "precomputed":
                return True
            case "hybrid":
                return now_ms - newest_ms > self.active.total_seconds() * 1000


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be shown now, whatever held when a list was made: rules and facts, the user's age if it is known, the time (epoch
    ms)."""

    facts: Facts
    age: float | None
    now_ms: int

    def of(self, ids: Sequence[str]) -> list[str]:
        """Those of the items that neither a rule excludes nor the age bars, in their order."""
        return self.facts.permitted(ids, self.age, self.now_ms)


def ranking_of(raw: bytes, seen: Hashes, least: int, most: int, allowed: Allowed) -> Ranking | None:
    """The best `most` items of a list that are allowed and not among the seen hashes (s,); None when there are not even `least`.

    Raises
    ------
    StoreError
        When the list is torn.
    """
    try:
        listed = decode(raw)
        scores = dict(zip(listed.items, listed.scores, strict=True))
    except ValueError as error:  # a DecodeError is one
        raise StoreError(f"a precomputed list: {error}") from error
    unseen = allowed.of(RankedList.of(listed.items).unseen(seen))[:most]
    if len(unseen) < least:
        return None
    return Ranking(PRECOMPUTED, [_item(item, scores[item]) for item in unseen])


def _item(item: str, score: float | None) -> RankedItem:
    return RankedItem(item, score, Code.POPULAR if score is None else Code.FOR_YOU)
