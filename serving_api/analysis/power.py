"""How long a rollout will take at this traffic, and how soon it would notice a loss: said before it begins.

- Medians: a candidate exactly as good as stable passes in half of the rollouts sooner, in half later. An experiment whose
  versions differ by the policy's smallest effect has its answer in half of the cases sooner, in half later.
- A user of a day counts as one independent unit with the success rate of a day's first requests. People who return are less than
  that, more requests a day are more: the forecast is an order of magnitude, and says which stage will be the slow one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log, log1p, sqrt
from typing import Final

import numpy as np
from scipy.special import log_ndtr, ndtr

from online_models.contracts.rollouts import FULL_WEIGHT_BP, GROUPS, Kind, Plan, Policy, Stage
from online_models.rollout_store import Traffic
from serving_api.analysis.e_values import HARM_EFFECTS, log_limit
from serving_api.analysis.lift import Lift, half_width, variance_for

DAY_SECONDS: Final = 86_400.0

_HALVINGS: Final = 100

DIFFERENCE: Final = "proof of a difference"
EXPERIMENTS: Final = (Kind.AB, Kind.BANDIT)
"""They ask for a difference, in the place of the proof of a margin."""


@dataclass(frozen=True, slots=True)
class StageForecast:
    """What an equal candidate needs to pass one stage, or an experiment to tell its versions apart.

    users : of both arms; canary_users : those of them on the canary; None where the success rate is unknown
    days : at this traffic, None where that is unknown
    limited_by : minimum users, minimum duration, the proof of the margin, or of a difference, whichever takes longest
    """

    stage: int
    weight_bp: int
    users: int | None
    canary_users: int | None
    days: float | None
    limited_by: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a rollout is expected to take until an equal candidate has passed all stages, or a difference is told. Ready for JSON.

    users_per_day, success_rate : the traffic it rests on; 0 where unknown
    canary_users_to_catch : median number of them, at the weight of the first stage with users, until a loss of the policy's
        smallest effect is evidence of harm
    """

    users_per_day: float
    success_rate: float
    stages: tuple[StageForecast, ...]
    users: int | None
    canary_users: int | None
    days: float | None
    canary_users_to_catch: int | None
    warnings: list[str]


def forecast(plan: Plan, traffic: Traffic, kind: Kind = Kind.CANARY) -> Forecast:
    """Users and days that a rollout of this plan will take at this traffic.

    Of a bandit what is told is the difference of two arms while all have equal shares.

    >>> expected = forecast(Plan((Stage(500, margin=0.1),)), Traffic(users_per_day=20_000, success_rate=0.05))
    >>> expected.canary_users, expected.stages[0].limited_by
    (13762, 'proof of the margin')
    >>> expected.warnings[0]
    'stage 0 (5%) takes about 13.8 days, longer than its maximum of 1.0'
    >>> forecast(Plan((Stage(5_000, max_seconds=14 * DAY_SECONDS),)), Traffic(1_000, 0.05), Kind.AB).warnings
    ['a difference of 10% takes about 66.8 days to tell, in the 14.0 of the experiment about 23% can be']
    >>> forecast(Plan((Stage(500),)), Traffic(0.0, 0.0)).warnings
    ['no traffic is known: users and days cannot be told']
    """
    stages: list[StageForecast] = []
    information = 0.0
    for number, stage in enumerate(plan.stages):
        stages.append(_of_stage(number, stage, plan.policy, traffic, kind, information))
        information += (stages[-1].users or 0) * _information(stage, plan.policy, traffic, kind)
    caught = _to_catch(plan, traffic)
    canary_users = _total([each.canary_users for each in stages])
    days = [each.days for each in stages]
    return Forecast(
        traffic.users_per_day,
        traffic.success_rate,
        tuple(stages),
        _total([each.users for each in stages]),
        canary_users,
        None if None in days else sum(each for each in days if each is not None),
        caught,
        _warnings(plan, traffic, kind, stages, canary_users, caught),
    )


def _of_stage(
    number: int, stage: Stage, policy: Policy, traffic: Traffic, kind: Kind, information: float
) -> StageForecast:
    share = stage.weight_bp / FULL_WEIGHT_BP
    needs = {
        "minimum users": _minimum_users(stage),
        "minimum duration": stage.min_seconds / DAY_SECONDS * traffic.users_per_day,
    }
    each = _information(stage, policy, traffic, kind)
    if kind in EXPERIMENTS:
        variance = variance_for(-log1p(-policy.smallest_effect), policy.promote_alpha / 2.0)
        needs[DIFFERENCE] = 1.0 / (variance * each) if each else float("inf")
    elif share > 0.0 and stage.margin is not None:
        needed = 1.0 / variance_for(-log1p(-stage.margin), policy.promote_alpha) - information
        needs["proof of the margin"] = max(needed, 0.0) / each if each else float("inf")
    slowest = max(needs, key=lambda name: needs[name])
    users = None if needs[slowest] == float("inf") else ceil(needs[slowest])
    known = users is not None and traffic.users_per_day > 0
    return StageForecast(
        number,
        stage.weight_bp,
        users,
        None if users is None else ceil(users * share),
        round(users / traffic.users_per_day, 3) if known and users is not None else None,
        slowest,
    )


