"""Operators' use cases on real stores when somebody else is at it: a controller that moves first, a twin that is faster."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from online_models.contracts.ids import Epoch
from online_models.contracts.rollouts import Kind, Phase, Rollout
from online_models.errors import RequestReused
from online_models.ports import NewRollout, RolloutStore
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from serving_api.access import Operator, Role
from serving_api.rollouts.operations import Done, Impossible, Moved, Operations, Order, Outcome, Unknown, Wish
from serving_api.rollouts.readiness import RolloutStores
from serving_api.rollouts.transitions import Command
from tests.api_process import FAST, store_settings
from tests.operator_world import MOVIES, TEST, Operators
from tests.racing import outcomes

ALICE = Operator("alice", "0a1b2c3d", Role.APPROVER)
CANARY = Wish(Kind.CANARY, FAST.plan)


class Meddled:
    """A rollout store before each of whose calls of one name somebody else does something."""

    def __init__(self, store: RolloutStore, name: str, meddle: Callable[[], object]) -> None:
        self._store = store
        self._name = name
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            self._meddle()
        return getattr(self._store, name)


@pytest.fixture
def world(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Operators]:
    with (
        closing(redis_store.connect(fresh_stores.redis_url)) as client,
        closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database,
    ):
        world = Operators(store_settings(fresh_stores, tmp_path), database, client)
        for seed in (1, 2):
            world.crown(seed)
        world.publish(3)
        yield world


def operations(world: Operators, rollouts: RolloutStore | None = None) -> Operations:
    stores = RolloutStores(world.registry, rollouts or world.rollouts, world.routes, world.artifacts)
    return Operations(stores, lambda: datetime.now(UTC))


def meddled(world: Operators, name: str, meddle: Callable[[], object]) -> Operations:
    return operations(world, cast(RolloutStore, Meddled(world.rollouts, name, meddle)))


def order(epoch: Epoch | None = None, key: str | None = None, asked: str = "0" * 64) -> Order:
    return Order(ALICE, "seen in the shop", epoch, None if key is None else (key, asked))


def started(world: Operators) -> Rollout:
    done = operations(world).start(MOVIES, CANARY, order())
    assert isinstance(done, Done)
    return done.rollout


def advances(world: Operators, times: int) -> Callable[[], None]:
    """A controller that moves the rollout on, so often."""
    stages = itertools.count()

    def advance() -> None:
        if (stage := next(stages)) < times:
            world.ramp(stage)

    return advance


def test_who_gave_no_epoch_means_the_rollout_as_it_is_by_then(world: Operators) -> None:
    started(world)
    done = meddled(world, "transition", advances(world, 1)).command(MOVIES, Command.ABORT, order())
    assert isinstance(done, Done)
    assert (done.rollout.phase, done.rollout.stage) == (Phase.ABORTED, 0)
    assert [event.to_phase for event in world.events()] == [Phase.PREPARING, Phase.RAMPING, Phase.ABORTED]


def test_who_gave_one_is_told_where_it_moved(world: Operators) -> None:
    epoch = started(world).epoch
    refused = meddled(world, "transition", advances(world, 1)).command(MOVIES, Command.PAUSE, order(epoch))
    assert isinstance(refused, Moved)
    assert f"epoch {world.latest().epoch} now" in refused.reason
    assert world.latest().phase is Phase.RAMPING


def test_who_is_always_too_late_is_told_to_ask_again(world: Operators) -> None:
    started(world)
    refused = meddled(world, "transition", advances(world, 2)).command(MOVIES, Command.ABORT, order())
    assert isinstance(refused, Impossible)
    assert "ask again" in refused.reason
    assert world.latest().stage == 1


def test_a_rollout_that_the_controller_begins_first_is_the_open_one(world: Operators) -> None:
    def begin() -> None:
        if world.rollouts.open_rollout(MOVIES) is None:
            version = world.rollouts.candidates(MOVIES)[-1]
            world.rollouts.create(NewRollout(MOVIES, world.champions[-1], version, FAST.plan), TEST)

    refused = meddled(world, "create", begin).start(MOVIES, CANARY, order())
    assert isinstance(refused, Impossible)
    assert "is open" in refused.reason


def test_a_promotion_during_a_rollback_is_rolled_back_too(world: Operators) -> None:
    rollout = started(world)

    def promote() -> None:
        if world.latest().phase is Phase.PREPARING:
            world.move(world.latest(), Phase.PROMOTED)

    first, second = world.champions
    done = meddled(world, "restore", promote).roll_back(MOVIES, first, order())
    assert isinstance(done, Done)
    assert (done.rollout.kind, done.rollout.stable, done.rollout.canary) == (Kind.ROLLBACK, rollout.canary, first)
    assert world.registry.champion(MOVIES) == first
    assert second not in (done.rollout.stable, done.rollout.canary)


def test_a_request_whose_twin_was_faster_is_answered_as_the_twin_was(world: Operators) -> None:
    epoch = started(world).epoch
    told: list[Outcome] = []

    def twin() -> None:
        if not told:
            told.append(operations(world).command(MOVIES, Command.PAUSE, order(epoch, "k")))

    late = meddled(world, "latest", twin).command(MOVIES, Command.PAUSE, order(epoch, "k"))
    assert late == told[0]
    assert isinstance(late, Done)
    assert len(world.events()) == 2


def test_a_key_of_another_request_is_refused_before_anything_is_done(world: Operators) -> None:
    started(world)
    operations(world).command(MOVIES, Command.PAUSE, order(key="k"))
    with pytest.raises(RequestReused):
        operations(world).command(MOVIES, Command.ABORT, order(key="k", asked="1" * 64))
    assert world.latest().phase is Phase.PAUSED


def test_of_operators_at_the_same_moment_one_aborts_and_the_others_are_told(
    world: Operators, fresh_stores: Endpoints
) -> None:
    started(world)
    databases = [postgres_store.connect(fresh_stores.postgres_dsn) for _ in range(4)]
    try:
        desks = [
            Operations(
                RolloutStores(PostgresRegistry(each), PostgresRollouts(each), world.routes, world.artifacts),
                lambda: datetime.now(UTC),
            )
            for each in databases
        ]
        answers = outcomes([partial(desk.command, MOVIES, Command.ABORT, order()) for desk in desks])
    finally:
        for each in databases:
            each.close()
    assert sorted(type(answer).__name__ for answer in answers) == ["Done", "Impossible", "Impossible", "Impossible"]
    assert [event.to_phase for event in world.events()] == [Phase.PREPARING, Phase.ABORTED]


def test_without_any_rollout_there_is_nothing_to_command(fresh_stores: Endpoints, tmp_path: Path) -> None:
    with (
        closing(redis_store.connect(fresh_stores.redis_url)) as client,
        closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database,
    ):
        world = Operators(store_settings(fresh_stores, tmp_path), database, client)
        assert isinstance(operations(world).command(MOVIES, Command.ABORT, order()), Unknown)
        assert isinstance(operations(world).roll_back(MOVIES, "previous", order()), Unknown)
        assert isinstance(operations(world).start(MOVIES, CANARY, order()), Impossible)
        world.crown(1)
        refused = operations(world).start(MOVIES, CANARY, order())
        assert isinstance(refused, Impossible)
        assert "no version of movies is a candidate" in refused.reason
