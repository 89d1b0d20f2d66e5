"""ADWIN, the adaptive window of Bifet and Gavaldà (2007), over batches of values of one or many features.

- An exponential histogram of buckets: level l holds at most `max_buckets` buckets of 2^l values each, so that a
  window of W values is O(log W) numbers. Every `clock` values each boundary between buckets is tried as a cut.
- As in river, whose detections and widths it reproduces, the value after a detection starts a new window: one
  change is one detection, not a train of them while old buckets drop off.
- A detection is told to be a loss or a gain by the means before and after the most likely moment of change. What
  the detection leaves in the window would not do: it still holds old values, which hide most of a change.
- Most of the time goes into cuts that are far from one, which a bound without division or root rules out.
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
_BLOCK: Final = 32
_TOTALS, _VARIANCES = range(2)
_WIDTH, _TOTAL, _VARIANCE, _BEFORE, _AFTER = range(5)
_SEEN, _TOP, _DETECTIONS, _ENDED = range(4)


class AdwinMany:
    """A change of mean in each of many streams of numbers that come in batches, missing values among them.

    Parameters
    ----------
    features : number of streams F, each with a window of its own
    delta : bound on the chance of a false alarm at one check, in (0, 1)
    clock : values between two checks
    max_buckets : buckets of one size before two of them merge
    min_window_length : fewest values on each side of a cut
    grace_period : values before the first check

    Raises
    ------
    ValueError
        When a hyperparameter is out of range.

    >>> adwin = AdwinMany(2)
    >>> adwin.update(np.array([np.zeros(1000), np.repeat([0.0, 1.0], 500)]))
    >>> adwin.found, adwin.widths
    (array([[  1, 511]]), array([1000,  488]))

    References
    ----------
    Bifet, Gavaldà: Learning from time-changing data with adaptive windowing. SDM 2007.
    """

    name: ClassVar[str] = "adwin-many"
    SCHEMA_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        features: int,
        *,
        delta: float = DELTA,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
    ) -> None:
        if features < 1:
            raise ValueError(f"adwin: expected at least one feature, got {features}")
        if not 0 < delta < 1:
            raise ValueError(f"adwin: expected delta between 0 and 1, got {delta}")
        if min(clock, min_window_length) < 1 or max_buckets < 2 or grace_period < 0:
            raise ValueError(
                "adwin: expected clock and min_window_length >= 1, max_buckets >= 2 and grace_period >= 0, "
                f"got {clock}, {min_window_length}, {max_buckets} and {grace_period}"
            )
        self.delta, self.clock, self.max_buckets = float(delta), clock, max_buckets
        self.min_window_length, self.grace_period = min_window_length, grace_period
        self._found = np.empty((0, 2), np.int64)
        self._buckets = np.zeros((features, 2, _LEVELS, max_buckets + 1))
        self._filled = np.zeros((features, _LEVELS), np.int64)
        self._real = np.zeros((features, 5))
        self._whole = np.zeros((features, 4), np.int64)

    @property
    def features(self) -> int:
        """Number of streams."""
        return len(self._whole)

    @property
    def drift_detected(self) -> bool:
        """Whether the latest update held a detection in any feature."""
        return len(self._found) > 0

    @property
    def found(self) -> Ints:
        """Detections of the latest update, int64 (k, 2): feature and place in the batch, in that order."""
        return self._found

    @property
    def detections(self) -> Ints:
        """All detections so far, int64 (F,)."""
        return self._whole[:, _DETECTIONS].copy()

    @property
    def widths(self) -> Ints:
        """Values in each window, int64 (F,)."""
        return self._real[:, _WIDTH].astype(np.int64)

    @property
    def means(self) -> Floats:
        """Mean of each window, float64 (F,); 0 while it is empty."""
        return self._real[:, _TOTAL] / np.maximum(self._real[:, _WIDTH], 1)

    @property
    def means_before(self) -> Floats:
        """Mean of each window before the change of its latest detection, float64 (F,); 0 before the first."""
        return self._real[:, _BEFORE].copy()

    @property
    def means_after(self) -> Floats:
        """Mean of each window since the change of its latest detection, float64 (F,); 0 before the first."""
        return self._real[:, _AFTER].copy()

    @property
    def statistic(self) -> float:
        """The furthest that any feature's latest detection moved its mean, upward or downward."""
        return float(np.abs(self._real[:, _AFTER] - self._real[:, _BEFORE]).max())

    @property
    def threshold(self) -> float:
        """The confidence `delta`: each cut has a threshold of its own that follows from it."""
        return self.delta

    def update(self, x: Floats, /) -> None:
        """Take in values (F, n), each feature's in their order; NaN is a missing value, which its window never sees.

        Raises
        ------
        ValueError
            When there are other features, or an infinite value; nothing is taken in then.
        """
        values = np.ascontiguousarray(x, np.float64)
        if values.ndim != 2 or len(values) != self.features or np.isinf(values).any():
            raise ValueError(f"adwin: expected values ({self.features}, n), none infinite, got shape {values.shape}")
        found = np.empty((values.size // self.clock + self.features, 2), np.int64)
        k = _take_in_many(
            *(values, self.delta, self.clock, self.min_window_length, self.grace_period),
            *(self._buckets, self._filled, self._real, self._whole, found),
        )
        self._found = found[:k].copy()

    def snapshot(self) -> Snapshot:
        """`(name, schema version, features, hyperparameters in order, then five arrays)`."""
        # what has left a level stays in memory, how much depends on the batches; a snapshot does not hold it
        alive = np.arange(self.max_buckets + 1) < self._filled[:, np.newaxis, :, np.newaxis]
        return (
            *(self.name, self.SCHEMA_VERSION, self.features),
            *(self.delta, self.clock, self.max_buckets, self.min_window_length, self.grace_period),
            *(self._found.copy(), np.where(alive, self._buckets, 0.0), self._filled.copy()),
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
                int(features),
                float(delta),
                int(clock),
                int(max_buckets),
                int(min_window_length),
                int(grace_period),
                np.ndarray() as found,
                np.ndarray() as buckets,
                np.ndarray() as filled,
                np.ndarray() as real,
                np.ndarray() as whole,
            ):
                detector = cls(
                    features,
                    delta=delta,
                    clock=clock,
                    max_buckets=max_buckets,
                    min_window_length=min_window_length,
                    grace_period=grace_period,
                )
                detector._found = found.astype(np.int64)
                detector._buckets, detector._real = buckets.astype(np.float64), real.astype(np.float64)
                detector._filled, detector._whole = filled.astype(np.int64), whole.astype(np.int64)
                return detector
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)


class Adwin:
    """A change of mean in a stream of numbers, with a window as long as the mean has not changed.

    The parameters, and what they may be, are those of `AdwinMany`.

    >>> adwin = Adwin()
    >>> adwin.update(np.repeat([0.0, 1.0], 500))
    >>> adwin.drift_detected, adwin.detections, adwin.mean_before, adwin.mean_after
    (True, 1, 0.0, 1.0)
    """

    name: ClassVar[str] = "adwin"
    SCHEMA_VERSION: ClassVar[int] = 2

    def __init__(
        self,
        *,
        delta: float = DELTA,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
    ) -> None:
        self._many = AdwinMany(
            1,
            delta=delta,
            clock=clock,
            max_buckets=max_buckets,
            min_window_length=min_window_length,
            grace_period=grace_period,
        )

    @property
    def drift_detected(self) -> bool:
        """Whether the latest update held a detection."""
        return self._many.drift_detected

    @property
    def detections(self) -> int:
        """All detections so far."""
        return int(self._many.detections[0])

    @property
    def width(self) -> int:
        """Values in the window."""
        return int(self._many.widths[0])

    @property
    def mean(self) -> float:
        """Mean of the window; 0 while it is empty."""
        return float(self._many.means[0])

    @property
    def mean_before(self) -> float:
        """Mean of the window before the change of the latest detection; 0 before the first."""
        return float(self._many.means_before[0])

    @property
    def mean_after(self) -> float:
        """Mean of the window since the change of the latest detection; 0 before the first."""
        return float(self._many.means_after[0])

    @property
    def statistic(self) -> float:
        """How far the latest detection moved the mean, upward or downward."""
        return self._many.statistic

    @property
    def threshold(self) -> float:
        """The confidence `delta`: each cut has a threshold of its own that follows from it."""
        return self._many.threshold

    def update(self, x: Floats, /) -> None:
        """Take in values (n,) in their order.

        Raises
        ------
        ValueError
            When a value is not finite; none is taken in then.
        """
        values = np.asarray(x, np.float64)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"adwin: expected finite values (n,), got {values[:8]} of shape {values.shape}")
        self._many.update(values[np.newaxis])

    def snapshot(self) -> Snapshot:
        """As that of `AdwinMany` with one feature."""
        return (self.name, self.SCHEMA_VERSION, *self._many.snapshot()[2:])

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The detector behind a snapshot. Raises ValueError when it is another detector's or another version's."""
        match snapshot:
            case (cls.name, cls.SCHEMA_VERSION, 1, *state):
                detector = cls()
                detector._many = AdwinMany.restore((AdwinMany.name, AdwinMany.SCHEMA_VERSION, 1, *state))
                return detector
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)


@njit(cache=True, nogil=True, error_model="numpy")
def _take_in_many(
    values: Floats,
    delta: float,
    clock: int,
    min_length: int,
    grace: int,
    buckets: Floats,
    filled: Ints,
    real: Floats,
    whole: Ints,
    found: Ints,
) -> int:
    """Every feature's values in turn. buckets : (features, totals and variances, levels, max_buckets + 1)"""
    k = 0
    arrivals = np.empty((2, 2, buckets.shape[3] + _BLOCK))
    for feature in range(len(values)):
        state = (buckets[feature], filled[feature], real[feature], whole[feature])
        start = k
        k = _take_in(values[feature], delta, clock, min_length, grace, *state, arrivals, found[:, 1], k)
        found[start:k, 0] = feature
    return k


