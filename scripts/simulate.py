"""A seeded world of users with tastes, who react to what they are shown: the stand-in for people in the demo.

- Items belong to clusters (what is liked together) and carry a genre or category (what they are called).
- A user likes a few clusters. A shown item is clicked with a chance that grows with the liking of its cluster.
- A shift moves most items to other clusters and makes other clusters popular: what used to go together no longer does.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

ORGANIC_FAVOUR: Final = 0.85
"""Share of items found without us that come from a liked cluster; the rest is chance."""

TITLE_TELLS: Final = 0.8
"""Share of items whose title tells their cluster."""


@dataclass(frozen=True, slots=True)
class DomainPlan:
    """Size and words of one domain. `consumed` is the event that follows a click; its value is about `value` on average."""

    name: str
    users: int
    items: int
    clusters: int
    labels: tuple[str, ...]
    label_feature: str
    consumed: str
    value: float
    nouns: tuple[str, ...]


MOVIES: Final = DomainPlan(
    name="movies",
    users=600,
    items=1200,
    clusters=16,
    labels=("Drama", "Comedy", "Thriller", "Romance", "Sci-Fi", "Horror", "Western", "Documentary"),
    label_feature="genres",
    consumed="watch",
    value=3600.0,
    nouns=("River", "Winter", "Letter", "Garden", "Station", "Harbour", "Mirror", "Summer", "Shadow", "Orchard"),
)
PRODUCTS: Final = DomainPlan(
    name="products",
    users=400,
    items=900,
    clusters=12,
    labels=("Kitchen", "Garden", "Toys", "Lighting", "Stationery", "Textiles"),
    label_feature="category",
    consumed="purchase",
    value=25.0,
    nouns=("Lantern", "Basket", "Kettle", "Cushion", "Notebook", "Candle", "Mug", "Blanket", "Tray", "Clock"),
)
ADJECTIVES: Final = (
    "Silent", "Golden", "Last", "Hidden", "Northern", "Little", "Broken", "Blue", "Distant", "Paper", "Early", "Wild",
)  # fmt: skip


class World:
    """One domain's people and things.

    affinity : float64 (users, clusters), how much a user likes a cluster, rows sum to 1
    cluster : int64 (items,), which cluster an item belongs to now
    """

    def __init__(self, plan: DomainPlan, seed: int) -> None:
        self.plan = plan
        self._rng = np.random.default_rng([seed, plan.users])
        self.cluster = self._rng.integers(plan.clusters, size=plan.items)
        self._label = self.cluster * len(plan.labels) // plan.clusters
        self._nouns = self._called()
        self.affinity = self._tastes(np.arange(plan.clusters))
        self._consumed = np.zeros((plan.users, plan.items), dtype=bool)

    def _called(self) -> list[str]:
        """A noun for each item, four in five after its cluster: what is liked together is called alike, until tastes shift."""
        nouns, rng = self.plan.nouns, np.random.default_rng(self.plan.items)
        chance = rng.integers(len(nouns), size=self.plan.items)
        after_cluster = rng.random(self.plan.items) < TITLE_TELLS
        return [nouns[row] for row in np.where(after_cluster, self.cluster % len(nouns), chance).tolist()]

    def _tastes(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Three liked clusters per user; clusters early in `order` are liked by more users."""
        plan = self.plan
        share = 0.8 ** np.argsort(order)
        affinity = np.full((plan.users, plan.clusters), 0.1 / plan.clusters)
        for row in affinity:
            liked = self._rng.choice(plan.clusters, size=3, replace=False, p=share / share.sum())
            row[liked] += (0.45, 0.30, 0.15)
        return affinity

    def shift(self) -> None:
        """Move four items in five to other clusters, and make the least popular clusters the most popular."""
        moved = self._rng.random(self.plan.items) < 0.8
        self.cluster[moved] = self._rng.integers(self.plan.clusters, size=int(moved.sum()))
        self.affinity = self._tastes(np.arange(self.plan.clusters)[::-1].copy())

    def catalogue(self) -> list[dict[str, object]]:
        """Catalogue lines: item_id, domain, title, categories."""
        plan = self.plan
        return [
            {
                "item_id": self.item_id(item),
                "domain": plan.name,
                "title": f"{ADJECTIVES[item % len(ADJECTIVES)]} {self._nouns[item]} {item // 120 + 1}",
                "categories": [plan.labels[self._label[item]]],
            }
            for item in range(plan.items)
        ]

    def item_id(self, item: int) -> str:
        """Identifier of the item in row `item`."""
        return f"{self.plan.name[0]}{item}"

    def user_id(self, user: int) -> str:
        """Identifier of the user in row `user`."""
        return f"u{user}"

    def organic(self, user: int, ts_ms: int) -> dict[str, object]:
        """The user finds and consumes an unseen item without our help."""
        weights = np.where(self._consumed[user], 1e-9, self.affinity[user, self.cluster])
        if self._rng.random() > ORGANIC_FAVOUR:
            weights = np.where(self._consumed[user], 1e-9, 1.0)
        item = int(self._rng.choice(self.plan.items, p=weights / weights.sum()))
        return self._consume(user, item, ts_ms, None, None)

    def react(
        self, user: int, shown: Sequence[str], request_id: str, ts_ms: int
    ) -> tuple[list[dict[str, object]], int]:
        """Events that follow when a user is shown items, best first; and how many items were clicked."""
        events: list[dict[str, object]] = []
        clicks = 0
        for position, name in enumerate(shown):
            item = int(name[1:])
            chance = 0.005 + 0.25 * self.affinity[user, self.cluster[item]]
            if self._consumed[user, item] or self._rng.random() >= chance:
                continue
            clicks += 1
            moment = ts_ms + 1000 * (position + 1)
            events.append(self._event("click", user, item, moment, request_id, position))
            events.append(self._consume(user, item, moment + 1000, request_id, position))
        return events, clicks

    def _consume(
        self, user: int, item: int, ts_ms: int, request_id: str | None, position: int | None
    ) -> dict[str, object]:
        self._consumed[user, item] = True
        event = self._event(self.plan.consumed, user, item, ts_ms, request_id, position)
        liking = 0.5 + self.affinity[user, self.cluster[item]]
        return {**event, "value": round(float(self.plan.value * liking * self._rng.gamma(4.0, 0.25)), 2)}

    def _event(
        self, kind: str, user: int, item: int, ts_ms: int, request_id: str | None, position: int | None
    ) -> dict[str, object]:
        label = self.plan.labels[self._label[item]]
        answer = {"request_id": request_id, "position": position} if request_id else {}
        return {
            "event_id": str(uuid.UUID(bytes=self._rng.bytes(16), version=4)),
            "type": kind,
            "user_id": self.user_id(user),
            "item_id": self.item_id(item),
            "ts": ts_ms,
            "domain": self.plan.name,
            "features": {self.plan.label_feature: [label] if self.plan.label_feature == "genres" else label},
            **answer,
        }


def history(world: World, start_ms: int, end_ms: int, events_per_user: int, seed: int) -> list[dict[str, object]]:
    """A recorded log of organic events, sorted by time: what happened before we were there."""
    rng = np.random.default_rng([seed, world.plan.items])
    users = np.repeat(np.arange(world.plan.users), events_per_user)
    rng.shuffle(users)
    times = np.sort(rng.integers(start_ms, end_ms, size=len(users)))
    return [world.organic(user, ts_ms) for user, ts_ms in zip(users.tolist(), times.tolist(), strict=True)]


def encode(events: Sequence[dict[str, object]]) -> bytes:
    """NDJSON."""
    return b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)
