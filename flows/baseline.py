"""A reference without a champion: the first part of a stream, for those who monitor features and train no model here.

What comes first is believed to be right. With a champion, what that was trained on takes its place.
"""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from flows.live import Reference
from flows.windows import ClosedWindow
from online_models.contracts.artifacts import FeatureSketch
from online_models.histograms import Counts, rebin
from online_models.sketches import FeatureState, Layout

SCHEMA: Final = 1


Filled = tuple[npt.NDArray[np.int64], Counts, int]
"""The cells of a pane with a count, their counts, and the events behind them: most of many cells are empty."""


def filled(state: FeatureState) -> Filled:
    """A feature's fine counts without the empty ones."""
    cells = np.flatnonzero(state.counts)
    return cells, state.counts[cells].astype(np.int64), state.events


class Baseline:
    """Collects the panes of one model's first `seconds` of event time, then is its reference for good.

    Parameters
    ----------
    layout : of the declared features' sketches
    seconds : event time to collect, from the first pane on
    """

    def __init__(self, layout: Layout, seconds: int) -> None:
        self._layout = layout
        self._span_ms = seconds * 1000
        self._panes: dict[int, list[Filled]] = {}
        self._reference: Reference | None = None

    def add(self, window: ClosedWindow) -> Reference | None:
        """Take the newest pane of the next window; returns the reference once it is whole, the same object every time."""
        if self._reference is None:
            start_ms = window.end_ms - window.pane_ms
            if "" in window.newest:
                newest = window.newest[""]
                self._panes[start_ms] = [filled(self._layout.state(newest, spec.name)) for spec in self._layout.specs]
            if self._panes and window.end_ms - min(self._panes) >= self._span_ms:
                self._reference = Reference(None, tuple(self._sketches(window.pane_ms)))
                self._panes = {}
        return self._reference

    def _sketches(self, pane_ms: int) -> list[FeatureSketch]:
        starts = sorted(self._panes)
        sketches = []
        for place, spec in enumerate(self._layout.specs):
            held = [self._panes[start][place] for start in starts]
            total = np.zeros(spec.cells + 3, np.int64)
            for cells, counts, _ in held:
                total[cells] += counts
            coarse = rebin(total, spec.kind)
            rows = [
                np.bincount(coarse.coarse_of[cells], counts, coarse.bins).astype(int).tolist()
                for cells, counts, _ in held
            ]
            sketches.append(
                FeatureSketch(spec, total.tolist(), rows, starts, pane_ms, sum(events for *_, events in held))
            )
        return sketches

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        made = self._reference
        return (SCHEMA, dict(self._panes), None if made is None else msgspec.msgpack.encode(made.sketches))

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        schema, self._panes, sketches = snapshot
        if schema != SCHEMA:
            raise ValueError(f"baseline snapshot: expected schema {SCHEMA}, got {schema}")
        if sketches is not None:
            self._reference = Reference(None, msgspec.msgpack.decode(sketches, type=tuple[FeatureSketch, ...]))
