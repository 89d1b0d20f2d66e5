"""Whether what looks like drift is the hour of the day or the day of the week.

- A reference that spans a season at least twice is asked: did the same phase of it look like this window? The window is
  seasonal when that phase differs from the rest of the reference, and the window does not differ from the phase.
  Both are needed: from a handful of panes a window seldom differs, but panes without a season seldom differ from theirs.
- A shorter reference cannot know. Then the alarm stands, and says so.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import chdtrc

from online_models.drift.base import Floats
from online_models.drift.calibration import residuals
from online_models.drift.references import Ints
from online_models.histograms import Counts

DAY_MS: Final = 86_400_000
WEEK_MS: Final = 7 * DAY_MS
PERIODS: Final = (("day", DAY_MS), ("week", WEEK_MS))


@dataclass(frozen=True, slots=True)
class Season:
    """`period` whose same phase in the reference looked like the window, and over how many panes."""

    period: str
    panes: int


def season_of(
    window: Floats, start_ms: int, end_ms: int, panes: Counts, starts_ms: Ints, pane_ms: int, significance: float
) -> Season | None:
    """The shortest season that explains a window's coarse counts (B,), if one does.

    Parameters
    ----------
    panes : (K, B), coarse counts of the reference; starts_ms : (K,)
    significance : of the tests that a phase is unlike the rest and that the window is unlike the phase
    """
    spanned = span_ms(starts_ms, pane_ms)
    for period, length in PERIODS:
        if spanned < 2 * length or end_ms - start_ms >= length or pane_ms >= length:
            continue
        same = in_phase(starts_ms, pane_ms, start_ms, end_ms, length)
        phase, rest = panes[same].sum(0).astype(np.float64), panes[~same].sum(0).astype(np.float64)
        if not phase.sum() or not rest.sum():
            continue
        if _unlike(rest, phase) < significance <= _unlike(phase, window):
            return Season(period, int(same.sum()))
    return None


def in_phase(
    starts_ms: Ints, pane_ms: int, start_ms: int, end_ms: int, period_ms: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which panes (K,) lie at the window's phase of a period: their middles do not lie further apart than half of either.

    >>> hours = np.arange(48) * 3_600_000
    >>> np.flatnonzero(in_phase(hours, 3_600_000, 30 * DAY_MS + 7_200_000, 30 * DAY_MS + 10_800_000, DAY_MS)).tolist()
    [2, 26]
    """
    apart = (starts_ms + pane_ms / 2 - (start_ms + end_ms) / 2 + period_ms / 2) % period_ms - period_ms / 2
    near: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.abs(apart) < max(pane_ms, end_ms - start_ms) / 2
    return near


def span_ms(starts_ms: Ints, pane_ms: int) -> int:
    """Event time from the first pane's start to the last one's end; 0 without panes."""
    return int(starts_ms.max() - starts_ms.min()) + pane_ms if len(starts_ms) else 0


def too_short(spanned_ms: int) -> str:
    """What a reference of this length cannot know, in plain words; empty when it spans two weeks.

    >>> too_short(6 * 3_600_000), too_short(14 * DAY_MS)
    ('the reference spans 6 hours, less than two days: may be seasonal', '')
    """
    if spanned_ms >= 2 * WEEK_MS:
        return ""
    if spanned_ms >= 2 * DAY_MS:
        return f"the reference spans {spanned_ms / DAY_MS:.3g} days, less than two weeks: may be of the day of the week"
    return f"the reference spans {spanned_ms / 3_600_000:.3g} hours, less than two days: may be seasonal"


def _unlike(one: Floats, other: Floats) -> float:
    """p-value that two samples' counts (B,) are of one distribution."""
    free = int(((one > 0) | (other > 0)).sum()) - 1
    return float(chdtrc(free, (residuals(one, other) ** 2).sum())) if free else 1.0
