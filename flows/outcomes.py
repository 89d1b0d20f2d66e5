"""Outcomes: which shown items were taken up, per version; hit rate, CTR and the language model's scores watched for a fall.

- A request's outcome is final once the watermark is `attribution` past it; only then is it counted, in event-time order.
- Within a rollout the monitors hear the requests of stable's users, whoever answered them, and of nobody else: a bad candidate is
  the rollout's business, not drift, and stable's users are a fair sample of all at any weight.
- The unit of a verdict is a user's first exposure in a rollout; outside of one, users are counted once a day.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final, assert_never

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from flows.admission import Admitted
from flows.delayed_labels import DelayedLabels
from flows.exposures import Exposure, Exposures
from flows.open_requests import FALLBACK, ModelOutcomes, OpenRequests, Outcome, Request
from flows.settings import FlowSettings
from flows.shadow_sums import ShadowSums
from flows.triggers import Family, Signal
from flows.user_groups import UserGroups
from online_models.contracts.events import ANSWERS, EVENT_TYPES, EventType
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import GroupedCounts, ShadowCounts, Variant, VariantWindow
from online_models.drift.adwin import Adwin
from online_models.drift.composite import drop_exceeds
from online_models.drift.prequential import Prequential, Worse
from online_models.ports import FeatureWindowRow

SCHEMA: Final = 3

STABLE: Final = Variant.STABLE.value
"""The variant that the monitors hear within a rollout."""

UNHEARD: Final = (Variant.CANARY.value, Variant.ARM.value)
"""Variants that the monitors do not hear outside of one either."""

WindowKey = tuple[ModelVersion, int, int, str, int]
"""Version, rollout, stage, variant and start."""

Told = VariantWindow | GroupedCounts | ShadowCounts | FeatureWindowRow | Signal

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


@dataclass(slots=True)
class _Counts:
    """What a window counts, see `VariantWindow`. Mutable: requests are added one by one."""

    users: int = 0
    successes: int = 0
    requests: int = 0
    hits: int = 0
    impressions: int = 0
    clicks: int = 0
    stage_users: int = 0
    first_items: int = 0
    repeats: int = 0

    def add(self, request: Request, exposure: Exposure) -> None:
        """Count one more request."""
        hit = bool(request.taken)
        self.requests += 1
        self.hits += hit
        self.impressions += len(request.shown)
        self.clicks += len(request.taken)
        if exposure.first:
            self.users += 1
            self.successes += hit
            self.first_items += exposure.items
            self.repeats += exposure.repeats
        self.stage_users += exposure.first_of_stage


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
        self._window_ms = window_ms
        self._drop_fraction = drop_fraction
        self._settle_ms = settle_ms
        self._requests = OpenRequests(attribution_ms, window_ms)
        self._exposures = Exposures()
        self._groups = UserGroups()
        self._shadows = ShadowSums()
        self._windows: dict[WindowKey, _Counts] = {}
        self._monitors = [_Monitor("hit_rate", detector()), _Monitor("ctr", detector())]
        self._labels = labels or DelayedLabels(window_ms, LEAST_LABELS, drop_fraction, settle_ms)

    def add(self, chunk: ModelOutcomes) -> list[Told]:
        """Take events in; returns the windows and the sums that changed, and a signal per monitor that has news."""
        self.model = chunk.model
        requests = self._requests.add(chunk.outcomes)
        if not requests:
            return []
        changed = {self._count(request): None for request in requests}
        windows = [self._window(key, self._windows[key]) for key in changed]
        self._forget_windows()
        groups, shadows = self._groups.add(self.model, requests), self._shadows.add(self.model, requests)
        heard = [request for request in requests if _is_heard(request)]
        return [*windows, *groups, *shadows, *self._signals(heard), *self._labelled(heard)]

    def _count(self, request: Request) -> WindowKey:
        start = self._requests.window_start_ms(request.ts_ms)
        key = (request.version, request.rollout_id, request.stage, request.variant, start)
        counts = self._windows.get(key)
        if counts is None:
            counts = self._windows[key] = _Counts()
        counts.add(request, self._exposures.add(request))
        return key

    def _window(self, key: WindowKey, counts: _Counts) -> VariantWindow:
        version, rollout_id, stage, variant, start = key
        return VariantWindow(
            *(self.model, version, rollout_id, stage, start, start + self._window_ms),
            *(counts.users, counts.successes, counts.requests, counts.hits, counts.impressions, counts.clicks),
            *(variant, counts.stage_users, counts.first_items, counts.repeats),
        )

    def _forget_windows(self) -> None:
        horizon = self._requests.forgotten_until_ms
        for key in [key for key in self._windows if key[-1] + self._window_ms < horizon]:
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
        told = [self._window(key, counts) for key, counts in self._windows.items()]
        windows = [tuple(getattr(w, name) for name in w.__struct_fields__) for w in told]
        monitors = tuple(monitor.detector.snapshot() for monitor in self._monitors)
        exposures, sums = self._exposures.snapshot(), (self._groups.snapshot(), self._shadows.snapshot())
        return (SCHEMA, *self._requests.snapshot(), exposures, windows, monitors, self._labels.snapshot(), *sums)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        if snapshot[0] == 1:  # from before there were scores
            snapshot = (2, *snapshot[1:], ())
        if snapshot[0] == 2:
            snapshot = _from_schema_2(snapshot)
        schema, requests, early, newest_ms, exposures, windows, monitors, labels, groups, shadows = snapshot
        if schema != SCHEMA:
            raise ValueError(f"outcomes snapshot: expected schema {SCHEMA}, got {schema}")
        self._requests.restore((requests, early, newest_ms))
        self._exposures.restore(exposures)
        self._windows = dict(_restored(VariantWindow(*row)) for row in windows)
        for monitor, state in zip(self._monitors, monitors, strict=True):
            monitor.detector = monitor.detector.restore(state)
        self._labels.restore(labels)
        self._groups.restore(groups)
        self._shadows.restore(shadows)


def _is_heard(request: Request) -> bool:
    return request.variant == STABLE or (request.rollout_id == 0 and request.variant not in UNHEARD)


def _restored(window: VariantWindow) -> tuple[WindowKey, _Counts]:
    key = (window.version, window.rollout_id, window.stage, window.variant, window.window_start_ms)
    return key, _Counts(**{each.name: getattr(window, each.name) for each in fields(_Counts)})


def _from_schema_2(snapshot: tuple[Any, ...]) -> tuple[Any, ...]:
    """A snapshot from before there were variants: requests knew whether they were the canary's.

    Windows get the variant that migration 5 gave their rows, so that they go on replacing them.
    """
    _, requests, early, newest_ms, (rollout_id, users), windows, monitors, labels = snapshot
    canaries = {(row[3], row[2]) for row in requests.values() if row[5]}
    requests = {name: (*row[:5], _variant_of(row), *row[6:]) for name, row in requests.items()}
    windows = [(*row, _variant_of_window(row, canaries)) for row in windows]
    exposed: dict[int, tuple[Any, ...]] = {rollout_id: (users, {}, {})} if rollout_id else {}
    return (SCHEMA, requests, early, newest_ms, (exposed, {}), windows, monitors, labels, {}, {})


def _variant_of(row: tuple[Any, ...]) -> str:
    _, _, version, _, _, canary, *_ = row
    return "canary" if canary else "fallback" if version == FALLBACK else "stable"


def _variant_of_window(row: tuple[Any, ...], canaries: set[tuple[int, ModelVersion]]) -> str:
    _, version, rollout_id, *_ = row
    if rollout_id == 0:
        return ""
    return "canary" if (rollout_id, version) in canaries else "stable"


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
