"""All that the tests say of a rollout's counts: harm, split, lift, collapse, guardrails."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

from online_models.contracts.rollouts import GROUPS, Policy
from serving_api.analysis.e_values import log_harm, log_limit, log_split
from serving_api.analysis.guardrails import Guardrail, State, guardrails
from serving_api.analysis.lift import Lift, half_width, lift, nothing, terms
from serving_api.analysis.tallies import StageTally, by_group, by_stage, shares

LEAST_GROUPS: Final = 5
LEAST_HITS: Final = 10
"""From so many groups of users, and so many hits, of each arm on a lift's interval is trusted.

Found by simulation, 600 returning users at a hit rate of 0.4 and 3,000 at a CTR of 0.05, users' own rates Beta-distributed, ramps
through 5, 25, 50, 75 and 98 % and stages held at one weight: with the interval's Student tail and its variance of at least
independent requests, a ratio exactly at a margin of 10 to 40 % is called above it in 0 to 2.5 % at an alpha of 5 %, below it in 0
to 3.3 %; a collapse that is none is called in 0 to 0.3 % at 0.5 %. Without them 30 users on the canary were called either in half
of the runs.
"""

COLLAPSE_EFFECT: Final = 0.75
"""Relative loss at which the bound on a collapse is sharpest: wide, so that a canary without a single hit is found too."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The lift on the log scale: its estimate and a one-sided bound on each side.

    trusted : whether there is enough for the bounds to mean anything
    """

    log_ratio: float
    lower: float
    upper: float
    trusted: bool


@dataclass(frozen=True, slots=True)
class Measures:
    """What the tests say.

    log_harm, log_split : log e-values; each has its limit
    lift, bounds : of the policy's metric over all stages, at `promote_alpha`, sharpest at `effect`
    collapse : the same at `collapse_alpha`
    """

    policy: Policy
    tallies: Sequence[StageTally]
    log_harm: float
    log_split: float
    lift: Lift
    bounds: Bounds
    collapse: Bounds
    guardrails: Sequence[Guardrail]

    @property
    def harmful(self) -> bool:
        return self.log_harm >= log_limit(self.policy.harm_alpha)

    @property
    def split_wrong(self) -> bool:
        return self.log_split >= log_limit(self.policy.split_alpha)

    @property
    def collapsed(self) -> bool:
        return self.collapse.trusted and self.collapse.upper < log(self.policy.collapse_ratio)

    @property
    def failed_guardrails(self) -> list[Guardrail]:
        return [each for each in self.guardrails if each.state is State.FAILED]


def measure(tallies: Sequence[StageTally], policy: Policy, effect: float, bound_alpha: float) -> Measures:
    """All tests on the stages so far, at least one.

    effect : relative loss at which the bounds of the lift are sharpest
    bound_alpha : error of each of its two bounds
    """
    shown = [tally for tally in tallies if tally.compares]
    weights = shares(shown)
    found = lift_of(shown, policy)
    users = by_stage(shown, lambda variant: variant.counts.users)
    successes = by_stage(shown, lambda variant: variant.counts.successes)
    enough = bool(min(found.groups / LEAST_GROUPS, found.stable_hits / LEAST_HITS) >= 1.0)
    return Measures(
        policy,
        tallies,
        float(log_harm(*successes, weights, policy.tolerated_harm, policy.smallest_effect)),
        float(log_split(*users, weights)),
        found,
        _bounds(found, effect, bound_alpha, enough and bool(found.canary_hits >= LEAST_HITS)),
        _bounds(found, COLLAPSE_EFFECT, policy.collapse_alpha, enough),
        guardrails(tallies, policy),
    )


def lift_of(shown: Sequence[StageTally], policy: Policy) -> Lift:
    """The lift of the policy's metric over stages in which both arms had users."""
    return lift(sum((terms(*by_group(tally, policy.metric)) for tally in shown), start=nothing(GROUPS)))


def _bounds(found: Lift, effect: float, alpha: float, trusted: bool) -> Bounds:
    width = float(half_width(found, -log(1.0 - effect), alpha))
    centre = float(found.log_ratio)
    return Bounds(centre, centre - width, centre + width, trusted)
