"""What is kept of each declared feature: histogram, moments, extremes, cardinality, heavy words, and how they are filled.

- All states of one set of features are three flat vectors. Integers merge by `+`, registers and extremes by maximum: merging is
  exactly associative and commutative, so any split of a stream over batches, panes, processes and restarts gives the same
  state to the bit.
- A column at a time: its values become cells, which the ranking reads too, and then every sketch of it while it is in the cache.
- A missing value has no entry and costs nothing: missing events are the events less those with a value.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.cardinality import REGISTERS, add_words, cardinality
from online_models.construction import Observed, check_source, construct
from online_models.contracts.columns import Column, Rows
from online_models.contracts.events import EVENT_TYPES, TYPE_CODES, EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.heavy_hitters import COUNTERS, add_fingerprints, heavy_words
from online_models.histograms import (
    MAX_CELLS,
    Cells,
    Counts,
    bucket_cells,
    count_cells,
    edge_cells,
    quantiles,
    uniform_cells,
)
from online_models.moments import SUMS, add_moments, mean_and_sd

Pane = npt.NDArray[np.integer]
Chosen = npt.NDArray[np.bool_] | None
"""Which events of a batch are of a feature's types, None when all are."""

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Sketches:
    """State of all features of a layout.

    sums : int64 (S,); registers : uint8 (R,)
    extremes : float64 (numeric features, 2), [max of -x, max of x], -inf where nothing came
    """

    sums: npt.NDArray[np.int64]
    registers: npt.NDArray[np.uint8]
    extremes: npt.NDArray[np.float64]

    def merged(self, other: "Sketches") -> "Sketches":
        """The state of the events of both."""
        return Sketches(
            self.sums + other.sums,
            np.maximum(self.registers, other.registers),
            np.maximum(self.extremes, other.extremes),
        )

    def packed(self) -> bytes:
        """The state as bytes, which `Layout.unpacked` reads; most counts are zero, so they are compressed."""
        return zlib.compress(b"".join((self.sums.tobytes(), self.extremes.tobytes(), self.registers.tobytes())), 1)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one feature's state lies: its first sum, register and row of extremes."""

    spec: FeatureSpec
    sums: int
    registers: int
    extremes: int

    @property
    def events(self) -> int:
        """Place of the number of events."""
        return self.sums + self.spec.cells + 3


class Layout:
    """How the states of some features lie in the flat vectors of `Sketches`.

    Each feature's sums are its `cells + 3` counts, its events and, with a profile, the moments or the heavy words. The state
    of a feature of words takes 138 kB with a profile and 33 kB without, that of a numeric one 2 kB, with the usual bins.

    Parameters
    ----------
    specs : features with distinct names
    profile : False for histograms and event counts only

    Raises
    ------
    ValueError
        When a source is unknown, a range or edges are empty, there are too many cells, or a name comes twice.

    >>> layout = Layout([FeatureSpec("n", FeatureKind.NUMERIC, "value", (EventType.CLICK,), bins=4)])
    >>> len(layout.empty().sums), layout.state(layout.empty(), "n").counts.tolist()
    (11, [0, 0, 0, 0, 0, 0, 0])
    """

    def __init__(self, specs: Sequence[FeatureSpec], profile: bool = True) -> None:
        self.specs = tuple(specs)
        self.profile = profile
        self.slots: dict[str, Slot] = {}
        sums = registers = extremes = 0
        for spec in specs:
            _check(spec)
            self.slots[spec.name] = Slot(spec, sums, registers, extremes)
            numeric = spec.kind is FeatureKind.NUMERIC
            sums += spec.cells + 4
            if profile:
                sums += SUMS if numeric else COUNTERS
                registers += 0 if numeric else REGISTERS
                extremes += numeric
        if len(self.slots) < len(self.specs):
            raise ValueError(f"expected distinct names of features, got {[spec.name for spec in specs]}")
        self._shape = (sums, registers, extremes)

    def empty(self) -> Sketches:
        """The state of no events."""
        sums, registers, extremes = self._shape
        return Sketches(np.zeros(sums, np.int64), np.zeros(registers, np.uint8), np.full((extremes, 2), -np.inf))

    def unpacked(self, raw: bytes) -> Sketches:
        """The state in what `Sketches.packed` gave, to the bit.

        Raises
        ------
        ValueError
            When the bytes are no state of this layout.
        """
        sums, registers, extremes = self._shape
        try:
            flat = bytearray(zlib.decompress(raw))
        except zlib.error as error:
            raise ValueError(f"expected packed sketches, got {len(raw)} bytes that are none") from error
        if len(flat) != 8 * sums + 16 * extremes + registers:
            raise ValueError(f"expected {8 * sums + 16 * extremes + registers} bytes of sketches, got {len(flat)}")
        ends = np.frombuffer(flat, np.float64, 2 * extremes, 8 * sums).reshape(-1, 2)
        return Sketches(
            np.frombuffer(flat, np.int64, sums),
            np.frombuffer(flat, np.uint8, registers, 8 * sums + 16 * extremes),
            ends,
        )

    def state(self, sketches: Sketches, name: str) -> "FeatureState":
        """What is known of one feature; KeyError for one that is not in the layout."""
        return FeatureState(self.slots[name], sketches, self.profile)


