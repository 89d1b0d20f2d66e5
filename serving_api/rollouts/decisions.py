"""What is known of one model, and what to do about it: the controller's next action, as a pure function.

- The first version of a model is adopted without a rollout, if its artifact is whole: there is nothing to compare it with.
- A younger candidate takes the canary's place, never stable's; while a rollout is an operator's or an experiment it waits. A
  candidate older than one already tried is stale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import OPEN_PHASES, Rollout
from online_models.rollout_store import Shadowed
from serving_api.analysis.verdicts import Evidence, StageTally
from serving_api.rollouts.judgement import evidence_of, judged
from serving_api.rollouts.transitions import Decision, Readiness, age, may_be_superseded, step, supersede


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision about one model needs.

    candidates : recommenders that are to be tried; adapters : language models, which are tried while there is nothing else
    adoptable : a registered version whose artifact is whole, while the model has no champion
    tallies : counts of the open rollout's stages so far
    readiness : what the readers say of its canary
    shadowed : what the flow has counted of its canary, while it is in the shadow; nothing is decided by it
    """

    model: ModelName
    champion: ModelVersion | None
    adoptable: ModelVersion | None
    latest: Rollout | None
    candidates: Sequence[ModelVersion]
    adapters: Sequence[ModelVersion]
    tallies: Sequence[StageTally]
    readiness: Readiness
    shadowed: Shadowed | None = None


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make a model's first version its champion."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class Create:
    """Begin a rollout."""

    stable: ModelVersion
    canary: ModelVersion


@dataclass(frozen=True, slots=True)
class Move:
    """Change a rollout."""

    old: Rollout
    new: Rollout
    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Hold:
    """Change nothing."""

    reason: str


Action = Adopt | Create | Move | Hold


def decide(situation: Situation, now: datetime) -> Action:
    """What to do about one model."""
    latest = situation.latest
    if situation.champion is None:
        wanted = situation.adoptable
        return Adopt(wanted) if wanted else Hold("no version with a whole artifact to adopt")
    candidate = youngest(situation.candidates)
    if latest is None or latest.phase not in OPEN_PHASES:
        # an adapter waits: a recommender may be on its way to people whom drift has left behind
        wanted = candidate or youngest(situation.adapters)
        return Create(situation.champion, wanted) if wanted else Hold("no candidate")
    if candidate is not None and may_be_superseded(latest):
        return moved_by(latest, supersede(latest, candidate, now), {})
    verdict = judged(latest, situation.tallies)
    evidence = evidence_of(latest, situation.tallies, verdict, situation.shadowed)
    return moved_by(latest, step(latest, verdict, situation.readiness, now), evidence)


def moved_by(old: Rollout, decision: Decision, evidence: Evidence) -> Move | Hold:
    """What a decision does to a rollout: a move, or nothing."""
    if decision.rollout == old:
        return Hold(decision.reason)
    return Move(old, decision.rollout, decision.reason, evidence)


def youngest(versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """By the number in the name; None of none.

    >>> youngest([ModelVersion("v9"), ModelVersion("v10")])
    'v10'
    """
    return max(versions, key=age, default=None)
