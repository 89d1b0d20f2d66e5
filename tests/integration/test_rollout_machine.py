"""Rollouts under everything at once: two controllers and operators that are killed, readers that come and go, and real stores,
one emptied, the other brought back from a backup.

Hypothesis chooses what happens; whatever it is, a model has one open rollout at most, weights go along the table, routes never go
back, a tick that is let finish leaves the route that the rows stand for, and what was rolled back stays so until an approver or a
promotion brings it back.
"""

import itertools
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
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
from redis import Redis

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    OPEN_PHASES,
    Kind,
    Phase,
    Plan,
    Rollout,
    RolloutEvent,
    Route,
)
from online_models.errors import StoreError
from online_models.ports import Act
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database, one
from online_models.stores.redis import RedisRoutes
from serving_api.access import Operator, Role
from serving_api.rollouts.controller import Controller
from serving_api.rollouts.decisions import Create
from serving_api.rollouts.operations import PREVIOUS, Done, Impossible, Moved, Operations, Order, Outcome, Wish
from serving_api.rollouts.plans import plan_for
from serving_api.rollouts.ramp import ramp
from serving_api.rollouts.readiness import RolloutStores, readiness_of
from serving_api.rollouts.route_projection import ACTOR, route_of
from serving_api.rollouts.transitions import Command, Decision, Ready, command
from tests.racing import outcomes
from tests.rollout_desk import PACE, PLAN, Desk
from tests.store_fuse import Fuse, Killed, fused

SHORT = Plan(ramp((5, 50), 200, 0.1, PACE), PLAN.policy)
MOST_VERSIONS = 12
WHO = st.integers(0, 1)
FUSES = st.one_of(st.none(), st.builds(Fuse, st.integers(1, 14), st.booleans()))
ALICE = Operator("alice", "0a1b2c3d", Role.APPROVER)
BOB = Operator("bob", "4e5f6a7b", Role.OPERATOR)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Ordered:
    """How an operator asks: at the epoch of the rollout as it is now, as they saw it before, or none; keyed to be done once."""

    operator: Operator
    epoch: str
    keyed: bool


ORDERS = st.builds(
    Ordered, st.sampled_from([ALICE, BOB]), st.sampled_from(["none", "now", "now", "before"]), st.booleans()
)


