"""Event-time windows: chunks become pane histograms, panes become windows, a watermark closes them.

- A window is a sum of panes; tumbling windows have one pane, sliding ones several (measured: x300 over per-event windows).
- Watermark = min over live source partitions of (largest event time - lateness): event time only, so that downtime closes
  nothing. A partition silent for `idle` wall seconds no longer holds it back.
- What comes after its last window has closed is counted as late and reported; it still reaches every other branch.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import bytewax.operators as op
import numpy as np
import numpy.typing as npt
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from flows.admission import Admitted
from flows.settings import FlowSettings
from online_models import histograms
from online_models.contracts.events import EventBatch
from online_models.contracts.features import FeatureSpec
from online_models.contracts.ids import ModelName

SCHEMA: Final = 1
Counts = npt.NDArray[np.int64]
SpecsOf = Callable[[str], tuple[FeatureSpec, ...]]


@dataclass(frozen=True, slots=True)
class PaneDelta:
    """What one chunk adds to one pane: domain -> events, and (domain, feature) -> counts (bins + 3,)."""

    events: Mapping[str, int]
    counts: Mapping[tuple[str, str], Counts]


@dataclass(frozen=True, slots=True)
class WindowDelta:
    """What one chunk adds to the windows. `max_ts_ms` is None when it held no valid event."""

    partition: str
    max_ts_ms: int | None
    panes: Mapping[int, PaneDelta]
    events: int
    rejected: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """One model's complete window [start_ms, end_ms): its events, and feature -> counts (bins + 3,)."""

    model: ModelName
    start_ms: int
    end_ms: int
    events: int
    counts: Mapping[str, Counts]


@dataclass(frozen=True, slots=True)
class Progress:
    """Totals since the first event of the run, crashes included; `events` is all that was read, good or bad."""

    events: int = 0
    rejected: int = 0
    duplicates: int = 0
    late: int = 0
    windows: int = 0
    watermark_ms: int = 0
    max_ts_ms: int = 0


def combine(admitted: Admitted, specs: SpecsOf, pane_ms: int) -> WindowDelta:
    """One chunk's histogram delta: the stateless local combine."""
    batch = admitted.batch
    panes: dict[int, PaneDelta] = {}
    for code, domain in enumerate(batch.domains):
        rows = batch.domain == code
        if rows.any():
            _add_domain(panes, domain, batch if rows.all() else batch.take(rows), specs(domain), pane_ms)
    return WindowDelta(
        partition=admitted.partition,
        max_ts_ms=int(batch.ts_ms.max()) if len(batch) else None,
        panes=panes,
        events=len(batch) + len(admitted.rejects) + len(admitted.duplicates),
        rejected=len(admitted.rejects),
        duplicates=len(admitted.duplicates),
    )


