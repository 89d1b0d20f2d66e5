"""Items like an item: over HTTP, on a real version, its stream and its catalogue."""

from typing import cast

import pytest

from online_models.contracts.events import Item
from serving_api.rules import Exclude, When
from tests.api_process import FAST, Api, eventually, started_api
from tests.served_world import COLD, MADE, MOVIES, World


def similar(api: Api, item: str, query: str = "domain=movies") -> list[dict[str, object]]:
    response = api.get(f"/v1/items/{item}/similar?{query}")
    assert response.status_code == 200, response.text
    return cast(list[dict[str, object]], response.json()["items"])


def test_items_of_one_taste_are_similar_the_item_itself_is_not_among_them(world: World, api: Api) -> None:
    response = api.get("/v1/items/i4/similar?domain=movies&k=3").json()
    assert {name: response[name] for name in ("item_id", "domain", "model_version")} == {
        "item_id": "i4",
        "domain": "movies",
        "model_version": world.version,
    }
    found = similar(api, "i4", "domain=movies&k=14")
    even = {item for item in MADE.items[::2] if item != "i4"}
    assert {each["item_id"] for each in found} == even
    assert [each["rank"] for each in found] == list(range(1, 15))
    scores = [cast(float, each["score"]) for each in found]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] <= scores[0] <= 1
    assert found[0]["title"] == f"Title of {found[0]['item_id']}"
    assert {each["reason"] for each in found} == {"same_taste"}


def test_what_is_often_met_together_rises_and_says_so_where_tastes_differ(world: World, api: Api) -> None:
    (least_alike,) = similar(api, "i4", "domain=movies&k=14")[-1:]
    companion, stranger = str(least_alike["item_id"]), "i7"
    world.publish_visits([["i4", companion], ["i4", stranger], [companion, "i4"]] * 20)
    eventually(lambda: similar(api, "i4")[0]["item_id"] == companion, "the publication is taken in")
    reasons = {each["item_id"]: each["reason"] for each in similar(api, "i4", "domain=movies&k=20")}
    assert (reasons[companion], reasons[stranger]) == ("same_taste", "often_together")


def test_an_item_without_a_vector_is_like_those_of_similar_content(world: World, api: Api) -> None:
    world.interactions.put_items(
        [
            Item("a", "products", "Brass lamp", ["Light"]),
            Item("b", "products", "Brass lamp, large", ["Light"]),
            Item("c", "products", "Wool rug", ["Floor"]),
        ]
    )
    eventually(lambda: api.get("/v1/items/a/similar?domain=products").status_code == 200, "the catalogue is read")
    (found,) = similar(api, "a", "domain=products")
    assert (found["item_id"], found["reason"], found["categories"]) == ("b", "similar_content", ["Light"])


def test_a_cold_item_is_placed_near_what_it_is_like(api: Api) -> None:
    assert "i3" in [each["item_id"] for each in similar(api, COLD.item_id, "domain=movies&k=14")]


def test_rules_and_age_limits_hold_for_similar_items_too(world: World) -> None:
    best = [str(each["item_id"]) for each in _similar_of(world, {})]
    world.interactions.put_items([Item(best[1], MOVIES, "Not for all", min_age=18.0)])
    rules = (Exclude(action="exclude", when=When(items=(best[0],))),)
    reranking = FAST.reranking.model_copy(update={"stranger_age": 12.0})
    found = [each["item_id"] for each in _similar_of(world, {"rules": rules, "reranking": reranking})]
    assert found[:3] == best[2:5]


def _similar_of(world: World, settings: dict[str, object]) -> list[dict[str, object]]:
    with started_api(world.settings, FAST.model_copy(update=settings)) as api:
        return similar(api, "i4", "domain=movies&k=8")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/items/nothing/similar?domain=movies", 404, "unknown item 'nothing' of movies"),
        ("/v1/items/i4/similar?domain=music", 404, "unknown domain 'music'"),
        ("/v1/items/i4/similar", 422, "domain"),
        ("/v1/items/i4/similar?domain=movies&k=0", 422, "greater than or equal to 1"),
        ("/v1/items/i4/similar?domain=movies&k=101", 422, "k: expected 1 to 100, got 101"),
    ],
)
def test_what_cannot_be_answered_is_refused(api: Api, path: str, status: int, said: str) -> None:
    response = api.get(path)
    assert response.status_code == status
    assert said in response.text


def test_an_item_id_may_have_slashes(world: World, api: Api) -> None:
    titles = {"a/b": "Brass lamp", "c": "Brass rail", "d": "Rug"}
    world.interactions.put_items([Item(item, "products", title) for item, title in titles.items()])
    eventually(lambda: api.get("/v1/items/a/b/similar?domain=products").status_code == 200, "the catalogue is read")
    assert [each["item_id"] for each in similar(api, "a/b", "domain=products")] == ["c"]
