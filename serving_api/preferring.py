"""What a new user has said to like, as ranking takes it: of weight 1 before the first event, of none from the fifth on.

- Liked items stand in the user's context before everything that has happened, and are folded in while nothing else is there to
  fold in. They are not seen: they may be shown.
- Scores are log-odds, up to a constant: an item of a liked category counts as e^2, about 7 times as likely as the blend says, and
  so before the candidates are taken, not only among them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from online_models.contracts.ids import hashes_of
from online_models.contracts.preferences import Preferences
from online_models.history import EMPTY, ENTRY, UserHistory
from serving_api.reranking.candidates import F32, Bits, Hashes
from serving_api.retrieval import VersionView

FADED_EVENTS: Final = 5
"""With so many events of their own, users are judged by those alone."""

CATEGORY_BOOST: Final = 2.0


@dataclass(frozen=True, slots=True)
class Liking:
    """What a user has said, in terms of a version.

    items : uint64 (n,), hashes of liked items that are known
    raised : float32 (items,), what liked categories add to each item's score, or None
    """

    items: Hashes
    raised: F32 | None


def weight_of(events: int) -> float:
    """What preferences still count for a user of so many events.

    >>> [weight_of(events) for events in (0, 1, 4, 5, 100)]
    [1.0, 0.8, 0.2, 0.0, 0.0]
    """
    return max(0, FADED_EVENTS - events) / FADED_EVENTS


def liking_of(preferences: Preferences, events: int, view: VersionView) -> Liking | None:
    """What preferences mean to a version's items; None where they say nothing, or no longer count."""
    weight = weight_of(events)
    if not preferences or not weight:
        return None
    items = hashes_of(preferences.items)
    items = items[view.rows(items) >= 0]
    (liked,) = view.facts.names.bits([preferences.categories])
    raised = raised_by(view.facts.categories, liked, weight) if liked.any() else None
    return Liking(items, raised) if len(items) or raised is not None else None


def raised_by(categories: Bits, liked: Bits, weight: float) -> F32:
    """What is added to each item's score, float32 (items,): weight times `CATEGORY_BOOST` where it has a liked category.

    categories : uint64 (items, w); liked : uint64 (w,)
    """
    return np.where((categories & liked).any(axis=1), np.float32(weight * CATEGORY_BOOST), np.float32(0))


def as_if_met(items: Hashes) -> UserHistory:
    """The history of somebody who has met just these items, in their order, each once with strength 1, and has seen none."""
    recent = np.zeros(len(items), ENTRY)
    recent["ts_ms"], recent["item"], recent["strength"] = np.arange(len(items)), items, 1.0
    return UserHistory(recent, EMPTY.seen)
