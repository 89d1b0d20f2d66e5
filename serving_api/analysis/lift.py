"""How much better the canary's hit rate or CTR is than stable's: an interval that may be looked at all the time.

- The ratio of the rates is Mantel and Haenszel's over the stages: the arms of one stage only are compared with each other, so a
  base rate that drifts while the weight rises biases nothing.
- Its variance is a jackknife over groups of users, each user in one group in whatever stage and arm: requests of one user need
  not be independent, nor does it matter that users move from stable to the canary.
- The bounds are a normal mixture's, an asymptotic confidence sequence, tuned to be narrowest at the effect that is asked about.
  With few groups their tail is Student's.
- Everything takes arrays: what is before the named axes are rollouts.

References
----------
Mantel, N. and Haenszel, W. (1959). Statistical aspects of the analysis of data from retrospective studies of disease. JNCI 22.
Efron, B. and Stein, C. (1981). The jackknife estimate of variance. Annals of Statistics 9.
Waudby-Smith, I. et al. (2024). Time-uniform central limit theory and asymptotic confidence sequences. Annals of Statistics 52.
"""

from math import log, log1p
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

LARGEST_ALPHA: Final = 0.3
"""A larger alpha is taken as this one."""

_ROUNDS: Final = 60
"""Of a fixed-point iteration that at least halves its error in each."""

_TINY: Final = 1e-300
_LARGEST_EXPONENT: Final = 500.0


class Lift(NamedTuple):
    """Rollouts' (...) rate ratios.

    log_ratio : log of the canary's rate over stable's. A canary without any hit is taken to have had one
    variance : of it; infinite where there is nothing to compare
    groups : of users with data, of the arm that has fewer
    canary_hits, stable_hits : in all stages
    """

    log_ratio: F64
    variance: F64
    groups: F64
    canary_hits: F64
    stable_hits: F64


def terms(hits: npt.ArrayLike, trials: npt.ArrayLike) -> F64:
    """What one stage adds to the sums that a lift is made of, float64 (..., 9, 1 + groups): of all users, and without each group.

    Parameters
    ----------
    hits, trials : (..., 2, groups) of the canary and of stable
    """
    hits, trials = (np.asarray(each, np.float64) for each in (hits, trials))
    (hits_c, hits_b), (c, b) = (np.moveaxis(_without_each(each), -2, 0) for each in (hits, trials))  # (..., 1 + groups)
    n = np.maximum(c + b, 1.0)
    # one trial more than there was: a few trials that all were hits are not without noise
    spread_c, spread_b = (h * (1.0 - h / (m + 1.0)) for h, m in ((hits_c, c), (hits_b, b)))
    # A = sum over stages of H_c N_b / N, B = of H_b N_c / N; their variances if all trials were independent
    a_and_b = (hits_c * b / n, hits_b * c / n, spread_c * (b / n) ** 2, spread_b * (c / n) ** 2)
    return np.stack([*a_and_b, hits_c, hits_b, c, b, c * b / n], axis=-2)


def nothing(groups: int) -> F64:
    """The terms of no stage, float64 (9, 1 + groups)."""
    return np.zeros((9, 1 + groups))


def _without_each(counts: F64) -> F64:
    """Sums (..., 1 + groups) over all groups, and without each of them."""
    total = counts.sum(axis=-1, keepdims=True)
    return np.concatenate([total, total - counts], axis=-1)


def lift(summed: F64) -> Lift:
    """The lift of the sum (..., 9, 1 + groups) over stages of their terms."""
    a, b, spread_a, spread_b, hits_c, hits_b, trials_c, trials_b, weight = np.moveaxis(summed, -2, 0)
    one_hit = weight[..., :1] / np.maximum(trials_c[..., :1], 1.0)  # (..., 1)
    a, spread_a = (
        np.where(hits_c[..., :1] == 0, instead, each) for each, instead in ((a, one_hit), (spread_a, one_hit**2))
    )
    # theta = log(A / B), and without each group
    theta = _log(a) - _log(b)
    independent = _relative(spread_a, a) + _relative(spread_b, b)
    usable = (a[..., 0] > 0) & (b[..., 0] > 0)
    variance = np.where(usable, np.maximum(_jackknife(theta[..., 1:]), independent[..., 0]), np.inf)
    groups = np.minimum(*((each[..., 1:] < each[..., :1]).sum(axis=-1) for each in (trials_c, trials_b)))
    return Lift(np.where(usable, theta[..., 0], 0.0), variance, groups * 1.0, hits_c[..., 0], hits_b[..., 0])


