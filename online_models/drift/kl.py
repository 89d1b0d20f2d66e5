"""Kullback-Leibler divergence of the window from the reference, without its sampling bias.

- Drawn from one and the same distribution, two samples have KL about (B - 1)/2 (1/n + 1/m), which is subtracted.
- In nats, of the window relative to the reference: how badly the reference codes what now arrives.
"""

from typing import ClassVar, Final

import numpy as np

from online_models.contracts.features import FeatureKind
from online_models.drift.base import MIN_EVENTS, HistogramDetector, Reading, proportions
from online_models.histograms import Counts

THRESHOLD: Final = 0.05
"""For small shifts PSI is KL one way plus KL back, so this is PSI's 0.1."""


def kl_divergence(reference: Counts, current: Counts) -> float:
    """KL(window || reference) in nats of coarse counts (B,), less its sampling bias, at least 0.

    >>> round(kl_divergence(np.array([5000, 5000]), np.array([350, 150])), 3)
    0.081
    """
    q, p = proportions(reference, current)
    # sum_b p_b ln(p_b / q_b) - (B - 1)/2 (1/n + 1/m)
    bias = (len(p) - 1) / 2 * (1 / int(current.sum()) + 1 / int(reference.sum()))
    return max(0.0, float((p * np.log(p / q)).sum()) - bias)


class KlDetector(HistogramDetector):
    """Drift when the bias-corrected KL divergence reaches a threshold in nats.

    >>> reference = np.array([0, 2500, 2500, 0, 0])
    >>> detector = KlDetector(reference, FeatureKind.NUMERIC)
    >>> detector.update(np.array([0, 100, 400, 0, 0]))
    >>> detector.drift_detected, round(detector.statistic, 2)
    (True, 0.19)
    """

    name: ClassVar[str] = "kl"

    def __init__(
        self,
        reference: Counts,
        kind: FeatureKind,
        *,
        threshold: float = THRESHOLD,
        min_events: int = MIN_EVENTS,
    ) -> None:
        super().__init__(reference, kind, threshold=threshold, min_events=min_events)

    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        kl = kl_divergence(self._coarse_reference, coarse)
        return Reading(self.name, kl, self.threshold, kl >= self.threshold, True, events=int(coarse.sum()))
