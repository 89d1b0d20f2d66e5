"""An off-policy estimate with its interval and what its weights look like, or why there is none.

- The unit of an error is a user, or a session: rows of one of them are no independent draws.
- An interval is Student's. Its degrees of freedom come from the kurtosis of the units' influences, so that an estimate which
  hangs on a few heavy units has a wide one, however many rows there are.
- A refusal is a value with its reason: a log that cannot tell is an answer, and no error.
"""

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Units = npt.NDArray[np.generic]

LEAST_DEGREES: Final = 2.0
"""Of freedom, also where one unit has all the influence."""


class Reason(enum.StrEnum):
    """Why there is no estimate."""

    NO_ROWS = "no_rows"
    MISSING_PROPENSITY = "missing_propensity"
    IMPOSSIBLE_PROPENSITY = "impossible_propensity"  # 0, or above 1
    NOT_UNIFORM = "not_uniform"  # replay asks for a log of even draws
    UNSUPPORTED = "unsupported"  # the target does what the log never does
    WRONG_PROPENSITY = "wrong_propensity"  # weights that average more than 1
    SMALL_SAMPLE = "small_sample"
    NO_VARIATION = (
        "no_variation"  # every row that counts has the same reward, so that nothing tells how far it can be trusted
    )
    NO_POSITIONS = "no_positions"  # nothing is known of how positions are looked at


class Bias(enum.StrEnum):
    """Where clipping moves an estimate."""

    NONE = "none"
    DOWN = "down"
    UP = "up"
    UNCLEAR = "unclear"
    TO_LOGGED = "to_logged"  # towards the value of the policy that made the log
    TO_MODEL = "to_model"  # towards what the direct model says


@dataclass(frozen=True, slots=True)
class Terms:
    """What an estimate is asked for.

    clip : weights above it are cut down to it
    min_ess : effective rows, at least
    max_unsupported : share of what the target does that the log may never do
    alpha : error of a two-sided interval
    """

    clip: float = np.inf
    min_ess: float = 500.0
    max_unsupported: float = 0.05
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not self.clip > 0 or self.min_ess < 0:
            raise ValueError(f"expected clip above 0 and min_ess from 0, got {self.clip} and {self.min_ess}")
        if not 0 <= self.max_unsupported <= 1 or not 0 < self.alpha < 1:
            raise ValueError("expected max_unsupported within [0, 1] and alpha within (0, 1)")


TERMS: Final = Terms()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What stands behind an estimate.

    rows, units : how many; ess : effective rows (sum w)² / sum w²
    mean_weight : before clipping, 1 in expectation where propensities and support are right; largest_share : of all weight on one
        row
    clipped_share : of the rows; clipped_mass : mean weight cut off, which times the largest reward bounds the bias of IPS
    unsupported : share of what the target does that the log cannot show, as far as told
    """

    rows: int
    units: int
    ess: float
    mean_weight: float
    largest_share: float
    clipped_share: float
    clipped_mass: float
    unsupported: float
    bias: Bias = Bias.NONE


@dataclass(frozen=True, slots=True)
class Estimated:
    """A value in units of the reward, its standard error, its interval, and what stands behind it."""

    value: float
    standard_error: float
    lower: float
    upper: float
    diagnosis: Diagnosis

    def covers(self, value: float) -> bool:
        """Whether the interval holds a value."""
        return self.lower <= value <= self.upper


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no estimate: the kind, in words with the figures, and the effective rows, NaN where there are no weights."""

    reason: Reason
    detail: str
    ess: float = np.nan


def effective_rows(weights: F64, times: F64 | None = None) -> float:
    """(sum w)² / sum w² of weights (n,), each there so many times, (n,), once where that is None; 0 where all are 0.

    >>> effective_rows(np.array([1.0, 1.0, 1.0])), effective_rows(np.array([5.0, 0.0, 0.0]))
    (3.0, 1.0)

    References
    ----------
    Kish: Survey Sampling (1965).
    """
    squares = total(weights * weights, times)
    return total(weights, times) ** 2 / squares if squares else 0.0


def too_few(ess: float, rows: float, what: str, terms: Terms) -> Refused | None:
    """A refusal where the effective rows are fewer than the terms ask for, else None. what : the name of rows in it"""
    needed = max(terms.min_ess, 1.0)
    if ess >= needed:
        return None
    return Refused(Reason.SMALL_SAMPLE, f"{ess:.0f} effective {what} of {rows:.0f}, {needed:g} needed", ess)