def _add_domain(
    panes: dict[int, PaneDelta], domain: str, batch: EventBatch, specs: tuple[FeatureSpec, ...], pane_ms: int
) -> None:
    ids, index = np.unique(batch.ts_ms // pane_ms, return_inverse=True)
    events = np.bincount(index, minlength=len(ids))
    features = [event.features for event in batch.events]
    observed = {
        spec.name: histograms.observe(
            spec,
            type=batch.type,
            ts_ms=batch.ts_ms,
            value=batch.value,
            item_hash=batch.item_hash,
            features=features,
            pane=index,
            panes=len(ids),
        )
        for spec in specs
    }
    for row, pane in enumerate(ids.tolist()):
        old = panes.get(pane, PaneDelta({}, {}))
        counts = {(domain, name): table[row] for name, table in observed.items() if table[row].any()}
        panes[pane] = PaneDelta({**old.events, domain: int(events[row])}, {**old.counts, **counts})


@dataclass(slots=True)
class Pane:
    """A pane's running sums; arrays are replaced, never mutated, so that snapshots need no copies."""

    events: dict[str, int] = field(default_factory=dict)
    counts: dict[tuple[str, str], Counts] = field(default_factory=dict)

    def add(self, delta: PaneDelta) -> None:
        for domain, events in delta.events.items():
            self.events[domain] = self.events.get(domain, 0) + events
        for key, counts in delta.counts.items():
            mine = self.counts.get(key)
            self.counts[key] = counts.astype(np.int64) if mine is None else mine + counts


class Windows:
    """Open panes, the watermark, and the totals of a run.

    Parameters
    ----------
    pane_ms : length of a pane
    panes_per_window : 1 for tumbling windows
    lateness_ms : how far behind the newest event the watermark runs
    idle_seconds : wall seconds after which a silent source partition is left out of the watermark
    """

    def __init__(self, pane_ms: int, panes_per_window: int, lateness_ms: int, idle_seconds: float) -> None:
        if pane_ms <= 0 or panes_per_window <= 0 or lateness_ms < 0:
            raise ValueError("expected pane_ms > 0, panes_per_window > 0 and lateness_ms >= 0")
        self.pane_ms = pane_ms
        self.panes_per_window = panes_per_window
        self.lateness_ms = lateness_ms
        self.idle_seconds = idle_seconds
        self.progress = Progress()
        self._panes: dict[int, Pane] = {}
        self._newest: dict[str, int] = {}
        self._next_end: int | None = None
        self._heard: dict[str, float] = {}

    def add(self, delta: WindowDelta, now: float) -> list[ClosedWindow]:
        """Take a chunk's delta in; returns the windows that it closes, oldest first. `now`: monotonic wall seconds."""
        late = sum(self._add_pane(pane, pane_delta) for pane, pane_delta in delta.panes.items())
        if delta.max_ts_ms is not None:
            self._newest[delta.partition] = max(self._newest.get(delta.partition, 0), delta.max_ts_ms)
            self._heard[delta.partition] = now
        closed = self._close(now)
        old = self.progress
        self.progress = Progress(
            events=old.events + delta.events,
            rejected=old.rejected + delta.rejected,
            duplicates=old.duplicates + delta.duplicates,
            late=old.late + late,
            windows=old.windows + len(closed),
            watermark_ms=self._watermark_ms(now),
            max_ts_ms=max(self._newest.values(), default=0),
        )
        return closed

    def _add_pane(self, pane: int, delta: PaneDelta) -> int:
        """Returns how many events came too late."""
        if self._next_end is None or (self.progress.windows == 0 and pane + 1 < self._next_end):
            self._next_end = pane + 1
        if pane < self._next_end - self.panes_per_window:
            return sum(delta.events.values())
        self._panes.setdefault(pane, Pane()).add(delta)
        return 0

    def _watermark_ms(self, now: float) -> int:
        live = [
            newest
            for partition, newest in self._newest.items()
            if now - self._heard.get(partition, now) <= self.idle_seconds
        ]
        return min(live, default=self.lateness_ms) - self.lateness_ms

    def _close(self, now: float) -> list[ClosedWindow]:
        closed: list[ClosedWindow] = []
        complete = self._watermark_ms(now) // self.pane_ms
        while self._next_end is not None and self._panes and self._next_end <= complete:
            members = range(self._next_end - self.panes_per_window, self._next_end)
            closed += self._window([self._panes[pane] for pane in members if pane in self._panes])
            self._panes.pop(members.start, None)
            # An empty stretch is skipped in one step, however long.
            first = min(self._panes, default=complete)
            self._next_end = max(self._next_end + 1, min(first + 1, complete + 1))
        return closed

    def _window(self, panes: list[Pane]) -> list[ClosedWindow]:
        assert self._next_end is not None
        end_ms = self._next_end * self.pane_ms
        start_ms = end_ms - self.panes_per_window * self.pane_ms
        total = Pane()
        for pane in panes:
            total.add(PaneDelta(pane.events, pane.counts))
        return [
            ClosedWindow(
                ModelName(domain),
                start_ms,
                end_ms,
                events,
                {name: counts for (owner, name), counts in total.counts.items() if owner == domain},
            )
            for domain, events in sorted(total.events.items())
        ]

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values and arrays; `restore` continues exactly from here."""
        panes = {pane: (dict(held.events), dict(held.counts)) for pane, held in self._panes.items()}
        p = self.progress
        totals = (p.events, p.rejected, p.duplicates, p.late, p.windows, p.watermark_ms, p.max_ts_ms)
        return (SCHEMA, panes, dict(self._newest), self._next_end, totals)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        schema, panes, self._newest, self._next_end, totals = snapshot
        if schema != SCHEMA:
            raise ValueError(f"windows snapshot: expected schema {SCHEMA}, got {schema}")
        self._panes = {pane: Pane(dict(events), dict(counts)) for pane, (events, counts) in panes.items()}
        self.progress = Progress(*totals)


class WindowLogic(StatefulBatchLogic[WindowDelta, "ClosedWindow | Progress", tuple[Any, ...]]):
    """The Bytewax shell around `Windows`."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def on_batch(self, values: list[WindowDelta]) -> tuple[list["ClosedWindow | Progress"], bool]:
        closed: list[ClosedWindow | Progress] = []
        for delta in values:
            closed += self._windows.add(delta, time.monotonic())
        return [*closed, self._windows.progress], False

    def snapshot(self) -> tuple[Any, ...]:
        return self._windows.snapshot()


@operator
def close_windows(step_id: str, up: Stream[Admitted], settings: FlowSettings) -> KeyedStream["ClosedWindow | Progress"]:
    """Admitted chunks -> closed windows, and the run's totals after every chunk."""
    pane_ms = settings.pane_seconds * 1000

    def build(resume: tuple[Any, ...] | None) -> WindowLogic:
        windows = Windows(
            pane_ms,
            max(1, settings.window_seconds // settings.pane_seconds),
            settings.lateness_seconds * 1000,
            settings.idle_wall_seconds,
        )
        if resume is not None:
            windows.restore(resume)
        return WindowLogic(windows)

    def keyed(admitted: Admitted) -> tuple[str, WindowDelta]:
        # One key for all features: a key per feature was measured at 3-10 us an item.
        return "hist:0", combine(admitted, settings.specs, pane_ms)

    deltas = op.map("combine", up, keyed)
    return op.stateful_batch("windows", deltas, build)
