"""The rollout controller: read everything, decide, write everything; again and again, and the breakers in between.

- PostgreSQL is the truth: every change is one compare-and-set transaction with its row in `rollout_events`. The route
  document in Redis is a projection, written again on every tick; the larger epoch wins.
- Several controllers may run: the one whose epoch is stale changes nothing and reads again on its next tick.
- Two paces. A tick reads and decides everything; a look takes only the readers' sums of open rollouts, and ends one whose canary
  fails. After a time without a controller a rollout goes on by one stage at most: counts of the next begin when it does.
- Of a bandit the breakers look at each arm but the stable one for itself: any that fails ends it.
- Whatever fails of a tick, the route is projected: what an operator or another controller has decided reaches the readers.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never

import msgspec
import numpy as np

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, OPEN_PHASES, Kind, Phase, Plan, Rollout, Served, served_arm
from online_models.errors import ArtifactError, PenstockError, StaleEpoch
from online_models.ports import Act, NewRollout
from serving_api.analysis.breakers import tripped
from serving_api.analysis.power import forecast
from serving_api.analysis.verdicts import Evidence, StageTally
from serving_api.rollouts.bandit import ARM_VARIANTS, Sampling, learn
from serving_api.rollouts.breaker_window import BreakerWindow, entered_at
from serving_api.rollouts.decisions import Action, Adopt, Create, Hold, Move, Situation, decide, moved_by
from serving_api.rollouts.judgement import CANARY, tallies_of
from serving_api.rollouts.readiness import RolloutStores, readiness_of
from serving_api.rollouts.route_projection import project
from serving_api.rollouts.shadow_estimates import shadowed_of
from serving_api.rollouts.transitions import Waiting, trip

log: Final = logging.getLogger(__name__)


class Watched:
    """A rollout in one of its stages, and what requests of its canary, or of each arm on trial, came to there lately.

    entered : when it came into the stage, None where that is not known
    """

    def __init__(self, rollout: Rollout, entered: datetime | None) -> None:
        self.rollout = rollout
        policy, arms = rollout.plan.policy, [arm.version for arm in rollout.arms if arm.version != rollout.stable]
        names = {served_arm(version): f"arm {version}" for version in arms} or {CANARY: CANARY}
        self._windows = {
            variant: (who, BreakerWindow(policy.breaker_seconds, entered)) for variant, who in names.items()
        }

    def update(self, now: datetime, served: Mapping[tuple[int, str], Served]) -> dict[str, Served]:
        """The last seconds of each, by what a reason calls it, from all readers' sums so far."""
        return {
            who: window.update(now, served.get((self.rollout.stage, variant), Served()))
            for variant, (who, window) in self._windows.items()
        }


@dataclass(frozen=True, slots=True)
class Pacing:
    """How often the controller does what.

    full_seconds : pause between two ticks; fast_seconds : between two looks at the breakers
    """

    full_seconds: float
    fast_seconds: float


