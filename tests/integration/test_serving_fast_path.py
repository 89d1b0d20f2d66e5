"""The fast path in front of `GET /v1/recommendations/{user_id}`: it answers as FastAPI's route does, only sooner."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.ids import ModelName
from online_models.contracts.rollouts import Route
from online_models.settings import StoreSettings
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisRoutes
from serving_api.routes.recommendations import PREFIX, plain_ask
from tests.api_process import FAST, Api, logged_events, started_api, store_settings
from tests.artifacts import publish, small_model

MOVIES = ModelName("movies")
UNKNOWN = b"&unknown="
"""FastAPI ignores a name that it does not know, and the fast path leaves such a request alone."""

TEXTS = st.sampled_from(
    ["movies", "products", "books", "mov%69es", "", "0", "1", "07", "7", "7.0", "+7", "%207", "100", "101", "٧"]
).map(str.encode) | st.from_regex(rb"[0-9]{1,20}|[^&#]{0,4}", fullmatch=True)
QUERIES = st.lists(st.tuples(st.sampled_from([b"domain", b"k", b"at", b"other"]), TEXTS), max_size=4).map(
    lambda pairs: b"&".join(b"%b=%b" % pair for pair in pairs)
)
PLAIN = st.builds(
    b"domain=movies%b%b".__mod__,
    st.tuples(
        st.integers(0, 120).map(b"&k=%d".__mod__) | st.just(b""),
        (st.integers(0, 2**50) | st.integers(600 * 10**9, 1_700 * 10**9)).map(b"&at=%d".__mod__) | st.just(b""),
    ),
)
COMMON = st.integers(1, 100).map(b"domain=movies&k=%d".__mod__)
USERS = st.sampled_from(
    ["u1", "a/b", "é", "", "\0", "a\0b", "a\n", "a\nb", "a//", "\xa0", "\ufffd", "u" * 256, "u" * 257]
)


@pytest.fixture
def stores_settings(fresh_stores: Endpoints, tmp_path: Path) -> StoreSettings:
    """Where one version is published and routed."""
    settings = store_settings(fresh_stores, tmp_path)
    with closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database:
        version = publish(FilesystemArtifacts(settings.artifacts), PostgresRegistry(database), MOVIES, small_model(1))
    with closing(redis_store.connect(fresh_stores.redis_url)) as client:
        RedisRoutes(client).put_route(MOVIES, Route(epoch=1, stable=version))
    return settings


@pytest.fixture(params=[False, True], ids=["live", "simulation"])
def api(stores_settings: StoreSettings, request: pytest.FixtureRequest) -> Iterator[Api]:
    """Without and with event times in requests."""
    with started_api(stores_settings, FAST.model_copy(update={"allow_event_time": request.param})) as api:
        yield api


def comparable(answer: tuple[int, dict[bytes, bytes], bytes]) -> tuple[int, dict[bytes, bytes], dict[str, object]]:
    status, headers, body = answer
    return status, headers, {**json.loads(body), "request_id": ""}


def test_every_request_is_answered_as_the_route_answers_it(api: Api) -> None:
    taken = 0

    @settings(max_examples=400, deadline=None)
    @given(user=USERS | st.text(max_size=5), query=QUERIES | PLAIN | COMMON)
    def agree(user: str, query: bytes) -> None:
        nonlocal taken
        path = PREFIX + user
        taken += plain_ask({"path": path, "query_string": query}, api.parts) is not None
        assert comparable(api.raw(path, query)) == comparable(api.raw(path, query + UNKNOWN))

    agree()
    assert taken >= 10, taken


def test_the_common_request_takes_the_fast_path(api: Api) -> None:
    for query in (b"domain=movies", b"domain=movies&k=10"):
        ask = plain_ask({"path": PREFIX + "u1", "query_string": query}, api.parts)
        assert ask is not None
        assert (ask.user_id, ask.model, ask.k) == ("u1", "movies", 10)
        assert abs(ask.ts_ms - api.parts.clock().timestamp() * 1000) < 10_000


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
def test_other_methods_go_to_the_application(api: Api, method: str) -> None:
    assert api.raw(PREFIX + "u1", b"domain=movies", method)[0] == 405


def test_below_a_root_path_the_application_answers(api: Api) -> None:
    status, _, body = api.raw("/proxy" + PREFIX + "u1", b"domain=movies", root_path="/proxy")
    assert (status, json.loads(body)["user_id"]) == (200, "u1")


def test_metrics_and_impressions_know_no_difference(api: Api, tmp_path: Path) -> None:
    for query in (b"domain=movies&k=3", b"domain=movies&k=3" + UNKNOWN):
        assert api.raw(PREFIX + "u1", query)[0] == 200
    counted = f'penstock_requests_total{{route="{PREFIX}{{user_id:path}}",status="200"}} 2.0'
    assert counted in api.get("/metrics").text
    items = [event.item_id for event in logged_events(tmp_path, 6)]
    assert items[:3] == items[3:]
