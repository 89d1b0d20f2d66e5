"""The plan of a rollout by what it is for, and which plans an operator may ask for.

- A canary and an A/A take the settings' stages; an A/B and a bandit have one stage, as demanding as the settings' most demanding.
- Weights only rise, and never to 100 %: with nobody on stable there is nothing to compare with. What is judged last is held back.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Arm, Kind, Plan, Stage

MOST_STAGES: Final = 20
MOST_ARMS: Final = 8

EXPERIMENT_SECONDS: Final = 14 * 86_400.0
"""After so long an experiment that has not found a difference is over."""


def plan_for(kind: Kind, settings: Plan, stages: Sequence[Stage] | None = None) -> Plan:
    """The plan of a kind, with the settings' policy.

    settings : the plan of a canary that the controller begins
    stages : in place of the kind's own

    Raises
    ------
    ValueError
        When such stages are none of such a rollout.

    >>> [stage.weight_bp for stage in plan_for(Kind.AB, Plan((Stage(500), Stage(9800)))).stages]
    [5000]
    """
    chosen = tuple(stages) if stages is not None else _stages_of(kind, settings.stages)
    _refuse(kind, chosen)
    return Plan(chosen, settings.policy)


def equal_arms(versions: Sequence[ModelVersion]) -> tuple[Arm, ...]:
    """The arms of a bandit that has learned nothing; what does not divide goes to the first ones.

    >>> [arm.weight_bp for arm in equal_arms([ModelVersion("v1"), ModelVersion("v2"), ModelVersion("v3")])]
    [3334, 3333, 3333]
    """
    share, left = divmod(FULL_WEIGHT_BP, len(versions))
    return tuple(Arm(version, share + (place < left)) for place, version in enumerate(versions))


def _stages_of(kind: Kind, ramp: Sequence[Stage]) -> tuple[Stage, ...]:
    if kind in (Kind.CANARY, Kind.AA):
        return tuple(ramp)
    return (
        Stage(
            weight_bp=FULL_WEIGHT_BP // 2,
            min_users=max(stage.min_users for stage in ramp if not stage.shadow),
            min_stable_users=max(stage.min_stable_users for stage in ramp if not stage.shadow),
            min_seconds=max(stage.min_seconds for stage in ramp),
            max_seconds=EXPERIMENT_SECONDS,
        ),
    )


def _refuse(kind: Kind, stages: tuple[Stage, ...]) -> None:
    shown = [stage.weight_bp for stage in stages if not stage.shadow]
    if kind in (Kind.AB, Kind.BANDIT):
        if len(stages) != 1 or not shown:
            raise ValueError(f"stages: expected one, that is no shadow, in a rollout of kind {kind}, got {len(stages)}")
    elif not 1 <= len(stages) <= MOST_STAGES or not shown:
        raise ValueError(f"stages: expected 1 to {MOST_STAGES}, one of them no shadow, got {len(stages)}")
    if any(later.shadow and not earlier.shadow for earlier, later in pairwise(stages)):
        raise ValueError("stages: expected shadow stages before all others")
    if not all(low < high for low, high in pairwise([0, *shown, FULL_WEIGHT_BP])):
        raise ValueError(f"stages: expected rising weights within (0, {FULL_WEIGHT_BP}), got {shown}")


def bandit_plan(plan: Plan, arms: Sequence[Arm]) -> Plan:
    """The plan with the weight that these arms, the first of them stable, give to the others."""
    (stage,) = plan.stages
    return Plan((msgspec.structs.replace(stage, weight_bp=FULL_WEIGHT_BP - arms[0].weight_bp),), plan.policy)
