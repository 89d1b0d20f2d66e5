"""Fine histograms against one-value-at-a-time oracles; rebinning of ordinary and of degenerate references."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.events import EVENT_TYPES, TYPE_CODES, EventType
from online_models.contracts.features import DEFAULT_FEATURES, FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from online_models.histograms import QUANTILE_BINS, Counts, count_hashed, count_numeric, observe, rebin

ALL = tuple(EventType)
WORDS = st.sampled_from(["Drama", "Comedy", "Sci-Fi", "", "ключ"])
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    WORDS,
    st.lists(WORDS),
    st.just([1, ["nested"], {"a": 1}, "Drama"]),
    st.just({"a": 1}),
    st.just("\ud800"),
    st.just(10**400),
)


def numeric_cell(value: float, low: float, high: float, bins: int) -> int:
    """Oracle: the cell of one number."""
    if math.isnan(value):
        return bins + 2
    if value < low:
        return 0
    if value >= high:
        return bins + 1
    return 1 + min(int((value - low) * (bins / (high - low))), bins - 1)


def given_cells(spec: FeatureSpec, given: object) -> list[int]:
    """Oracle: the cells that one event's value is counted in."""
    missing = [spec.bins + 2]
    if spec.kind is FeatureKind.NUMERIC:
        if isinstance(given, bool) or not isinstance(given, int | float):
            return missing
        number = math.inf if abs(given) > 1e308 and given > 0 else float(given) if given == given else math.nan
        return [numeric_cell(number, spec.low, spec.high, spec.bins)]
    several = spec.kind is FeatureKind.MULTI_VALUED and isinstance(given, list)
    candidates = given if several and isinstance(given, list) else [given]
    words = {word.encode(errors="replace").decode() for word in candidates if isinstance(word, str)}
    return [1 + hash64(word) % spec.bins for word in words] or missing


def observed(
    spec: FeatureSpec,
    features: Sequence[Mapping[str, object] | None],
    pane: npt.NDArray[np.int64] | None = None,
    panes: int = 1,
    kinds: npt.NDArray[np.int8] | None = None,
) -> Counts:
    n = len(features)
    return observe(
        spec,
        type=np.ones(n, np.int8) if kinds is None else kinds,
        ts_ms=np.arange(n, dtype=np.int64) * 3_600_000,
        value=np.arange(n, dtype=np.float64),
        item_hash=np.arange(n, dtype=np.uint64),
        features=features,
        pane=np.zeros(n, np.int64) if pane is None else pane,
        panes=panes,
    )


