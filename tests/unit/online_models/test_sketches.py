"""What people read from sketches, and how batches of many shapes get there; the laws are in tests/laws/test_sketch_laws.py."""

import math
import pickle
import tracemalloc
import weakref
from dataclasses import replace
from functools import reduce

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from online_models.contracts.columns import Column
from online_models.contracts.events import EVENT_TYPES, EventType
from online_models.contracts.features import DEFAULT_FEATURES, FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from online_models.sketches import FEW, FeatureState, FewEvents, Layout, Sketches, coded_sketch, sketch
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


@pytest.mark.parametrize("profile", [True, False])
@pytest.mark.parametrize("panes", [3, 1_000])
@pytest.mark.parametrize("order", ["one", "sorted", "shuffled"])
def test_many_values_straight_and_by_way_of_cells_give_the_same_bits(order: str, panes: int, profile: bool) -> None:
    rng = np.random.default_rng(8)
    n = 20_000
    numbers = np.where(rng.random(n) < 0.1, np.nan, rng.normal(0.5, 0.4, n))
    numbers[:3] = np.inf, -np.inf, -0.0
    some = np.flatnonzero(rng.random(n) < 0.7).astype(np.int32)
    words = rng.zipf(1.3, n).astype(np.uint64) * np.uint64(7919)
    twice = np.sort(rng.integers(0, n, n)).astype(np.int32)
    features = Columns(
        all=Column(None, numbers),
        present=Column(None, np.nan_to_num(numbers)),
        some=Column(some, numbers[some]),
        word=Column(word_rows=None, words=words),
        rare=Column(word_rows=some, words=words[some]),
        tags=Column(word_rows=twice, words=words),
    )
    kinds = {"word": FeatureKind.CATEGORICAL, "rare": FeatureKind.CATEGORICAL, "tags": FeatureKind.MULTI_VALUED}
    edged, few = (0.0, 0.3, 1.0), ALL[:2]
    specs = [
        spec
        for name in ("all", "present", "some")
        for source in [f"features.{name}"]
        for spec in (
            FeatureSpec(name, FeatureKind.NUMERIC, source, ALL),
            FeatureSpec(f"{name} of few types", FeatureKind.NUMERIC, source, few),
            FeatureSpec(f"{name} between edges", FeatureKind.NUMERIC, source, ALL, edges=edged),
        )
    ]
    for name, kind in kinds.items():
        specs += [
            FeatureSpec(f"{name} {buckets}", kind, f"features.{name}", types, bins=buckets)
            for buckets, types in ((64, ALL), (100, ALL), (4_096, few))
        ]
    layout = Layout(specs, profile)
    codes = rng.integers(0, len(ALL), n).astype(np.int8)
    batch = replace(observed([Row()] * n), features=features, type=codes)
    pane = rng.integers(0, panes, n) if order != "one" else np.zeros(n, np.int64)
    if order == "sorted":
        pane.sort()
    coded, _ = coded_sketch(layout, batch, pane, panes)
    straight = sketch(layout, batch, pane, panes)
    for one, other in zip(straight, coded, strict=True):
        assert [each.tobytes() for each in one.vectors()] == [each.tobytes() for each in other.vectors()]
    (whole,) = sketch(layout, batch, np.zeros(n, np.int64), 1)
    assert reduce(Sketches.merged, straight).packed() == whole.packed()
    assert sum(layout.state(each, "some").values for each in coded) == np.count_nonzero(~np.isnan(numbers[some]))


def words_in_panes(events: int, panes: int) -> tuple[Layout, list[Sketches]]:
    rng = np.random.default_rng(3)
    columns = Columns(w=Column(word_rows=None, words=rng.integers(0, 2**64, events, np.uint64)))
    specs = [WORD, msgspec.structs.replace(WORD, name="v", bins=4_096), NUMBER]
    batch = replace(observed([Row()] * events), features=columns, value=rng.normal(5, 3, events))
    layout = Layout(specs)
    return layout, sketch(layout, batch, np.arange(events) % panes, panes)


def test_few_events_are_kept_as_values_and_merge_with_many_to_the_bit() -> None:
    layout, few = words_in_panes(2 * (FEW - 1), 2)
    _, (many,) = words_in_panes(FEW, 1)
    assert [type(each) for each in (*few, many)] == [FewEvents, FewEvents, Sketches]
    dense = [Sketches(*each.vectors()) for each in (few[0], few[1], many)]
    expected = reduce(Sketches.merged, dense).packed()
    before = many.packed()
    assert many.merged(few[0]).merged(few[1]).packed() == expected
    assert few[0].merged(few[1]).merged(many).packed() == expected
    assert few[1].merged(many.merged(few[0])).packed() == expected
    assert many.packed() == before  # neither was changed
    assert [each.packed() for each in few] == [each.packed() for each in dense[:2]]
    for name in layout.slots:
        assert layout.state(few[0], name).counts.tolist() == layout.state(dense[0], name).counts.tolist()
        assert layout.state(few[0], name).events == FEW - 1


def test_few_events_survive_pickling() -> None:
    _, few = words_in_panes(30, 3)
    assert [each.packed() for each in pickle.loads(pickle.dumps(few))] == [each.packed() for each in few]


def test_states_of_thousands_of_panes_take_little_memory() -> None:
    words_in_panes(100, 2)  # compiled before
    tracemalloc.start()
    _, states = words_in_panes(16_000, 2_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 < len(states) * sum(each.nbytes for each in states[0].vectors()) / 10


def test_few_events_do_not_keep_their_batch() -> None:
    words = np.arange(300, dtype=np.uint64)
    kept = weakref.ref(words)
    batch = replace(observed([Row()] * 300), features=Columns(w=Column(word_rows=None, words=words)))
    states = sketch(Layout([WORD]), batch, np.arange(300) // 10, 30)
    del batch, words
    assert len(states) == 30
    assert kept() is None


def test_no_features_have_no_state() -> None:
    (state,) = sketch(Layout([]), observed([Row()]), np.zeros(1, np.int64), 1)
    assert [len(each) for each in state.vectors()] == [0, 0, 0]
