"""The API as a test meets it: the real application on real stores, over the ASGI transport."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from online_models.contracts.events import Event
from online_models.settings import StoreSettings
from online_models.stores.embedded import Endpoints
from serving_api.app import create_app
from serving_api.reader import Reader
from serving_api.routes.parts import Parts
from serving_api.settings import ServingSettings

FAST = ServingSettings(poll_seconds=0.05, catalogue_refresh_seconds=0.0, stage_min_seconds=0.0)


class Api:
    """A started application; requests run on its event loop, one at a time."""

    def __init__(self, runner: asyncio.Runner, client: httpx.AsyncClient, parts: Parts) -> None:
        self._runner = runner
        self._client = client
        self.parts = parts

    @property
    def reader(self) -> Reader:
        return self.parts.reader

    def get(self, path: str) -> httpx.Response:
        return self._runner.run(self._client.get(path))

    def post(self, path: str, content: bytes) -> httpx.Response:
        return self._runner.run(self._client.post(path, content=content))

    def recommend(self, user: str, query: str = "domain=movies") -> dict[str, object]:
        response = self.get(f"/v1/recommendations/{user}?{query}")
        assert response.status_code == 200, response.text
        answer: dict[str, object] = response.json()
        return answer


@contextmanager
def started_api(store_settings: StoreSettings, settings: ServingSettings = FAST) -> Iterator[Api]:
    app = create_app(settings, store_settings)
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")
        try:
            yield Api(runner, client, app.state.parts)
        finally:
            runner.run(client.aclose())
            runner.run(lifespan.__aexit__(None, None, None))


def store_settings(endpoints: Endpoints, home: Path) -> StoreSettings:
    return StoreSettings(home=home, redis_url=endpoints.redis_url, postgres_dsn=endpoints.postgres_dsn)


def item_ids(answer: dict[str, object]) -> list[str]:
    items = answer["items"]
    assert isinstance(items, list)
    return [item["item_id"] for item in items]


def logged_events(home: Path) -> list[Event]:
    lines = [line for path in sorted((home / "events").glob("*")) for line in path.read_text().splitlines()]
    return [Event(**json.loads(line)) for line in lines]


def eventually(holds: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
