"""The stages that a candidate goes through where nobody asks for others: a shadow, rising weights, a holdback to the end.

- Before a weight rises, the loss that could not be excluded times the share of users who would meet it is at most the margin.
- At a full 100 % nothing would be left to compare with: the last stage, the bake, keeps a holdback of users on stable, and lasts
  longer. So few tell little of a lift: the whole margin is proven before it, and the bake asks that nothing speaks against that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from online_models.contracts.rollouts import FULL_WEIGHT_BP, Stage, WhenOverdue

TELLING: Final = 0.5
"""Share of what a request of the most telling stage tells that it is to tell in a stage which proves the whole margin."""

WIDEST_MARGIN: Final = 0.5
"""A loss that no stage lets pass unproven, however few users the next one has."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What each stage asks for, see `contracts.rollouts.Stage`.

    shadow_requests : scored requests of the shadow stage; 0 for none
    bake_seconds : the last stage lasts at least so long
    """

    shadow_requests: int
    min_users: int
    min_stable_users: int
    min_seconds: float
    max_seconds: float
    bake_seconds: float
    when_overdue: WhenOverdue = WhenOverdue.HOLD


def ramp(percents: Sequence[float], holdback_bp: int, margin: float, pace: Pace) -> tuple[Stage, ...]:
    """A shadow stage, then stages of growing weight, none above 100 % less the holdback.

    percents : share of users on the canary, stage by stage, rising

    >>> pace = Pace(200, 500, 100, 600.0, 86_400.0, 3_600.0)
    >>> stages = ramp((5, 50, 100), 200, 0.1, pace)
    >>> [(stage.weight_bp, stage.shadow) for stage in stages]
    [(0, True), (500, False), (5000, False), (9800, False)]
    >>> [stage.margin and round(stage.margin, 3) for stage in stages]
    [None, 0.2, 0.1, None]
    """
    weights = sorted({min(round(percent * 100), FULL_WEIGHT_BP - holdback_bp) for percent in percents})
    rising = tuple(
        Stage(
            weight,
            min_users=pace.min_users,
            min_stable_users=pace.min_stable_users,
            min_seconds=pace.min_seconds,
            max_seconds=pace.max_seconds,
            margin=asked,
            when_overdue=pace.when_overdue,
        )
        for weight, asked in zip(weights, margins(weights, margin), strict=True)
    )
    return (*_shadow(pace), *rising[:-1], _baked(rising[-1], pace))


def margins(weights: Sequence[int], margin: float, telling: float = TELLING) -> list[float | None]:
    """The relative loss that each stage must exclude before the next; None where the whole margin is excluded before it.

    weights : basis points, rising; margin : what may be lost at the end, by everybody

    The whole margin is for the last stage that tells at least `telling` of what the most telling one does, 0 for the last one in
    any case: the information of a request is as w (1 - w).

    >>> margins([500, 5_000], 0.1), margins([500, 7_500, 9_800], 0.1), margins([500, 8_000], 0.1, telling=0.0)
    ([0.2, 0.1], [0.13333333333333333, 0.1, None], [0.125, 0.1])
    """
    told = [weight * (FULL_WEIGHT_BP - weight) for weight in weights]
    whole = max(place for place, each in enumerate(told) if each >= telling * max(told))
    before = [margin_before(weight, margin) for weight in weights[1 : whole + 1]]
    return [*before, margin, *(None for _ in weights[whole + 1 :])]


def margin_before(weight_bp: int, margin: float) -> float:
    """The relative loss that must be excluded before so many users meet the canary.

    margin : what may be lost at the end, by everybody

    >>> margin_before(5_000, 0.1), margin_before(FULL_WEIGHT_BP, 0.1), margin_before(500, 0.1)
    (0.2, 0.1, 0.5)
    """
    # loss times share of users <= margin
    return min(max(WIDEST_MARGIN, margin), margin * FULL_WEIGHT_BP / weight_bp)


def _shadow(pace: Pace) -> tuple[Stage, ...]:
    if not pace.shadow_requests:
        return ()
    return (
        Stage(
            0,
            shadow=True,
            min_users=pace.shadow_requests,
            min_stable_users=pace.shadow_requests,
            min_seconds=pace.min_seconds,
            max_seconds=pace.max_seconds,
            when_overdue=pace.when_overdue,
        ),
    )


def _baked(last: Stage, pace: Pace) -> Stage:
    shortest = max(pace.min_seconds, pace.bake_seconds)
    return msgspec.structs.replace(last, min_seconds=shortest, max_seconds=pace.max_seconds + shortest)
