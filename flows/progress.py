"""Progress of a run: a bar on a terminal, a log line now and then without one, and the run's report."""

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TextIO

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from tqdm import tqdm

from flows.tally import Tally
from flows.windows import Found, Progress
from online_models.contracts.events import utc

log: Final = logging.getLogger(__name__)

LOG_EVERY_SECONDS: Final = 10.0


class Display:
    """Shows a tally: events, events per second, windows, and the lag: how far the newest event is behind now.

    now_ms : the time that a live stream is measured against; None for a replay, which shows the event time it has come to
    """

    def __init__(self, tally: Tally, stream: TextIO, now_ms: Callable[[], int] | None = None) -> None:
        self._tally = tally
        self._now_ms = now_ms
        self._bar: Any = tqdm(unit=" events", unit_scale=True, file=stream) if stream.isatty() else None
        self._next_log = time.monotonic() + LOG_EVERY_SECONDS

    def update(self) -> None:
        """Show the tally as it is now."""
        progress = self._tally.progress
        if self._bar is not None:
            self._bar.set_postfix_str(f"windows={progress.windows}, {self._lag(progress)}", refresh=False)
            self._bar.update(progress.events - self._bar.n)
        elif time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + LOG_EVERY_SECONDS
            log.info("progress events=%d windows=%d %s", progress.events, progress.windows, self._lag(progress))

    def _lag(self, progress: Progress) -> str:
        if self._now_ms is None:
            return f"at={utc(progress.max_ts_ms):%Y-%m-%dT%H:%M:%SZ}"
        return f"lag={(self._now_ms() - progress.max_ts_ms) / 1000:.1f}s"

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()


class ProgressPartition(StatefulSinkPartition[Progress, tuple[int, ...]]):
    """Keeps the newest totals in the tally and on the display."""

    def __init__(self, tally: Tally, display: Display, resume: tuple[int, ...] | None) -> None:
        self._tally = tally
        self._display = display
        tally.progress = Progress(*resume) if resume else Progress()
        tally.events_before = tally.progress.events

    def write_batch(self, values: list[Progress]) -> None:
        self._tally.progress = values[-1]
        self._display.update()

    def snapshot(self) -> tuple[int, ...]:
        p = self._tally.progress
        return (p.events, p.rejected, p.duplicates, p.late, p.windows, p.watermark_ms, p.max_ts_ms)


class ProgressSink(FixedPartitionedSink[Progress, tuple[int, ...]]):
    """One partition, on the worker that owns the windows."""

    def __init__(self, tally: Tally, display: Display) -> None:
        self._tally = tally
        self._display = display

    def list_parts(self) -> list[str]:
        return ["progress-0"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[int, ...] | None) -> ProgressPartition:
        return ProgressPartition(self._tally, self._display, resume_state)


@operator
def progress_of(step_id: str, up: KeyedStream[Found]) -> KeyedStream[Progress]:
    """The totals among what the windows emit, for a `ProgressSink`."""
    return op.filter_map_value("progress", up, lambda found: found if isinstance(found, Progress) else None)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Wall and CPU seconds since it was made, in this process; embedded servers count for themselves."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> "Stopwatch":
        """A stopwatch that starts now."""
        return cls(time.monotonic(), time.process_time())

    def figures(self, tally: Tally) -> dict[str, float]:
        """The run's report. `events_per_second` is of this process: events read before a crash are left out."""
        wall = time.monotonic() - self.wall
        p = tally.progress
        return {
            "events": p.events,
            "rejected": p.rejected,
            "duplicates": p.duplicates,
            "late": p.late,
            "windows": p.windows,
            "drift_events": tally.drift_events,
            "triggers": tally.triggers,
            "suppressed": tally.suppressed,
            "jobs": tally.jobs,
            "vectors_written": tally.vectors_written,
            "rows_written": tally.rows_written,
            "dead_letters": tally.dead_letters,
            "wall_seconds": round(wall, 3),
            "cpu_seconds": round(time.process_time() - self.cpu, 3),
            "events_per_second": round((p.events - tally.events_before) / wall, 1),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
