"""The plan of a rollout by what it is for, and which plans an operator may ask for.

- A canary and an A/A take the settings' stages; an A/B and a bandit have one stage, as demanding as the settings' most demanding.
- Users of a canary and of an A/A rise only on proof: a stage that names no margin has the ramp's, if any, and none may be wider.
- Weights only rise, and never to 100 %: with nobody on stable there is nothing to compare with.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, MOST_STAGES, Arm, Kind, Plan, Stage
from serving_api.rollouts.ramp import TELLING, margins

MOST_ARMS: Final = 8

EXPERIMENT_SECONDS: Final = 14 * 86_400.0
"""After so long an experiment that has not found a difference is over."""


def plan_for(kind: Kind, settings: Plan, stages: Sequence[Stage] | None = None) -> Plan:
    """The plan of a kind, with the settings' policy.

    settings : the plan of a canary that the controller begins
    stages : in place of the kind's own; where one of a canary or of an A/A has no margin, it is that of `ramp.margins`; the
        last one may ask for the whole proof itself

    Raises
    ------
    ValueError
        When such stages are none of such a rollout, or ask for less proof than the ramp does.

    >>> [stage.weight_bp for stage in plan_for(Kind.AB, Plan((Stage(500), Stage(9800)))).stages]
    [5000]
    >>> plan_for(Kind.CANARY, Plan(), [Stage(500), Stage(5_000, margin=0.05)]).stages[0].margin
    0.2
    """
    chosen = tuple(stages) if stages is not None else _stages_of(kind, settings.stages)
    _refuse(kind, chosen)
    proven = kind in (Kind.CANARY, Kind.AA)
    return Plan(_proven(chosen, settings.policy.margin) if proven else chosen, settings.policy)


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


def _proven(stages: Sequence[Stage], margin: float) -> tuple[Stage, ...]:
    """The same with the ramp's margins. Raises ValueError for a stage that asks for too little."""
    shadows = [stage for stage in stages if stage.shadow]  # before all others
    weights, last = [stage.weight_bp for stage in stages[len(shadows) :]], stages[-1].margin
    asked = margins(weights, margin, telling=0.0 if last is not None and last <= margin else TELLING)
    return tuple(
        _asking(stage, widest) for stage, widest in zip(stages, [*(None for _ in shadows), *asked], strict=True)
    )


def _asking(stage: Stage, widest: float | None) -> Stage:
    if min(stage.min_users, stage.min_stable_users) < 1:
        raise ValueError("min_users, min_stable_users: expected 1 at least of a stage of a canary or an A/A")
    if stage.margin is not None and widest is not None and stage.margin > widest:
        raise ValueError(
            f"margin: expected at most {widest:.4g} at a weight of {stage.weight_bp}, got {stage.margin:g}: times the share of "
            "users who come next, no more than the gate's margin may be lost, and of all users where no later stage tells as much"
        )
    return msgspec.structs.replace(stage, margin=widest if stage.margin is None else stage.margin)


def bandit_plan(plan: Plan, arms: Sequence[Arm]) -> Plan:
    """The plan with the weight that these arms, the first of them stable, give to the others."""
    (stage,) = plan.stages
    return Plan((msgspec.structs.replace(stage, weight_bp=FULL_WEIGHT_BP - arms[0].weight_bp),), plan.policy)