def diagnosis_of(raw: F64, weights: F64, unit: Units | None, unsupported: float) -> Diagnosis:
    """Of weights (n,) before and after clipping, some of them above 0."""
    return Diagnosis(
        rows=len(raw),
        units=len(of_units(raw, unit)),
        ess=effective_rows(weights),
        mean_weight=float(raw.mean()),
        largest_share=float(weights.max() / weights.sum()),
        clipped_share=float((raw > weights).mean()),
        clipped_mass=float((raw - weights).mean()),
        unsupported=unsupported,
    )


def of_units(figures: F64, unit: Units | None) -> F64:
    """Sums of figures (n,) by unit (n,), in the order of the units; the figures themselves where each row is a unit."""
    if unit is None:
        return figures
    return sums_at(np.unique(unit, return_inverse=True)[1], figures)


def sums_at(place: I64, figures: npt.NDArray[np.number | np.bool_]) -> F64:
    """Sums of figures (n,) at places (n,), from 0 to the last one that occurs."""
    return np.bincount(place, weights=figures).astype(np.float64, copy=False)


def standard_error(influence: F64, unit: Units | None) -> float:
    """Clustered standard error of a mean with influences (n,), sqrt(G / (G - 1) sum_g (sum of g)²) / n; infinite of one unit."""
    sums = of_units(influence, unit)
    return _standard_error(len(sums), total(sums * sums, None), len(influence))


def _standard_error(groups: float, squares: float, rows: float) -> float:
    return float(np.sqrt(groups / (groups - 1) * squares)) / rows if groups > 1 else np.inf


def total(figures: F64, times: F64 | None) -> float:
    """Sum of figures (n,), each so many times, (n,); once where that is None."""
    return float(figures.sum() if times is None else times @ figures)


def number(figures: F64, times: F64 | None) -> float:
    """How many figures (n,) there are, each so many times, (n,); once where that is None."""
    return len(figures) if times is None else float(times.sum())


class Reach(NamedTuple):
    """Half the length of an interval, and the standard error of what it is about."""

    half: float
    error: float


def reach(influence: F64, unit: Units | None, alpha: float, times: F64 | None = None) -> Reach:
    """Of a mean with influences (n,): half the length is t_{1 - alpha / 2, nu} times the standard error.

    The degrees of freedom make a chi-square of the variance's mean and variance (Satterthwaite):

        nu = 2 G / (kappa - 1),  kappa = G sum psi_g⁴ / (sum psi_g²)²

    times : (n,), how often each row occurs, every time as a unit of its own; None where each is there once

    >>> all_alike, two_heavy = np.array([1.0, -1.0] * 50), np.array([10.0, -10.0, *[0.0] * 98])
    >>> round(reach(all_alike, None, 0.05).half, 3), round(reach(two_heavy, None, 0.05).half, 3)
    (0.199, 0.392)

    References
    ----------
    Satterthwaite: An approximate distribution of estimates of variance components. Biometrics Bulletin 2 (1946).
    """
    sums = of_units(influence, unit)
    groups, squares = number(sums, times), total(sums * sums, times)
    error = _standard_error(groups, squares, number(influence, times))
    if groups < 2 or not squares:
        return Reach(error, error)
    kurtosis = groups * total(sums**4, times) / squares**2
    degrees = min(2 * groups / max(kurtosis - 1, 1e-9), groups - 1)
    return Reach(float(stdtrit(max(degrees, LEAST_DEGREES), 1 - alpha / 2)) * error, error)


def estimated(value: float, influence: F64, unit: Units | None, diagnosis: Diagnosis, alpha: float) -> Estimated:
    """A value with the interval that the influences (n,) of its rows give, psi_i with mean 0."""
    half, error = reach(influence, unit, alpha)
    return Estimated(value, error, value - half, value + half, diagnosis)


def lift(
    ours: tuple[F64, F64],
    theirs: tuple[F64, F64],
    unit: Units | None,
    diagnosis: Diagnosis,
    alpha: float,
    times: F64 | None = None,
) -> Estimated:
    """Relative difference of two ratios of sums over the same rows, R_o / R_t - 1, its interval on the scale of logarithms.

        R = sum a / sum b,  psi_i = (a_i - R b_i) / (mean(b) R)  for log R

    ours, theirs : (a, b), each (n,), with sums above 0
    times : see `reach`
    """
    psi, logarithm = np.zeros(len(ours[0])), 0.0
    rows = number(psi, times)
    for sign, (a, b) in ((1, ours), (-1, theirs)):
        below = total(b, times)
        ratio = total(a, times) / below
        psi += sign * (a - ratio * b) / (below / rows * ratio)
        logarithm += sign * np.log(ratio)
    half, error = reach(psi, unit, alpha, times)
    better = float(np.exp(logarithm))
    return Estimated(
        better - 1,
        better * error,
        better * float(np.exp(-half)) - 1,
        better * float(np.exp(half)) - 1,
        diagnosis,
    )
