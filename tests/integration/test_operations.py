"""Operators' use cases on real stores when somebody else is at it: a controller that moves first, a twin that is faster."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from online_models.contracts.ids import Epoch
from online_models.contracts.rollouts import Kind, Phase, Rollout, Route
from online_models.errors import RequestReused
from online_models.ports import NewRollout, RolloutStore
from online_models.stores import postgres as postgres_store
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from serving_api.access import Operator, Role
from serving_api.rollouts.operations import (
    PREVIOUS,
    Done,
    Forbidden,
    Impossible,
    Moved,
    Operations,
    Order,
    Outcome,
    Unknown,
    Wish,
)
from serving_api.rollouts.readiness import RolloutStores
from serving_api.rollouts.transitions import Command
from tests.api_process import FAST
from tests.operator_world import MOVIES, TEST, Operators, operators
from tests.racing import outcomes

ALICE = Operator("alice", "0a1b2c3d", Role.APPROVER)
BOB = Operator("bob", "4e5f6a7b", Role.OPERATOR)
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
    with operators(fresh_stores, tmp_path) as world:
        yield world


def operations(world: Operators, rollouts: RolloutStore | None = None) -> Operations:
    stores = RolloutStores(world.registry, rollouts or world.rollouts, world.routes, world.artifacts)
    return Operations(stores, lambda: datetime.now(UTC))


def meddled(world: Operators, name: str, meddle: Callable[[], object]) -> Operations:
    return operations(world, cast(RolloutStore, Meddled(world.rollouts, name, meddle)))


def order(
    epoch: Epoch | None = None, key: str | None = None, asked: str = "0" * 64, operator: Operator = ALICE
) -> Order:
    return Order(operator, "seen in the shop", epoch, None if key is None else (key, asked))


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


@pytest.mark.parametrize("operator", [ALICE, BOB])
def test_a_return_to_the_previous_version_is_not_undone_by_asking_for_it_again(
    world: Operators, operator: Operator
) -> None:
    first, second = world.champions
    done = operations(world).roll_back(MOVIES, PREVIOUS, order(operator=BOB))
    assert isinstance(done, Done)
    refused = operations(world).roll_back(MOVIES, PREVIOUS, order(operator=operator))
    assert isinstance(refused, Impossible)
    at = done.rollout.created_at.astimezone(UTC)
    assert f"{second} was rolled back to {first} already, by key:bob (4e5f6a7b) at {at:%Y-%m-%d %H:%M:%S} UTC" in (
        refused.reason
    )
    assert world.registry.champion(MOVIES) == first


def test_what_was_rolled_back_comes_back_by_an_approver_or_by_a_promotion(world: Operators) -> None:
    _, second = world.champions
    operations(world).roll_back(MOVIES, PREVIOUS, order(operator=BOB))
    refused = operations(world).roll_back(MOVIES, second, order(operator=BOB))
    assert isinstance(refused, Forbidden)
    assert "rolled back" in refused.reason
    assert isinstance(operations(world).roll_back(MOVIES, second, order()), Done)
    assert world.registry.champion(MOVIES) == second
    rollout = started(world)
    world.move(rollout, Phase.PROMOTED)
    done = operations(world).roll_back(MOVIES, PREVIOUS, order(operator=BOB))
    assert isinstance(done, Done)
    assert done.rollout.canary == second


def test_of_two_who_return_to_the_previous_version_at_once_the_second_is_told(world: Operators) -> None:
    first, second = world.champions
    done: list[Outcome] = []

    def twin() -> None:
        if not done:
            done.append(operations(world).roll_back(MOVIES, PREVIOUS, order(operator=BOB)))

    refused = meddled(world, "restore", twin).roll_back(MOVIES, PREVIOUS, order())
    assert isinstance(done[0], Done)
    assert isinstance(refused, Impossible)
    assert f"{second} was rolled back to {first} already" in refused.reason
    assert world.registry.champion(MOVIES) == first


def test_previous_is_of_the_champion_that_was_seen(world: Operators) -> None:
    rollout = started(world)

    def promote() -> None:
        if world.latest().phase is Phase.PREPARING:
            world.move(world.latest(), Phase.PROMOTED)

    refused = meddled(world, "restore", promote).roll_back(MOVIES, PREVIOUS, order(operator=BOB))
    assert isinstance(refused, Impossible)
    assert f"{rollout.canary} became the champion meanwhile" in refused.reason
    assert world.registry.champion(MOVIES) == rollout.canary


def test_a_rollback_of_an_epoch_aborts_no_rollout_that_has_moved_since(world: Operators) -> None:
    epoch = started(world).epoch
    refused = meddled(world, "restore", advances(world, 1)).roll_back(MOVIES, PREVIOUS, order(epoch))
    assert isinstance(refused, Moved)
    assert world.latest().phase is Phase.RAMPING


def test_a_start_of_an_epoch_begins_nothing_when_rollouts_have_moved_since(world: Operators) -> None:
    seen = world.latest().epoch
    rollout = started(world)
    world.move(rollout, Phase.ABORTED)
    again = Wish(Kind.CANARY, FAST.plan, rollout.canary)
    assert isinstance(operations(world).start(MOVIES, again, order(seen)), Moved)
    assert isinstance(operations(world).start(MOVIES, again, order(world.latest().epoch)), Done)


def test_a_route_of_a_time_that_the_rows_do_not_know_is_overtaken(world: Operators) -> None:
    rollout = started(world)
    world.routes.put_route(MOVIES, Route(rollout.epoch + 5_000, rollout.canary))  # PostgreSQL is of a backup
    done = operations(world).command(MOVIES, Command.ABORT, order())
    assert isinstance(done, Done)
    assert done.routed
    assert world.route().stable == world.champions[-1]
    begun = operations(world).start(MOVIES, Wish(Kind.CANARY, FAST.plan, rollout.canary), order())
    assert isinstance(begun, Done)
    assert begun.rollout.epoch > rollout.epoch + 5_000
    assert (world.route().epoch, world.route().canary) == (begun.rollout.epoch, rollout.canary)


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
    with operators(fresh_stores, tmp_path, crowned=0) as world:
        assert isinstance(operations(world).command(MOVIES, Command.ABORT, order()), Unknown)
        assert isinstance(operations(world).roll_back(MOVIES, "previous", order()), Unknown)
        assert isinstance(operations(world).start(MOVIES, CANARY, order()), Impossible)
        world.crown(1)
        refused = operations(world).start(MOVIES, CANARY, order())
        assert isinstance(refused, Impossible)
        assert "no version of movies is a candidate" in refused.reason
