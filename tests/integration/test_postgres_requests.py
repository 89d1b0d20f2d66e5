"""An operator's request that comes again, as a client repeats it after a time-out, is done once and answered alike."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.rollouts import Phase, Plan, Policy, Rollout, Stage
from online_models.errors import RequestReused, StaleEpoch
from online_models.rollout_store import Act, NewRollout
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from tests.racing import outcomes
from tests.samples import MOVIES, SHA256, manifest

V1, V2, V3 = (ModelVersion(f"v{number}") for number in range(1, 4))
PRODUCTS = ModelName("products")
PLAN = Plan((Stage(500, min_seconds=0.1), Stage(10_000, margin=1 / 3)), Policy(margin=0.15))
ASKED, OTHER = ("key-1", "a" * 64), ("key-1", "b" * 64)


def act(request: tuple[str, str] | None, actor: str = "ann") -> Act:
    return Act(actor, "asked for", {}, request)


def opened(dsn: str) -> PostgresRollouts:
    """The champion v1 of two models, beside v2 and v3."""
    registry, rollouts = PostgresRegistry(Database(dsn)), PostgresRollouts(Database(dsn))
    for model in (MOVIES, PRODUCTS):
        for version in (V1, V2, V3):
            registry.register(manifest(version, model), SHA256, "test")
        rollouts.adopt(model, V1, "test")
    return rollouts


@pytest.fixture
def rollouts(postgres: str) -> PostgresRollouts:
    return opened(postgres)


def begin(rollouts: PostgresRollouts, request: tuple[str, str] | None, model: ModelName = MOVIES) -> Rollout:
    return rollouts.create(NewRollout(model, V1, V2, PLAN, automatic=False), act(request))


def counted(rollouts: PostgresRollouts) -> list[int]:
    return [
        len(rollouts.history(MOVIES, 100)),
        sum(len(rollouts.events(each)) for each in rollouts.history(MOVIES, 100)),
    ]


def champion_epoch(rollouts: PostgresRollouts) -> Epoch:
    found = rollouts.champion_epoch(MOVIES)
    assert found is not None
    return found[1]


Change = Callable[[PostgresRollouts, Rollout, Epoch, tuple[str, str]], Rollout]

CHANGES: dict[str, Change] = {
    "create": lambda rollouts, open_, epoch, request: begin(rollouts, request),
    "transition": lambda rollouts, open_, epoch, request: rollouts.transition(
        open_, replace(open_, phase=Phase.PAUSED), act(request)
    ),
    "restore": lambda rollouts, open_, epoch, request: rollouts.restore(MOVIES, V3, epoch, act(request)),
}


def prepared(rollouts: PostgresRollouts, name: str) -> tuple[Rollout, Epoch]:
    """A rollout to change; where one is to begin, it is over."""
    begun, epoch = begin(rollouts, None), champion_epoch(rollouts)
    if name == "create":
        begun = rollouts.transition(begun, replace(begun, phase=Phase.ABORTED), act(None))
    return begun, epoch


every_change = pytest.mark.parametrize("name", CHANGES)


@every_change
def test_a_request_that_comes_again_changes_nothing_and_gives_the_same(rollouts: PostgresRollouts, name: str) -> None:
    begun, epoch = prepared(rollouts, name)
    first = CHANGES[name](rollouts, begun, epoch, ASKED)
    before = counted(rollouts)
    assert CHANGES[name](rollouts, begun, epoch, ASKED) == first
    assert rollouts.repeated("ann", ASKED) == first
    assert counted(rollouts) == before


@every_change
def test_its_answer_is_that_of_then_also_after_the_rollout_moved_on(rollouts: PostgresRollouts, name: str) -> None:
    begun, epoch = prepared(rollouts, name)
    first = CHANGES[name](rollouts, begun, epoch, ASKED)
    current = rollouts.open_rollout(MOVIES)
    if current is not None:
        rollouts.transition(current, replace(current, phase=Phase.ABORTED), act(None))
    rollouts.restore(MOVIES, V2, champion_epoch(rollouts), act(None))
    before = counted(rollouts)
    assert CHANGES[name](rollouts, begun, epoch, ASKED) == first
    assert counted(rollouts) == before


@every_change
def test_a_key_that_comes_with_another_request_is_refused(rollouts: PostgresRollouts, name: str) -> None:
    begun, epoch = prepared(rollouts, name)
    CHANGES[name](rollouts, begun, epoch, ASKED)
    before = counted(rollouts)
    with pytest.raises(RequestReused, match="idempotency key 'key-1' of ann"):
        CHANGES[name](rollouts, begun, epoch, OTHER)
    with pytest.raises(RequestReused):
        rollouts.repeated("ann", OTHER)
    assert counted(rollouts) == before


@every_change
def test_two_requests_with_one_key_at_once_are_one(postgres: str, rollouts: PostgresRollouts, name: str) -> None:
    begun, epoch = prepared(rollouts, name)
    before = counted(rollouts)
    results = outcomes(
        [lambda: CHANGES[name](PostgresRollouts(Database(postgres)), begun, epoch, ASKED) for _ in range(4)]
    )
    assert isinstance(results[0], Rollout)
    assert results == [results[0]] * 4
    after = counted(rollouts)
    assert after[1] - before[1] == (2 if name == "restore" else 1)


@every_change
def test_two_requests_without_a_key_at_once_are_two(postgres: str, rollouts: PostgresRollouts, name: str) -> None:
    begun, epoch = prepared(rollouts, name)
    keys = [(f"key-{number}", "a" * 64) for number in range(4)]
    results = outcomes(
        [lambda key=key: CHANGES[name](PostgresRollouts(Database(postgres)), begun, epoch, key) for key in keys]  # type: ignore[misc]
    )
    assert sum(isinstance(each, Rollout) for each in results) == 1
    assert sum(isinstance(each, StaleEpoch) for each in results) == 3


def test_one_key_for_two_models_at_once_is_refused_to_one_of_them(postgres: str, rollouts: PostgresRollouts) -> None:
    """They lock different champions: the table's key tells them apart, and the loser has done nothing."""
    results = outcomes(
        [
            lambda: begin(PostgresRollouts(Database(postgres)), ASKED, MOVIES),
            lambda: begin(PostgresRollouts(Database(postgres)), OTHER, PRODUCTS),
        ]
    )
    assert sorted(type(each).__name__ for each in results) == ["RequestReused", "Rollout"]
    assert [rollouts.open_rollout(model) is not None for model in (MOVIES, PRODUCTS)].count(True) == 1


