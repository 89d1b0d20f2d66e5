"""E-values of counts: evidence against "no worse", "no more than so many times as often" and "split as the weight says".

- An e-value has an expectation of at most 1 where its null hypothesis is true, at whatever moment one looks: it reaches 1 / alpha
  in at most a share alpha of all such rollouts, however often it is looked at (Ville's inequality).
- Rates are compared through successes alone: given a success of somebody, it is the canary's with a probability that depends on
  the ratio of the rates and on the split, and on no base rate. So the base may drift as it likes.
- Alternatives are a mixture of a few fixed ratios. The same ratio holds in all stages of one alternative: the likelihood ratios
  of the stages, each with its own split, are multiplied, and only then mixed. Counts are never pooled.
- Everything takes arrays: the last axis is the stages, what is before it are rollouts.

References
----------
Lindon, M. and Malek, A. (2022). Anytime-Valid Inference for Multinomial Count Data. NeurIPS.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, logsumexp

F64 = npt.NDArray[np.float64]

HARM_EFFECTS: Final = ((0.5, 0.1), (1.0, 0.6), (2.0, 0.1), (4.0, 0.1), (8.0, 0.1))
"""Relative losses in units of the smallest effect, and the share of the mixture that each has."""

EXCESS_RATIOS: Final = (1.5, 3.0, 10.0, 100.0)
"""Times the tolerated odds that too many bad answers are looked for at, in equal shares."""

SPLIT_EFFECT: Final = 0.1
"""Relative deviation of the smaller arm's share that the split test is tuned to find."""


def log_harm(
    canary: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, tolerated: float, smallest: float
) -> F64:
    """Log e-value (...) against "the canary's success rate is at least 1 - tolerated times stable's".

    Parameters
    ----------
    canary, stable : successes (..., stages) of users who were first exposed in a stage
    share : of users on the canary (stages,), by the weight
    tolerated : relative loss that is not yet harm
    smallest : relative loss, beyond the tolerated one, that the test is tuned to find

    >>> round(float(log_harm([10], [190], [0.05], tolerated=0.0, smallest=0.1)), 2)  # as many as its share
    -0.24
    >>> round(float(log_harm([20], [80], [0.5], tolerated=0.0, smallest=0.1)), 2)
    16.59
    """
    losses, mass = _harm_mixture(smallest)
    return _mixed(canary, stable, share, 1.0 - tolerated, 1.0 - losses, mass)


def _harm_mixture(smallest: float) -> tuple[F64, F64]:
    """Losses below 1 and their shares, each (ratios,)."""
    losses, mass = np.array([(effect * smallest, part) for effect, part in HARM_EFFECTS if effect * smallest < 1.0]).T
    return losses, mass / mass.sum()


def log_excess(canary: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, ratio: float) -> F64:
    """Log e-value (...) against "something bad befalls the canary's users at most `ratio` times as often as stable's".

    The e-value falls as `share` grows: at a share above the true one it is still valid.

    Parameters
    ----------
    canary, stable : such users (..., stages)
    share : of users on the canary (..., stages)

    >>> round(float(log_excess([3], [0], [0.05], ratio=1.5)), 1)
    6.2
    """
    mass = np.full(len(EXCESS_RATIOS), 1.0 / len(EXCESS_RATIOS))
    return _mixed(canary, stable, share, ratio, np.array(EXCESS_RATIOS), mass)


def _mixed(
    canary: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, ratio: float, times: F64, mass: F64
) -> F64:
    """Log of the mixture over alternatives `times` (ratios,) of the product over stages (..., stages) of likelihood ratios.

    A success is the canary's with odds o = s r / (1 - s) at rate ratio r; at x r they are x o. Of C and B successes:

        LR(x) = x^C ((1 - s + s r) / (1 - s + s r x))^(C + B)
    """
    c, b, s = (np.asarray(each, np.float64)[..., None] for each in (canary, stable, share))  # (..., stages, 1)
    both = np.log1p(s * (ratio * times - 1.0)) - np.log1p(s * (ratio - 1.0))  # (..., stages, ratios)
    log_ratios = (c * np.log(times) - (c + b) * both).sum(axis=-2)  # (..., ratios)
    found: F64 = np.asarray(logsumexp(log_ratios, b=mass, axis=-1))
    return found


def log_above(count: npt.ArrayLike, of: npt.ArrayLike, rate: float) -> F64:
    """Log e-value (...) against "the rate is at most `rate`", of `count` (...) bad ones of so many.

    >>> [round(float(log_above(bad, 400, 0.005)), 1) for bad in (2, 12)]
    [-1.4, 9.0]
    """
    if rate <= 0.0:
        return np.where(np.asarray(count) > 0, np.inf, 0.0)
    good = np.asarray(of) - np.asarray(count)
    return log_excess(np.asarray(count)[..., None], good[..., None], np.array([rate]), 1.0)


def log_split(canary: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike) -> F64:
    """Log e-value (...) against "each user is on the canary with a probability of `share`" (sample ratio mismatch).

    A Dirichlet-multinomial with its mean at the share, multiplied over the stages:

        E = Be(k s + C, k (1 - s) + B) / Be(k s, k (1 - s)) / (s^C (1 - s)^B)

    Parameters
    ----------
    canary, stable : users (..., stages) who were first exposed in a stage
    share : (stages,), within (0, 1)

    >>> [round(float(log_split([canary], [1_000 - canary], [0.05])), 1) for canary in (50, 100)]
    [-0.2, 7.9]
    """
    c, b, s = (np.asarray(each, np.float64) for each in (canary, stable, share))
    # k : the deviation's standard deviation, sqrt(s (1 - s) / k), is that part of the smaller share
    k = s * (1.0 - s) / (SPLIT_EFFECT * np.minimum(s, 1.0 - s)) ** 2
    log_e = betaln(k * s + c, k * (1.0 - s) + b) - betaln(k * s, k * (1.0 - s)) - c * np.log(s) - b * np.log1p(-s)
    found: F64 = np.asarray(log_e.sum(axis=-1))
    return found


def log_limit(alpha: float) -> float:
    """What a log e-value must reach: at most a share alpha of those whose null hypothesis holds ever do."""
    return float(-np.log(alpha))


def shares_of(weights_bp: Sequence[int], full: int) -> F64:
    """Weights as shares (stages,)."""
    return np.array(weights_bp, np.float64) / full
