"""Progress: a bar on a terminal, log lines without one, and a report that adds up after a crash."""

import io
import logging
import time

import pytest

from flows.progress import LOG_EVERY_SECONDS, Display, ProgressSink, Stopwatch
from flows.tally import Tally
from flows.windows import Progress

FIRST = Progress(events=1_000, rejected=1, duplicates=2, late=3, windows=4, watermark_ms=5_000, max_ts_ms=65_000)
SECOND = Progress(events=1_234, rejected=2, duplicates=2, late=3, windows=56, watermark_ms=5_000, max_ts_ms=605_000)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_events_windows_and_lag() -> None:
    tally, terminal = Tally(), Terminal()
    display = Display(tally, terminal, now_ms=lambda: SECOND.max_ts_ms + 1500)
    tally.progress = FIRST
    display.update()
    time.sleep(0.15)  # the bar redraws ten times a second at most
    tally.progress = SECOND
    display.update()
    display.close()
    shown = terminal.getvalue()
    assert "1.23k events" in shown
    assert "windows=56" in shown
    assert "lag=1.5s" in shown
    assert shown.endswith("\n")


def test_without_a_terminal_there_is_no_bar_and_no_line_more_often_than_every_few_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    tally, stream = Tally(), io.StringIO()
    display = Display(tally, stream)
    tally.progress = SECOND
    for _ in range(100):
        display.update()
    display.close()
    assert stream.getvalue() == ""
    assert caplog.messages == []
    display._next_log = time.monotonic() - LOG_EVERY_SECONDS  # as if that time had passed
    display.update()
    display.update()
    assert caplog.messages == ["progress events=1234 windows=56 at=1970-01-01T00:10:05Z"]


def test_the_newest_totals_are_in_the_tally() -> None:
    tally = Tally()
    sink = ProgressSink(tally, Display(tally, io.StringIO()))
    part = sink.build_part("step", sink.list_parts()[0], None)
    assert (tally.progress, tally.events_before) == (Progress(), 0)
    part.write_batch([FIRST, SECOND])
    assert tally.progress == SECOND
    part.write_batch([FIRST])
    assert tally.progress == FIRST


def test_totals_go_on_from_the_snapshot_and_the_rate_is_of_this_process_alone() -> None:
    before = Tally()
    sink = ProgressSink(before, Display(before, io.StringIO()))
    part = sink.build_part("step", "progress-0", None)
    part.write_batch([FIRST])
    snapshot = part.snapshot()

    tally = Tally()
    resumed = ProgressSink(tally, Display(tally, io.StringIO())).build_part("step", "progress-0", snapshot)
    assert tally.progress == FIRST
    assert resumed.snapshot() == snapshot
    resumed.write_batch([SECOND])
    figures = Stopwatch(wall=time.monotonic() - 100, cpu=time.process_time() - 50).figures(tally)
    assert figures["events"] == 1_234
    assert figures["events_per_second"] == pytest.approx((1_234 - 1_000) / 100, abs=0.1)


def test_the_report_holds_every_figure_that_others_rely_on() -> None:
    tally = Tally(SECOND, drift_events=1, triggers=2, suppressed=3, jobs=4, vectors_written=5)
    tally.rows_written, tally.dead_letters = 6, 7
    figures = Stopwatch(wall=time.monotonic() - 100, cpu=time.process_time() - 50).figures(tally)
    counted = {name: number for name, number in figures.items() if name not in MEASURED}
    assert counted == {
        "events": 1_234,
        "rejected": 2,
        "duplicates": 2,
        "late": 3,
        "windows": 56,
        "drift_events": 1,
        "triggers": 2,
        "suppressed": 3,
        "jobs": 4,
        "vectors_written": 5,
        "rows_written": 6,
        "dead_letters": 7,
    }
    assert set(figures) >= MEASURED
    assert figures["wall_seconds"] == pytest.approx(100, abs=1)
    assert figures["cpu_seconds"] == pytest.approx(50, abs=1)
    assert 10_000_000 < figures["peak_rss_bytes"] < 10**11


MEASURED = {"wall_seconds", "cpu_seconds", "events_per_second", "peak_rss_bytes"}
