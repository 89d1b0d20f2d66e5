"""The rollout controller: read everything, decide, write everything; again and again.

- PostgreSQL is the truth: every change is one compare-and-set transaction with its row in `rollout_events`. The route
  document in Redis is a projection, written again on every tick; the larger epoch wins.
- Several controllers may run: the one whose epoch is stale changes nothing and reads again on its next tick.
- The first version of a model is adopted without a rollout, if its artifact is whole: there is nothing to compare it with.
- A younger candidate takes the canary's place, never stable's. A candidate older than one already tried is stale.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, OPEN_PHASES, Rollout, Route
from online_models.errors import ArtifactError, PenstockError, StaleEpoch
from online_models.ports import ArtifactStore, ModelRegistry, RolloutStore, RouteStore
from serving_api.analysis import Evidence, GateConfig, StageTally, verdict
from serving_api.rollout import Decision, Readiness, Stage, Waiting, age, readiness, step, supersede

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision about one model needs.

    candidates : recommenders that are to be tried; adapters : language models, which are tried while there is nothing else
    adoptable : a registered version whose artifact is whole, while the model has no champion
    tallies : counts of the open rollout's stages so far
    readiness : what the readers say of its canary
    """

    model: ModelName
    champion: ModelVersion | None
    adoptable: ModelVersion | None
    latest: Rollout | None
    candidates: Sequence[ModelVersion]
    adapters: Sequence[ModelVersion]
    tallies: Sequence[StageTally]
    readiness: Readiness


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


def decide(situation: Situation, plan: tuple[Stage, ...], gate: GateConfig, now: datetime) -> Action:
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
    if candidate is not None:
        return _move(latest, supersede(latest, candidate, now), {})
    return _tick_open(latest, situation, plan, gate, now)


def _tick_open(
    rollout: Rollout, situation: Situation, plan: tuple[Stage, ...], gate: GateConfig, now: datetime
) -> Action:
    required = plan[min(max(rollout.stage, 0), len(plan) - 1)].required
    judged = verdict(situation.tallies, required, gate)
    evidence: Evidence = {**judged.evidence, "verdict": type(judged).__name__, "judgement": judged.reason}
    return _move(rollout, step(rollout, judged, situation.readiness, now, plan), evidence)


def _move(old: Rollout, decision: Decision, evidence: Evidence) -> Action:
    if decision.rollout == old:
        return Hold(decision.reason)
    return Move(old, decision.rollout, decision.reason, evidence)


