"""IPS, SNIPS, DR and replay: the mean reward of a target policy, from a log of another policy with known propensities.

- IPS is unbiased and restless, SNIPS hardly biased and calmer, DR as calm as its direct model is good and right with a bad one.
- What makes an estimate worthless is looked for first: propensities that are missing or impossible, a target that does what the
  log never does, weights that average other than 1, few effective rows. Then there is a `Refused` in its place.
- Clipping is asked for, never done on the quiet; its share, what it cut off and its direction stand in the diagnosis.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.off_policy.estimates import (
    F64,
    TERMS,
    Bias,
    Diagnosis,
    Estimated,
    Reason,
    Refused,
    Terms,
    Units,
    diagnosis_of,
    effective_rows,
    estimated,
    standard_error,
    too_few,
)

LEAST_PROPENSITY: Final = 1e-100
"""Less is no probability that anybody drew by; one over it, squared and summed, is no number any more."""

ERRORS_OFF: Final = 3.0
"""Standard errors by which the weights' mean must be beyond its limit before it counts as evidence."""


@dataclass(frozen=True, slots=True)
class Logged:
    """What a policy did and what came of it, as columns of one length n.

    reward : of the action taken; propensity : probability with which the policy took it, NaN where nobody logged it
    unit : whose row it is, a user or a session; None where all rows are independent
    """

    reward: F64
    propensity: F64
    unit: Units | None = None

    def __post_init__(self) -> None:
        shapes = {self.reward.shape, self.propensity.shape, self.reward.shape if self.unit is None else self.unit.shape}
        if len(shapes) > 1 or self.reward.ndim != 1:
            raise ValueError(f"expected columns of one length, got shapes {sorted(shapes)}")
        if not np.isfinite(self.reward).all():
            raise ValueError("expected finite rewards")

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True, slots=True)
class _Weighed:
    """Weights (n,) that passed every check, clipped."""

    weights: F64
    diagnosis: Diagnosis


def ips(logged: Logged, target: F64, terms: Terms = TERMS, unsupported: F64 | None = None) -> Estimated | Refused:
    """Inverse propensity scoring: mean(w r), w = min(pi / mu, clip).

    Parameters
    ----------
    target : (n,), probability with which the target policy takes the action that was taken
    unsupported : (n,), the target's probability of all actions that the log's policy could not take there, where it is known

    Raises
    ------
    ValueError
        When the columns differ in length, or a probability of the target is not within [0, 1].

    >>> logged = Logged(np.tile([1.0, 0.0], 500), np.full(1000, 0.5))
    >>> found = ips(logged, np.tile([0.75, 0.25], 500))
    >>> found.value, round(found.standard_error, 3), found.diagnosis.ess
    (0.75, 0.024, 800.0)

    References
    ----------
    Horvitz, Thompson: A generalization of sampling without replacement from a finite universe. JASA 47 (1952).
    """
    weighed = _weighed(logged, target, terms, unsupported)
    if isinstance(weighed, Refused):
        return weighed
    terms_of_sum = weighed.weights * logged.reward
    value = float(terms_of_sum.mean())
    return _told(value, terms_of_sum - value, logged, _clipped(weighed, _direction(logged)), terms)


def snips(logged: Logged, target: F64, terms: Terms = TERMS, unsupported: F64 | None = None) -> Estimated | Refused:
    """Self-normalised: sum(w r) / sum(w). A constant added to all rewards is added to the value, which it is not in IPS.

    Its error is that of the linearised ratio, psi = w (r - V) / mean(w). Parameters and errors as of `ips`.

    >>> logged = Logged(np.tile([11.0, 10.0], 500), np.full(1000, 0.5))
    >>> found = snips(logged, np.tile([0.75, 0.25], 500))
    >>> found.value, round(found.standard_error, 3)
    (10.75, 0.012)

    References
    ----------
    Swaminathan, Joachims: The self-normalized estimator for counterfactual learning. NeurIPS (2015).
    """
    weighed = _weighed(logged, target, terms, unsupported)
    if isinstance(weighed, Refused):
        return weighed
    w = weighed.weights
    value = float(w @ logged.reward / w.sum())
    psi = w * (logged.reward - value) / w.mean()
    return _told(value, psi, logged, _clipped(weighed, Bias.TO_LOGGED), terms)


def dr(
    logged: Logged,
    target: F64,
    model_logged: F64,
    model_target: F64,
    terms: Terms = TERMS,
    unsupported: F64 | None = None,
) -> Estimated | Refused:
    """Doubly robust: mean(q_pi + w (r - q)). Right when the propensities are, whatever the model; calm when the model is good.

    Parameters
    ----------
    model_logged : (n,), q(x, a): expected reward of the action taken, by a direct model that has not seen the row's reward
    model_target : (n,), q_pi(x) = sum_a pi(a | x) q(x, a): what the model expects of the target policy
    others, errors : as of `ips`

    >>> logged, even = Logged(np.tile([1.0, 0.0], 500), np.full(1000, 0.5)), np.full(1000, 0.5)
    >>> found = dr(logged, even, np.tile([0.9, 0.1], 500), even)
    >>> round(found.value, 3), round(found.standard_error, 4), round(ips(logged, even).standard_error, 4)
    (0.5, 0.0032, 0.0158)

    References
    ----------
    Dudík, Langford, Li: Doubly robust policy evaluation and learning. ICML (2011), arXiv 1103.4601.
    """
    if model_logged.shape != logged.reward.shape or model_target.shape != logged.reward.shape:
        raise ValueError(
            f"expected the model's rewards ({len(logged)},), got {model_logged.shape}, {model_target.shape}"
        )
    weighed = _weighed(logged, target, terms, unsupported)
    if isinstance(weighed, Refused):
        return weighed
    each = model_target + weighed.weights * (logged.reward - model_logged)
    value = float(each.mean())
    return _told(value, each - value, logged, _clipped(weighed, Bias.TO_MODEL), terms)


