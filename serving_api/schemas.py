"""What goes over HTTP, for validation at the edge and for OpenAPI; requests and answers carry examples.

The hot path encodes `recommender.Answer` itself; a test holds `RecommendationAnswer` and it to the same fields.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from online_models.contracts.events import MAX_ID_LENGTH, EventType


class RecommendedItem(BaseModel):
    """One recommended item."""

    item_id: str
    title: str = Field(description="From the catalogue; the item's id while the catalogue does not know it.")
    categories: list[str]
    score: float | None = Field(description="Predicted preference; null where popularity placed the item.")
    rank: int = Field(ge=1)


class RecommendationAnswer(BaseModel):
    """Recommendations for one user."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "request_id": "0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e",
                "user_id": "1",
                "domain": "movies",
                "model_version": "v12",
                "variant": "canary",
                "source": "vector",
                "rollout_id": 3,
                "stage": 1,
                "degraded": False,
                "items": [
                    {
                        "item_id": "318",
                        "title": "Shawshank Redemption, The (1994)",
                        "categories": ["Crime", "Drama"],
                        "score": 0.93,
                        "rank": 1,
                    }
                ],
            }
        }
    )

    request_id: str = Field(description="Send it back with the clicks, watches and purchases that answer this.")
    user_id: str
    domain: str
    model_version: str | None = Field(description="Null when popularity answered.")
    variant: Literal["stable", "canary", "fallback"]
    source: Literal["vector", "factors", "fold_in", "popularity"]
    rollout_id: int | None = Field(description="The rollout that this answer counts for.")
    stage: int = Field(description="Stage of the rollout, from 0; -1 outside one.")
    degraded: bool = Field(description="Redis was away: answered from what the process holds.")
    items: list[RecommendedItem]


class EventIn(BaseModel):
    """One event to append. `event_id` and `ts` are filled in when they are missing."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "watch",
                "user_id": "1",
                "item_id": "318",
                "domain": "movies",
                "value": 5400,
                "request_id": "0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e",
                "features": {"genres": ["Crime", "Drama"]},
            }
        }
    )

    event_id: str | None = Field(None, description="UUID; the event is counted once however often it is sent.")
    type: EventType
    user_id: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    item_id: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    ts: int | str | None = Field(None, description="Epoch milliseconds or RFC 3339 with an offset.")
    domain: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    value: float | None = Field(None, description="Rating, seconds watched or amount, by type.")
    request_id: str | None = None
    position: int | None = Field(None, ge=0)
    model_version: str | None = None
    rollout_id: int | None = Field(None, ge=0)
    propensity: float | None = None
    features: dict[str, float | str | list[str]] | None = None


class EventsAccepted(BaseModel):
    """The events were appended, in the order sent."""

    model_config = ConfigDict(json_schema_extra={"example": {"event_ids": ["5f0c…", "8b1e…"]}})

    event_ids: list[str]


class EventFault(BaseModel):
    """Why one event is not acceptable."""

    index: int
    reason: str


class EventsRefused(BaseModel):
    """At least one event is not acceptable; none was appended."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "detail": "1 of 2 events refused, none appended",
                "errors": [{"index": 1, "reason": "Object missing required field `item_id`"}],
            }
        }
    )

    detail: str
    errors: list[EventFault]


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


class Readiness(BaseModel):
    """Whether this process should get requests, what is missing for that, and what makes its answers worse meanwhile."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"ready": False, "missing": ["movies v12: not loaded yet"], "degraded": []}}
    )

    ready: bool
    missing: list[str]
    degraded: list[str]


class ArmCounts(BaseModel):
    """What one arm did in one stage; users and successes are first exposures."""

    users: int
    successes: int
    requests: int
    hits: int
    impressions: int
    clicks: int


class StageReport(BaseModel):
    """Both arms in one stage."""

    stage: int
    canary: ArmCounts
    stable: ArmCounts


class RolloutReport(BaseModel):
    """A model's youngest rollout."""

    id: int
    model: str
    stable: str
    canary: str
    phase: str
    stage: int
    weight_bp: int
    epoch: int
    created_at: datetime
    stage_started_at: datetime
    stages: list[StageReport]


class VersionReport(BaseModel):
    """One registered version."""

    version: str
    created_at: datetime
    parent: str | None
    manifest_sha256: str
    metrics: dict[str, float]


class ModelReport(BaseModel):
    """A model's versions, oldest first, and which of them is the champion."""

    model: str
    champion: str | None
    versions: list[VersionReport]
