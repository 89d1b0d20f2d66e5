"""The registry and the rollouts: immutable versions, and one winner of every race."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import Phase, Rollout
from online_models.errors import StaleEpoch, StoreError
from online_models.rollout_store import Act
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from tests.racing import outcomes
from tests.samples import MOVIES, SHA256, canary, manifest

V1, V2, V3 = ModelVersion("v1"), ModelVersion("v2"), ModelVersion("v3")
LATER = datetime(2026, 1, 2, tzinfo=UTC)
PRODUCTS = ModelName("products")


@pytest.fixture
def registry(postgres: str) -> PostgresRegistry:
    return PostgresRegistry(Database(postgres))


@pytest.fixture
def rollouts(postgres: str) -> PostgresRollouts:
    return PostgresRollouts(Database(postgres))


def register(registry: PostgresRegistry, *versions: str, model: ModelName = MOVIES) -> None:
    for version in versions:
        registry.register(manifest(version, model), SHA256, "test")


def begin(registry: PostgresRegistry, rollouts: PostgresRollouts) -> Rollout:
    """A rollout of v2 over the champion v1."""
    register(registry, V1, V2)
    rollouts.adopt(MOVIES, V1, "test")
    return rollouts.create(canary(V1, V2), Act("test", "test", {}))


def moved(rollout: Rollout, phase: Phase, stage: int = 0, weight_bp: int = 500) -> Rollout:
    return msgspec.structs.replace(rollout, phase=phase, stage=stage, weight_bp=weight_bp, stage_started_at=LATER)


def events(registry: PostgresRegistry, table: str) -> int:
    def count(cursor):  # type: ignore[no-untyped-def]
        cursor.execute(f"SELECT count(*) FROM {table}")
        return cursor.fetchone()[0]

    return int(registry._database.run(count))


def test_a_version_comes_back_whole_and_is_registered_once(registry: PostgresRegistry) -> None:
    register(registry, V1)
    found = registry.version(MOVIES, V1)
    assert found is not None
    assert (found.manifest, found.manifest_sha256) == (manifest(V1), SHA256)
    assert found.created_at.tzinfo is not None
    with pytest.raises(StoreError, match="movies v1: expected a new version"):
        register(registry, V1)
    assert events(registry, "registry_events") == 1
    assert registry.version(MOVIES, V2) is None


def test_versions_are_ordered_by_number_not_by_text(registry: PostgresRegistry) -> None:
    register(registry, "v10", "v9", "v100")
    assert [row.version for row in registry.versions(MOVIES)] == ["v9", "v10", "v100"]


@pytest.mark.parametrize("version", ["1", "v", "v1x", "latest", "v-1"])
def test_a_version_without_an_age_is_refused(registry: PostgresRegistry, version: str) -> None:
    with pytest.raises(StoreError):
        register(registry, version)


def test_new_versions_are_younger_than_all_before(registry: PostgresRegistry) -> None:
    numbers = [int(registry.new_version().removeprefix("v")) for _ in range(3)]
    assert numbers == sorted(set(numbers))


def test_models_are_those_with_versions(registry: PostgresRegistry) -> None:
    assert registry.models() == []
    register(registry, V1)
    register(registry, V2, model=PRODUCTS)
    register(registry, V3)
    assert registry.models() == [MOVIES, PRODUCTS]


def test_the_first_version_is_adopted_once(registry: PostgresRegistry, rollouts: PostgresRollouts) -> None:
    register(registry, V1, V2)
    assert registry.champion(MOVIES) is None
    assert rollouts.champion_epoch(MOVIES) is None
    epoch = rollouts.adopt(MOVIES, V1, "test")
    assert registry.champion(MOVIES) == V1
    assert rollouts.champion_epoch(MOVIES) == (V1, epoch)
    with pytest.raises(StaleEpoch, match="expected no champion"):
        rollouts.adopt(MOVIES, V2, "test")
    assert registry.champion(MOVIES) == V1


def test_an_unregistered_version_is_not_adopted(rollouts: PostgresRollouts) -> None:
    with pytest.raises(StoreError, match="foreign key"):
        rollouts.adopt(MOVIES, V1, "test")


def test_candidates_are_younger_than_the_champion_and_untried(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    register(registry, "v9", "v10", "v11", "v100")
    register(registry, "v50", model=PRODUCTS)
    assert rollouts.candidates(MOVIES) == ["v9", "v10", "v11", "v100"]
    rollouts.adopt(MOVIES, ModelVersion("v10"), "test")
    assert rollouts.candidates(MOVIES) == ["v11", "v100"]
    rollout = rollouts.create(canary(ModelVersion("v10"), ModelVersion("v11")), Act("test", "test", {}))
    assert rollouts.candidates(MOVIES) == ["v100"]
    rollouts.transition(rollout, moved(rollout, Phase.ROLLED_BACK), Act("test", "worse", {}))
    assert rollouts.candidates(MOVIES) == ["v100"]


def test_adapters_are_tried_beside_the_recommender_they_came_with_and_keep_no_recommender_from_its_turn(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    def adapter(version: str, parent: str) -> None:
        made = msgspec.structs.replace(manifest(version), kind="lora", parent=ModelVersion(parent))
        registry.register(made, SHA256, "test")

    register(registry, "v1")
    rollouts.adopt(MOVIES, V1, "test")
    adapter("v4", "v1")
    adapter("v5", "v0")
    register(registry, "v3")
    assert (rollouts.candidates(MOVIES), rollouts.adapters(MOVIES)) == ([V3], ["v4"])
    tried = rollouts.create(canary(V1, ModelVersion("v4")), Act("test", "test", {}))
    assert (rollouts.candidates(MOVIES), rollouts.adapters(MOVIES)) == ([V3], [])  # though it is older
    rollouts.transition(tried, moved(tried, Phase.PROMOTED), Act("test", "better", {}))
    adapter("v2", "v4")  # claimed early, published late
    assert (rollouts.candidates(MOVIES), rollouts.adapters(MOVIES)) == ([V3], ["v2"])
    tried = rollouts.create(canary(ModelVersion("v4"), V3), Act("test", "test", {}))
    rollouts.transition(tried, moved(tried, Phase.PROMOTED), Act("test", "better", {}))
    assert (rollouts.candidates(MOVIES), rollouts.adapters(MOVIES)) == ([], [])


def test_a_rollout_begins_prepared_and_alone(registry: PostgresRegistry, rollouts: PostgresRollouts) -> None:
    rollout = begin(registry, rollouts)
    assert (rollout.phase, rollout.stage, rollout.weight_bp) == (Phase.PREPARING, -1, 0)
    assert rollout.salt
    assert rollouts.open_rollout(MOVIES) == rollouts.latest(MOVIES) == rollout
    assert rollouts.open_rollout(PRODUCTS) is None
    register(registry, V3)
    with pytest.raises(StaleEpoch, match="expected no open rollout"):
        rollouts.create(canary(V1, V3), Act("test", "test", {}))
    assert events(registry, "rollout_events") == 1


def test_a_version_is_tried_once(registry: PostgresRegistry, rollouts: PostgresRollouts) -> None:
    rollout = begin(registry, rollouts)
    rollouts.transition(rollout, moved(rollout, Phase.ROLLED_BACK), Act("controller", "worse", {}))
    with pytest.raises(StaleEpoch, match="none of v2 before"):
        rollouts.create(canary(V1, V2), Act("asleep until now", "test", {}))


def test_a_rollout_over_anything_but_the_champion_is_refused(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    register(registry, V1, V2)
    with pytest.raises(StaleEpoch, match="found None"):
        rollouts.create(canary(V1, V2), Act("test", "test", {}))
    rollouts.adopt(MOVIES, V2, "test")
    with pytest.raises(StaleEpoch, match="found v2"):
        rollouts.create(canary(V1, V2), Act("test", "test", {}))


def test_a_transition_is_stored_with_a_larger_epoch_and_its_evidence(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    old = begin(registry, rollouts)
    new = rollouts.transition(
        old, moved(old, Phase.RAMPING), Act("controller", "ready", {"users": 100, "p": float("nan")})
    )
    assert new == moved(msgspec.structs.replace(old, epoch=new.epoch), Phase.RAMPING)
    assert new.epoch > old.epoch
    assert rollouts.open_rollout(MOVIES) == new
    assert events(registry, "rollout_events") == 2


def test_a_transition_from_a_stale_state_changes_nothing(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    old = begin(registry, rollouts)
    new = rollouts.transition(old, moved(old, Phase.RAMPING), Act("a", "ready", {}))
    with pytest.raises(StaleEpoch, match=f"expected it open at epoch {old.epoch}"):
        rollouts.transition(old, moved(old, Phase.PROMOTED), Act("b", "late", {}))
    assert rollouts.latest(MOVIES) == new
    assert registry.champion(MOVIES) == V1
    assert events(registry, "rollout_events") == 2


def test_a_state_of_another_rollout_is_refused(registry: PostgresRegistry, rollouts: PostgresRollouts) -> None:
    old = begin(registry, rollouts)
    with pytest.raises(StoreError, match="expected a new state of"):
        rollouts.transition(old, msgspec.structs.replace(old, canary=V1), Act("a", "mixed up", {}))


def test_a_promotion_moves_the_champion_and_a_rollback_does_not(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    first = begin(registry, rollouts)
    done = rollouts.transition(first, moved(first, Phase.PROMOTED, 4, 10_000), Act("controller", "better", {}))
    assert rollouts.champion_epoch(MOVIES) == (V2, done.epoch)
    assert rollouts.open_rollout(MOVIES) is None
    assert rollouts.latest(MOVIES) == done
    register(registry, V3)
    second = rollouts.create(canary(V2, V3), Act("test", "test", {}))
    assert second.epoch > done.epoch
    rollouts.transition(second, moved(second, Phase.ROLLED_BACK, 0, 0), Act("controller", "worse", {}))
    assert rollouts.champion_epoch(MOVIES) == (V2, done.epoch)


@pytest.mark.parametrize("final", [Phase.PROMOTED, Phase.ROLLED_BACK, Phase.SUPERSEDED])
def test_a_final_rollout_moves_no_more(registry: PostgresRegistry, rollouts: PostgresRollouts, final: Phase) -> None:
    old = begin(registry, rollouts)
    done = rollouts.transition(old, moved(old, final), Act("controller", "over", {}))
    with pytest.raises(StaleEpoch):
        rollouts.transition(done, moved(done, Phase.RAMPING), Act("controller", "again", {}))


@pytest.mark.parametrize("target", [Phase.RAMPING, Phase.PROMOTED])
def test_of_two_controllers_exactly_one_makes_the_transition(
    postgres: str, registry: PostgresRegistry, rollouts: PostgresRollouts, target: Phase
) -> None:
    old = begin(registry, rollouts)
    controllers = [PostgresRollouts(Database(postgres)) for _ in range(4)]
    results = outcomes(
        [lambda own=own: own.transition(old, moved(old, target), Act("c", "race", {})) for own in controllers]  # type: ignore[misc]
    )
    assert sorted(type(result) is StaleEpoch for result in results) == [False, True, True, True]
    assert events(registry, "rollout_events") == 2
    assert events(registry, "registry_events") == (6 if target is Phase.PROMOTED else 4)


def test_of_two_controllers_exactly_one_begins_a_rollout_or_adopts(postgres: str, registry: PostgresRegistry) -> None:
    register(registry, V1, V2, V3)
    controllers = [PostgresRollouts(Database(postgres)) for _ in range(4)]
    adopted = outcomes([lambda own=own: own.adopt(MOVIES, V1, "c") for own in controllers])  # type: ignore[misc]
    created = outcomes([lambda own=own: own.create(canary(V1, V2), Act("c", "test", {})) for own in controllers])  # type: ignore[misc]
    for results in (adopted, created):
        assert sorted(type(result) is StaleEpoch for result in results) == [False, True, True, True]


def test_epochs_grow_in_the_order_in_which_they_become_visible(
    postgres: str, registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    """Controllers that race through many rollouts, while a reader checks that it never sees an epoch fall."""
    versions = [f"v{n}" for n in range(1, 13)]
    register(registry, *versions)
    rollouts.adopt(MOVIES, ModelVersion("v1"), "test")

    def control(seed: int) -> None:
        own, rng = PostgresRollouts(Database(postgres)), random.Random(seed)
        while own.candidates(MOVIES) or own.open_rollout(MOVIES):
            try:
                if current := own.open_rollout(MOVIES):
                    phase = rng.choice([Phase.RAMPING, Phase.ROLLED_BACK])
                    own.transition(current, moved(current, phase), Act("c", "race", {}))
                elif candidates := own.candidates(MOVIES):
                    own.create(canary(ModelVersion("v1"), candidates[0]), Act("c", "test", {}))
            except StaleEpoch:
                continue

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(control, seed) for seed in range(3)]
        seen = [0]
        while not all(future.done() for future in running):
            latest = rollouts.latest(MOVIES)
            seen.append(0 if latest is None else latest.epoch)
        for future in running:
            future.result()
    assert seen == sorted(seen)
    assert events(registry, "rollouts") == len(versions) - 1


def test_a_rollout_that_begins_as_another_ends_has_no_smaller_epoch(
    postgres: str, registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    """The beginning is held up after it drew its epoch; the end must not draw and show a larger one meanwhile."""
    ending = begin(registry, rollouts)
    register(registry, V3)
    with Database(postgres).transaction() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
            CREATE TRIGGER dawdle BEFORE INSERT ON rollouts FOR EACH ROW EXECUTE FUNCTION dawdle();
            """
        )

    def start() -> Rollout | StaleEpoch:
        try:
            return PostgresRollouts(Database(postgres)).create(canary(V1, V3), Act("slow", "test", {}))
        except StaleEpoch as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(start)
        time.sleep(0.15)
        ended = rollouts.transition(ending, moved(ending, Phase.ROLLED_BACK), Act("fast", "worse", {}))
        result = begun.result()
    assert isinstance(result, StaleEpoch) or result.epoch > ended.epoch
