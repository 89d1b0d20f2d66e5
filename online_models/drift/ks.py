"""Two-sample Kolmogorov-Smirnov test on fine bins, and its counterpart for words.

- Numbers: D is the largest gap between the two cumulative distributions at the edges of the fine bins, missing
  values apart; its p-value is Kolmogorov's at the effective n. Ties within a bin only make D smaller.
- Words have no order to cumulate in. D becomes the largest gap over all sets of coarse bins instead of all half
  lines, which is the total variation distance; its p-value is that of the two-sample chi-square test.
- Drift needs both a small p-value and a D of some size: with enough events every difference is significant.
"""

from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import kolmogorov

from online_models.contracts.features import FeatureKind
from online_models.drift.base import (
    MIN_EVENTS,
    Floats,
    Histogram,
    HistogramDetector,
    Reading,
    Snapshot,
    laid_out,
    not_a_snapshot_of,
)
from online_models.drift.chi_square import chi_square_divergence
from online_models.histograms import Counts

THRESHOLD: Final = 0.05
SIGNIFICANCE: Final = 0.05


def kolmogorov_smirnov(reference: Histogram, current: Histogram) -> tuple[Floats, Floats]:
    """D (...) and p-value of ordered cells' counts (..., c); 0 and 1 when either side is empty.

    >>> d, p = kolmogorov_smirnov(np.array([50, 50]), np.array([70, 30]))
    >>> round(float(d), 3), round(float(p), 3)
    (0.2, 0.037)
    """
    held, now, bounds = laid_out(reference, current)
    shape = np.broadcast_shapes(reference.shape, current.shape)[:-1]
    distance = largest_gaps(held, now, bounds).reshape(shape)
    m, n = reference.sum(-1), current.sum(-1)
    # P(K > sqrt(n m / (n + m)) D)
    return distance, kolmogorov(np.sqrt(m * n / np.maximum(m + n, 1)) * distance)


@njit(cache=True, nogil=True)
def largest_gaps(reference: Floats, current: Floats, bounds: npt.NDArray[np.int64]) -> Floats:
    """D (F,) of counts (C,) of many features, one after the other; `bounds` (F, 2) are where each begins and ends."""
    out = np.zeros(len(bounds))
    for row in range(len(bounds)):
        held, now = reference[bounds[row, 0] : bounds[row, 1]], current[bounds[row, 0] : bounds[row, 1]]
        m, n = held.sum(), now.sum()
        if m == 0 or n == 0:
            continue
        gap, widest = 0.0, 0.0
        for cell in range(held.size):
            gap += now[cell] / n - held[cell] / m
            widest = max(widest, abs(gap))
        out[row] = widest
    return out


def total_variation(reference: Histogram, current: Histogram) -> tuple[Floats, Floats]:
    """Total variation distance (...) and chi-square p-value of unordered bins' counts (..., B).

    >>> tv, p = total_variation(np.array([50, 50]), np.array([70, 30]))
    >>> round(float(tv), 3), round(float(p), 3)
    (0.2, 0.004)
    """
    _, p_value = chi_square_divergence(np.maximum(reference, 0), current)
    both = (reference.sum(-1) > 0) & (current.sum(-1) > 0)
    return half_apart(reference, current), np.where(both, p_value, 1.0)


def half_apart(reference: Histogram, current: Histogram) -> Floats:
    """Total variation distance (...) of bins' counts (..., B); 0 when either side is empty."""
    m, n = reference.sum(-1, keepdims=True), current.sum(-1, keepdims=True)
    both = (m > 0) & (n > 0)
    distance: Floats = (
        np.abs(np.where(both, current / np.maximum(n, 1) - reference / np.maximum(m, 1), 0.0)).sum(-1) / 2
    )
    return distance


class KsDetector(HistogramDetector):
    """Drift when D reaches a threshold and its p-value is below a significance.

    >>> detector = KsDetector(np.array([0, 2500, 2500, 0, 0]), FeatureKind.NUMERIC)
    >>> detector.update(np.array([0, 100, 400, 0, 0]))
    >>> detector.drift_detected, round(detector.statistic, 2)
    (True, 0.3)

    References
    ----------
    Smirnov: Table for estimating the goodness of fit of empirical distributions. Ann. Math. Stat. 19 (1948).
    """

    name: ClassVar[str] = "ks"
    usual_threshold: ClassVar[float] = THRESHOLD

    def __init__(
        self,
        reference: Counts,
        kind: FeatureKind,
        *,
        threshold: float = THRESHOLD,
        min_events: int = MIN_EVENTS,
        significance: float = SIGNIFICANCE,
    ) -> None:
        super().__init__(reference, kind, threshold=threshold, min_events=min_events)
        if threshold >= 1:
            raise ValueError(f"ks: expected a threshold below 1, got {threshold}")
        if not 0 < significance < 1:
            raise ValueError(f"ks: expected a significance between 0 and 1, got {significance}")
        self.significance = float(significance)

    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        if self.kind is FeatureKind.NUMERIC:
            found = kolmogorov_smirnov(self.reference[:-1], counts[:-1])
        else:
            found = total_variation(self._coarse_reference, coarse)
        distance, p = map(float, found)
        drifted = distance >= self.threshold and p < self.significance
        return Reading(self.name, distance, self.threshold, drifted, True, p, int(coarse.sum()))

    def snapshot(self) -> Snapshot:
        """The shared state, then the significance."""
        return (*super().snapshot(), self.significance)

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The detector behind a snapshot of this class."""
        match snapshot:
            case (*shared, float(significance)):
                detector = super().restore(tuple(shared))
                detector.significance = significance
                return detector
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)
