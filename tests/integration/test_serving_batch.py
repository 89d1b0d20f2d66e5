"""Many users in one request: what each would be answered alone, from few reads, and no hold on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import httpx
import pytest

from serving_api.recommender import READ_TOGETHER
from tests.api_process import FAST, Api, logged_events, started_api
from tests.served_world import World

PATH = "/v1/recommendations/batch"


def answers(response: httpx.Response) -> list[dict[str, object]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, object]] = response.json()["answers"]
    return found


def without_id(answer: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in answer.items() if name != "request_id"}


def test_each_user_is_answered_as_if_alone(world: World, api: Api) -> None:
    world.learn("someone", ["i1", "i3"], vector=True)
    world.learn("newcomer", ["i2"])
    users = ["someone", "nobody", "u1", "newcomer", "someone"]
    found = answers(api.send("POST", PATH, {"domain": "movies", "user_ids": users, "k": 5}))
    assert [each["user_id"] for each in found] == users
    assert [each["source"] for each in found] == ["vector", "popularity", "factors", "fold_in", "vector"]
    assert [without_id(each) for each in found] == [without_id(api.recommend(u, "domain=movies&k=5")) for u in users]
    assert len({cast(str, each["request_id"]) for each in found}) == len(users)


def test_users_are_read_together(world: World, api: Api) -> None:
    def reads() -> int:
        stats = world.client.info("commandstats")
        assert isinstance(stats, dict)
        return int(stats["cmdstat_mget"]["calls"])

    api.recommend("u1")
    before, users = reads(), [f"user {n}" for n in range(2 * READ_TOGETHER)]
    assert len(answers(api.send("POST", PATH, {"domain": "movies", "user_ids": users, "k": 1}))) == len(users)
    assert reads() - before == 2


def test_impressions_are_logged_only_when_asked_for(api: Api, tmp_path: Path) -> None:
    asked = {"domain": "movies", "user_ids": ["u1", "u2"], "k": 3}
    answers(api.send("POST", PATH, asked))
    shown = answers(api.send("POST", PATH, {**asked, "log_impressions": True}))
    events = logged_events(tmp_path, at_least=6)
    assert {event.request_id for event in events} == {each["request_id"] for each in shown}
    assert len(events) == 6


def test_other_requests_are_answered_meanwhile(api: Api) -> None:
    """Of the time of a long batch, an event loop that is never held long runs most of the ticks that it would have."""

    async def ticks(until: asyncio.Event) -> list[float]:
        gaps, last = [], time.perf_counter()
        while not until.is_set():
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
        return gaps

    async def both() -> tuple[int, list[float], float]:
        done = asyncio.Event()
        ticking = asyncio.create_task(ticks(done))
        start = time.perf_counter()
        asked = {"domain": "movies", "user_ids": [f"u{n % 6}" for n in range(1_000)], "k": 31}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            response = await client.post(PATH, json=asked)
        seconds = time.perf_counter() - start
        done.set()
        return response.status_code, await ticking, seconds

    status, gaps, seconds = api.run(both())
    assert status == 200
    assert len(gaps) > 1_000
    assert max(gaps) < seconds / 4


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"domain": "movies", "user_ids": []}, 422, "at least 1 item"),
        ({"domain": "movies", "user_ids": ["a", "b", "c"]}, 422, "user_ids: expected 1 to 2, got 3"),
        ({"domain": "movies", "user_ids": [""]}, 422, "at least 1 character"),
        ({"domain": "movies", "user_ids": ["a\x00"]}, 422, "pattern"),
        ({"domain": "movies", "user_ids": ["a"], "k": 101}, 422, "k: expected 1 to 100, got 101"),
        ({"domain": "movies", "user_ids": ["a"], "at": "5"}, 422, "at: not allowed here"),
        ({"domain": "movies", "user_ids": ["a"], "kk": 1}, 422, "Extra inputs"),
        ({"domain": "music", "user_ids": ["a"]}, 404, "unknown domain 'music'"),
    ],
)
def test_what_cannot_be_answered_is_refused(world: World, body: object, status: int, said: str) -> None:
    with started_api(world.settings, FAST.model_copy(update={"batch_users": 2})) as api:
        response = api.send("POST", PATH, body)
    assert response.status_code == status
    assert said in response.text


def test_a_user_called_batch_is_a_user(api: Api) -> None:
    assert api.recommend("batch")["user_id"] == "batch"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("PUT", "/v1/users/u1/preferences")], ids=["batch", "preferences"]
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"domain":"movies","user_ids":["a"],"k":NaN,"items":[NaN]}',
        b'{"domain":"movies","user_ids":["\\ud800"],"items":["\\ud800"]}',
        b'{"domain":"movies","user_ids":["a"],"items":["a"],"\\ud800":1}',
        b'{"domain":',
        b"[NaN]",
    ],
)
def test_a_body_that_json_cannot_echo_is_refused_as_any_other(api: Api, method: str, path: str, body: bytes) -> None:
    response = api.run(_sent(api, method, path, body))
    assert response.status_code == 422
    faults = response.json()["detail"]
    assert faults
    assert all(set(fault) == {"loc", "msg", "type"} and fault["loc"][0] == "body" for fault in faults)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("PUT", "/v1/users/u1/preferences")], ids=["batch", "preferences"]
)
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused(api: Api, method: str, path: str, declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 2**16

    response = api.run(_sent(api, method, path, b" " * (2**20 + 1) if declared else chunks()))
    assert response.status_code == 413
    assert response.json() == {"detail": "the body is larger than 1048576 bytes"}


async def _sent(api: Api, method: str, path: str, body: bytes | AsyncIterator[bytes]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
        return await client.request(method, path, content=body, headers={"content-type": "application/json"})
