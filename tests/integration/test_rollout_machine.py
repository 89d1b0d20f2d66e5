"""Rollouts under everything at once: two controllers that are killed, operators, readers that come and go, and real stores.

Hypothesis chooses what happens; whatever it is, a model has one open rollout at most, weights go along the table, routes never go
back, and a tick that is let finish leaves the route that the rows stand for.
"""

import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from online_models.contracts.ids import ModelName
from online_models.contracts.registry import Alias
from online_models.contracts.rollouts import FULL_WEIGHT_BP, OPEN_PHASES, Kind, Phase, Plan, Rollout
from online_models.errors import StaleEpoch
from online_models.ports import Act
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database, one
from online_models.stores.redis import RedisRoutes
from serving_api.rollouts.controller import Controller
from serving_api.rollouts.decisions import Create
from serving_api.rollouts.ramp import ramp
from serving_api.rollouts.route_projection import project, route_of
from serving_api.rollouts.transitions import Command, Decision, Ready, command
from tests.rollout_desk import PACE, PLAN, Desk
from tests.store_fuse import Fuse, Killed, fused

SHORT = Plan(ramp((5, 50), 200, 0.1, PACE), PLAN.policy)
MOST_VERSIONS = 12
WHO = st.integers(0, 1)
FUSES = st.one_of(st.none(), st.builds(Fuse, st.integers(1, 14), st.booleans()))
_numbers = itertools.count()


