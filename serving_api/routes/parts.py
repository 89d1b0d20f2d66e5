"""What handlers work with: the parts that `app.py` opened for this process."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fastapi import HTTPException, Request

from online_models.contracts.ids import ModelName
from online_models.ports import EventLog, ModelRegistry, RolloutStore
from serving_api.instruments import Instruments
from serving_api.reader import Reader
from serving_api.recommender import Recommender
from serving_api.settings import ServingSettings


@dataclass(frozen=True, slots=True)
class Parts:
    """The opened application; `clock` gives the present, `new_id` a fresh UUID."""

    settings: ServingSettings
    instruments: Instruments
    reader: Reader
    recommender: Recommender
    event_log: EventLog
    registry: ModelRegistry
    rollouts: RolloutStore
    clock: Callable[[], datetime]
    new_id: Callable[[], str]


def parts_of(request: Request) -> Parts:
    """The parts of the application that a request came to."""
    parts: Parts = request.app.state.parts
    return parts


def served_model(parts: Parts, domain: str) -> ModelName:
    """The model of a domain. Raises HTTPException 404 that names the known ones."""
    if domain not in parts.settings.domains:
        known = ", ".join(parts.settings.domains)
        raise HTTPException(404, f"unknown domain {domain[:64]!r}; known are {known}")
    return ModelName(domain)
