"""A batch's engagements by user: what joins each history, and which events are new to it."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from online_models import als
from online_models import history as histories
from online_models.contracts.events import EventBatch
from online_models.contracts.ids import ItemId, UserId
from online_models.history import ENTRY, SEEN, UserHistory


@dataclass(frozen=True, slots=True)
class Grouped:
    """A model's events of one batch by user: user u owns rows starts[u]:starts[u + 1], in order of (user, time, event).

    place : int64 (n,), where in the batch each row stood
    """

    users: list[UserId]
    starts: npt.NDArray[np.int64]
    entries: npt.NDArray[np.void]
    items: list[ItemId]
    place: npt.NDArray[np.int64]

    def rows(self, user: int) -> slice:
        """The rows of the u-th user."""
        return slice(int(self.starts[user]), int(self.starts[user + 1]))

    def owner(self) -> npt.NDArray[np.int64]:
        """Which user each row (n,) belongs to."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.starts))

    def in_order(self, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """The marked rows (n,) in the order of the batch."""
        marked = np.flatnonzero(rows)
        return marked[np.argsort(self.place[marked])]


def group_by_user(batch: EventBatch) -> Grouped:
    """A batch's engagements by user, with their preference strength (0: seen, but not a sign of preference)."""
    order = np.lexsort((batch.event_hash, batch.ts_ms, batch.user_hash))
    hashes = batch.user_hash[order]
    first = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
    entries = np.empty(len(order), ENTRY)
    entries["ts_ms"] = batch.ts_ms[order]
    entries["event"] = batch.event_hash[order]
    entries["item"] = batch.item_hash[order]
    entries["strength"] = als.event_strength(batch.type, batch.value)[order]
    rows = order.tolist()
    return Grouped(
        users=[UserId(batch.events[rows[at]].user_id) for at in first.tolist()],
        starts=np.r_[first, len(order)],
        entries=entries,
        items=cast(list[ItemId], [batch.events[row].item_id for row in rows]),
        place=order,
    )


def merged(grouped: Grouped, old: list[UserHistory]) -> list[UserHistory]:
    """Each user's old history with their events of the batch."""
    entries, owner = grouped.entries, grouped.owner()
    seen = np.empty(len(entries), SEEN)
    seen["ts_ms"] = entries["ts_ms"]
    seen["item"] = entries["item"]
    positive = entries["strength"] > 0
    return histories.merge_all(old, entries[positive], owner[positive], seen, owner)


def fresh_rows(grouped: Grouped, old: list[UserHistory]) -> npt.NDArray[np.bool_]:
    """Rows (n,) that are positive and not in their user's history yet: a log read twice counts once.

    What is older than a full history cannot be told from a repeat, and counts as one: `Contexts.joined` says which are.
    """
    events = grouped.entries["event"]
    fresh: npt.NDArray[np.bool_] = grouped.entries["strength"] > 0
    known = np.sort(np.concatenate([history.recent["event"] for history in old]))
    # np.isin takes five times as long to say the same
    anywhere = np.searchsorted(known, events, "left") < np.searchsorted(known, events, "right")
    for user in np.unique(grouped.owner()[fresh & anywhere]).tolist():
        rows = grouped.rows(user)
        fresh[rows] &= histories.fresh(old[user], events[rows])
    return fresh
