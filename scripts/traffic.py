"""The people of the demo as HTTP clients: they ask the running API for recommendations and post what they do with them.

Event time is the simulation's own: each step moves it forward, and the API is told (`at`, allowed by the demo's settings).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from scripts.simulate import World

CONCURRENCY: Final = 8
STEP_MS: Final = 120_000
"""Event time that passes in one step."""

USERS_PER_STEP: Final = 64
ORGANIC_PER_VISIT: Final = 3
MOVIES_SHARE: Final = 0.7


@dataclass(slots=True)
class Rates:
    """Outcomes of one domain in one phase of the story."""

    requests: int = 0
    hits: int = 0
    impressions: int = 0
    clicks: int = 0

    def add(self, shown: int, clicks: int) -> None:
        """Count one answered request."""
        self.requests += 1
        self.hits += clicks > 0
        self.impressions += shown
        self.clicks += clicks

    @property
    def hit_rate(self) -> float:
        """Share of requests with at least one click."""
        return self.hits / self.requests if self.requests else 0.0

    @property
    def ctr(self) -> float:
        """Clicks per shown item."""
        return self.clicks / self.impressions if self.impressions else 0.0


@dataclass(slots=True)
class Traffic:
    """Everybody's visits so far. `phase` names where new outcomes are counted, per domain."""

    worlds: dict[str, World]
    base_url: str
    now_ms: int
    rng: np.random.Generator
    phase: str = "warm_up"
    rates: dict[tuple[str, str], Rates] = field(default_factory=dict)
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    events: int = 0

    def rates_of(self, domain: str, phase: str) -> Rates:
        """Outcomes of a domain in a phase."""
        return self.rates.setdefault((domain, phase), Rates())

    async def step(self, client: httpx.AsyncClient) -> None:
        """One step of everybody: visits side by side, then all that they did in one post."""
        names = list(self.worlds)
        domains = self.rng.choice(names, size=USERS_PER_STEP, p=[MOVIES_SHARE, 1 - MOVIES_SHARE])
        visits = [
            (self.worlds[domain], int(self.rng.integers(self.worlds[domain].plan.users)), self._moment())
            for domain in domains
        ]
        gate = asyncio.Semaphore(CONCURRENCY)
        reactions = await asyncio.gather(*(self._visit(client, gate, *visit) for visit in visits))
        events = [event for reaction in reactions for event in reaction]
        for world, user, moment in visits:
            events += [world.organic(user, moment) for _ in range(ORGANIC_PER_VISIT)]
        await self._post(client, sorted(events, key=lambda event: int(str(event["ts"]))))
        self.now_ms += STEP_MS

    def _moment(self) -> int:
        return self.now_ms + int(self.rng.integers(STEP_MS))

    async def _visit(
        self, client: httpx.AsyncClient, gate: asyncio.Semaphore, world: World, user: int, moment: int
    ) -> list[dict[str, object]]:
        url = f"{self.base_url}/v1/recommendations/{world.user_id(user)}"
        async with gate:
            answer = await self._json(client, "GET", url, params={"domain": world.plan.name, "k": 10, "at": moment})
        if answer is None:
            return []
        shown = [item["item_id"] for item in answer["items"]]
        events: list[dict[str, object]]
        events, clicks = world.react(user, shown, answer["request_id"], moment)
        self.rates_of(world.plan.name, self.phase).add(len(shown), clicks)
        return events

    async def _post(self, client: httpx.AsyncClient, events: list[dict[str, object]]) -> None:
        self.events += len(events)
        await self._json(client, "POST", f"{self.base_url}/v1/events", json=events)

    async def _json(self, client: httpx.AsyncClient, method: str, url: str, **request: Any) -> Any:
        """The answer's JSON; a failure is counted and remembered, and gives None."""
        self.requests += 1
        try:
            response = await client.request(method, url, **request)
            response.raise_for_status()
        except httpx.HTTPError as error:
            self.failed.append(f"{method} {url}: {error!r}")
            return None
        return response.json()
