"""Decayed counts of items by several clocks at once: by days, and by how many events the whole stream has seen since.

- A clock of events needs no tuning to the pace of a stream; clocks of days follow the calendar. Which of them tells most is
  learned.
- Counts are kept as base-2 logarithms with the time they are decayed to: no under- or overflow over decades, and a share at any
  later time is a subtraction.
- Event by event: results depend on the order of events alone. A late event counts as much as its age leaves of it.
"""

from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_DAY_MS: Final = 86_400_000.0

EVENT_HALF_LIVES: Final = (5_000.0, np.inf)
DAY_HALF_LIVES: Final = (7.0, 30.0)
CLOCKS: Final = len(EVENT_HALF_LIVES) + len(DAY_HALF_LIVES)
CLOCK_NAMES: Final = ("popularity_5000_events", "popularity_all", "popularity_7_days", "popularity_30_days")

LEAST_SHARE: Final = -20.0
"""log2 of the share below which an item counts as unknown: one in a million."""

_HALF_LIVES: Final = np.array([*EVENT_HALF_LIVES, *(days * _DAY_MS for days in DAY_HALF_LIVES)])
_EVENT_CLOCKS: Final = len(EVENT_HALF_LIVES)
_NONE: Final = -1.0e300


class PopularityArrays(NamedTuple):
    """log2_count, at : float64 (CLOCKS, items), decayed counts and the time of each clock that they are decayed to
    log2_total, total_at : float64 (CLOCKS,), of all items; events : int64 (1,), events of the stream so far
    """

    log2_count: F64
    at: F64
    log2_total: F64
    total_at: F64
    events: npt.NDArray[np.int64]


class Popularity:
    """Counts of all items.

    >>> counts = Popularity()
    >>> counts.grow(2)
    >>> for day in (0, 30):
    ...     count_item(counts.arrays, 0, day * 86_400_000)
    >>> counts.shares(30 * 86_400_000)[:, 0].tolist()  # the only item known
    [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, arrays: PopularityArrays | None = None) -> None:
        self.arrays = arrays or PopularityArrays(
            np.empty((CLOCKS, 0)),
            np.empty((CLOCKS, 0)),
            np.full(CLOCKS, _NONE),
            np.zeros(CLOCKS),
            np.zeros(1, np.int64),
        )

    def __len__(self) -> int:
        return int(self.arrays.at.shape[1])

    def grow(self, items: int) -> None:
        """Counts for so many items; new ones are 0."""
        more, a = items - len(self), self.arrays
        if more > 0:
            self.arrays = a._replace(
                log2_count=np.append(a.log2_count, np.full((CLOCKS, more), _NONE), axis=1),
                at=np.append(a.at, np.zeros((CLOCKS, more)), axis=1),
            )

    def shares(self, ts_ms: int) -> F32:
        """log2 of each item's share of all counts by each clock, float32 (CLOCKS, items), none below `LEAST_SHARE`."""
        shares = np.empty((CLOCKS, len(self)), np.float32)
        fill_shares(self.arrays, ts_ms, shares)
        return shares

    @property
    def newest_ms(self) -> int:
        """Event time of the newest event, epoch ms; 0 before the first."""
        return int(self.arrays.total_at[_EVENT_CLOCKS:].max(initial=0.0))

    def counts(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many events items (n,) have had."""
        log2_count = self.arrays.log2_count[CLOCK_NAMES.index("popularity_all"), rows]
        # exact up to some ten million events: two whole numbers lie further apart than the logarithms have rounded
        counts: npt.NDArray[np.int64] = np.rint(np.exp2(np.maximum(log2_count, -60.0))).astype(np.int64)
        return counts

    def counted(self) -> npt.NDArray[np.bool_]:
        """Which items (items,) have had an event."""
        counted: npt.NDArray[np.bool_] = self.arrays.log2_count[0] > _NONE / 2
        return counted

    def packed(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state as arrays, for storage."""
        return {name: array.copy() for name, array in self.arrays._asdict().items()}

    @classmethod
    def unpacked(cls, log2_count: F64, at: F64, log2_total: F64, total_at: F64, events: npt.NDArray[np.int64]) -> Self:
        """From what `packed` gave. Raises ValueError when the arrays do not fit each other, or hold what no count can."""
        floats = (log2_count, at, log2_total, total_at)
        items = at.shape[1] if at.ndim == 2 else 0
        shapes = [array.shape for array in (*floats, events)]
        if shapes != [(CLOCKS, items), (CLOCKS, items), (CLOCKS,), (CLOCKS,), (1,)]:
            raise ValueError(f"expected counts of {CLOCKS} clocks, got {shapes}")
        if events.dtype != np.int64 or not all(
            array.dtype == np.float64 and np.isfinite(array).all() for array in floats
        ):
            raise ValueError(f"expected finite float64 counts of int64 events, got {[array.dtype for array in floats]}")
        return cls(PopularityArrays(log2_count.copy(), at.copy(), log2_total.copy(), total_at.copy(), events.copy()))


@njit(cache=True, nogil=True)
def _later(log2_count: float, at: float, now: float, half_life: float) -> tuple[float, float]:
    """log2 of a count decayed to `now` plus an event of then, and the later of the two times."""
    # log2(2^(c - (t - at) / h) + 1), or for a late event log2(2^c + 2^-((at - t) / h))
    if now >= at:
        old, new, at = log2_count - (now - at) / half_life, 0.0, now
    else:
        old, new = log2_count, -(at - now) / half_life
    high, low = max(old, new), min(old, new)
    return high + np.log2(1.0 + np.exp2(low - high)), at


@njit(cache=True, nogil=True)
def count_item(counts: PopularityArrays, item: int, ts_ms: int) -> None:
    """Count one event with an item."""
    counts.events[0] += 1
    for clock in range(CLOCKS):
        half_life = _HALF_LIVES[clock]
        now = np.float64(counts.events[0]) if clock < _EVENT_CLOCKS else np.float64(ts_ms)
        counts.log2_count[clock, item], counts.at[clock, item] = _later(
            counts.log2_count[clock, item], counts.at[clock, item], now, half_life
        )
        counts.log2_total[clock], counts.total_at[clock] = _later(
            counts.log2_total[clock], counts.total_at[clock], now, half_life
        )


@njit(cache=True, nogil=True)
def fill_shares(counts: PopularityArrays, ts_ms: int, shares: F32) -> None:
    """See `Popularity.shares`."""
    for clock in range(CLOCKS):
        half_life = _HALF_LIVES[clock]
        now = np.float64(counts.events[0]) if clock < _EVENT_CLOCKS else np.float64(ts_ms)
        total = counts.log2_total[clock] - (now - counts.total_at[clock]) / half_life
        for item in range(shares.shape[1]):
            count = counts.log2_count[clock, item] - (now - counts.at[clock, item]) / half_life
            # of no events nobody has a share
            shares[clock, item] = max(count - total, LEAST_SHARE) if counts.events[0] > 0 else LEAST_SHARE