def _check(spec: FeatureSpec) -> None:
    check_source(spec.source)
    if not 0 < spec.cells <= MAX_CELLS:
        raise ValueError(f"{spec.name}: expected 1 to {MAX_CELLS} bins, got {spec.cells}")
    if spec.edges and not (np.isfinite(spec.edges).all() and (np.diff(spec.edges) > 0).all()):
        raise ValueError(f"{spec.name}: expected finite increasing edges, got {spec.edges}")
    if spec.kind is FeatureKind.NUMERIC:
        low, high = _range(spec)
        if not (low < high and np.isfinite(high - low) and (high - low) / 2**32 > 0):
            raise ValueError(f"{spec.name}: expected low < high, got [{low}, {high})")


def _range(spec: FeatureSpec) -> tuple[float, float]:
    return (spec.edges[0], spec.edges[-1]) if spec.edges else (spec.low, spec.high)


class FeatureState:
    """One feature's part of a `Sketches`, as people read it.

    spec : its declaration
    counts : int64 (cells + 3,), a view of the state: not to be changed
    """

    def __init__(self, slot: Slot, sketches: Sketches, profile: bool) -> None:
        self.spec = slot.spec
        self.counts: Counts = sketches.sums[slot.sums : slot.events]
        self._slot = slot
        self._sketches = sketches
        self._numeric = slot.spec.kind is FeatureKind.NUMERIC
        self._profile = profile

    @property
    def events(self) -> int:
        """Events of the declared types."""
        return int(self._sketches.sums[self._slot.events])

    @property
    def missing(self) -> int:
        """Those of them without a value."""
        return int(self.counts[-1])

    @property
    def values(self) -> int:
        """Numbers or words."""
        return int(self.counts[:-1].sum())

    @property
    def mean(self) -> float | None:
        """Of numbers, see `moments`; None of words, without a profile and when nothing came."""
        moments = self._moments()
        return moments[0] if moments else None

    @property
    def sd(self) -> float | None:
        """Standard deviation, None as for `mean`."""
        moments = self._moments()
        return moments[1] if moments else None

    def _moments(self) -> tuple[float, float] | None:
        if not self._numeric or not self._profile or self.values == 0:
            return None
        start = self._slot.events + 1
        return mean_and_sd(self._sketches.sums[start : start + SUMS], self.values, *_range(self.spec))

    @property
    def minimum(self) -> float | None:
        """Least number, None as for `mean`."""
        return self._extreme(0, -1)

    @property
    def maximum(self) -> float | None:
        """Greatest number, None as for `mean`."""
        return self._extreme(1, 1)

    def _extreme(self, which: int, sign: int) -> float | None:
        if not self._numeric or not self._profile or self.values == 0:
            return None
        return sign * float(self._sketches.extremes[self._slot.extremes, which])

    def quantiles(self, shares: Sequence[float]) -> tuple[float, ...]:
        """Quantiles of numbers, right to the width of a cell; none of words and when nothing came."""
        if not self._numeric:
            return ()
        edges = np.asarray(
            self.spec.edges or np.linspace(self.spec.low, self.spec.high, self.spec.cells + 1), np.float64
        )
        minimum, maximum = self.minimum, self.maximum
        ends = (-np.inf if minimum is None else minimum, np.inf if maximum is None else maximum)
        return quantiles(self.counts, edges, *ends, shares)

    @property
    def cardinality(self) -> float | None:
        """Estimated number of distinct words; None of numbers and without a profile."""
        if self._numeric or not self._profile:
            return None
        start = self._slot.registers
        return cardinality(self._sketches.registers[start : start + REGISTERS])

    def heavy(self, k: int) -> list[tuple[int, int]]:
        """The k most frequent words as (fingerprint, count at most), see `heavy_hitters`; none of numbers."""
        if self._numeric or not self._profile:
            return []
        start = self._slot.events + 1
        return heavy_words(self._sketches.sums[start : start + COUNTERS], k)


