"""A recorded log as the protocol sees it: each user's first positive event with each item, in time order.

- All events of one user at one time are one group: predicted before any of them is learned, so that a basket's items are no
  evidence for each other.
- Users and items are numbered by first appearance in that order. So the items met before an event are the rows below some number,
  and they are the rows that the learner's own item table gives them.
- What a user has met before an event is a stretch of one array: nothing is copied as the log is gone through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from online_models.als import POSITIVE_RATING, event_strength
from online_models.contracts.events import TYPE_CODES, EventType
from online_models.errors import SourceError
from online_models.stores.recorded import Recorded

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Moment(NamedTuple):
    """One group of events and what was known just before it.

    user, ts_ms : of all of them; begin, end : the events of the log that they are
    history : (h,), the user's earlier events, oldest first; items : how many items had been met, which are the rows below it
    """

    user: int
    ts_ms: int
    begin: int
    end: int
    history: I64
    items: int


@dataclass(frozen=True, slots=True)
class Log:
    """Events as columns of one length n, no pair of a user and an item twice.

    ids : of the items, in row order; users : how many
    user, item : int64 (n,); ts_ms : int64 (n,), rising; strength : float32 (n,), > 0
    by_user : int64 (n,), the events user by user, each user's oldest first; those of user u begin at first[u]
    place : int64 (n,), how many events of its user come before each event; begins : int64 (groups + 1,), where groups begin
    met : int64 (n,), how many items had been met before each event
    """

    ids: list[str]
    users: int
    user: I64
    item: I64
    ts_ms: I64
    strength: F32
    by_user: I64
    first: I64
    place: I64
    begins: I64
    met: I64

    def __len__(self) -> int:
        return len(self.user)

    @property
    def groups(self) -> int:
        """How many."""
        return len(self.begins) - 1

    def moment(self, group: int) -> Moment:
        """What is to be predicted, and what from."""
        begin, end = int(self.begins[group]), int(self.begins[group + 1])
        return Moment(
            int(self.user[begin]), int(self.ts_ms[begin]), begin, end, self.history(begin), int(self.met[begin])
        )

    def history(self, event: int) -> I64:
        """The user's events before this one, in the order of the log, oldest first."""
        first = self.first[self.user[event]]
        return self.by_user[first : first + self.place[event]]

    @classmethod
    def of(cls, ids: Sequence[str], user: I64, item: I64, ts_ms: I64, strength: F32) -> Self:
        """From events (n,) in any order, repeated pairs among them; those of no strength are left out.

        Events of one time stay in their order, but a user's come together where the first of them was.

        Parameters
        ----------
        ids : of the items; user, item : (n,), any numbers of users, and rows of `ids`

        >>> user, item, ts_ms = np.array([7, 8, 7, 7]), np.array([2, 0, 0, 2]), np.array([5, 5, 5, 9])
        >>> log = Log.of("abc", user, item, ts_ms, np.ones(4, np.float32))
        >>> log.ids, log.user.tolist(), log.item.tolist(), log.begins.tolist()
        (['c', 'a'], [0, 0, 1], [0, 1, 1], [0, 2, 3])
        >>> log.moment(1)
        Moment(user=1, ts_ms=5, begin=2, end=3, history=array([], dtype=int64), items=2)
        """
        order = np.flatnonzero(strength > 0)
        order = order[np.argsort(ts_ms[order], kind="stable")]
        order = order[np.lexsort((_numbered(user[order])[0], ts_ms[order]))]
        order = order[_first_of_each(user[order], item[order])]
        number, users = _numbered(user[order])
        row, items = _numbered(item[order])
        times = ts_ms[order].astype(np.int64)
        by_user = np.argsort(number, kind="stable")
        first = np.searchsorted(number[by_user], np.arange(len(users)))
        place = np.empty(len(order), np.int64)
        place[by_user] = np.arange(len(order)) - first[number[by_user]]
        changes = np.flatnonzero((np.diff(number) != 0) | (np.diff(times) != 0)) + 1
        highest = np.maximum.accumulate(row) if len(row) else row
        return cls(
            ids=[ids[at] for at in items.tolist()],
            users=len(users),
            user=number,
            item=row,
            ts_ms=times,
            strength=strength[order].astype(np.float32),
            by_user=by_user,
            first=first,
            place=place,
            begins=np.concatenate([[0], changes, [len(order)]]) if len(order) else np.zeros(1, np.int64),
            met=np.concatenate([[0], highest[:-1] + 1]) if len(row) else row,
        )


def log_of(recorded: Recorded, domain: str | None = None, min_rating: float = POSITIVE_RATING) -> tuple[Log, str]:
    """The positive events of one domain of a recorded log, and which domain that is: the one with most of them if none is named.

    min_rating : a lower rating says nothing positive

    Raises
    ------
    SourceError
        When the log has no positive event (of that domain), or the rating is below the lowest that the learner takes in.
    """
    if min_rating < POSITIVE_RATING:
        raise SourceError(f"expected a lowest rating of {POSITIVE_RATING} or more, got {min_rating}")
    strength = event_strength(recorded.type, recorded.value)
    is_rating = recorded.type == TYPE_CODES[EventType.RATING]
    strength[is_rating & (recorded.value < min_rating)] = 0
    many = np.bincount(recorded.domain[strength > 0], minlength=len(recorded.domains))
    if domain is None and many.any():
        domain = recorded.domains[int(many.argmax())]
    if domain not in recorded.domains or not many[recorded.domains.index(domain)]:
        raise SourceError(f"expected positive events{f' of {domain}' if domain else ''}, got {len(recorded)} others")
    strength[recorded.domain != recorded.domains.index(domain)] = 0
    return Log.of(recorded.items, recorded.user, recorded.item, recorded.ts_ms, strength), domain


def _numbered(keys: I64) -> tuple[I64, I64]:
    """Numbers (n,) of keys (n,) in the order of their first appearance, and the keys (m,) that they stand for."""
    known, first, of = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(known), np.int64)
    number[order] = np.arange(len(known))
    return number[of], known[order]


def _first_of_each(user: I64, item: I64) -> I64:
    """Places of the first event of each pair, rising."""
    pairs = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    return np.sort(np.unique(pairs, return_index=True)[1])
