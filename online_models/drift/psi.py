"""Population stability index of the window against the reference, without its sampling bias.

- PSI is the Kullback-Leibler divergence there and back. Practice calls 0.1 moderate and 0.2 large, but two samples of
  one distribution already have a PSI of (B - 1)(1/n + 1/m) on average, which is subtracted.
"""

from typing import ClassVar, Final

import numpy as np
from scipy.special import chdtrc

from online_models.drift.base import (
    Floats,
    Histogram,
    HistogramDetector,
    Reading,
    degrees,
    log_ratio,
    per_event,
    proportions,
)
from online_models.histograms import Counts

THRESHOLD: Final = 0.1
"""Practice calls 0.1 a moderate shift."""


def population_stability_index(reference: Histogram, current: Histogram) -> tuple[Floats, Floats]:
    """PSI (...) of coarse counts (..., B), less its sampling bias, at least 0; and its p-value.

    >>> psi, p = population_stability_index(np.array([5000, 5000]), np.array([[250, 250], [350, 150]]))
    >>> psi.round(3).tolist(), p.round(3).tolist()
    ([0.0, 0.167], [1.0, 0.0])
    """
    psi = psi_of_shares(*proportions(reference, current))
    # over (1/n + 1/m) it is chi-square with B - 1 degrees of freedom
    free, unit = degrees(reference, current), per_event(reference, current)
    return np.maximum(0.0, psi - free * unit), chdtrc(np.maximum(free, 1.0), psi / unit)


def psi_of_shares(q: Floats, p: Floats) -> Floats:
    """PSI (...) of smoothed shares q and p (..., B)."""
    # sum_b (p_b - q_b) ln(p_b / q_b)
    psi: Floats = ((p - q) * log_ratio(p, q)).sum(-1)
    return psi


class PsiDetector(HistogramDetector):
    """Drift when the bias-corrected PSI reaches a threshold.

    >>> from online_models.contracts.features import FeatureKind
    >>> reference = np.array([0, 2500, 2500, 0, 0])
    >>> detector = PsiDetector(reference, FeatureKind.NUMERIC)
    >>> detector.update(np.array([0, 100, 400, 0, 0]))
    >>> detector.drift_detected, round(detector.statistic, 2)
    (True, 0.41)

    References
    ----------
    Yurdakul: Statistical properties of population stability index. Western Michigan University, 2018.
    """

    name: ClassVar[str] = "psi"
    usual_threshold: ClassVar[float] = THRESHOLD

    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        return self._reach(population_stability_index(self._coarse_reference, coarse), coarse)