class Rollouts(RuleBasedStateMachine):
    """One model, two controllers on connections of their own, and everybody who acts on its rollouts."""

    def __init__(self, databases: list[Database], client: Redis, artifacts: FilesystemArtifacts) -> None:
        super().__init__()
        routes = RedisRoutes(client)
        self.databases = databases
        self.desk = Desk(databases[2], routes, artifacts, ModelName(f"model-{next(_numbers)}"), SHORT)
        self.controllers = [self.desk.build(name, databases[who]) for who, name in enumerate(("one", "two"))]
        self.stores = RolloutStores(self.desk.registry, self.desk.rollouts, routes, artifacts)
        self.client = client
        self.versions: list[ModelVersion] = []
        self.remembered: Rollout | None = None
        self.epoch = 0

    @initialize()
    def a_first_version_and_a_candidate(self) -> None:
        self.publish()
        self.tick(0, None)
        self.publish()
        self.tick(0, None)

    @precondition(lambda self: len(self.versions) < MOST_VERSIONS)
    @rule()
    def publish(self) -> None:
        self.versions.append(self.desk.publish(len(self.versions) + 1))

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
        assert not any(isinstance(each, StoreError) for each in outcomes([each.tick for each in self.controllers]))
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
    def redis_is_emptied(self) -> None:
        """Readers, sums and the route are gone, until each is said again."""
        self.client.flushdb()
        self.epoch = min(self.epoch, self._standing().epoch)  # nobody knows any more of a time before a backup

    @rule(ahead=st.integers(1, 3_000))
    def postgresql_is_of_a_backup(self, ahead: int) -> None:
        """The route is of a rollout that no row knows of."""
        epoch = max(self._standing().epoch, self.desk.routes.route_epoch(self.desk.model) or 0) + ahead
        self.desk.routes.put_route(self.desk.model, Route(epoch, self.versions[-1]))

    @rule()
    def an_operator_looks_at_it(self) -> None:
        self.remembered = self._latest()

    @rule(which=st.sampled_from(Command), order=ORDERS, fuse=FUSES)
    def an_operator_commands(self, which: Command, order: Ordered, fuse: Fuse | None) -> None:
        latest = self._latest()
        ready = None if latest is None else readiness_of(self.stores, latest, self.desk.now)
        trail = self._trail()
        done = self._ordered(order, fuse, lambda operations, told: operations.command(self.desk.model, which, told))
        if isinstance(done, Done):
            assert len(self._trail()) == len(trail) + 1
            assert which is not Command.PROMOTE or isinstance(ready, Ready)

    @rule(
        kind=st.sampled_from([Kind.CANARY, Kind.AB, Kind.AA]),
        canary=st.integers(0, MOST_VERSIONS),
        order=ORDERS,
        fuse=FUSES,
    )
    def an_operator_starts(self, kind: Kind, canary: int, order: Ordered, fuse: Fuse | None) -> None:
        version = None if kind is Kind.AA else self.versions[canary % len(self.versions)]
        wish, before = Wish(kind, plan_for(kind, SHORT), version), self._history()
        done = self._ordered(order, fuse, lambda operations, told: operations.start(self.desk.model, wish, told))
        if isinstance(done, Done):
            assert len(self._history()) == len(before) + 1
            assert not before or before[0].phase not in OPEN_PHASES

    @rule(to=st.none() | st.integers(0, MOST_VERSIONS), order=ORDERS, fuse=FUSES)
    def an_operator_rolls_back(self, to: int | None, order: Ordered, fuse: Fuse | None) -> None:
        wanted = PREVIOUS if to is None else self.versions[to % len(self.versions)]
        promotion, before = self.desk.rollouts.last_promotion(self.desk.model), self._history()
        done = self._ordered(order, fuse, lambda operations, told: operations.roll_back(self.desk.model, wanted, told))
        if not isinstance(done, Done):
            return
        assert (done.rollout.kind, done.rollout.phase) == (Kind.ROLLBACK, Phase.PROMOTED)
        assert len(self._history()) == len(before) + 1
        assert self.desk.rollouts.open_rollout(self.desk.model) is None
        if wanted == PREVIOUS or order.operator is BOB:
            assert promotion is not None
            assert (promotion.kind, done.rollout.canary) == (Kind.CANARY, promotion.stable)

    @precondition(lambda self: self._undone() is not None)
    @rule(operator=st.sampled_from([ALICE, BOB]))
    def an_operator_asks_for_the_same_rollback_again(self, operator: Operator) -> None:
        champion = self.desk.rollouts.champion_epoch(self.desk.model)
        refused = self._desk_of(self.stores).roll_back(self.desk.model, PREVIOUS, Order(operator, "once more"))
        assert isinstance(refused, Impossible)
        assert "already, by key:" in refused.reason
        assert self.desk.rollouts.champion_epoch(self.desk.model) == champion

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
            assert latest.weight_bp == (latest.plan.stages[latest.stage].weight_bp if latest.stage >= 0 else 0)

    @invariant()
    def what_was_rolled_back_comes_back_by_an_approver_or_a_promotion(self) -> None:
        rolled_back = set[ModelVersion]()
        for rollout in reversed(self._history()):
            if rollout.phase is not Phase.PROMOTED:
                continue
            if rollout.kind is Kind.ROLLBACK:
                role = self.desk.rollouts.events(rollout)[0].evidence["role"]
                assert rollout.canary not in rolled_back or role == Role.APPROVER
                rolled_back.add(rollout.stable)
            rolled_back.discard(rollout.canary)

    @invariant()
    def the_champion_is_what_was_promoted_last(self) -> None:
        champion = self.desk.rollouts.champion_epoch(self.desk.model)
        promoted = next((each for each in self._history() if each.phase is Phase.PROMOTED), None)
        if promoted is not None:
            assert champion is not None
            assert champion[0] == promoted.canary

    def teardown(self) -> None:
        """Whatever has happened, the audit trail is whole, and the next rollout can begin."""
        for rollout in self._history():
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

    def _ordered(
        self, order: Ordered, fuse: Fuse | None, ask: Callable[[Operations, Order], Outcome]
    ) -> Outcome | None:
        """What an operator is told in the end; None where their process was killed, and they did not ask again.

        With an idempotency key they ask again, and what was done then is not done twice.
        """
        latest, champion = self._latest(), self.desk.rollouts.champion_epoch(self.desk.model)
        assert champion is not None
        present = champion[1] if latest is None else latest.epoch
        seen = {"none": None, "now": present, "before": self.remembered.epoch if self.remembered else present}
        key = f"k{next(_numbers)}" if order.keyed else None
        told = Order(order.operator, "a reason", seen[order.epoch], None if key is None else (key, "0" * 64))
        outcome: Outcome | None = None
        with suppress(Killed):
            outcome = ask(self._desk_of(self.stores if fuse is None else fused(self.stores, fuse)), told)
        if key is not None:
            again = ask(self._desk_of(self.stores), told)
            if isinstance(outcome, Done):
                assert isinstance(again, Done)
                assert again.rollout == outcome.rollout
            outcome = again
        if isinstance(outcome, Moved):
            assert told.epoch != present
        if isinstance(outcome, Done):
            assert told.epoch in (None, present)
            assert outcome.routed
            self._route_is_of_the_rows()
        return outcome

    def _desk_of(self, stores: RolloutStores) -> Operations:
        return Operations(stores, lambda: self.desk.now)

    def _history(self) -> list[Rollout]:
        return self.desk.rollouts.history(self.desk.model, 100)

    def _trail(self) -> list[RolloutEvent]:
        """What people and controllers did to the youngest rollout."""
        latest = self._latest()
        events = [] if latest is None else self.desk.rollouts.events(latest)
        return [event for event in events if event.actor != ACTOR]

    def _undone(self) -> Rollout | None:
        promotion = self.desk.rollouts.last_promotion(self.desk.model)
        return promotion if promotion is not None and promotion.kind is Kind.ROLLBACK else None

    def _latest(self) -> Rollout | None:
        return self.desk.rollouts.latest(self.desk.model)

    def _shown(self) -> bool:
        latest = self._latest()
        return latest is not None and latest.phase in OPEN_PHASES and latest.stage >= 0

    def _route_is_of_the_rows(self) -> None:
        assert self.desk.routes.route(self.desk.model) == self._standing()

    def _standing(self) -> Route:
        champion = self.desk.rollouts.champion_epoch(self.desk.model)
        assert champion is not None
        return route_of(*champion, self._latest())


def test_whatever_happens_rollouts_stay_sound(fresh_stores: Endpoints, tmp_path: Path) -> None:
    with ExitStack() as held:
        client = held.enter_context(closing(redis_store.connect(fresh_stores.redis_url)))
        databases = [held.enter_context(closing(postgres_store.connect(fresh_stores.postgres_dsn))) for _ in range(3)]
        artifacts = FilesystemArtifacts(tmp_path / "artifacts")

        class Machine(Rollouts):
            def __init__(self) -> None:
                super().__init__(databases, client, artifacts)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