def _relative(spread: F64, mean: F64) -> F64:
    """Squared coefficient of variation; 0 where there is nothing."""
    found: F64 = np.divide(spread, mean**2, out=np.zeros_like(mean), where=mean > 0)
    return found


def _jackknife(without: F64) -> F64:
    """V = (G - 1) / G sum over groups of (theta without g - their mean)^2, of (..., G)."""
    g = without.shape[-1]
    variance: F64 = (g - 1) / g * ((without - without.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return variance


def _log(x: F64) -> F64:
    return np.log(np.maximum(x, _TINY))


def half_width(found: Lift, effect: float | F64, alpha: float) -> F64:
    """How far a one-sided bound (...) of error alpha, at all times together, is from the log ratio; for two sides take alpha / 2.

    Of mixing variance t^2, as narrow as can be where it equals `effect` on the log scale:

        z = sqrt((1 + V / t^2) ln((1 + t^2 / V) / (2 alpha)^2)),  h = sqrt(V) z

    with z carried over to the same tail of Student's t of `groups` - 1 degrees of freedom.

    >>> sharp = Lift(*map(np.array, (0.0, 0.0015, 128.0, 1e3, 1e3)))
    >>> round(float(half_width(sharp, effect=0.1, alpha=0.05)), 3)
    0.109
    """
    mixing = mixing_variance(effect, alpha)
    v = np.where(np.isfinite(found.variance), np.maximum(found.variance, _TINY), 1.0)
    z = np.sqrt((1.0 + v / mixing) * (np.log1p(mixing / v) + _twice_log(alpha)))
    width: F64 = np.where(np.isfinite(found.variance), np.sqrt(v) * _student(z, found.groups - 1.0), np.inf)
    return width


def _student(z: F64, freedom: F64) -> F64:
    """The quantile of Student's t that has as much beyond it as the normal quantile z: t^2 = f (exp(z'^2 / f) - 1) with
    z' = z (8 f + 3) / (8 f + 1); never too small by more than 0.1 %, from 5 degrees of
    freedom on within 3 % up to z = 3.5.

    References
    ----------
    Wallace, D. L. (1959). Bounds on normal approximations to Student's and the chi-square distributions. Ann. Math. Stat. 30.
    """
    f = np.maximum(freedom, 1.0)
    exponent = (z * (8.0 * f + 3.0) / (8.0 * f + 1.0)) ** 2 / f
    t: F64 = np.sqrt(f * np.expm1(np.minimum(exponent, _LARGEST_EXPONENT)))
    return t


def mixing_variance(effect: float | F64, alpha: float) -> float | F64:
    """t^2 of the mixture whose bound is narrowest where it is `effect` wide.

    At a given V the bound is narrowest for u = t^2 / V with u = ln((1 + u) / (2 alpha)^2), and then h^2 = V (1 + u).
    """
    u = _sharpest(alpha)
    return effect**2 * u / (1.0 + u)


def variance_for(effect: float, alpha: float) -> float:
    """The variance at which the bound is `effect` wide."""
    return effect**2 / (1.0 + _sharpest(alpha))


def _sharpest(alpha: float) -> float:
    u = _twice_log(alpha)
    for _ in range(_ROUNDS):
        u = log1p(u) + _twice_log(alpha)
    return u


def _twice_log(alpha: float) -> float:
    """ln(1 / (2 alpha)^2); the mixture has no bound for an alpha of a half."""
    return -2.0 * log(2.0 * min(alpha, LARGEST_ALPHA))