def _minimum_users(stage: Stage) -> float:
    share = stage.weight_bp / FULL_WEIGHT_BP
    if share in (0.0, 1.0):
        return float(max(stage.min_users, stage.min_stable_users))
    return max(stage.min_users / share, stage.min_stable_users / (1.0 - share))


def _information(stage: Stage, policy: Policy, traffic: Traffic, kind: Kind) -> float:
    """What one user adds to 1 / V of the log ratio, V = (1 - p) / (w p) + (1 - q) / (v q) of arms of rates p, q and shares w, v.

    The rates are equal; in an experiment one is less by the smallest effect. Two arms of a bandit have stable's share each.
    """
    q = min(traffic.success_rate, 0.99)
    p = q * (1.0 - policy.smallest_effect * (kind in EXPERIMENTS))
    v = 1.0 - stage.weight_bp / FULL_WEIGHT_BP
    w = v if kind is Kind.BANDIT else 1.0 - v
    return 1.0 / ((1.0 - p) / (w * p) + (1.0 - q) / (v * q)) if min(w * p, v * q) > 0.0 else 0.0


def _to_catch(plan: Plan, traffic: Traffic) -> int | None:
    """Median canary users until the harm test finds its smallest effect, or None where nobody compares or nothing is known.

    The log e-value is about a Brownian motion with a drift and twice that as variance, so the time to its limit is inverse
    Gaussian.
    """
    shown = [stage for stage in plan.stages if 0 < stage.weight_bp < FULL_WEIGHT_BP]
    if not shown or traffic.success_rate <= 0.0:
        return None
    share, policy = shown[0].weight_bp / FULL_WEIGHT_BP, plan.policy
    ratio, times = 1.0 - policy.tolerated_harm, 1.0 - policy.smallest_effect
    both = log1p(share * (ratio * times - 1.0)) - log1p(share * (ratio - 1.0))
    successes = traffic.success_rate * (1.0 + share * (ratio * times - 1.0))  # of a user of either arm
    drift = traffic.success_rate * share * ratio * times * log(times) - successes * both
    limit = log_limit(policy.harm_alpha) - log(dict(HARM_EFFECTS)[1.0])
    return ceil(share * limit / drift * _inverse_gaussian_median(2.0 / limit) / (2.0 / limit))


def _inverse_gaussian_median(mean: float) -> float:
    """Of shape 1, by bisection. (`scipy.stats` has it, at half a second of every start of the API.)

    >>> round(_inverse_gaussian_median(0.5), 6)
    0.40217
    """
    low, high = 0.0, mean
    for _ in range(_HALVINGS):
        at = (low + high) / 2.0
        # P(X <= x) = Phi((x / m - 1) / sqrt(x)) + exp(2 / m) Phi(-(x / m + 1) / sqrt(x))
        below = ndtr((at / mean - 1.0) / sqrt(at)) + exp(2.0 / mean + log_ndtr(-(at / mean + 1.0) / sqrt(at)))
        low, high = (low, at) if below > 0.5 else (at, high)
    return high


def _total(parts: Sequence[int | None]) -> int | None:
    return None if None in parts else sum(each for each in parts if each is not None)


def _warnings(
    plan: Plan,
    traffic: Traffic,
    kind: Kind,
    stages: Sequence[StageForecast],
    canary_users: int | None,
    caught: int | None,
) -> list[str]:
    if traffic.users_per_day <= 0.0:
        return ["no traffic is known: users and days cannot be told"]
    if traffic.success_rate <= 0.0:
        what = "difference" if kind in EXPERIMENTS else "margin"
        return [f"nothing was taken lately: no {what} can be proven at this success rate"]
    found = [
        _late(stage, each, plan.policy, traffic, kind)
        for stage, each in zip(plan.stages, stages, strict=True)
        if each.days is not None and each.days * DAY_SECONDS > stage.max_seconds
    ]
    if kind not in EXPERIMENTS and caught is not None and canary_users is not None and caught > canary_users:
        found.append(
            f"a loss of {plan.policy.smallest_effect:.0%} takes about {caught:,} canary users to notice, the whole rollout "
            f"has about {canary_users:,}"
        )
    return found


def _late(stage: Stage, found: StageForecast, policy: Policy, traffic: Traffic, kind: Kind) -> str:
    """What cannot be done in a stage's time, and of a difference which one can be told in it."""
    days = stage.max_seconds / DAY_SECONDS
    if found.limited_by != DIFFERENCE:
        return (
            f"stage {found.stage} ({stage.weight_bp / FULL_WEIGHT_BP:.0%}) takes about {found.days:.1f} days, longer than its "
            f"maximum of {days:.1f}"
        )
    # the half-width of the interval when the time is over
    variance = 1.0 / (days * traffic.users_per_day * _information(stage, policy, traffic, kind))
    at_end = Lift(*map(np.array, (0.0, variance, float(GROUPS), 0.0, 0.0)))
    width = float(half_width(at_end, -log1p(-policy.smallest_effect), policy.promote_alpha / 2.0))
    return (
        f"a difference of {policy.smallest_effect:.0%} takes about {found.days:.1f} days to tell, in the {days:.1f} of the "
        f"experiment about {1.0 - exp(-width):.0%} can be"
    )