class Rollouts(RuleBasedStateMachine):
    """One model, two controllers on connections of their own, and everybody who acts on its rollouts."""

    def __init__(self, databases: list[Database], routes: RedisRoutes, artifacts: FilesystemArtifacts) -> None:
        super().__init__()
        self.databases = databases
        self.desk = Desk(databases[2], routes, artifacts, ModelName(f"model-{next(_numbers)}"), SHORT)
        self.controllers = [self.desk.build(name, databases[who]) for who, name in enumerate(("one", "two"))]
        self.versions = 0
        self.remembered: Rollout | None = None
        self.epoch = 0

    @initialize()
    def a_first_version_and_a_candidate(self) -> None:
        self.publish()
        self.tick(0, None)
        self.publish()
        self.tick(0, None)

    @precondition(lambda self: self.versions < MOST_VERSIONS)
    @rule()
    def publish(self) -> None:
        self.versions += 1
        self.desk.publish(self.versions)

    @rule(who=WHO, fuse=FUSES)
    def tick(self, who: int, fuse: Fuse | None) -> None:
        self._act(who, fuse, Controller.tick)
        if fuse is None:
            self._route_is_of_the_rows()

    @rule(who=WHO, fuse=FUSES)
    def look(self, who: int, fuse: Fuse | None) -> None:
        self._act(who, fuse, Controller.look)

    @rule()
    def both_tick_at_once(self) -> None:
        barrier = threading.Barrier(2)

        def run(controller: Controller) -> None:
            barrier.wait()
            controller.tick()

        threads = [threading.Thread(target=run, args=(each,)) for each in self.controllers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [each.failures for each in self.controllers] == [0, 0]

    @rule(seconds=st.sampled_from([1, 10, 70, 100, 4_000]))
    def time_goes_by(self, seconds: int) -> None:
        """Readers that say nothing for 15 s are gone."""
        self.desk.now += timedelta(seconds=seconds)

    @rule(reader=st.sampled_from(["one", "two"]), says=st.sampled_from(["ready", "ready", "late", "refused"]))
    def a_reader_speaks(self, reader: str, says: str) -> None:
        latest = self._latest()
        if latest is not None:
            error = "torn" if says == "refused" else ""
            self.desk.say(latest.canary, ready=says == "ready", error=error, reader=reader)

    @rule(rate=st.sampled_from([0.21, 0.21, 0.20, 0.02]))
    def people_come(self, rate: float) -> None:
        if self._shown():
            self.desk.count(rate, 0.20)

    @rule(errors=st.sampled_from([0, 40]))
    def requests_come(self, errors: int) -> None:
        if self._shown():
            self.desk.serve("canary", 40, errors)

    @rule()
    def all_goes_well(self) -> None:
        """What a good candidate needs for one step, and a candidate where there is none: late stages are met too."""
        latest = self._latest()
        if latest is None or latest.phase not in OPEN_PHASES:
            self.publish()
            self.tick(0, None)
            return
        self.people_come(0.21)
        self.desk.now += timedelta(seconds=100)
        for reader in ("one", "two"):
            self.desk.say(latest.canary, reader=reader)
        self.tick(0, None)

    @rule()
    def an_operator_looks_at_it(self) -> None:
        self.remembered = self._latest()

    @rule(which=st.sampled_from(Command), looks=st.booleans())
    def an_operator_acts_on_what_they_saw(self, which: Command, looks: bool) -> None:
        latest = self._latest()
        seen = latest if looks else self.remembered
        if seen is None or latest is None:
            return
        decision = command(seen, which, "an operator's reason", Ready(), self.desk.now)
        if not isinstance(decision, Decision):
            return
        try:
            self.desk.rollouts.transition(seen, decision.rollout, Act("key:alice", decision.reason, {}))
        except StaleEpoch:
            assert seen.epoch != latest.epoch
        else:
            assert seen.epoch == latest.epoch
        project(self.desk.rollouts, self.desk.routes, self.desk.model)
        self._route_is_of_the_rows()

    @rule()
    def an_operator_returns_to_the_version_before(self) -> None:
        champion = self.desk.rollouts.champion_epoch(self.desk.model)
        previous = self.desk.registry.aliases(self.desk.model).get(Alias.PREVIOUS)
        if champion is None or previous is None:
            return
        back = self.desk.rollouts.restore(self.desk.model, previous.version, champion[1], Act("key:alice", "back", {}))
        assert (back.kind, back.phase) == (Kind.ROLLBACK, Phase.PROMOTED)
        route = project(self.desk.rollouts, self.desk.routes, self.desk.model)
        assert route is not None
        assert (route.stable, route.canary) == (previous.version, None)
        self._route_is_of_the_rows()

    @invariant()
    def a_model_has_one_open_rollout_at_most(self) -> None:
        with self.desk.database.transaction() as cursor:
            cursor.execute(
                "SELECT count(*) FROM rollouts WHERE model = %s AND phase IN ('preparing', 'ramping', 'paused')",
                (self.desk.model,),
            )
            assert one(cursor)[0] <= 1

    @invariant()
    def routes_never_go_back(self) -> None:
        route = self.desk.routes.route(self.desk.model)
        if route is not None:
            assert route.epoch >= self.epoch
            self.epoch = route.epoch

    @invariant()
    def weights_go_along_the_table(self) -> None:
        latest = self._latest()
        if latest is None:
            return
        if latest.phase not in OPEN_PHASES:
            assert latest.weight_bp == (FULL_WEIGHT_BP if latest.phase is Phase.PROMOTED else 0)
        else:
            assert latest.weight_bp == (SHORT.stages[latest.stage].weight_bp if latest.stage >= 0 else 0)

    @invariant()
    def the_champion_is_what_was_promoted_last(self) -> None:
        champion = self.desk.rollouts.champion_epoch(self.desk.model)
        rollouts = self.desk.rollouts.history(self.desk.model, 100)
        promoted = next((each for each in rollouts if each.phase is Phase.PROMOTED), None)
        if promoted is not None:
            assert champion is not None
            assert champion[0] == promoted.canary

    def teardown(self) -> None:
        """Whatever has happened, the audit trail is whole, and the next rollout can begin."""
        for rollout in self.desk.rollouts.history(self.desk.model, 100):
            self._trail_is_whole(rollout)
        self.tick(1, None)
        open_one = self.desk.rollouts.open_rollout(self.desk.model)
        if open_one is not None:
            decision = command(open_one, Command.ABORT, "the end", Ready(), self.desk.now)
            assert isinstance(decision, Decision)
            self.desk.rollouts.transition(open_one, decision.rollout, Act("key:alice", "the end", {}))
        youngest = self.desk.publish(99)
        done = self.controllers[0].tick()[self.desk.model]
        assert isinstance(done, Create)
        assert done.canary == youngest

    def _trail_is_whole(self, rollout: Rollout) -> None:
        trail = self.desk.rollouts.events(rollout)
        assert trail[0].from_phase is None
        for before, after in itertools.pairwise(trail):
            assert (after.from_phase, after.from_stage) == (before.to_phase, before.to_stage)
            assert after.epoch > before.epoch
            assert after.to_stage in (before.to_stage, before.to_stage + 1)
            assert after.weight_bp >= before.weight_bp or after.weight_bp == 0
            assert before.to_phase in OPEN_PHASES

    def _act(self, who: int, fuse: Fuse | None, work: Callable[[Controller], object]) -> None:
        """A controller works; one with a fuse is killed when it has called the stores so often, and another takes its place."""
        if fuse is None:
            work(self.controllers[who])
            assert self.controllers[who].failures == 0
            return
        mortal = self.desk.build("mortal", self.databases[who], lambda stores: fused(stores, fuse))
        mortal._watched = self.controllers[who]._watched
        with suppress(Killed):
            work(mortal)
        self.controllers[who] = self.desk.build("successor", self.databases[who])

    def _latest(self) -> Rollout | None:
        return self.desk.rollouts.latest(self.desk.model)

    def _shown(self) -> bool:
        latest = self._latest()
        return latest is not None and latest.phase in OPEN_PHASES and latest.stage >= 0

    def _route_is_of_the_rows(self) -> None:
        champion = self.desk.rollouts.champion_epoch(self.desk.model)
        assert champion is not None
        assert self.desk.routes.route(self.desk.model) == route_of(*champion, self._latest())


def test_whatever_happens_rollouts_stay_sound(fresh_stores: Endpoints, tmp_path: Path) -> None:
    with ExitStack() as held:
        client = held.enter_context(closing(redis_store.connect(fresh_stores.redis_url)))
        databases = [held.enter_context(closing(postgres_store.connect(fresh_stores.postgres_dsn))) for _ in range(3)]
        artifacts = FilesystemArtifacts(tmp_path / "artifacts")

        class Machine(Rollouts):
            def __init__(self) -> None:
                super().__init__(databases, RedisRoutes(client), artifacts)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
