"""Sums of a rollout on their way to a real Redis: soon, not too often, once more at the end, and late where Redis was away."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis as redis_client

from online_models.contracts import keys
from online_models.contracts.ids import ModelVersion, RolloutId
from online_models.contracts.rollouts import Route, Served, Variant
from online_models.stores import redis
from online_models.stores.redis import RedisRoutes
from serving_api.assignment import Assignment
from serving_api.served import NEWS_SECONDS, Outcome, ServedCounts, ServedPublisher
from tests.api_process import eventually
from tests.own_redis import running_redis
from tests.samples import MOVIES

ROLLOUT = RolloutId(7)
ROUTE = Route(3, ModelVersion("v1"), ModelVersion("v2"), 500, "salt", rollout_id=7, stage=1)
GOOD = Outcome(error=False, empty=False, fallback=False, seconds=0.001)
BAD = GOOD._replace(error=True, fallback=True)
SELDOM_SECONDS = 60.0


@pytest.fixture
def client(redis_url: str) -> Iterator[redis_client.Redis]:
    with closing(redis.connect(redis_url)) as client:
        yield client


def count(counts: ServedCounts, outcome: Outcome = GOOD, route: Route = ROUTE, user: str = "u") -> None:
    counts.add(MOVIES, route, Assignment(ModelVersion("v2"), Variant.CANARY, 0.05), user, outcome)


def canary(client: redis_client.Redis, rollout_id: RolloutId = ROLLOUT) -> Served:
    return RedisRoutes(client).served(MOVIES, rollout_id).get((1, "canary"), Served())


def test_sums_are_told_by_and_by_and_those_of_all_readers_add_up(client: redis_client.Redis) -> None:
    counts, others = ServedCounts(), ServedCounts()
    with (
        closing(ServedPublisher(counts, RedisRoutes(client), "reader-1", 0.02)),
        closing(ServedPublisher(others, RedisRoutes(client), "reader-2", 0.02)),
    ):
        count(counts)
        count(counts)
        count(others)
        eventually(lambda: canary(client).requests == 3, "both are told")
        assert canary(client).users == 2  # one at each reader
        count(counts, user="another")
        eventually(lambda: canary(client).requests == 4, "what came later is told")


def test_nothing_is_written_while_nothing_changes(client: redis_client.Redis) -> None:
    counts = ServedCounts()
    with closing(ServedPublisher(counts, RedisRoutes(client), "reader-1", 0.01)):
        count(counts)
        eventually(lambda: canary(client).requests == 1, "told")
        client.delete(keys.served(MOVIES, ROLLOUT))
        time.sleep(0.2)
        assert canary(client) == Served()


def test_an_error_of_the_canary_is_in_redis_at_once(client: redis_client.Redis) -> None:
    counts, waits = ServedCounts(), []
    with closing(ServedPublisher(counts, RedisRoutes(client), "reader-1", SELDOM_SECONDS)):
        for errors in range(1, 4):
            count(counts, BAD)
            start = time.monotonic()
            eventually(lambda: canary(client).errors == errors, "told")  # noqa: B023 - called in this round alone
            waits.append(time.monotonic() - start)
            time.sleep(NEWS_SECONDS)
    assert sorted(waits)[1] < 0.1


def test_many_errors_are_told_twice_a_second_at_most(client: redis_client.Redis) -> None:
    counts = ServedCounts()
    client.config_resetstat()
    start = time.monotonic()
    with closing(ServedPublisher(counts, RedisRoutes(client), "reader-1", SELDOM_SECONDS)):
        while time.monotonic() - start < 1.2:
            count(counts, BAD)
            time.sleep(0.002)
    written = client.info("commandstats")["cmdstat_hset"]["calls"]
    assert 2 <= written <= 2 + 1.2 / NEWS_SECONDS
    assert canary(client).errors > 100


def test_the_end_of_a_reader_tells_what_it_has_counted(client: redis_client.Redis) -> None:
    counts = ServedCounts()
    with closing(ServedPublisher(counts, RedisRoutes(client), "reader-1", SELDOM_SECONDS)):
        count(counts)
        start = time.monotonic()
    assert time.monotonic() - start < 1.0
    assert canary(client).requests == 1


def test_a_rollout_that_has_left_the_route_is_told_a_last_time(client: redis_client.Redis) -> None:
    counts, later = ServedCounts(), Route(4, ROUTE.stable, ROUTE.canary, 500, "s", rollout_id=8, stage=1)
    with closing(ServedPublisher(counts, RedisRoutes(client), "reader-1", 0.02)):
        count(counts)
        count(counts, route=later)
        count(counts)
        eventually(lambda: canary(client).requests == 2, "the first rollout's")
        eventually(lambda: canary(client, RolloutId(8)).requests == 1, "the later one's")


def test_what_redis_did_not_take_is_told_when_it_is_back(tmp_path: Path) -> None:
    counts = ServedCounts()
    with (
        running_redis(tmp_path / "redis") as server,
        closing(redis.connect(server.url)) as client,
        closing(ServedPublisher(counts, RedisRoutes(client), "reader-1", 0.02)),
    ):
        count(counts)
        eventually(lambda: canary(client).requests == 1, "told")
        server.stop()
        count(counts)
        time.sleep(0.2)
        server.start()
        eventually(lambda: canary(client).requests == 2, "told again, all of it")
