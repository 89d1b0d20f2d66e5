"""Quiet periods: a window that holds too little grows backwards over earlier quiet windows instead of guessing.

Earlier disjoint windows of the same length are added with weight 2^(-age / length) until there is enough. Weighted
counts tell less than as many events: they are scaled to Kish's effective size (sum w n)^2 / sum w^2 n.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.drift.base import Floats
from online_models.histograms import Counts

MOST: Final = 8
"""Earlier windows at most: the ninth would count for 2^-8."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One quiet window of one feature: its filled cells and their counts (both (c,)), and its events."""

    start_ms: int
    end_ms: int
    cells: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    events: int


@dataclass(frozen=True, slots=True)
class Grown:
    """Fine counts (cells + 3,) scaled to `events` that tell as much, from a window and `windows` earlier ones."""

    counts: Floats
    events: float
    windows: int


def grow(counts: Counts, events: int, start_ms: int, end_ms: int, earlier: tuple[Stretch, ...], enough: int) -> Grown:
    """A window with as many of the earlier ones, newest first, as are needed for `enough` effective events.

    >>> quiet = Stretch(0, 10, np.array([1]), np.array([4]), 4)
    >>> grown = grow(np.array([0, 4, 0, 0]), 4, 10, 20, (quiet,), 7)
    >>> grown.windows, round(grown.events, 2), grown.counts.round(2).tolist()
    (1, 7.2, [0.0, 7.2, 0.0, 0.0])
    """
    total, weighted, squared = counts.astype(np.float64), float(events), float(events)
    effective, used, limit = float(events), 0, start_ms
    for stretch in reversed(earlier):
        if effective >= enough:
            break
        if stretch.end_ms > limit:
            continue
        weight = 2.0 ** (-(end_ms - stretch.end_ms) / (end_ms - start_ms))
        total[stretch.cells] += weight * stretch.counts
        weighted, squared = weighted + weight * stretch.events, squared + weight**2 * stretch.events
        effective = weighted**2 / squared if squared else 0.0
        used, limit = used + 1, stretch.start_ms
    return Grown(total * (effective / weighted if weighted else 1.0), effective, used)


def kept(earlier: tuple[Stretch, ...], counts: Counts, events: int, start_ms: int, end_ms: int) -> tuple[Stretch, ...]:
    """The earlier windows and this one, if it begins after them; the newest `MOST`, none older than `MOST` lengths."""
    young = tuple(each for each in earlier if end_ms - each.end_ms <= MOST * (end_ms - start_ms))
    if not events or (young and young[-1].end_ms > start_ms):
        return young
    cells = np.flatnonzero(counts)
    return (*young, Stretch(start_ms, end_ms, cells, counts[cells].astype(np.int64), events))[-MOST:]
