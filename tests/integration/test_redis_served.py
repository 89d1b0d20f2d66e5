"""What readers say of their requests of a rollout, on a real Redis."""

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from online_models.contracts import keys
from online_models.contracts.ids import ModelName, RolloutId
from online_models.contracts.rollouts import LATENCY_EDGES_MS, Served
from online_models.stores import redis as store
from online_models.stores import redis_served
from online_models.stores.redis import RedisRoutes
from tests.samples import MOVIES

ROLLOUT = RolloutId(7)
KEY = keys.served(MOVIES, ROLLOUT)
BUCKETS = len(LATENCY_EDGES_MS) + 1
EVERY_FIELD = Served(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, tuple(range(BUCKETS)), 11, 0.75, 12, 13, 14)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return store.connect(redis_url)


def test_a_rollout_that_nobody_served_has_no_sums(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    routes.put_served(MOVIES, ROLLOUT, "a", {})
    assert routes.served(MOVIES, ROLLOUT) == {}
    assert client.keys() == []


def test_what_readers_say_is_summed_by_stage_and_variant(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    routes.put_served(MOVIES, ROLLOUT, "host:1", {(0, "canary"): EVERY_FIELD, (0, "stable"): Served(requests=5)})
    routes.put_served(MOVIES, ROLLOUT, "a|b|9", {(0, "canary"): EVERY_FIELD, (1, "canary"): Served(errors=1)})
    routes.put_served(MOVIES, RolloutId(8), "host:1", {(0, "canary"): EVERY_FIELD})
    routes.put_served(ModelName("products"), ROLLOUT, "host:1", {(0, "canary"): EVERY_FIELD})
    twice = Served(2, 4, 6, 8, 10, 12, 14, 16, 18, 20, tuple(range(0, 2 * BUCKETS, 2)), 22, 1.5, 24, 26, 28)
    assert routes.served(MOVIES, ROLLOUT) == {
        (0, "canary"): twice, (0, "stable"): Served(requests=5), (1, "canary"): Served(errors=1),
    }  # fmt: skip


def test_a_reader_s_sums_take_the_place_of_those_before(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    routes.put_served(MOVIES, ROLLOUT, "a", {(0, "canary"): Served(requests=5), (0, "stable"): Served(requests=90)})
    for _ in range(2):
        routes.put_served(MOVIES, ROLLOUT, "a", {(0, "canary"): Served(requests=6)})
    found = routes.served(MOVIES, ROLLOUT)
    assert {each: served.requests for each, served in found.items()} == {(0, "canary"): 6, (0, "stable"): 90}


def test_sums_outlive_their_reader_by_a_month(client: redis.Redis) -> None:
    RedisRoutes(client).put_served(MOVIES, ROLLOUT, "a", {(0, "canary"): EVERY_FIELD})
    client.expire(KEY, 5)
    RedisRoutes(client).put_served(MOVIES, ROLLOUT, "b", {(0, "canary"): EVERY_FIELD})
    assert 30 * 86_400 - 5 <= client.ttl(KEY) <= 30 * 86_400


@pytest.mark.parametrize(
    ("field", "raw"),
    [
        ("a|0|canary", b"{"),
        ("a|0|canary", b'{"requests": "many"}'),
        ("a|0|canary", b'{"requests": 5, "errors": -1}'),
        ("a|0|canary", b'{"latency": [1, "two"]}'),
        ("a|0|canary", b"null"),
        ("0|canary", b"{}"),
        ("a|zero|canary", b"{}"),
        (b"\xff|0|canary", b"{}"),
    ],
)
def test_a_field_that_is_torn_counts_as_nothing_and_is_told_once(
    client: redis.Redis, caplog: pytest.LogCaptureFixture, field: str | bytes, raw: bytes
) -> None:
    routes = RedisRoutes(client)
    routes.put_served(MOVIES, ROLLOUT, "b", {(0, "canary"): EVERY_FIELD})
    client.hset(KEY, field, raw)
    for _ in range(3):
        assert routes.served(MOVIES, ROLLOUT) == {(0, "canary"): EVERY_FIELD}
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"served_unreadable key={KEY} field=")


def test_of_other_buckets_of_latency_everything_else_counts(client: redis.Redis) -> None:
    routes = RedisRoutes(client)
    routes.put_served(MOVIES, ROLLOUT, "a", {(0, "canary"): EVERY_FIELD})
    client.hset(KEY, "newer|0|canary", b'{"requests": 5, "errors": 4, "latency": [1, 2, 2]}')
    expected = replace(EVERY_FIELD, requests=EVERY_FIELD.requests + 5, errors=EVERY_FIELD.errors + 4)
    assert routes.served(MOVIES, ROLLOUT) == {(0, "canary"): expected}


def test_sums_of_an_older_reader_lack_nothing_but_what_it_did_not_count(client: redis.Redis) -> None:
    client.hset(KEY, "a|0|canary", b'{"requests": 3, "of a newer release": 1}')
    assert RedisRoutes(client).served(MOVIES, ROLLOUT) == {(0, "canary"): Served(requests=3)}


counts = st.integers(0, 2**40)
drawn = st.builds(
    Served, counts, counts, counts, counts, counts, counts, counts, counts, counts, counts,
    st.lists(counts, min_size=BUCKETS, max_size=BUCKETS).map(tuple), counts, st.integers(0, 2**30).map(float), counts, counts,
    counts,
)  # fmt: skip


@given(parts=st.dictionaries(st.text(st.characters(codec="utf-8")), drawn, min_size=1, max_size=4))
def test_the_sum_is_that_of_each_field(parts: dict[str, Served]) -> None:
    fields = {
        name.encode(): raw
        for reader, served in parts.items()
        for name, raw in redis_served.encode(reader, {(3, "arm"): served}).items()
    }
    total = redis_served.summed(fields, "key", set())[3, "arm"]
    for name in Served.__struct_fields__:
        values = [getattr(served, name) for served in parts.values()]
        expected = tuple(map(sum, zip(*values, strict=True))) if name == "latency" else sum(values)
        assert getattr(total, name) == expected
