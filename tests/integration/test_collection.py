"""Artifacts that nothing needs go, whole and once, and whoever may serve a version keeps its files."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from online_models.contracts.ids import Epoch, ModelVersion
from online_models.contracts.registry import Happening
from online_models.contracts.rollouts import Arm, Kind, Phase, Plan
from online_models.errors import StaleEpoch, StoreError
from online_models.rollout_store import Act, NewRollout
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from retrain_workers.registry.collection import collect, collect_model, collectable
from retrain_workers.registry.garbage import Retention
from tests.artifacts import publish, small_model
from tests.samples import MOVIES, canary

AT_ONCE = Retention(champions=1, grace=timedelta(0))
GONE = (Happening.COLLECTING, Happening.COLLECTED)
MADE = small_model(1)


class Shop:
    """The stores of one test, and a model's life in short words."""

    def __init__(self, dsn: str, root: Path) -> None:
        self.artifacts = FilesystemArtifacts(root)
        database = Database(dsn)
        self.registry, self.rollouts = PostgresRegistry(database), PostgresRollouts(database)

    def publish(self) -> ModelVersion:
        return publish(self.artifacts, self.registry, MOVIES, MADE)

    def crown(self) -> ModelVersion:
        """Publish a version and make it the champion."""
        version, champion = self.publish(), self.registry.champion(MOVIES)
        if champion is None:
            self.rollouts.adopt(MOVIES, version, "test")
        else:
            rollout = self.rollouts.create(canary(champion, version), Act("test", "test", {}))
            self.rollouts.transition(
                rollout, msgspec.structs.replace(rollout, phase=Phase.PROMOTED), Act("test", "better", {})
            )
        return version

    def champion_epoch(self) -> Epoch:
        found = self.rollouts.champion_epoch(MOVIES)
        assert found is not None
        return found[1]

    def collect(self, retention: Retention = AT_ONCE) -> list[ModelVersion]:
        now = datetime.now(UTC) + timedelta(seconds=5)  # past every event, whichever clock is ahead
        return [version for _, version in collect(self.artifacts, self.registry, now, retention, "gc")]

    def is_whole(self, version: ModelVersion) -> bool:
        if not self.artifacts.path(MOVIES, version).exists():
            return False
        self.artifacts.read(MOVIES, version)
        return True


@pytest.fixture
def shop(postgres: str, tmp_path: Path) -> Shop:
    return Shop(postgres, tmp_path)


def test_what_nothing_needs_goes_and_its_row_and_record_stay(shop: Shop) -> None:
    first, second, third = (shop.crown() for _ in range(3))
    waiting = shop.publish()
    assert shop.collect() == [first]
    assert [shop.is_whole(each) for each in (first, second, third, waiting)] == [False, True, True, True]
    assert [each.version for each in shop.registry.versions(MOVIES)] == [first, second, third, waiting]
    happened = [event.happening for event in shop.registry.events(MOVIES) if event.version == first]
    assert happened[-2:] == [Happening.COLLECTING, Happening.COLLECTED]
    assert shop.collect() == []


def test_nothing_goes_within_its_grace(shop: Shop) -> None:
    first, *_ = (shop.crown() for _ in range(3))
    assert shop.collect(Retention(1, timedelta(days=1))) == []
    assert shop.is_whole(first)


def test_saying_what_would_go_removes_nothing(shop: Shop) -> None:
    first, *_ = (shop.crown() for _ in range(3))
    soon = datetime.now(UTC) + timedelta(seconds=5)
    assert collectable(shop.registry, MOVIES, soon, AT_ONCE) == [first]
    assert shop.is_whole(first)
    assert shop.registry.collected_at(MOVIES, first) is None


@pytest.mark.parametrize("files_are_gone", [False, True])
def test_a_collection_whose_worker_died_is_finished_by_the_next(shop: Shop, files_are_gone: bool) -> None:
    first, *_ = (shop.crown() for _ in range(3))
    shop.registry.begin_collection(MOVIES, [first], shop.registry.events(MOVIES)[-1].id, "killed")
    if files_are_gone:
        shop.artifacts.discard(MOVIES, first)
    assert shop.collect() == [first]
    assert not shop.is_whole(first)
    assert shop.collect() == []


