"""Wasserstein distance (earth mover's) on fine cells, and its counterpart for words.

- Numbers: how far the window's values would have to travel to lie as the reference does, in standard deviations of
  the reference, both measured in cells. Values below and above the declared range are one cell away from it, so that
  a single absurd value costs no more than that. Missing values are left aside.
- Words have no distance but same or other; moving the shares then costs their total variation.
- Two samples of one distribution are some way apart too; what is expected of them is subtracted.
"""

from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.features import FeatureKind
from online_models.drift.base import Floats, Histogram, HistogramDetector, Reading, laid_out
from online_models.histograms import Counts

THRESHOLD: Final = 0.15
"""A tenth of a standard deviation seldom matters to a model; PSI's 0.1 is a shift of the mean by 0.3."""


def wasserstein(reference: Histogram, current: Histogram) -> Floats:
    """W1 (...) of ordered cells' counts (..., c) in standard deviations of the reference, less its sampling bias.

    0 when either side is empty; in cells when the reference is constant.

    >>> round(float(wasserstein(np.array([5000, 5000]), np.array([350, 150]))), 3)
    0.363
    """
    found: Floats = distances_moved(*laid_out(reference, current))
    return found.reshape(np.broadcast_shapes(reference.shape, current.shape)[:-1])


@njit(cache=True, nogil=True)
def distances_moved(reference: Floats, current: Floats, bounds: npt.NDArray[np.int64]) -> Floats:
    """`wasserstein` (F,) of counts (C,) of many features, one after the other; `bounds` (F, 2) are where each begins and ends."""
    out = np.zeros(len(bounds))
    for row in range(len(bounds)):
        held, now = reference[bounds[row, 0] : bounds[row, 1]], current[bounds[row, 0] : bounds[row, 1]]
        m, n, middle = 0.0, 0.0, 0.0
        for cell in range(held.size):
            m, n, middle = m + held[cell], n + now[cell], middle + held[cell] * cell
        if m == 0 or n == 0:
            continue
        middle /= m
        unit = 2 / np.pi * (1 / n + 1 / m)
        below, gap, distance, variance = 0.0, 0.0, 0.0, 0.0
        for cell in range(held.size):
            share = held[cell] / m
            below += share
            gap += now[cell] / n - share
            # E|F_n - F_m| = sqrt(2/pi F (1 - F) (1/n + 1/m))
            distance += abs(gap) - np.sqrt(max(below * (1 - below), 0.0) * unit)
            variance += share * (cell - middle) ** 2
        out[row] = max(distance, 0.0) / (np.sqrt(variance) if variance > 0 else 1.0)
    return out


def total_variation_distance(reference: Histogram, current: Histogram) -> Floats:
    """Total variation (...) of bins' counts (..., B), less its sampling bias, at least 0.

    >>> round(float(total_variation_distance(np.array([5000, 5000]), np.array([350, 150]))), 3)
    0.182
    """
    m, n = reference.sum(-1, keepdims=True), current.sum(-1, keepdims=True)
    q, p = reference / m, current / n
    pooled = (reference + current) / (m + n)
    expected = np.sqrt(2 / np.pi * pooled * (1 - pooled) * (1 / n + 1 / m))
    distance: Floats = np.maximum((np.abs(p - q) - expected).sum(-1) / 2, 0.0)
    return distance


class WassersteinDetector(HistogramDetector):
    """Drift when the bias-corrected Wasserstein distance reaches a threshold.

    >>> detector = WassersteinDetector(np.array([0, 2500, 2500, 0, 0]), FeatureKind.NUMERIC)
    >>> detector.update(np.array([0, 100, 400, 0, 0]))
    >>> detector.drift_detected, round(detector.statistic, 2)
    (True, 0.56)

    References
    ----------
    Vallender: Calculation of the Wasserstein distance between probability distributions on the line. Theory of
    Probability and its Applications 18 (1974).
    """

    name: ClassVar[str] = "wasserstein"
    usual_threshold: ClassVar[float] = THRESHOLD

    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        if self.kind is FeatureKind.NUMERIC:
            distance = float(wasserstein(self.reference[:-1], counts[:-1]))
        else:
            distance = float(total_variation_distance(self._coarse_reference, coarse))
        drifted = distance >= self.threshold
        return Reading(self.name, distance, self.threshold, drifted, True, events=int(coarse.sum()))
