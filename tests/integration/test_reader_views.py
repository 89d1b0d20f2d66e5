"""What a reader makes of publications in a real Redis: new views when they are whole, the old ones when they are torn."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import redis as redis_client
from safetensors.numpy import load

from online_models.contracts import keys
from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import Route
from online_models.language_scores import SegmentScores
from online_models.learner import FoldIns, VersionLearner, trained_of
from online_models.ports import Published
from online_models.sources import Sources, Steps
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisRoutes
from online_models.stores.redis_language import RedisLanguageScores
from online_models.stores.redis_reads import RedisStreamReads
from serving_api.instruments import Instruments
from serving_api.model_cache import LoadedVersion, ModelCache
from serving_api.reader import Reader, ReaderStores, ReaderTimes
from serving_api.retrieval import VersionView
from tests.artifacts import publish, small_model
from tests.samples import MOVIES
from tests.serving_views import published_of

MADE = small_model(5, items=20)
V1 = ModelVersion("v1")


@dataclass(frozen=True)
class World:
    """A reader that holds one version, and the Redis that it polls."""

    reader: Reader
    client: redis_client.Redis
    version: ModelVersion

    def view(self) -> VersionView:
        return self.reader.state(MOVIES).versions[self.version]

    def put(self, published: Published) -> None:
        """Publish."""
        assert published.sources is not None
        self.client.set(keys.sources(MOVIES), published.sources)
        self.client.set(keys.item_vectors(MOVIES, self.version), published.item_vectors[self.version])
        self.client.set(keys.blend(MOVIES, self.version), published.blends[self.version])
        self.client.set(keys.publication(MOVIES), published.number)

    def another(self) -> Reader:
        """A reader that has polled nothing yet."""
        return reader_of(self.reader._stores)

    def poll_until(self, happened: str) -> None:
        """Poll until there is another view, or a store is amiss."""
        before, until = self.view(), time.monotonic() + 30
        while self.view() is before and not self.reader._down:
            assert time.monotonic() < until, happened
            time.sleep(0.02)
            self.reader.poll()

    def learned(self, number: int, *items: str) -> Published:
        """What the stream job knows once somebody has met items."""
        files = MADE.files()
        trained = trained_of(
            MADE.manifest(MOVIES, self.version, [0, 2]), load(files["factors.safetensors"]), MADE.items
        )
        learner = VersionLearner(trained, Sources())
        rows = learner.sources.rows_of(list(items))
        learner.sources.learn(
            Steps(rows, np.arange(len(rows)), np.empty(0, np.int32), np.zeros(len(rows) + 1, np.int64))
        )
        return published_of(number, {self.version: learner})


def reader_of(stores: ReaderStores) -> Reader:
    times = ReaderTimes(timedelta(seconds=60), timedelta(seconds=60))
    return Reader("reader", [MOVIES], stores, times, Instruments(), lambda: datetime.now(UTC))


@contextmanager
def reading(fresh_stores: Endpoints, tmp_path: Path, *, language: bool = False) -> Iterator[World]:
    with closing(redis.connect(fresh_stores.redis_url)) as client:
        database = Database(fresh_stores.postgres_dsn)
        registry, artifacts = PostgresRegistry(database), FilesystemArtifacts(tmp_path)
        version = publish(artifacts, registry, MOVIES, MADE, language=language)
        routes = RedisRoutes(client)
        routes.put_route(MOVIES, Route(epoch=1, stable=version))
        reader = reader_of(
            ReaderStores(routes, RedisStreamReads(client), registry, artifacts, PostgresInteractions(database))
        )
        reader.settle()
        assert not reader.missing()
        yield World(reader, client, version)
        reader.close()


@pytest.fixture
def world(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[World]:
    with reading(fresh_stores, tmp_path) as world:
        yield world


def test_what_a_language_model_says_of_new_items_is_read_with_its_version(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    k = MADE.item_factors.shape[1]
    space = hashlib.sha256(MADE.files()["factors.safetensors"]).hexdigest()
    said = SegmentScores(np.eye(1, k, dtype=np.float32), np.array([7], np.uint64), np.ones((1, 1), np.float32), space)
    with closing(redis.connect(fresh_stores.redis_url)) as client:
        # the name that the version will have: a fresh database gives the first number
        RedisLanguageScores(client).put_segments(MOVIES, V1, said.encode(), timedelta(hours=1))
    with reading(fresh_stores, tmp_path, language=True) as world:
        assert world.version == V1
        until = time.monotonic() + 30
        while world.view().segments is None and time.monotonic() < until:
            world.reader.poll()
        read = world.view().segments
        assert read is not None
        assert read.encode() == said.encode()
        world.put(world.learned(1, "new"))
        world.poll_until("the publication is taken in")
        assert world.view().segments is not None  # another publication changes nothing of it


def test_torn_scores_of_new_items_are_left_out(
    fresh_stores: Endpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(redis.connect(fresh_stores.redis_url)) as client:
        RedisLanguageScores(client).put_segments(MOVIES, V1, b"torn", timedelta(hours=1))
    with reading(fresh_stores, tmp_path, language=True) as world:
        world.reader.poll()
        assert world.view().segments is None
        assert caplog.text.count("segment_scores_torn") == 1
        assert torn_reads(world, "segment_scores") > 0


def test_a_torn_publication_leaves_the_old_views_until_a_whole_one_comes(world: World) -> None:
    assert world.view().sources.items.ids == list(MADE.items)
    world.put(world.learned(1, "new"))
    world.poll_until("the first publication is taken in")
    taken = world.view()
    assert taken.sources.items.ids == [*MADE.items, "new"]
    assert not world.reader.degraded()

    whole = world.learned(2, "new", "newer")
    assert whole.sources is not None
    world.put(replace(whole, sources=whole.sources[:-5]))
    world.poll_until("a torn publication is noticed")
    assert world.view() is taken
    assert "sources: expected" in str(world.reader.degraded())

    world.put(replace(whole, number=3))
    until = time.monotonic() + 30
    while "newer" not in world.view().sources.items.ids and time.monotonic() < until:
        world.reader.poll()
    assert world.view().sources.items.ids == [*MADE.items, "new", "newer"]


def torn_reads(world: World, what: str) -> float:
    found = world.reader._instruments.registry.get_sample_value(
        "penstock_torn_reads_total", {"what": what, "domain": MOVIES}
    )
    return found or 0.0


def test_a_torn_canary_keeps_stable_from_learning_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    stores = world.reader._stores
    other = publish(stores.artifacts, stores.registry, MOVIES, small_model(6, items=20))
    RedisRoutes(world.client).put_route(MOVIES, Route(2, world.version, other, 500, "salt", rollout_id=1, stage=1))
    world.reader.settle()
    for number in (1, 2):
        world.client.set(keys.item_vectors(MOVIES, other), b"torn")
        world.client.set(keys.blend(MOVIES, other), b"torn")
        world.put(world.learned(number, *(f"new-{n}" for n in range(number))))
        world.poll_until("the publication is taken in")
    assert world.view().sources.items.ids == [*MADE.items, "new-0", "new-1"]
    assert not world.reader.degraded()
    assert (torn_reads(world, "item_vectors"), torn_reads(world, "blend")) == (2.0, 2.0)
    assert caplog.text.count(f"item_vectors_torn model=movies version={other}") == 1


def test_nothing_is_retired_while_the_stable_version_cannot_serve(world: World) -> None:
    stores = world.reader._stores
    with closing(ModelCache(MOVIES, stores.artifacts, stores.registry, 60.0, lambda: None)) as cache:

        def held(wanted: ModelVersion, now: float) -> set[ModelVersion]:
            cache.sync([wanted], now)
            cache.settle()
            cache.sync([wanted], now)
            return set(cache.loaded())

        assert held(world.version, 0.0) == {world.version}
        for now in (10.0, 100.0, 1_000.0):
            assert held(ModelVersion("v999"), now) == {world.version}  # which is in no registry
        other = publish(stores.artifacts, stores.registry, MOVIES, small_model(6, items=20))
        assert [held(other, now) for now in (2_000.0, 2_059.0)] == [{world.version, other}] * 2
        assert held(other, 2_060.0) == {other}


def test_once_ready_a_process_stays_so_while_it_holds_a_version_of_the_model(world: World) -> None:
    routes, reader = RedisRoutes(world.client), world.reader
    absent = ModelVersion("v999")
    routes.put_route(MOVIES, Route(2, world.version, absent, 0, "salt", rollout_id=1))
    reader.poll()
    assert (reader.missing(), reader.degraded()) == ([], [f"movies {absent}: not loaded yet"])
    routes.put_route(MOVIES, Route(3, absent))
    reader.settle()
    assert reader.missing() == []
    assert reader.degraded() == [f"movies {absent}: refused: movies {absent} is not in the registry"]
    reader._caches[MOVIES].refuse(world.version, "found out since", time.monotonic())
    reader.poll()
    assert reader.missing() == [f"movies {absent}: refused: movies {absent} is not in the registry"]


def test_a_process_that_begins_is_ready_with_the_stable_version_and_not_with_another(world: World) -> None:
    routes, absent = RedisRoutes(world.client), ModelVersion("v999")
    for epoch, stable, canary, ready in ((2, absent, world.version, False), (3, world.version, absent, True)):
        routes.put_route(MOVIES, Route(epoch, stable, canary, 0, "salt", rollout_id=1))
        with closing(world.another()) as reader:
            reader.settle()
            assert (world.version in reader.state(MOVIES).versions, not reader.missing()) == (True, ready)


def test_a_version_that_cannot_rank_is_refused_and_the_others_go_on_learning(world: World) -> None:
    stores, cache, made = world.reader._stores, world.reader._caches[MOVIES], small_model(6, items=20)
    other = publish(stores.artifacts, stores.registry, MOVIES, made)
    RedisRoutes(world.client).put_route(MOVIES, Route(2, world.version, other, 0, "salt", rollout_id=1))
    world.reader.poll()
    cache.settle()
    cache.sync([world.version, other], time.monotonic())
    slot = cache._slots[other]
    assert isinstance(slot.held, LoadedVersion)
    # damaged between its verification and its first use: its fold-in has lost the factors of most items
    trained = trained_of(made.manifest(MOVIES, other, [0, 2]), load(made.files()["factors.safetensors"]), made.items)
    slot.held = replace(slot.held, fold_ins=FoldIns(replace(trained, factors=trained.factors[:1])))
    world.reader.poll()
    (refused,) = world.reader.degraded()
    assert refused.startswith(f"movies {other}: refused: cannot rank: ValueError")
    (status,) = RedisRoutes(world.client).statuses(MOVIES, other, datetime.now(UTC)).values()
    assert status is not None
    assert (status.ready, "cannot rank" in status.error) == (False, True)
    world.put(world.learned(1, "new"))
    world.poll_until("the publication is taken in")
    assert "new" in world.view().sources.items.ids
    assert world.reader.degraded() == [refused]


def test_a_route_of_the_same_epoch_that_says_something_else_is_taken(world: World) -> None:
    """PostgreSQL from a backup has given the epoch again: what Redis holds now is what its rows say."""
    routes, reader = RedisRoutes(world.client), world.reader
    routes.put_route(MOVIES, Route(5, world.version, ModelVersion("v999"), 5_000, "salt", rollout_id=1, stage=2))
    reader.poll()
    routes.put_route(MOVIES, Route(5, world.version))
    reader.poll()
    assert reader.state(MOVIES).route == Route(5, world.version)