@given(
    st.lists(st.tuples(st.floats(), st.integers(0, 2)), max_size=60),
    st.integers(1, 40),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
@settings(max_examples=200, deadline=None)
def test_counting_numbers_agrees_with_counting_them_one_by_one(
    rows: list[tuple[float, int]], bins: int, low: float, span: float
) -> None:
    values = np.array([value for value, _ in rows], np.float64)
    pane = np.array([p for _, p in rows], np.int64)
    expected = np.zeros((3, bins + 3), np.int64)
    for value, p in rows:
        expected[p, numeric_cell(value, low, low + span, bins)] += 1
    assert np.array_equal(count_numeric(values, pane, 3, low, low + span, bins), expected)


@pytest.mark.parametrize(("high", "bins"), [(0.3, 41), (24.0, 17), (0.3, 3), (1.0, 1)])
def test_a_value_just_below_the_upper_edge_is_in_the_last_bin_and_the_edge_is_over(high: float, bins: int) -> None:
    # of (0.3, 41) and (24, 17) the scaled value rounds up to the number of bins
    counts = count_numeric(np.array([np.nextafter(high, 0), high]), np.zeros(2, np.int64), 1, 0.0, high, bins)[0]
    assert counts[-3:].tolist() == [1, 1, 0]
    assert counts.sum() == 2


def test_narrow_pane_indices_are_accepted_and_wrong_ones_refused() -> None:
    one = np.array([1.0])
    assert count_numeric(one, np.array([1], np.int32), 2, 0.0, 2.0, 2).sum() == 1
    for pane in (-1, 2):
        with pytest.raises(ValueError, match="expected panes in"):
            count_numeric(one, np.array([pane]), 2, 0.0, 2.0, 2)
        with pytest.raises(ValueError, match="expected panes in"):
            count_hashed(np.array([1], np.uint64), np.array([pane]), np.empty(0, np.int64), 2, 4)


def test_empty_ranges_and_no_buckets_are_refused() -> None:
    none = np.empty(0)
    for low, high, bins in ((1.0, 1.0, 4), (2.0, 1.0, 4), (0.0, 1.0, 0), (math.nan, 1.0, 4)):
        with pytest.raises(ValueError, match="low < high"):
            count_numeric(none, none.astype(np.int64), 1, low, high, bins)
    with pytest.raises(ValueError, match="bucket"):
        count_hashed(none.astype(np.uint64), none.astype(np.int64), none.astype(np.int64), 1, 0)


@pytest.mark.parametrize("kind", list(FeatureKind))
@given(rows=st.lists(st.tuples(st.none() | st.fixed_dictionaries({}, optional={"x": ANYTHING}), st.integers(0, 1))))
@settings(max_examples=150, deadline=None)
def test_anything_in_the_features_is_counted_as_the_oracle_says_and_never_an_error(
    kind: FeatureKind, rows: list[tuple[dict[str, object] | None, int]]
) -> None:
    spec = FeatureSpec("x", kind, "features.x", ALL, 0.0, 8.0, 16)
    expected = np.zeros((2, 19), np.int64)
    for features, pane in rows:
        for cell in given_cells(spec, (features or {}).get("x")):
            expected[pane, cell] += 1
    panes = np.array([pane for _, pane in rows], np.int64)
    assert np.array_equal(observed(spec, [features for features, _ in rows], panes, 2), expected)


def test_a_word_is_counted_once_per_event_and_an_empty_list_is_missing() -> None:
    spec = FeatureSpec("genres", FeatureKind.MULTI_VALUED, "features.genres", ALL, bins=64)
    counts = observed(spec, [{"genres": ["Drama", "Drama", "Comedy"]}, {"genres": []}, {"genres": "Drama"}])[0]
    assert counts[1 + hash64("Drama") % 64] == 2
    assert counts[1 + hash64("Comedy") % 64] == 1
    assert counts[-1] == 1


def test_only_events_of_the_declared_types_are_counted_not_even_as_missing() -> None:
    spec = FeatureSpec("watch", FeatureKind.NUMERIC, "value", (EventType.WATCH,), 0.0, 100.0, 10)
    kinds = np.arange(len(EVENT_TYPES), dtype=np.int8)
    counts = observed(spec, [None] * len(kinds), kinds=kinds)[0]
    assert counts.sum() == 1
    assert counts[numeric_cell(TYPE_CODES[EventType.WATCH], 0.0, 100.0, 10)] == 1


def test_the_columns_are_counted_under_their_sources() -> None:
    nothing: list[None] = [None] * 30
    hour = observed(FeatureSpec("hour", FeatureKind.NUMERIC, "hour", ALL, 0.0, 24.0, 24), nothing)[0]
    assert hour.tolist() == [0, *[2] * 6, *[1] * 18, 0, 0]
    kind = observed(FeatureSpec("type", FeatureKind.CATEGORICAL, "type", ALL, bins=64), nothing)[0]
    assert kind[1 + hash64("click") % 64] == 30
    item = observed(FeatureSpec("item", FeatureKind.CATEGORICAL, "item_id", ALL, bins=16), nothing)[0]
    assert item.tolist() == [0, *[2] * 14, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (FeatureKind.CATEGORICAL, "value"),
        (FeatureKind.MULTI_VALUED, "hour"),
        (FeatureKind.NUMERIC, "type"),
        (FeatureKind.NUMERIC, "item_id"),
    ],
)
def test_a_column_of_the_other_kind_is_missing(kind: FeatureKind, source: str) -> None:
    counts = observed(FeatureSpec("x", kind, source, ALL, bins=8), [None] * 5)[0]
    assert counts.tolist() == [0] * 10 + [5]


