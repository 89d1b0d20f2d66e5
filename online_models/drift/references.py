"""The references of all features of a champion, laid out once so that a window is judged in a few array operations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.drift.base import Floats
from online_models.histograms import Assignment, Counts, rebin

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class References:
    """F references; their fine counts lie one after the other (C,), coarse ones in rows padded by empty bins (F, B).

    specs, assignments : (F,)
    bounds : int64 (F, 2), where each feature's fine counts begin and end
    fine : float64 (C,); coarse_of : int64 (C,), the coarse bin of each fine cell
    coarse : float64 (F, B)
    panes : F arrays int64 (K_f, B_f); starts_ms : F arrays (K_f,); pane_ms : (F,), 0 without panes
    numeric, words : places of either kind in [0, F)
    """

    specs: tuple[FeatureSpec, ...]
    assignments: tuple[Assignment, ...]
    bounds: Ints
    fine: Floats
    coarse_of: Ints
    coarse: Floats
    panes: tuple[Counts, ...]
    starts_ms: tuple[Ints, ...]
    pane_ms: Ints
    numeric: Ints
    words: Ints

    @classmethod
    def of(cls, sketches: Sequence[FeatureSketch]) -> Self:
        """Lay out sketches.

        Raises
        ------
        ValueError
            When counts do not fit their feature, or panes are not coarse counts of them.
        """
        counts = [np.array(sketch.counts, np.int64) for sketch in sketches]
        for sketch, held in zip(sketches, counts, strict=True):
            if held.shape != (sketch.feature.cells + 3,):
                raise ValueError(f"{sketch.feature.name}: expected {sketch.feature.cells + 3} counts, got {len(held)}")
        assignments = [rebin(held, each.feature.kind) for held, each in zip(counts, sketches, strict=True)]
        ends = np.cumsum([0, *map(len, counts)])
        bounds = np.stack([ends[:-1], ends[1:]], 1)
        fine = np.concatenate([np.zeros(0), *counts])
        coarse_of = np.concatenate([np.zeros(0, np.int64), *(each.coarse_of for each in assignments)])
        bins = max((each.bins for each in assignments), default=1)
        kinds = np.array([each.feature.kind is FeatureKind.NUMERIC for each in sketches], np.bool_)
        return cls(
            specs=tuple(each.feature for each in sketches),
            assignments=tuple(assignments),
            bounds=bounds,
            fine=fine,
            coarse_of=coarse_of,
            coarse=coarsen(fine, bounds, coarse_of, bins),
            panes=tuple(_panes(each, to.bins) for each, to in zip(sketches, assignments, strict=True)),
            starts_ms=tuple(np.array(each.pane_starts_ms, np.int64) for each in sketches),
            pane_ms=np.array([each.pane_ms if each.panes else 0 for each in sketches], np.int64),
            numeric=np.flatnonzero(kinds),
            words=np.flatnonzero(~kinds),
        )

    def lay_out(self, counts: Mapping[str, Floats | Counts]) -> Floats:
        """Fine counts (C,) of a window, 0 for features it has none of.

        Raises
        ------
        ValueError
            When a feature's counts have another length than its reference's.
        """
        fine = np.zeros(len(self.fine))
        for spec, (start, end) in zip(self.specs, self.bounds.tolist(), strict=True):
            held = counts.get(spec.name)
            if held is None:
                continue
            if held.shape != (end - start,):
                raise ValueError(f"{spec.name}: expected {end - start} counts, got shape {held.shape}")
            fine[start:end] = held
        return fine

    def rows(self, fine: Floats, places: Ints) -> Floats:
        """Fine cells (len(places), cells) of some features without their missing values, padded by empty cells."""
        bounds = self.bounds[places]
        out = np.zeros((len(places), int((bounds[:, 1] - bounds[:, 0]).max(initial=1)) - 1))
        for row, (start, end) in enumerate(bounds.tolist()):
            out[row, : end - start - 1] = fine[start : end - 1]
        return out


def _panes(sketch: FeatureSketch, bins: int) -> Counts:
    if not sketch.panes:
        return np.zeros((0, bins), np.int64)
    panes = np.array(sketch.panes, np.int64).reshape(len(sketch.panes), -1)
    if panes.shape[1] != bins or len(sketch.pane_starts_ms) != len(panes) or sketch.pane_ms <= 0:
        raise ValueError(
            f"{sketch.feature.name}: expected panes of {bins} counts, as many starts and a length, "
            f"got {panes.shape}, {len(sketch.pane_starts_ms)} and {sketch.pane_ms} ms"
        )
    return panes


@njit(cache=True, nogil=True)
def coarsen(fine: Floats, bounds: Ints, coarse_of: Ints, bins: int) -> Floats:
    """Coarse counts (F, bins) of fine ones (C,)."""
    out = np.zeros((len(bounds), bins))
    for row in range(len(bounds)):
        for cell in range(bounds[row, 0], bounds[row, 1]):
            if fine[cell]:
                out[row, coarse_of[cell]] += fine[cell]
    return out
