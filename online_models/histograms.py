"""Fine histograms of the monitored features: counting, quantiles, and rebinning to coarse bins of a reference.

- A histogram is a vector of `cells + 3` int64 counts, `[under, cell 1 ... cell n, over, missing]`.
- Fine cells are fixed by the spec, so that any two histograms of a feature merge by `+`.
- Numbers become cells first and cells are counted then: the first loop has no branch, the second reads two bytes a value.
  A block at a time, so that where nobody asks for the cells they never leave the nearest cache.
- Drift is measured on coarse bins: quantiles of the reference with open ends, or its most frequent buckets,
  and always a bin for missing values. One absurd value then moves one count, not the edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.features import FeatureKind

Counts = npt.NDArray[np.int64]
Cells = npt.NDArray[np.uint16]

QUANTILE_BINS: Final = 10
TOP_BUCKETS: Final = 30

MAX_CELLS: Final = 2**16 - 3
"""Most cells of one feature: cell numbers have 16 bits, and there are three besides the cells."""

WAYS: Final = 4
"""Histograms that take turns."""
BLOCK: Final = 1_024
"""Values whose cells are found before they are counted."""


@njit(cache=True, nogil=True)
def uniform_cells(values: npt.NDArray[np.float64], low: float, high: float, cells: int) -> Cells:
    """Cell (n,) of each value (n,) among `cells` equal ones on [low, high).

    Cell c holds `low + (c - 1) w <= value < low + c w` with `w = (high - low) / cells`; 0 is below, `cells + 1` is at `high`
    or above, `cells + 2` is NaN.

    >>> uniform_cells(np.array([-1.0, 0.0, 0.9, 2.0, np.nan]), 0.0, 2.0, 2).tolist()
    [0, 1, 1, 3, 4]
    """
    found = np.empty(values.size, np.uint16)
    place_uniform(values, low, high, cells, found)
    return found


@njit(cache=True, nogil=True)
def place_uniform(values: npt.NDArray[np.float64], low: float, high: float, cells: int, found: Cells) -> None:
    """`uniform_cells` into the first places of `found`."""
    scale, last = cells / (high - low), cells - 1.0
    under, over, missing, one = np.int32(0), np.int32(cells + 1), np.int32(cells + 2), np.int32(1)
    for i in range(values.size):
        value = values[i]
        scaled = (value - low) * scale
        scaled = scaled if scaled > 0.0 else 0.0  # NaN too: the conversion below is defined for every value
        scaled = scaled if scaled < last else last  # rounding may reach `cells` just below `high`
        cell = np.int32(scaled) + one
        cell = cell if value >= low else under
        cell = cell if value < high else over
        found[i] = cell if value == value else missing


@njit(cache=True, nogil=True)
def edge_cells(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> Cells:
    """Cell (n,) of each value (n,) between increasing edges (cells + 1,): the number of edges that are not above it.

    A binary search without branches (Khuong and Morin 2017, "Array Layouts for Comparison-Based Searching"), one step of it
    for a whole block of values at a time.

    >>> edge_cells(np.array([-1.0, 0.0, 0.9, 2.0, np.nan]), np.array([0.0, 0.5, 2.0])).tolist()
    [0, 1, 2, 3, 4]
    """
    found = np.empty(values.size, np.uint16)
    place_between(values, edges, found)
    return found


@njit(cache=True, nogil=True)
def place_between(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], found: Cells) -> None:
    """`edge_cells` into the first places of `found`."""
    steps = 0
    while (1 << steps) <= edges.size:
        steps += 1
    padded = np.full(1 << steps, np.inf)
    padded[: edges.size] = edges
    last, missing = np.uint64(edges.size), np.uint64(edges.size + 1)
    position = np.empty(BLOCK, np.uint64)  # unsigned: no index is negative, which need not be checked
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        position[: block.size] = 0
        for step in range(steps - 1, -1, -1):
            shift = np.uint64(step)
            ahead = (np.uint64(1) << shift) - np.uint64(1)
            for i in range(block.size):
                position[i] += np.uint64(padded[position[i] + ahead] <= block[i]) << shift
        for i in range(block.size):
            # infinity is not below the padding
            found[start + i] = min(position[i], last) if block[i] == block[i] else missing


@njit(cache=True, nogil=True)
def bucket_cells(words: npt.NDArray[np.uint64], buckets: int) -> Cells:
    """Cell (n,) of each hash (n,): 1 + hash mod buckets; nothing is under or over."""
    found = np.empty(words.size, np.uint16)
    divisor = np.uint64(buckets)
    if buckets & (buckets - 1) == 0:
        for i in range(words.size):
            found[i] = np.uint64(1) + (words[i] & (divisor - np.uint64(1)))
    else:
        for i in range(words.size):
            found[i] = np.uint64(1) + words[i] % divisor
    return found


@njit(cache=True, nogil=True)
def count_cells(cells: Cells, counts: Counts) -> None:
    """Add the cells (n,) to a histogram.

    Four histograms take turns, so that equal neighbours need not wait for each other's count.
    """
    if cells.size < counts.size:
        for i in range(cells.size):
            counts[cells[i]] += 1
        return
    ways = np.zeros((WAYS, counts.size), np.int32)
    tally(cells, ways)
    for cell in range(counts.size):
        for way in range(WAYS):
            counts[cell] += ways[way, cell]


@njit(cache=True, nogil=True)
def tally(cells: Cells, ways: npt.NDArray[np.int32]) -> None:
    """Add the cells (n,) to histograms (4, c) that take turns."""
    whole = cells.size - cells.size % WAYS
    for i in range(0, whole, WAYS):
        for way in range(WAYS):
            ways[way, cells[i + way]] += np.int32(1)
    for i in range(whole, cells.size):
        ways[0, cells[i]] += np.int32(1)


@njit(cache=True, nogil=True)
def count_words(words: npt.NDArray[np.uint64], buckets: int, counts: Counts) -> None:
    """Add the cells of hashes (n,), see `bucket_cells`, to a histogram (buckets + 3,)."""
    divisor = np.uint64(buckets)
    if words.size < counts.size or buckets & (buckets - 1):
        for i in range(words.size):
            counts[np.uint64(1) + words[i] % divisor] += 1
        return
    ways = np.zeros((WAYS, buckets), np.int32)
    whole = words.size - words.size % WAYS
    for i in range(0, whole, WAYS):
        for way in range(WAYS):
            ways[way, words[i + way] & (divisor - np.uint64(1))] += np.int32(1)
    for i in range(whole, words.size):
        ways[0, words[i] & (divisor - np.uint64(1))] += np.int32(1)
    for bucket in range(buckets):
        for way in range(WAYS):
            counts[bucket + 1] += ways[way, bucket]


def count_numeric(
    values: npt.NDArray[np.float64], pane: npt.NDArray[np.integer], panes: int, low: float, high: float, bins: int
) -> Counts:
    """Histograms (panes, bins + 3) of numbers (n,), one per pane; NaN is missing. For whoever has no `FeatureSpec`.

    >>> count_numeric(np.array([-1.0, 0.0, 0.9, 2.0, np.nan]), np.zeros(5, np.int64), 1, 0.0, 2.0, 2).tolist()
    [[1, 2, 0, 1, 1]]
    """
    counts = np.zeros((panes, bins + 3), np.int64)
    cells = uniform_cells(values, low, high, bins)
    for p in range(panes):
        count_cells(cells[pane == p], counts[p])
    return counts


def count_hashed(
    hashes: npt.NDArray[np.uint64],
    pane: npt.NDArray[np.integer],
    missing_pane: npt.NDArray[np.integer],
    panes: int,
    buckets: int,
) -> Counts:
    """Histograms (panes, buckets + 3) of hashed words (n,) and of events (m,) without one, likewise.

    >>> words, none = np.array([4, 9], np.uint64), np.array([0])
    >>> count_hashed(words, np.zeros(2, np.int64), none, 1, 4).tolist()
    [[0, 1, 1, 0, 0, 0, 1]]
    """
    counts = np.zeros((panes, buckets + 3), np.int64)
    cells = bucket_cells(hashes, buckets)
    for p in range(panes):
        count_cells(cells[pane == p], counts[p])
    counts[:, -1] = np.bincount(missing_pane, minlength=panes)
    return counts


def quantiles(
    counts: Counts, edges: npt.NDArray[np.float64], minimum: float, maximum: float, shares: Sequence[float]
) -> tuple[float, ...]:
    """Quantiles of the numbers in a histogram, linear within a cell; none of an empty one.

    Parameters
    ----------
    counts : int64 (cells + 3,); edges : (cells + 1,)
    minimum, maximum : of the numbers, where the open cells and the quantiles end; infinite ones end at the range

    >>> quantiles(np.array([0, 2, 2, 0, 9]), np.array([0.0, 1.0, 2.0]), 0.5, 1.5, (0.0, 0.25, 0.5, 0.75))
    (0.5, 0.75, 1.0, 1.25)
    """
    cumulative = np.cumsum(counts[:-1])  # (cells + 2,)
    if cumulative[-1] == 0:
        return ()
    first = minimum if np.isfinite(minimum) else min(edges[0], maximum)
    last = maximum if np.isfinite(maximum) else max(edges[-1], first)
    borders = np.clip(np.concatenate([[first], edges, [last]]), first, last)  # (cells + 3,)
    ranks = np.asarray(shares) * cumulative[-1]
    cell = np.minimum(np.searchsorted(cumulative, ranks), len(cumulative) - 1)
    cell = np.maximum(
        cell, np.searchsorted(cumulative, 0, side="right")
    )  # the 0-quantile is in a cell that holds something
    into = (ranks - (cumulative[cell] - counts[cell])) / counts[cell]
    return tuple((borders[cell] + into * (borders[cell + 1] - borders[cell])).tolist())


@dataclass(frozen=True, slots=True)
class Assignment:
    """Fine cells to coarse bins.

    coarse_of : (fine cells,), the coarse bin of each fine cell; the last coarse bin is `missing`
    bins : number of coarse bins, that of missing values included
    """

    coarse_of: npt.NDArray[np.int64]
    bins: int

    def apply(self, counts: Counts) -> Counts:
        """Coarse counts (bins,) of fine counts (fine cells,)."""
        if counts.shape != self.coarse_of.shape:
            raise ValueError(f"expected counts of shape {self.coarse_of.shape}, got {counts.shape}")
        return np.bincount(self.coarse_of, counts, self.bins).astype(np.int64)


def rebin(reference: Counts, kind: FeatureKind, coarse: int | None = None) -> Assignment:
    """Coarse bins in which the reference is spread out.

    Numeric: about `coarse` quantile bins with open ends, fewer when single cells hold more than their share. A
    constant reference still has a bin of its own, between what is below and what is above it. Otherwise: the
    `coarse` most frequent buckets in that order, and one for all others. Missing values are the last bin.

    Parameters
    ----------
    reference : int64 (bins + 3,)
    coarse : `QUANTILE_BINS` or `TOP_BUCKETS` by default

    Raises
    ------
    ValueError
        When `coarse` is not positive or the reference is no histogram.

    >>> constant = np.array([0, 0, 9, 0, 0, 1])
    >>> rebin(constant, FeatureKind.NUMERIC).coarse_of.tolist()
    [0, 0, 1, 2, 2, 3]
    """
    if reference.ndim != 1 or len(reference) < 4 or reference.min() < 0:
        raise ValueError(f"expected bins + 3 counts, got shape {reference.shape}")
    if coarse is not None and coarse < 1:
        raise ValueError(f"expected at least one coarse bin, got {coarse}")
    match kind:
        case FeatureKind.NUMERIC:
            present = _quantile_bins(reference[:-1], coarse or QUANTILE_BINS)
        case FeatureKind.CATEGORICAL | FeatureKind.MULTI_VALUED:
            present = _frequent_bins(reference[:-1], coarse or TOP_BUCKETS)
        case _:
            assert_never(kind)
    missing = int(present.max()) + 1
    return Assignment(np.append(present, missing), missing + 1)


def _quantile_bins(cells: Counts, coarse: int) -> npt.NDArray[np.int64]:
    """Each cell (c,) goes to the quantile its middle rank lies in; quantiles without a cell are skipped."""
    # (sum_{j<i} m_j + m_i / 2) / m
    middle = (np.cumsum(cells) - cells / 2) / max(int(cells.sum()), 1)
    quantile = np.minimum((middle * coarse).astype(np.int64), coarse - 1)
    return np.unique(quantile, return_inverse=True)[1].astype(np.int64)


def _frequent_bins(cells: Counts, coarse: int) -> npt.NDArray[np.int64]:
    """Rank of each cell (c,) by its count, ties by position; the rarer and the unseen share the last bin."""
    order = np.argsort(-cells, kind="stable")[:coarse]
    top = order[cells[order] > 0]
    bins = np.full(len(cells), len(top), np.int64)
    bins[top] = np.arange(len(top))
    return bins
