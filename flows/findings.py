"""Findings: what the windows say becomes rows and retrain jobs.

- One key per model holds the trigger memory, apart for the recommender and for its language model; window reports and outcome
  alarms meet there.
- Every drift event, every trigger and every suppressed trigger is one row with a deterministic id: a replay adds nothing.
"""

import dataclasses
from collections import Counter
from typing import Any, Final, assert_never

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.background import BackgroundWriter
from flows.delayed_labels import of_labels
from flows.drift import Scored, row_id
from flows.instruments import Instruments
from flows.levels import Answer, Champion, JobTemplate, Level, LevelRules, Trained, overdue
from flows.levels import answer as answer_to
from flows.tally import Tally
from flows.triggers import (
    LANGUAGE_MODEL,
    RECOMMENDER,
    Family,
    Signal,
    Suppressed,
    Trigger,
    TriggerState,
    due,
    step,
)
from online_models.contracts.ids import ModelName
from online_models.contracts.jobs import NewJob
from online_models.contracts.rollouts import GroupedCounts, ShadowCounts, VariantWindow
from online_models.ports import DriftRow, FeatureWindowRow, FeatureWord, JobQueue, WindowRow, WindowStore

SCHEMA: Final = 2

Input = Scored | VariantWindow | GroupedCounts | ShadowCounts | Signal | FeatureWord | FeatureWindowRow
Finding = WindowRow | FeatureWindowRow | FeatureWord | DriftRow | VariantWindow | GroupedCounts | ShadowCounts | NewJob


