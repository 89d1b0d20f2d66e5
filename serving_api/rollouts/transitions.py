"""The transition table of a rollout: what it becomes, and why.

- A weight is always the plan's for the stage. It rises only on a Successful verdict, after the stage's minimum duration, and
  while every live reader holds the canary; it falls only to 0, as the rollout ends.
- Gates run in every open phase, paused too: harm and a refused artifact always end a rollout. A paused one goes no further.
- Nobody is moved to a version for good but by the last stage of a canary, or by an operator. An operator can abort what is open.
- A rollout goes by the plan that it began with; one of an older release has none, and ends.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never

import msgspec

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    OPEN_PHASES,
    Kind,
    Phase,
    ReaderStatus,
    Rollout,
    Stage,
    WhenOverdue,
)
from serving_api.analysis.verdicts import Error, Failed, Inconclusive, Successful, Verdict


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


class Command(enum.StrEnum):
    """What an operator may ask of an open rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command is not possible in this state."""

    reason: str


NO_PLAN: Final = "its plan has no such stage: it was begun by an older release, or altered"


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


def stage_of(rollout: Rollout) -> Stage | None:
    """The stage that a rollout is in, or is about to enter while it prepares; None when its plan has no such stage."""
    stages = rollout.plan.stages
    return stages[max(rollout.stage, 0)] if rollout.stage < len(stages) and stages else None


def in_shadow(rollout: Rollout) -> bool:
    """Whether a rollout is in a shadow stage."""
    stage = stage_of(rollout)
    return rollout.stage >= 0 and stage is not None and stage.shadow


def step(rollout: Rollout, verdict: Verdict, readiness: Readiness, now: datetime) -> Decision:
    """One tick of a rollout; final phases are left as they are. A verdict on a rollout that nobody has met is not looked at."""
    if rollout.phase not in OPEN_PHASES:
        return Decision(rollout, f"{rollout.phase} is final")
    stage = stage_of(rollout)
    if stage is None:
        return _end(rollout, Phase.ROLLED_BACK, NO_PLAN, now)
    if isinstance(readiness, Refused):
        return _end(rollout, Phase.ROLLED_BACK, readiness.reason, now)
    if rollout.stage < 0:
        return _prepare(rollout, stage, readiness, now)
    match verdict:
        case Failed(reason):
            return _end(rollout, Phase.ROLLED_BACK, _blame(rollout, reason), now)
        case Successful(reason):
            return _succeed(rollout, stage, reason, readiness, now)
        case Inconclusive(reason) | Error(reason):
            return _wait(rollout, stage, reason, now)
        case _:
            assert_never(verdict)


def trip(rollout: Rollout, why: str, now: datetime) -> Decision:
    """End a rollout whose canary has been met by requests, because a breaker says why."""
    if rollout.phase not in OPEN_PHASES or rollout.stage < 0:
        return Decision(rollout, f"no request has met the canary; {why}")
    return _end(rollout, Phase.ROLLED_BACK, why, now)


def supersede(rollout: Rollout, by: ModelVersion, now: datetime) -> Decision:
    """End an open rollout because a younger candidate takes the canary's place; stable stays."""
    return _end(rollout, Phase.SUPERSEDED, f"superseded by {by}", now)


def may_be_superseded(rollout: Rollout) -> bool:
    """A paused rollout is an operator's, and an experiment has a question of its own: younger candidates wait for their end."""
    return rollout.kind is Kind.CANARY and rollout.phase in (Phase.PREPARING, Phase.RAMPING)


def command(rollout: Rollout, command: Command, reason: str, readiness: Readiness, now: datetime) -> Decision | Refusal:
    """What an operator's command makes of a rollout, for a reason of theirs, or why it cannot be.

    A paused rollout keeps its weight. Resumed, its stage lasts as long as if it had just begun.
    """
    if rollout.phase not in OPEN_PHASES:
        return Refusal(f"rollout {rollout.id} is {rollout.phase}, and that is final")
    match command:
        case Command.PAUSE:
            return _pause(rollout, reason)
        case Command.RESUME:
            return _resume(rollout, reason, now)
        case Command.PROMOTE:
            return _promote(rollout, reason, readiness, now)
        case Command.ABORT:
            return _end(rollout, Phase.ABORTED, reason, now)
        case _:
            assert_never(command)


