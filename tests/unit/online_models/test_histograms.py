"""Fine cells and their counts against one-value-at-a-time oracles; quantiles; rebinning of ordinary and degenerate references."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.features import FeatureKind
from online_models.histograms import (
    QUANTILE_BINS,
    bucket_cells,
    count_cells,
    count_hashed,
    count_numeric,
    edge_cells,
    quantiles,
    rebin,
    uniform_cells,
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
    cells = uniform_cells(np.array([np.nextafter(high, 0), high]), 0.0, high, bins)
    assert cells.tolist() == [bins, bins + 1]


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=70, unique=True).map(sorted), st.lists(st.floats(), max_size=60)
)
@settings(max_examples=200, deadline=None)
def test_the_cell_between_edges_is_the_number_of_edges_that_are_not_above(
    edges: list[float], values: list[float]
) -> None:
    values += [*edges, math.inf, -math.inf]
    expected = [sum(e <= v for e in edges) if v == v else len(edges) + 1 for v in values]
    assert edge_cells(np.array(values), np.array(edges)).tolist() == expected


def test_edges_are_searched_alike_in_every_block_of_a_long_column() -> None:
    rng = np.random.default_rng(4)
    values, edges = rng.normal(size=5_000), np.sort(rng.normal(size=100))
    assert np.array_equal(edge_cells(values, edges), np.searchsorted(edges, values, side="right"))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(1, 65_533))
@settings(max_examples=200, deadline=None)
def test_the_bucket_of_a_word_is_its_hash_modulo_their_number(words: list[int], buckets: int) -> None:
    assert bucket_cells(np.array(words, np.uint64), buckets).tolist() == [1 + word % buckets for word in words]


@given(st.lists(st.integers(0, 8), max_size=60), st.lists(st.integers(0, 100), min_size=11, max_size=11))
@settings(max_examples=200, deadline=None)
def test_cells_are_added_to_what_is_counted_already(cells: list[int], before: list[int]) -> None:
    counts = np.array(before, np.int64)
    count_cells(np.array(cells, np.uint16), counts)
    assert counts.tolist() == [already + cells.count(cell) for cell, already in enumerate(before)]


def test_hashed_words_are_counted_by_pane() -> None:
    hashes, pane = np.array([4, 9, 4], np.uint64), np.array([0, 1, 1], np.int32)
    counts = count_hashed(hashes, pane, np.array([1, 1]), 2, 4)
    assert counts.tolist() == [[0, 1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 2]]


@given(
    st.lists(st.floats(-2, 12), min_size=1, max_size=200), st.lists(st.floats(0, 1), min_size=1, max_size=5).map(sorted)
)
@settings(max_examples=200, deadline=None)
def test_quantiles_are_right_to_the_width_of_a_cell_and_increase(values: list[float], shares: list[float]) -> None:
    numbers = np.array(values)
    counts = count_numeric(numbers, np.zeros(len(values), np.int64), 1, 0.0, 10.0, 20)[0]
    found = quantiles(counts, np.linspace(0, 10, 21), min(values), max(values), shares)
    assert list(found) == sorted(found)
    for share, quantile in zip(shares, found, strict=True):
        # the number of that rank lies in the same cell; those below and above the range are one cell each
        rank = max(math.ceil(share * len(values) - 1e-9), 1)
        exact = sorted(values)[rank - 1]
        if 0 <= exact < 10:
            assert abs(quantile - exact) <= 0.5 + 1e-9
        assert min(values) <= quantile <= max(values)


def test_quantiles_of_a_constant_are_it_and_of_nothing_none() -> None:
    counts, edges = np.array([0, 0, 9, 0, 5]), np.array([0.0, 1.0, 2.0])
    assert quantiles(counts, edges, 1.25, 1.25, (0.0, 0.5, 1.0)) == (1.25, 1.25, 1.25)
    assert quantiles(np.array([0, 0, 0, 0, 5]), edges, -math.inf, math.inf, (0.5,)) == ()


def test_quantiles_are_finite_where_the_numbers_are_not() -> None:
    edges = np.array([0.0, 1.0, 2.0])
    assert quantiles(np.array([1, 0, 0, 1, 0]), edges, -math.inf, math.inf, (0.0, 0.25, 1.0)) == (0.0, 0.0, 2.0)
    assert quantiles(np.array([0, 0, 0, 3, 0]), edges, math.inf, math.inf, (0.5,)) == (2.0,)
    assert quantiles(np.array([4, 0, 0, 0, 0]), edges, -3.0, -3.0, (0.5,)) == (-3.0,)


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