class Findings:
    """One model's way from scores and alarms to rows and jobs; without a template to rows alone."""

    def __init__(self, rules: LevelRules, template: JobTemplate | None, bootstrap_events: int) -> None:
        self._rules = rules
        self._template = template
        self._states = {RECOMMENDER: TriggerState(), LANGUAGE_MODEL: TriggerState()}
        self._trained = Trained()
        self._champion: Champion | None = None
        self._events = 0
        self._bootstrap_events = {RECOMMENDER: bootstrap_events, LANGUAGE_MODEL: bootstrap_events}

    def add(self, found: Input) -> list[Finding]:
        """Rows and jobs that follow from one score, alarm or window."""
        match found:
            case VariantWindow() | GroupedCounts() | ShadowCounts() | FeatureWord() | FeatureWindowRow():
                return [found]
            case Signal():
                alarm: list[Finding] = [_row("drift", found, found.reason)] if found.drifted else []
                return alarm + self._step(found)
            case Scored():
                return self._judged(found)
            case _:
                assert_never(found)

    def _judged(self, scored: Scored) -> list[Finding]:
        self._champion = scored.champion
        self._events += scored.new_events
        rows: list[Finding] = [scored.row, *scored.features, *scored.alarms]
        rows += self._step(scored.signal)
        # A trigger that waits is due by event time, also where no feature tells of its component.
        rows += self._step(scored.language) if scored.language else self._due(LANGUAGE_MODEL, scored.row.window_end_ms)
        return rows + self._bootstrap(scored) + self._bootstrap_language_model(scored) + self._schedule(scored)

    def _step(self, signal: Signal) -> list[Finding]:
        state = self._states[signal.component]
        answer = self._answer(signal, state)
        policy = self._rules.policies[answer.level]
        self._states[signal.component], decisions = step(state, signal, policy, answer.level, answer.held)
        found: list[Finding] = []
        for decision in decisions:
            match decision:
                case Suppressed():
                    found.append(_row("suppressed", decision.signal, decision.reason))
                case Trigger():
                    why = answer.why if decision.signal is signal else ""
                    found += self._ask(decision.signal, Level(decision.level), signal.window_end_ms, why)
                case _:
                    assert_never(decision)
        return found

    def _answer(self, signal: Signal, state: TriggerState) -> Answer:
        if self._template is None:
            return Answer(Level.COLD)  # who only monitors hears of every trigger
        return answer_to(signal, state.since_ms, self._trained, self._champion, self._rules)

    def _due(self, component: str, now_ms: int) -> list[Finding]:
        self._states[component], decisions = due(self._states[component], now_ms)
        return [found for each in decisions for found in self._ask(each.signal, Level(each.level), now_ms)]

    def _bootstrap(self, scored: Scored) -> list[Finding]:
        """A model without a version asks for its first training, and again each time its data has doubled.

        The doubling bounds the rate; cooldown and budget are for drift, and a first training must not delay the first of it.
        """
        if scored.has_champion or not self._enough(RECOMMENDER):
            return []
        return self._first(scored, "bootstrap", RECOMMENDER, Level.COLD, f"no version yet, {self._events} events")

    def _bootstrap_language_model(self, scored: Scored) -> list[Finding]:
        """A model whose champion has no adapter asks for one, likewise, and not within the cooldown of the last one."""
        without = scored.champion is not None and not scored.champion.language_model
        if scored.row.model not in self._rules.language_models or not without or not self._enough(LANGUAGE_MODEL):
            return []
        # one that was trained already may be on its way through a rollout
        last_ms, now_ms = self._states[LANGUAGE_MODEL].last_trigger_ms, scored.row.window_end_ms
        if last_ms is not None and now_ms < last_ms + self._rules.policies[Level.LORA].cooldown_ms:
            return []
        self._states[LANGUAGE_MODEL] = dataclasses.replace(self._states[LANGUAGE_MODEL], last_trigger_ms=now_ms)
        reason = f"no language model yet, {self._events} events"
        return self._first(scored, "bootstrap_llm", LANGUAGE_MODEL, Level.LORA, reason)

    def _enough(self, component: str) -> bool:
        return self._template is not None and self._events >= self._bootstrap_events[component]

    def _first(self, scored: Scored, detector: str, component: str, level: Level, reason: str) -> list[Finding]:
        self._bootstrap_events[component] = 2 * self._events
        start, end = scored.row.window_start_ms, scored.row.window_end_ms
        signal = Signal(
            scored.row.model, detector, start, end, True, True, reason, family=Family.BOOTSTRAP, component=component
        )
        return self._ask(signal, level, end)

    def _schedule(self, scored: Scored) -> list[Finding]:
        """A training that is due without any drift. One that waits already will do."""
        start, end = scored.row.window_start_ms, scored.row.window_end_ms
        reason = overdue(end, self._trained, scored.champion, self._rules)
        if self._template is None or not reason or self._states[RECOMMENDER].waiting is not None:
            return []
        return self._step(Signal(scored.row.model, "schedule", start, end, True, True, reason, family=Family.SCHEDULE))

    def _ask(self, signal: Signal, level: Level, now_ms: int, why: str = "") -> list[Finding]:
        """The row of one trigger, and its job where there is something to train on."""
        self._trained = self._trained.after(level, now_ms)
        row = _row("trigger", signal, signal.reason)
        return [row] if self._template is None else [row, self._template.job(signal, level, why)]

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        states = {component: state.packed() for component, state in self._states.items()}
        trained, champion = dataclasses.astuple(self._trained), self._champion and dataclasses.astuple(self._champion)
        return (SCHEMA, states, self._events, dict(self._bootstrap_events), trained, champion)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        if snapshot[0] == 1:
            snapshot = _from_schema_1(snapshot, self._bootstrap_events[LANGUAGE_MODEL])
        schema, states, self._events, bootstrap_events, trained, champion = snapshot
        if schema != SCHEMA:
            raise ValueError(f"findings snapshot: expected schema {SCHEMA}, got {schema}")
        self._states = {component: TriggerState.unpacked(state) for component, state in states.items()}
        self._bootstrap_events = dict(bootstrap_events)
        self._trained = Trained(*trained)
        self._champion = Champion(*champion) if champion else None


def _from_schema_1(snapshot: tuple[Any, ...], bootstrap_events: int) -> tuple[Any, ...]:
    """A snapshot from before there were levels: one state, whose triggers all trained factors from nothing."""
    _, (*counted, spent, waiting), events, next_events = snapshot
    if waiting is not None:
        *told, fall = waiting
        family = Family.OUTCOME if fall else Family.COMPOSITE
        waiting = ((*told, family.value, RECOMMENDER, float("inf")), Level.COLD.value)
    state = (*counted, {Level.COLD.value: spent}, waiting, None)
    last_ms = counted[3]
    bootstrap = {RECOMMENDER: next_events, LANGUAGE_MODEL: bootstrap_events}
    states = {RECOMMENDER: state, LANGUAGE_MODEL: TriggerState().packed()}
    return (SCHEMA, states, events, bootstrap, (last_ms, last_ms, 0), None)


def _row(kind: str, signal: Signal, reason: str) -> DriftRow:
    return DriftRow(
        id=row_id(kind, signal.model, signal.detector, signal.feature, signal.window_start_ms, signal.window_end_ms),
        kind=kind,
        model=signal.model,
        detector=signal.detector,
        feature=signal.feature,
        window_start_ms=signal.window_start_ms,
        window_end_ms=signal.window_end_ms,
        statistic=0.0,
        threshold=0.0,
        reason=reason,
    )


