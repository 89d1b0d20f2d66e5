"""Event-time windows against an oracle that sorts all events first."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.combine import PaneDelta, WindowDelta
from flows.windows import ClosedWindow, Length, Merged, Windows
from online_models.sketches import Sketches

PANE_MS = 1000


def delta(times: list[int], partition: str = "a") -> WindowDelta:
    """A chunk of events of one domain, each adding one to a sum; registers and extremes keep the largest time."""
    panes: dict[int, PaneDelta] = {}
    for pane in {moment // PANE_MS for moment in times}:
        events = sum(moment // PANE_MS == pane for moment in times)
        latest = max(moment for moment in times if moment // PANE_MS == pane)
        sketches = Sketches(np.array([events]), np.array([latest % 251], np.uint8), np.array([[-1.0, latest]]))
        panes[pane] = PaneDelta({"movies": events}, {("movies", ""): sketches}, {})
    return WindowDelta(partition, max(times) if times else None, panes, len(times), 0, 0)


def found(closed: list[ClosedWindow]) -> list[tuple[int, int, int]]:
    return [(window.start_ms, window.end_ms, int(window.sketches[""].sums[0])) for window in closed]


def windows_of(panes_per_window: int = 1, lateness_ms: int = 0) -> Windows:
    return Windows(PANE_MS, [Length(panes_per_window, 1)], lateness_ms, idle_seconds=30.0)


def test_a_window_closes_when_the_watermark_passes_its_end() -> None:
    windows = windows_of(lateness_ms=500)
    assert found(windows.add(delta([100, 900]), 0.0)) == []
    assert found(windows.add(delta([1400]), 0.0)) == []
    assert found(windows.add(delta([1500]), 0.0)) == [(0, 1000, 2)]


def test_what_comes_after_its_window_has_closed_is_counted_as_late() -> None:
    windows = windows_of()
    windows.add(delta([100, 2500]), 0.0)
    assert found(windows.add(delta([200, 2600]), 0.0)) == []
    assert (windows.progress.late, windows.progress.events) == (1, 4)


def test_a_slow_partition_holds_the_watermark_back_until_it_is_idle() -> None:
    windows = windows_of()
    windows.add(delta([100], "slow"), 0.0)
    assert found(windows.add(delta([5000], "fast"), 1.0)) == []
    assert found(windows.add(delta([5100], "fast"), 31.0)) == [(0, 1000, 1)]


def test_panes_of_a_window_are_added_up_by_their_tags() -> None:
    parts = [{"": counted(1)}, {"": counted(2), "v1": counted(5)}]
    merged = Merged(parts)
    assert {tag: int(sketches.sums[0]) for tag, sketches in merged.items()} == {"": 3, "v1": 5}
    assert ("v1" in merged, "v2" in merged, merged.get("v2"), len(merged)) == (True, False, None, 2)


def counted(events: int) -> Sketches:
    return Sketches(np.array([events]), np.zeros(1, np.uint8), np.zeros((1, 2)))


def test_an_empty_stretch_of_years_is_skipped() -> None:
    windows = windows_of()
    windows.add(delta([100]), 0.0)
    far = 10**12
    assert found(windows.add(delta([far]), 0.0)) == [(0, 1000, 1)]
    assert found(windows.add(delta([far + PANE_MS]), 0.0)) == [(far, far + PANE_MS, 1)]


def test_sliding_windows_share_their_panes() -> None:
    windows = windows_of(panes_per_window=2)
    closed = found(windows.add(delta([500, 1500, 2500, 3500]), 0.0))
    assert closed == [(-1000, 1000, 1), (0, 2000, 2), (1000, 3000, 2)]


@pytest.mark.parametrize("panes_per_window", [1, 3])
@given(data=st.data())
def test_any_chunking_of_events_out_of_order_gives_the_oracle_s_windows(
    data: st.DataObject, panes_per_window: int
) -> None:
    times = sorted(data.draw(st.lists(st.integers(0, 20_000), min_size=1, max_size=60)))
    lateness = 2_000
    shuffled = sorted(times, key=lambda moment: moment + data.draw(st.integers(0, lateness)))
    windows = windows_of(panes_per_window, lateness)
    closed = []
    while shuffled:
        size = data.draw(st.integers(1, len(shuffled)))
        closed += windows.add(delta(shuffled[:size]), 0.0)
        restored = windows_of(panes_per_window, lateness)
        restored.restore(windows.snapshot())
        windows, shuffled = restored, shuffled[size:]
    end = (max(times) - lateness) // PANE_MS
    oracle = []
    for last in range(times[0] // PANE_MS + 1, end + 1):
        start = last - panes_per_window
        inside = sum(start * PANE_MS <= moment < last * PANE_MS for moment in times)
        if inside:
            oracle.append((start * PANE_MS, last * PANE_MS, inside))
    assert found(closed) == oracle
    assert (windows.progress.late, windows.progress.events) == (0, len(times))


def test_several_lengths_close_over_the_same_panes() -> None:
    windows = Windows(PANE_MS, [Length(1, 1), Length(4, 2)], 0, idle_seconds=30.0)
    closed = windows.add(delta([500, 1500, 2500, 3500, 4500, 6100]), 0.0)
    assert found(closed) == [
        (0, 1000, 1),
        (1000, 2000, 1),
        (-2000, 2000, 2),
        (2000, 3000, 1),
        (3000, 4000, 1),
        (0, 4000, 4),
        (4000, 5000, 1),
        (2000, 6000, 3),
    ]
    longest = closed[5]
    assert (longest.sketches[""].extremes.tolist(), longest.newest[""].extremes.tolist()) == (
        [[-1, 3500]],
        [[-1, 3500]],
    )
    assert (longest.newest_events, longest.pane_ms, longest.hop_ms) == (1, 1000, 2000)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Windows(0, [Length(1, 1)], 0, 1.0),
        lambda: Windows(1, [], 0, 1.0),
        lambda: Windows(1, [Length(0, 1)], 0, 1.0),
        lambda: Windows(1, [Length(1, 0)], 0, 1.0),
        lambda: Windows(1, [Length(1, 1)], -1, 1.0),
    ],
)
def test_impossible_windows_are_refused(wrong: Callable[[], Windows]) -> None:
    with pytest.raises(ValueError, match="expected"):
        wrong()


def test_what_only_a_longer_window_still_takes_is_late_all_the_same() -> None:
    windows = Windows(PANE_MS, [Length(1, 1), Length(4, 2)], 0, idle_seconds=30.0)
    windows.add(delta([500, 3500]), 0.0)
    closed = windows.add(delta([1500, 4500]), 0.0)
    assert windows.progress.late == 1
    assert found(closed) == [(3000, 4000, 1), (0, 4000, 3)]


def test_a_partition_that_is_silent_since_a_restart_becomes_idle() -> None:
    before = windows_of()
    before.add(delta([100], "gone"), 0.0)
    before.add(delta([5000], "here"), 1.0)
    after = windows_of()
    after.restore(before.snapshot())
    assert found(after.add(delta([5100], "here"), 1000.0)) == []
    assert found(after.add(delta([5200], "here"), 1031.0)) == [(0, 1000, 1)]
