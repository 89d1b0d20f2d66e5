"""Drift of the monitored features: each closed window against what the champion was trained on.

- PSI, KS and KL per feature, two of three make an alarm; every alarm is a row with its reason in plain words.
- Without a champion, or with another declaration of the feature than the champion's, a window is reported unjudged.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import bytewax.operators as op
import msgspec
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from flows.live import Champions, Reference, same_declaration
from flows.settings import FlowSettings
from flows.triggers import Signal
from flows.windows import ClosedWindow, Counts, Progress
from online_models.contracts.features import FeatureSpec
from online_models.contracts.ids import ModelName
from online_models.drift.composite import Verdict, two_of_three
from online_models.drift.kl import KlDetector
from online_models.drift.ks import KsDetector
from online_models.drift.psi import THRESHOLD, PsiDetector
from online_models.ports import DriftRow, WindowRow


class FeatureReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One feature in one window: how many values, how many of them missing, and what the detectors say (None: unjudged)."""

    events: int
    missing: int
    psi: float | None = None
    ks: float | None = None
    kl: float | None = None
    drifted: bool = False
    why: str = ""


class WindowReport(msgspec.Struct, frozen=True):
    """One model's window as stored in `window_reports`; `reference` is the champion it was compared with, if any."""

    events: int
    reference: str | None
    features: dict[str, FeatureReport]


@dataclass(frozen=True, slots=True)
class Scored:
    """A judged window: its row, a row per drifting feature, and the signal for the triggers."""

    row: WindowRow
    alarms: Sequence[DriftRow]
    signal: Signal
    events: int
    has_champion: bool


def score(window: ClosedWindow, reference: Reference | None, settings: FlowSettings) -> Scored:
    """Judge one window of one model; the same window and reference give the same rows."""
    features = {
        spec.name: judge(spec, window.counts[spec.name], reference, settings.min_window_events)
        for spec in settings.specs(window.model)
        if spec.name in window.counts
    }
    drifted = {name: report for name, report in features.items() if report.drifted}
    report = WindowReport(window.events, reference.version if reference else None, features)
    reason = "; ".join(report.why for report in drifted.values())
    return Scored(
        row=WindowRow(window.model, window.start_ms, window.end_ms, msgspec.json.encode(report)),
        alarms=[alarm(window, name, report) for name, report in drifted.items()],
        signal=Signal(window.model, "composite", window.start_ms, window.end_ms, bool(drifted), False, reason),
        events=window.events,
        has_champion=reference is not None,
    )


def judge(spec: FeatureSpec, counts: Counts, reference: Reference | None, min_events: int) -> FeatureReport:
    """One feature's report; unjudged without a comparable reference or with too few values."""
    events, missing = int(counts.sum()), int(counts[-1])
    known = reference.features.get(spec.name) if reference else None
    if known is None or not same_declaration(spec, known[0]):
        return FeatureReport(events, missing)
    psi, ks, kl = (kind(known[1], spec.kind, min_events=min_events) for kind in (PsiDetector, KsDetector, KlDetector))
    for detector in (psi, ks, kl):
        detector.update(counts)
    found = two_of_three(psi.reading, ks.reading, kl.reading)
    if found.verdict is Verdict.INCONCLUSIVE:
        return FeatureReport(events, missing)
    drifted = found.verdict is Verdict.DRIFT
    why = found.explain(spec.name) if drifted else ""
    return FeatureReport(events, missing, psi.statistic, ks.statistic, kl.statistic, drifted, why)


def alarm(window: ClosedWindow, feature: str, report: FeatureReport) -> DriftRow:
    """The row of a drifting feature; its statistic is the PSI, its threshold the PSI's."""
    return DriftRow(
        id=row_id("drift", window.model, "composite", feature, window.end_ms),
        kind="drift",
        model=window.model,
        detector="composite",
        feature=feature,
        window_start_ms=window.start_ms,
        window_end_ms=window.end_ms,
        statistic=report.psi or 0.0,
        threshold=THRESHOLD,
        reason=report.why,
    )


def row_id(kind: str, model: ModelName, detector: str, feature: str, window_end_ms: int) -> str:
    """Deterministic id of a row of `drift_events`."""
    return hashlib.sha256(f"{kind}|{model}|{detector}|{feature}|{window_end_ms}".encode()).hexdigest()


@operator
def score_windows(
    step_id: str, up: KeyedStream[ClosedWindow | Progress], settings: FlowSettings, champions: Champions
) -> KeyedStream[Scored]:
    """Closed windows -> judged windows, keyed by model."""

    def scored(item: tuple[str, ClosedWindow | Progress]) -> tuple[str, Scored] | None:
        _, found = item
        if isinstance(found, Progress):
            return None
        return found.model, score(found, champions.reference(found.model), settings)

    return op.filter_map("score", up, scored)
