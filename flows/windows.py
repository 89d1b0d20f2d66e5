"""Event-time windows: chunks become pane sketches, panes become windows of several lengths, a watermark closes them.

- A window is a sum of panes; tumbling windows have one pane, sliding ones several (measured: x300 over per-event windows).
- Watermark = min over live source partitions of (largest event time - lateness): event time only, so that downtime closes
  nothing. A partition silent for `idle` wall seconds no longer holds it back.
- What comes after its last window has closed is counted as late and reported; it still reaches every other branch.
- Sketches are vectors of integers that merge by + or max: no split of the stream over chunks or processes changes a bit.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from flows.admission import Admitted
from flows.combine import PaneDelta, PlanKey, WindowDelta
from flows.settings import FlowSettings
from online_models.contracts.ids import ModelName
from online_models.information import Joint
from online_models.ports import FeatureWord
from online_models.sketches import Sketches

log: Final = logging.getLogger(__name__)

SCHEMA: Final = 2


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """One model's complete window [start_ms, end_ms): its events, and the sketches by plan tag ("" is the declared features).

    newest : the sketches of its newest pane alone, of `pane_ms`; joint : that pane's joint counts with the target, if any
    hop_ms : how much later the next window of this length ends
    """

    model: ModelName
    start_ms: int
    end_ms: int
    events: int
    sketches: Mapping[str, Sketches]
    newest: Mapping[str, Sketches]
    newest_events: int
    joint: Joint | None
    pane_ms: int
    hop_ms: int


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


@dataclass(slots=True)
class Pane:
    """A pane's running sketches; they are replaced, never mutated, so that snapshots need no copies."""

    events: dict[str, int] = field(default_factory=dict)
    sketches: dict[PlanKey, Sketches] = field(default_factory=dict)
    joint: dict[str, Joint] = field(default_factory=dict)

    def add(self, delta: "PaneDelta | Pane") -> None:
        for domain, events in delta.events.items():
            self.events[domain] = self.events.get(domain, 0) + events
        for key, sketches in delta.sketches.items():
            mine = self.sketches.get(key)
            self.sketches[key] = sketches if mine is None else mine.merged(sketches)
        for domain, joint in delta.joint.items():
            held = self.joint.get(domain)
            self.joint[domain] = joint if held is None else held + joint

    def of(self, domain: str) -> dict[str, Sketches]:
        """One domain's sketches by plan tag."""
        return {tag: sketches for (owner, tag), sketches in self.sketches.items() if owner == domain}


class Merged(Mapping[str, Sketches]):
    """Sketches by plan tag of several panes together, each added up when it is asked for: most quiet windows never are."""

    def __init__(self, panes: Sequence[Mapping[str, Sketches]]) -> None:
        self._panes = panes

    def __getitem__(self, tag: str) -> Sketches:
        if tag not in self:
            raise KeyError(tag)
        return reduce(Sketches.merged, [pane[tag] for pane in self._panes if tag in pane])

    def __contains__(self, tag: object) -> bool:
        return any(tag in pane for pane in self._panes)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(tag for pane in self._panes for tag in pane))

    def __len__(self) -> int:
        return len(list(iter(self)))


@dataclass(frozen=True, slots=True)
class Length:
    """Windows of `panes` panes, of which one ends every `hop` panes."""

    panes: int
    hop: int


