"""Outcomes: which shown items were taken up, per version; hit rate, CTR and the language model's scores watched for a fall.

- A request's outcome is final once the watermark is `attribution` past it; only then is it counted, in event-time order.
- The monitors hear the stable version and the fallback, not the canary: a bad candidate is the rollout's business, not drift.
- The unit of a verdict is a user's first exposure in a rollout; it is remembered for the model's newest rollout.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, assert_never

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from flows.admission import Admitted
from flows.delayed_labels import DelayedLabels
from flows.settings import FlowSettings
from flows.triggers import Family, Signal
from online_models.contracts.events import EVENT_TYPES, LANGUAGE_FEATURE, LANGUAGE_VERSION_FEATURE, Event, EventType
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import VariantWindow
from online_models.drift.adwin import Adwin
from online_models.drift.composite import drop_exceeds
from online_models.drift.prequential import Prequential, Worse
from online_models.ports import FeatureWindowRow

SCHEMA: Final = 2
FALLBACK: Final = ModelVersion("popularity")
"""Stands for the version in the windows of answers that no model gave."""

ANSWERS: Final = (EventType.CLICK, EventType.WATCH, EventType.PURCHASE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One event that matters for outcomes: an impression, or an answer to one."""

    event: Event
    ts_ms: int
    user: int


@dataclass(slots=True)
class Request:
    """One answered request until its outcome is final. Mutable: it collects items and answers."""

    ts_ms: int
    user: int
    version: ModelVersion
    rollout_id: int
    stage: int
    canary: bool
    shown: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    scores: dict[str, float] = field(default_factory=dict)
    """What the language model said of the items that it had a say in."""
    scored_by: ModelVersion | None = None
    """Whose language model that is."""


@dataclass(frozen=True, slots=True)
class ModelOutcomes:
    """One chunk's outcomes of one model, in source order."""

    model: ModelName
    outcomes: list[Outcome]


WindowKey = tuple[ModelVersion, int, int, int]
Told = VariantWindow | FeatureWindowRow | Signal

LEAST_LABELS: Final = 100
"""Taken and untaken items of a window of scores, unless another number is asked for."""


@dataclass(slots=True)
class _Monitor:
    """One rate under a detector of change."""

    name: str
    detector: Adwin | Prequential

    def hear(self, rate: float, drop_fraction: float) -> str:
        """Take one request's rate in; returns why this is an alarm, or nothing."""
        self.detector.update(np.array([rate]))
        if not self.detector.drift_detected:
            return ""
        before, after = self.detector.mean_before, self.detector.mean_after
        if not drop_exceeds(before, after, drop_fraction):
            return ""
        return f"{self.name} fell from {before:.4f} to {after:.4f} ({(after - before) / before:+.0%})"