class Controller:
    """Moves the rollouts of all models.

    plan : of the rollouts that it begins; sampling, rng : how and by what randomness bandits learn
    actor : its name in the events; clock : gives the aware present
    """

    def __init__(
        self,
        stores: RolloutStores,
        plan: Plan,
        sampling: Sampling,
        actor: str,
        clock: Callable[[], datetime],
        rng: np.random.Generator,
    ) -> None:
        self._stores = stores
        self._plan = plan
        self._sampling = sampling
        self._actor = actor
        self._clock = clock
        self._rng = rng
        self._said: dict[ModelName, str] = {}
        self._watched: dict[ModelName, Watched] = {}
        self.failures = 0

    def run(self, stop: threading.Event, pacing: Pacing) -> None:
        """Tick and look until `stop` is set."""
        looks_per_tick = max(1, round(pacing.full_seconds / pacing.fast_seconds))
        for number in itertools.count():
            if number % looks_per_tick == 0:
                self.tick()
            self.look()
            if stop.wait(min(pacing.fast_seconds, pacing.full_seconds)):
                return

    def tick(self) -> dict[ModelName, Action]:
        """One pass over all models; returns what was done. A model that fails is logged and does not stop the others."""
        try:
            models = self._stores.registry.models()
        except PenstockError as error:
            self._failed("all models", error)
            return {}
        return {model: action for model in models if (action := self._guarded(model, self._tick)) is not None}

    def look(self) -> dict[ModelName, Action]:
        """What the breakers say of the rollouts that were open at the last tick; returns the moves."""
        watched = list(self._watched)
        return {model: action for model in watched if (action := self._guarded(model, self._look)) is not None}

    def _guarded(self, model: ModelName, work: Callable[[ModelName], Action | None]) -> Action | None:
        try:
            return work(model)
        except StaleEpoch as stale:
            log.info("rollout_lost_race model=%s reason=%s", model, stale)
        except Exception as error:  # noqa: BLE001 - the boundary of a tick: the next one reads everything again
            self._failed(model, error)
        return None

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        log.error("tick_failed model=%s error=%s", what, error, exc_info=not isinstance(error, PenstockError))

    def _tick(self, model: ModelName) -> Action:
        with self._projected(model):
            situation = self._read(model)
            action = decide(situation, self._clock())
            if isinstance(action, Hold) and situation.latest is not None:
                action = self._learned(situation.latest) or action
            moved = self._write(model, action)
            self._watch(model, moved or situation.latest)
        return action

    def _look(self, model: ModelName) -> Action | None:
        watched = self._watched[model]
        policy, now = watched.rollout.plan.policy, self._clock()
        recent = watched.update(now, self._stores.routes.served(model, watched.rollout.id))
        found = ((tripped(each, policy, who), each) for who, each in recent.items())
        why, failing = next(((why, each) for why, each in found if why is not None), (None, None))
        if why is None:
            return None
        with self._projected(model):
            latest = self._stores.rollouts.latest(model)
            if latest is None or latest.id != watched.rollout.id:
                return None  # it has ended, and another one has begun
            evidence: Evidence = {"breaker": why, "recent": msgspec.to_builtins(failing)}
            action = moved_by(latest, trip(latest, why, now), evidence)
            self._watch(model, self._write(model, action))
        return action

    @contextmanager
    def _projected(self, model: ModelName) -> Iterator[None]:
        """What is done in it, and the route after it, whether that is done or fails."""
        try:
            yield
        except Exception:
            project(self._stores.rollouts, self._stores.routes, model)
            raise
        project(self._stores.rollouts, self._stores.routes, model)

    def _watch(self, model: ModelName, rollout: Rollout | None) -> None:
        """Look at this rollout from now on, if requests meet its canary."""
        if rollout is None or rollout.phase not in OPEN_PHASES or rollout.stage < 0:
            self._watched.pop(model, None)
            return
        known = self._watched.get(model)
        if known is None or (known.rollout.id, known.rollout.stage) != (rollout.id, rollout.stage):
            self._watched[model] = Watched(rollout, entered_at(rollout, self._stores.rollouts.events(rollout)))

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
            readiness=readiness_of(stores, running, self._clock()) if running else Waiting("no open rollout"),
            shadowed=shadowed_of(stores.rollouts, running) if running else None,
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
        if rollout.stage < 0 or rollout.kind is Kind.BANDIT:
            return []
        measured = self._stores.rollouts.measured(rollout)
        return tallies_of(rollout, measured, self._stores.routes.served(rollout.model, rollout.id))

    def _learned(self, rollout: Rollout) -> Move | None:
        """New weights of a bandit's arms, where it is time for them."""
        if rollout.kind is not Kind.BANDIT or rollout.phase is not Phase.RAMPING:
            return None
        rollouts, versions = self._stores.rollouts, {arm.version for arm in rollout.arms}
        if self._clock() - rollouts.events(rollout)[-1].created_at < self._sampling.every:
            return None
        measured = rollouts.measured(rollout)
        grouped = {m.version: m.grouped for m in measured if m.variant in ARM_VARIANTS and m.version in versions}
        metric = rollout.plan.policy.metric
        learned = learn(rollout.arms, rollouts.windows(rollout), grouped, metric, self._sampling, self._rng)
        if isinstance(learned, str):
            self._say(rollout.model, learned)
            return None
        new = msgspec.structs.replace(rollout, arms=learned.arms)
        reason = "; ".join(("Thompson sampling", *learned.silent))
        return Move(rollout, new, reason, learned.evidence) if new != rollout else None

    def _write(self, model: ModelName, action: Action) -> Rollout | None:
        """Do it; the rollout that it changed."""
        rollouts = self._stores.rollouts
        match action:
            case Adopt(version):
                rollouts.adopt(model, version, self._actor)
                log.info("version_adopted model=%s version=%s", model, version)
            case Create(stable, canary):
                return self._create(NewRollout(model, stable, canary, self._plan))
            case Move(old, new, reason, evidence):
                moved = rollouts.transition(old, new, Act(self._actor, reason, evidence))
                log.info(
                    "rollout_moved model=%s rollout=%d phase=%s stage=%d weight=%.0f%% reason=%s",
                    model, new.id, new.phase, new.stage, 100 * new.weight_bp / FULL_WEIGHT_BP, reason,
                )  # fmt: skip
                return moved
            case Hold(reason):
                self._say(model, reason)
            case _:
                assert_never(action)
        return None

    def _create(self, new: NewRollout) -> Rollout:
        now_ms = round(self._clock().timestamp() * 1000)
        expected = forecast(new.plan, self._stores.rollouts.traffic(new.model, now_ms), new.kind)
        act = Act(self._actor, "a younger candidate", {"forecast": msgspec.to_builtins(expected)})
        rollout = self._stores.rollouts.create(new, act)
        log.info(
            "rollout_created model=%s rollout=%d stable=%s canary=%s", new.model, rollout.id, new.stable, new.canary
        )
        for warning in expected.warnings:
            log.warning("rollout_underpowered model=%s rollout=%d warning=%s", new.model, rollout.id, warning)
        return rollout

    def _say(self, model: ModelName, reason: str) -> None:
        """Log why nothing changes, once per reason."""
        if self._said.get(model) != reason:
            self._said[model] = reason
            log.info("rollout_holds model=%s reason=%s", model, reason)