@njit(cache=True, nogil=True, error_model="numpy")
def _take_in(
    values: Floats,
    delta: float,
    clock: int,
    min_length: int,
    grace: int,
    buckets: Floats,
    filled: Ints,
    real: Floats,
    whole: Ints,
    arrivals: Floats,
    found: Ints,
    k: int,
) -> int:
    """Values by blocks that end where a check is due; the places of detections go to `found` from `k` on."""
    block, i = arrivals[0, 0, buckets.shape[2] - 1 :], 0
    while i < values.size:
        n, i = _gather(values, i, min(_BLOCK, clock - whole[_SEEN] % clock), block, filled, real, whole)
        _store(n, arrivals, buckets, filled, whole)
        whole[_SEEN] += n
        if n == 0 or whole[_SEEN] % clock or real[_WIDTH] <= grace:
            continue
        while _has_cut(delta, min_length, buckets[_TOTALS], filled, real, whole):
            if not whole[_ENDED]:
                whole[_ENDED] = 1
                whole[_DETECTIONS] += 1
                real[_BEFORE], real[_AFTER] = _means_about_change(min_length, buckets[_TOTALS], filled, real, whole)
                found[k] = i - 1
                k += 1
            _drop_oldest(buckets[_TOTALS], buckets[_VARIANCES], filled, real, whole)
    return k


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(
    values: Floats, i: int, room: int, block: Floats, filled: Ints, real: Floats, whole: Ints
) -> tuple[int, int]:
    """At most `room` values from place i on, missing ones left out, into `block` and into the window's width, total and
    sum of squares about its mean; how many they are, and the place after them."""
    width, total, variance = real[_WIDTH], real[_TOTAL], real[_VARIANCE]
    n = 0
    while n < room and i < values.size:
        x = values[i]
        i += 1
        if np.isnan(x):
            continue
        if whole[_ENDED]:
            filled[:], whole[:_DETECTIONS], whole[_ENDED] = 0, 0, 0
            width, total, variance = 0.0, 0.0, 0.0
        block[n] = x
        n += 1
        width += 1
        if width > 1:
            away = x - total / (width - 1)
            variance += (width - 1) * away * away / width
        total += x
    real[_WIDTH], real[_TOTAL], real[_VARIANCE] = width, total, variance
    return n, i


