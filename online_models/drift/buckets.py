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


WHOLE: Final = 1_024
"""Buckets that hold fewer events, and whole ones, share what depends on their number alone."""


LOG, SPREAD, WEIGHT, EVERY = range(4)
"""Of k, what a bucket's observation is multiplied by: log k, k v, and the weights of both sums."""


def word_tests(
    reference: Floats, current: Floats, bounds: Ints, habit: Floats, draws: Floats | None = None
) -> tuple[Floats, Floats]:
    """p-values (features, 3) of `SHARES`, `BURSTS` and `POPULARITY`, and the bias-corrected divergence (features,).

    Parameters
    ----------
    reference, current : counts (all buckets,) of all features, one after the other
    bounds : int64 (features, 2), where each feature's buckets begin and end
    habit : (features,), usual variance of a word's relative share between a window and the reference
    draws : (features,), independent draws per counted word, less than 1 where words come in groups; 1 by default
    """
    sums = bucket_sums(reference, current, bounds, habit, np.ones(len(habit)) if draws is None else draws, SHIFT)
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
def bucket_sums(reference: Floats, current: Floats, bounds: Ints, habit: Floats, draws: Floats, shift: float) -> Floats:
    """Per feature: (sum, mean, variance, third cumulant) of both sums over U / k, then of log k the sum over h - kf and
    its variance, and 1/n + 1/m."""
    out = np.zeros((len(habit), 11))
    ways = np.zeros((4, WHOLE), np.int64)
    terms = np.zeros((WHOLE, 4))
    most = (bounds[:, 1] - bounds[:, 0]).max() if len(bounds) else 0
    held, now = np.empty(most), np.empty(most)
    for row in range(len(habit)):
        start, end = bounds[row]
        filled = _compact(reference[start:end], current[start:end], draws[row], held, now)
        r, h = held[:filled], now[:filled]
        whole, m, n = _hold(r, h, ways)
        if m == 0 or n == 0:
            continue
        f = n / (n + m)
        v = f * (1 - f)
        sums, moments = out[row], np.zeros(2)
        sums[10] = 1 / n + 1 / m
        if whole:
            for k in range(1, WHOLE):
                many = ways[0, k] + ways[1, k] + ways[2, k] + ways[3, k]
                if many:
                    _expect(float(k), many, f, habit[row], shift, sums, moments, terms[k])
        own = np.zeros(4)
        _observe(r, h, whole, f, habit[row], shift, sums, moments, terms, own)
        sums[9] = v * max(moments[1] - moments[0] ** 2 / (n + m), 0.0)
    return out


@njit(cache=True, nogil=True)
def _compact(reference: Floats, current: Floats, draws: float, held: Floats, now: Floats) -> int:
    """Put the counts of buckets that either has, times `draws`, into `held` and `now`: how many. Most have none."""
    filled = np.uint64(0)
    for bucket in range(reference.size):
        r, h = reference[bucket] * draws, current[bucket] * draws
        held[filled], now[filled] = r, h
        filled += np.uint64(r + h > 0)
    return int(filled)


@njit(cache=True, nogil=True)
def _hold(r: Floats, h: Floats, ways: Ints) -> tuple[bool, float, float]:
    """Whether all counts (b,) are whole, their sums, and in `ways` how many buckets hold k together, for each k < `WHOLE`.

    Four counters take turns, so that equal neighbours need not wait for each other's count.
    """
    ways[:] = 0
    whole, m, n = True, 0.0, 0.0
    for bucket in range(r.size):
        k = r[bucket] + h[bucket]
        place = np.int64(k)
        whole &= np.float64(np.int64(r[bucket])) == r[bucket] and np.float64(place) == k
        m += r[bucket]
        n += h[bucket]
        if place < WHOLE:
            ways[bucket & 3, place] += 1
    return whole, m, n


@njit(cache=True, nogil=True)
def _expect(
    k: float, many: int, f: float, habit: float, shift: float, sums: Floats, moments: Floats, terms: Floats
) -> None:
    """Add what `many` buckets of k events are expected to show; note what their observation is weighted by."""
    v = f * (1 - f)
    log = np.log(k)
    moments[0] += many * (k * log)
    moments[1] += many * (k * log * log * (1 + k * v * habit))
    weight = shift * v * k / (1 + shift * v * k) if k > 1 else 0.0
    every = 1.0 if k > 1 else 0.0
    mean = (k - 1) * v * habit
    variance = 2 * (k - 1) / k * (1 + mean) ** 2
    skewness = (1 - 2 * f) ** 2 / v
    third = (4 * (k - 1) * skewness + 8 * (k - 1) * (k - 2)) / (k * k) * (1 + mean) ** 3
    for test, w in ((0, weight), (1, every)):
        sums[4 * test + 1] += many * (w * mean)
        sums[4 * test + 2] += many * (w * w * variance)
        sums[4 * test + 3] += many * (w * w * w * third)
    terms[LOG], terms[SPREAD], terms[WEIGHT], terms[EVERY] = log, k * v, weight, every


@njit(cache=True, nogil=True)
def _observe(
    r: Floats,
    h: Floats,
    whole: bool,
    f: float,
    habit: float,
    shift: float,
    sums: Floats,
    moments: Floats,
    terms: Floats,
    own: Floats,
) -> None:
    """Add what the buckets (b,) show, weighted by `terms` where counts are whole, else by their `own`."""
    linear, weighted, plain, tilt = 0.0, 0.0, 0.0, 1 - 2 * f
    for bucket in range(r.size):
        k = r[bucket] + h[bucket]
        away = h[bucket] - k * f
        # U / k = (h - kf)^2 / (k v) - (1 - 2f)(h - kf) / (k v) - 1
        if whole and k < WHOLE:
            place = np.uint64(k)
            u = (away * away - tilt * away) / terms[place, SPREAD] - 1
            linear += terms[place, LOG] * away
            weighted += terms[place, WEIGHT] * u
            plain += terms[place, EVERY] * u
        else:
            _expect(k, 1, f, habit, shift, sums, moments, own)
            u = (away * away - tilt * away) / own[SPREAD] - 1
            linear += own[LOG] * away
            weighted += own[WEIGHT] * u
            plain += own[EVERY] * u
    sums[0], sums[4], sums[8] = weighted, plain, linear
