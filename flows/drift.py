"""Drift of the monitored features: each closed window against what the champion was trained on.

- The panel judges all features of a window together; every alarm is a row with its reason in plain words.
- Without a champion the first part of the stream may stand in (`baseline_seconds`); without either, or with another declaration
  of a feature than the champion's, a window is reported unjudged.
- One key per model: an alarm is confirmed by the window before it, and a quiet window grows into those before it.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import bytewax.operators as op
import msgspec
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from flows.baseline import Baseline
from flows.combine import Plans, text_tag
from flows.feature_rows import Beside, feature_row, with_words
from flows.levels import Champion
from flows.live import Champions, Reference, same_declaration
from flows.settings import FlowSettings
from flows.triggers import LANGUAGE_MODEL, RECOMMENDER, Signal
from flows.windows import ClosedWindow, Found, usable
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.drift.panel import Memory, Panel
from online_models.drift.verdict import Verdict, WindowVerdict
from online_models.ports import DriftRow, FeatureWindowRow, FeatureWord, WindowRow
from online_models.ranking import Ranking
from online_models.sketches import FeatureState

log: Final = logging.getLogger(__name__)

SCHEMA: Final = 1

PAIRS: Final = 10
"""Pairs of features that a report names."""


class WindowReport(msgspec.Struct, frozen=True):
    """One model's window as stored in `window_reports`.

    reference : the champion it was compared with, if any; verdicts : feature -> verdict
    pairs : the features, and what both together tell of success in nats, of the pairs that tell most so far
    """

    events: int
    reference: str | None
    verdicts: dict[str, str]
    pairs: list[tuple[str, str, float]] = []


@dataclass(frozen=True, slots=True)
class Scored:
    """A judged window: its rows, a row per drifting feature, the signals for the triggers, and events not counted before.

    features : a row per feature that was judged, or that enough events carry to say something
    signal : of the recommender's features; language : of the language model's, None where it has none
    champion : what is known of the champion besides that there is one
    """

    row: WindowRow
    features: Sequence[FeatureWindowRow]
    alarms: Sequence[DriftRow]
    signal: Signal
    new_events: int
    has_champion: bool
    champion: Champion | None = None
    language: Signal | None = None


@dataclass(frozen=True, slots=True)
class Ranks:
    """features : name -> (information in nats, rank from 1); pairs : the most telling ones, best first."""

    features: Mapping[str, tuple[float, int]]
    pairs: Sequence[tuple[str, str, float]]


class Judge:
    """One model's windows against its reference, in their order.

    Parameters
    ----------
    model : whose windows these are
    plans : how their sketches lie
    """

    def __init__(self, model: ModelName, settings: FlowSettings, plans: Plans) -> None:
        self.model = model
        self._settings = settings
        self._plans = plans
        self._baseline = (
            Baseline(plans.declared(model), settings.baseline_seconds) if settings.baseline_seconds else None
        )
        self._used: tuple[Reference | None, Reference | None] = (None, None)
        self._panel: Panel | None = None
        self._beside: dict[str, Beside] = {}
        self._version: ModelVersion | None = None
        self._memory: dict[int, Memory] = {}
        self._component = {spec.name: spec.component for spec in settings.specs(model)}
        self._ranking = plans.ranking(model)
        self._ranks = Ranks({}, ())
        self._words: dict[str, dict[int, str]] = {}

    def learn(self, word: FeatureWord) -> None:
        """A frequent word of a feature, for explanations."""
        self._words.setdefault(word.feature, {})[word.fingerprint] = word.text

    def add(self, window: ClosedWindow, champion: Reference | None) -> Scored:
        """Judge one window; the same windows and references give the same rows."""
        main = window.end_ms - window.start_ms == self._settings.window_seconds * 1000
        baseline = self._baseline.add(window) if self._baseline and main else None
        self._use(champion, baseline)
        if main and window.joint is not None:
            self._ranking.update(window.end_ms - window.pane_ms, window.joint)
            self._ranks = self._ranked()
        states = self._states(window)
        verdict = self._verdict(window, states)
        rows = [
            self._row(window, name, state, verdict)
            for name, state in states.items()
            if state.events >= self._settings.min_window_events or (verdict and name in verdict.features)
        ]
        alarms = [self._alarm(row) for row in rows if row.verdict == Verdict.DRIFT.value]
        report = WindowReport(
            window.events, self._version, {row.feature: row.verdict for row in rows}, list(self._ranks.pairs)
        )
        return Scored(
            row=WindowRow(window.model, window.start_ms, window.end_ms, msgspec.json.encode(report)),
            features=rows,
            alarms=alarms,
            signal=self._signal(window, alarms, main, RECOMMENDER),
            new_events=window.newest_events if main else 0,
            has_champion=champion is not None,
            champion=champion.champion if champion else None,
            language=self._signal(window, alarms, main, LANGUAGE_MODEL) if self._reads_text else None,
        )

    @property
    def _reads_text(self) -> bool:
        return LANGUAGE_MODEL in self._component.values()

    def _signal(self, window: ClosedWindow, alarms: Sequence[DriftRow], main: bool, component: str) -> Signal:
        """What the features of a component say; any that is not the language model's is the recommender's.

        A longer window's alarm stands alone: windows of its length are rare, and it was confirmed already.
        """
        of_text = component == LANGUAGE_MODEL
        own = [each for each in alarms if (self._component[each.feature] == LANGUAGE_MODEL) is of_text]
        parts = ("panel", *(["llm"] if of_text else []), *([] if main else [f"{_seconds(window)}s"]))
        return Signal(
            window.model,
            "_".join(parts),
            window.start_ms,
            window.end_ms,
            drifted=bool(own),
            alone=not main,
            reason="; ".join(alarm.reason for alarm in own),
            component=component,
            effect=max((alarm.statistic for alarm in own), default=0.0),
        )

    def _use(self, champion: Reference | None, baseline: Reference | None) -> None:
        """Prepare a new reference's panel; what was remembered of windows against the former one says nothing any more.

        A feature that the champion was not trained to compare is compared with the beginning of the stream, where that is known.
        """
        if (champion, baseline) == self._used:
            return
        self._used = (champion, baseline)
        version = champion.version if champion else None
        if version != self._version:
            self._memory, self._version = {}, version
        known = {sketch.feature.name: sketch for sketch in self._comparable(baseline)}
        known |= {sketch.feature.name: sketch for sketch in self._comparable(champion)}
        judged = {spec.name for spec in self._plans.declared(self.model).specs if not spec.ghost}
        if champion and (left := sorted(judged - set(known))):
            log.warning("unjudged model=%s champion=%s features=%s", self.model, version, ",".join(left))
        self._panel = Panel(list(known.values()), self._settings.policy_matrix) if champion or baseline else None
        self._beside = {name: Beside.of(sketch) for name, sketch in known.items()}

    def _comparable(self, reference: Reference | None) -> list[FeatureSketch]:
        declared = {spec.name: spec for spec in self._settings.specs(self.model) if not spec.ghost}
        return [
            sketch
            for sketch in (reference.sketches if reference else ())
            if sketch.feature.name in declared and same_declaration(sketch.feature, declared[sketch.feature.name])
        ]

    def _states(self, window: ClosedWindow) -> dict[str, FeatureState]:
        """States of all features with an event in the window; those that a version measures only of the reference's."""
        if self._panel is None and window.events < self._settings.min_window_events:
            return {}  # nothing to judge by, and too little to tell
        tags = ["", *([self._version, text_tag(self._version)] if self._version else [])]
        states = {}
        for tag in tags:
            if tag in window.sketches:
                layout, sketches = self._plans.of(self.model, tag), window.sketches[tag]
                for spec in layout.specs:
                    state = layout.state(sketches, spec.name)
                    if state.events:
                        states[spec.name] = state
        return states

    def _ranked(self) -> "Ranks":
        names = [spec.name for spec in self._plans.declared(self.model).specs]
        ranked = [each for each in self._ranking.ranks() if each.events > 0]
        alone = [each for each in ranked if len(each.features) == 1]
        pairs = [each for each in ranked if len(each.features) == 2][:PAIRS]
        return Ranks(
            {names[each.features[0]]: (each.nats, place) for place, each in enumerate(alone, 1)},
            tuple((names[each.features[0]], names[each.features[1]], each.nats) for each in pairs),
        )

    def _verdict(self, window: ClosedWindow, states: dict[str, FeatureState]) -> WindowVerdict | None:
        if self._panel is None:
            return None
        length = window.end_ms - window.start_ms
        memory = self._memory.get(length, Memory())
        counts = {name: state.counts for name, state in states.items()}
        events = {name: state.events for name, state in states.items()}
        verdict, self._memory[length] = self._panel.judge(counts, window.start_ms, window.end_ms, memory, events)
        return verdict

    def _row(
        self, window: ClosedWindow, name: str, state: FeatureState, verdict: WindowVerdict | None
    ) -> FeatureWindowRow:
        found = verdict.features.get(name) if verdict else None
        told = found is not None and found.verdict is not Verdict.INCONCLUSIVE
        information, rank = self._ranks.features.get(name, (None, None))
        return feature_row(
            window.model,
            window.start_ms,
            window.end_ms,
            self._version,
            state,
            self._beside.get(name),
            found,
            information,
            rank,
            detailed=told or state.events >= self._settings.min_window_events,
        )

    def _alarm(self, row: FeatureWindowRow) -> DriftRow:
        """The row of a drifting feature; its statistic is the effect, its threshold the least effect that counts."""
        return DriftRow(
            id=row_id("drift", row.model, "panel", row.feature, row.window_start_ms, row.window_end_ms),
            kind="drift",
            model=row.model,
            detector="panel",
            feature=row.feature,
            window_start_ms=row.window_start_ms,
            window_end_ms=row.window_end_ms,
            statistic=row.effect or 0.0,
            threshold=self._settings.policy(self._component[row.feature]).effect,
            # Rows keep bucket numbers, whose words a later reader may know better; an alarm is read now.
            reason=with_words(row, self._words).why,
        )

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        memory = {length: each.snapshot() for length, each in self._memory.items()}
        baseline = self._baseline.snapshot() if self._baseline else None
        words = {feature: dict(known) for feature, known in self._words.items()}
        return (SCHEMA, self._version, memory, baseline, self._ranking.snapshot(), words)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        schema, self._version, memory, baseline, ranking, words = snapshot
        if schema != SCHEMA:
            raise ValueError(f"judge snapshot: expected schema {SCHEMA}, got {schema}")
        self._memory = {length: Memory.restore(each) for length, each in memory.items()}
        if self._baseline and baseline is not None:
            self._baseline.restore(baseline)
        self._ranking = Ranking.restore(ranking)
        self._ranks = self._ranked()
        self._words = {feature: dict(known) for feature, known in words.items()}


