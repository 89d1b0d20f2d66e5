"""Two-sample tests over thousands of hash buckets, most of them nearly empty: words that are too rare for bins.

- Everything is conditional on k = h + r, what window and reference together hold of a bucket: without drift h is then
  binomial(k, f) with f = n / (n + m), whatever the words' shares are. Nothing has to be estimated, and the moments are
  exact however small the counts. A word that only the window has is simply a bucket with h = k.
- Chi-square over buckets spends its power on the noise of words seen once. Here a bucket's deviation is counted by
  U = 2 sum_{i<j} xi_i xi_j over its k events (xi: standardised membership of the window), which is 0 for k = 1.
- Three questions, a p-value each: are the shares of words different (buckets weighted by how much they can tell of a
  shift of PSI 0.1), is any rare word suddenly common (all buckets alike), and has popularity become steeper or
  flatter (mean of log k)?
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import chdtrc, ndtr

from online_models.drift.base import Floats

Ints = npt.NDArray[np.int64]

SHIFT: Final = 0.1
"""Mean squared relative change of the shares that the weighting is best for: a PSI that practice calls moderate."""

SHARES, BURSTS, POPULARITY = range(3)


def word_tests(reference: Floats, current: Floats, bounds: Ints, habit: Floats) -> tuple[Floats, Floats]:
    """p-values (features, 3) of `SHARES`, `BURSTS` and `POPULARITY`, and the bias-corrected divergence (features,).

    Parameters
    ----------
    reference, current : counts (all buckets,) of all features, one after the other; scaled down where words come in
        groups, so that they count independent draws
    bounds : int64 (features, 2), where each feature's buckets begin and end
    habit : (features,), usual variance of a word's relative share between a window and the reference
    """
    sums = _sums(reference, current, bounds, habit, SHIFT)
    p_values = np.ones((len(habit), 3))
    for test in (SHARES, BURSTS):
        found, mean, variance, third = sums[:, 4 * test : 4 * test + 4].T
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        # Pearson's type III: a chi-square of 8 / skewness^2 degrees of freedom, moved and stretched
        free = 8 / np.maximum(third / deviation**3, 1e-3) ** 2
        z = (found - mean) / deviation
        tail = chdtrc(free, np.maximum(free + z * np.sqrt(2 * free), 0.0))
        p_values[:, test] = np.where(variance > 0, tail, 1.0)
    away, variance = sums[:, 8], sums[:, 9]
    p_values[:, POPULARITY] = np.where(
        variance > 1e-9, 2 * ndtr(-np.abs(away) / np.sqrt(np.maximum(variance, 1e-12))), 1.0
    )
    # sum U / k is n m / (n + m) times the chi-square divergence, without its sampling bias
    return p_values, np.maximum(sums[:, 4] - sums[:, 5], 0.0) * sums[:, 10]


@njit(cache=True, nogil=True)
def _sums(reference: Floats, current: Floats, bounds: Ints, habit: Floats, shift: float) -> Floats:
    """Per feature: (sum, mean, variance, third cumulant) of both sums over U / k, then of log k the sum over h - kf and
    its variance, and 1/n + 1/m."""
    out = np.zeros((len(habit), 11))
    for row in range(len(habit)):
        r, h = reference[bounds[row, 0] : bounds[row, 1]], current[bounds[row, 0] : bounds[row, 1]]
        m, n = r.sum(), h.sum()
        if m == 0 or n == 0:
            continue
        f = n / (n + m)
        v = f * (1 - f)
        out[row, 10] = 1 / n + 1 / m
        skewness = (1 - 2 * f) ** 2 / v
        linear, plain, square = 0.0, 0.0, 0.0
        for bucket in range(len(r)):
            k = r[bucket] + h[bucket]
            if k == 0:
                continue
            away = h[bucket] - k * f
            log = np.log(k)
            linear += log * away
            plain += k * log
            square += k * log * log * (1 + k * v * habit[row])
            if k <= 1:
                continue
            # U / k = (h - kf)^2 / (k v) - (1 - 2f)(h - kf) / (k v) - 1
            u = (away * away - (1 - 2 * f) * away) / (k * v) - 1
            mean = (k - 1) * v * habit[row]
            variance = 2 * (k - 1) / k * (1 + mean) ** 2
            third = (4 * (k - 1) * skewness + 8 * (k - 1) * (k - 2)) / (k * k) * (1 + mean) ** 3
            weight = shift * v * k / (1 + shift * v * k)
            for test, w in ((0, weight), (1, 1.0)):
                out[row, 4 * test] += w * u
                out[row, 4 * test + 1] += w * mean
                out[row, 4 * test + 2] += w * w * variance
                out[row, 4 * test + 3] += w * w * w * third
        out[row, 8] = linear
        out[row, 9] = v * max(square - plain * plain / (n + m), 0.0)
    return out
