"""The API on real Redis and PostgreSQL: who is answered with what, and what is logged of it."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from online_models.contracts import keys
from online_models.contracts.events import Event, EventType, Item
from online_models.contracts.ids import ItemId, ModelName, ModelVersion, UserId, hashes_of
from online_models.contracts.rollouts import Route, Variant
from online_models.language_scores import encode_scores
from online_models.learner import FoldIns, MovedItem, encode_item_vectors, trained_of
from online_models.ports import EmbeddingUpdate, VersionUpdate
from online_models.settings import StoreSettings
from online_models.sources import Sources
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from online_models.stores.redis_language import RedisLanguageScores
from serving_api.access import Role
from serving_api.assignment import assigned
from serving_api.scoring import dot_rows
from serving_api.settings import ServingSettings
from tests.api_process import FAST, Api, eventually, item_ids, logged_events, started_api, store_settings
from tests.artifacts import FACTORS, SmallModel, publish, small_model
from tests.serving_views import history_of

MOVIES = ModelName("movies")
MADE = small_model(1)


@dataclass
class World:
    """One version published and routed; titles for every item."""

    settings: StoreSettings
    version: ModelVersion
    embeddings: RedisEmbeddings
    routes: RedisRoutes
    registry: PostgresRegistry
    artifacts: FilesystemArtifacts
    interactions: PostgresInteractions
    batches: int = 0

    def learn(
        self,
        user: str,
        met: list[str],
        strength: float = 1.0,
        vector: np.ndarray | None = None,
        new_items: dict[str, np.ndarray] | None = None,
        popular: tuple[str, ...] = (),
    ) -> None:
        """What the stream job writes after a user met items."""
        self.batches += 1
        users = {} if vector is None else {UserId(user): (5, np.concatenate([vector, vector]))}
        news = new_items or {}
        rows = np.array(list(news.values()), np.float32).reshape(-1, FACTORS)
        sources = Sources()
        sources.rows_of(list(MADE.items))
        self.embeddings.apply(
            EmbeddingUpdate(
                model=MOVIES,
                run_id="run",
                source="log",
                position=self.batches,
                histories={UserId(user): history_of(met, strength=strength)},
                versions=[
                    VersionUpdate(
                        self.version,
                        users,
                        {ItemId(item): MovedItem(5, 1.0, row) for item, row in news.items()},
                        item_vectors=encode_item_vectors(list(news), rows) if news else None,
                    )
                ],
                popularity={},
                popular=[ItemId(item) for item in popular],
                number=self.batches,
                sources=sources.encode() if news else None,
            )
        )


@pytest.fixture
def world(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[World]:
    client = redis_store.connect(fresh_stores.redis_url)
    with closing(client), closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database:
        settings = store_settings(fresh_stores, tmp_path)
        artifacts, registry = FilesystemArtifacts(settings.artifacts), PostgresRegistry(database)
        interactions = PostgresInteractions(database)
        interactions.put_items([Item(item, "movies", f"Title of {item}", ["Drama"]) for item in MADE.items])
        version = publish(artifacts, registry, MOVIES, MADE)
        routes = RedisRoutes(client)
        routes.put_route(MOVIES, Route(epoch=1, stable=version))
        yield World(settings, version, RedisEmbeddings(client), routes, registry, artifacts, interactions)


def folded(*met: str) -> np.ndarray:
    """The one query (k,) of a user who met these items: a blend that has learned nothing weighs both vectors alike."""
    tensors = load(MADE.files()["factors.safetensors"])
    trained = trained_of(MADE.manifest(MOVIES, ModelVersion("v1"), [0, 2]), tensors, MADE.items)
    both: np.ndarray = FoldIns(trained).of_histories([history_of(list(met))])[0].sum(axis=0)
    return both


def expected(made: SmallModel, vector: np.ndarray, k: int, seen: list[int]) -> list[str]:
    return [made.items[row] for row in made.best(vector, k, seen)]


def test_an_impression_tells_what_the_language_model_said_of_it_and_whose_that_is(world: World, api: Api) -> None:
    adapter = publish(world.artifacts, world.registry, MOVIES, MADE, language=True)
    later = publish(world.artifacts, world.registry, MOVIES, MADE, carried=adapter)
    world.routes.put_route(MOVIES, Route(epoch=2, stable=later))
    world.learn("someone", ["i1", "i3"])
    said = np.array([2.0, -1.0], np.float32)
    with closing(redis_store.connect(world.settings.redis_url)) as client:
        scores = {UserId("someone"): encode_scores(hashes_of(["i5", "i7"]), said)}
        RedisLanguageScores(client).put_scores(MOVIES, adapter, scores, timedelta(minutes=5))
    eventually(lambda: api.recommend("someone", "domain=movies&k=1")["model_version"] == later, "the later version")
    first = api.recommend("someone", "domain=movies&k=14&paged=true")
    second = api.recommend("someone", f"domain=movies&k=14&page_token={first['page_token']}")

    def told() -> dict[str, Event]:
        logged = logged_events(world.settings.home)
        return {each.item_id: each for each in logged if each.request_id == first["request_id"]}

    eventually(lambda: told().keys() == {*item_ids(first), *item_ids(second)}, "a line of each")
    assert {each.model_version for each in told().values()} == {later}
    features = {item: each.features or {} for item, each in told().items()}
    scored = {item: (each["llm_score"], each["llm_version"]) for item, each in features.items() if "llm_score" in each}
    assert scored == {"i5": (2.0, adapter), "i7": (-1.0, adapter)}
    assert {item for item, each in features.items() if "llm_version" in each} == {"i5", "i7"}


def test_a_user_with_a_stream_vector_gets_its_best_unseen_titled_items(world: World, api: Api) -> None:
    vector = MADE.vector([1, 3])
    world.learn("someone", ["i1", "i3"], vector=vector)
    answer = api.recommend("someone", "domain=movies&k=5")
    assert (answer["source"], answer["variant"], answer["model_version"]) == ("vector", "stable", world.version)
    assert item_ids(answer) == expected(MADE, vector, 5, [1, 3])
    assert answer["items"][0] == {  # type: ignore[index]
        "item_id": item_ids(answer)[0],
        "title": f"Title of {item_ids(answer)[0]}",
        "categories": ["Drama"],
        "score": pytest.approx(6 * float(MADE.item_factors[MADE.best(vector, 1, [1, 3])[0]] @ vector), rel=1e-5),
        "rank": 1,
        "reason": "because_you_watched",
        "because": answer["items"][0]["because"],  # type: ignore[index]
    }
    assert answer["items"][0]["because"] in ("i1", "i3")  # type: ignore[index]


def test_without_a_stream_vector_the_artifact_knows_its_users(api: Api) -> None:
    answer = api.recommend("u1", "domain=movies&k=4")
    assert answer["source"] == "factors"
    assert item_ids(answer) == expected(MADE, MADE.user_factors[1], 4, [])


def test_no_request_waits_for_a_compiler(world: World, api: Api) -> None:
    compiled = len(dot_rows.signatures)
    assert compiled == 1
    world.learn("someone", ["i1"], vector=MADE.vector([1]), new_items={"new": MADE.vector([3])})
    world.learn("newcomer", ["i2"])
    eventually(lambda: "new" in api.reader.state(MOVIES).versions[world.version].sources.items.ids, "polled")
    assert [api.recommend(user)["source"] for user in ("someone", "u1", "newcomer")] == [
        "vector",
        "factors",
        "fold_in",
    ]
    assert len(dot_rows.signatures) == compiled


def test_a_user_newer_than_the_version_is_folded_in_from_the_history(world: World, api: Api) -> None:
    world.learn("newcomer", ["i2", "i4"])
    answer = api.recommend("newcomer", "domain=movies&k=4")
    assert answer["source"] == "fold_in"
    assert item_ids(answer) == expected(MADE, folded("i2", "i4"), 4, [2, 4])


def test_a_user_of_the_artifact_is_folded_in_once_there_is_a_history(world: World, api: Api) -> None:
    assert api.recommend("u1")["source"] == "factors"
    world.learn("u1", ["i2", "i4"])
    answer = api.recommend("u1", "domain=movies&k=4")
    assert (answer["source"], answer["model_version"]) == ("fold_in", world.version)
    assert item_ids(answer) == expected(MADE, folded("i2", "i4"), 4, [2, 4])


def test_an_unknown_user_gets_what_is_popular_now_as_a_fallback(world: World, api: Api) -> None:
    assert item_ids(api.recommend("nobody", "domain=movies&k=3")) == ["i29", "i28", "i27"]
    world.learn("someone", ["i1"], popular=("i7", "i8"))
    eventually(lambda: list(api.reader.state(MOVIES).popular.ids) == ["i7", "i8"], "the popular list is polled")
    answer = api.recommend("nobody", "domain=movies&k=3")
    assert item_ids(answer) == ["i7", "i8", "i0"]  # then the catalogue
    assert (answer["source"], answer["variant"], answer["model_version"]) == ("popularity", "fallback", None)


def test_what_an_unknown_user_met_without_liking_it_is_left_out_too(world: World, api: Api) -> None:
    world.learn("critic", ["i29", "i27"], strength=0.0)
    answer = api.recommend("critic", "domain=movies&k=3")
    assert answer["source"] == "popularity"
    assert item_ids(answer) == ["i28", "i26", "i25"]


def test_an_answer_is_filled_up_by_popularity_and_never_repeats_an_item(world: World, api: Api) -> None:
    met = [f"i{row}" for row in range(27)]
    world.learn("someone", met, vector=MADE.vector([1]), popular=("late", "i28"))
    eventually(lambda: bool(api.reader.state(MOVIES).popular.ids), "the popular list is polled")
    answer = api.recommend("someone", "domain=movies&k=10")
    assert set(item_ids(answer)) == {"i27", "i28", "i29", "late"}
    assert answer["items"][3]["score"] is None  # type: ignore[index]


def test_new_items_of_the_stream_are_recommended(world: World, api: Api) -> None:
    vector = MADE.vector([1, 3])
    world.learn("someone", ["i1", "i3"], vector=vector, new_items={"brand-new": 9 * vector})
    eventually(lambda: "brand-new" in api.reader.state(MOVIES).versions[world.version].sources.items.ids, "polled")
    assert item_ids(api.recommend("someone", "domain=movies&k=2"))[0] == "brand-new"
    world.learn("someone", ["i1", "i3", "brand-new"], vector=vector)
    assert "brand-new" not in item_ids(api.recommend("someone", "domain=movies&k=30"))


def test_torn_scores_of_a_language_model_are_done_without_counted_and_told_once_a_minute(
    world: World, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    version = publish(world.artifacts, world.registry, MOVIES, MADE, language=True)
    world.routes.put_route(MOVIES, Route(epoch=2, stable=version))
    for user in ("u1", "u2"):
        world.learn(user, ["i1", "i3"])
    eventually(lambda: api.recommend("u2", "domain=movies&k=1")["model_version"] == version, "the version is served")
    world.embeddings._client.set(keys.language_scores(MOVIES, version, "u1"), b"torn")
    with caplog.at_level(logging.WARNING):
        answers = [api.recommend("u1", "domain=movies&k=5") for _ in range(3)]
    assert [item_ids(answer) for answer in answers] == [item_ids(api.recommend("u2", "domain=movies&k=5"))] * 3
    assert [answer["degraded"] for answer in answers] == [False] * 3
    assert [line.split()[0] for line in caplog.messages if "torn" in line] == ["language_scores_torn"]
    torn = {"what": "language_scores", "domain": MOVIES}
    assert api.parts.instruments.registry.get_sample_value("penstock_torn_reads_total", torn) == 3


def test_torn_bytes_in_redis_degrade_the_answer_of_their_user_alone(world: World, api: Api) -> None:
    world.embeddings._client.set(keys.history(MOVIES, "u1"), b"torn" * 10)
    answer = api.recommend("u1")
    assert (answer["degraded"], answer["source"]) == (True, "factors")
    assert api.recommend("u2")["degraded"] is False


def test_the_title_of_an_item_that_joins_the_catalogue_later_appears(world: World, api: Api) -> None:
    world.learn("someone", ["i1"], popular=("late",))
    eventually(lambda: bool(api.reader.state(MOVIES).popular.ids), "the popular list is polled")
    assert api.recommend("nobody", "domain=movies&k=1")["items"][0]["title"] == "late"  # type: ignore[index]
    world.interactions.put_items([Item("late", "movies", "A late title")])

    def titled() -> bool:
        return bool(api.recommend("nobody", "domain=movies&k=1")["items"][0]["title"] == "A late title")  # type: ignore[index]

    eventually(titled, "the catalogue is read again")


def test_each_answer_is_logged_as_one_impression_per_item(world: World, api: Api) -> None:
    answer = api.recommend("u2", "domain=movies&k=3")
    events = logged_events(world.settings.home, 3)
    assert [event.type for event in events] == [EventType.IMPRESSION] * 3
    assert [event.item_id for event in events] == item_ids(answer)
    assert [event.position for event in events] == [0, 1, 2]
    assert len({event.event_id for event in events}) == 3
    first = events[0]
    assert (first.request_id, first.model_version, first.user_id) == (answer["request_id"], world.version, "u2")
    assert first.features == {"stage": -1.0, "weight_bp": 0.0, "variant": "stable"}
    assert (first.rollout_id, first.propensity) == (None, 1.0)


def test_a_popularity_answer_is_logged_without_version_and_for_the_arm_of_its_user(world: World, api: Api) -> None:
    route = canary_route(world, world.version, epoch=2)
    world.routes.put_route(MOVIES, route)
    eventually(lambda: has_epoch(api, 2), "the route is polled")
    answer = api.recommend("nobody")
    assert (answer["model_version"], answer["variant"], answer["rollout_id"]) == (None, "fallback", 7)
    event = logged_events(world.settings.home, 1)[0]
    assert (event.model_version, event.rollout_id) == (None, 7)
    assert event.features is not None
    assert (event.features["variant"], event.features["asked_version"]) == ("fallback", world.version)
    assert event.features["asked_variant"] == assigned("nobody", route).variant


def canary_route(world: World, canary: ModelVersion, epoch: int, stage: int = 2) -> Route:
    return Route(epoch, world.version, canary, 5_000 if stage >= 0 else 0, "salt", rollout_id=7, stage=stage)


def has_epoch(api: Api, epoch: int) -> bool:
    route = api.reader.state(MOVIES).route
    return route is not None and route.epoch == epoch


def test_users_are_split_stickily_and_each_arm_answers_with_its_version(world: World, api: Api) -> None:
    other = small_model(2, users=40)
    canary = publish(world.artifacts, world.registry, MOVIES, other)
    route = canary_route(world, canary, epoch=2)
    world.routes.put_route(MOVIES, route)
    eventually(lambda: canary in api.reader.state(MOVIES).versions, "the canary is loaded")
    for user in MADE.users * 2:
        answer = api.recommend(user)
        arm = assigned(user, route).variant
        assert answer["variant"] == arm
        assert answer["model_version"] == (canary if arm is Variant.CANARY else world.version)
        assert (answer["rollout_id"], answer["stage"]) == (7, 2)
    assert {assigned(user, route).variant for user in MADE.users} == {Variant.STABLE, Variant.CANARY}
    events = logged_events(world.settings.home, 10 * 2 * len(MADE.users))
    assert {event.rollout_id for event in events} == {7}


def test_nobody_is_exposed_to_a_rollout_that_prepares(world: World, api: Api) -> None:
    canary = publish(world.artifacts, world.registry, MOVIES, small_model(2))
    world.routes.put_route(MOVIES, canary_route(world, canary, epoch=2, stage=-1))
    eventually(lambda: canary in api.reader.state(MOVIES).versions, "the canary is loaded")
    answers = [api.recommend(user) for user in MADE.users]
    assert {answer["variant"] for answer in answers} == {"stable"}
    assert {answer["rollout_id"] for answer in answers} == {None}


def test_a_route_of_an_older_epoch_is_not_taken(world: World, api: Api) -> None:
    world.routes.put_route(MOVIES, Route(epoch=5, stable=world.version))
    eventually(lambda: has_epoch(api, 5), "the route is polled")
    world.embeddings._client.flushdb()  # Redis lost its data, and an older document comes back
    world.routes.put_route(MOVIES, Route(epoch=4, stable=ModelVersion("v999")))
    api.reader.poll()
    assert has_epoch(api, 5)


def test_event_time_is_taken_only_where_the_settings_allow_it(world: World, api: Api) -> None:
    assert api.get("/v1/recommendations/u1?domain=movies&at=1000").status_code == 422
    simulation = ServingSettings(**{**FAST.model_dump(), "allow_event_time": True})
    with started_api(world.settings, simulation) as simulated:
        simulated.recommend("u1", "domain=movies&k=1&at=1767225600000")
        simulated.recommend("u1", "domain=movies&k=1&at=2026-01-01T00:00:00Z")
        assert simulated.get("/v1/recommendations/u1?domain=movies&at=soon").status_code == 422
        ahead = round(simulated.parts.clock().timestamp() * 1000) + 600_000
        for unbelieved in ("1", "-9", "1989-12-31T23:59:59Z", "9" * 15, "9" * 30, str(ahead)):
            answer = simulated.get(f"/v1/recommendations/u1?domain=movies&at={unbelieved}")
            assert answer.status_code == 422
            assert "at: expected from 1990-01-01T00:00:00Z to 300 s from now" in answer.json()["detail"]
    assert [event.ts for event in logged_events(world.settings.home)] == [1767225600000] * 2


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/recommendations/u1?domain=books", 404, "movies, products"),
        ("/v1/recommendations/u1", 422, "domain"),
        ("/v1/recommendations/?domain=movies", 422, "user_id"),
        ("/v1/recommendations/u1?domain=movies&k=0", 422, "greater than or equal to 1"),
        ("/v1/recommendations/u1?domain=movies&k=101", 422, "100"),
        ("/v1/recommendations/u1?domain=movies&k=many", 422, "integer"),
        (f"/v1/recommendations/{'u' * 257}?domain=movies", 422, "256"),
        ("/v1/recommendations/a%00b?domain=movies", 422, "NUL"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(api: Api, path: str, status: int, words: str) -> None:
    response = api.get(path)
    assert response.status_code == status
    assert words in response.text


def test_operators_are_told_what_is_wrong_too(api: Api) -> None:
    key = api.key_of(Role.VIEWER)
    for path, words in (("/v1/models/books", "movies, products"), ("/v1/rollouts/movies", "no rollout")):
        response = api.get(path, key)
        assert (response.status_code, words in response.text) == (404, True)


def test_a_user_id_may_hold_any_other_characters(api: Api) -> None:
    assert api.recommend("a%2Fb%20%C3%A9")["user_id"] == "a/b é"


def test_the_openapi_document_has_examples(api: Api) -> None:
    document = api.get("/openapi.json").json()
    assert document["components"]["schemas"]["RecommendationAnswer"]["example"]["items"]
    body = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["examples"]) == {"one", "several"}
    assert api.get("/docs").status_code == 200
    assert api.get("/").json()["domains"] == ["movies", "products"]


def test_metrics_count_requests_by_route_template_and_answers_by_source(api: Api) -> None:
    api.recommend("u1", "domain=movies&k=2")
    api.recommend("nobody", "domain=movies&k=2")
    api.get("/no/such/path")
    appended = 'penstock_impressions_appended_total{domain="movies"} 4.0'
    eventually(lambda: appended in api.get("/metrics").text, "the impressions are appended")
    text = api.get("/metrics").text
    assert 'penstock_requests_total{route="/v1/recommendations/{user_id:path}",status="200"} 2.0' in text
    assert 'penstock_requests_total{route="none",status="404"} 1.0' in text
    assert 'penstock_answers_total{domain="movies",source="factors",variant="stable"} 1.0' in text
    assert 'penstock_reader_epoch{model="movies"} 1.0' in text


def test_ready_says_what_is_missing(world: World, api: Api) -> None:
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "missing": [], "degraded": []})
    world.routes.put_route(MOVIES, Route(epoch=9, stable=ModelVersion("v999")))
    eventually(lambda: "v999" in api.get("/readyz").text, "the missing version is noticed")
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()["missing"]) == (200, [])  # another version stands in
    assert "v999" in str(ready.json()["degraded"])
    assert api.get("/healthz").status_code == 200


def test_without_any_version_the_catalogue_answers(fresh_stores: Endpoints, tmp_path: Path) -> None:
    with closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database:
        PostgresInteractions(database).put_items([Item(f"p{n}", "products", f"Product {n}") for n in range(3)])
    with started_api(store_settings(fresh_stores, tmp_path)) as api:
        assert api.get("/readyz").status_code == 200
        answer = api.recommend("anyone", "domain=products")
        assert item_ids(answer) == ["p0", "p1", "p2"]
        assert (answer["source"], answer["degraded"]) == ("popularity", False)
        assert api.recommend("anyone", "domain=movies")["items"] == []


def test_the_documented_answer_has_the_fields_of_the_one_that_is_sent(api: Api) -> None:
    from serving_api.schemas import RecommendationAnswer

    answer = api.recommend("u1")
    assert RecommendationAnswer.model_validate(answer).model_dump() == answer


def test_the_model_route_lists_versions(world: World, api: Api) -> None:
    key = api.key_of(Role.VIEWER)
    report = api.get("/v1/models/movies", key).json()
    assert report["champion"] is None
    assert [version["version"] for version in report["versions"]] == [world.version]
    assert api.get("/v1/models/products", key).json()["versions"] == []