class Outcomes:
    """One model's open requests, its variant windows, and its monitors."""

    def __init__(
        self,
        attribution_ms: int,
        window_ms: int,
        drop_fraction: float,
        settle_ms: int,
        detector: Callable[[], Adwin | Prequential] = Adwin,
        labels: DelayedLabels | None = None,
    ) -> None:
        self.model = ModelName("")
        self._attribution_ms = attribution_ms
        self._window_ms = window_ms
        self._drop_fraction = drop_fraction
        self._settle_ms = settle_ms
        self._open: dict[str, Request] = {}
        self._early: dict[str, list[tuple[str, int]]] = {}
        self._newest_ms = 0
        self._exposed: tuple[int, set[int]] = (0, set())
        self._windows: dict[WindowKey, VariantWindow] = {}
        self._monitors = [_Monitor("hit_rate", detector()), _Monitor("ctr", detector())]
        self._labels = labels or DelayedLabels(window_ms, LEAST_LABELS, drop_fraction, settle_ms)

    def add(self, chunk: ModelOutcomes) -> list[Told]:
        """Take events in; returns the windows that changed and a signal per monitor that has news."""
        self.model = chunk.model
        for outcome in chunk.outcomes:
            self._newest_ms = max(self._newest_ms, outcome.ts_ms)
            if outcome.event.type is EventType.IMPRESSION:
                self._show(outcome)
            else:
                self._take(outcome)
        return self._finish()

    def _show(self, outcome: Outcome) -> None:
        event = outcome.event
        assert event.request_id is not None
        request = self._open.get(event.request_id)
        # A request so late would begin its window anew, and its counts would replace the full ones.
        if request is None and self._window_start(outcome.ts_ms) + self._window_ms < self._forgotten_until():
            return
        if request is None:
            request = self._open[event.request_id] = _request(outcome)
        request.shown.add(event.item_id)
        score = event.features.get(LANGUAGE_FEATURE) if event.features else None
        if score is not None and isinstance(score, (float, int)) and isfinite(score):
            request.scores[event.item_id] = float(score)
            request.scored_by = _scored_by(event)
        for item, ts_ms in self._early.pop(event.request_id, []):
            self._answer(event.request_id, item, ts_ms)

    def _take(self, outcome: Outcome) -> None:
        event = outcome.event
        assert event.request_id is not None
        self._answer(event.request_id, event.item_id, outcome.ts_ms)

    def _answer(self, request_id: str, item: str, ts_ms: int) -> None:
        request = self._open.get(request_id)
        if request is None or item not in request.shown:
            # Its impression may be in another writer's segment, a moment behind.
            self._early.setdefault(request_id, []).append((item, ts_ms))
        # By event time, not by chunk: an answer that comes too late is none, wherever its chunk began.
        elif ts_ms <= request.ts_ms + self._attribution_ms:
            request.taken.add(item)

    def _finish(self) -> list[Told]:
        # Strictly past it: an answer of the very last moment may still be in the next chunk.
        horizon = self._newest_ms - self._attribution_ms
        done = [(request.ts_ms, name) for name, request in self._open.items() if request.ts_ms < horizon]
        if not done:
            return []
        requests = [self._open.pop(name) for _, name in sorted(done)]
        self._early = {name: kept for name, kept in self._early.items() if kept[-1][1] >= horizon}
        changed = {self._count(request): None for request in requests}
        windows = [self._windows[key] for key in changed]
        self._forget_windows()
        heard = [request for request in requests if not request.canary]
        return [*windows, *self._signals(heard), *self._labelled(heard)]

    def _count(self, request: Request) -> WindowKey:
        key = (request.version, request.rollout_id, request.stage, self._window_start(request.ts_ms))
        first = self._first_exposure(request)
        hit = bool(request.taken)
        old = self._windows.get(key) or self._empty(key)
        self._windows[key] = replace_counts(old, first, hit, len(request.shown), len(request.taken))
        return key

    def _empty(self, key: WindowKey) -> VariantWindow:
        version, rollout_id, stage, start = key
        return VariantWindow(self.model, version, rollout_id, stage, start, start + self._window_ms, 0, 0, 0, 0, 0, 0)

    def _first_exposure(self, request: Request) -> bool:
        rollout_id, users = self._exposed
        if request.rollout_id > rollout_id:
            users = set()
            self._exposed = (request.rollout_id, users)
        if request.rollout_id == 0 or request.rollout_id < rollout_id or request.user in users:
            return False
        users.add(request.user)
        return True

    def _window_start(self, ts_ms: int) -> int:
        return ts_ms // self._window_ms * self._window_ms

    def _forgotten_until(self) -> int:
        """Windows that end before this event time are final."""
        return self._newest_ms - self._attribution_ms - self._window_ms

    def _forget_windows(self) -> None:
        horizon = self._forgotten_until()
        for key in [key for key, window in self._windows.items() if window.window_end_ms < horizon]:
            del self._windows[key]

    def _signals(self, requests: list[Request]) -> list[Signal]:
        signals = []
        for request in requests:
            rates = (float(bool(request.taken)), len(request.taken) / len(request.shown))
            for monitor, rate in zip(self._monitors, rates, strict=True):
                if reason := monitor.hear(rate, self._drop_fraction):
                    ts_ms = request.ts_ms
                    signals.append(
                        Signal(
                            self.model, monitor.name, ts_ms, ts_ms, True, True, reason, self._settle_ms, Family.OUTCOME
                        )
                    )
        return signals

    def _labelled(self, requests: list[Request]) -> list[FeatureWindowRow | Signal]:
        found = []
        for request in requests:
            if request.scores:
                version = request.scored_by or request.version
                items = sorted(request.scores)
                scores, taken = [request.scores[item] for item in items], [item in request.taken for item in items]
                found += self._labels.add(self.model, version, request.ts_ms, request.user, scores, taken)
        return found

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        requests = {
            name: (
                *(r.ts_ms, r.user, r.version, r.rollout_id, r.stage, r.canary),
                *(tuple(r.shown), tuple(r.taken), dict(r.scores), r.scored_by),
            )
            for name, r in self._open.items()
        }
        windows = [tuple(getattr(w, name) for name in w.__struct_fields__) for w in self._windows.values()]
        exposed = (self._exposed[0], np.fromiter(self._exposed[1], np.uint64, len(self._exposed[1])))
        monitors = tuple(monitor.detector.snapshot() for monitor in self._monitors)
        early = {name: tuple(answers) for name, answers in self._early.items()}
        return (SCHEMA, requests, early, self._newest_ms, exposed, windows, monitors, self._labels.snapshot())

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        if snapshot[0] == 1:  # from before there were scores
            snapshot = (SCHEMA, *snapshot[1:], ())
        schema, requests, early, self._newest_ms, exposed, windows, monitors, labels = snapshot
        if schema != SCHEMA:
            raise ValueError(f"outcomes snapshot: expected schema {SCHEMA}, got {schema}")
        self._open = {name: _restored(*row) for name, row in requests.items()}
        self._early = {name: list(answers) for name, answers in early.items()}
        self._exposed = (exposed[0], set(exposed[1].tolist()))
        restored = [VariantWindow(*row) for row in windows]
        self._windows = {(w.version, w.rollout_id, w.stage, w.window_start_ms): w for w in restored}
        for monitor, state in zip(self._monitors, monitors, strict=True):
            monitor.detector = monitor.detector.restore(state)
        self._labels.restore(labels)


