"""What holds for the sketches of every source and kind: order and splits never matter, and plain counting agrees."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.heavy_hitters import BITS, GROUPS, HASHES
from online_models.moments import LIMIT, UNITS
from online_models.sketches import Layout, Sketches, coded_sketch, encode, sketch
from tests.oracles.features import Row, counts_of, observed, values_of

PLAIN = ("value", "hour", "minute", "weekday", "type", "item_id", "user_id", "features.a", "features.b")
CONSTRUCTED = (
    "tokens:features.a",
    "features.a*features.b",
    "hour*item_id*features.a",
    "value*features.b",
    "type*user_id",
)
SOME = (EventType.CLICK, EventType.WATCH)

EDGES = (-1.5, 0.0, 3.0, 20.0)

SPECS = tuple(
    FeatureSpec(f"{source} {kind}", kind, source, types, -4.0, 28.0, 16, edges=edges)
    for number, source in enumerate((*PLAIN, *CONSTRUCTED))
    for kind in FeatureKind
    # every other source with edges, every third on some types only
    for types, edges in [(SOME if number % 3 == 0 else tuple(EventType), EDGES if number % 2 else ())]
)
LAYOUT = Layout(SPECS)

FEW = Layout(
    [
        FeatureSpec("value", FeatureKind.NUMERIC, "value", SOME, -4.0, 28.0, 16),
        FeatureSpec("a", FeatureKind.NUMERIC, "features.a", tuple(EventType), edges=EDGES),
        FeatureSpec("word", FeatureKind.CATEGORICAL, "features.a", tuple(EventType), bins=7),
        FeatureSpec("words", FeatureKind.MULTI_VALUED, "features.a*features.b", SOME),
    ]
)

WORDS = st.sampled_from(["Drama", "drama comedy", "Sci-Fi", "", "ключ", "\ud800"])
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 40),
    st.floats(),
    WORDS,
    st.lists(WORDS, max_size=3),
    st.just([1, ["nested"], {"a": 1}, "Drama"]),
    st.just(10**400),
)
FEATURES = st.none() | st.fixed_dictionaries({}, optional={"a": ANYTHING, "b": ANYTHING})
ROWS = st.builds(
    Row,
    type=st.sampled_from(EventType),
    ts_ms=st.integers(0, 4_000_000_000_000),
    value=st.one_of(st.floats(), st.floats(-6, 30), st.just(-0.0), st.just(0.0)),
    item_id=st.sampled_from(["i1", "i2", "i3"]),
    user_id=st.sampled_from(["u1", "u2"]),
    features=FEATURES,
)
LOGS = st.lists(ROWS, max_size=12)
LAW = settings(max_examples=60, deadline=None)


def of(rows: Sequence[Row], layout: Layout = LAYOUT) -> Sketches:
    return sketch(layout, observed(rows), np.zeros(len(rows), np.int64), 1)[0]


def bits(state: Sketches) -> bytes:
    return state.sums.tobytes() + state.registers.tobytes() + state.extremes.tobytes()


@given(LOGS)
@LAW
def test_counts_and_events_are_those_of_counting_value_by_value(rows: list[Row]) -> None:
    state = of(rows)
    for spec in SPECS:
        counts, events = counts_of(spec, rows)
        found = LAYOUT.state(state, spec.name)
        assert found.counts.tolist() == counts, spec.name
        assert (found.events, found.missing) == (events, counts[-1]), spec.name


@given(LOGS)
@LAW
def test_moments_and_extremes_are_those_of_exact_arithmetic(rows: list[Row]) -> None:
    state = of(rows)
    for spec in SPECS:
        if spec.kind is not FeatureKind.NUMERIC:
            continue
        numbers = [
            float(v) for row in rows if row.type in spec.types for v in values_of(spec, row) if isinstance(v, float)
        ]
        found = LAYOUT.state(state, spec.name)
        assert found.minimum == min(numbers, default=None), spec.name
        assert found.maximum == max(numbers, default=None), spec.name
        if not numbers:
            assert found.mean is None
            assert found.sd is None
            continue
        low, high = (spec.edges[0], spec.edges[-1]) if spec.edges else (spec.low, spec.high)
        steps = [Fraction(round(min(max((x - low) * (UNITS / (high - low)), -LIMIT), LIMIT))) for x in numbers]
        mean = sum(steps) / len(steps)
        variance = sum((step - mean) ** 2 for step in steps) / len(steps)
        assert found.mean == pytest.approx(float(low + mean * Fraction(high - low) / 2**24), rel=1e-12, abs=1e-12)
        assert found.sd == pytest.approx(float(variance) ** 0.5 * (high - low) / UNITS, rel=1e-12, abs=1e-12)


def registers_of(words: Sequence[int]) -> list[int]:
    registers = [0] * 4096
    for each in words:
        rest = f"{each & (2**52 - 1):052b}"
        registers[each >> 52] = max(registers[each >> 52], 1 + len(rest) - len(rest.lstrip("0")))
    return registers


def counters_of(words: Sequence[int]) -> npt.NDArray[np.int64]:
    counters = np.zeros((HASHES, GROUPS, BITS + 1), np.int64)
    for each in words:
        fingerprint = each >> 32
        for row, odd in zip(counters, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D), strict=True):
            row[(fingerprint * odd % 2**32) >> 25] += [*(fingerprint >> bit & 1 for bit in range(BITS)), 1]
    return counters.ravel()


@given(LOGS)
@LAW
def test_registers_and_groups_are_those_of_adding_word_by_word(rows: list[Row]) -> None:
    state = of(rows)
    for spec in SPECS:
        if spec.kind is FeatureKind.NUMERIC:
            continue
        slot = LAYOUT.slots[spec.name]
        words = [
            v[0] for row in rows if row.type in spec.types for v in values_of(spec, row) if not isinstance(v, float)
        ]
        assert state.registers[slot.registers : slot.registers + 4096].tolist() == registers_of(words), spec.name
        counters = state.sums[slot.events + 1 : slot.events + 1 + HASHES * GROUPS * (BITS + 1)]
        assert np.array_equal(counters, counters_of(words)), spec.name


@given(LOGS, LOGS, LOGS)
@LAW
def test_merging_is_associative_and_commutative_and_changes_nothing_merged(
    a: list[Row], b: list[Row], c: list[Row]
) -> None:
    x, y, z = (of(rows, FEW) for rows in (a, b, c))
    before = bits(x), bits(y)
    assert bits(x.merged(y).merged(z)) == bits(x.merged(y.merged(z))) == bits(of([*a, *b, *c], FEW))
    assert bits(x.merged(y)) == bits(y.merged(x))
    assert bits(x.merged(FEW.empty())) == bits(x)
    assert (bits(x), bits(y)) == before


@given(
    st.lists(st.tuples(ROWS, st.integers(0, 3)), max_size=16), st.lists(st.integers(0, 16), max_size=3), st.booleans()
)
@LAW
def test_any_split_into_batches_gives_the_same_panes_to_the_bit(
    log: list[tuple[Row, int]], cuts: list[int], in_order: bool
) -> None:
    if in_order:
        log.sort(key=lambda entry: entry[1])
    ends = sorted({0, len(log), *(min(cut, len(log)) for cut in cuts)})
    merged = [FEW.empty()] * 4
    for start, end in pairwise(ends):
        part = log[start:end]
        pane = np.array([p for _, p in part], np.int64)
        states = sketch(FEW, observed([row for row, _ in part]), pane, 4)
        # what a restart brings back is what was written
        merged = [FEW.unpacked(a.merged(b).packed()) for a, b in zip(merged, states, strict=True)]
    for p in range(4):
        assert bits(merged[p]) == bits(of([row for row, pane in log if pane == p], FEW))


@given(st.lists(st.tuples(ROWS, st.integers(0, 2)), max_size=16), st.booleans(), st.booleans())
@LAW
def test_straight_from_the_values_and_by_way_of_cells_are_the_same_to_the_bit(
    log: list[tuple[Row, int]], in_order: bool, profile: bool
) -> None:
    if in_order:
        log.sort(key=lambda entry: entry[1])
    layout = Layout(SPECS, profile)
    columns, pane = observed([row for row, _ in log]), np.array([p for _, p in log], np.int64)
    coded, _ = coded_sketch(layout, columns, pane, 3)
    assert [bits(state) for state in sketch(layout, columns, pane, 3)] == [bits(state) for state in coded]


@given(LOGS)
@LAW
def test_cells_for_the_ranking_are_those_that_the_histogram_counts(rows: list[Row]) -> None:
    columns = observed(rows)
    (state,), coded = coded_sketch(LAYOUT, columns, np.zeros(len(rows), np.int64), 1)
    for spec, ours, alone in zip(SPECS, coded, encode(LAYOUT, columns), strict=True):
        events = np.arange(len(rows)) if ours.rows is None else ours.rows
        assert len(events) == len(ours.cells)
        counted = np.bincount(ours.cells, minlength=spec.cells + 2)
        assert counted.tolist() == LAYOUT.state(state, spec.name).counts[:-1].tolist(), spec.name
        of_types = [row for row, event in enumerate(rows) if event.type in spec.types and values_of(spec, event)]
        assert sorted(set(events.tolist())) == of_types, spec.name
        assert (np.diff(events) >= 0).all()
        assert np.array_equal(ours.cells, alone.cells)
        assert (ours.rows is None) == (alone.rows is None)


@given(LOGS)
@LAW
def test_a_layout_without_profile_counts_the_same(rows: list[Row]) -> None:
    bare = Layout(SPECS, profile=False)
    state, full = sketch(bare, observed(rows), np.zeros(len(rows), np.int64), 1)[0], of(rows)
    assert len(state.registers) == len(state.extremes) == 0
    for spec in SPECS:
        ours, theirs = bare.state(state, spec.name), LAYOUT.state(full, spec.name)
        assert ours.counts.tolist() == theirs.counts.tolist()
        assert ours.events == theirs.events
        assert (ours.mean, ours.sd, ours.minimum, ours.maximum, ours.cardinality, ours.heavy(3)) == (*[None] * 5, [])
