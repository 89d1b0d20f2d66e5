"""Settings of the API and of the rollout controller: `[serving]`, environment prefix `PENSTOCK_SERVING_`."""

import os
from datetime import timedelta
from itertools import pairwise
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from online_models.settings import Settings
from serving_api.rules import Reranking, Rule

Mode = Literal["realtime", "hybrid", "precomputed"]
"""Who is answered by ranking and who from a list, see `modes`."""

MOST_BATCH_USERS: Final = 10_000
"""Most users that the settings may let one request ask for."""


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
    reranking, rules : how lists are made more varied and what an operator says about them (tables `[serving.reranking]` and
        `[[serving.rules]]`), see `rules`
    control_seconds : pause between two ticks of the rollout controller
    stage_percents : share of users on the canary, stage by stage
    holdback_percent : users who stay on stable in the last stage, so that it too can be judged
    stage_min_requests, stage_min_stable_requests : requests of each arm before a stage may pass
    stage_min_seconds, stage_max_seconds : shortest duration of a stage; longest before it is called overdue
    gate_alpha, gate_tolerated_harm, gate_smallest_effect, gate_margin, gate_breaker_ratio, gate_breaker_requests : see
        `analysis.GateConfig`
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
    reranking: Reranking = Field(default_factory=Reranking)
    rules: tuple[Rule, ...] = ()
    control_seconds: float = Field(2.0, gt=0)
    stage_percents: tuple[float, ...] = (5.0, 25.0, 50.0, 75.0, 100.0)
    holdback_percent: float = Field(2.0, gt=0, lt=50)
    stage_min_requests: int = Field(500, ge=1)
    stage_min_stable_requests: int = Field(100, ge=1)
    stage_min_seconds: float = Field(60.0, ge=0)
    stage_max_seconds: float = Field(86_400.0, gt=0)
    gate_alpha: float = Field(0.05, gt=0, lt=1)
    gate_tolerated_harm: float = Field(0.0, ge=0, lt=1)
    gate_smallest_effect: float = Field(0.2, gt=0, lt=1)
    gate_margin: float = Field(0.1, ge=0, lt=1)
    gate_breaker_ratio: float = Field(0.5, gt=0, lt=1)
    gate_breaker_requests: int = Field(300, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_k > self.max_k:
            raise ValueError(f"default_k {self.default_k} is above max_k {self.max_k}")
        percents = self.stage_percents
        rising = all(low < high for low, high in pairwise(percents))
        if not percents or not rising or percents[0] <= 0 or percents[-1] > 100:
            raise ValueError(f"stage_percents: expected rising shares within (0, 100], got {percents}")
        return self

    @property
    def precomputed_ttl(self) -> timedelta:
        """How long precomputed lists are kept."""
        return timedelta(seconds=self.precomputed_seconds)

    @property
    def stage_shortest(self) -> timedelta:
        """Least duration of a stage."""
        return timedelta(seconds=self.stage_min_seconds)

    @property
    def stage_longest(self) -> timedelta:
        """Duration after which a stage is overdue."""
        return timedelta(seconds=self.stage_max_seconds)


METRICS_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own variable; it must be there when the client is imported."""


def share_metrics(directory: str) -> None:
    """Let the processes started from now on count into one directory, so that each can tell the sums of all."""
    os.environ[METRICS_DIRECTORY] = directory


def shared_metrics() -> str | None:
    """Where this process counts together with others; None when it counts alone."""
    return os.environ.get(METRICS_DIRECTORY)
