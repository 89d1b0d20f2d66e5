"""Kullback-Leibler divergence of the window from the reference, without its sampling bias.

- Drawn from one and the same distribution, two samples have KL about (B - 1)/2 (1/n + 1/m), which is subtracted.
- In nats, of the window relative to the reference: how badly the reference codes what now arrives.
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

THRESHOLD: Final = 0.05
"""For small shifts PSI is KL one way plus KL back, so this is PSI's 0.1."""


def kl_divergence(reference: Histogram, current: Histogram) -> tuple[Floats, Floats]:
    """KL(window || reference) (...) in nats of coarse counts (..., B), less its sampling bias, at least 0; and its p-value.

    >>> kl, p = kl_divergence(np.array([5000, 5000]), np.array([350, 150]))
    >>> round(float(kl), 3), round(float(p), 3)
    (0.081, 0.0)
    """
    kl = kl_of_shares(*proportions(reference, current))
    # twice that over (1/n + 1/m) is chi-square with B - 1 degrees of freedom
    free, unit = degrees(reference, current), per_event(reference, current)
    return np.maximum(0.0, kl - free / 2 * unit), chdtrc(np.maximum(free, 1.0), 2 * kl / unit)


def kl_of_shares(q: Floats, p: Floats) -> Floats:
    """KL(p || q) (...) in nats of smoothed shares (..., B)."""
    # sum_b p_b ln(p_b / q_b)
    kl: Floats = (p * log_ratio(p, q)).sum(-1)
    return kl


class KlDetector(HistogramDetector):
    """Drift when the bias-corrected KL divergence reaches a threshold in nats.

    >>> from online_models.contracts.features import FeatureKind
    >>> reference = np.array([0, 2500, 2500, 0, 0])
    >>> detector = KlDetector(reference, FeatureKind.NUMERIC)
    >>> detector.update(np.array([0, 100, 400, 0, 0]))
    >>> detector.drift_detected, round(detector.statistic, 2)
    (True, 0.19)
    """

    name: ClassVar[str] = "kl"
    usual_threshold: ClassVar[float] = THRESHOLD

    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        return self._reach(kl_divergence(self._coarse_reference, coarse), coarse)
