"""What is kept of each declared feature: histogram, moments, extremes, cardinality, heavy words, and how they are filled.

- All states of one set of features are three flat vectors. Integers merge by `+`, registers and extremes by maximum: merging is
  exactly associative and commutative, so any split of a stream over batches, panes, processes and restarts gives the same
  state to the bit.
- A column at a time, and of numbers a block at a time: cells, histogram and moments while it is in the nearest cache. Where the
  ranking reads the cells too, they are kept for all of the column; the state is the same to the bit.
- A missing value has no entry and costs nothing: missing events are the events less those with a value.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from online_models.cardinality import REGISTERS, add_words, cardinality
from online_models.construction import Observed, check_source
from online_models.contracts.columns import Rows
from online_models.contracts.events import EVENT_TYPES
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.entries import Batch, Coded, among, count_numbers, entries_of, type_codes
from online_models.heavy_hitters import COUNTERS, add_fingerprints, heavy_words
from online_models.histograms import MAX_CELLS, Cells, Counts, count_cells, count_words, quantiles
from online_models.moments import SUMS, add_moments, mean_and_sd
from online_models.panes import Cut

Pane = npt.NDArray[np.integer]

FEW: Final = 256
"""A pane with fewer events is kept as their values: those of a number then take no more than its state of 2 kB."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one feature's state lies: its first sum, register and row of extremes.

    place : which feature of the layout; profile : as in `Layout`
    lengths : how many sums, registers and rows of extremes
    """

    place: int
    spec: FeatureSpec
    profile: bool
    sums: int
    registers: int
    extremes: int
    lengths: tuple[int, int, int]

    @property
    def events(self) -> int:
        """Place of the number of events."""
        return self.sums + self.spec.cells + 3

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers, not words."""
        return self.spec.kind is FeatureKind.NUMERIC

    @property
    def ends(self) -> tuple[int, int, int]:
        """Where the next feature's state lies."""
        sums, registers, extremes = self.lengths
        return self.sums + sums, self.registers + registers, self.extremes + extremes


_Vectors = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.float64]]


class Sketches:
    """State of all features of a layout, or of one; immutable once it is filled.

    Parameters
    ----------
    sums : int64 (S,); registers : uint8 (R,)
    extremes : float64 (numeric features, 2), [max of -x, max of x], -inf where nothing came
    """

    __slots__ = ("_held",)

    def __init__(
        self, sums: npt.NDArray[np.int64], registers: npt.NDArray[np.uint8], extremes: npt.NDArray[np.float64]
    ) -> None:
        self._held = sums, registers, extremes

    def vectors(self) -> _Vectors:
        """Sums, registers and extremes."""
        return self._held

    @property
    def sums(self) -> npt.NDArray[np.int64]:
        """int64 (S,)."""
        return self.vectors()[0]

    @property
    def registers(self) -> npt.NDArray[np.uint8]:
        """uint8 (R,)."""
        return self.vectors()[1]

    @property
    def extremes(self) -> npt.NDArray[np.float64]:
        """float64 (numeric features, 2)."""
        return self.vectors()[2]

    def of(self, slot: Slot) -> "Sketches":
        """The state of one feature."""
        sums, registers, extremes = self.vectors()
        end, end_registers, end_extremes = slot.ends
        return Sketches(
            sums[slot.sums : end],
            registers[slot.registers : end_registers],
            extremes[slot.extremes : end_extremes],
        )

    def merged(self, other: "Sketches") -> "Sketches":
        """The state of the events of both."""
        if isinstance(other, FewEvents):
            return other.merged(self)
        return Sketches(
            self.sums + other.sums,
            np.maximum(self.registers, other.registers),
            np.maximum(self.extremes, other.extremes),
        )

    def packed(self) -> bytes:
        """The state as bytes, which `Layout.unpacked` reads; most counts are zero, so they are compressed."""
        sums, registers, extremes = self.vectors()
        return zlib.compress(b"".join((sums.tobytes(), extremes.tobytes(), registers.tobytes())), 1)


