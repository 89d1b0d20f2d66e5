"""Seeded event logs: the same seed and size give the same bytes on every machine.

- `ratings`: like MovieLens latest-small in what a replay's cost depends on: 165 ratings a user in few sittings,
  a long tail of items, a day in four without any event, one to five genres an item.
- `mixed`: like a live log: requests with ten impressions, some clicked and consumed, in two domains.

Those of many rows are made by columns, in `wide_workloads`.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from online_models.contracts.events import Event, EventType, FeatureValue

GENRES: Final = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
CATEGORIES: Final = ("Kitchen", "Garden", "Toys", "Lighting", "Stationery", "Textiles")

START_MS: Final = 828_124_615_000
"""1996-03-29, when MovieLens latest-small begins."""

_YEARS_MS: Final = 22 * 365 * 86_400_000
_RATINGS_PER_USER: Final = 165
_ITEMS: Final = 9_700
_SHOWN: Final = 10
_REQUEST_EVERY_MS: Final = 2_000
_WRITE_ROWS: Final = 8_192


def ratings(count: int, seed: int) -> Iterator[Event]:
    """That many ratings in time order."""
    rng = np.random.default_rng(seed)
    users = max(1, count // _RATINGS_PER_USER)
    # Activity is spread like a log-normal; items like a power law.
    activity = rng.lognormal(0.0, 1.2, users)
    user = np.sort(rng.choice(users, count, p=activity / activity.sum()))
    item = np.minimum(rng.zipf(1.3, count) * rng.integers(1, 40, count), _ITEMS)
    sitting = rng.integers(0, _YEARS_MS, (users, 7))[user, rng.integers(0, 7, count)]
    ts_ms = START_MS + (sitting + rng.integers(0, 3_600_000, count)) // 1000 * 1000
    stars = rng.integers(1, 11, count) / 2
    genres = [_genres(rng) for _ in range(_ITEMS + 1)]
    for row in np.argsort(ts_ms, kind="stable").tolist():
        yield Event(
            event_id=_uuid(rng),
            type=EventType.RATING,
            user_id=str(user[row]),
            item_id=str(item[row]),
            ts=int(ts_ms[row]),
            domain="movies",
            value=float(stars[row]),
            features={"genres": genres[item[row]]},
        )


def _genres(rng: np.random.Generator) -> list[str]:
    several = rng.choice(len(GENRES), rng.integers(1, 6), replace=False)
    return [GENRES[genre] for genre in sorted(several.tolist())]


def mixed(count: int, seed: int) -> Iterator[Event]:
    """That many events of a live log in time order."""
    rng = np.random.default_rng(seed)
    written, request = 0, 0
    while written < count:
        events = _request(rng, request)[: count - written]
        yield from events
        written, request = written + len(events), request + 1


def _request(rng: np.random.Generator, number: int) -> list[Event]:
    """One page of recommendations and what came of it, within the time to the next one."""
    domain, user = ("movies", "products")[number % 2], f"u{rng.integers(2_000)}"
    shown = rng.choice(1_200, _SHOWN, replace=False).tolist()
    seen: dict[str, FeatureValue] = {"stage": -1.0, "weight_bp": 0.0, "variant": "stable"}
    ts_ms = START_MS + number * _REQUEST_EVERY_MS

    def event(kind: EventType, item: int, after_ms: int, features: Mapping[str, FeatureValue], **more: object) -> Event:
        fields = {
            "event_id": _uuid(rng),
            "type": kind,
            "user_id": user,
            "item_id": f"{domain}-{item}",
            "domain": domain,
        }
        answer = {"ts": ts_ms + after_ms, "request_id": f"r{number}", "features": dict(features)}
        return msgspec.convert({**fields, **answer, **more}, Event)

    events = [
        event(EventType.IMPRESSION, item, 0, seen, position=at, model_version="v1") for at, item in enumerate(shown)
    ]
    if rng.random() < 0.4:
        item = shown[int(rng.integers(_SHOWN))]
        label: dict[str, FeatureValue] = (
            {"genres": [GENRES[item % len(GENRES)]]}
            if domain == "movies"
            else {"category": CATEGORIES[item % len(CATEGORIES)]}
        )
        consumed = EventType.WATCH if domain == "movies" else EventType.PURCHASE
        events.append(event(EventType.CLICK, item, 500, label))
        events.append(event(consumed, item, 1_000, label, value=float(rng.gamma(2.0, 900.0))))
    return events


def _uuid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


WORKLOADS: Final[Mapping[str, Callable[[int, int], Iterator[Event]]]] = {"ratings": ratings, "mixed": mixed}


def write_log(events: Iterator[Event], path: Path) -> None:
    """Write events as NDJSON."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as log:
        while rows := [event for _, event in zip(range(_WRITE_ROWS), events, strict=False)]:
            log.write(encoder.encode_lines(rows))
