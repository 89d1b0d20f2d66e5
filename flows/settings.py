"""Settings of the stream job.

Every `_seconds` here is event time unless its name says `wall`.
"""

import hashlib
from typing import Any, ClassVar, Final, Literal, Self

import msgspec
from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from online_models.contracts.events import ANSWERS, MAX_LINE_BYTES, EventType, timestamp_ms
from online_models.contracts.features import DEFAULT_FEATURES, FeatureSpec, spec_hash
from online_models.contracts.jobs import TrainLora, TrainTwoTower
from online_models.drift.calibration import MIN_PANES
from online_models.drift.measure import DETECTORS
from online_models.drift.policy import Policy
from online_models.settings import Settings
from online_models.sketches import Layout

COMPONENTS: Final = ("recommender", "llm")
FROM_SETTINGS: Final = frozenset({"als", "start", "half_life_days", "features", "pane_seconds", "until_ms"})
"""Options of a job that other settings, or its level, decide."""
VW_FIELDS: Final = ("event_id", "user_id", "item_id", "ts", "domain", "type")


class FlowSettings(Settings):
    """What the stream job watches, how it windows, and when it asks for a retrain.

    window_seconds, slide_seconds : length of a drift window, and the step between two (0: tumbling); by default a quarter, so
        that an alarm can be confirmed by the next window without waiting for a whole one
    longer_windows_seconds : further lengths, multiples of the first, watched at the same time with a step of a quarter: what
        creeps too slowly for a short window stands out in a long one
    lateness_seconds : how far out of order an event may come before its window closes without it
    idle_wall_seconds : a source partition silent for this long no longer holds the watermark back
    min_window_events : a feature that fewer events of a window carry is not judged; its window grows into the past first
    profile : keep mean, quantiles, cardinality and frequent words besides the histograms
    rank_positive, rank_negative : event types that are a success, and a failure; features are ranked by what they tell of it
    rank_pairs : pairs of features that each pane counts together, drawn at random
    rank_half_life_seconds : age at which a pane counts half in the ranks
    baseline_seconds : without a champion, judge against the first so many seconds of the stream; 0: do not judge
    policies : how each component's features are judged (tables `[flow.policies.recommender]`, `[flow.policies.llm]`); the default
        takes its fewest events from `min_window_events`
    embeddings, interactions : learn online embeddings into Redis; store events in PostgreSQL. Without both the flow only monitors
    chunk_bytes, table_rows : how much of a text (at least two of the longest lines), how many rows of a table are read at once
    vw_fields : namespaces of a Vowpal Wabbit log that are fields: event_id, user_id, item_id, ts, domain, type -> their names
    vw_numbers : namespaces of it whose one word is a number
    vw_start : RFC 3339 time of the first byte of such a log without times, each further byte a millisecond later
    metrics_port : serve Prometheus metrics of the flow here; 0: do not
    attribution_seconds : how long after an impression a click still counts for it
    outcome_detector : what watches hit rate and CTR: `adwin`, or `prequential` (a fading mean against its past)
    adwin_delta : bound on the chance of a false alarm at one look at hit rate or CTR
    outcome_window_seconds : length of the windows in which a version's outcomes are counted
    hysteresis_windows : drifting windows in a row before a trigger; and calm ones before it is armed again
    cooldown_seconds, daily_budget : least time between two triggers of a model; most triggers of a level in a UTC day
    warm_cooldown_seconds, cold_cooldown_seconds, lora_cooldown_seconds : the same of one level of training, where it is another
    warm_daily_budget, cold_daily_budget, lora_daily_budget : likewise
    drop_fraction : a fall of hit rate or CTR by this share triggers alone; likewise of what labels say of the language model,
        the share of its AUC above chance
    retrain_model : what a retrain of the recommender trains: `als` factors, or a `two_tower` network beside them. A model without
        a version gets factors first: they are there within seconds
    language_models : domains whose language model is trained (LoRA): its first adapter, and when its texts or labels drift
    train_two_tower, train_lora : further options of those jobs, by the names of their fields
    near_line_effect : a drift of features below this effect is left to the online updates, and nothing is retrained
    near_line_seconds : how long it may stand until it is retrained all the same
    cold_every_warms, cold_every_seconds : after so many warm starts, or so long after a cold one, the next training is cold; 0:
        never
    schedule_seconds : train from nothing, drift or not, so long after the last training; 0: never
    label_window_seconds, label_clicks : least length of a window in which the language model's scores are held against what was
        taken, and fewest taken and untaken items in it: it goes on until it has them
    settle_seconds : after a fall of hit rate or CTR, wait so long: a model retrained at once has seen nothing of the new world
    train_factors : length of the vectors that a retrain learns
    bootstrap_events : events in closed windows after which a model without any version asks for its first training
    train_half_life_days : in a retrain, an interaction this much older than the newest counts half
    popularity_half_life_days : an interaction this much older counts half in popularity
    dedupe_capacity : events remembered to recognise a repeated event_id
    epoch_wall_seconds : snapshot interval
    publish_wall_seconds : how often readers get the sources and the moved items, at most; less often when it takes long
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
    slide_seconds: int | None = Field(None, ge=0)
    longer_windows_seconds: tuple[int, ...] = ()
    lateness_seconds: int = Field(600, ge=0)
    idle_wall_seconds: float = Field(30.0, gt=0)
    min_window_events: int = Field(200, gt=0)
    attribution_seconds: int = Field(1_800, gt=0)
    outcome_window_seconds: int = Field(3_600, gt=0)
    outcome_detector: Literal["adwin", "prequential"] = "adwin"
    adwin_delta: float = Field(0.002, gt=0, lt=1)
    hysteresis_windows: int = Field(2, gt=0)
    cooldown_seconds: int = Field(86_400, ge=0)
    daily_budget: int = Field(4, gt=0)
    warm_cooldown_seconds: int | None = Field(None, ge=0)
    cold_cooldown_seconds: int | None = Field(None, ge=0)
    lora_cooldown_seconds: int | None = Field(None, ge=0)
    warm_daily_budget: int | None = Field(None, gt=0)
    cold_daily_budget: int | None = Field(None, gt=0)
    lora_daily_budget: int | None = Field(None, gt=0)
    drop_fraction: float = Field(0.10, gt=0, lt=1)
    retrain_model: Literal["als", "two_tower"] = "als"
    language_models: tuple[str, ...] = ()
    train_two_tower: dict[str, Any] = Field(default_factory=dict)
    train_lora: dict[str, Any] = Field(default_factory=dict)
    near_line_effect: float = Field(0.05, ge=0)
    near_line_seconds: int = Field(604_800, ge=0)
    cold_every_warms: int = Field(8, ge=0)
    cold_every_seconds: int = Field(604_800, ge=0)
    schedule_seconds: int = Field(0, ge=0)
    label_window_seconds: int = Field(86_400, gt=0)
    label_clicks: int = Field(100, gt=1)
    bootstrap_events: int = Field(1_000, gt=0)
    train_half_life_days: float = Field(365.0, gt=0)
    train_factors: int = Field(64, gt=0)
    settle_seconds: int = Field(3_600, ge=0)
    popularity_half_life_days: float = Field(30.0, gt=0)
    dedupe_capacity: int = Field(1_048_576, gt=0)
    epoch_wall_seconds: float = Field(5.0, ge=0)
    live_poll_wall_seconds: float = Field(1.0, gt=0)
    publish_wall_seconds: float = Field(1.0, ge=0)
    max_line_bytes: int = Field(MAX_LINE_BYTES, gt=0)
    earliest: str = "1990-01-01T00:00:00Z"
    future_skew_seconds: int = Field(300, ge=0)
    features: tuple[FeatureSpec, ...] = DEFAULT_FEATURES
    profile: bool = True
    rank_positive: tuple[EventType, ...] = ANSWERS
    rank_negative: tuple[EventType, ...] = (EventType.IMPRESSION, EventType.SKIP)
    rank_pairs: int = Field(8, ge=0)
    rank_half_life_seconds: int = Field(604_800, gt=0)
    baseline_seconds: int = Field(0, ge=0)
    policies: dict[str, dict[str, Any]] = Field(default_factory=dict)
    embeddings: bool = True
    interactions: bool = True
    chunk_bytes: int = Field(2 * 1024 * 1024, gt=0)
    table_rows: int = Field(32_768, gt=0, le=32_768)
    vw_fields: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    vw_numbers: tuple[str, ...] = ()
    vw_start: str = ""
    metrics_port: int = Field(0, ge=0, le=65_535)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.slide_seconds and self.window_seconds % self.slide_seconds:
            raise ValueError(f"slide_seconds {self.slide_seconds} does not divide window_seconds {self.window_seconds}")
        for longer in self.longer_windows_seconds:
            if longer <= self.window_seconds or longer % self.window_seconds:
                raise ValueError(f"longer_windows_seconds {longer}: expected a multiple of {self.window_seconds}")
        if unknown := set(self.vw_fields) - set(VW_FIELDS):
            raise ValueError(f"vw_fields: expected {', '.join(VW_FIELDS)}; got {', '.join(sorted(unknown))}")
        if self.vw_start:
            timestamp_ms(self.vw_start)
        if len(set(self.longer_windows_seconds)) < len(self.longer_windows_seconds):
            raise ValueError(f"longer_windows_seconds: expected distinct lengths, got {self.longer_windows_seconds}")
        if 0 < self.baseline_seconds < MIN_PANES * self.pane_seconds:
            raise ValueError(
                f"baseline_seconds {self.baseline_seconds}: expected at least {MIN_PANES} panes of {self.pane_seconds} s, "
                "from which it is learned what is usual"
            )
        if both := set(self.rank_positive) & set(self.rank_negative):
            raise ValueError(f"rank_positive and rank_negative share {', '.join(sorted(both))}")
        if self.dedupe_capacity % 2:
            raise ValueError(f"dedupe_capacity: expected an even number, got {self.dedupe_capacity}")
        return self

    @field_validator("features", mode="before")
    @classmethod
    def _feature_tables(cls, tables: Any) -> Any:
        for table in tables:
            if isinstance(table, dict) and (unknown := set(table) - set(FeatureSpec.__struct_fields__)):
                raise ValueError(f"feature {table.get('name', '')!r}: unknown key {', '.join(sorted(unknown))}")
        return msgspec.convert(tables, tuple[FeatureSpec, ...])

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        for name, options, kind in (
            ("train_two_tower", self.train_two_tower, TrainTwoTower),
            ("train_lora", self.train_lora, TrainLora),
        ):
            known = set(kind.__struct_fields__) - FROM_SETTINGS
            if unknown := set(options) - known:
                raise ValueError(f"{name}: expected {', '.join(sorted(known))}; got {', '.join(sorted(unknown))}")
            try:
                msgspec.convert(options, kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from error
        return self

    @model_validator(mode="after")
    def _declared_well(self) -> Self:
        for domain in sorted({"", *(domain for spec in self.features for domain in spec.domains)}):
            Layout(self.specs(domain))
        for component in self.policies:
            if component not in COMPONENTS and component not in self.policy_matrix:
                raise ValueError(f"policies: no feature has the component {component!r}")
            policy = self.policy(component)
            if unknown := {*policy.weights, *policy.thresholds} - set(DETECTORS):
                raise ValueError(
                    f"policies.{component}: expected {', '.join(DETECTORS)}; got {', '.join(sorted(unknown))}"
                )
        return self

    @property
    def monitoring_hash(self) -> str:
        """Of all that the state of windows, baselines and ranks depends on: under another one it cannot be read on."""
        told = (self.profile, self.pane_seconds, self.lengths, self.rank_positive, self.rank_negative)
        ranked = (self.rank_pairs, self.rank_half_life_seconds, self.baseline_seconds)
        return hashlib.sha256(f"{spec_hash(self.features)}|{told}|{ranked}".encode()).hexdigest()

    @property
    def pane_seconds(self) -> int:
        """Windows are sums of panes of this length: the slide, or the whole window when they tumble or have no whole quarter."""
        if self.slide_seconds is None:
            return self.window_seconds // 4 if self.window_seconds % 4 == 0 else self.window_seconds
        return self.slide_seconds or self.window_seconds

    @property
    def lengths(self) -> tuple[tuple[int, int], ...]:
        """Panes of each window length, and every how many panes one ends."""
        panes = [longer // self.pane_seconds for longer in self.longer_windows_seconds]
        return ((self.window_seconds // self.pane_seconds, 1), *((each, max(1, each // 4)) for each in panes))

    @property
    def policy_matrix(self) -> dict[str, Policy]:
        """Component -> policy, of all components that a feature belongs to."""
        return {spec.component: self.policy(spec.component) for spec in self.features}

    def policy(self, component: str) -> Policy:
        """How a component's features are judged."""
        return msgspec.convert({"min_events": self.min_window_events, **self.policies.get(component, {})}, Policy)

    def specs(self, domain: str) -> tuple[FeatureSpec, ...]:
        """The features that a domain has."""
        return tuple(spec for spec in self.features if not spec.domains or domain in spec.domains)