def _prepare(rollout: Rollout, first: Stage, readiness: Readiness, now: datetime) -> Decision:
    if isinstance(readiness, Waiting):
        return _wait(rollout, first, readiness.reason, now)
    if rollout.phase is Phase.PAUSED:
        return Decision(rollout, "paused; every live reader holds the canary")
    return _enter(rollout, 0, "every live reader holds the canary", now)


def _succeed(rollout: Rollout, stage: Stage, reason: str, readiness: Readiness, now: datetime) -> Decision:
    if rollout.phase is Phase.PAUSED:
        return Decision(rollout, f"paused; {reason}")
    if now - rollout.stage_started_at < timedelta(seconds=stage.min_seconds):
        return Decision(rollout, f"the stage's minimum duration is not over; {reason}")
    if rollout.kind is not Kind.CANARY and rollout.stage + 1 == len(rollout.plan.stages):
        return _end(rollout, Phase.CONCLUDED, reason, now)
    if isinstance(readiness, Waiting):
        return _wait(rollout, stage, readiness.reason, now)
    if rollout.stage + 1 == len(rollout.plan.stages):
        return _end(rollout, Phase.PROMOTED, reason, now)
    return _enter(rollout, rollout.stage + 1, reason, now)


def _wait(rollout: Rollout, stage: Stage, reason: str, now: datetime) -> Decision:
    """Hold; unless the time is over that an experiment has, or a stage that is to be rolled back then."""
    longest = timedelta(seconds=stage.max_seconds)
    if now - rollout.stage_started_at <= longest:
        return Decision(rollout, reason)
    overdue = f"{reason}; overdue: the stage should have ended within {longest}"
    if rollout.phase is Phase.PAUSED:
        return Decision(rollout, overdue)
    if rollout.kind in (Kind.AB, Kind.BANDIT) and rollout.stage >= 0:
        return _end(rollout, Phase.CONCLUDED, f"its {longest} are over, inconclusive: {reason}", now)
    if stage.when_overdue is WhenOverdue.ROLL_BACK:
        return _end(rollout, Phase.ROLLED_BACK, overdue, now)
    return Decision(rollout, overdue)


def _pause(rollout: Rollout, reason: str) -> Decision | Refusal:
    if rollout.phase is Phase.PAUSED:
        return Refusal(f"rollout {rollout.id} is paused already")
    return Decision(msgspec.structs.replace(rollout, phase=Phase.PAUSED), reason)


def _resume(rollout: Rollout, reason: str, now: datetime) -> Decision | Refusal:
    if rollout.phase is not Phase.PAUSED:
        return Refusal(f"rollout {rollout.id} is {rollout.phase}, not paused")
    phase = Phase.PREPARING if rollout.stage < 0 else Phase.RAMPING
    return Decision(msgspec.structs.replace(rollout, phase=phase, stage_started_at=now), reason)


def _promote(rollout: Rollout, reason: str, readiness: Readiness, now: datetime) -> Decision | Refusal:
    if rollout.kind is Kind.BANDIT:
        return Refusal("a bandit promotes nobody: abort it, and start a canary of its best version")
    if rollout.kind is not Kind.CANARY:
        return Refusal(
            f"an experiment of kind {rollout.kind} promotes nobody: abort it, and start a canary of the version"
        )
    if not isinstance(readiness, Ready):
        return Refusal(f"not every live reader holds {rollout.canary}: {readiness.reason}")
    return _end(rollout, Phase.PROMOTED, reason, now)


def _enter(rollout: Rollout, stage: int, reason: str, now: datetime) -> Decision:
    weight = rollout.plan.stages[stage].weight_bp
    changed = msgspec.structs.replace(rollout, phase=Phase.RAMPING, stage=stage, weight_bp=weight, stage_started_at=now)
    return Decision(changed, reason)


def _end(rollout: Rollout, phase: Phase, reason: str, now: datetime) -> Decision:
    weight = FULL_WEIGHT_BP if phase is Phase.PROMOTED else 0
    return Decision(msgspec.structs.replace(rollout, phase=phase, weight_bp=weight, stage_started_at=now), reason)


def _blame(rollout: Rollout, reason: str) -> str:
    return f"a false alarm, both arms are {rollout.stable}: {reason}" if rollout.kind is Kind.AA else reason