@njit(cache=True, nogil=True, error_model="numpy")
def _store(n: int, arrivals: Floats, buckets: Floats, filled: Ints, whole: Ints) -> None:
    """A bucket for each of n values in `arrivals[0, 0, max_buckets:]`; where a level is too full, its oldest two become one.

    One value at a time would merge two buckets whenever a level holds `max_buckets + 1`. Which buckets merge depends on
    their number alone, so a whole block can pass level by level, from one side of `arrivals` to the other.
    """
    totals, variances, most = buckets[_TOTALS], buckets[_VARIANCES], buckets.shape[2] - 1
    arrivals[0, _VARIANCES, most : most + n] = 0.0
    level, size, share, side = 0, 1.0, 1.0, 0
    while n:
        old = filled[level]
        merges, start = max(0, (old + n - most + 1) // 2), most - old
        # The arrivals begin at `most`; those of before go in front of them. Loops, since numba's copies between slices take
        # several times as long at these lengths.
        total, variance = arrivals[side, _TOTALS, start:], arrivals[side, _VARIANCES, start:]
        for bucket in range(old):
            total[bucket], variance[bucket] = totals[level, bucket], variances[level, bucket]
        above_total, above_variance = arrivals[1 - side, _TOTALS, most:], arrivals[1 - side, _VARIANCES, most:]
        for merged in range(merges):
            one, two = 2 * merged, 2 * merged + 1
            away = total[one] * share - total[two] * share
            above_total[merged] = total[one] + total[two]
            above_variance[merged] = variance[one] + variance[two] + size * away * away / 2
        filled[level] = old + n - 2 * merges
        total, variance = total[2 * merges :], variance[2 * merges :]
        for bucket in range(filled[level]):
            totals[level, bucket], variances[level, bucket] = total[bucket], variance[bucket]
        whole[_TOP] = max(whole[_TOP], level)
        n, level, size, share, side = merges, level + 1, size * 2, share / 2, 1 - side


@njit(cache=True, nogil=True, error_model="numpy")
def _has_cut(delta: float, min_length: int, totals: Floats, filled: Ints, real: Floats, whole: Ints) -> bool:
    """Whether the means on both sides of some bucket boundary, from the oldest on, differ by more than chance."""
    width = real[_WIDTH]
    # eps = sqrt(2/m v ln(2 ln(W) / delta)) + 2/(3m) ln(2 ln(W) / delta), 1/m = 1/n0 + 1/n1
    v, log = real[_VARIANCE] / width, np.log(2 * np.log(width) / delta)
    bound = 2 * v * log * (1 - 1e-9)
    n0, total0, size = 0.0, 0.0, 2.0 ** whole[_TOP]
    for level in range(whole[_TOP], -1, -1):
        for bucket in range(filled[level]):
            n0 += size
            total0 += totals[level, bucket]
            n1 = width - n0
            if n1 < min_length:
                return False
            if n0 < min_length:
                continue
            apart = total0 / n0 - (real[_TOTAL] - total0) / n1
            p, q = n0 - min_length + 1, n1 - min_length + 1
            # Most boundaries are below the first term of eps alone, squared and a little less for rounding.
            if apart * apart * p * q < bound * (p + q):
                continue
            m = 1 / p + 1 / q
            if abs(apart) > np.sqrt(2 * m * v * log) + 2 / 3 * m * log:
                return True
        size /= 2
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _means_about_change(
    min_length: int, totals: Floats, filled: Ints, real: Floats, whole: Ints
) -> tuple[float, float]:
    """Means on both sides of the bucket boundary that splits the window's variance best."""
    before, after, best = 0.0, 0.0, -1.0
    n0, total0 = 0.0, 0.0
    for level in range(whole[_TOP], -1, -1):
        for bucket in range(filled[level]):
            n0 += 2.0**level
            total0 += totals[level, bucket]
            n1 = real[_WIDTH] - n0
            if n0 < min_length or n1 < min_length:
                continue
            mean0, mean1 = total0 / n0, (real[_TOTAL] - total0) / n1
            # n0 n1 / W (mean0 - mean1)^2, the sum of squares between the sides
            between = n0 * n1 * (mean0 - mean1) ** 2
            if between > best:
                before, after, best = mean0, mean1, between
    return before, after


@njit(cache=True, nogil=True, error_model="numpy")
def _drop_oldest(totals: Floats, variances: Floats, filled: Ints, real: Floats, whole: Ints) -> None:
    top = whole[_TOP]
    size = 2.0**top
    real[_WIDTH] -= size
    real[_TOTAL] -= totals[top, 0]
    away = totals[top, 0] / size - real[_TOTAL] / real[_WIDTH]
    apart = variances[top, 0] + size * real[_WIDTH] * away * away / (size + real[_WIDTH])
    real[_VARIANCE] = max(real[_VARIANCE] - apart, 0.0)
    filled[top] -= 1
    for bucket in range(filled[top]):
        totals[top, bucket], variances[top, bucket] = totals[top, bucket + 1], variances[top, bucket + 1]
    while whole[_TOP] > 0 and filled[whole[_TOP]] == 0:
        whole[_TOP] -= 1
