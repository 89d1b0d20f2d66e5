"""The API as a test meets it: the real application on real stores, over the ASGI transport."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import httpx
from fastapi import FastAPI
from starlette.types import Message, Scope

from online_models.contracts.events import Event
from online_models.settings import StoreSettings
from online_models.stores.embedded import Endpoints
from serving_api.access import Role, new_key
from serving_api.app import create_app
from serving_api.reader import Reader
from serving_api.routes.parts import Parts
from serving_api.settings import ServingSettings

T = TypeVar("T")
Headers = Mapping[str, str]

FAST = ServingSettings(poll_seconds=0.05, catalogue_refresh_seconds=0.0, stage_min_seconds=0.0)


class Api:
    """A started application; requests run on its event loop, one at a time."""

    def __init__(self, runner: asyncio.Runner, app: FastAPI) -> None:
        self._runner = runner
        self.app = app
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")
        self.parts: Parts = app.state.parts

    @property
    def reader(self) -> Reader:
        return self.parts.reader

    def get(self, path: str, headers: Headers | None = None) -> httpx.Response:
        return self._runner.run(self._client.get(path, headers=headers))

    def together(self, paths: Sequence[str]) -> list[httpx.Response]:
        """The answers to requests that are under way at the same time."""

        async def all_of() -> list[httpx.Response]:
            return await asyncio.gather(*map(self._client.get, paths))

        return self._runner.run(all_of())

    def raw(
        self, path: str, query: bytes, method: str = "GET", root_path: str = ""
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body for a decoded path and any bytes of a query, also those that no client would send."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        asked = {"method": method, "path": path, "query_string": query, "root_path": root_path}
        scope: Scope = {"type": "http", "headers": [], **asked}
        self._runner.run(self.app(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])

    def run(self, work: Coroutine[object, object, T]) -> T:
        """What comes of something that asks the application itself, on its event loop."""
        return self._runner.run(work)

    def close(self) -> None:
        self._runner.run(self._client.aclose())

    def post(self, path: str, content: bytes, headers: Headers | None = None) -> httpx.Response:
        return self._runner.run(self._client.post(path, content=content, headers=headers))

    def send(self, method: str, path: str, body: object = None, headers: Headers | None = None) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, json=body, headers=headers))

    def sent_together(self, path: str, body: object, headers: Headers, count: int) -> list[httpx.Response]:
        """The answers to the same POST, sent so often at the same time."""

        async def all_of() -> list[httpx.Response]:
            return await asyncio.gather(*(self._client.post(path, json=body, headers=headers) for _ in range(count)))

        return self._runner.run(all_of())

    def key_of(self, role: Role, name: str = "tester", expires_at: datetime | None = None) -> dict[str, str]:
        """Headers with a fresh key of a role."""
        text, key = new_key(name, role, datetime.now(UTC), expires_at, secrets.token_bytes)
        self.parts.keys.put_key(key)
        return {"Authorization": f"Bearer {text}"}

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
        api = Api(runner, app)
        try:
            yield api
        finally:
            api.close()
            runner.run(lifespan.__aexit__(None, None, None))


def store_settings(endpoints: Endpoints, home: Path) -> StoreSettings:
    return StoreSettings(home=home, redis_url=endpoints.redis_url, postgres_dsn=endpoints.postgres_dsn)


def item_ids(answer: dict[str, object]) -> list[str]:
    items = answer["items"]
    assert isinstance(items, list)
    return [item["item_id"] for item in items]


def logged_events(home: Path, at_least: int = 0) -> list[Event]:
    """What is on the event log, once it is that many events: impressions come behind their answers."""

    def lines() -> list[str]:
        return [line for path in sorted((home / "events").glob("*")) for line in path.read_text().splitlines()]

    eventually(lambda: len(lines()) >= at_least, f"{at_least} events are logged")
    return [Event(**json.loads(line)) for line in lines()]


def eventually(holds: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
