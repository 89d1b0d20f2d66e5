"""ADWIN, the adaptive window of Bifet and Gavaldà (2007), over batches of values.

- An exponential histogram of buckets: level l holds at most `max_buckets` buckets of 2^l values each, so that a
  window of W values is O(log W) numbers. Every `clock` values each boundary between buckets is tried as a cut.
- As in river, whose detections and widths it reproduces, the value after a detection starts a new window: one
  change is one detection, not a train of them while old buckets drop off.
- A detection is told to be a loss or a gain by the means before and after the most likely moment of change. What
  the detection leaves in the window would not do: it still holds old values, which hide most of a change.
"""

from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.drift.base import Snapshot, not_a_snapshot_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DELTA: Final = 0.002
_LEVELS: Final = 48
_WIDTH, _TOTAL, _VARIANCE, _BEFORE, _AFTER = range(5)
_SEEN, _TOP, _DETECTIONS, _ENDED = range(4)


class Adwin:
    """A change of mean in a stream of numbers, with a window as long as the mean has not changed.

    Parameters
    ----------
    delta : bound on the chance of a false alarm at one check, in (0, 1)
    clock : values between two checks
    max_buckets : buckets of one size before two of them merge
    min_window_length : fewest values on each side of a cut
    grace_period : values before the first check

    Raises
    ------
    ValueError
        When a hyperparameter is out of range.

    >>> adwin = Adwin()
    >>> adwin.update(np.repeat([0.0, 1.0], 500))
    >>> adwin.drift_detected, adwin.detections, adwin.mean_before, adwin.mean_after
    (True, 1, 0.0, 1.0)

    References
    ----------
    Bifet, Gavaldà: Learning from time-changing data with adaptive windowing. SDM 2007.
    """

    name: ClassVar[str] = "adwin"
    SCHEMA_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        *,
        delta: float = DELTA,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
    ) -> None:
        if not 0 < delta < 1:
            raise ValueError(f"adwin: expected delta between 0 and 1, got {delta}")
        if min(clock, min_window_length) < 1 or max_buckets < 2 or grace_period < 0:
            raise ValueError(
                "adwin: expected clock and min_window_length >= 1, max_buckets >= 2 and grace_period >= 0, "
                f"got {clock}, {min_window_length}, {max_buckets} and {grace_period}"
            )
        self.delta, self.clock, self.max_buckets = float(delta), clock, max_buckets
        self.min_window_length, self.grace_period = min_window_length, grace_period
        self._drift_detected = False
        self._buckets = np.zeros((2, _LEVELS, max_buckets + 1))
        self._filled = np.zeros(_LEVELS, np.int64)
        self._real = np.zeros(5)
        self._whole = np.zeros(4, np.int64)

    @property
    def drift_detected(self) -> bool:
        """Whether the latest update held a detection."""
        return self._drift_detected

    @property
    def detections(self) -> int:
        """All detections so far."""
        return int(self._whole[_DETECTIONS])

    @property
    def width(self) -> int:
        """Values in the window."""
        return int(self._real[_WIDTH])

    @property
    def mean(self) -> float:
        """Mean of the window; 0 while it is empty."""
        return float(self._real[_TOTAL] / self._real[_WIDTH]) if self.width else 0.0

    @property
    def mean_before(self) -> float:
        """Mean of the window before the change of the latest detection; 0 before the first."""
        return float(self._real[_BEFORE])

    @property
    def mean_after(self) -> float:
        """Mean of the window since the change of the latest detection; 0 before the first."""
        return float(self._real[_AFTER])

    @property
    def statistic(self) -> float:
        """How far the latest detection moved the mean, upward or downward."""
        return abs(self.mean_after - self.mean_before)

    @property
    def threshold(self) -> float:
        """The confidence `delta`: each cut has a threshold of its own that follows from it."""
        return self.delta

    def update(self, x: Floats, /) -> None:
        """Take in values (n,) in their order.

        Raises
        ------
        ValueError
            When a value is not finite; none is taken in then.
        """
        values = np.ascontiguousarray(x, np.float64)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"adwin: expected finite values (n,), got {values[:8]} of shape {values.shape}")
        before = self.detections
        _take_in(
            *(values, self.delta, self.clock, self.min_window_length, self.grace_period),
            *(self._buckets[0], self._buckets[1], self._filled, self._real, self._whole),
        )
        self._drift_detected = self.detections > before

    def snapshot(self) -> Snapshot:
        """`(name, schema version, hyperparameters in order, drift_detected, then four arrays)`."""
        return (
            *(self.name, self.SCHEMA_VERSION),
            *(self.delta, self.clock, self.max_buckets, self.min_window_length, self.grace_period),
            *(self._drift_detected, self._buckets.copy(), self._filled.copy()),
            *(self._real.copy(), self._whole.copy()),
        )

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The detector behind a snapshot.

        Raises
        ------
        ValueError
            When the snapshot is another detector's or another version's.
        """
        match snapshot:
            case (
                cls.name,
                cls.SCHEMA_VERSION,
                float(delta),
                int(clock),
                int(max_buckets),
                int(min_window_length),
                int(grace_period),
                bool(drift_detected),
                np.ndarray() as buckets,
                np.ndarray() as filled,
                np.ndarray() as real,
                np.ndarray() as whole,
            ):
                detector = cls(
                    delta=delta,
                    clock=clock,
                    max_buckets=max_buckets,
                    min_window_length=min_window_length,
                    grace_period=grace_period,
                )
                detector._drift_detected = drift_detected
                detector._buckets, detector._real = buckets.astype(np.float64), real.astype(np.float64)
                detector._filled, detector._whole = filled.astype(np.int64), whole.astype(np.int64)
                return detector
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)


@njit(cache=True, nogil=True)
def _take_in(
    values: Floats,
    delta: float,
    clock: int,
    min_length: int,
    grace: int,
    total: Floats,
    variance: Floats,
    filled: Ints,
    real: Floats,
    whole: Ints,
) -> None:
    """Each value in turn; every `clock` of them a search for cuts. total, variance : (levels, max_buckets + 1)"""
    for i in range(values.size):
        if whole[_ENDED]:
            filled[:], real[:_BEFORE], whole[:_DETECTIONS], whole[_ENDED] = 0, 0.0, 0, 0
        _insert(values[i], total, variance, filled, real, whole)
        whole[_SEEN] += 1
        if whole[_SEEN] % clock or real[_WIDTH] <= grace:
            continue
        while _has_cut(delta, min_length, total, filled, real, whole):
            if not whole[_ENDED]:
                whole[_ENDED] = 1
                whole[_DETECTIONS] += 1
                real[_BEFORE], real[_AFTER] = _means_about_change(min_length, total, filled, real, whole)
            _drop_oldest(total, variance, filled, real, whole)


@njit(cache=True, nogil=True)
def _insert(x: float, total: Floats, variance: Floats, filled: Ints, real: Floats, whole: Ints) -> None:
    """A bucket of one value; then two of the oldest of each size that has one too many become one of the next."""
    total[0, filled[0]], variance[0, filled[0]] = x, 0.0
    filled[0] += 1
    real[_WIDTH] += 1
    if real[_WIDTH] > 1:
        away = x - real[_TOTAL] / (real[_WIDTH] - 1)
        real[_VARIANCE] += (real[_WIDTH] - 1) * away * away / real[_WIDTH]
    real[_TOTAL] += x
    level, size = 0, 1.0
    while filled[level] == total.shape[1]:
        to = filled[level + 1]
        away = total[level, 0] / size - total[level, 1] / size
        total[level + 1, to] = total[level, 0] + total[level, 1]
        variance[level + 1, to] = variance[level, 0] + variance[level, 1] + size * away * away / 2
        filled[level + 1] += 1
        _forget(2, level, total, variance, filled)
        level, size = level + 1, size * 2
    whole[_TOP] = max(whole[_TOP], level)


@njit(cache=True, nogil=True)
def _has_cut(delta: float, min_length: int, total: Floats, filled: Ints, real: Floats, whole: Ints) -> bool:
    """Whether the means on both sides of some bucket boundary, from the oldest on, differ by more than chance."""
    width = real[_WIDTH]
    # eps = sqrt(2/m v ln(2 ln(W) / delta)) + 2/(3m) ln(2 ln(W) / delta), 1/m = 1/n0 + 1/n1
    v, log = real[_VARIANCE] / width, np.log(2 * np.log(width) / delta)
    n0, total0 = 0.0, 0.0
    for level in range(whole[_TOP], -1, -1):
        for bucket in range(filled[level]):
            n0 += 2.0**level
            total0 += total[level, bucket]
            n1 = width - n0
            if n1 < min_length or (level == 0 and bucket == filled[0] - 1):
                return False
            if n0 >= min_length:
                m = 1 / (n0 - min_length + 1) + 1 / (n1 - min_length + 1)
                eps = np.sqrt(2 * m * v * log) + 2 / 3 * m * log
                if abs(total0 / n0 - (real[_TOTAL] - total0) / n1) > eps:
                    return True
    return False


@njit(cache=True, nogil=True)
def _means_about_change(min_length: int, total: Floats, filled: Ints, real: Floats, whole: Ints) -> tuple[float, float]:
    """Means on both sides of the bucket boundary that splits the window's variance best."""
    before, after, best = 0.0, 0.0, -1.0
    n0, total0 = 0.0, 0.0
    for level in range(whole[_TOP], -1, -1):
        for bucket in range(filled[level]):
            n0 += 2.0**level
            total0 += total[level, bucket]
            n1 = real[_WIDTH] - n0
            if n0 < min_length or n1 < min_length:
                continue
            mean0, mean1 = total0 / n0, (real[_TOTAL] - total0) / n1
            # n0 n1 / W (mean0 - mean1)^2, the sum of squares between the sides
            between = n0 * n1 * (mean0 - mean1) ** 2
            if between > best:
                before, after, best = mean0, mean1, between
    return before, after


@njit(cache=True, nogil=True)
def _drop_oldest(total: Floats, variance: Floats, filled: Ints, real: Floats, whole: Ints) -> None:
    top = whole[_TOP]
    size = 2.0**top
    real[_WIDTH] -= size
    real[_TOTAL] -= total[top, 0]
    away = total[top, 0] / size - real[_TOTAL] / real[_WIDTH]
    apart = variance[top, 0] + size * real[_WIDTH] * away * away / (size + real[_WIDTH])
    real[_VARIANCE] = max(real[_VARIANCE] - apart, 0.0)
    _forget(1, top, total, variance, filled)
    while whole[_TOP] > 0 and filled[whole[_TOP]] == 0:
        whole[_TOP] -= 1


@njit(cache=True, nogil=True)
def _forget(oldest: int, level: int, total: Floats, variance: Floats, filled: Ints) -> None:
    """The `oldest` buckets of a level leave."""
    filled[level] -= oldest
    for bucket in range(filled[level]):
        total[level, bucket] = total[level, bucket + oldest]
        variance[level, bucket] = variance[level, bucket + oldest]
