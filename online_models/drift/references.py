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
from online_models.drift.calibration import independent
from online_models.histograms import Assignment, Counts, rebin

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class References:
    """F references; their fine counts lie one after the other (C,), coarse ones in rows padded by empty bins (F, B).

    specs, assignments : (F,)
    bounds : int64 (F, 2), where each feature's fine counts begin and end
    fine : float64 (C,); coarse_of : uint16 (C,), the coarse bin of each fine cell
    coarse : float64 (F, B)
    panes : F arrays int64 (K_f, B_f); starts_ms : F arrays (K_f,); pane_ms : (F,), 0 without panes
    numeric, words : places of either kind in [0, F)
    missing : (F,), the coarse bin of missing values
    events : (F,), what the counts were made of; independent : (F,), draws per counted value, by its panes
    """

    specs: tuple[FeatureSpec, ...]
    assignments: tuple[Assignment, ...]
    bounds: Ints
    fine: Floats
    coarse_of: npt.NDArray[np.uint16]
    coarse: Floats
    panes: tuple[Counts, ...]
    starts_ms: tuple[Ints, ...]
    pane_ms: Ints
    numeric: Ints
    words: Ints
    missing: Ints
    events: Ints
    independent: Floats

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
        coarse_of = np.concatenate([np.zeros(0, np.int64), *(each.coarse_of for each in assignments)]).astype(np.uint16)
        bins = max((each.bins for each in assignments), default=1)
        panes = tuple(_panes(each, to.bins) for each, to in zip(sketches, assignments, strict=True))
        kinds = np.array([each.feature.kind is FeatureKind.NUMERIC for each in sketches], np.bool_)
        return cls(
            specs=tuple(each.feature for each in sketches),
            assignments=tuple(assignments),
            bounds=bounds,
            fine=fine,
            coarse_of=coarse_of,
            coarse=coarsen(fine, bounds, coarse_of, bins),
            panes=panes,
            starts_ms=tuple(np.array(each.pane_starts_ms, np.int64) for each in sketches),
            pane_ms=np.array([each.pane_ms if each.panes else 0 for each in sketches], np.int64),
            numeric=np.flatnonzero(kinds),
            words=np.flatnonzero(~kinds),
            missing=np.array([each.bins - 1 for each in assignments], np.int64),
            events=np.array([each.events or sum(each.counts) for each in sketches], np.int64),
            independent=np.array([independent(each) for each in panes], np.float64),
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
def coarsen(fine: Floats, bounds: Ints, coarse_of: npt.NDArray[np.uint16], bins: int) -> Floats:
    """Coarse counts (F, bins) of fine ones (C,).

    Four sums take turns, so that neighbours of one bin need not wait for each other.
    """
    out, ways = np.zeros((len(bounds), bins)), np.zeros((4, bins))
    for row in range(len(bounds)):
        ways[:] = 0.0
        for cell in range(bounds[row, 0], bounds[row, 1]):
            ways[cell & 3, coarse_of[cell]] += fine[cell]
        for way in range(4):
            out[row] += ways[way]
    return out


@njit(cache=True, nogil=True)
def sums_between(values: Floats, bounds: Ints) -> Floats:
    """Sums (F,) of whole numbers (C,) between bounds (F, 2)."""
    out = np.zeros(len(bounds))
    for row in range(len(bounds)):
        one, other = 0.0, 0.0
        for place in range(bounds[row, 0], bounds[row, 1] - 1, 2):
            one, other = one + values[place], other + values[place + 1]
        odd = values[bounds[row, 1] - 1] if (bounds[row, 1] - bounds[row, 0]) % 2 else 0.0
        out[row] = one + other + odd
    return out
