"""What a run has done so far: read by the progress display and written into the run's report.

One object per process, filled by the sinks; each sink restores its own figures from its snapshot after a crash.
"""

from dataclasses import dataclass, field

from flows.windows import Progress


@dataclass(slots=True)
class Tally:
    """Figures of one run since its first event; `progress` is as of the newest chunk through all windows."""

    progress: Progress = field(default_factory=Progress)
    events_before: int = 0
    """Events that earlier processes of a resumed run had read."""
    drift_events: int = 0
    triggers: int = 0
    suppressed: int = 0
    jobs: int = 0
    vectors_written: int = 0
    rows_written: int = 0
    dead_letters: int = 0
