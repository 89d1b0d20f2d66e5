"""What goes over HTTP, for validation at the edge and for OpenAPI; requests and answers carry examples.

The hot path encodes `recommender.Answer` itself; a test holds `RecommendationAnswer` and it to the same fields.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from online_models.contracts.events import API_FEATURES, MAX_ID_LENGTH, EventType
from serving_api.reranking.explanations import Code
from serving_api.settings import MOST_BATCH_USERS
from serving_api.similar import Likeness

MOST_PREFERRED: Final = 100
"""Items, and categories, that a user may say to like."""

NO_NUL: Final = r"^[^\x00]+$"


class RecommendedItem(BaseModel):
    """One recommended item."""

    item_id: str
    title: str = Field(description="From the catalogue; the item's id while the catalogue does not know it.")
    categories: list[str]
    score: float | None = Field(description="Predicted preference; null where no model placed the item.")
    rank: int = Field(ge=1)
    reason: Code = Field(description="Why it is shown.")
    because: str | None = Field(
        description="The item of the user's history that the reason is about, where there is one."
    )


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
                "page_token": None,
                "items": [
                    {
                        "item_id": "318",
                        "title": "Shawshank Redemption, The (1994)",
                        "categories": ["Crime", "Drama"],
                        "score": 0.93,
                        "rank": 1,
                        "reason": "because_you_watched",
                        "because": "296",
                    }
                ],
            }
        }
    )

    request_id: str = Field(description="Send it back with the clicks, watches and purchases that answer this.")
    user_id: str
    domain: str
    model_version: str | None = Field(description="Null when popularity answered.")
    variant: Literal["stable", "canary", "arm", "fallback"]
    source: Literal["vector", "fold_in", "factors", "preferences", "neighbours", "popularity", "precomputed"]
    rollout_id: int | None = Field(
        description="The rollout that this answer counts for, of a fallback too; null where nobody is shown its canary."
    )
    stage: int = Field(description="Stage of the rollout, from 0; -1 outside one.")
    degraded: bool = Field(description="Redis was away: answered from what the process holds.")
    items: list[RecommendedItem]
    page_token: str | None = Field(
        description="Gives the next page of a list begun with `paged=true`; null on the last."
    )


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=NO_NUL)]


class BatchIn(BaseModel):
    """A request for the recommendations of many users."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"domain": "movies", "user_ids": ["1", "2"], "k": 10, "log_impressions": False}},
    )

    domain: str
    user_ids: list[Id] = Field(
        min_length=1, max_length=MOST_BATCH_USERS, description="The settings say how many at most."
    )
    k: int | None = Field(None, ge=1, description="How many items each; the settings say how many at most.")
    at: str | None = Field(None, description="Event time (epoch ms or RFC 3339), where the settings allow it.")
    log_impressions: bool = Field(False, description="Whether the items count as shown.")


class BatchAnswer(BaseModel):
    """The answers for many users, in the order asked."""

    answers: list[RecommendationAnswer]


class SimilarItem(BaseModel):
    """One similar item."""

    item_id: str
    title: str
    categories: list[str]
    score: float = Field(gt=0, le=1)
    rank: int = Field(ge=1)
    reason: Likeness = Field(description="What makes it similar, for the most part.")


class SimilarAnswer(BaseModel):
    """What is most like an item."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "item_id": "318",
                "domain": "movies",
                "model_version": "v12",
                "items": [
                    {
                        "item_id": "858",
                        "title": "Godfather, The (1972)",
                        "categories": ["Crime", "Drama"],
                        "score": 0.61,
                        "rank": 1,
                        "reason": "same_taste",
                    }
                ],
            }
        }
    )

    item_id: str
    domain: str
    model_version: str | None = Field(description="Whose vectors were compared; null while no version is loaded.")
    items: list[SimilarItem]


class PreferencesIn(BaseModel):
    """What a user says they like in a domain; at least one item or category."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"domain": "movies", "items": ["318", "858"], "categories": ["Crime"]}},
    )

    domain: str
    items: list[Id] = Field(default=[], max_length=MOST_PREFERRED, description="Liked items, best liked last.")
    categories: list[Id] = Field(default=[], max_length=MOST_PREFERRED, description="As the catalogue spells them.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.items and not self.categories:
            raise ValueError("expected at least one item or category; DELETE forgets what was said")
        return self


class PreferencesAnswer(BaseModel):
    """What is kept of a user's preferences."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": "1",
                "domain": "movies",
                "items": ["318", "858"],
                "categories": ["Crime"],
                "unknown_items": [],
                "unknown_categories": [],
            }
        }
    )

    user_id: str
    domain: str
    items: list[str]
    categories: list[str]
    unknown_items: list[str] = Field(description="Those that neither the catalogue nor a version knows now.")
    unknown_categories: list[str] = Field(description="Those that no item of the catalogue has now.")


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
    rollout_id: int | None = Field(None, ge=0, description="As the answer said; not of an impression.")
    propensity: float | None = None
    features: dict[str, float | str | list[str]] | None = Field(
        None, description=f"An impression's are none of {', '.join(sorted(API_FEATURES))}: those the API logs itself."
    )


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
