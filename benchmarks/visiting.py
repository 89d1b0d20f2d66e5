"""People who ask for recommendations and take what they like, as fast as the API answers, and what they saw."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

VISITORS: Final = 8
"""People at a time."""

TAKES: Final = 0.5
"""Share of the answers of which something is taken, whoever made them."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer. at : when it came, seconds of `perf_counter`; status : 0 where none came"""

    at: float
    status: int
    version: str | None = None
    variant: str = ""
    items: int = 0


@dataclass(slots=True)
class Crowd:
    """Visitors, each one request at a time; `seen` is appended to and never changed."""

    url: str
    domain: str
    users: int
    seed: int
    seen: list[Seen] = field(default_factory=list)

    async def visit(self, stop: threading.Event) -> None:
        """Let them come and go until `stop` is set."""
        limits = httpx.Limits(max_connections=VISITORS)
        async with httpx.AsyncClient(base_url=self.url, timeout=10.0, limits=limits, trust_env=False) as client:
            await asyncio.gather(*(self._one(client, stop, random.Random(f"{self.seed} {n}")) for n in range(VISITORS)))

    async def _one(self, client: httpx.AsyncClient, stop: threading.Event, rng: random.Random) -> None:
        while not stop.is_set():
            user = f"u{rng.randrange(self.users)}"
            try:
                response = await client.get(f"/v1/recommendations/{user}?domain={self.domain}")
            except httpx.HTTPError:
                self.seen.append(Seen(time.perf_counter(), 0))
                continue
            now = time.perf_counter()
            if response.status_code != 200:
                self.seen.append(Seen(now, response.status_code))
                continue
            answer = response.json()
            self.seen.append(Seen(now, 200, answer["model_version"], answer["variant"], len(answer["items"])))
            if answer["items"] and rng.random() < TAKES:
                await self._take(client, user, answer, rng)

    async def _take(self, client: httpx.AsyncClient, user: str, answer: dict[str, object], rng: random.Random) -> None:
        items = answer["items"]
        assert isinstance(items, list)
        item = rng.choice(items)["item_id"]
        event = {"type": "click", "user_id": user, "item_id": item, "domain": self.domain}
        try:
            response = await client.post("/v1/events", json={**event, "request_id": answer["request_id"]})
            status = response.status_code
        except httpx.HTTPError:
            status = 0
        if status >= 300 or status == 0:
            self.seen.append(Seen(time.perf_counter(), status))


@contextmanager
def visiting(crowd: Crowd) -> Iterator[None]:
    """While it is open the crowd visits, from a thread of its own."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(crowd.visit(stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