def replay(logged: Logged, matched: npt.NDArray[np.bool_], terms: Terms = TERMS) -> Estimated | Refused:
    """Replay on a log of even draws: the mean reward of the rows in which the target policy does what was done.

    Parameters
    ----------
    matched : bool (n,), whether the target's own choice, drawn for each row if it is random, is the action that was taken

    Raises
    ------
    ValueError
        When the columns differ in length.

    >>> logged = Logged(np.tile([1.0, 0.0, 0.0, 0.0], 500), np.full(2000, 0.5))
    >>> found = replay(logged, np.tile([True, False, True, False], 500))
    >>> found.value, found.diagnosis.ess
    (0.5, 1000.0)

    References
    ----------
    Li, Chu, Langford, Wang: Unbiased offline evaluation of contextual-bandit-based news article recommendation algorithms. WSDM
    (2011), arXiv 1003.5956.
    """
    given = logged.propensity[np.isfinite(logged.propensity)]
    if len(given) and np.ptp(given) > 1e-9 * given.max():
        detail = f"replay needs even draws, got propensities from {given.min():.3g} to {given.max():.3g}"
        return Refused(Reason.NOT_UNIFORM, detail)
    # with one propensity throughout, the mean of the matched rows is SNIPS with weights of 0 and 1 / mu
    return snips(logged, matched.astype(np.float64), terms)


def _told(value: float, psi: F64, logged: Logged, diagnosis: Diagnosis, terms: Terms) -> Estimated | Refused:
    """Without any difference between rows the interval would be a point, and promise what one more row may break."""
    if np.abs(psi).max() <= 1e-12 * max(abs(value), 1.0):
        detail = f"all {diagnosis.ess:.0f} effective rows come to {value:g}: nothing tells how far that can be trusted"
        return Refused(Reason.NO_VARIATION, detail, diagnosis.ess)
    return estimated(value, psi, logged.unit, diagnosis, terms.alpha)


def _weighed(logged: Logged, target: F64, terms: Terms, unsupported: F64 | None) -> _Weighed | Refused:
    """Weights pi / mu cut at the clip, or why they say nothing."""
    _check_target(logged, target, unsupported)
    refused = _propensities_refused(logged)
    if refused is not None:
        return refused
    raw = target / logged.propensity
    known = float(unsupported.mean()) if unsupported is not None else 0.0
    weights = np.minimum(raw, terms.clip)
    ess = effective_rows(weights)
    refused = _support_refused(raw, logged.unit, known, ess, terms) or too_few(ess, len(raw), "rows", terms)
    if refused is not None:
        return refused
    return _Weighed(weights, diagnosis_of(raw, weights, logged.unit, known))


def _check_target(logged: Logged, target: F64, unsupported: F64 | None) -> None:
    for name, column in (("target", target), ("unsupported", unsupported)):
        if column is None:
            continue
        if column.shape != logged.reward.shape:
            raise ValueError(f"expected {name} ({len(logged)},), got shape {column.shape}")
        if not ((column >= 0) & (column <= 1)).all():
            raise ValueError(f"expected {name} within [0, 1]")


def _propensities_refused(logged: Logged) -> Refused | None:
    if len(logged) == 0:
        return Refused(Reason.NO_ROWS, "no rows")
    missing = np.isnan(logged.propensity)
    if missing.any():
        return Refused(Reason.MISSING_PROPENSITY, f"{missing.sum()} of {len(logged)} rows have no propensity")
    wrong = (logged.propensity < LEAST_PROPENSITY) | (logged.propensity > 1)
    if wrong.any():
        first = logged.propensity[wrong][0]
        detail = f"{wrong.sum()} of {len(logged)} propensities are not within ({LEAST_PROPENSITY:g}, 1], the first is {first:g}"
        return Refused(Reason.IMPOSSIBLE_PROPENSITY, detail)
    return None


def _support_refused(raw: F64, unit: Units | None, known: float, ess: float, terms: Terms) -> Refused | None:
    """E[w] = 1 - the target's probability of what the log never does; above 1 the propensities are too small."""
    mean = float(raw.mean())
    error = standard_error(raw - mean, unit)
    if known > terms.max_unsupported or mean + ERRORS_OFF * error < 1 - terms.max_unsupported:
        missing = max(known, 1 - mean)
        detail = (
            f"the log never does {missing:.1%} of what the target does, at most {terms.max_unsupported:.1%} allowed"
        )
        return Refused(Reason.UNSUPPORTED, detail, ess)
    if mean - ERRORS_OFF * error > 1 + terms.max_unsupported:
        return Refused(
            Reason.WRONG_PROPENSITY, f"weights average {mean:.3f}, and should 1: propensities are too small", ess
        )
    return None


def _direction(logged: Logged) -> Bias:
    """IPS loses what is cut off: reward, of one sign or another."""
    if (logged.reward >= 0).all():
        return Bias.DOWN
    return Bias.UP if (logged.reward <= 0).all() else Bias.UNCLEAR


def _clipped(weighed: _Weighed, direction: Bias) -> Diagnosis:
    found = weighed.diagnosis
    return replace(found, bias=direction) if found.clipped_share else found