@dataclass(frozen=True, slots=True)
class Coded:
    """The present values of one feature as fine cells.

    rows : int32 (k,) non-decreasing, the event of each value; None when every event has one, in order
    cells : uint16 (k,); 0 under, 1..cells, cells + 1 over
    """

    rows: Rows | None
    cells: Cells


@dataclass(frozen=True, slots=True)
class _Entries:
    """The present values of one feature: as cells, and beside them (k,) the numbers or the words themselves."""

    coded: Coded
    numbers: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    words: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


class _Batch:
    """What the features of a batch share: columns and choices of types are made once, however many features read them."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._present = frozenset(np.flatnonzero(np.bincount(observed.type, minlength=len(EVENT_TYPES))).tolist())
        self._columns: dict[tuple[object, ...], Column] = {}
        self._chosen: dict[tuple[EventType, ...], Chosen] = {}

    def column(self, spec: FeatureSpec) -> Column:
        single = spec.kind is FeatureKind.CATEGORICAL
        key = (spec.source, single, spec.edges if single else ())
        if key not in self._columns:
            self._columns[key] = construct(spec, self._observed)
        return self._columns[key]

    def chosen(self, types: tuple[EventType, ...]) -> Chosen:
        if types not in self._chosen:
            codes = _codes(types)
            self._chosen[types] = None if self._present.issubset(codes) else np.isin(self._observed.type, codes)
        return self._chosen[types]


def _codes(types: Sequence[EventType]) -> list[int]:
    return sorted({TYPE_CODES[kind] for kind in types})


def encode(layout: Layout, observed: Observed) -> list[Coded]:
    """The present values of each feature of a layout as cells, in its order; events of other types have none."""
    batch = _Batch(observed)
    return [_entries(spec, batch.column(spec), batch.chosen(spec.types)).coded for spec in layout.specs]


def sketch(layout: Layout, observed: Observed, pane: Pane, panes: int) -> list[Sketches]:
    """The state of each pane, see `coded_sketch`."""
    return coded_sketch(layout, observed, pane, panes)[0]


def coded_sketch(layout: Layout, observed: Observed, pane: Pane, panes: int) -> tuple[list[Sketches], list[Coded]]:
    """The state of each pane of a batch, and its values as `encode` gives them.

    Parameters
    ----------
    pane : (n,), the pane of each event, in [0, panes); fastest when they do not decrease

    Raises
    ------
    ValueError
        When a pane is out of range.
    """
    if len(pane) and (pane.min() < 0 or pane.max() >= panes):
        raise ValueError(f"expected panes in [0, {panes}), got {pane.min()} to {pane.max()}")
    numbers = np.ascontiguousarray(pane, np.int64)
    batch, cut = _Batch(observed), _Cut(numbers, panes)
    # (panes, types), the events of each pane and type
    events = np.bincount(numbers * len(EVENT_TYPES) + observed.type, minlength=panes * len(EVENT_TYPES)).reshape(
        panes, -1
    )
    states, coded = [layout.empty() for _ in range(panes)], []
    for slot in layout.slots.values():
        entries = _entries(slot.spec, batch.column(slot.spec), batch.chosen(slot.spec.types))
        coded.append(entries.coded)
        for state, those in zip(states, events[:, _codes(slot.spec.types)].sum(1).tolist(), strict=True):
            state.sums[slot.events] = state.sums[slot.events - 1] = those  # all missing, until values are found
        for p, part in cut.parts(entries.coded.rows):
            _add(slot, states[p], entries, part, layout.profile)
    return states, coded


def _entries(spec: FeatureSpec, column: Column, chosen: Chosen) -> _Entries:
    """What a column holds of the chosen events."""
    match spec.kind:
        case FeatureKind.NUMERIC:
            rows, numbers = _among(column.number_rows, np.ascontiguousarray(column.numbers), chosen)
            if spec.edges:
                cells = edge_cells(numbers, np.array(spec.edges))
            else:
                cells = uniform_cells(numbers, spec.low, spec.high, spec.cells)
            if (cells > spec.cells + 1).any():
                places = np.flatnonzero(cells <= spec.cells + 1)
                cells, numbers = cells[places], numbers[places]
                rows = places.astype(np.int32) if rows is None else rows[places]
            return _Entries(Coded(rows, cells), numbers=numbers)
        case FeatureKind.CATEGORICAL | FeatureKind.MULTI_VALUED:
            rows, words = _among(column.word_rows, np.ascontiguousarray(column.words), chosen)
            return _Entries(Coded(rows, bucket_cells(words, spec.cells)), words=words)
        case _:
            assert_never(spec.kind)


def _among(rows: Rows | None, values: npt.NDArray[T], chosen: Chosen) -> tuple[Rows | None, npt.NDArray[T]]:
    """The entries of the chosen events."""
    if chosen is None:
        return rows, values
    places = np.flatnonzero(chosen if rows is None else chosen[rows])
    return places.astype(np.int32) if rows is None else rows[places], values[places]


@njit(cache=True, nogil=True)
def _by_pane(pane: npt.NDArray[np.int64], panes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A counting sort: the places of each pane in order, and where each pane starts among them (panes + 1,)."""
    starts = np.zeros(panes + 2, np.int64)
    for i in range(pane.size):
        starts[pane[i] + 2] += 1
    for p in range(1, panes + 2):
        starts[p] += starts[p - 1]
    places = np.empty(pane.size, np.int64)
    for i in range(pane.size):
        places[starts[pane[i] + 1]] = i
        starts[pane[i] + 1] += 1
    return places, starts[:-1]


