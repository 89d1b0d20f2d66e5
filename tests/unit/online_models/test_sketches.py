"""What people read from sketches, and how batches of many shapes get there; the laws are in tests/laws/test_sketch_laws.py."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from online_models.contracts.columns import Column
from online_models.contracts.events import EVENT_TYPES, EventType
from online_models.contracts.features import DEFAULT_FEATURES, FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from online_models.sketches import FeatureState, Layout, coded_sketch, sketch
from tests.oracles.features import Row, Rows, observed

ALL = tuple(EventType)
NUMBER = FeatureSpec("n", FeatureKind.NUMERIC, "value", ALL, 0.0, 10.0, 100)
WORD = FeatureSpec("w", FeatureKind.CATEGORICAL, "features.w", ALL, bins=64)
WORDS = FeatureSpec("g", FeatureKind.MULTI_VALUED, "features.g", ALL, bins=64)


def state_of(spec: FeatureSpec, rows: list[Row] | Rows) -> FeatureState:
    columns, layout = rows if isinstance(rows, Rows) else observed(rows), Layout([spec])
    (state,) = sketch(layout, columns, np.zeros(len(columns.ts_ms), np.int64), 1)
    return layout.state(state, spec.name)


class Columns:
    """Some columns by name."""

    def __init__(self, **columns: Column) -> None:
        self._columns = columns

    def names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def column(self, name: str) -> Column:
        return self._columns.get(name, Column())

    def take(self, rows: object) -> "Columns":
        raise NotImplementedError


def test_a_numeric_feature_is_summed_up() -> None:
    state = state_of(NUMBER, [Row(value=v) for v in (1.0, 2.0, 3.0, 6.0, math.nan)])
    assert (state.events, state.missing, state.values) == (5, 1, 4)
    assert (state.minimum, state.maximum) == (1.0, 6.0)
    assert (state.mean, state.sd) == pytest.approx((3.0, 3.5**0.5), abs=1e-6)
    assert state.quantiles((0.0, 0.5, 1.0)) == pytest.approx((1.0, 2.1, 6.0))
    assert (state.cardinality, state.heavy(3)) == (None, [])


def test_a_feature_that_nothing_came_of_has_no_figures() -> None:
    state = state_of(NUMBER, [Row(), Row()])
    assert (state.events, state.missing) == (2, 2)
    assert (state.mean, state.sd, state.minimum, state.maximum, state.quantiles((0.5,))) == (None, None, None, None, ())


def test_words_are_summed_up() -> None:
    rows = [Row(features={"w": word}) for word in ["a"] * 6 + ["b"] * 3 + ["c"]] + [Row()]
    state = state_of(WORD, rows)
    assert (state.events, state.missing, state.values) == (11, 1, 10)
    assert state.cardinality == pytest.approx(3, abs=0.01)
    assert state.heavy(2) == [(hash64("a") >> 32, 6), (hash64("b") >> 32, 3)]
    assert (state.mean, state.sd, state.minimum, state.quantiles((0.5,))) == (None, None, None, ())


def test_words_of_one_event_are_counted_each_and_its_lack_of_any_once() -> None:
    rows = [Row(features={"g": ["x", "y", "x"]}), Row(features={"g": []}), Row(features={"g": "x"})]
    state = state_of(WORDS, rows)
    assert (state.events, state.missing, state.values) == (3, 1, 3)
    assert state.counts[1 + hash64("x") % 64] == 2


def test_quantiles_of_declared_edges() -> None:
    spec = msgspec.structs.replace(NUMBER, edges=(0.0, 1.0, 100.0))
    assert len(state_of(spec, []).counts) == 5
    state = state_of(spec, [Row(value=v) for v in (0.5, 50.0, 60.0, 70.0)])
    assert state.quantiles((0.25, 1.0)) == (1.0, 70.0)


def test_every_default_feature_counts_each_event_that_should_carry_it() -> None:
    rows = [Row(type=kind) for kind in EVENT_TYPES for _ in range(3)]
    for spec in DEFAULT_FEATURES:
        state = state_of(spec, rows)
        assert state.events == state.missing == 3 * len(spec.types), spec.name


def test_a_type_declared_twice_is_counted_once() -> None:
    twice = msgspec.structs.replace(NUMBER, types=(EventType.CLICK, EventType.CLICK))
    assert state_of(twice, [Row(value=1.0), Row(type=EventType.WATCH)]).events == 1


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (FeatureKind.CATEGORICAL, "value"),
        (FeatureKind.MULTI_VALUED, "hour"),
        (FeatureKind.NUMERIC, "type"),
        (FeatureKind.NUMERIC, "type*item_id"),
    ],
)
def test_a_column_of_the_other_kind_is_missing(kind: FeatureKind, source: str) -> None:
    state = state_of(FeatureSpec("x", kind, source, ALL, bins=8), [Row(value=1.0)] * 5)
    assert state.counts.tolist() == [0] * 10 + [5]


def test_sparse_dense_and_nan_columns_of_the_same_numbers_are_the_same() -> None:
    spec = FeatureSpec("n", FeatureKind.NUMERIC, "features.n", (EventType.CLICK, EventType.WATCH), -3.0, 3.0)
    rng = np.random.default_rng(5)
    numbers, n = rng.normal(size=9_000), 9_000
    here, types = rng.random(n) < 0.7, rng.integers(0, len(ALL), n).astype(np.int8)
    columns = replace(observed([Row()] * n), type=types)
    pane = np.sort(rng.integers(0, 3, n))
    shuffled = rng.permutation(n)
    layout = Layout([spec])

    def states(column: Column, pane: npt.NDArray[np.int64], types: npt.NDArray[np.int8] = types) -> list[bytes]:
        batch = replace(columns, type=types, features=Columns(n=column))
        return [state.packed() for state in sketch(layout, batch, pane, 3)]

    dense = states(Column(None, np.where(here, numbers, np.nan)), pane)
    assert states(Column(np.flatnonzero(here).astype(np.int32), numbers[here]), pane) == dense
    moved = Column(None, np.where(here, numbers, np.nan)[shuffled])
    assert states(moved, pane[shuffled], types[shuffled]) == dense


def test_columns_that_are_strided_or_read_only_are_as_good_as_any() -> None:
    rows = np.arange(300.0).reshape(100, 3)
    strided = Column(None, rows[:, 1], None, np.arange(300, dtype=np.uint64)[::3])
    frozen = Column(None, rows[:, 1].copy(), None, np.arange(300, dtype=np.uint64)[::3].copy())
    for array in (frozen.numbers, frozen.words):
        array.flags.writeable = False
    plain = Column(None, frozen.numbers.copy(), None, frozen.words.copy())
    specs = [FeatureSpec(kind, kind, "features.x", ALL, 0.0, 300.0) for kind in FeatureKind]
    states = [
        sketch(Layout(specs), replace(observed([Row()] * 100), features=Columns(x=column)), np.zeros(100, np.int64), 1)
        for column in (plain, strided, frozen)
    ]
    assert len({state.packed() for (state,) in states}) == 1


def test_a_column_is_asked_for_once_however_many_features_read_it() -> None:
    asked: list[str] = []

    class Counting(Columns):
        def column(self, name: str) -> Column:
            asked.append(name)
            return super().column(name)

    specs = [
        FeatureSpec(name, FeatureKind.NUMERIC, "features.n", (kind,)) for name, kind in zip("ab", ALL[:2], strict=True)
    ]
    batch = replace(observed([Row()]), features=Counting(n=Column(None, np.array([0.5]))))
    _, coded = coded_sketch(Layout(specs), batch, np.zeros(1, np.int64), 1)
    assert asked == ["n"]
    assert [each.cells.tolist() for each in coded] == [[], [129]]


def test_narrow_pane_indices_are_accepted_and_wrong_ones_refused() -> None:
    layout = Layout([NUMBER])
    for dtype in (np.int8, np.int32, np.uint16):
        assert layout.state(sketch(layout, observed([Row()]), np.array([1], dtype), 2)[1], "n").events == 1
    for pane in (-1, 2):
        with pytest.raises(ValueError, match="expected panes in"):
            sketch(layout, observed([Row()]), np.array([pane]), 2)


@pytest.mark.parametrize(
    "change",
    [
        {"low": 1.0, "high": 1.0},
        {"low": 2.0, "high": 1.0},
        {"low": math.nan},
        {"high": math.inf},
        {"low": -1.7e308, "high": 1.7e308},
        {"low": 0.0, "high": 5e-324},
        {"bins": -1},
        {"bins": 65_534},
        {"edges": (1.0,)},
        {"edges": (1.0, 1.0)},
        {"edges": (2.0, 1.0)},
        {"edges": (1.0, math.inf)},
        {"source": "colour"},
    ],
)
def test_impossible_declarations_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Layout([msgspec.structs.replace(NUMBER, **change)])


def test_a_name_may_come_once_only() -> None:
    with pytest.raises(ValueError, match="distinct names"):
        Layout([NUMBER, NUMBER])


def test_bytes_of_another_layout_are_refused() -> None:
    layout = Layout([NUMBER, WORD])
    for raw in (Layout([NUMBER]).empty().packed(), b"", b"no sketches"):
        with pytest.raises(ValueError, match="expected"):
            layout.unpacked(raw)


def test_what_was_restored_can_be_merged() -> None:
    layout = Layout([NUMBER, WORD])
    (state,) = sketch(layout, observed([Row(value=1.0, features={"w": "a"})]), np.zeros(1, np.int64), 1)
    twice = layout.unpacked(state.packed()).merged(state)
    assert layout.state(twice, "w").heavy(1) == [(hash64("a") >> 32, 2)]
    assert layout.state(twice, "n").mean == pytest.approx(1.0, abs=1e-6)
