"""Findings: what the windows say becomes rows and retrain jobs.

- One key per model holds the trigger memory; window reports and outcome alarms meet there.
- Every drift event, every trigger and every suppressed trigger is one row with a deterministic id: a replay adds nothing.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.background import BackgroundWriter
from flows.drift import Scored, row_id
from flows.instruments import Instruments
from flows.tally import Tally
from flows.triggers import Signal, Suppressed, Trigger, TriggerPolicy, TriggerState, step
from online_models.contracts.ids import ModelName
from online_models.contracts.jobs import NewJob, TrainAls, trigger_id
from online_models.contracts.rollouts import VariantWindow
from online_models.ports import DriftRow, FeatureWindowRow, FeatureWord, JobQueue, WindowRow, WindowStore

SCHEMA: Final = 1

Input = Scored | VariantWindow | Signal | FeatureWord
Finding = WindowRow | FeatureWindowRow | FeatureWord | DriftRow | VariantWindow | NewJob


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """What every job of this flow asks for, and the hash that tells its trigger ids from another configuration's."""

    payload: TrainAls
    config_hash: str


class Findings:
    """One model's way from scores and alarms to rows and jobs; without a template to rows alone."""

    def __init__(self, policy: TriggerPolicy, template: JobTemplate | None, bootstrap_events: int) -> None:
        self._policy = policy
        self._template = template
        self._bootstrap_events = bootstrap_events
        self._state = TriggerState()
        self._events = 0

    def add(self, found: Input) -> list[Finding]:
        """Rows and jobs that follow from one score, alarm or variant window."""
        match found:
            case VariantWindow() | FeatureWord():
                return [found]
            case Signal():
                return self._decide(found, [])
            case Scored():
                rows: list[Finding] = [found.row, *found.features, *found.alarms]
                return rows + self._decide(found.signal, found.alarms) + self._bootstrap(found)
            case _:
                assert_never(found)

    def _decide(self, signal: Signal, alarms: Sequence[DriftRow]) -> list[Finding]:
        # Window alarms have a row per feature already; an outcome alarm is its own.
        alarm: list[Finding] = [_row("drift", signal, signal.reason)] if signal.drifted and not alarms else []
        return alarm + self._step(signal)

    def _step(self, signal: Signal) -> list[Finding]:
        self._state, decisions = step(self._state, signal, self._policy)
        found: list[Finding] = []
        for decision in decisions:
            match decision:
                case Suppressed():
                    found.append(_row("suppressed", decision.signal, decision.reason))
                case Trigger():
                    found += self._ask(decision.signal)
                case _:
                    assert_never(decision)
        return found

    def _bootstrap(self, scored: Scored) -> list[Finding]:
        """A model without a version asks for its first training, and again each time its data has doubled.

        The doubling bounds the rate; cooldown and budget are for drift, and a first training must not delay the first of it.
        """
        self._events += scored.new_events
        if scored.has_champion or self._template is None or self._events < self._bootstrap_events:
            return []
        self._bootstrap_events = 2 * self._events
        start, end = scored.row.window_start_ms, scored.row.window_end_ms
        reason = f"no version yet, {self._events} events"
        signal = Signal(scored.row.model, "bootstrap", start, end, True, True, reason)
        return self._ask(signal)

    def _ask(self, signal: Signal) -> list[Finding]:
        """The row of one trigger, and its job where there is something to train on."""
        if self._template is None:
            return [_row("trigger", signal, signal.reason)]
        trigger = trigger_id(signal.model, signal.detector, self._template.config_hash, signal.window_end_ms)
        job = NewJob(signal.model, trigger, f"{signal.detector}: {signal.reason}", self._template.payload)
        return [_row("trigger", signal, signal.reason), job]

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        s = self._state
        waiting = dataclasses.astuple(s.waiting) if s.waiting else None
        state = (s.drifting, s.calm, s.armed, s.last_trigger_ms, s.last_fall_ms, s.day, s.spent, waiting)
        return (SCHEMA, state, self._events, self._bootstrap_events)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        schema, state, self._events, self._bootstrap_events = snapshot
        if schema != SCHEMA:
            raise ValueError(f"findings snapshot: expected schema {SCHEMA}, got {schema}")
        *rest, waiting = state
        self._state = dataclasses.replace(TriggerState(*rest), waiting=Signal(*waiting) if waiting else None)


def _row(kind: str, signal: Signal, reason: str) -> DriftRow:
    return DriftRow(
        id=row_id(kind, signal.model, signal.detector, "", signal.window_start_ms, signal.window_end_ms),
        kind=kind,
        model=signal.model,
        detector=signal.detector,
        feature="",
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
    policy: TriggerPolicy,
    template: JobTemplate | None,
    bootstrap_events: int,
) -> KeyedStream[Finding]:
    """Scores, alarms and variant windows by model -> rows and jobs."""

    def build(resume: tuple[Any, ...] | None) -> FindingLogic:
        findings = Findings(policy, template, bootstrap_events)
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
                self._instruments.observe(features)
        if words := [each for each in found if isinstance(each, FeatureWord)]:
            self._store.put_feature_words(words)
        if windows := [each for each in found if isinstance(each, VariantWindow)]:
            self._store.put_variant_windows(windows)
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
