"""Settings of the stream job.

Every `_seconds` here is event time unless its name says `wall`.
"""

from typing import Any, ClassVar, Self

import msgspec
from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from online_models.contracts.events import MAX_LINE_BYTES
from online_models.contracts.features import DEFAULT_FEATURES, FeatureSpec
from online_models.settings import Settings


class FlowSettings(Settings):
    """What the stream job watches, how it windows, and when it asks for a retrain.

    window_seconds, slide_seconds : length of a drift window, and the step between two (0: tumbling)
    lateness_seconds : how far out of order an event may come before its window closes without it
    idle_wall_seconds : a source partition silent for this long no longer holds the watermark back
    min_window_events : a feature with fewer values in a window is not judged
    attribution_seconds : how long after an impression a click still counts for it
    adwin_delta : bound on the chance of a false alarm at one look at hit rate or CTR
    outcome_window_seconds : length of the windows in which a version's outcomes are counted
    hysteresis_windows : drifting windows in a row before a trigger; and calm ones before it is armed again
    cooldown_seconds, daily_budget : least time between two triggers of a model; most triggers in a UTC day
    drop_fraction : a fall of hit rate or CTR by this share triggers alone
    settle_seconds : after a fall of hit rate or CTR, wait so long: a model retrained at once has seen nothing of the new world
    train_factors : length of the vectors that a retrain learns
    bootstrap_events : events in closed windows after which a model without any version asks for its first training
    train_half_life_days : in a retrain, an interaction this much older than the newest counts half
    popularity_half_life_days : an interaction this much older counts half in popularity
    dedupe_capacity : events remembered to recognise a repeated event_id
    epoch_wall_seconds : snapshot interval
    live_poll_wall_seconds : how often routes and champions are read anew
    max_line_bytes : a longer line is a dead letter
    earliest : events before this RFC 3339 time are dead letters
    future_skew_seconds : events later than the wall clock by more are dead letters; below `lateness_seconds`, so that one wrong
        clock cannot make everybody else late
    features : what is monitored (FeatureSpec tables)
    """

    section: ClassVar[str] = "flow"
    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="PENSTOCK_FLOW_", arbitrary_types_allowed=True
    )

    window_seconds: int = Field(86_400, gt=0)
    slide_seconds: int = Field(0, ge=0)
    lateness_seconds: int = Field(600, ge=0)
    idle_wall_seconds: float = Field(30.0, gt=0)
    min_window_events: int = Field(200, gt=0)
    attribution_seconds: int = Field(1_800, gt=0)
    outcome_window_seconds: int = Field(3_600, gt=0)
    adwin_delta: float = Field(0.002, gt=0, lt=1)
    hysteresis_windows: int = Field(2, gt=0)
    cooldown_seconds: int = Field(86_400, ge=0)
    daily_budget: int = Field(4, gt=0)
    drop_fraction: float = Field(0.10, gt=0, lt=1)
    bootstrap_events: int = Field(1_000, gt=0)
    train_half_life_days: float = Field(365.0, gt=0)
    train_factors: int = Field(64, gt=0)
    settle_seconds: int = Field(3_600, ge=0)
    popularity_half_life_days: float = Field(30.0, gt=0)
    dedupe_capacity: int = Field(1_048_576, gt=0)
    epoch_wall_seconds: float = Field(5.0, ge=0)
    live_poll_wall_seconds: float = Field(1.0, gt=0)
    max_line_bytes: int = Field(MAX_LINE_BYTES, gt=0)
    earliest: str = "1990-01-01T00:00:00Z"
    future_skew_seconds: int = Field(300, ge=0)
    features: tuple[FeatureSpec, ...] = DEFAULT_FEATURES

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.slide_seconds and self.window_seconds % self.slide_seconds:
            raise ValueError(f"slide_seconds {self.slide_seconds} does not divide window_seconds {self.window_seconds}")
        if self.dedupe_capacity % 2:
            raise ValueError(f"dedupe_capacity: expected an even number, got {self.dedupe_capacity}")
        return self

    @field_validator("features", mode="before")
    @classmethod
    def _feature_tables(cls, tables: Any) -> Any:
        return msgspec.convert(tables, tuple[FeatureSpec, ...])

    @property
    def pane_seconds(self) -> int:
        """Windows are sums of panes of this length: the slide, or the whole window when they tumble."""
        return self.slide_seconds or self.window_seconds

    def specs(self, domain: str) -> tuple[FeatureSpec, ...]:
        """The features that a domain has."""
        return tuple(spec for spec in self.features if not spec.domains or domain in spec.domains)
