"""Which items are popular now: exponentially decayed counts, for users of whom nothing is known."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.contracts.ids import ItemId

_LANDMARK_HALF_LIVES: Final = 256
"""A landmark moves after so many half-lives: 2^256 is far from overflow."""

_DAY_MS: Final = 86_400_000.0


class Popularity:
    """Exponentially decayed interaction counts per item: an interaction of age a counts 2^(-a / half-life).

    Counts are kept forward-decayed (Cormode et al. 2009): each interaction adds 2^((t - landmark) / half-life), and a landmark
    moves by whole powers of two. So sums depend on the order of events alone, to the last bit.

    Parameters
    ----------
    half_life_days : time after which an interaction counts half
    counts : item id -> (count, epoch ms of its landmark)
    """

    def __init__(self, half_life_days: float, counts: Mapping[ItemId, tuple[float, int]]) -> None:
        self._half_life_ms = half_life_days * _DAY_MS
        self._stride_ms = round(_LANDMARK_HALF_LIVES * self._half_life_ms)
        self._rows = _Rows(counts)
        self._count = np.array([count for count, _ in counts.values()], np.float64)
        self._at_ms = np.array([at_ms for _, at_ms in counts.values()], np.int64)

    def add(self, items: Sequence[ItemId], times_ms: npt.NDArray[np.int64]) -> dict[ItemId, tuple[float, int]]:
        """Count interactions at times (n,); returns the touched items' new state."""
        rows = np.fromiter(map(self._rows.__getitem__, items), np.int64, len(items))
        self._grow()
        touched = np.unique(rows)
        old_ms = self._at_ms[touched]
        landmark_ms = times_ms // self._stride_ms * self._stride_ms
        np.maximum.at(self._at_ms, rows, landmark_ms)
        self._count[touched] = self._moved(self._count[touched], old_ms, self._at_ms[touched])
        # Each weight by its own landmark, then moved as the counts are: rounding does not know which landmark was the latest.
        weight = np.exp2((times_ms - landmark_ms) / self._half_life_ms)
        np.add.at(self._count, rows, self._moved(weight, landmark_ms, self._at_ms[rows]))
        state = zip(self._count[touched].tolist(), self._at_ms[touched].tolist(), strict=True)
        return {self._rows.order[row]: each for row, each in zip(touched.tolist(), state, strict=True)}

    def best(self, limit: int) -> list[ItemId]:
        """The most popular items now, best first; ties by id."""
        # log2 of the count at a common time: no under- or overflow over decades.
        known = slice(len(self._rows.order))
        score = np.log2(np.maximum(self._count[known], 1e-300)) + self._at_ms[known] / self._half_life_ms
        least = np.partition(score, -limit)[-limit] if len(score) > limit else -np.inf
        leading = np.flatnonzero(score >= least)
        leading = leading[np.argsort(-score[leading], kind="stable")]
        ids = [self._rows.order[row] for row in leading.tolist()]
        for ties in equal_runs(score[leading]):
            ids[ties] = sorted(ids[ties])
        return ids[:limit]

    def _moved(
        self, counts: npt.NDArray[np.float64], from_ms: npt.NDArray[np.int64], to_ms: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Counts (n,) by a later landmark: times a whole power of two, which rounds nothing."""
        moved: npt.NDArray[np.float64] = np.ldexp(counts, _LANDMARK_HALF_LIVES * ((from_ms - to_ms) // self._stride_ms))
        return moved

    def _grow(self) -> None:
        """Room for all items; a new item's count is 0 at the beginning of time."""
        if len(self._rows) > len(self._count):
            extra = max(1024, 2 * len(self._rows)) - len(self._count)
            self._count = np.append(self._count, np.zeros(extra))
            self._at_ms = np.append(self._at_ms, np.zeros(extra, np.int64))


class _Rows(dict[ItemId, int]):
    """Item -> its row; an unknown item gets the next one. `order` is the reverse."""

    def __init__(self, items: Iterable[ItemId]) -> None:
        self.order = list(items)
        super().__init__(zip(self.order, range(len(self.order)), strict=True))

    def __missing__(self, item: ItemId) -> int:
        self[item] = row = len(self.order)
        self.order.append(item)
        return row


def equal_runs(values: npt.NDArray[np.float64]) -> list[slice]:
    """Where neighbours among sorted values (n,) are equal.

    >>> equal_runs(np.array([9.0, 7.0, 7.0, 7.0, 5.0]))
    [slice(1, 4, None)]
    """
    ends = np.flatnonzero(np.r_[values[1:] != values[:-1], True]) + 1
    starts = np.r_[0, ends[:-1]]
    long = ends - starts > 1
    return list(map(slice, starts[long].tolist(), ends[long].tolist()))
