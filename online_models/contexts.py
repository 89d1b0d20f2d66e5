"""What was known of its user just before each event of a batch: the recent events that came earlier on the log.

- By the order of the log, so that no result depends on where a batch was cut; within a context by (time, event), as in a history.
- One compiled pass with a ring per user: what `history.merge` says event by event, for all of them at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.history import RECENT_EVENTS, UserHistory, concatenated

I64 = npt.NDArray[np.int64]


class Contexts(NamedTuple):
    """Context n are the entries ptr[n] : ptr[n + 1], oldest first, and of these until[n] end before the time of the event itself.

    entries : ENTRY (m,); ptr : int64 (n + 1,); until : int64 (n,)
    joined : bool (n,), whether the event joined its user's history: one that is older than all of a full one does not
    """

    entries: npt.NDArray[np.void]
    ptr: I64
    until: I64
    joined: npt.NDArray[np.bool_]

    def taken(self, rows: npt.NDArray[np.bool_]) -> "Contexts":
        """The contexts of the events where `rows` (n,) is true."""
        many = np.diff(self.ptr)
        ptr = np.concatenate([[0], np.cumsum(many[rows])])
        within = self.until[rows] - self.ptr[:-1][rows]
        return Contexts(self.entries[np.repeat(rows, many)], ptr, ptr[:-1] + within, self.joined[rows])


def contexts_of(old: Sequence[UserHistory], user: I64, events: npt.NDArray[np.void]) -> Contexts:
    """The contexts of events, none of which its user's history holds yet.

    Parameters
    ----------
    old : the users' histories before the batch
    user : (n,), which of the users each event is of; events : ENTRY (n,), in the order of the log

    >>> from online_models.history import ENTRY
    >>> events = np.array([(5, 1, 70, 1.0), (5, 2, 71, 1.0), (9, 3, 72, 1.0)], ENTRY)
    >>> nobody = UserHistory(events[:0], events[:0])
    >>> found = contexts_of([nobody], np.zeros(3, np.int64), events)
    >>> found.entries["item"].tolist(), found.ptr.tolist(), found.until.tolist()
    ([70, 70, 71], [0, 0, 1, 3], [0, 0, 3])
    """
    known = concatenated([history.recent for history in old])
    starts = np.concatenate([[0], np.cumsum([len(history.recent) for history in old], dtype=np.int64)])
    everything = np.concatenate([known, events])
    place, ptr, until, joined = _contexts(
        np.ascontiguousarray(everything["ts_ms"]),
        np.ascontiguousarray(everything["event"]),
        np.ascontiguousarray(starts, np.int64),
        np.ascontiguousarray(user, np.int64),
    )
    return Contexts(everything[place], ptr, until, joined)


@njit(cache=True, nogil=True)
def _contexts(
    ts_ms: I64, event: npt.NDArray[np.uint64], starts: I64, user: I64
) -> tuple[I64, I64, I64, npt.NDArray[np.bool_]]:
    """Places of the contexts' entries among [all known, events]; known ones of user u are starts[u] : starts[u + 1]."""
    users, known = starts.size - 1, starts[-1]
    ring, held = np.empty((users, RECENT_EVENTS), np.int64), np.zeros(users, np.int64)
    for u in range(users):
        held[u] = starts[u + 1] - starts[u]
        for k in range(held[u]):
            ring[u, k] = starts[u] + k
    ptr, until = np.zeros(user.size + 1, np.int64), np.zeros(user.size, np.int64)
    joined = np.ones(user.size, np.bool_)
    total = 0
    for n in range(user.size):
        total += min(RECENT_EVENTS, held[user[n]] + n)
    place = np.empty(total, np.int64)
    for n in range(user.size):
        u, new, begin = user[n], known + n, ptr[n]
        many = held[u]
        place[begin : begin + many] = ring[u, :many]
        ptr[n + 1] = begin + many
        until[n] = begin
        for k in range(many):
            if ts_ms[ring[u, k]] < ts_ms[new]:
                until[n] = begin + k + 1
        # into the ring by (time, event); of a full one the oldest entry leaves
        at = many
        while at > 0 and (
            ts_ms[ring[u, at - 1]] > ts_ms[new]
            or (ts_ms[ring[u, at - 1]] == ts_ms[new] and event[ring[u, at - 1]] > event[new])
        ):
            at -= 1
        if many < RECENT_EVENTS:
            for k in range(many, at, -1):
                ring[u, k] = ring[u, k - 1]
            ring[u, at] = new
            held[u] += 1
        elif at > 0:
            for k in range(at - 1):
                ring[u, k] = ring[u, k + 1]
            ring[u, at - 1] = new
        else:
            joined[n] = False
    return place[: ptr[-1]], ptr, until, joined