def _seconds(window: ClosedWindow) -> int:
    return (window.end_ms - window.start_ms) // 1000


def row_id(kind: str, model: ModelName, detector: str, feature: str, window_start_ms: int, window_end_ms: int) -> str:
    """Deterministic id of a row of `drift_events`."""
    name = f"{kind}|{model}|{detector}|{feature}|{window_start_ms}|{window_end_ms}"
    return hashlib.sha256(name.encode()).hexdigest()


class JudgeLogic(StatefulBatchLogic[ClosedWindow | FeatureWord, Scored | FeatureWord, tuple[Any, ...]]):
    """The Bytewax shell around `Judge`: which model it judges it learns from the first item; words travel on."""

    def __init__(self, make: Callable[[ModelName], Judge], champions: Champions, monitoring_hash: str) -> None:
        self._make = make
        self._monitoring_hash = monitoring_hash
        self._champions = champions
        self._judge: Judge | None = None

    def on_batch(self, values: list[ClosedWindow | FeatureWord]) -> tuple[list[Scored | FeatureWord], bool]:
        found: list[Scored | FeatureWord] = []
        for each in values:
            judge = self._of(each.model)
            if isinstance(each, FeatureWord):
                judge.learn(each)
                found.append(each)
            else:
                found.append(judge.add(each, self._champions.reference(each.model)))
        return found, False

    def _of(self, model: ModelName) -> Judge:
        if self._judge is None:
            self._judge = self._make(model)
        return self._judge

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        model, state = snapshot
        self._of(model).restore(state)

    def snapshot(self) -> tuple[Any, ...]:
        assert self._judge is not None
        return (self._monitoring_hash, (self._judge.model, self._judge.snapshot()))


@operator
def score_windows(
    step_id: str, up: KeyedStream[Found], settings: FlowSettings, plans: Plans, champions: Champions
) -> KeyedStream[Scored | FeatureWord]:
    """Closed windows -> judged windows, and newly met words as they are, keyed by model."""

    def build(resume: tuple[Any, ...] | None) -> JudgeLogic:
        logic = JudgeLogic(lambda model: Judge(model, settings, plans), champions, settings.monitoring_hash)
        if (state := usable(resume, settings, "judge")) is not None:
            logic.restore(state)
        return logic

    def by_model(item: tuple[str, Found]) -> tuple[str, ClosedWindow | FeatureWord] | None:
        _, found = item
        return (found.model, found) if isinstance(found, ClosedWindow | FeatureWord) else None

    return op.stateful_batch("judge", op.filter_map("by_model", up, by_model), build)