class _Cut:
    """A batch cut into its panes: which entries of a column lie in which.

    When the panes do not decrease, as in a log in order of time, each pane's entries are a slice.
    """

    def __init__(self, pane: npt.NDArray[np.int64], panes: int) -> None:
        self._pane = pane
        self._panes = panes
        self._in_order = panes == 1 or bool((pane[1:] >= pane[:-1]).all())
        # of the type of rows: a search among other integers would copy them
        self._starts = np.searchsorted(pane, np.arange(panes + 1)).astype(np.int32)

    def parts(self, rows: Rows | None) -> Iterator[tuple[int, slice | npt.NDArray[np.int64]]]:
        """Each pane that has entries, and which."""
        if self._in_order:
            starts = self._starts if rows is None else np.searchsorted(rows, self._starts)
            for p in np.flatnonzero(np.diff(starts)).tolist():
                yield p, slice(starts[p], starts[p + 1])
        else:
            places, starts = _by_pane(self._pane if rows is None else self._pane[rows], self._panes)
            for p in np.flatnonzero(np.diff(starts)).tolist():
                yield p, places[starts[p] : starts[p + 1]]


def _add(slot: Slot, state: Sketches, entries: _Entries, part: slice | npt.NDArray[np.int64], profile: bool) -> None:
    """Add some entries of a column to a pane's state."""
    sums, coded, events = state.sums, entries.coded, slot.events
    cells = coded.cells[part]
    count_cells(cells, sums[slot.sums : events])
    with_value = len(cells)
    if slot.spec.kind is FeatureKind.MULTI_VALUED and coded.rows is not None:
        with_value = 1 + int(np.count_nonzero(np.diff(coded.rows[part])))
    sums[events - 1] -= with_value
    if not profile:
        return
    if slot.spec.kind is FeatureKind.NUMERIC:
        moments = sums[events + 1 : events + 1 + SUMS]
        add_moments(entries.numbers[part], *_range(slot.spec), moments, state.extremes[slot.extremes])
    else:
        words = entries.words[part]
        add_words(words, state.registers[slot.registers : slot.registers + REGISTERS])
        add_fingerprints(words, sums[events + 1 : events + 1 + COUNTERS])
