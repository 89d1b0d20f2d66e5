"""Row numbers of items as the stream meets them: a new item gets the next row, and none ever moves."""

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from online_models.contracts.ids import hashes_of

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class ItemTable:
    """Item ids in row order, found by their 64-bit hashes.

    >>> table = ItemTable.of(["a", "b"])
    >>> table.add(["b", "c"]).tolist(), table.ids
    ([1, 2], ['a', 'b', 'c'])
    >>> table.rows(hashes_of(["c", "?"])).tolist()
    [2, -1]
    """

    __slots__ = ("_row", "_sorted", "_sorted_rows", "hashes", "ids")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.hashes: Hashes = np.empty(0, np.uint64)
        self._row: dict[str, int] = {}
        self._sorted: Hashes = self.hashes
        self._sorted_rows: Rows = np.empty(0, np.int64)

    @classmethod
    def of(cls, ids: Iterable[str]) -> Self:
        """From ids in row order; a repeated one keeps its first row."""
        table = cls()
        table.add(list(ids))
        return table

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str]) -> Rows:
        """Rows (n,) of items; those not met before get the next rows, in the order in which they appear."""
        before = len(self.ids)
        rows = np.empty(len(ids), np.int64)
        for place, item in enumerate(ids):
            row = self._row.setdefault(item, len(self.ids))
            if row == len(self.ids):
                self.ids.append(item)
            rows[place] = row
        if len(self.ids) > before:
            self._index(before)
        return rows

    def rows(self, hashes: Hashes) -> Rows:
        """Row of each hash (n,); -1 of an item not met yet."""
        if not len(self.ids):
            return np.full(len(hashes), -1, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        return np.where(self._sorted[place] == hashes, self._sorted_rows[place], -1)

    def _index(self, before: int) -> None:
        fresh = hashes_of(self.ids[before:])
        self.hashes = np.concatenate([self.hashes, fresh])
        order = np.argsort(fresh, kind="stable")
        places = np.searchsorted(self._sorted, fresh[order])
        self._sorted = np.insert(self._sorted, places, fresh[order])
        self._sorted_rows = np.insert(self._sorted_rows, places, order + before)
