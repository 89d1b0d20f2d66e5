"""A user's bounded history: the newest events that say something positive, and every item the user has met.

- It is a join-semilattice: `merge` is commutative, associative and idempotent, so that a replayed event changes nothing.
- Stored as one Redis string; the first 8 bytes are its event-time version, as in every vector.
- `merge` says what a join is; `merge_all` joins a whole batch of users in one compiled loop, linear in their rows.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

RECENT_EVENTS: Final = 100
"""Events kept for fold-in; no gain was measured from longer ones once recency weights are on."""

SEEN_ITEMS: Final = 16_384
"""Items remembered as seen; the newest win."""

ENTRY = np.dtype([("ts_ms", "<i8"), ("event", "<u8"), ("item", "<u8"), ("strength", "<f4")])
"""One positive event: time, event hash, item hash, preference strength (> 0)."""

SEEN = np.dtype([("ts_ms", "<i8"), ("item", "<u8")])

_HEADER = struct.Struct("<qII")
"""Event-time version in epoch ms, number of recent events, number of seen items."""

_ROOM: Final = 2
"""Slots of a hash table per row in it, at least."""


@dataclass(frozen=True, slots=True)
class UserHistory:
    """recent : ENTRY (r,), r <= RECENT_EVENTS, oldest first by (ts_ms, event), one row per event hash
    seen : SEEN (s,), s <= SEEN_ITEMS, one row per item with its latest time, oldest first by (ts_ms, item)
    """

    recent: npt.NDArray[np.void]
    seen: npt.NDArray[np.void]

    @property
    def version_ms(self) -> int:
        """Event time of the newest thing known, epoch ms; 0 when nothing is."""
        return int(self.seen["ts_ms"][-1]) if len(self.seen) else 0


EMPTY = UserHistory(np.empty(0, ENTRY), np.empty(0, SEEN))


def merge(old: UserHistory, recent: npt.NDArray[np.void], seen: npt.NDArray[np.void]) -> UserHistory:
    """`old` joined with more entries.

    Parameters
    ----------
    recent : ENTRY (n,), in any order, duplicates allowed
    seen : SEEN (m,), in any order, duplicates allowed

    >>> entry = np.array([(5, 1, 7, 1.0)], ENTRY)
    >>> once = merge(EMPTY, entry, entry[["ts_ms", "item"]].astype(SEEN))
    >>> twice = merge(once, entry, entry[["ts_ms", "item"]].astype(SEEN))
    >>> len(twice.recent), len(twice.seen), twice.version_ms
    (1, 1, 5)
    """
    return UserHistory(
        recent=_latest(np.concatenate([old.recent, recent]), "event", RECENT_EVENTS),
        seen=_latest(np.concatenate([old.seen, seen]), "item", SEEN_ITEMS),
    )


def merge_all(
    old: Sequence[UserHistory],
    recent: npt.NDArray[np.void],
    recent_of: npt.NDArray[np.int64],
    seen: npt.NDArray[np.void],
    seen_of: npt.NDArray[np.int64],
) -> list[UserHistory]:
    """Each of the `old` histories joined with its entries: `merge` for all of them at once.

    Parameters
    ----------
    recent : ENTRY (n,), recent_of : (n,), the history that each row joins
    seen : SEEN (m,), seen_of : (m,), likewise; rows in any order, duplicates allowed

    >>> seen = np.array([(5, 7), (6, 7), (4, 8)], SEEN)
    >>> one, other = merge_all([EMPTY, EMPTY], np.empty(0, ENTRY), np.empty(0, np.int64), seen, np.array([0, 0, 1]))
    >>> one.seen.tolist(), other.seen.tolist()
    ([(6, 7)], [(4, 8)])
    """
    recents = _latest_of_each([history.recent for history in old], recent, recent_of, "event", RECENT_EVENTS)
    seens = _latest_of_each([history.seen for history in old], seen, seen_of, "item", SEEN_ITEMS)
    return [UserHistory(*pair) for pair in zip(recents, seens, strict=True)]


def fresh(old: UserHistory, events: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which event hashes (n,) are not among the kept recent events."""
    return ~np.isin(events, old.recent["event"])


def encode(history: UserHistory) -> bytes:
    """The stored form."""
    header = _HEADER.pack(history.version_ms, len(history.recent), len(history.seen))
    return header + history.recent.tobytes() + history.seen.tobytes()


def decode(raw: bytes) -> UserHistory:
    """The history behind a stored string.

    Raises
    ------
    ValueError
        When the length does not match the header.
    """
    if len(raw) < _HEADER.size:
        raise ValueError(f"history of {len(raw)} bytes is shorter than its header")
    _, recent, seen = _HEADER.unpack_from(raw)
    split = _HEADER.size + recent * ENTRY.itemsize
    if len(raw) != split + seen * SEEN.itemsize:
        raise ValueError(f"history of {len(raw)} bytes does not match its header: {recent} recent, {seen} seen")
    return UserHistory(np.frombuffer(raw, ENTRY, recent, _HEADER.size), np.frombuffer(raw, SEEN, seen, split))


