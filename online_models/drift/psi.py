"""Population stability index over reference-quantile bins, without its sampling bias.

- Drawn from one and the same distribution, two samples have PSI about (B - 1)(1/n + 1/m), not 0: at 31 bins and
  500 events that is 0.06. It is subtracted, so that one threshold fits all window sizes and features.
- A bin that one side leaves empty is smoothed; missing values are a bin.
"""

from typing import ClassVar, Final

import numpy as np

from online_models.contracts.features import FeatureKind
from online_models.drift.base import MIN_EVENTS, HistogramDetector, Reading, proportions
from online_models.histograms import Counts

THRESHOLD: Final = 0.1
"""Practice calls 0.1 a moderate shift."""


def population_stability_index(reference: Counts, current: Counts) -> float:
    """PSI of coarse counts (B,) of a window against those of the reference, less its sampling bias, at least 0.

    >>> round(population_stability_index(np.array([5000, 5000]), np.array([250, 250])), 3)
    0.0
    >>> round(population_stability_index(np.array([5000, 5000]), np.array([350, 150])), 3)
    0.167
    """
    q, p = proportions(reference, current)
    # sum_b (p_b - q_b) ln(p_b / q_b) - (B - 1)(1/n + 1/m)
    bias = (len(p) - 1) * (1 / int(current.sum()) + 1 / int(reference.sum()))
    return max(0.0, float(((p - q) * np.log(p / q)).sum()) - bias)


class PsiDetector(HistogramDetector):
    """Drift when the bias-corrected PSI reaches a threshold.

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
        psi = population_stability_index(self._coarse_reference, coarse)
        return Reading(self.name, psi, self.threshold, psi >= self.threshold, True, events=int(coarse.sum()))