def youngest(versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """By the number in the name; None of none.

    >>> youngest([ModelVersion("v9"), ModelVersion("v10")])
    'v10'
    """
    return max(versions, key=age, default=None)


def route_of(champion: ModelVersion, champion_epoch: Epoch, latest: Rollout | None) -> Route:
    """The route document that a model's rows stand for."""
    if latest is not None and latest.phase in OPEN_PHASES:
        return Route(
            epoch=latest.epoch,
            stable=latest.stable,
            canary=latest.canary,
            weight_bp=latest.weight_bp,
            salt=latest.salt,
            rollout_id=latest.id,
            stage=latest.stage,
        )
    return Route(epoch=max(champion_epoch, latest.epoch if latest else champion_epoch), stable=champion)


@dataclass(frozen=True, slots=True)
class ControllerStores:
    """What the controller reads and writes."""

    registry: ModelRegistry
    rollouts: RolloutStore
    routes: RouteStore
    artifacts: ArtifactStore


class Controller:
    """Moves the rollouts of all models; `actor` names it in their events."""

    def __init__(
        self,
        stores: ControllerStores,
        plan: tuple[Stage, ...],
        gate: GateConfig,
        actor: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._stores = stores
        self._plan = plan
        self._gate = gate
        self._actor = actor
        self._clock = clock
        self._said: dict[ModelName, str] = {}
        self.failures = 0

    def run(self, stop: threading.Event, pause_seconds: float) -> None:
        """Tick until `stop` is set."""
        while True:
            self.tick()
            if stop.wait(pause_seconds):
                return

    def tick(self) -> dict[ModelName, Action]:
        """One pass over all models; returns what was done. A model that fails is logged and does not stop the others."""
        done: dict[ModelName, Action] = {}
        try:
            models = self._stores.registry.models()
        except PenstockError as error:
            self._failed("all models", error)
            return done
        for model in models:
            try:
                done[model] = self._tick(model)
            except StaleEpoch as stale:
                log.info("rollout_lost_race model=%s reason=%s", model, stale)
            except Exception as error:  # noqa: BLE001 - the boundary of a tick: the next one reads everything again
                self._failed(model, error)
        return done

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        log.error("tick_failed model=%s error=%s", what, error, exc_info=not isinstance(error, PenstockError))

    def _tick(self, model: ModelName) -> Action:
        action = decide(self._read(model), self._plan, self._gate, self._clock())
        self._write(model, action)
        self._project(model)
        return action

    def _read(self, model: ModelName) -> Situation:
        stores = self._stores
        champion = stores.rollouts.champion_epoch(model)
        latest = stores.rollouts.latest(model)
        running = latest if latest and latest.phase in OPEN_PHASES else None
        return Situation(
            model=model,
            champion=champion[0] if champion else None,
            adoptable=None if champion else self._adoptable(model),
            latest=latest,
            candidates=stores.rollouts.candidates(model) if champion else [],
            adapters=stores.rollouts.adapters(model) if champion else [],
            tallies=self._tallies(running) if running else [],
            readiness=self._readiness(running) if running else Waiting("no open rollout"),
        )

    def _adoptable(self, model: ModelName) -> ModelVersion | None:
        for registered in self._stores.registry.versions(model):
            try:
                self._stores.artifacts.read(model, registered.version, registered.manifest_sha256)
            except ArtifactError as error:
                self._say(model, f"cannot adopt {registered.version}: {error}")
            else:
                return registered.version
        return None

    def _tallies(self, rollout: Rollout) -> list[StageTally]:
        counts = self._stores.rollouts.counts
        return [
            StageTally(
                self._plan[min(stage, len(self._plan) - 1)].weight_bp,
                counts(rollout, rollout.canary, stage),
                counts(rollout, rollout.stable, stage),
            )
            for stage in range(rollout.stage + 1)
        ]

    def _readiness(self, rollout: Rollout) -> Readiness:
        registered = self._stores.registry.version(rollout.model, rollout.canary)
        if registered is None:
            return Waiting(f"{rollout.canary} is not in the registry")
        statuses = self._stores.routes.statuses(rollout.model, rollout.canary, self._clock())
        return readiness(statuses, registered.manifest_sha256)

    def _write(self, model: ModelName, action: Action) -> None:
        rollouts = self._stores.rollouts
        match action:
            case Adopt(version):
                rollouts.adopt(model, version, self._actor)
                log.info("version_adopted model=%s version=%s", model, version)
            case Create(stable, canary):
                rollout = rollouts.create(model, stable, canary, self._actor)
                log.info("rollout_created model=%s rollout=%d stable=%s canary=%s", model, rollout.id, stable, canary)
            case Move(old, new, reason, evidence):
                rollouts.transition(old, new, self._actor, reason, evidence)
                log.info(
                    "rollout_moved model=%s rollout=%d phase=%s stage=%d weight=%.0f%% reason=%s",
                    model, new.id, new.phase, new.stage, 100 * new.weight_bp / FULL_WEIGHT_BP, reason,
                )  # fmt: skip
            case Hold(reason):
                self._say(model, reason)
            case _:
                assert_never(action)

    def _say(self, model: ModelName, reason: str) -> None:
        """Log why nothing changes, once per reason."""
        if self._said.get(model) != reason:
            self._said[model] = reason
            log.info("rollout_holds model=%s reason=%s", model, reason)

    def _project(self, model: ModelName) -> None:
        """Write the route document; idempotent by its epoch."""
        # The rollout first: a promotion in between then shows in the champion, never an old champion under the new epoch.
        latest = self._stores.rollouts.latest(model)
        champion = self._stores.rollouts.champion_epoch(model)
        if champion is not None:
            self._stores.routes.put_route(model, route_of(*champion, latest))
