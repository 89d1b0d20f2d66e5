"""Small valid values of the contracts, for tests that need one and do not care which."""

import uuid
from collections.abc import Sequence

import numpy as np

from online_models.columns import MappingColumns
from online_models.contracts.artifacts import DataWindow, Manifest
from online_models.contracts.events import TYPE_CODES, Event, EventBatch, EventType, FeatureValue, timestamp_ms
from online_models.contracts.ids import ModelName, ModelVersion, hash64
from online_models.contracts.jobs import NewJob, TrainAls
from online_models.contracts.rollouts import Plan
from online_models.rollout_store import NewRollout

MOVIES = ModelName("movies")
SHA256 = "0" * 64


def event_id(number: int) -> str:
    return str(uuid.UUID(int=number, version=4))


def event(
    number: int,
    kind: EventType = EventType.RATING,
    *,
    user_id: str = "u1",
    item_id: str = "i1",
    ts: int = 1_767_225_600_000,
    domain: str = "movies",
    value: float | None = 4.0,
    request_id: str | None = None,
    model_version: str | None = None,
    features: dict[str, FeatureValue] | None = None,
) -> Event:
    return Event(
        event_id=event_id(number),
        type=kind,
        user_id=user_id,
        item_id=item_id,
        ts=ts,
        domain=domain,
        value=value,
        request_id=request_id,
        model_version=model_version,
        features=features,
    )


def batch(events: Sequence[Event], position: int = 0) -> EventBatch:
    values = [np.nan if event.value is None else event.value for event in events]
    domains = tuple(dict.fromkeys(event.domain for event in events))
    return EventBatch(
        events=events,
        event_hash=np.array([hash64(event.event_id) for event in events], np.uint64),
        user_hash=np.array([hash64(event.user_id) for event in events], np.uint64),
        item_hash=np.array([hash64(event.item_id) for event in events], np.uint64),
        type=np.array([TYPE_CODES[event.type] for event in events], np.int8),
        ts_ms=np.array([timestamp_ms(event.ts) for event in events], np.int64),
        value=np.array(values, np.float64),
        domain=np.array([domains.index(event.domain) for event in events], np.int16),
        domains=domains,
        requested=np.array([bool(event.request_id) for event in events], np.bool_),
        features=MappingColumns([event.features for event in events]),
        offset=np.arange(len(events)),
        source="test",
        position=position,
    )


def canary(stable: ModelVersion, version: ModelVersion, *, automatic: bool = True) -> NewRollout:
    """A canary's rollout to begin."""
    return NewRollout(MOVIES, stable, version, Plan(), automatic=automatic)


def manifest(version: str = "v1", model: ModelName = MOVIES) -> Manifest:
    return Manifest(
        model=model,
        version=ModelVersion(version),
        kind="als",
        created_at="2026-01-01T00:00:00Z",
        files=[],
        hyperparameters={"factors": 8.0, "regularization": 1e-05},
        metrics={"ndcg_at_10": 0.25},
        data_window=DataWindow(0, 1, 2),
        sketches=[],
        feature_spec_hash=SHA256,
        golden=[],
    )


def new_job(trigger_id: str = "t1", model: ModelName = MOVIES) -> NewJob:
    return NewJob(model, trigger_id, "psi of genres", TrainAls(factors=8))
