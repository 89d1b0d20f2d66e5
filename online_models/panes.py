"""A batch of events cut into panes of event time: which entries of a column are of which pane."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.columns import Rows

Part = slice | npt.NDArray[np.int64]
"""Which entries of a column."""


@njit(cache=True, nogil=True)
def _by_pane(pane: npt.NDArray[np.int64], panes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A counting sort: the places of each pane in order, and where each pane starts among them (panes + 1,)."""
    starts = np.zeros(panes + 2, np.int64)
    for i in range(pane.size):
        starts[pane[i] + 2] += 1
    for p in range(1, panes + 2):
        starts[p] += starts[p - 1]
    places = np.empty(pane.size, np.int64)
    for i in range(pane.size):
        places[starts[pane[i] + 1]] = i
        starts[pane[i] + 1] += 1
    return places, starts[:-1]


class Cut:
    """A batch cut into its panes: which entries of a column lie in which.

    When the panes do not decrease, as in a log in order of time, each pane's entries are a slice.

    Parameters
    ----------
    pane : int64 (n,), the pane of each event, in [0, panes)

    Raises
    ------
    ValueError
        When a pane is out of range.

    >>> cut = Cut(np.array([0, 0, 2]), 3)
    >>> list(cut.parts(None)), list(cut.parts(np.array([1, 2], np.int32)))
    ([(0, slice(0, 2, None)), (2, slice(2, 3, None))], [(0, slice(0, 1, None)), (2, slice(1, 2, None))])
    """

    def __init__(self, pane: npt.NDArray[np.int64], panes: int) -> None:
        lowest, highest, self._in_order = _span(pane)
        if len(pane) and (lowest < 0 or highest >= panes):
            raise ValueError(f"expected panes in [0, {panes}), got {lowest} to {highest}")
        self._pane = pane
        self._panes = panes
        # of the type of rows: a search among other integers would copy them
        self._starts = np.searchsorted(pane, np.arange(panes + 1)).astype(np.int32)

    def count(self, type_: npt.NDArray[np.int8], types: int) -> npt.NDArray[np.int64]:
        """How many events each pane has of each type, (panes, types)."""
        return _count(self._pane, type_, self._panes, types)

    def parts(self, rows: Rows | None) -> Iterator[tuple[int, Part]]:
        """Each pane that has entries of a column, whose events are `rows` (k,), and which."""
        if self._panes == 1:
            if len(self._pane if rows is None else rows):
                yield 0, slice(None)
        elif self._in_order:
            starts = self._starts if rows is None else np.searchsorted(rows, self._starts)
            for p in np.flatnonzero(np.diff(starts)).tolist():
                yield p, slice(int(starts[p]), int(starts[p + 1]))
        else:
            places, starts = _by_pane(self._pane if rows is None else self._pane[rows], self._panes)
            for p in np.flatnonzero(np.diff(starts)).tolist():
                yield p, places[starts[p] : starts[p + 1]]


@njit(cache=True, nogil=True)
def _span(pane: npt.NDArray[np.int64]) -> tuple[int, int, bool]:
    """The first and the last pane, and whether none comes after a later one."""
    lowest, highest, in_order = np.int64(2**62), np.int64(-(2**62)), True
    for i in range(pane.size):
        lowest, highest = min(lowest, pane[i]), max(highest, pane[i])
    for i in range(pane.size - 1):
        in_order &= pane[i] <= pane[i + 1]
    return int(lowest), int(highest), in_order


@njit(cache=True, nogil=True)
def _count(pane: npt.NDArray[np.int64], type_: npt.NDArray[np.int8], panes: int, types: int) -> npt.NDArray[np.int64]:
    """Four counters take turns: neighbours are often of one type."""
    ways = np.zeros((panes * types, 4), np.int64)
    for i in range(pane.size):
        ways[pane[i] * types + type_[i], i & 3] += 1
    counts: npt.NDArray[np.int64] = ways.sum(1).reshape((panes, types))
    return counts
