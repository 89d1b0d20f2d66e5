"""Two-sample chi-square test of homogeneity on coarse bins, as a divergence.

- The test says whether window and reference differ at all; with enough events they always do. So its statistic is
  turned into how much they differ, (X2 - (B - 1)) (1/n + 1/m), which for small shifts is PSI.
"""

from typing import ClassVar, Final

import numpy as np
from scipy.special import chdtrc

from online_models.drift.base import Floats, Histogram, HistogramDetector, Reading, degrees, per_event
from online_models.histograms import Counts

THRESHOLD: Final = 0.1
"""PSI's 0.1."""


def chi_square_divergence(reference: Histogram, current: Histogram) -> tuple[Floats, Floats]:
    """(X2 - (B - 1)) (1/n + 1/m) (...) of coarse counts (..., B), at least 0; and the p-value of X2.

    >>> divergence, p = chi_square_divergence(np.array([50, 50]), np.array([70, 30]))
    >>> round(float(divergence), 3), round(float(p), 4)
    (0.147, 0.0039)
    """
    free, unit = degrees(reference, current), per_event(reference, current)
    x2 = chi_square(reference, current)
    return np.maximum(0.0, x2 - free) * unit, np.where(free > 0, chdtrc(np.maximum(free, 1.0), x2), 1.0)


def chi_square(reference: Histogram, current: Histogram) -> Floats:
    """Pearson's X2 (...) of two samples' counts (..., B)."""
    m, n = reference.sum(-1, keepdims=True), current.sum(-1, keepdims=True)
    both = np.maximum(reference + current, 1)
    # sum_b (c_b sqrt(m/n) - r_b sqrt(n/m))^2 / (c_b + r_b)
    x2: Floats = ((current * np.sqrt(m / n) - reference * np.sqrt(n / m)) ** 2 / both).sum(-1)
    return x2


class ChiSquareDetector(HistogramDetector):
    """Drift when the chi-square divergence of window and reference reaches a threshold.

    >>> from online_models.contracts.features import FeatureKind
    >>> reference = np.array([0, 2500, 2500, 0, 0])
    >>> detector = ChiSquareDetector(reference, FeatureKind.NUMERIC)
    >>> detector.update(np.array([0, 100, 400, 0, 0]))
    >>> detector.drift_detected, round(detector.statistic, 2)
    (True, 0.36)

    References
    ----------
    Pearson: On the probability that two independent distributions of frequency are really samples from the same
    population. Biometrika 8 (1911).
    """

    name: ClassVar[str] = "chi_square"
    usual_threshold: ClassVar[float] = THRESHOLD

    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        return self._reach(chi_square_divergence(self._coarse_reference, coarse), coarse)