class Windows:
    """Open panes, the watermark, and the totals of a run.

    Parameters
    ----------
    pane_ms : length of a pane
    lengths : the windows to close; (1, 1) are tumbling windows of one pane
    lateness_ms : how far behind the newest event the watermark runs
    idle_seconds : wall seconds after which a silent source partition is left out of the watermark
    """

    def __init__(self, pane_ms: int, lengths: Sequence[Length], lateness_ms: int, idle_seconds: float) -> None:
        if pane_ms <= 0 or lateness_ms < 0 or not lengths or min(min(each.panes, each.hop) for each in lengths) <= 0:
            raise ValueError("expected pane_ms > 0, lateness_ms >= 0, and lengths of at least one pane")
        self.pane_ms = pane_ms
        self.lengths = tuple(lengths)
        self._longest = max(each.panes for each in lengths)
        self._shortest = min(each.panes for each in lengths)
        self.lateness_ms = lateness_ms
        self.idle_seconds = idle_seconds
        self.progress = Progress()
        self._panes: dict[int, Pane] = {}
        self._newest: dict[str, int] = {}
        self._next_end: int | None = None
        self._heard: dict[str, float] = {}

    def add(self, delta: WindowDelta, now: float) -> list[ClosedWindow]:
        """Take a chunk's delta in; returns the windows that it closes, oldest first. `now`: monotonic wall seconds."""
        for partition in self._newest:  # after a restart: silent from now on, should it have gone
            self._heard.setdefault(partition, now)
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
        """Returns how many events came too late for the shortest of their windows; longer ones may still hold them."""
        if self._next_end is None or (self.progress.windows == 0 and pane + 1 < self._next_end):
            self._next_end = pane + 1
        if pane >= self._next_end - self._longest:
            self._panes.setdefault(pane, Pane()).add(delta)
        return sum(delta.events.values()) if pane < self._next_end - self._shortest else 0

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
            for length in self.lengths:
                if self._next_end % length.hop == 0:
                    closed += self._window(length, self._next_end)
            self._panes.pop(self._next_end - self._longest, None)
            # An empty stretch is skipped in one step, however long.
            first = min(self._panes, default=complete)
            self._next_end = max(self._next_end + 1, min(first + 1, complete + 1))
        return closed

    def _window(self, length: Length, end: int) -> list[ClosedWindow]:
        panes = [self._panes[pane] for pane in range(end - length.panes, end) if pane in self._panes]
        newest, events = self._panes.get(end - 1, Pane()), Counter[str]()
        for pane in panes:
            events.update(pane.events)
        return [
            ClosedWindow(
                ModelName(domain),
                (end - length.panes) * self.pane_ms,
                end * self.pane_ms,
                count,
                Merged([pane.of(domain) for pane in panes]),
                newest.of(domain),
                newest.events.get(domain, 0),
                newest.joint.get(domain),
                self.pane_ms,
                length.hop * self.pane_ms,
            )
            for domain, count in sorted(events.items())
        ]

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values and arrays; `restore` continues exactly from here."""
        panes = {
            pane: (
                dict(held.events),
                {key: each.vectors() for key, each in held.sketches.items()},
                dict(held.joint),
            )
            for pane, held in self._panes.items()
        }
        p = self.progress
        totals = (p.events, p.rejected, p.duplicates, p.late, p.windows, p.watermark_ms, p.max_ts_ms)
        return (SCHEMA, panes, dict(self._newest), self._next_end, totals)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        schema, panes, self._newest, self._next_end, totals = snapshot
        if schema != SCHEMA:
            raise ValueError(f"windows snapshot: expected schema {SCHEMA}, got {schema}")
        self._panes = {
            pane: Pane(dict(events), {key: Sketches(*each) for key, each in held.items()}, dict(joint))
            for pane, (events, held, joint) in panes.items()
        }
        self.progress = Progress(*totals)


Found = ClosedWindow | FeatureWord | Progress


class WindowLogic(StatefulBatchLogic[WindowDelta, Found, tuple[Any, ...]]):
    """The Bytewax shell around `Windows`. Its snapshot says under which settings it was made."""

    def __init__(self, windows: Windows, monitoring_hash: str) -> None:
        self._windows = windows
        self._monitoring_hash = monitoring_hash

    def on_batch(self, values: list[WindowDelta]) -> tuple[list[Found], bool]:
        found: list[Found] = []
        for delta in values:
            found += delta.words
            found += self._windows.add(delta, time.monotonic())
        return [*found, self._windows.progress], False

    def snapshot(self) -> tuple[Any, ...]:
        return (self._monitoring_hash, self._windows.snapshot())


def usable(resume: tuple[Any, ...] | None, settings: FlowSettings, step: str) -> Any:
    """The state of a resumed step, or None where it was made under other features or windows: it starts afresh then."""
    if resume is None:
        return None
    made_under, state = resume
    if made_under != settings.monitoring_hash:
        log.warning("state_dropped step=%s reason=features, windows or ranking have changed", step)
        return None
    return state


def windows_of(settings: FlowSettings) -> Windows:
    """Empty windows of these settings."""
    return Windows(
        settings.pane_seconds * 1000,
        [Length(panes, hop) for panes, hop in settings.lengths],
        settings.lateness_seconds * 1000,
        settings.idle_wall_seconds,
    )


@operator
def close_windows(
    step_id: str, up: Stream[Admitted], settings: FlowSettings, combine: Callable[[Admitted], WindowDelta]
) -> KeyedStream[Found]:
    """Admitted chunks -> closed windows, newly met frequent words, and the run's totals after every chunk."""

    def build(resume: tuple[Any, ...] | None) -> WindowLogic:
        windows = windows_of(settings)
        if (state := usable(resume, settings, "windows")) is not None:
            windows.restore(state)
        return WindowLogic(windows, settings.monitoring_hash)

    # One key for all features: a key per feature was measured at 3-10 us an item.
    deltas = op.map("combine", up, lambda admitted: ("hist:0", combine(admitted)))
    return op.stateful_batch("windows", deltas, build)