class FewEvents(Sketches):
    """The state of a pane with few events, kept as their values: its vectors are made anew whenever they are asked for.

    A state of words takes 138 kB, be it of one word or of a million: a chunk that is spread over thousands of panes would
    fill gigabytes. The values in all panes of a chunk together are never more than those of the chunk.

    Parameters
    ----------
    slots : of the layout
    events : events of each feature's types
    values : of the features that have any, by the place of their slot
    """

    __slots__ = ("_events", "_slots", "_values")

    def __init__(self, slots: Sequence[Slot], events: Sequence[int], values: Mapping[int, "_Values"]) -> None:
        self._slots = slots
        self._events = events
        self._values = values

    def vectors(self) -> _Vectors:
        """As in `Sketches`."""
        return self._added_to(_empty(*self._slots[-1].ends if self._slots else (0, 0, 0))).vectors()

    def of(self, slot: Slot) -> Sketches:
        """As in `Sketches`."""
        state = _empty(*slot.lengths)
        state.sums[slot.events - slot.sums - 1 : slot.events - slot.sums + 1] = self._events[slot.place]
        if slot.place in self._values:
            _add(slot, state, self._values[slot.place])
        return state

    def merged(self, other: Sketches) -> Sketches:
        """As in `Sketches`."""
        sums, registers, extremes = other.vectors()
        return self._added_to(Sketches(sums.copy(), registers.copy(), extremes.copy()))

    def _added_to(self, state: Sketches) -> Sketches:
        sums = state.sums
        for slot, events in zip(self._slots, self._events, strict=True):
            sums[slot.events - 1] += events  # all missing, until values are found
            sums[slot.events] += events
        for place, found in self._values.items():
            _add(self._slots[place], state.of(self._slots[place]), found)
        return state


def _empty(sums: int, registers: int, extremes: int) -> Sketches:
    return Sketches(np.zeros(sums, np.int64), np.zeros(registers, np.uint8), np.full((extremes, 2), -np.inf))


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

    >>> from online_models.contracts.events import EventType
    >>> layout = Layout([FeatureSpec("n", FeatureKind.NUMERIC, "value", (EventType.CLICK,), bins=4)])
    >>> len(layout.empty().sums), layout.state(layout.empty(), "n").counts.tolist()
    (11, [0, 0, 0, 0, 0, 0, 0])
    """

    def __init__(self, specs: Sequence[FeatureSpec], profile: bool = True) -> None:
        self.specs = tuple(specs)
        self.profile = profile
        self.slots: dict[str, Slot] = {}
        self._shape = (0, 0, 0)
        for place, spec in enumerate(specs):
            _check(spec)
            slot = self.slots[spec.name] = Slot(place, spec, profile, *self._shape, _lengths(spec, profile))
            self._shape = slot.ends
        if len(self.slots) < len(self.specs):
            raise ValueError(f"expected distinct names of features, got {[spec.name for spec in specs]}")

    def empty(self) -> Sketches:
        """The state of no events."""
        return _empty(*self._shape)

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
        slot = self.slots[name]
        return FeatureState(slot, sketches.of(slot))


def _lengths(spec: FeatureSpec, profile: bool) -> tuple[int, int, int]:
    counts = spec.cells + 4
    if not profile:
        return counts, 0, 0
    return (counts + SUMS, 0, 1) if spec.kind is FeatureKind.NUMERIC else (counts + COUNTERS, REGISTERS, 0)


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
    """The state of one feature, as people read it.

    spec : its declaration
    counts : int64 (cells + 3,), a view of the state: not to be changed
    """

    def __init__(self, slot: Slot, state: Sketches) -> None:
        self.spec = slot.spec
        self.counts: Counts = state.sums[: slot.spec.cells + 3]
        self._state = state
        self._rest = state.sums[slot.spec.cells + 4 :]  # sums of moments or heavy words
        self._numeric = slot.numeric
        self._profile = slot.profile

    @property
    def events(self) -> int:
        """Events of the declared types."""
        return int(self._state.sums[len(self.counts)])

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
        return mean_and_sd(self._rest, self.values, *_range(self.spec))

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
        return sign * float(self._state.extremes[0, which])

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
        return cardinality(self._state.registers)

    def heavy(self, k: int) -> list[tuple[int, int]]:
        """The k most frequent words as (fingerprint, count at most), see `heavy_hitters`; none of numbers."""
        if self._numeric or not self._profile:
            return []
        return heavy_words(self._rest, k)


def encode(layout: Layout, observed: Observed) -> list[Coded]:
    """The present values of each feature of a layout as cells, in its order; events of other types have none."""
    batch = Batch(observed, np.bincount(observed.type, minlength=len(EVENT_TYPES)) > 0)
    return [entries_of(spec, batch.column(spec), batch.chosen(spec.types)).coded for spec in layout.specs]


def sketch(layout: Layout, observed: Observed, pane: Pane, panes: int) -> list[Sketches]:
    """The state of each pane, as `coded_sketch` gives it, straight from the values."""
    filled = _Filled(layout, observed, pane, panes)
    for slot in layout.slots.values():
        filled.add(slot)
    return filled.states


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
    filled = _Filled(layout, observed, pane, panes)
    coded = [filled.add_coded(slot) for slot in layout.slots.values()]
    return filled.states, coded


class _Filled:
    """The states of a batch's panes, filled a feature at a time."""

    def __init__(self, layout: Layout, observed: Observed, pane: Pane, panes: int) -> None:
        self._cut = Cut(np.ascontiguousarray(pane, np.int64), panes)
        self._events = self._cut.count(observed.type, len(EVENT_TYPES))
        self._batch, self._slots = Batch(observed, self._events.sum(0) > 0), tuple(layout.slots.values())
        few = np.flatnonzero(self._events.sum(1) < FEW).tolist()
        self._kept: dict[int, dict[int, _Values]] = {p: {} for p in few}
        # (slots, panes), events of each feature's types
        told = [self._events[:, type_codes(slot.spec.types)].sum(1).tolist() for slot in self._slots]
        self.states: list[Sketches] = []
        for p in range(panes):
            state = FewEvents(self._slots, [of_pane[p] for of_pane in told], self._kept.get(p, {}))
            self.states.append(state if p in self._kept else Sketches(*state.vectors()))

    def add(self, slot: Slot) -> None:
        """Add a feature."""
        spec = slot.spec
        column, chosen = self._batch.column(spec), self._batch.chosen(spec.types)
        if spec.kind is FeatureKind.NUMERIC:
            self._add(slot, *among(column.number_rows, np.ascontiguousarray(column.numbers), chosen))
        else:
            self._add(slot, *among(column.word_rows, np.ascontiguousarray(column.words), chosen))

    def add_coded(self, slot: Slot) -> Coded:
        """Add a feature by way of its cells."""
        spec = slot.spec
        entries = entries_of(spec, self._batch.column(spec), self._batch.chosen(spec.types))
        self._add(slot, entries.coded.rows, entries.values, entries.coded.cells)
        return entries.coded

    def _add(self, slot: Slot, rows: Rows | None, values: npt.NDArray[Any], cells: Cells | None = None) -> None:
        events = rows if slot.spec.kind is FeatureKind.MULTI_VALUED else None
        for p, part in self._cut.parts(rows):
            found = _Values(values[part], None if events is None else events[part])
            if p in self._kept:
                self._kept[p][slot.place] = found.copy()
            elif cells is None:
                _add(slot, self.states[p].of(slot), found)
            else:
                _add_coded(slot, self.states[p].of(slot), found, cells[part])


