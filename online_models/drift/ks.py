"""Two-sample Kolmogorov-Smirnov test on fine bins, and its counterpart for words.

- Numbers: D is the largest gap between the two cumulative distributions at the edges of the fine bins, missing
  values apart; its p-value is Kolmogorov's at the effective n. Ties within a bin only make D smaller.
- Words have no order to cumulate in. D becomes the largest gap over all sets of coarse bins instead of all half
  lines, which is the total variation distance; its p-value is that of the two-sample chi-square test.
- Drift needs both a small p-value and a D of some size: with enough events every difference is significant.
"""

from typing import ClassVar, Final, Self

import numpy as np
from scipy.special import chdtrc, kolmogorov

from online_models.contracts.features import FeatureKind
from online_models.drift.base import MIN_EVENTS, HistogramDetector, Reading, Snapshot, not_a_snapshot_of
from online_models.histograms import Counts

THRESHOLD: Final = 0.05
SIGNIFICANCE: Final = 0.05


def kolmogorov_smirnov(reference: Counts, current: Counts) -> tuple[float, float]:
    """D and p-value of ordered cells' counts (c,); (0, 1) when either side is empty.

    >>> d, p = kolmogorov_smirnov(np.array([50, 50]), np.array([70, 30]))
    >>> round(d, 3), round(p, 3)
    (0.2, 0.037)
    """
    m, n = int(reference.sum()), int(current.sum())
    if not m or not n:
        return 0.0, 1.0
    distance = float(np.abs(np.cumsum(current) / n - np.cumsum(reference) / m).max())
    # P(K > sqrt(n m / (n + m)) D)
    return distance, float(kolmogorov(np.sqrt(n * m / (n + m)) * distance))


def total_variation(reference: Counts, current: Counts) -> tuple[float, float]:
    """Total variation distance and chi-square p-value of unordered bins' counts (B,).

    >>> tv, p = total_variation(np.array([50, 50]), np.array([70, 30]))
    >>> round(tv, 3), round(p, 3)
    (0.2, 0.004)
    """
    filled = (reference > 0) | (current > 0)
    r, c = reference[filled].astype(np.float64), current[filled].astype(np.float64)
    m, n = r.sum(), c.sum()
    if not m or not n:
        return 0.0, 1.0
    distance = float(np.abs(c / n - r / m).sum()) / 2
    # X2 = sum_b (c_b sqrt(m/n) - r_b sqrt(n/m))^2 / (c_b + r_b), B - 1 degrees of freedom
    x2 = ((c * np.sqrt(m / n) - r * np.sqrt(n / m)) ** 2 / (c + r)).sum()
    return distance, float(chdtrc(len(r) - 1, x2)) if len(r) > 1 else 1.0


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
            distance, p = kolmogorov_smirnov(self.reference[:-1], counts[:-1])
        else:
            distance, p = total_variation(self._coarse_reference, coarse)
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
