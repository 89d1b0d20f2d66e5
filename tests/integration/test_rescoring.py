"""When a language model's scores are computed anew: half of their time over, by one worker, and after a pause where it failed."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import JobKind
from online_models.settings import StoreSettings
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis_language import RedisLanguageScores
from retrain_workers.apart import Ended
from retrain_workers.app import chores_of, connected
from retrain_workers.rescoring import rescoring
from retrain_workers.settings import WorkerSettings
from tests.artifacts import publish, small_model
from tests.samples import MOVIES

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TTL = timedelta(days=7)
CLAIM = timedelta(hours=1)


@dataclass
class Desk:
    """A champion with an adapter; what a chore has had computed anew, and how that ends."""

    registry: PostgresRegistry
    language: RedisLanguageScores
    adapter: ModelVersion
    space: str
    ends: Ended = Ended.DONE
    scored: list[ModelName] = field(default_factory=list)

    def rescore(self, model: ModelName, stopped: Callable[[], bool]) -> Ended:
        assert not self.language.claim_scoring(MOVIES, self.adapter, "another", CLAIM)
        self.scored.append(model)
        return self.ends

    def looks(self, worker: str = "one", *, stop: bool = False) -> int:
        """How often scores are computed as a worker looks."""
        before = len(self.scored)
        chore = rescoring(self.registry, self.language, self.rescore, TTL, CLAIM, worker)
        chore.work(NOW, lambda: stop)
        return len(self.scored) - before


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    with (
        closing(redis.connect(fresh_stores.redis_url)) as client,
        closing(Database(fresh_stores.postgres_dsn)) as database,
    ):
        registry, rollouts = PostgresRegistry(database), PostgresRollouts(database)
        adapter = publish(FilesystemArtifacts(tmp_path), registry, MOVIES, small_model(1), language=True)
        rollouts.adopt(MOVIES, adapter, "test")
        registered = registry.version(MOVIES, adapter)
        assert registered is not None
        yield Desk(registry, RedisLanguageScores(client), adapter, registered.manifest.space)


@pytest.mark.parametrize(
    ("left", "due"),
    [(None, 1), (TTL, 0), (TTL / 2 + timedelta(minutes=1), 0), (TTL / 2 - timedelta(minutes=1), 1)],
    ids=["gone", "fresh", "before half", "after half"],
)
def test_scores_are_due_when_half_of_their_time_is_over_or_they_are_gone(
    desk: Desk, left: timedelta | None, due: int
) -> None:
    if left is not None:
        desk.language.put_complete(MOVIES, desk.adapter, desk.space, left)
    assert desk.looks() == due


def test_scores_beside_another_recommender_are_due_however_fresh(desk: Desk) -> None:
    desk.language.put_complete(MOVIES, desk.adapter, "another space", TTL)
    assert desk.looks() == 1
    desk.language.put_complete(MOVIES, desk.adapter, desk.space, TTL)
    assert desk.looks() == 0


def test_one_worker_at_a_time_scores_and_one_that_fails_is_not_followed_at_once(desk: Desk) -> None:
    assert desk.looks() == 1
    assert desk.looks() == 1  # nothing was written, so it is due again
    desk.ends = Ended.STOPPED
    assert desk.looks() == 1
    desk.ends = Ended.FAILED
    assert [desk.looks("one"), desk.looks("one"), desk.looks("two")] == [1, 0, 0]
    desk.language.release_scoring(MOVIES, desk.adapter)  # its claim is over
    assert desk.looks("two") == 1


def test_a_worker_that_is_to_stop_begins_nothing(desk: Desk) -> None:
    assert desk.looks(stop=True) == 0
    assert desk.looks() == 1


def test_a_champion_without_an_adapter_has_nothing_to_score(fresh_stores: Endpoints, tmp_path: Path) -> None:
    found = StoreSettings(home=tmp_path, redis_url=fresh_stores.redis_url, postgres_dsn=fresh_stores.postgres_dsn)
    with connected(found) as stores:
        version = publish(stores.artifacts, stores.registry, MOVIES, small_model(1))
        scored: list[ModelName] = []

        def rescore(model: ModelName, stopped: Callable[[], bool]) -> Ended:
            scored.append(model)
            return Ended.DONE

        chore = rescoring(stores.registry, stores.language, rescore, TTL, CLAIM, "one")
        for adopt in (False, True):
            if adopt:
                stores.rollouts.adopt(MOVIES, version, "test")
            chore.work(NOW, lambda: False)
        assert scored == []


@pytest.mark.parametrize(
    ("kinds", "scores"), [((), True), ((JobKind.LORA,), True), ((JobKind.ALS, JobKind.TWO_TOWER), False)]
)
def test_a_worker_that_trains_no_adapters_scores_by_none(
    fresh_stores: Endpoints, tmp_path: Path, kinds: tuple[JobKind, ...], scores: bool
) -> None:
    found = StoreSettings(home=tmp_path, redis_url=fresh_stores.redis_url, postgres_dsn=fresh_stores.postgres_dsn)
    with connected(found) as stores:
        chores = chores_of(WorkerSettings(types=kinds), stores, found, "test")
    assert ("rescoring" in chores.names) is scores
