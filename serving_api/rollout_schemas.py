"""What operators send and are told over HTTP, for validation at the edge and for OpenAPI.

- A body with a field that nobody knows is refused: a misspelt `stages` must not start a rollout with the settings' own.
- Numbers are bounded so that no rollout carries one that a clock or the database cannot hold.
"""

from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from online_models.contracts.rollouts import FULL_WEIGHT_BP, MOST_STAGES, WhenOverdue
from serving_api.rollouts.plans import MOST_ARMS

LATEST: Final = "latest candidate"
LONGEST_SECONDS: Final = 315_360_000.0
"""Ten years."""

ONE_LINE: Final = r"^[^\x00-\x1f\x7f]+$"

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=500, pattern=ONE_LINE),
    Field(description="Why, for the audit trail.", examples=["complaints about stale lists"]),
]
Version = Annotated[str, StringConstraints(pattern=r"^v[0-9]{1,18}$"), Field(examples=["v12"])]
Users = Annotated[int, Field(ge=0, le=1_000_000_000)]
Gate = (
    Annotated[int, Field(ge=0, le=1_000_000_000)]
    | Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    | Annotated[str, StringConstraints(max_length=64)]
)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


MARGIN: Final = (
    "Relative loss to exclude before the weight rises. Of a canary and an A/A it is by default, and at most, the gate's margin "
    "over the share of users who come next; the whole margin is for the last stage that tells much of it."
)


class StageIn(_Body):
    """One stage, see `contracts.rollouts.Stage`."""

    weight_bp: int = Field(ge=0, lt=FULL_WEIGHT_BP, description="Share of users on the canary, in basis points.")
    shadow: bool = Field(False, description="Scored on live requests and never shown.")
    min_users: Users = 100
    min_stable_users: Users = 20
    min_seconds: float = Field(60.0, ge=0, le=LONGEST_SECONDS)
    max_seconds: float = Field(86_400.0, gt=0, le=LONGEST_SECONDS)
    margin: float | None = Field(None, gt=0, lt=1, description=MARGIN)
    when_overdue: WhenOverdue = WhenOverdue.HOLD


class StartIn(_Body):
    """A rollout to start."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"canary": "v12", "kind": "canary", "reason": "retrained on the new catalogue"}}
    )

    kind: Literal["canary", "ab", "aa", "bandit"] = "canary"
    canary: Version | Literal["latest candidate"] | None = Field(
        None,
        description="A version; by default, and as `latest candidate`, the youngest that waits. None in an A/A or a bandit.",
    )
    arms: list[Version] | None = Field(
        None, min_length=2, max_length=MOST_ARMS, description="Of a bandit, in any order, the champion among them."
    )
    stages: list[StageIn] | None = Field(
        None, min_length=1, max_length=MOST_STAGES, description="In place of the settings'."
    )
    gate: dict[Annotated[str, StringConstraints(max_length=64)], Gate] | None = Field(
        None, max_length=64, description="What differs from the settings' policy, see `contracts.rollouts.Policy`."
    )
    reason: Reason

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.arms is not None) != (self.kind == "bandit"):
            raise ValueError("arms: expected of a bandit, and of nothing else")
        if self.arms is not None and len(set(self.arms)) < len(self.arms):
            raise ValueError("arms: expected different versions")
        if self.canary is not None and self.kind in ("aa", "bandit"):
            raise ValueError(f"canary: expected none in a rollout of kind {self.kind}")
        return self


class OrderIn(_Body):
    """Why a rollout is to change."""

    reason: Reason


class RollbackIn(_Body):
    """The version to return to, and why."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"version": "previous", "reason": "v12 shows what was sold out"}}
    )

    version: Version | Literal["previous"] = Field(
        description="`previous` is the one that the last promotion replaced."
    )
    reason: Reason


class ArmReport(BaseModel):
    """One version of a bandit and its share of the users."""

    version: str
    weight_bp: int


class RolloutFacts(BaseModel):
    """Where a rollout stands."""

    id: int
    model: str
    kind: str
    stable: str
    canary: str
    phase: str
    stage: int = Field(description="Index into the plan's stages; -1 while readers load the canary.")
    weight_bp: int
    epoch: int = Field(description="The ETag, for If-Match.")
    created_at: datetime
    stage_started_at: datetime
    arms: list[ArmReport]


class OrderReport(RolloutFacts):
    """The rollout as it is after an operator's call."""

    routed: bool = Field(description="Readers are told; false while Redis is away: the controller tells them later.")


class StartReport(OrderReport):
    """A started rollout, and how long it will take at this traffic."""

    forecast: dict[str, object] = Field(description="Expected users and days; `warnings` where they may not be enough.")


class PlanReport(BaseModel):
    """What a rollout goes through, and what it is judged by."""

    stages: list[dict[str, bool | int | float | str | None]] = Field(description="See `StageIn`.")
    policy: dict[str, int | float | str]


class VariantCountsReport(BaseModel):
    """What one version did as one variant in one stage; users and successes are first exposures."""

    variant: str
    version: str
    users: int
    successes: int
    requests: int
    hits: int
    impressions: int
    clicks: int
    stage_users: int
    first_items: int
    repeats: int


class ServedReport(BaseModel):
    """What readers say that the requests of one variant in one stage came to."""

    variant: str = Field(description="`stable`, `canary`, or of a bandit `arm:<version>`.")
    requests: int
    errors: int
    empty: int
    fallbacks: int
    stood_in: int = Field(0, description="Fallbacks because the version was not held or raised.")
    slow: int
    users: int
    user_errors: int
    user_empty: int
    user_fallbacks: int
    user_slow: int
    latency: list[int] = Field(description="Requests by bucket of latency.")
    compared: int
    overlap: float
    first_same: int
    dropped: int


class StageReport(BaseModel):
    """All variants in one stage."""

    stage: int
    counts: list[VariantCountsReport]
    served: list[ServedReport]


class VerdictReport(BaseModel):
    """What the gates say now; the controller would see the same."""

    verdict: str = Field(description="Successful, Failed, Inconclusive or Error.")
    reason: str
    evidence: dict[str, object]


class EventReport(BaseModel):
    """One row of the audit trail."""

    id: int
    epoch: int
    from_phase: str | None
    to_phase: str
    from_stage: int | None
    to_stage: int
    weight_bp: int
    actor: str
    reason: str
    evidence: dict[str, object]
    created_at: datetime


class RolloutReport(RolloutFacts):
    """A model's youngest rollout."""

    plan: PlanReport
    stages: list[StageReport]
    judged: VerdictReport | None = Field(description="Null of a rollout that is final, or not judged by these gates.")
    outlook: str = Field(description="What it waits for, or what the next tick makes of it.")
    last_event: EventReport = Field(description="What brought it where it is.")


class RolloutHistory(RolloutFacts):
    """One rollout and all that happened to it, oldest first."""

    events: list[EventReport]


class HistoryReport(BaseModel):
    """A model's rollouts, youngest first."""

    model: str
    rollouts: list[RolloutHistory]


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
