"""The present values of features of a batch: the events they are of, the values themselves, and as fine cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.construction import Observed, construct
from online_models.contracts.columns import Column, Rows
from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.histograms import (
    BLOCK,
    WAYS,
    Cells,
    Counts,
    bucket_cells,
    edge_cells,
    place_between,
    place_uniform,
    tally,
    uniform_cells,
)
from online_models.moments import add_moments

Chosen = npt.NDArray[np.bool_] | None
"""Which events of a batch are of a feature's types, None when all are."""

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Coded:
    """The present values of one feature as fine cells.

    rows : int32 (k,) non-decreasing, the event of each value; None when every event has one, in order
    cells : uint16 (k,); 0 under, 1..cells, cells + 1 over
    """

    rows: Rows | None
    cells: Cells


@dataclass(frozen=True, slots=True)
class Entries:
    """The present values of one feature: as cells, and beside them (k,) the numbers or the words themselves."""

    coded: Coded
    values: npt.NDArray[Any]


class Batch:
    """What the features of a batch share: columns and choices of types are made once, however many features read them.

    present : (types,), which types of events there are
    """

    def __init__(self, observed: Observed, present: npt.NDArray[np.bool_]) -> None:
        self._observed = observed
        self._present = frozenset(np.flatnonzero(present).tolist())
        self._columns: dict[tuple[object, ...], Column] = {}
        self._chosen: dict[tuple[EventType, ...], Chosen] = {}

    def column(self, spec: FeatureSpec) -> Column:
        """What a feature's source gives of each event."""
        single = spec.kind is FeatureKind.CATEGORICAL
        key = (spec.source, single, spec.edges if single else ())
        if key not in self._columns:
            self._columns[key] = construct(spec, self._observed)
        return self._columns[key]

    def chosen(self, types: tuple[EventType, ...]) -> Chosen:
        """The events of some types."""
        if types not in self._chosen:
            codes = type_codes(types)
            self._chosen[types] = None if self._present.issubset(codes) else np.isin(self._observed.type, codes)
        return self._chosen[types]


def type_codes(types: Sequence[EventType]) -> list[int]:
    """Their codes, ascending."""
    return sorted({TYPE_CODES[kind] for kind in types})


def entries_of(spec: FeatureSpec, column: Column, chosen: Chosen) -> Entries:
    """What a column holds of the chosen events."""
    match spec.kind:
        case FeatureKind.NUMERIC:
            rows, numbers = among(column.number_rows, np.ascontiguousarray(column.numbers), chosen)
            if spec.edges:
                cells = edge_cells(numbers, np.array(spec.edges))
            else:
                cells = uniform_cells(numbers, spec.low, spec.high, spec.cells)
            if (cells > spec.cells + 1).any():
                places = np.flatnonzero(cells <= spec.cells + 1)
                cells, numbers = cells[places], numbers[places]
                rows = places.astype(np.int32) if rows is None else rows[places]
            return Entries(Coded(rows, cells), numbers)
        case FeatureKind.CATEGORICAL | FeatureKind.MULTI_VALUED:
            rows, words = among(column.word_rows, np.ascontiguousarray(column.words), chosen)
            return Entries(Coded(rows, bucket_cells(words, spec.cells)), words)
        case _:
            assert_never(spec.kind)


def among(rows: Rows | None, values: npt.NDArray[T], chosen: Chosen) -> tuple[Rows | None, npt.NDArray[T]]:
    """The entries of the chosen events."""
    if chosen is None:
        return rows, values
    places = np.flatnonzero(chosen if rows is None else chosen[rows])
    return places.astype(np.int32) if rows is None else rows[places], values[places]


@njit(cache=True, nogil=True)
def count_numbers(
    numbers: npt.NDArray[np.float64],
    low: float,
    high: float,
    cells: int,
    edges: npt.NDArray[np.float64],
    counts: Counts,
    sums: npt.NDArray[np.int64],
    extremes: npt.NDArray[np.float64],
) -> None:
    """Add numbers (n,) to a histogram (cells + 3,) whose events all count as missing, and to moments, in one pass over memory.

    No `edges` are equal cells on [low, high); no `sums` are no moments. NaN stays counted as missing.
    """
    ways = np.zeros((WAYS, counts.size), np.int32)
    found = np.empty(BLOCK, np.uint16)
    for start in range(0, numbers.size, BLOCK):
        block = numbers[start : start + BLOCK]
        if edges.size:
            place_between(block, edges, found)
        else:
            place_uniform(block, low, high, cells, found)
        tally(found[: block.size], ways)
        if sums.size:
            last = np.uint16(0)
            for i in range(block.size):
                last = max(last, found[i])
            some = block if last <= cells + 1 else block[found[: block.size] <= cells + 1]
            add_moments(some, low, high, sums, extremes)
    for cell in range(cells + 2):
        present = ways[:, cell].sum()
        counts[cell] += present
        counts[cells + 2] -= present