def replace_counts(old: VariantWindow, first: bool, hit: bool, shown: int, taken: int) -> VariantWindow:
    """A window with one more request counted."""
    return VariantWindow(
        model=old.model,
        version=old.version,
        rollout_id=old.rollout_id,
        stage=old.stage,
        window_start_ms=old.window_start_ms,
        window_end_ms=old.window_end_ms,
        users=old.users + first,
        successes=old.successes + (first and hit),
        requests=old.requests + 1,
        hits=old.hits + hit,
        impressions=old.impressions + shown,
        clicks=old.clicks + taken,
    )


def _restored(
    ts_ms: int,
    user: int,
    version: ModelVersion,
    rollout_id: int,
    stage: int,
    canary: bool,
    shown: tuple[str, ...],
    taken: tuple[str, ...],
    scores: Mapping[str, float] = MappingProxyType({}),
    scored_by: ModelVersion | None = None,
) -> Request:
    return Request(ts_ms, user, version, rollout_id, stage, canary, set(shown), set(taken), dict(scores), scored_by)


def _request(outcome: Outcome) -> Request:
    event = outcome.event
    features = event.features or {}
    stage = features.get("stage", -1)
    return Request(
        ts_ms=outcome.ts_ms,
        user=outcome.user,
        version=ModelVersion(event.model_version or FALLBACK),
        rollout_id=event.rollout_id or 0,
        stage=int(stage) if isinstance(stage, (int, float)) else -1,
        canary=features.get("variant") == "canary",
    )


def _scored_by(event: Event) -> ModelVersion | None:
    """Whose language model scored an impression's item; None of one that was logged before impressions told."""
    said = event.features.get(LANGUAGE_VERSION_FEATURE) if event.features else None
    return ModelVersion(said) if isinstance(said, str) and said else None


def outcomes_of(admitted: Admitted) -> list[tuple[str, ModelOutcomes]]:
    """A chunk's impressions and answers that belong to a request, by domain."""
    batch = admitted.batch
    wanted = batch.requested & np.isin(
        batch.type, [EVENT_TYPES.index(kind) for kind in (EventType.IMPRESSION, *ANSWERS)]
    )
    grouped: dict[str, list[Outcome]] = {}
    for row in np.flatnonzero(wanted).tolist():
        event = batch.events[row]
        outcome = Outcome(event, int(batch.ts_ms[row]), int(batch.user_hash[row]))
        grouped.setdefault(event.domain, []).append(outcome)
    return [(domain, ModelOutcomes(ModelName(domain), outcomes)) for domain, outcomes in grouped.items()]


class OutcomeLogic(StatefulBatchLogic[ModelOutcomes, Told, tuple[Any, ...]]):
    """The Bytewax shell around `Outcomes`."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes

    def on_batch(self, values: list[ModelOutcomes]) -> tuple[list[Told], bool]:
        found: list[Told] = []
        for chunk in values:
            found += self._outcomes.add(chunk)
        return found, False

    def snapshot(self) -> tuple[Any, ...]:
        return self._outcomes.snapshot()


def detector_of(settings: FlowSettings) -> Adwin | Prequential:
    """A detector of a fall of one rate."""
    match settings.outcome_detector:
        case "adwin":
            return Adwin(delta=settings.adwin_delta)
        case "prequential":
            return Prequential(fraction=settings.drop_fraction, worse=Worse.LOWER)
        case _:
            assert_never(settings.outcome_detector)


@operator
def watch_outcomes(step_id: str, up: Stream[Admitted], settings: FlowSettings) -> KeyedStream[Told]:
    """Admitted chunks -> variant windows that changed, windows of scores, and alarms of a fall, keyed by model."""

    def build(resume: tuple[Any, ...] | None) -> OutcomeLogic:
        outcomes = Outcomes(
            settings.attribution_seconds * 1000,
            settings.outcome_window_seconds * 1000,
            settings.drop_fraction,
            settings.settle_seconds * 1000,
            partial(detector_of, settings),
            DelayedLabels(
                settings.label_window_seconds * 1000,
                settings.label_clicks,
                settings.drop_fraction,
                settings.settle_seconds * 1000,
            ),
        )
        if resume is not None:
            outcomes.restore(resume)
        return OutcomeLogic(outcomes)

    grouped = op.flat_map("outcomes_of", up, outcomes_of)
    return op.stateful_batch("outcomes", grouped, build)
