"""Aliases move with the rollout that earns them, and a collection begins only when nothing has happened meanwhile."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from online_models.contracts.ids import ModelVersion
from online_models.contracts.registry import Alias, Happening
from online_models.contracts.rollouts import Phase, Rollout
from online_models.errors import StaleEpoch, StoreError
from online_models.rollout_store import Act
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from tests.samples import MOVIES, SHA256, canary, manifest

SQL = Path(__file__).parents[2] / "online_models/stores"
V1, V2, V3, V4 = (ModelVersion(f"v{number}") for number in range(1, 5))


@pytest.fixture
def registry(postgres: str) -> PostgresRegistry:
    return PostgresRegistry(Database(postgres))


@pytest.fixture
def rollouts(postgres: str) -> PostgresRollouts:
    return PostgresRollouts(Database(postgres))


def register(registry: PostgresRegistry, *versions: ModelVersion) -> None:
    for version in versions:
        registry.register(manifest(version), SHA256, "test")


def end(rollouts: PostgresRollouts, rollout: Rollout, phase: Phase) -> Rollout:
    return rollouts.transition(rollout, msgspec.structs.replace(rollout, phase=phase), Act("test", "over", {}))


def promote(registry: PostgresRegistry, rollouts: PostgresRollouts, over: ModelVersion, version: ModelVersion) -> None:
    register(registry, version)
    end(rollouts, rollouts.create(canary(over, version), Act("test", "test", {})), Phase.PROMOTED)


def pointed(registry: PostgresRegistry) -> dict[Alias, ModelVersion]:
    return {alias: pointer.version for alias, pointer in registry.aliases(MOVIES).items()}


def happened(registry: PostgresRegistry) -> list[tuple[Happening, str]]:
    return [(event.happening, event.version) for event in registry.events(MOVIES)]


def last_event(registry: PostgresRegistry) -> int:
    return registry.events(MOVIES)[-1].id


def test_aliases_follow_a_rollout_to_its_promotion(registry: PostgresRegistry, rollouts: PostgresRollouts) -> None:
    assert registry.aliases(MOVIES) == {}
    register(registry, V1, V2)
    rollouts.adopt(MOVIES, V1, "test")
    assert pointed(registry) == {Alias.CHAMPION: V1}
    rollout = rollouts.create(canary(V1, V2), Act("test", "test", {}))
    assert registry.aliases(MOVIES)[Alias.CHALLENGER].epoch == rollout.epoch
    assert pointed(registry) == {Alias.CHAMPION: V1, Alias.CHALLENGER: V2}
    done = end(rollouts, rollout, Phase.PROMOTED)
    assert pointed(registry) == {Alias.CHAMPION: V2, Alias.PREVIOUS: V1}
    assert {pointer.epoch for pointer in registry.aliases(MOVIES).values()} == {done.epoch}
    assert happened(registry)[2:] == [
        (Happening.ADOPTED, V1), (Happening.CHALLENGING, V2), (Happening.PROMOTED, V2), (Happening.REPLACED, V1),
    ]  # fmt: skip
    promote(registry, rollouts, V2, V3)
    assert pointed(registry) == {Alias.CHAMPION: V3, Alias.PREVIOUS: V2}


@pytest.mark.parametrize("phase", [Phase.ROLLED_BACK, Phase.SUPERSEDED, Phase.ABORTED, Phase.CONCLUDED])
def test_a_challenger_that_fails_is_none_any_more(
    registry: PostgresRegistry, rollouts: PostgresRollouts, phase: Phase
) -> None:
    register(registry, V1, V2)
    rollouts.adopt(MOVIES, V1, "test")
    end(rollouts, rollouts.create(canary(V1, V2), Act("test", "test", {})), phase)
    assert pointed(registry) == {Alias.CHAMPION: V1}
    last = registry.events(MOVIES)[-1]
    assert (last.happening, last.version, last.detail["outcome"]) == (Happening.WITHDRAWN, V2, phase)


def test_a_transition_that_ends_nothing_moves_no_alias(registry: PostgresRegistry, rollouts: PostgresRollouts) -> None:
    register(registry, V1, V2)
    rollouts.adopt(MOVIES, V1, "test")
    rollout = rollouts.create(canary(V1, V2), Act("test", "test", {}))
    before = registry.aliases(MOVIES), registry.events(MOVIES)
    end(rollouts, rollout, Phase.RAMPING)
    assert (registry.aliases(MOVIES), registry.events(MOVIES)) == before


def test_the_rollouts_of_a_version_are_those_it_was_on_either_side_of(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    register(registry, V1)
    rollouts.adopt(MOVIES, V1, "test")
    promote(registry, rollouts, V1, V2)
    promote(registry, rollouts, V2, V3)
    sides = {v: [(each.stable, each.canary) for each in rollouts.rollouts_of(MOVIES, v)] for v in (V1, V2, V3, V4)}
    assert sides == {V1: [(V1, V2)], V2: [(V1, V2), (V2, V3)], V3: [(V2, V3)], V4: []}


def test_a_collection_closes_a_version_for_ever(registry: PostgresRegistry, rollouts: PostgresRollouts) -> None:
    register(registry, V1, V2, V3)
    rollouts.adopt(MOVIES, V1, "test")
    registry.begin_collection(MOVIES, [V2], last_event(registry), "gc")
    began = registry.collected_at(MOVIES, V2)
    assert began is not None
    for _ in range(2):
        registry.end_collection(MOVIES, V2, "gc")
    assert happened(registry)[-2:] == [(Happening.COLLECTING, V2), (Happening.COLLECTED, V2)]
    assert registry.collected_at(MOVIES, V2) == began
    assert registry.collected_at(MOVIES, V3) is None
    assert rollouts.candidates(MOVIES) == [V3]
    with pytest.raises(
        StoreError, match="movies v2: expected a version whose artifact is kept, but it was collected at"
    ):
        rollouts.create(canary(V1, V2), Act("asleep until now", "test", {}))
    found = registry.version(MOVIES, V2)
    assert found is not None
    assert found.manifest == manifest(V2)


def something_happens(registry: PostgresRegistry, rollouts: PostgresRollouts, what: str) -> None:
    if what == "registration":
        register(registry, V4)
    else:
        rollouts.create(canary(V1, V3), Act("test", "test", {}))


@pytest.mark.parametrize("what", ["registration", "rollout"])
def test_a_collection_that_was_decided_before_something_happened_is_void(
    registry: PostgresRegistry, rollouts: PostgresRollouts, what: str
) -> None:
    register(registry, V1, V2, V3)
    rollouts.adopt(MOVIES, V1, "test")
    seen = last_event(registry)
    something_happens(registry, rollouts, what)
    with pytest.raises(StaleEpoch, match=f"nothing to have happened since event {seen}"):
        registry.begin_collection(MOVIES, [V3], seen, "gc")
    assert registry.collected_at(MOVIES, V3) is None


def test_no_version_is_registered_that_needs_a_collected_language_model(
    registry: PostgresRegistry, rollouts: PostgresRollouts
) -> None:
    register(registry, V1, V2)
    rollouts.adopt(MOVIES, V1, "test")
    registry.begin_collection(MOVIES, [V2], last_event(registry), "gc")
    with pytest.raises(StoreError, match="v2: expected a version whose artifact is kept"):
        registry.register(replace(manifest(V3), language_model=V2), SHA256, "test")
    registry.register(replace(manifest(V3), language_model=V3), SHA256, "test")
    registry.register(replace(manifest(V4), language_model=V3), SHA256, "test")