class _Values(NamedTuple):
    """Some values of a feature, and the events they are of where one event may have several and not all have one."""

    values: npt.NDArray[Any]
    rows: Rows | None

    def copy(self) -> "_Values":
        """The same, without a hold on the batch."""
        return _Values(self.values.copy(), None if self.rows is None else self.rows.copy())

    @property
    def events(self) -> int:
        """How many events they are of."""
        return len(self.values) if self.rows is None else 1 + int(np.count_nonzero(np.diff(self.rows)))


def _add(slot: Slot, state: Sketches, found: _Values) -> None:
    """Add values, NaN among them, to the state of their feature."""
    counts, rest = state.sums[: slot.spec.cells + 3], state.sums[slot.spec.cells + 4 :]
    if slot.numeric:
        moments, extremes = (rest, state.extremes[0]) if slot.profile else (rest[:0], np.empty(0))
        edges = np.array(slot.spec.edges, np.float64)
        count_numbers(found.values, *_range(slot.spec), slot.spec.cells, edges, counts, moments, extremes)
        return
    count_words(found.values, slot.spec.cells, counts)
    counts[-1] -= found.events
    if slot.profile:
        _profile_words(state, found.values, rest)


def _add_coded(slot: Slot, state: Sketches, found: _Values, cells: Cells) -> None:
    """Add values, whose cells are known and none of which is NaN, to the state of their feature."""
    counts, rest = state.sums[: slot.spec.cells + 3], state.sums[slot.spec.cells + 4 :]
    count_cells(cells, counts)
    counts[-1] -= found.events
    if slot.profile and slot.numeric:
        add_moments(found.values, *_range(slot.spec), rest, state.extremes[0])
    elif slot.profile:
        _profile_words(state, found.values, rest)


def _profile_words(state: Sketches, words: npt.NDArray[np.uint64], counters: npt.NDArray[np.int64]) -> None:
    add_words(words, state.registers)
    add_fingerprints(words, counters)
