"""What handlers work with: the parts that `app.py` opened for this process, and parameters that several routes have."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import HTTPException, Query, Request

from online_models.contracts.events import TimeBounds, timestamp_ms
from online_models.contracts.ids import ModelName
from online_models.errors import StoreError
from online_models.ports import EventLog, KeyStore, ServingStore
from serving_api.instruments import Instruments
from serving_api.reader import Reader
from serving_api.recommender import Recommender
from serving_api.rollouts.operations import Operations
from serving_api.rollouts.readiness import RolloutStores
from serving_api.settings import ServingSettings

Domain = Annotated[str, Query(examples=["movies"])]
Count = Annotated[int | None, Query(ge=1, description="How many items; the settings say how many at most.")]


@dataclass(frozen=True, slots=True)
class Parts:
    """The opened application; `clock` gives the present, `new_id` a fresh UUID."""

    settings: ServingSettings
    instruments: Instruments
    reader: Reader
    recommender: Recommender
    kept: ServingStore
    event_log: EventLog
    keys: KeyStore
    operated: RolloutStores
    operations: Operations
    clock: Callable[[], datetime]
    new_id: Callable[[], str]


def parts_of(request: Request) -> Parts:
    """The parts of the application that a request came to."""
    parts: Parts = request.app.state.parts
    return parts


@contextmanager
def store_errors_as_503(prefix: str = "") -> Iterator[None]:
    """A StoreError within becomes HTTPException 503, the prefix before its message."""
    try:
        yield
    except StoreError as error:
        raise HTTPException(503, f"{prefix}{error}") from error


def served_model(parts: Parts, domain: str) -> ModelName:
    """The model of a domain. Raises HTTPException 404 that names the known ones."""
    if domain not in parts.settings.domains:
        known = ", ".join(parts.settings.domains)
        raise HTTPException(404, f"unknown domain {domain[:64]!r}; known are {known}")
    return ModelName(domain)


def wanted_items(parts: Parts, k: int | None) -> int:
    """How many items are asked for. Raises HTTPException 422 for more than the settings allow."""
    wanted = parts.settings.default_k if k is None else k
    if wanted > parts.settings.max_k:
        raise HTTPException(422, f"k: expected 1 to {parts.settings.max_k}, got {wanted}")
    return wanted


def now_ms(parts: Parts) -> int:
    """The time by the application's clock, epoch milliseconds."""
    return round(parts.clock().timestamp() * 1000)


def event_time_ms(parts: Parts, at: str | None) -> int:
    """The event time of a request, epoch milliseconds. Raises HTTPException 422 where it may not be given, is none,
    or is not believed."""
    if at is None:
        return now_ms(parts)
    if not parts.settings.allow_event_time:
        raise HTTPException(422, "at: not allowed here; set PENSTOCK_SERVING_ALLOW_EVENT_TIME for simulations")
    try:
        ts_ms = timestamp_ms(int(at) if at.lstrip("-").isdecimal() else at)
    except (ValueError, OverflowError) as error:
        raise HTTPException(422, f"at: {error}") from error
    bounds = time_bounds(parts)
    if not bounds.earliest_ms <= ts_ms <= bounds.latest_ms:
        believed = f"{parts.settings.earliest} to {parts.settings.future_skew_seconds} s from now"
        raise HTTPException(422, f"at: expected from {believed}, got {ts_ms} ms")
    return ts_ms


def time_bounds(parts: Parts) -> TimeBounds:
    """What event times are believed now, of requests as of events."""
    skew_ms = parts.settings.future_skew_seconds * 1000
    return TimeBounds(_earliest_ms(parts.settings.earliest), now_ms(parts) + skew_ms)


@functools.lru_cache(8)
def _earliest_ms(earliest: str) -> int:
    return timestamp_ms(earliest)
