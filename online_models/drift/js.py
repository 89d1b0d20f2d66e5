"""Jensen-Shannon divergence between window and reference, without its sampling bias.

- The mean KL divergence of both from the mixture of both: symmetric, and bounded by ln 2 whatever one side never saw.
- In nats. Two samples of one distribution have (B - 1)/8 (1/n + 1/m) on average, which is subtracted.
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

THRESHOLD: Final = 0.0125
"""For small shifts JS is an eighth of PSI, so this is PSI's 0.1."""


def jensen_shannon(reference: Histogram, current: Histogram) -> tuple[Floats, Floats]:
    """JS (...) in nats of coarse counts (..., B), less its sampling bias, at least 0; and its p-value.

    >>> js, p = jensen_shannon(np.array([5000, 5000]), np.array([350, 150]))
    >>> round(float(js), 3), round(float(p), 3)
    (0.021, 0.0)
    """
    js = js_of_shares(*proportions(reference, current))
    # eight times that over (1/n + 1/m) is chi-square with B - 1 degrees of freedom
    free, unit = degrees(reference, current), per_event(reference, current)
    return np.maximum(0.0, js - free / 8 * unit), chdtrc(np.maximum(free, 1.0), 8 * js / unit)


def js_of_shares(q: Floats, p: Floats) -> Floats:
    """JS (...) in nats of smoothed shares (..., B)."""
    middle = (p + q) / 2
    # (KL(p || (p + q)/2) + KL(q || (p + q)/2)) / 2
    js: Floats = ((p * log_ratio(p, middle)).sum(-1) + (q * log_ratio(q, middle)).sum(-1)) / 2
    return js


class JsDetector(HistogramDetector):
    """Drift when the bias-corrected Jensen-Shannon divergence reaches a threshold in nats.

    >>> from online_models.contracts.features import FeatureKind
    >>> reference = np.array([0, 2500, 2500, 0, 0])
    >>> detector = JsDetector(reference, FeatureKind.NUMERIC)
    >>> detector.update(np.array([0, 100, 400, 0, 0]))
    >>> detector.drift_detected, round(detector.statistic, 2)
    (True, 0.05)

    References
    ----------
    Lin: Divergence measures based on the Shannon entropy. IEEE Trans. Information Theory 37 (1991).
    """

    name: ClassVar[str] = "js"
    usual_threshold: ClassVar[float] = THRESHOLD

    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        return self._reach(jensen_shannon(self._coarse_reference, coarse), coarse)
