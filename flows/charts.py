"""Two histograms over each other as the path data of a small SVG, so that a page of a hundred features stays small."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flows.feature_rows import fine_borders, readable
from online_models.contracts.features import FeatureSpec
from online_models.histograms import Counts

WIDTH: Final = 400
HEIGHT: Final = 110
MOST_STEPS: Final = 48

TAIL: Final = 0.005
"""Share of the values at either end that is drawn into the outermost step, so that one absurd value flattens nothing."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A chart of `WIDTH` x `HEIGHT`.

    window, reference : closed outlines, as an SVG path's `d`
    ticks : place on the x axis and its number; top : share of the highest step
    """

    window: str
    reference: str
    ticks: tuple[tuple[float, str], ...]
    top: float


def overlay(spec: FeatureSpec, counts: Counts, reference: Counts) -> Overlay | None:
    """The shapes of a numeric feature's window and reference by fine counts (cells + 3,); None when both are empty.

    Shares are of the values, missing ones left out. Bins between quantiles are drawn equally wide: true to their range,
    the one that ends at the largest value would be all there is to see.
    """
    # under and over are told in the outermost cells
    now, then = (_inner(fine) for fine in (counts, reference))
    if now.sum() + then.sum() == 0:
        return None
    borders = fine_borders(spec)
    first, last = _middle(now / max(now.sum(), 1) + then / max(then.sum(), 1))
    width = max(1, -(-(last - first) // MOST_STEPS))
    cuts = np.arange(first, last, width)
    steps = [_stepped(side, cuts, last) for side in (now, then)]
    top = max(float(step.max()) for step in steps)
    edges = np.append(borders[cuts], borders[last])
    along = np.arange(len(edges), dtype=np.float64) if spec.edges else edges
    x = WIDTH * (along - along[0]) / (along[-1] - along[0])
    window, outline = (_path(step / top, x) for step in steps)
    places = np.linspace(0, len(edges) - 1, min(5, len(edges))).round().astype(int).tolist()
    ticks = tuple((round(float(x[place]), 1), readable(float(edges[place]))) for place in places)
    return Overlay(window, outline, ticks, top)


def _inner(fine: Counts) -> Counts:
    """Counts (cells,) with what is under and over in the outermost."""
    inner = fine[1:-2].copy()
    inner[0] += fine[0]
    inner[-1] += fine[-2]
    return inner


def _middle(mass: npt.NDArray[np.float64]) -> tuple[int, int]:
    """First cell and the one after the last between the tails of a mass (cells,)."""
    share = np.cumsum(mass) / mass.sum()
    first = int(np.searchsorted(share, TAIL))
    return first, int(np.searchsorted(share, 1 - TAIL)) + 1


def _stepped(counts: Counts, cuts: npt.NDArray[np.int64], last: int) -> npt.NDArray[np.float64]:
    """Shares (steps,) of the cells between cuts; what is outside of them is in the outermost."""
    folded = counts[:last].copy()
    folded[-1] += counts[last:].sum()
    folded[cuts[0]] += folded[: cuts[0]].sum()
    shares: npt.NDArray[np.float64] = np.add.reduceat(folded, cuts) / max(int(counts.sum()), 1)
    return shares


def _path(heights: Sequence[float] | npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> str:
    steps = "".join(
        f"V{HEIGHT * (1 - height):.1f}H{right:.1f}" for height, right in zip(heights, x[1:].tolist(), strict=True)
    )
    return f"M{x[0]:.1f} {HEIGHT}{steps}V{HEIGHT}Z"
