"""Serving while something is broken: Redis stops, an artifact is corrupt, PostgreSQL is away."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from online_models.contracts import keys
from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.contracts.rollouts import Route
from online_models.ports import EmbeddingUpdate, VersionUpdate
from online_models.settings import StoreSettings
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from tests.api_process import FAST, Api, eventually, item_ids, started_api
from tests.artifacts import flip_one_byte, publish, small_model
from tests.own_redis import OwnRedis, running_redis

MOVIES = ModelName("movies")
MADE = small_model(1)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    with running_redis(tmp_path / "redis") as server:
        yield server


class Setup:
    """One version published and routed."""

    def __init__(self, redis_url: str, postgres_dsn: str, home: Path) -> None:
        self.settings = StoreSettings(home=home, redis_url=redis_url, postgres_dsn=postgres_dsn)
        self.artifacts = FilesystemArtifacts(self.settings.artifacts)
        with closing(postgres_store.connect(postgres_dsn)) as database:
            self.version = publish(self.artifacts, PostgresRegistry(database), MOVIES, MADE)
        self.route(Route(epoch=1, stable=self.version))

    def route(self, route: Route) -> None:
        with closing(redis_store.connect(self.settings.redis_url)) as client:
            RedisRoutes(client).put_route(MOVIES, route)

    def learn(self, users: list[str]) -> None:
        """What the stream job writes of users: a vector each."""
        vectors = {UserId(user): (5, np.tile(MADE.vector([n % 20]), 2)) for n, user in enumerate(users)}
        with closing(redis_store.connect(self.settings.redis_url)) as client:
            RedisEmbeddings(client).apply(
                EmbeddingUpdate(
                    MOVIES, "run", "log", 1, {}, [VersionUpdate(self.version, vectors)], popularity={}, popular=[]
                )
            )

    def corrupt(self, version: ModelVersion) -> Path:
        path = self.artifacts.path(MOVIES, version) / "factors.safetensors"
        flip_one_byte(path)
        return path


def test_redis_stopped_midway_degrades_answers_and_its_return_heals_them(
    own_redis: OwnRedis, postgres: str, tmp_path: Path
) -> None:
    setup = Setup(own_redis.url, postgres, tmp_path)
    with started_api(setup.settings) as api:
        assert api.recommend("u1")["degraded"] is False
        own_redis.stop()
        for user, source in (("u1", "factors"), ("nobody", "popularity")) * 3:
            answer = api.recommend(user)
            assert (answer["degraded"], answer["source"]) == (True, source)
            assert len(item_ids(answer)) == 10
        eventually(lambda: "redis" in str(api.get("/readyz").json()["degraded"]), "readiness notices")
        ready = api.get("/readyz")
        assert (ready.status_code, ready.json()["missing"]) == (200, [])  # it still answers
        assert api.recommend("u1")["model_version"] == setup.version  # the last good route is kept
        own_redis.start()
        eventually(lambda: api.recommend("u1")["degraded"] is False, "Redis is used again")
        assert api.recommend("u1")["model_version"] == setup.version  # though the new Redis is empty


def test_a_bad_value_of_one_domain_leaves_the_others_in_health(redis_url: str, postgres: str, tmp_path: Path) -> None:
    setup = Setup(redis_url, postgres, tmp_path)
    broken = ModelName("broken")
    with started_api(setup.settings, FAST.model_copy(update={"domains": ("broken", "movies")})) as api:
        with closing(redis_store.connect(redis_url)) as client:
            client.set(keys.popular_items(broken), b"torn")
            RedisRoutes(client).put_route(MOVIES, Route(epoch=2, stable=setup.version))
            eventually(lambda: "redis broken" in str(api.reader.degraded()), "the bad value is told")
            RedisRoutes(client).put_route(MOVIES, Route(epoch=3, stable=setup.version))
            eventually(lambda: epoch(api) == 3, "the route of the other domain is polled")
            assert RedisRoutes(client).statuses(broken, setup.version, api.parts.clock()) != {}
        assert api.recommend("u1")["degraded"] is False
        assert api.get("/readyz").status_code == 200


def epoch(api: Api) -> int:
    route = api.reader.state(MOVIES).route
    return route.epoch if route else -1


def test_a_postgres_that_hangs_leaves_the_reader_alive_and_its_routes_fresh(
    redis_url: str, postgres: str, tmp_path: Path
) -> None:
    setup = Setup(redis_url, postgres, tmp_path)
    with started_api(setup.settings) as api, closing(postgres_store.connect(postgres)) as blocker:
        with blocker.transaction() as cursor:
            cursor.execute("LOCK TABLE model_versions IN ACCESS EXCLUSIVE MODE")
            setup.route(Route(epoch=2, stable=setup.version))
            eventually(lambda: "postgres" in str(api.reader.degraded()), "the poll gives up", seconds=20)
            assert "statement timeout" in str(api.reader.degraded())
            assert epoch(api) == 2
        eventually(lambda: api.reader.degraded() == [], "PostgreSQL is used again")


def test_a_redis_that_hangs_costs_no_more_than_the_timeout(own_redis: OwnRedis, postgres: str, tmp_path: Path) -> None:
    setup = Setup(own_redis.url, postgres, tmp_path)
    with started_api(setup.settings) as api:
        own_redis.freeze()
        start = time.monotonic()
        assert api.recommend("u1")["degraded"] is True
        assert time.monotonic() - start < 2.0
        own_redis.thaw()
        eventually(lambda: api.recommend("u1")["degraded"] is False, "Redis is used again")


def test_under_a_redis_that_hangs_users_are_answered_with_what_was_last_known_of_them(
    own_redis: OwnRedis, postgres: str, tmp_path: Path
) -> None:
    setup = Setup(own_redis.url, postgres, tmp_path)
    users = [f"s{n}" for n in range(40)]
    setup.learn(users)
    paths = [f"/v1/recommendations/{user}?domain=movies" for user in users]
    with started_api(setup.settings) as api:
        before = [answer.json() for answer in api.together(paths)]
        assert {(answer["source"], answer["degraded"]) for answer in before} == {("vector", False)}
        own_redis.freeze()
        start = time.monotonic()
        for _ in range(5):
            during = api.together([*paths, "/v1/recommendations/nobody?domain=movies"])
            assert {answer.status_code for answer in during} == {200}
            *known, nobody = [answer.json() for answer in during]
            assert {(answer["source"], answer["degraded"]) for answer in known} == {("vector", True)}
            assert list(map(item_ids, known)) == list(map(item_ids, before))
            assert (nobody["source"], nobody["degraded"]) == ("popularity", True)
        assert 'penstock_degraded_answers_total{domain="movies"} 205.0' in api.get("/metrics").text
        # Only the first of them waited for the timeout of 0.25 s.
        assert time.monotonic() - start < 2.0
        own_redis.thaw()
        eventually(lambda: api.recommend(users[0])["degraded"] is False, "Redis is used again")
        assert {answer.json()["degraded"] for answer in api.together(paths)} == {False}


def test_requests_of_one_moment_cost_one_round_trip(own_redis: OwnRedis, postgres: str, tmp_path: Path) -> None:
    setup = Setup(own_redis.url, postgres, tmp_path)
    paths = [f"/v1/recommendations/u{n}?domain=movies" for n in range(30)]
    with started_api(setup.settings) as api, closing(redis_store.connect(own_redis.url)) as client:
        api.together(paths)
        client.config_resetstat()
        assert {answer.status_code for answer in api.together(paths)} == {200}
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == 1


@pytest.mark.parametrize("damage", ["one byte", "no file", "shorter file", "manifest"])
def test_a_damaged_canary_is_refused_with_a_clear_error_and_stable_goes_on(
    redis_url: str, postgres: str, tmp_path: Path, damage: str
) -> None:
    setup = Setup(redis_url, postgres, tmp_path)
    with closing(postgres_store.connect(postgres)) as database:
        canary = publish(setup.artifacts, PostgresRegistry(database), MOVIES, small_model(2))
    directory = setup.artifacts.path(MOVIES, canary)
    match damage:
        case "one byte":
            setup.corrupt(canary)
        case "no file":
            (directory / "items.json").unlink()
        case "shorter file":
            (directory / "items.json").write_bytes(b"[]")
        case _:
            flip_one_byte(directory / "manifest.json")
    with started_api(setup.settings) as api, closing(redis_store.connect(redis_url)) as client:
        setup.route(Route(2, setup.version, canary, 10_000, "salt", rollout_id=1, stage=0))
        routes, now = RedisRoutes(client), api.parts.clock
        eventually(lambda: any(routes.statuses(MOVIES, canary, now()).values()), "the refusal is reported")
        (status,) = routes.statuses(MOVIES, canary, now()).values()
        assert status is not None
        assert not status.ready
        assert str(directory) in status.error
        assert "expected" in status.error
        assert str(directory) in api.get("/readyz").text
        answer = api.recommend("u1")
        assert (answer["model_version"], answer["variant"]) == (setup.version, "fallback")
        assert answer["rollout_id"] == 1  # stable stood in for the canary, on the canary's account
        assert "penstock_artifacts_refused_total" in api.get("/metrics").text


def test_a_version_with_another_golden_answer_is_refused(redis_url: str, postgres: str, tmp_path: Path) -> None:
    setup = Setup(redis_url, postgres, tmp_path)
    other = small_model(2)
    with closing(postgres_store.connect(postgres)) as database:
        registry = PostgresRegistry(database)
        canary = registry.new_version()
        # the files of one model under the golden queries of another
        lying = MADE.manifest(MOVIES, canary, [1, 3])
        files = {**MADE.files(), "factors.safetensors": other.files()["factors.safetensors"]}
        manifest, sha256 = setup.artifacts.write(lying, files)
        registry.register(manifest, sha256, "test")
    with started_api(setup.settings) as api:
        setup.route(Route(2, setup.version, canary, 0, "salt", rollout_id=1))
        eventually(lambda: "golden query 0 expects" in api.get("/readyz").text, "the refusal is known")
        assert api.recommend("u1")["model_version"] == setup.version


def test_a_process_that_finds_its_stable_version_damaged_answers_by_popularity(
    redis_url: str, postgres: str, tmp_path: Path
) -> None:
    setup = Setup(redis_url, postgres, tmp_path)
    setup.corrupt(setup.version)
    with started_api(setup.settings) as api:
        answer = api.recommend("u1")
        assert (answer["variant"], answer["model_version"]) == ("fallback", None)
        assert api.get("/readyz").status_code == 503


def test_the_version_before_stays_warm_when_the_route_moves_on(redis_url: str, postgres: str, tmp_path: Path) -> None:
    setup = Setup(redis_url, postgres, tmp_path)
    with closing(postgres_store.connect(postgres)) as database:
        younger = publish(setup.artifacts, PostgresRegistry(database), MOVIES, small_model(2))
    with started_api(setup.settings) as api:
        setup.route(Route(epoch=2, stable=younger))
        eventually(lambda: api.recommend("u1")["model_version"] == younger, "the younger version serves")
        setup.corrupt(setup.version)  # going back does not read the disk
        setup.route(Route(epoch=3, stable=setup.version))
        eventually(lambda: api.recommend("u1")["model_version"] == setup.version, "the older one serves again")