class FindingLogic(StatefulBatchLogic[Input, Finding, tuple[Any, ...]]):
    """The Bytewax shell around `Findings`."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def on_batch(self, values: list[Input]) -> tuple[list[Finding], bool]:
        return [finding for found in values for finding in self._findings.add(found)], False

    def snapshot(self) -> tuple[Any, ...]:
        return self._findings.snapshot()


@operator
def decide(
    step_id: str,
    up: KeyedStream[Input],
    rules: LevelRules,
    template: JobTemplate | None,
    bootstrap_events: int,
) -> KeyedStream[Finding]:
    """Scores, alarms and variant windows by model -> rows and jobs."""

    def build(resume: tuple[Any, ...] | None) -> FindingLogic:
        findings = Findings(rules, template, bootstrap_events)
        if resume is not None:
            findings.restore(resume)
        return FindingLogic(findings)

    return op.stateful_batch("findings", up, build)


class FindingPartition(StatefulSinkPartition[Finding, tuple[int, ...]]):
    """Stores rows and submits jobs; its snapshot is the run's figures so far."""

    def __init__(
        self,
        store: WindowStore,
        queue: JobQueue,
        tally: Tally,
        instruments: Instruments | None,
        resume: tuple[int, ...],
    ) -> None:
        self._store = store
        self._instruments = instruments
        self._queue = queue
        self._tally = tally
        tally.drift_events, tally.triggers, tally.suppressed, tally.jobs = resume
        self._writer = BackgroundWriter[list[Finding]]("findings", self._write)

    def write_batch(self, values: list[Finding]) -> None:
        self._writer.submit(values)

    def _write(self, waiting: list[list[Finding]]) -> None:
        found = [finding for findings in waiting for finding in findings]
        if reports := [each for each in found if isinstance(each, WindowRow)]:
            self._store.put_window_reports(reports)
        if features := [each for each in found if isinstance(each, FeatureWindowRow)]:
            self._store.put_feature_windows(features)
            if self._instruments is not None:
                self._instruments.observe([row for row in features if not of_labels(row)])
        if words := [each for each in found if isinstance(each, FeatureWord)]:
            self._store.put_feature_words(words)
        if windows := [each for each in found if isinstance(each, VariantWindow)]:
            self._store.put_variant_windows(windows)
        if groups := [each for each in found if isinstance(each, GroupedCounts)]:
            self._store.put_grouped_counts(groups)
        if shadows := [each for each in found if isinstance(each, ShadowCounts)]:
            self._store.put_shadow_counts(shadows)
        if rows := [each for each in found if isinstance(each, DriftRow)]:
            self._store.put_drift_events(rows)
        kinds = Counter(row.kind for row in rows)
        self._tally.drift_events += kinds["drift"]
        self._tally.triggers += kinds["trigger"]
        self._tally.suppressed += kinds["suppressed"]
        for each in found:
            if isinstance(each, NewJob):
                self._submit(each)

    def _submit(self, job: NewJob) -> None:
        if self._queue.submit(job) is not None:
            self._tally.jobs += 1
            return
        refusal = DriftRow(
            id=row_id("refused", job.model, "queue", job.trigger_id, 0, 0),
            kind="suppressed",
            model=ModelName(job.model),
            detector="queue",
            feature="",
            window_start_ms=0,
            window_end_ms=0,
            statistic=0.0,
            threshold=0.0,
            reason=f"another job of {job.model} is open; trigger {job.trigger_id[:12]} asks for none",
        )
        self._store.put_drift_events([refusal])
        self._tally.suppressed += 1

    def snapshot(self) -> tuple[int, ...]:
        self._writer.drain()
        tally = self._tally
        return (tally.drift_events, tally.triggers, tally.suppressed, tally.jobs)

    def close(self) -> None:
        self._writer.close()


class FindingSink(FixedPartitionedSink[Finding, tuple[int, ...]]):
    """One partition: rows and jobs are few."""

    def __init__(self, store: WindowStore, queue: JobQueue, tally: Tally, instruments: Instruments | None) -> None:
        self._store = store
        self._queue = queue
        self._tally = tally
        self._instruments = instruments

    def list_parts(self) -> list[str]:
        return ["findings-0"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[int, ...] | None) -> FindingPartition:
        return FindingPartition(self._store, self._queue, self._tally, self._instruments, resume_state or (0, 0, 0, 0))
