"""Guardrails: errors, empty, fallback and slow answers of the canary beside stable's, and how many items it shows.

- The unit is a user's first request in the rollout that a reader has seen: one heavy user counts once per reader, and again
  after it has been started anew. Among many readers, where users come back, the error may so be above its share of
  `guardrail_alpha`.
- In a shadow stage, where the canary scores requests of stable's users and shows nothing, the unit is the request; there a
  guardrail is a strong hint, not a bounded error. Its latency is CPU time of the ranking and stable's that of whole answers:
  they are not compared.
- Too many is more than `guardrail_ratio` times stable's rate and more than `guardrail_floor`: two e-values, the smaller counts.
- The canary's share of the users is the weight or what the readers counted, whichever is larger. The e-value falls as the share
  grows, so it keeps its error where the weight is right, and a split gone wrong makes no clean canary look bad.
- Coverage has no e-value: it is a threshold on the effective number of items (inverse Simpson index), with three standard errors
  of room.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Final

import numpy as np

from online_models.contracts.rollouts import Policy, StageCounts
from serving_api.analysis.e_values import log_above, log_excess, log_limit
from serving_api.analysis.tallies import F64, I64, StageTally, shares

NAMES: Final = ("errors", "empty", "fallbacks", "slow")
"""Each has a quarter of `guardrail_alpha`."""

OF_SHADOWS: Final = ("errors", "empty")
"""Nobody falls back in a shadow, and how long it takes is no answer's latency."""

COVERAGE: Final = "coverage"

ROOM: Final = 3.0
"""Standard errors by which coverage has to be below its threshold."""


class State(enum.StrEnum):
    """What a guardrail says."""

    CLEAN = "clean"
    FAILED = "failed"
    NO_DATA = "no data"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One guardrail's numbers.

    canary, stable : rates, or of coverage the effective number of items; None without data
    canary_of, stable_of : users, or in the shadow requests, that they are of
    log_e, limit : evidence against "not too many", and what it must reach; None of coverage
    """

    name: str
    state: State
    canary: float | None
    stable: float | None
    canary_of: int
    stable_of: int
    log_e: float | None = None
    limit: float | None = None

    @property
    def told(self) -> str:
        """For people."""
        style = ",.0f" if self.name == COVERAGE else ".2%"
        canary, stable = ("?" if each is None else format(each, style) for each in (self.canary, self.stable))
        return f"{self.name}: the canary {canary} of {self.canary_of}, stable {stable} of {self.stable_of}"


def guardrails(tallies: Sequence[StageTally], policy: Policy) -> list[Guardrail]:
    """All guardrails of a rollout's stages so far: of the current stage alone while it is a shadow."""
    current = tallies[-1]
    if current.weight_bp == 0:
        return [_of_requests(name, current, policy) for name in OF_SHADOWS]
    shown = [tally for tally in tallies if tally.compares]
    return [*(_of_users(name, shown, policy) for name in NAMES), coverage(shown, policy)]


def _of_users(name: str, shown: Sequence[StageTally], policy: Policy) -> Guardrail:
    arms = [(tally.canary_served, tally.stable_served) for tally in shown]
    bad = np.array([[getattr(served, f"user_{name}") for served in pair] for pair in arms], np.int64).reshape(-1, 2)
    of = np.array([[served.users for served in pair] for pair in arms], np.int64).reshape(-1, 2)
    return _judged(name, bad, of, shares(shown), policy)


def _of_requests(name: str, shadow: StageTally, policy: Policy) -> Guardrail:
    arms = (shadow.canary_served, shadow.stable_served)
    bad = np.array([[getattr(served, name) for served in arms]], np.int64)
    of = np.array([[served.requests for served in arms]], np.int64)
    return _judged(name, bad, of, np.zeros(1), policy)


def _judged(name: str, bad: I64, of: I64, weights: F64, policy: Policy) -> Guardrail:
    """Of bad ones and of all, each (stages, 2): the canary's, stable's."""
    (bad_c, bad_b), (n_c, n_b) = bad.sum(axis=0).tolist(), of.sum(axis=0).tolist()
    rates = bad_c / n_c if n_c else None, bad_b / n_b if n_b else None
    limit = log_limit(policy.guardrail_alpha / len(NAMES))
    if not n_c or not n_b:
        return Guardrail(name, State.NO_DATA, *rates, n_c, n_b, None, limit)
    log_e = float(log_too_many(bad, of, weights, policy))
    return Guardrail(name, State.FAILED if log_e >= limit else State.CLEAN, *rates, n_c, n_b, log_e, limit)


def log_too_many(bad: I64, of: I64, weights: F64, policy: Policy) -> F64:
    """Log e-value (...) against "at most `guardrail_ratio` times stable's rate, or at most `guardrail_floor`".

    bad, of : (..., stages, 2) of the canary and of stable
    weights : the canary's share of the users (stages,); 0 of a shadow stage, where both arms' counts alone tell it
    """
    counted = of[..., 0] / np.maximum(of.sum(axis=-1), 1)
    beside_stable = log_excess(bad[..., 0], bad[..., 1], np.maximum(weights, counted), policy.guardrail_ratio)
    above_floor = log_above(bad[..., 0].sum(axis=-1), of[..., 0].sum(axis=-1), policy.guardrail_floor)
    found: F64 = np.minimum(beside_stable, above_floor)
    return found


def coverage(shown: Sequence[StageTally], policy: Policy) -> Guardrail:
    """Of the stage in which it is worst, among those with `coverage_users` first exposures of both arms, if there is one."""
    found = [_coverage_of(tally.canary.counts, tally.stable.counts, policy) for tally in shown]
    known = [each for each in found if each.state is not State.NO_DATA]
    if not known:
        users = [(tally.canary.counts.users, tally.stable.counts.users) for tally in shown] or [(0, 0)]
        return Guardrail(COVERAGE, State.NO_DATA, None, None, *users[-1])
    return min(known, key=lambda each: (each.canary or inf) / (each.stable or inf))


def _coverage_of(canary: StageCounts, stable: StageCounts, policy: Policy) -> Guardrail:
    ours, theirs = effective_items(canary), effective_items(stable)
    if min(canary.users, stable.users) < policy.coverage_users or theirs is None:
        return Guardrail(COVERAGE, State.NO_DATA, ours, theirs, canary.users, stable.users)
    # No repeat at all among the canary's items is as diverse as can be told.
    low = ours is not None and log(ours / theirs) + ROOM * _error(canary, stable) < log(policy.coverage_ratio)
    return Guardrail(COVERAGE, State.FAILED if low else State.CLEAN, ours, theirs, canary.users, stable.users)


def effective_items(counts: StageCounts) -> float | None:
    """n (n - 1) / repeats: how many equally popular items would be met twice as often; None without a repeat.

    >>> effective_items(StageCounts(first_items=1_000, repeats=9_990))
    100.0
    """
    n = counts.first_items
    return n * (n - 1) / counts.repeats if counts.repeats and n > 1 else None


def _error(canary: StageCounts, stable: StageCounts) -> float:
    """Standard error of the log of the ratio of effective numbers, each with a variance of about 4 / users, for what users differ
    in, and 1 / pairs of equal items, for chance (Hoeffding's two terms of a U-statistic)."""
    return sqrt(sum(4.0 / counts.users + 2.0 / max(counts.repeats, 1) for counts in (canary, stable)))