def _latest(rows: npt.NDArray[np.void], identity: str, limit: int) -> npt.NDArray[np.void]:
    """One row per identity, its latest; then the `limit` latest of all, oldest first."""
    rows = rows[np.lexsort((rows[identity], rows["ts_ms"]))]
    _, last = np.unique(rows[identity][::-1], return_index=True)
    keep = np.sort(len(rows) - 1 - last)
    return rows[keep[-limit:]]


def concatenated(rows: Sequence[npt.NDArray[np.void]], dtype: npt.DTypeLike = ENTRY) -> npt.NDArray[np.void]:
    """Structured rows of many users, one user after the other; read-only.

    As bytes, for np.concatenate compares the fields of every pair of arrays: ten times the cost.
    """
    return np.frombuffer(b"".join([each.tobytes() for each in rows]), dtype)


def _latest_of_each(
    known: Sequence[npt.NDArray[np.void]],
    rows: npt.NDArray[np.void],
    owner: npt.NDArray[np.int64],
    identity: str,
    limit: int,
) -> list[npt.NDArray[np.void]]:
    """`_latest` of each user's known rows and new ones; known rows are what it once returned."""
    rows = rows[order := np.lexsort((rows[identity], rows["ts_ms"], owner))]
    starts = np.searchsorted(owner[order], np.arange(len(known) + 1))
    old = concatenated(known, rows.dtype)
    old_starts = np.cumsum([0, *map(len, known)])
    kept, ends = _join(*_keys(old, identity), old_starts, *_keys(rows, identity), starts, limit)
    joined = np.concatenate([old, rows])[kept]
    bounds = [0, *ends.tolist()]
    return [joined[start:end] for start, end in pairwise(bounds)]


def _keys(rows: npt.NDArray[np.void], identity: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    return rows["ts_ms"].copy(), rows[identity].copy()


@njit(cache=True, nogil=True)
def _join(
    old_ts: npt.NDArray[np.int64],
    old_id: npt.NDArray[np.uint64],
    old_starts: npt.NDArray[np.int64],
    ts: npt.NDArray[np.int64],
    id: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
    limit: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which rows of [old, new] each user keeps, oldest first, and where each user's end.

    Both are in order of (user, ts, id); an id occurs once among a user's old rows.
    """
    kept, ends = np.empty(ts.size + old_ts.size, np.int64), np.empty(starts.size - 1, np.int64)
    old_alive, alive = np.ones(old_ts.size, np.bool_), np.ones(ts.size, np.bool_)
    written = 0
    for user in range(starts.size - 1):
        i, i_end, j, j_end = old_starts[user], old_starts[user + 1], starts[user], starts[user + 1]
        surplus = _drop_superseded(old_ts, old_id, old_alive, i, i_end, ts, id, alive, j, j_end) - limit
        while i < i_end or j < j_end:
            first = j == j_end or (i < i_end and (old_ts[i] < ts[j] or (old_ts[i] == ts[j] and old_id[i] < id[j])))
            row = i if first else old_ts.size + j
            lives = old_alive[i] if first else alive[j]
            i, j = i + first, j + (not first)
            if lives:
                surplus -= 1
                if surplus < 0:
                    kept[written] = row
                    written += 1
        ends[user] = written
    return kept[:written], ends


@njit(cache=True, nogil=True)
def _drop_superseded(
    old_ts: npt.NDArray[np.int64],
    old_id: npt.NDArray[np.uint64],
    old_alive: npt.NDArray[np.bool_],
    i: int,
    i_end: int,
    ts: npt.NDArray[np.int64],
    id: npt.NDArray[np.uint64],
    alive: npt.NDArray[np.bool_],
    j: int,
    j_end: int,
) -> int:
    """Mark as dead, among one user's rows, all but the latest of each id, the new one of equals; how many live on."""
    size = 1
    while size < _ROOM * (j_end - j):
        size *= 2
    # Open addressing; ids are hashes already.
    table, mask = np.full(size, -1), np.uint64(size - 1)
    living = i_end - i
    for row in range(j, j_end):
        slot = id[row] & mask
        while table[slot] >= 0 and id[table[slot]] != id[row]:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] >= 0:
            alive[table[slot]] = False
        else:
            living += 1
        table[slot] = row
    for row in range(i, i_end):
        slot = old_id[row] & mask
        while table[slot] >= 0 and id[table[slot]] != old_id[row]:
            slot = (slot + np.uint64(1)) & mask
        new = table[slot]
        if new >= 0:
            living -= 1
            if old_ts[row] > ts[new]:
                alive[new] = False
            else:
                old_alive[row] = False
    return living
