"""The branch of online learning: engagements per domain, and a sink that counts the vectors it wrote across restarts."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flows.admission import Admitted
from flows.embeddings import EmbeddingPartition, EmbeddingSink, OnlineLearnerFactory, engagements
from flows.live import LiveVersions
from flows.tally import Tally
from online_models.contracts.events import EVENT_TYPES, EventBatch, EventType
from online_models.contracts.ids import ModelName, UserId
from online_models.contracts.rollouts import Route
from online_models.stores import redis
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from tests.engagements import START_MS, engagement, pieces_of
from tests.online_learners import MADE, V1
from tests.samples import MOVIES, batch, event


def test_engagements_are_one_batch_per_domain_without_impressions() -> None:
    kinds = list(EventType)
    log = [event(n, kind, domain="movies") for n, kind in enumerate(kinds)]
    log += [event(20, EventType.CLICK, domain="products"), event(21, EventType.IMPRESSION, domain="books")]
    found = engagements(Admitted(partition="log", batch=batch(log, position=7), rejects=[], duplicates=[]))
    assert [key for key, _ in found] == ["als:0", "als:0"]
    movies, products = (of for _, of in found)
    assert (movies.domains, products.domains) == (("movies",), ("products",))
    assert [EVENT_TYPES[code] for code in movies.type] == kinds[1:]
    assert list(movies.events) == log[1:6]
    assert products.domain.tolist() == [0]
    assert (movies.source, movies.position, products.position) == ("test", 7, 7)


@pytest.fixture
def factory(redis_url: str, tmp_path: Path) -> Iterator[OnlineLearnerFactory]:
    """Learners of the small model of movies; products have no version yet."""
    with closing(redis.connect(redis_url)) as client:
        embeddings, routes, artifacts = RedisEmbeddings(client), RedisRoutes(client), FilesystemArtifacts(tmp_path)
        artifacts.write(MADE.manifest(MOVIES, V1, [0, 2]), MADE.files())
        routes.put_route(MOVIES, Route(epoch=1, stable=V1))
        live = LiveVersions(routes, artifacts, embeddings, 1e9)
        yield OnlineLearnerFactory("run", embeddings, live, 30.0, 1e9)


def partition(factory: OnlineLearnerFactory, tally: Tally, resumed: int | None = None) -> EmbeddingPartition:
    sink = EmbeddingSink(factory, tally)
    (name,) = sink.list_parts()
    return sink.build_part("embedding_sink", name, resumed)


def clicks() -> list[EventBatch]:
    return pieces_of([engagement(n, START_MS + n, n, 14 + n % 3, EventType.CLICK) for n in range(6)], [2])


def test_every_domain_has_a_learner_of_its_own(factory: OnlineLearnerFactory) -> None:
    others = batch([event(n, EventType.CLICK, domain="products", user_id=f"u{n}") for n in range(4)], position=4)
    part = partition(factory, Tally())
    part.write_batch([*clicks(), others])
    part.close()
    for model, users in ((MOVIES, 6), (ModelName("products"), 4)):
        known = factory.store.histories(model, [UserId(f"u{n}") for n in range(10)])
        assert [len(history.recent) for history in known] == [1] * users + [0] * (10 - users)


def published(factory: OnlineLearnerFactory, model: ModelName) -> tuple[int, int]:
    """How many batches have been learned, and how many of these are not published."""
    state = factory.store.sources(model)
    return state.number, len(state.steps)


def test_readers_get_the_last_batches_as_the_stream_ends(factory: OnlineLearnerFactory) -> None:
    part = partition(factory, Tally())
    part.write_batch(clicks())
    part.snapshot()
    assert published(factory, MOVIES) == (2, 1)  # the next publication is not due yet
    part.close()
    assert published(factory, MOVIES) == (2, 0)


def test_readers_get_the_last_batches_with_a_snapshot_when_nothing_comes_any_more(
    factory: OnlineLearnerFactory,
) -> None:
    part = partition(replace(factory, publish_seconds=0.0), Tally())
    part.write_batch(clicks())
    deadline = time.monotonic() + 30
    while published(factory, MOVIES) != (2, 0):
        assert time.monotonic() < deadline
        part.snapshot()
        time.sleep(0.01)
    part.close()


def test_a_snapshot_counts_the_vectors_written_since_the_run_began(factory: OnlineLearnerFactory) -> None:
    first, second = clicks()
    tally = Tally()
    part = partition(factory, tally)
    part.write_batch([first])
    assert part.snapshot() == tally.vectors_written == 2  # two users; nothing was known of them that could move an item
    resumed_tally = Tally()
    resumed = partition(factory, resumed_tally, resumed=2)
    resumed.write_batch([first, second])  # the first one again: applied already
    assert resumed.snapshot() == resumed_tally.vectors_written == 2 + 4
    for each in (part, resumed):
        each.close()
