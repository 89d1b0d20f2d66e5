"""The transition table of a rollout: what it becomes, and why.

- A weight rises only on a Successful verdict, after the stage's minimum duration, and while every live reader
  holds the canary.
- Gates run in every open phase, paused too: harm and a refused artifact always end a rollout.
- At a full 100 % nothing would be left to compare with, so the last stage keeps a small holdback of users on
  stable. Only promotion moves everybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Phase, ReaderStatus, Rollout
from serving_api.analysis import Error, Failed, Inconclusive, Required, Successful, Verdict


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the ramp.

    longest : after this the rollout still holds, and says that it is overdue
    """

    weight_bp: int
    required: Required
    shortest: timedelta
    longest: timedelta


@dataclass(frozen=True, slots=True)
class Ready:
    """Every live reader holds the canary."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Some reader does not hold the canary yet, or none is alive."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A reader read the artifact and will not serve it."""

    reason: str


Readiness = Ready | Waiting | Refused


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rollout becomes; it holds when `rollout` is the one that came in."""

    rollout: Rollout
    reason: str


def ramp(
    percents: tuple[float, ...], holdback_bp: int, required: Required, shortest: timedelta, longest: timedelta
) -> tuple[Stage, ...]:
    """Stages of growing weight, none above 100 % less the holdback.

    >>> stages = ramp((5, 50, 100), 200, Required(100, 20), timedelta(minutes=1), timedelta(days=1))
    >>> [stage.weight_bp for stage in stages]
    [500, 5000, 9800]
    """
    weights = [min(round(percent * 100), FULL_WEIGHT_BP - holdback_bp) for percent in percents]
    return tuple(Stage(weight, required, shortest, longest) for weight in weights)


def age(version: ModelVersion) -> int:
    """A version's place in time: the fencing token in its name, larger is younger.

    >>> age(ModelVersion("v12")) > age(ModelVersion("v9"))
    True
    """
    return int(version.removeprefix("v"))


def readiness(statuses: Mapping[str, ReaderStatus | None], manifest_sha256: str) -> Readiness:
    """What the live readers say of a version whose registered manifest has this SHA-256.

    Without a live reader it is not ready: nobody would serve it.
    """
    refusals = [f"{reader}: {status.error}" for reader, status in statuses.items() if status and status.error]
    if refusals:
        return Refused("refused by reader " + "; ".join(refusals))
    if not statuses:
        return Waiting("no live reader")
    late = [r for r, s in statuses.items() if s is None or not s.ready or s.manifest_sha256 != manifest_sha256]
    return Waiting(f"waiting for reader {', '.join(sorted(late))}") if late else Ready()


def step(rollout: Rollout, verdict: Verdict, readiness: Readiness, now: datetime, plan: tuple[Stage, ...]) -> Decision:
    """One tick of a rollout; final phases are left as they are."""
    match rollout.phase:
        case Phase.PREPARING:
            return _prepare(rollout, readiness, now, plan)
        case Phase.RAMPING | Phase.PAUSED:
            return _judge(rollout, verdict, readiness, now, plan)
        case Phase.PROMOTED | Phase.ROLLED_BACK | Phase.SUPERSEDED:
            return Decision(rollout, f"{rollout.phase} is final")
        case _:
            assert_never(rollout.phase)


def supersede(rollout: Rollout, by: ModelVersion, now: datetime) -> Decision:
    """End an open rollout because a younger candidate takes the canary's place; stable stays."""
    return _end(rollout, Phase.SUPERSEDED, 0, f"superseded by {by}", now)


def _prepare(rollout: Rollout, readiness: Readiness, now: datetime, plan: tuple[Stage, ...]) -> Decision:
    match readiness:
        case Refused(reason):
            return _end(rollout, Phase.ROLLED_BACK, 0, reason, now)
        case Waiting(reason):
            return Decision(rollout, reason + _overdue(rollout, now, plan))
        case Ready():
            return _enter(rollout, 0, "every live reader holds the canary", now, plan)
        case _:
            assert_never(readiness)


def _judge(
    rollout: Rollout, verdict: Verdict, readiness: Readiness, now: datetime, plan: tuple[Stage, ...]
) -> Decision:
    if isinstance(readiness, Refused):
        return _end(rollout, Phase.ROLLED_BACK, 0, readiness.reason, now)
    match verdict:
        case Failed(reason):
            return _end(rollout, Phase.ROLLED_BACK, 0, reason, now)
        case Successful(reason):
            return _advance(rollout, reason, readiness, now, plan)
        case Inconclusive(reason) | Error(reason):
            return Decision(rollout, reason + _overdue(rollout, now, plan))
        case _:
            assert_never(verdict)


def _advance(rollout: Rollout, reason: str, readiness: Readiness, now: datetime, plan: tuple[Stage, ...]) -> Decision:
    if rollout.phase is Phase.PAUSED:
        return Decision(rollout, f"paused; {reason}")
    if isinstance(readiness, Waiting):
        return Decision(rollout, readiness.reason + _overdue(rollout, now, plan))
    # A plan that became shorter ends at its own last stage.
    if now - rollout.stage_started_at < plan[min(rollout.stage, len(plan) - 1)].shortest:
        return Decision(rollout, f"the stage's minimum duration is not over; {reason}")
    if rollout.stage + 1 < len(plan):
        return _enter(rollout, rollout.stage + 1, reason, now, plan)
    return _end(rollout, Phase.PROMOTED, FULL_WEIGHT_BP, reason, now)


def _enter(rollout: Rollout, stage: int, reason: str, now: datetime, plan: tuple[Stage, ...]) -> Decision:
    weight = max(plan[stage].weight_bp, rollout.weight_bp)
    changed = msgspec.structs.replace(rollout, phase=Phase.RAMPING, stage=stage, weight_bp=weight, stage_started_at=now)
    return Decision(changed, reason)


def _end(rollout: Rollout, phase: Phase, weight_bp: int, reason: str, now: datetime) -> Decision:
    changed = msgspec.structs.replace(rollout, phase=phase, weight_bp=weight_bp, stage_started_at=now)
    return Decision(changed, reason)


def _overdue(rollout: Rollout, now: datetime, plan: tuple[Stage, ...]) -> str:
    longest = plan[min(max(rollout.stage, 0), len(plan) - 1)].longest
    return (
        f"; overdue: the stage should have ended within {longest}" if now - rollout.stage_started_at > longest else ""
    )
