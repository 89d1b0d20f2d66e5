"""Point-in-time joins: what was known strictly before an event, and the check that nothing later has slipped in.

- Strictly before means an earlier time, not an earlier row: the items of one basket are no history of each other.
- The bounds are found by one sort and two binary searches; no history is copied before somebody asks for it.
- Features are constructed from these rows by the code of the stream job and of serving, see `online_models.construction`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from online_models.columns import MappingColumns
from online_models.construction import Identified
from online_models.contracts.columns import FeatureColumns
from online_models.contracts.ids import hashes_of
from online_models.errors import TrainingError
from online_models.interactions import Interactions

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Histories:
    """The history of each of m targets: the events `order[start:end]`, oldest first, all strictly before it.

    order : int64 (n,), rows of all events by key and time, equal times by row
    start, end : int64 (m,); `end - start` is the number of events of the key before the target
    """

    order: Rows
    start: Rows
    end: Rows

    def __len__(self) -> int:
        return len(self.start)

    def newest(self, count: int) -> Rows:
        """Rows of the newest events of each history, int64 (m, count), newest first; -1 where there are no more."""
        place = self.end[:, None] - 1 - np.arange(count)  # (m, count)
        inside = place >= self.start[:, None]
        if len(self.order) == 0:
            return np.full(place.shape, -1)
        return np.where(inside, self.order[np.where(inside, place, 0)], -1)

    def entries(self) -> tuple[Rows, Rows]:
        """All histories as CSR: where each begins and the last ends, int64 (m + 1,), and the rows of their events."""
        indptr = np.concatenate([[0], np.cumsum(self.end - self.start)])
        place = np.arange(indptr[-1]) + np.repeat(self.start - indptr[:-1], self.end - self.start)
        return indptr, self.order[place]

    def refuse_leak(self, ts_ms: Rows, at_ms: Rows) -> None:
        """Raise TrainingError unless the newest event of each history is strictly before its target; the others are no newer.

        Parameters
        ----------
        ts_ms : (n,), of all events; at_ms : (m,), of the targets
        """
        newest = self.newest(1)[:, 0]
        known = np.flatnonzero(newest >= 0)
        check_no_leak(ts_ms[newest[known]], known, at_ms)


def histories(key: Numbers, ts_ms: Rows, at_key: Numbers, at_ms: Rows) -> Histories:
    """What happened to each target's key strictly before the target.

    With users as keys these are the users' histories; with items, how often an item had been taken up by then.

    Parameters
    ----------
    key, ts_ms : (n,), of all events, in any order
    at_key, at_ms : (m,), of the targets, which may be events themselves

    >>> user, ts_ms = np.array([0, 0, 1, 0]), np.array([10, 20, 20, 20])
    >>> found = histories(user, ts_ms, user, ts_ms)
    >>> found.newest(2).tolist()
    [[-1, -1], [0, -1], [-1, -1], [0, -1]]
    """
    order = np.lexsort((ts_ms, key))
    key, ts_ms = key[order], ts_ms[order]
    start = np.searchsorted(key, at_key)
    return Histories(order, start, np.maximum(first_not_before(key, ts_ms, at_key, at_ms), start))


def first_not_before(key: Numbers, ts_ms: Rows, at_key: Numbers, at_ms: Rows) -> Rows:
    """The first place (m,) whose (key, time) is not below each (at_key, at_ms); key, ts_ms : (n,), sorted by both.

    >>> key, ts_ms = np.array([1, 1, 3]), np.array([10, 20, 5])
    >>> first_not_before(key, ts_ms, np.array([1, 1, 2, 3, 4]), np.array([20, 21, 99, 0, 0])).tolist()
    [1, 2, 2, 2, 3]
    """
    # Keys and times become ranks, so that both fit into one integer and one search finds the pair.
    keys, times = np.unique(key), np.unique(ts_ms)
    ranks = len(times) + 1
    wanted = np.searchsorted(keys, at_key)
    known = np.append(keys, 0)[wanted] == at_key
    known &= wanted < len(keys)
    place: Rows = np.searchsorted(
        np.searchsorted(keys, key) * ranks + np.searchsorted(times, ts_ms),
        wanted * ranks + np.where(known, np.searchsorted(times, at_ms), 0),
    )
    return place


def check_no_leak(entry_ms: Rows, target: Numbers, target_ms: Rows) -> None:
    """Raise TrainingError, naming the event, unless every entry of a history is strictly before its target.

    Parameters
    ----------
    entry_ms : (k,), times of the entries of all histories; target : (k,), the number of the target of each
    target_ms : (m,), times of the targets

    >>> check_no_leak(np.array([10, 30]), np.array([0, 1]), np.array([20, 30]))
    Traceback (most recent call last):
    online_models.errors.TrainingError: leak: expected the history of event 1 strictly before 30 ms, got one of 30 ms in it
    """
    leaked = np.flatnonzero(entry_ms >= target_ms[target])
    if len(leaked):
        entry = leaked[0]
        event = target[entry]
        raise TrainingError(
            f"leak: expected the history of event {event} strictly before {target_ms[event]} ms, "
            f"got one of {entry_ms[entry]} ms in it"
        )


@dataclass(frozen=True, slots=True)
class ObservedRows:
    """Some interactions as the columns that features are constructed from, see `construction.Observed`.

    Nobody reads texts of ids in training, so `events` is empty.
    """

    type: npt.NDArray[np.int8]
    ts_ms: Rows
    value: npt.NDArray[np.float64]
    item_hash: npt.NDArray[np.uint64]
    user_hash: npt.NDArray[np.uint64]
    features: FeatureColumns
    events: Sequence[Identified] = ()


def observed(interactions: Interactions, rows: Numbers) -> ObservedRows:
    """The interactions at `rows` (m,), in that order."""
    places = rows.tolist()
    return ObservedRows(
        interactions.type[rows],
        interactions.ts_ms[rows],
        interactions.value[rows],
        hashes_of([interactions.item_id[row] for row in places]),
        hashes_of([interactions.user_id[row] for row in places]),
        MappingColumns([interactions.features[row] for row in places]),
    )
