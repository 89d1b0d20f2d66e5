"""Bounded rows of decayed weights between items: what follows an item, and what is met together with it.

- A row holds at most `CAPACITY` neighbours; a new one then takes the place of the lightest.
- Decay counts events, not days: when the mass of a row passes its limit, the whole row is halved. So a busy item forgets fast, a
  rare one keeps what little is known of it, and nothing is to be tuned to the pace of a stream.
- Rows lie in one pool and double as they grow: memory follows what is known. The same pairs in the same order give the same
  bits.
"""

from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

CAPACITY: Final = 256
"""Most neighbours of an item."""

FIRST_ROOM: Final = 8

_LARGEST: Final = float(np.finfo(np.float32).max)


class NeighbourArrays(NamedTuple):
    """Row i are the entries start[i] : start[i] + length[i] of the pool.

    start, room, length : (items,); mass : float32 (items,), all weight that the row was given, decayed as the row is
    item : int32 (pool,), rows of the neighbours; weight : float32 (pool,); used : (1,), entries of the pool that are taken
    """

    start: I64
    room: I32
    length: I32
    mass: F32
    item: I32
    weight: F32
    used: I64


class Neighbours:
    """Rows of all items; `mass_limit` is the mass at which a row is halved.

    >>> rows = Neighbours(mass_limit=100.0)
    >>> rows.grow(3)
    >>> rows.make_room(CAPACITY)
    >>> add_pair(rows.arrays, 0, 2, np.float32(1.5), np.float32(100))
    >>> rows.of(0)
    ([2], [1.5])
    """

    def __init__(self, mass_limit: float, arrays: NeighbourArrays | None = None) -> None:
        if not mass_limit > 1:
            raise ValueError(f"expected a mass limit above 1, got {mass_limit}")
        self.mass_limit = np.float32(mass_limit)
        self.arrays = arrays or _empty()

    def __len__(self) -> int:
        return len(self.arrays.start)

    def grow(self, items: int) -> None:
        """Rows for so many items; new ones are empty."""
        more, a = items - len(self), self.arrays
        if more > 0:
            self.arrays = a._replace(
                start=np.append(a.start, np.zeros(more, np.int64)),
                room=np.append(a.room, np.zeros(more, np.int32)),
                length=np.append(a.length, np.zeros(more, np.int32)),
                mass=np.append(a.mass, np.zeros(more, np.float32)),
            )

    def make_room(self, entries: int) -> None:
        """See to it that the pool can give so many more entries."""
        a = self.arrays
        missing = int(a.used[0]) + entries - len(a.item)
        if missing > 0:
            more = max(missing, len(a.item))
            self.arrays = a._replace(
                item=np.append(a.item, np.zeros(more, np.int32)), weight=np.append(a.weight, np.zeros(more, np.float32))
            )

    def of(self, row: int) -> tuple[list[int], list[float]]:
        """An item's neighbours, in the order in which they came, and their weights."""
        begin = int(self.arrays.start[row])
        end = begin + int(self.arrays.length[row])
        return self.arrays.item[begin:end].tolist(), self.arrays.weight[begin:end].tolist()

    def heaviest(self, most: int) -> "Neighbours":
        """Rows of at most so many neighbours, the heaviest of each, for those who only read; of equal ones the first stays."""
        a = self.arrays
        entry = entries_of(a)
        owner = np.repeat(np.arange(len(self)), a.length)
        order = np.lexsort((-a.weight[entry], owner))  # row by row, heaviest first
        place = np.arange(len(entry)) - np.repeat(np.cumsum(a.length, dtype=np.int64) - a.length, a.length)
        kept = entry[order[place < most]]
        length = np.minimum(a.length, most).astype(np.int32)
        return Neighbours.unpacked(float(self.mass_limit), length, a.mass, a.item[kept], a.weight[kept])

    def packed(self) -> dict[str, npt.NDArray[np.generic]]:
        """The rows without the holes of the pool, for storage."""
        a = self.arrays
        entry = entries_of(a)
        return {"length": a.length.copy(), "mass": a.mass.copy(), "item": a.item[entry], "weight": a.weight[entry]}

    @classmethod
    def unpacked(cls, mass_limit: float, length: I32, mass: F32, item: I32, weight: F32) -> Self:
        """From what `packed` gave. Raises ValueError when the arrays do not fit each other, or hold what no row can."""
        _check_packed(length, mass, item, weight)
        start = np.cumsum(length, dtype=np.int64) - length
        used = np.array([len(item)], np.int64)
        return cls(
            mass_limit,
            NeighbourArrays(start, length.copy(), length.copy(), mass.copy(), item.copy(), weight.copy(), used),
        )


