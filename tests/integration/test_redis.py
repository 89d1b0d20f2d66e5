"""Vectors, histories and routes on a real Redis."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from online_models import history
from online_models.contracts import keys
from online_models.contracts.ids import ItemId, ModelName, ModelVersion, UserId
from online_models.contracts.rollouts import ReaderStatus, Route
from online_models.errors import StoreError, StoreUnavailable
from online_models.history import ENTRY, SEEN, UserHistory
from online_models.learner import MovedItem
from online_models.ports import EmbeddingUpdate, Published, SourcesState, Vector, VersionUpdate
from online_models.stores import redis as store
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from online_models.stores.redis_reads import RedisStreamReads
from tests.samples import MOVIES, SHA256

V1, V12 = ModelVersion("v1"), ModelVersion("v12")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return store.connect(redis_url)


def vector(seed: int, k: int = 8) -> Vector:
    return np.random.default_rng(seed).normal(size=k).astype(np.float32)


def history_of(*times: int) -> UserHistory:
    recent = np.array([(ts, ts, 7, 1.0) for ts in times], ENTRY)
    return history.merge(history.EMPTY, recent, np.array([(ts, ts) for ts in times], SEEN))


def update(position: int, users: int = 3, version: ModelVersion = V1) -> EmbeddingUpdate:
    names = [UserId(f"user {n}") for n in range(users)]
    return EmbeddingUpdate(
        model=MOVIES,
        run_id="run",
        source="part:0",
        position=position,
        histories={name: history_of(1, 2, position + 3) for name in names},
        versions=[
            VersionUpdate(
                version,
                users={name: (position, vector(n)) for n, name in enumerate(names)},
                items={ItemId("new"): MovedItem(position, 2.5, vector(99))},
                blend=b"blend",
            )
        ],
        popularity={ItemId("ä"): (2.5, 1_767_225_600_000)},
        popular=[ItemId("ä"), ItemId("b")],
        number=position + 1,
        steps=f"steps {position}".encode(),
    )


def published(change: EmbeddingUpdate) -> EmbeddingUpdate:
    """The same update, as a publication."""
    (version,) = change.versions
    sources = f"sources {change.position}".encode()
    return replace(change, sources=sources, versions=[replace(version, item_vectors=b"item vectors")])


@given(version=st.integers(-(2**63), 2**63 - 1), body=arrays(np.float32, st.integers(0, 20)))
def test_a_vector_survives_its_coding_bit_for_bit(version: int, body: Vector) -> None:
    raw = store.encode_vector(version, body)
    assert len(raw) == 8 + 4 * len(body)
    decoded_version, decoded = store.decode_vector(raw)
    assert decoded_version == version
    assert decoded.tobytes() == body.tobytes()


def test_a_vector_is_little_endian_on_every_machine() -> None:
    assert store.encode_vector(1, np.array([1.0], np.float32)) == b"\x01" + bytes(7) + b"\x00\x00\x80\x3f"
    assert store.encode_vector(0, np.array([1.0], ">f4")).endswith(b"\x00\x00\x80\x3f")


@pytest.mark.parametrize("raw", [b"", b"1234567", bytes(11)])
def test_a_torn_vector_is_refused(raw: bytes) -> None:
    with pytest.raises(StoreError, match="a vector"):
        store.decode_vector(raw)


@given(
    ts_ms=st.integers(-(2**63), 2**63 - 1),
    weight=st.floats(allow_nan=False),
    body=arrays(np.float32, st.integers(0, 20)),
)
def test_a_moved_item_survives_its_coding_bit_for_bit(ts_ms: int, weight: float, body: Vector) -> None:
    raw = store.encode_moved_item(MovedItem(ts_ms, weight, body))
    assert len(raw) == 16 + 4 * len(body)
    decoded = store.decode_moved_item(raw)
    assert (decoded.ts_ms, decoded.weight, decoded.vector.tobytes()) == (ts_ms, weight, body.tobytes())


def test_a_moved_item_is_little_endian_on_every_machine() -> None:
    raw = store.encode_moved_item(MovedItem(1, 1.0, np.array([1.0], ">f4")))
    assert raw == b"\x01" + bytes(7) + bytes(6) + b"\xf0\x3f" + b"\x00\x00\x80\x3f"


@pytest.mark.parametrize("raw", [b"", bytes(8), bytes(15), bytes(18)])
def test_a_torn_moved_item_is_refused(raw: bytes) -> None:
    with pytest.raises(StoreError, match="a moved item"):
        store.decode_moved_item(raw)


def test_a_torn_popularity_is_refused() -> None:
    with pytest.raises(StoreError, match="a popularity"):
        store.decode_popularity(bytes(15))


def test_an_update_is_read_back(client: redis.Redis) -> None:
    embeddings = RedisEmbeddings(client)
    assert embeddings.applied_position(MOVIES, "run", "part:0") == -1
    change = update(5)
    assert embeddings.apply(change) == 4
    assert embeddings.applied_position(MOVIES, "run", "part:0") == 5
    assert embeddings.applied_position(MOVIES, "other run", "part:0") == -1
    assert embeddings.popularity(MOVIES) == change.popularity
    (moved,) = embeddings.moved_items(MOVIES, V1).items()
    assert (moved[0], moved[1].ts_ms, moved[1].weight) == ("new", 5, 2.5)
    np.testing.assert_array_equal(moved[1].vector, vector(99))
    assert embeddings.blend(MOVIES, V1) == b"blend"
    assert embeddings.blend(MOVIES, V12) is None
    assert embeddings.sources(MOVIES) == SourcesState(6, None, [b"steps 5"])
    known, unknown = embeddings.histories(MOVIES, [UserId("user 1"), UserId("nobody")])
    np.testing.assert_array_equal(known.recent, history_of(1, 2, 8).recent)
    assert unknown is history.EMPTY
    assert embeddings.histories(MOVIES, []) == []
    assert client.get(keys.popular_items(MOVIES)) == '["ä","b"]'.encode()


def test_vectors_lie_where_the_reader_looks(client: redis.Redis) -> None:
    RedisEmbeddings(client).apply(update(5))
    raw = client.get(keys.user_vector(MOVIES, V1, "user 2"))
    assert isinstance(raw, bytes)
    version, found = store.decode_vector(raw)
    assert version == 5
    np.testing.assert_array_equal(found, vector(2))


def test_a_later_update_without_a_blend_leaves_the_blend_as_it_was(client: redis.Redis) -> None:
    embeddings = RedisEmbeddings(client)
    change = update(5)
    embeddings.apply(change)
    embeddings.apply(replace(update(6), versions=[replace(change.versions[0], blend=None)]))
    assert embeddings.blend(MOVIES, V1) == b"blend"


def test_steps_are_logged_batch_by_batch_and_read_in_the_order_of_their_numbers(client: redis.Redis) -> None:
    embeddings = RedisEmbeddings(client)
    for position in range(12):
        embeddings.apply(update(position))
    assert embeddings.sources(MOVIES) == SourcesState(12, None, [f"steps {n}".encode() for n in range(12)])


def test_a_publication_takes_the_place_of_the_log(client: redis.Redis) -> None:
    embeddings, reads = RedisEmbeddings(client), RedisStreamReads(client)
    for position in range(3):
        embeddings.apply(update(position))
    assert (reads.publication(MOVIES), reads.published(MOVIES, [V1]).sources) == (0, None)
    embeddings.apply(published(update(3)))
    assert embeddings.sources(MOVIES) == SourcesState(4, b"sources 3", [])
    assert not client.exists(keys.sources_log(MOVIES))
    expected = Published(4, b"sources 3", {V1: b"item vectors"}, {V1: b"blend"})
    assert reads.published(MOVIES, [V1, V12]) == expected
    embeddings.apply(update(4))
    embeddings.apply(update(5))
    assert embeddings.sources(MOVIES) == SourcesState(6, b"sources 3", [b"steps 4", b"steps 5"])
    assert reads.published(MOVIES, [V1]) == expected
    assert reads.publication(MOVIES) == 4
    embeddings.apply(published(update(6)))
    assert embeddings.sources(MOVIES) == SourcesState(7, b"sources 6", [])


def test_an_update_that_learned_nothing_for_the_sources_leaves_them(client: redis.Redis) -> None:
    embeddings = RedisEmbeddings(client)
    embeddings.apply(published(update(0)))
    embeddings.apply(replace(update(1), steps=b""))
    assert embeddings.sources(MOVIES) == SourcesState(1, b"sources 0", [])


def test_sources_of_one_model_are_not_those_of_another(client: redis.Redis) -> None:
    embeddings, reads = RedisEmbeddings(client), RedisStreamReads(client)
    embeddings.apply(published(update(0)))
    products = ModelName("products")
    assert embeddings.sources(products) == SourcesState(0, None, [])
    assert reads.published(products, [V1]) == Published(0, None, {}, {})


def test_popular_items_are_read_as_they_were_written(client: redis.Redis) -> None:
    reads = RedisStreamReads(client)
    RedisEmbeddings(client).apply(update(0))
    assert reads.popular(MOVIES) == ["ä", "b"]
    client.set(keys.popular_items(MOVIES), "{")
    with pytest.raises(StoreError, match="popular"):
        reads.popular(MOVIES)


def test_more_vectors_than_one_command_takes_are_all_written(client: redis.Redis) -> None:
    embeddings = RedisEmbeddings(client)
    assert embeddings.apply(update(0, users=2345)) == 2346
    found = embeddings.histories(MOVIES, [UserId(f"user {n}") for n in range(2345)])
    assert all(known.version_ms == 3 for known in found)


def test_an_update_costs_a_command_per_thousand_vectors_not_one_each(client: redis.Redis) -> None:
    before = commands(client)
    RedisEmbeddings(client).apply(update(0, users=2000))
    after = commands(client)
    calls = {name: after[name] - before.get(name, 0) for name in after}
    assert calls["mset"] == 4  # two of histories, two of vectors
    assert calls["exec"] == 1
    assert calls.get("set") == 3  # the blend, the popular items and the position
    assert calls.get("hset") == 3  # the moved items, the popularity and the steps


def test_a_position_is_kept_for_a_week(client: redis.Redis) -> None:
    RedisEmbeddings(client).apply(update(0))
    ttl = client.ttl(keys.applied_position(MOVIES, "run", "part:0"))
    assert 7 * 86_400 - 60 < ttl <= 7 * 86_400


def test_an_update_that_redis_refuses_is_an_error_that_names_the_cause(client: redis.Redis) -> None:
    client.set(keys.popularity(MOVIES), "not a hash")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        RedisEmbeddings(client).apply(update(0))


def test_dropping_a_version_leaves_its_neighbours(client: redis.Redis) -> None:
    embeddings = RedisEmbeddings(client)
    for version in (V1, V12):
        embeddings.apply(published(update(0, users=1200, version=version)))
    odd = ModelName("mo*ies")
    client.set(keys.user_vector(odd, V1, "u"), b"")
    assert embeddings.drop_version(odd, V1) == 1
    assert embeddings.drop_version(MOVIES, V1) == 1203  # with the moved items, their published vectors and the blend
    assert embeddings.drop_version(MOVIES, V1) == 0
    assert (embeddings.moved_items(MOVIES, V1), embeddings.blend(MOVIES, V1)) == ({}, None)
    assert (len(embeddings.moved_items(MOVIES, V12)), embeddings.blend(MOVIES, V12)) == (1, b"blend")
    assert RedisStreamReads(client).published(MOVIES, [V1, V12]).item_vectors == {V12: b"item vectors"}
    assert embeddings.sources(MOVIES) == SourcesState(1, b"sources 0", [])
    assert embeddings.applied_position(MOVIES, "run", "part:0") == 0


def route(epoch: int) -> Route:
    return Route(epoch, V1, V12, 500, "salt", 3, 0)


def test_a_route_is_never_replaced_by_one_of_a_smaller_epoch(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    assert (routes.route(MOVIES), routes.route_epoch(MOVIES)) == (None, None)
    assert routes.put_route(MOVIES, route(5))
    assert routes.put_route(MOVIES, route(5))
    assert not routes.put_route(MOVIES, Route(4, V12))
    assert routes.route_epoch(MOVIES) == 5
    assert routes.route(MOVIES) == route(5)
    assert routes.put_route(MOVIES, Route(10, V12))
    assert routes.route(MOVIES) == Route(10, V12)


def test_epochs_are_compared_as_numbers_up_to_2_to_the_53(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    largest = 2**53 - 1
    for epoch, replaced in ((9, True), (10, True), (largest - 1, True), (largest, True), (largest - 1, False)):
        assert routes.put_route(MOVIES, route(epoch)) is replaced


@pytest.mark.parametrize("torn", [{"document": b"\x00"}, {"document": b""}, {"epoch": b"x", "document": b"{}"}])
def test_a_torn_route_is_healed_by_whoever_writes_it_again(client: redis.Redis, torn: dict[str, bytes]) -> None:
    routes = RedisRoutes(client)
    assert routes.put_route(MOVIES, route(5))
    client.hset(keys.route(MOVIES), mapping=torn)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        routes.route(MOVIES)
    assert routes.put_route(MOVIES, route(5))
    assert (routes.route(MOVIES), routes.route_epoch(MOVIES)) == (route(5), 5)


def test_under_racing_writers_a_reader_never_sees_the_epoch_fall(redis_url: str) -> None:
    epochs = list(range(300))

    def write(seed: int) -> int:
        routes = RedisRoutes(store.connect(redis_url))
        shuffled = random.Random(seed).sample(epochs, len(epochs))
        return sum(routes.put_route(MOVIES, route(epoch)) for epoch in shuffled)

    reader = RedisRoutes(store.connect(redis_url))
    seen = [-1]
    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, seed) for seed in range(3)]
        while not all(future.done() for future in writing):
            current = reader.route(MOVIES)
            seen.append(-1 if current is None else current.epoch)
    final = reader.route(MOVIES)
    assert final is not None
    assert final.epoch == epochs[-1]
    assert seen == sorted(seen)
    assert sum(future.result() for future in writing) >= 3


def test_a_route_that_is_no_route_is_an_error(client: redis.Redis) -> None:
    client.hset(keys.route(MOVIES), mapping={"epoch": 1, "document": "{}"})
    with pytest.raises(StoreError, match="expected a Route"):
        RedisRoutes(client).route(MOVIES)


def test_the_status_of_every_living_reader_is_told(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    assert routes.statuses(MOVIES, V1, NOW) == {}
    ready = ReaderStatus(V1, ready=True, manifest_sha256=SHA256)
    refused = ReaderStatus(V1, ready=False, error="expected 3 bytes, found 2")
    for reader, age in (("a", 0), ("b", 14), ("c", 15), ("dead", 16)):
        routes.heartbeat(MOVIES, reader, NOW - timedelta(seconds=age))
    routes.put_status(MOVIES, "a", ready)
    routes.put_status(MOVIES, "b", refused)
    routes.put_status(MOVIES, "c", ReaderStatus(V12, ready=True))
    routes.put_status(MOVIES, "dead", ready)
    assert routes.statuses(MOVIES, V1, NOW) == {"a": ready, "b": refused, "c": None}
    assert 0 < client.ttl(keys.reader_status(MOVIES, V1, "a")) <= 15


def test_a_reader_of_other_models_has_no_say(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    routes.heartbeat(ModelName("products"), "elsewhere", NOW)
    routes.heartbeat(MOVIES, "here", NOW)
    assert routes.statuses(MOVIES, V1, NOW) == {"here": None}


def test_readers_that_are_long_gone_are_forgotten(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    routes.heartbeat(MOVIES, "gone", NOW - timedelta(days=2))
    routes.heartbeat(MOVIES, "here", NOW)
    assert client.zrange(keys.readers(MOVIES), 0, -1) == [b"here"]


def test_a_connection_lost_again_while_it_is_replaced_is_opened_once_more(
    client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(store.connect(redis_url)) as other:
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        connect = connection.connect
        opened: list[int] = []

        def open_and_lose() -> None:
            lost = not connection.is_connected
            connect()  # type: ignore[no-untyped-call]
            if lost:
                opened.append(1)
            if lost and len(opened) == 1:
                other.client_kill_filter(_type="normal", skipme=True)

        monkeypatch.setattr(connection, "connect", open_and_lose)
        other.client_kill_filter(_type="normal", skipme=True)
        assert client.ping() is True
        assert len(opened) == 2


def test_an_unreachable_server_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="Redis"):
        store.connect(f"unix://{tmp_path}/none.sock")


def commands(client: redis.Redis) -> dict[str, int]:
    table = client.info("commandstats")
    assert isinstance(table, dict)
    return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in table.items()}