def test_keys_of_two_operators_are_not_each_other_s(rollouts: PostgresRollouts) -> None:
    begun = begin(rollouts, ASKED)
    assert rollouts.repeated("bob", OTHER) is None
    rollouts.transition(begun, replace(begun, phase=Phase.ABORTED), act(OTHER, "bob"))
    assert rollouts.repeated("ann", ASKED) == begun


def test_a_request_that_was_refused_may_come_again(rollouts: PostgresRollouts) -> None:
    old = champion_epoch(rollouts)
    rollouts.restore(MOVIES, V2, old, act(None))
    with pytest.raises(StaleEpoch):
        rollouts.restore(MOVIES, V3, old, act(ASKED))
    assert rollouts.repeated("ann", ASKED) is None
    assert rollouts.restore(MOVIES, V3, champion_epoch(rollouts), act(ASKED)).canary == V3


def test_a_request_with_a_key_is_done_once_although_its_connection_breaks_in_commit(
    postgres: str, rollouts: PostgresRollouts
) -> None:
    """The backend is gone as it commits, which rolls back; a client library that is not told repeats."""
    with Database(postgres).transaction() as cursor:
        cursor.execute(
            """
            CREATE SEQUENCE tries;
            CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF nextval('tries') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER die AFTER INSERT ON operator_requests DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION die();
            """
        )
    begun = begin(rollouts, ASKED)
    assert rollouts.history(MOVIES, 10) == [begun]
    assert begin(rollouts, ASKED) == begun