def entries_of(arrays: NeighbourArrays) -> I64:
    """Places in the pool of all entries, row after row."""
    ends = np.cumsum(arrays.length, dtype=np.int64)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - arrays.length, arrays.length)
    return np.repeat(arrays.start, arrays.length) + within


def _check_packed(length: I32, mass: F32, item: I32, weight: F32) -> None:
    if length.shape != (len(mass),) or not (item.shape == weight.shape == (length.sum(),)):
        raise ValueError(f"expected {length.sum()} entries of {len(mass)} rows, got {item.shape} of {length.shape}")
    kinds = [array.dtype.name for array in (length, item, mass, weight)]
    if kinds != ["int32", "int32", "float32", "float32"]:
        raise ValueError(f"expected int32 lengths and items, float32 masses and weights, got {kinds}")
    for numbers, least, most in (
        (length, 0, CAPACITY),
        (item, 0, len(length) - 1),
        (mass, 0, _LARGEST),
        (weight, 0, _LARGEST),
    ):
        # NaN is not within either
        if len(numbers) and not (numbers.min() >= least and numbers.max() <= most):
            raise ValueError(f"expected numbers in [{least}, {most}], got {numbers.min()} to {numbers.max()}")


def _empty() -> NeighbourArrays:
    none32 = np.empty(0, np.int32)
    return NeighbourArrays(
        np.empty(0, np.int64),
        none32,
        none32.copy(),
        np.empty(0, np.float32),
        none32.copy(),
        np.empty(0, np.float32),
        np.zeros(1, np.int64),
    )


@njit(cache=True, nogil=True)
def add_pair(rows: NeighbourArrays, row: int, neighbour: int, weight: np.float32, mass_limit: np.float32) -> None:
    """Add weight from an item to a neighbour; the pool must have room for `CAPACITY` more entries."""
    begin, n = rows.start[row], rows.length[row]
    if rows.mass[row] > mass_limit:
        for entry in range(begin, begin + n):
            rows.weight[entry] *= np.float32(0.5)
        rows.mass[row] *= np.float32(0.5)
    rows.mass[row] += weight
    for entry in range(begin, begin + n):
        if rows.item[entry] == neighbour:
            rows.weight[entry] += weight
            return
    if n < CAPACITY:
        if n == rows.room[row]:
            _double(rows, row)
        entry = rows.start[row] + n
        rows.length[row] += 1
    else:
        entry = begin + np.argmin(rows.weight[begin : begin + n])
    rows.item[entry] = neighbour
    rows.weight[entry] = weight


@njit(cache=True, nogil=True)
def _double(rows: NeighbourArrays, row: int) -> None:
    """Move a full row to a place of twice its room at the end of the pool."""
    begin, n, to = rows.start[row], rows.length[row], rows.used[0]
    room = min(max(FIRST_ROOM, 2 * n), CAPACITY)
    for entry in range(n):
        rows.item[to + entry] = rows.item[begin + entry]
        rows.weight[to + entry] = rows.weight[begin + entry]
    rows.start[row], rows.room[row] = to, room
    rows.used[0] = to + room
