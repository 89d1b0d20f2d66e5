"""What new users say they like: kept, told back, and in the very next answer; gone by their fifth event."""

from pathlib import Path

import pytest

from online_models.contracts import keys
from online_models.stores.embedded import Endpoints
from serving_api.settings import ServingSettings
from tests.api_process import Api, item_ids, started_api
from tests.own_redis import running_redis
from tests.served_world import MADE, MOVIES, World, served_world

PATH = "/v1/users/new/preferences"
OF_MOVIES = PATH + "?domain=movies"


def say(api: Api, **said: object) -> None:
    response = api.send("PUT", PATH, {"domain": "movies", **said})
    assert response.status_code == 200, response.text


def dramas(answer: dict[str, object]) -> int:
    """How many of a list are: `i0` to `i9`."""
    return sum(item in MADE.items[:10] for item in item_ids(answer))


def test_liked_items_make_a_taste_and_may_be_shown(world: World, api: Api) -> None:
    assert api.recommend("new")["source"] == "popularity"
    say(api, items=["i2", "i4"])
    answer = api.recommend("new", "domain=movies&k=15")
    assert (answer["source"], answer["variant"], answer["model_version"]) == ("preferences", "stable", world.version)
    assert set(item_ids(answer)) == set(MADE.items[::2])
    first = answer["items"][0]  # type: ignore[index]
    assert (first["reason"], first["because"] in {"i2", "i4"}) == ("because_you_watched", True)


def test_liked_categories_raise_their_items_and_say_so(api: Api) -> None:
    assert dramas(api.recommend("new")) < 10
    say(api, categories=["Drama"])
    answer = api.recommend("new")
    assert (dramas(answer), answer["source"]) == (10, "preferences")
    assert {item["reason"] for item in answer["items"]} == {"preferred"}  # type: ignore[attr-defined]


def test_from_the_fifth_event_on_what_was_said_is_as_if_unsaid(world: World, api: Api) -> None:
    say(api, categories=["Western"], items=["i2", "i4"])
    met = ["i1", "i3", "i5", "i7", "i9"]
    for events, counts in ((4, True), (5, False)):
        world.learn("new", met[:events], vector=True)
        with_them = api.recommend("new")["items"]
        api.send("DELETE", OF_MOVIES)
        assert (api.recommend("new")["items"] != with_them) == counts
        say(api, categories=["Western"], items=["i2", "i4"])


def test_they_are_told_back_replaced_and_forgotten(world: World, api: Api) -> None:
    nothing = {
        "user_id": "new",
        "domain": "movies",
        "items": [],
        "categories": [],
        "unknown_items": [],
        "unknown_categories": [],
    }
    assert api.get(OF_MOVIES).json() == nothing
    say(api, items=["i2", "i4", "i2"], categories=["Western"])
    assert api.get(OF_MOVIES).json() == {**nothing, "items": ["i2", "i4"], "categories": ["Western"]}
    assert api.get(PATH + "?domain=products").json() == {**nothing, "domain": "products"}
    assert 0 < world.client.ttl(keys.preferences(MOVIES, "new")) <= 365 * 86_400
    say(api, categories=["Drama"])
    assert api.get(OF_MOVIES).json() == {**nothing, "categories": ["Drama"]}
    assert [api.send("DELETE", OF_MOVIES).status_code for _ in range(2)] == [204, 204]
    assert api.get(OF_MOVIES).json() == nothing
    assert api.recommend("new")["source"] == "popularity"


def test_the_unknown_is_kept_named_and_does_nothing(api: Api) -> None:
    before = item_ids(api.recommend("new"))
    said = api.send("PUT", PATH, {"domain": "movies", "items": ["x", "cold"], "categories": ["Wetsern", "War"]}).json()
    assert (said["unknown_items"], said["unknown_categories"]) == (["x"], ["Wetsern"])
    api.send("PUT", PATH, {"domain": "movies", "items": ["x"], "categories": ["Wetsern"]})
    answer = api.recommend("new")
    assert (item_ids(answer), answer["source"]) == (before, "popularity")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"domain": "movies"}, 422, "expected at least one item or category"),
        ({"domain": "movies", "items": []}, 422, "expected at least one item or category"),
        ({"items": ["i1"]}, 422, "Field required"),
        ({"domain": "movies", "items": [""]}, 422, "at least 1 character"),
        ({"domain": "movies", "items": ["i\x00"]}, 422, "pattern"),
        ({"domain": "movies", "items": ["i"] * 101}, 422, "at most 100 items"),
        ({"domain": "movies", "categories": "Drama"}, 422, "valid list"),
        ({"domain": "movies", "categories": ["Drama"], "genres": []}, 422, "Extra inputs"),
        ({"domain": "music", "categories": ["Drama"]}, 404, "unknown domain 'music'"),
    ],
)
def test_what_cannot_be_kept_is_refused(world: World, api: Api, body: object, status: int, said: str) -> None:
    response = api.send("PUT", PATH, body)
    assert response.status_code == status
    assert said in response.text
    assert world.client.keys("*:preferences:*") == []


def test_without_redis_they_are_refused_and_the_last_known_ones_go_on(fresh_stores: Endpoints, tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "redis") as server,
        served_world(Endpoints(server.url, fresh_stores.postgres_dsn), tmp_path) as world,
        started_api(world.settings, ServingSettings(poll_seconds=30.0)) as api,
    ):
        say(api, items=["i2"])
        known = item_ids(api.recommend("new"))
        server.stop()
        for method, body in (("PUT", {"domain": "movies", "items": ["i3"]}), ("GET", None), ("DELETE", None)):
            response = api.send(method, OF_MOVIES if body is None else PATH, body)
            assert (response.status_code, "preferences cannot be kept" in response.text) == (503, True)
        answer = api.recommend("new")
        assert (item_ids(answer), answer["degraded"]) == (known, True)