def test_two_workers_collect_one_version_once(shop: Shop, postgres: str, tmp_path: Path) -> None:
    first, *_ = (shop.crown() for _ in range(3))
    with ThreadPoolExecutor(4) as pool:
        others = [Shop(postgres, tmp_path) for _ in range(4)]
        collected = [done.result() for done in [pool.submit(other.collect) for other in others]]
    assert {version for versions in collected for version in versions} == {first}
    happened = [event.happening for event in shop.registry.events(MOVIES) if event.version == first]
    assert happened.count(Happening.COLLECTING) == happened.count(Happening.COLLECTED) == 1


def test_whatever_races_with_collectors_a_version_in_use_keeps_its_files(
    shop: Shop, postgres: str, tmp_path: Path
) -> None:
    """Controllers promote, roll back and begin rollouts of old candidates, and operators go back to old champions, while
    workers collect without grace."""
    shop.crown()

    def control(seed: int) -> None:
        own, rng = Shop(postgres, tmp_path), random.Random(seed)
        for _ in range(12):
            own.publish()
            found, current = own.rollouts.champion_epoch(MOVIES), own.rollouts.open_rollout(MOVIES)
            assert found is not None
            champion, epoch = found
            version = rng.choice(own.registry.versions(MOVIES)).version
            with suppress(StaleEpoch, StoreError):  # a candidate that lost, or was collected first
                if rng.random() < 0.2:
                    own.rollouts.restore(MOVIES, version, epoch, Act("test", "race", {}))
                elif current is None:
                    own.rollouts.create(canary(champion, version), Act("test", "race", {}))
                else:
                    phase = rng.choice([Phase.PROMOTED, Phase.ROLLED_BACK])
                    own.rollouts.transition(
                        current, msgspec.structs.replace(current, phase=phase), Act("test", "race", {})
                    )

    def sweep() -> None:
        own = Shop(postgres, tmp_path)
        while not all(done.done() for done in controllers):
            own.collect()

    with ThreadPoolExecutor(4) as pool:
        controllers = [pool.submit(control, seed) for seed in range(2)]
        sweepers = [pool.submit(sweep) for _ in range(2)]
        while not all(done.done() for done in controllers):
            # What is collected stays so: a version that is in use after that was read would be in use without files.
            collected = {event.version for event in shop.registry.events(MOVIES) if event.happening in GONE}
            in_use = {pointer.version for pointer in shop.registry.aliases(MOVIES).values()}
            current = shop.rollouts.open_rollout(MOVIES)
            in_use |= set() if current is None else {current.stable, current.canary}
            assert in_use & collected == set()
        for done in (*controllers, *sweepers):
            done.result()
    assert all(shop.is_whole(pointer.version) for pointer in shop.registry.aliases(MOVIES).values())
    assert any(event.happening is Happening.COLLECTED for event in shop.registry.events(MOVIES))


def test_the_arms_of_an_open_bandit_keep_their_files_and_what_a_return_reaches_too(shop: Shop) -> None:
    first, second, third, fourth = (shop.crown() for _ in range(4))
    arms = tuple(Arm(version, 2_500) for version in (fourth, first, second, third))
    bandit = NewRollout(MOVIES, fourth, second, Plan(), Kind.BANDIT, arms, automatic=False)
    begun = shop.rollouts.create(bandit, Act("test", "which is best", {}))
    assert shop.collect() == []
    shop.rollouts.restore(MOVIES, second, shop.champion_epoch(), Act("test", "this one", {}))
    _, aborted = shop.rollouts.history(MOVIES, 2)
    assert (aborted.id, aborted.phase) == (begun.id, Phase.ABORTED)
    assert shop.collect() == [first, third]
    with pytest.raises(StoreError, match="whose artifact is kept"):
        shop.rollouts.restore(MOVIES, first, shop.champion_epoch(), Act("test", "too late", {}))
    shop.rollouts.restore(MOVIES, fourth, shop.champion_epoch(), Act("test", "back again", {}))
    assert shop.collect() == []


def test_one_model_can_be_collected_alone(shop: Shop) -> None:
    first, *_ = (shop.crown() for _ in range(3))
    soon = datetime.now(UTC) + timedelta(seconds=5)
    assert collect_model(shop.artifacts, shop.registry, MOVIES, soon, AT_ONCE, "gc") == [first]
