"""Pages of one list: no item twice, nothing moved, whoever answers and whatever is learned meanwhile."""

from pathlib import Path

import pytest

from online_models.contracts import keys
from online_models.contracts.ids import UserId
from online_models.stores.embedded import Endpoints
from serving_api.settings import ServingSettings
from tests.api_process import FAST, Api, eventually, item_ids, logged_events, started_api
from tests.own_redis import running_redis
from tests.served_world import MOVIES, World, served_world

FIRST = "/v1/recommendations/u1?domain=movies&k=4&paged=true"


def page(api: Api, path: str) -> dict[str, object]:
    response = api.get(path)
    assert response.status_code == 200, response.text
    answer: dict[str, object] = response.json()
    return answer


def following(token: object, k: int = 4, user: str = "u1") -> str:
    return f"/v1/recommendations/{user}?domain=movies&k={k}&page_token={token}"


def test_pages_are_the_slices_of_one_list_that_the_stream_does_not_move(world: World, api: Api) -> None:
    world.learn("u1", ["i0"], vector=True)
    whole = item_ids(page(api, "/v1/recommendations/u1?domain=movies&k=31"))
    assert len(whole) == 30  # with the one that the catalogue alone knows, without the one that was met
    answer = page(api, FIRST)
    request_id, shown = answer["request_id"], item_ids(answer)
    ranks = [1, 2, 3, 4]
    while answer["page_token"] is not None:
        # what was just shown is met, and taste turns to the other half
        world.learn("u1", ["i0", *shown, "i1", "i3", "i5"], vector=True)
        answer = page(api, following(answer["page_token"]))
        assert answer["request_id"] == request_id
        items = answer["items"]
        assert isinstance(items, list)
        shown += item_ids(answer)
        ranks += [item["rank"] for item in items]
    assert shown == whole
    assert ranks == list(range(1, 31))


def test_any_worker_gives_any_page(world: World, api: Api) -> None:
    expected = item_ids(page(api, "/v1/recommendations/u1?domain=movies&k=12"))
    first = page(api, FIRST)
    with started_api(world.settings) as other:
        second = page(other, following(first["page_token"]))
        third = page(api, following(second["page_token"]))
    assert [*item_ids(first), *item_ids(second), *item_ids(third)] == expected


def test_pages_may_differ_in_length_and_the_last_has_no_token(api: Api) -> None:
    first = page(api, FIRST)
    rest = page(api, following(first["page_token"], k=100))
    assert rest["page_token"] is None
    assert len(set(item_ids(first)) | set(item_ids(rest))) == 31
    assert len(item_ids(rest)) == 27


def test_positions_of_impressions_go_on_and_a_page_asked_for_twice_has_the_same(api: Api, tmp_path: Path) -> None:
    first = page(api, FIRST)
    second = page(api, following(first["page_token"], k=3))
    assert page(api, following(first["page_token"], k=3)) == second
    events = logged_events(tmp_path, at_least=10)
    assert {event.request_id for event in events} == {first["request_id"]}
    once = {event.event_id: event for event in events}
    assert sorted((event.position, event.item_id) for event in once.values()) == list(
        enumerate([*item_ids(first), *item_ids(second)])
    )
    assert len(events) == 10


def test_a_list_holds_as_many_items_as_the_settings_say(world: World) -> None:
    with started_api(world.settings, FAST.model_copy(update={"session_items": 6})) as api:
        first = page(api, FIRST)
        last = page(api, following(first["page_token"]))
    assert (len(item_ids(last)), last["page_token"]) == (2, None)


def test_an_ordinary_answer_has_no_token_and_keeps_nothing(world: World, api: Api) -> None:
    assert api.recommend("u1")["page_token"] is None
    assert world.client.keys("*:session:*") == []


def test_a_degraded_list_is_not_kept(world: World, api: Api) -> None:
    world.client.set(keys.history(MOVIES, UserId("u1")), b"torn" * 10)
    answer = page(api, FIRST)
    assert (answer["page_token"], answer["degraded"], len(item_ids(answer))) == (None, True, 4)
    assert world.client.keys("*:session:*") == []


def test_a_token_that_has_expired_is_gone(world: World) -> None:
    with started_api(world.settings, FAST.model_copy(update={"session_seconds": 1.0})) as api:
        token = page(api, FIRST)["page_token"]
        eventually(lambda: api.get(following(token)).status_code == 410, "the list expires")
        assert api.get(following(token)).json() == {
            "detail": "no such list of this user: lists are kept for 1 s; begin a new one"
        }


def test_a_token_is_of_its_user_and_domain_alone(api: Api) -> None:
    token = page(api, FIRST)["page_token"]
    assert api.get(following(token, user="u2")).status_code == 410
    assert api.get(f"/v1/recommendations/u1?domain=products&page_token={token}").status_code == 410


@pytest.mark.parametrize(
    "token", ["", "x", "0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e", "0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e.0"]
)
def test_what_is_no_token_is_refused(api: Api, token: str) -> None:
    response = api.get(following(token))
    assert response.status_code == 422
    assert response.json() == {"detail": "page_token: expected the page_token of an answer, as it came"}


def test_without_redis_a_first_page_has_no_next_one_and_a_later_one_is_refused(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    with (
        running_redis(tmp_path / "redis") as server,
        served_world(Endpoints(server.url, fresh_stores.postgres_dsn), tmp_path) as world,
        started_api(world.settings, ServingSettings(poll_seconds=30.0)) as api,
    ):
        token = page(api, FIRST)["page_token"]
        server.stop()
        alone = page(api, FIRST)
        assert (alone["page_token"], alone["degraded"], len(item_ids(alone))) == (None, True, 4)
        assert api.get(following(token)).status_code == 503
