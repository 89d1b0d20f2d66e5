"""How long a rollout will take at this traffic, and how soon it would notice a loss: said before it begins.

- Medians: a candidate exactly as good as stable passes in half of the rollouts sooner, in half later.
- A user of a day counts as one independent unit with the success rate of a day's first requests. People who return are less than
  that, more requests a day are more: the forecast is an order of magnitude, and says which stage will be the slow one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, log1p
from typing import Final

from scipy.stats import invgauss

from online_models.contracts.rollouts import FULL_WEIGHT_BP, Plan, Policy, Stage
from online_models.rollout_store import Traffic
from serving_api.analysis.e_values import HARM_EFFECTS, log_limit
from serving_api.analysis.lift import variance_for

DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class StageForecast:
    """What an equal candidate needs to pass one stage.

    users : of both arms; canary_users : those of them on the canary; None where the success rate is unknown
    days : at this traffic, None where that is unknown
    limited_by : minimum users, minimum duration, or the proof of the margin, whichever takes longest
    """

    stage: int
    weight_bp: int
    users: int | None
    canary_users: int | None
    days: float | None
    limited_by: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a rollout is expected to take until an equal candidate has passed all stages. Ready for JSON.

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


def forecast(plan: Plan, traffic: Traffic) -> Forecast:
    """Users and days that a rollout of this plan will take at this traffic.

    >>> expected = forecast(Plan((Stage(500, margin=0.1),)), Traffic(users_per_day=20_000, success_rate=0.05))
    >>> expected.canary_users, expected.stages[0].limited_by
    (13762, 'proof of the margin')
    >>> expected.warnings
    ['stage 0 (5%) takes about 13.8 days, longer than its maximum of 1.0']
    >>> forecast(Plan((Stage(500),)), Traffic(0.0, 0.0)).warnings
    ['no traffic is known: users and days cannot be told']
    """
    stages: list[StageForecast] = []
    information = 0.0
    for number, stage in enumerate(plan.stages):
        stages.append(_of_stage(number, stage, plan.policy, traffic, information))
        information += (stages[-1].users or 0) * _information(stage, traffic)
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
        _warnings(plan, traffic, stages, canary_users, caught),
    )


def _of_stage(number: int, stage: Stage, policy: Policy, traffic: Traffic, information: float) -> StageForecast:
    share = stage.weight_bp / FULL_WEIGHT_BP
    needs = {
        "minimum users": _minimum_users(stage),
        "minimum duration": stage.min_seconds / DAY_SECONDS * traffic.users_per_day,
    }
    if share > 0.0 and stage.margin is not None:
        needed = 1.0 / variance_for(-log1p(-stage.margin), policy.promote_alpha) - information
        each = _information(stage, traffic)
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


def _information(stage: Stage, traffic: Traffic) -> float:
    """What one user adds to 1 / V of the log ratio of two equal rates p: w (1 - w) p / (1 - p)."""
    share, rate = stage.weight_bp / FULL_WEIGHT_BP, min(traffic.success_rate, 0.99)
    return share * (1.0 - share) * rate / (1.0 - rate)


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
    return ceil(share * limit / drift * float(invgauss.median(2.0 / limit)) / (2.0 / limit))


def _total(parts: Sequence[int | None]) -> int | None:
    return None if None in parts else sum(each for each in parts if each is not None)


def _warnings(
    plan: Plan, traffic: Traffic, stages: Sequence[StageForecast], canary_users: int | None, caught: int | None
) -> list[str]:
    if traffic.users_per_day <= 0.0:
        return ["no traffic is known: users and days cannot be told"]
    if traffic.success_rate <= 0.0:
        return ["nothing was taken lately: no margin can be proven at this success rate"]
    found = [
        f"stage {each.stage} ({each.weight_bp / FULL_WEIGHT_BP:.0%}) takes about {each.days:.1f} days, longer than its maximum "
        f"of {stage.max_seconds / DAY_SECONDS:.1f}"
        for stage, each in zip(plan.stages, stages, strict=True)
        if each.days is not None and each.days * DAY_SECONDS > stage.max_seconds
    ]
    if caught is not None and canary_users is not None and caught > canary_users:
        found.append(
            f"a loss of {plan.policy.smallest_effect:.0%} takes about {caught:,} canary users to notice, the whole rollout "
            f"has about {canary_users:,}"
        )
    return found
