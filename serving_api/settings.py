"""Settings of the API and of the rollout controller: `[serving]`, environment prefix `PENSTOCK_SERVING_`."""

import os
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from typing import ClassVar, Final, Literal, Self

import msgspec
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from online_models.contracts.rollouts import Plan, Policy, WhenOverdue
from online_models.settings import Settings
from serving_api.rollouts.ramp import Pace, ramp
from serving_api.rules import Reranking, Rule

Mode = Literal["realtime", "hybrid", "precomputed"]
"""Who is answered by ranking and who from a list, see `modes`."""

MOST_BATCH_USERS: Final = 10_000
"""Most users that the settings may let one request ask for."""


def policy_of(gate: Mapping[str, int | float | str]) -> Policy:
    """The default policy but for what is given. Raises ValueError for a field that nobody knows, or a value that is none."""
    unknown = sorted(set(gate) - set(Policy.__struct_fields__))
    if unknown:
        known = ", ".join(Policy.__struct_fields__)
        raise ValueError(f"unknown field `{unknown[0]}`, expected some of {known}")
    return msgspec.convert(gate, Policy)


class ServingSettings(Settings):
    """How recommendations are answered, and how a candidate reaches users.

    host, port : where the API listens
    workers : processes that answer there, each with a reader of its own
    domains : the domains that are served, each by the model of its name
    default_k, max_k : items in an answer when `k` is not given; most that may be asked for
    mode : `realtime` ranks on every request; `hybrid` answers users who are not active from their precomputed list, where there
        is one; `precomputed` answers everybody so who has a list
    active_seconds : a user is active until the newest thing known of them is older, in event time
    precomputed_seconds : how long lists of `precompute` are kept
    session_items, session_seconds : most items that the pages of one list have together; how long its next page can be asked for
    batch_users : most users of one request for many
    max_body_bytes : a larger request body is refused (413)
    earliest : events, and requests with an event time, before this RFC 3339 time are refused
    future_skew_seconds : those later than the clock by more are refused
    allow_event_time : let requests give their event time as `at`; for simulations only
    poll_seconds : how often routes, new items and popularity are read, and readiness is reported
    redis_timeout_seconds : a read that takes longer is answered from what the process holds
    last_known_bytes : memory for what was last read of users, which answers while Redis does not
    impression_queue : answers whose impressions may wait for the event log
    impression_wait_seconds : a request that finds the queue full waits for so long; then its impressions count as lost
    catalogue_refresh_seconds : least time between two reads of the catalogue, when a title is missing; else it is a minute
    retire_seconds : a version that no route names any more is kept warm for so long
    shadow_share : share of requests that a version in the shadow is scored on; each costs about what ranking costs once more
    reranking, rules : how lists are made more varied and what an operator says about them (tables `[serving.reranking]` and
        `[[serving.rules]]`), see `rules`
    api_key : what operators' commands (`rollout ...`) say to the API; `keys create` makes one
    control_seconds : pause between two ticks of the rollout controller
    control_fast_seconds : and between two looks at the breakers; a canary that fails is off within about this and `poll_seconds`
    shadow_requests : requests that a candidate is scored on without being shown, before anybody meets it; 0 for none
    stage_percents : share of users on the canary, stage by stage
    holdback_percent : users who stay on stable in the last stage, so that harm, a collapse and guardrails can be judged there too
    stage_min_users, stage_min_stable_users : users of each arm in a stage before it may pass
    stage_min_seconds, stage_max_seconds : shortest duration of a stage; longest before it is overdue
    stage_overdue : what becomes of an overdue rollout: `hold` says so and waits, `roll_back` ends it
    bake_seconds : shortest duration of the last stage, and how much longer than others it may last
    gate : what of `contracts.rollouts.Policy` differs from its defaults (table `[serving.gate]`, JSON in the environment)
    bandit_seconds : least time between two changes of a bandit's weights
    bandit_min_requests : requests of each of its arms before the first; of impressions where `gate.metric` is `ctr`
    bandit_floor : least share of users of each arm
    bandit_half_life_seconds : of what a bandit has seen, in event time
    """

    section: ClassVar[str] = "serving"
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="PENSTOCK_SERVING_")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, lt=65_536)
    workers: int = Field(1, ge=1, le=256)
    domains: tuple[str, ...] = Field(("movies", "products"), min_length=1)
    default_k: int = Field(10, ge=1)
    max_k: int = Field(100, ge=1, le=10_000)
    mode: Mode = "realtime"
    active_seconds: float = Field(1_800.0, ge=0)
    precomputed_seconds: float = Field(172_800.0, ge=1)
    session_items: int = Field(200, ge=1, le=10_000)
    session_seconds: float = Field(1_800.0, ge=1)
    batch_users: int = Field(1_000, ge=1, le=MOST_BATCH_USERS)
    max_body_bytes: int = Field(1_048_576, gt=0)
    earliest: str = "1990-01-01T00:00:00Z"
    future_skew_seconds: int = Field(300, ge=0)
    allow_event_time: bool = False
    poll_seconds: float = Field(1.0, gt=0)
    redis_timeout_seconds: float = Field(0.25, gt=0)
    last_known_bytes: int = Field(64 << 20, ge=0)
    impression_queue: int = Field(10_000, ge=1)
    impression_wait_seconds: float = Field(0.05, ge=0)
    catalogue_refresh_seconds: float = Field(5.0, ge=0)
    retire_seconds: float = Field(300.0, ge=0)
    shadow_share: float = Field(1.0, ge=0, le=1)
    reranking: Reranking = Field(default_factory=Reranking)
    rules: tuple[Rule, ...] = ()
    api_key: SecretStr = SecretStr("")
    control_seconds: float = Field(2.0, gt=0)
    control_fast_seconds: float = Field(0.5, gt=0)
    shadow_requests: int = Field(200, ge=0)
    stage_percents: tuple[float, ...] = (5.0, 25.0, 50.0, 75.0, 100.0)
    holdback_percent: float = Field(2.0, gt=0, lt=50)
    stage_min_users: int = Field(500, ge=1)
    stage_min_stable_users: int = Field(100, ge=1)
    stage_min_seconds: float = Field(600.0, ge=0)
    stage_max_seconds: float = Field(604_800.0, gt=0)
    stage_overdue: WhenOverdue = WhenOverdue.HOLD
    bake_seconds: float = Field(3_600.0, ge=0)
    gate: dict[str, int | float | str] = Field(default_factory=dict)
    bandit_seconds: float = Field(3_600.0, gt=0)
    bandit_min_requests: int = Field(500, ge=1)
    bandit_floor: float = Field(0.05, gt=0, lt=0.5)
    bandit_half_life_seconds: float = Field(259_200.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_k > self.max_k:
            raise ValueError(f"default_k {self.default_k} is above max_k {self.max_k}")
        percents = self.stage_percents
        rising = all(low < high for low, high in pairwise(percents))
        if not percents or not rising or percents[0] <= 0 or percents[-1] > 100:
            raise ValueError(f"stage_percents: expected rising shares within (0, 100], got {percents}")
        if self.stage_min_seconds > self.stage_max_seconds:
            raise ValueError(
                f"stage_min_seconds {self.stage_min_seconds:g} is above stage_max_seconds {self.stage_max_seconds:g}"
            )
        try:
            policy_of(self.gate)
        except ValueError as error:
            raise ValueError(f"gate: {error}") from error
        return self

    @property
    def precomputed_ttl(self) -> timedelta:
        """How long precomputed lists are kept."""
        return timedelta(seconds=self.precomputed_seconds)

    @property
    def policy(self) -> Policy:
        """What the gates of a rollout go by."""
        return policy_of(self.gate)

    @property
    def plan(self) -> Plan:
        """The plan of a canary that nobody asks for another."""
        pace = Pace(
            shadow_requests=self.shadow_requests,
            min_users=self.stage_min_users,
            min_stable_users=self.stage_min_stable_users,
            min_seconds=self.stage_min_seconds,
            max_seconds=self.stage_max_seconds,
            bake_seconds=self.bake_seconds,
            when_overdue=self.stage_overdue,
        )
        policy = self.policy
        return Plan(ramp(self.stage_percents, round(self.holdback_percent * 100), policy.margin, pace), policy)


METRICS_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own variable; it must be there when the client is imported."""


def share_metrics(directory: str) -> None:
    """Let the processes started from now on count into one directory, so that each can tell the sums of all."""
    os.environ[METRICS_DIRECTORY] = directory


def shared_metrics() -> str | None:
    """Where this process counts together with others; None when it counts alone."""
    return os.environ.get(METRICS_DIRECTORY)