def test_an_unknown_source_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'colour'"):
        observed(FeatureSpec("x", FeatureKind.NUMERIC, "colour", ALL), [None])


def test_every_default_feature_counts_each_event_that_carries_it() -> None:
    kinds = np.repeat(np.arange(len(EVENT_TYPES), dtype=np.int8), 3)
    for spec in DEFAULT_FEATURES:
        assert observed(spec, [None] * len(kinds), kinds=kinds).sum() == 3 * len(spec.types), spec.name


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_histograms_of_parts_add_up_to_that_of_the_whole(data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.floats(-1, 2), max_size=40)), np.float64)
    cut = data.draw(st.integers(0, len(values)))
    whole, left, right = (
        count_numeric(part, np.zeros(len(part), np.int64), 1, 0.0, 1.0, 8)
        for part in (values, values[:cut], values[cut:])
    )
    assert np.array_equal(whole, left + right)


@given(
    st.lists(st.integers(0, 1000), min_size=4, max_size=60),
    st.sampled_from(list(FeatureKind)),
    st.none() | st.integers(1, 40),
)
@settings(max_examples=200, deadline=None)
def test_rebinning_keeps_every_count_and_gives_missing_a_bin_of_its_own(
    cells: list[int], kind: FeatureKind, coarse: int | None
) -> None:
    reference = np.array(cells, np.int64)
    assignment = rebin(reference, kind, coarse)
    counts = assignment.apply(reference)
    assert counts.shape == (assignment.bins,)
    assert counts.sum() == reference.sum()
    assert counts[-1] == reference[-1]
    assert (assignment.coarse_of[:-1] < assignment.bins - 1).all()
    assert set(assignment.coarse_of[:-1]) <= set(range(assignment.bins - 1))


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=60), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_numeric_coarse_bins_are_intervals_in_order(cells: list[int], coarse: int) -> None:
    present = rebin(np.array(cells, np.int64), FeatureKind.NUMERIC, coarse).coarse_of[:-1]
    assert (np.diff(present) >= 0).all()
    assert len(np.unique(present)) <= coarse


def test_a_smooth_reference_falls_into_even_quantiles() -> None:
    values = np.random.default_rng(3).normal(size=100_000)
    reference = count_numeric(values, np.zeros(len(values), np.int64), 1, -6.0, 6.0, 512)[0]
    counts = rebin(reference, FeatureKind.NUMERIC).apply(reference)
    assert len(counts) == QUANTILE_BINS + 1
    assert counts[:-1].min() > 8_500
    assert counts[:-1].max() < 11_500


@pytest.mark.parametrize("cell", [0, 1, 5, 8, 9])
def test_a_constant_reference_tells_itself_from_what_lies_on_its_sides(cell: int) -> None:
    reference = np.zeros(11, np.int64)
    reference[cell] = 1000
    coarse_of = rebin(reference, FeatureKind.NUMERIC).coarse_of[:-1]
    assert (coarse_of == coarse_of[cell]).sum() == 1


def test_an_empty_reference_can_be_rebinned() -> None:
    for kind in FeatureKind:
        assert rebin(np.zeros(11, np.int64), kind).bins == 2


def test_words_are_binned_by_how_frequent_they_are_in_the_reference() -> None:
    reference = np.array([0, 5, 9, 0, 7, 1, 0, 3], np.int64)
    assignment = rebin(reference, FeatureKind.CATEGORICAL, 2)
    assert assignment.apply(reference).tolist() == [9, 7, 6, 3]


def test_a_window_of_another_shape_and_a_malformed_reference_are_refused() -> None:
    assignment = rebin(np.ones(8, np.int64), FeatureKind.NUMERIC)
    with pytest.raises(ValueError, match="shape"):
        assignment.apply(np.ones(9, np.int64))
    for reference in (np.ones(3, np.int64), np.ones((2, 8), np.int64), np.full(8, -1)):
        with pytest.raises(ValueError, match="bins"):
            rebin(reference, FeatureKind.NUMERIC)
    with pytest.raises(ValueError, match="coarse bin"):
        rebin(np.ones(8, np.int64), FeatureKind.NUMERIC, 0)
