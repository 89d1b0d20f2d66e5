"""Mutual information against scikit-learn's, its null distribution against shuffles, and the tables behind both."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from online_models.information import PAIR_CELLS, Tables, mutual_information

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Values:
    """A feature's values: as ranking takes them."""

    rows: npt.NDArray[np.int32] | None
    cells: npt.NDArray[np.uint16]


def dense(codes: I64) -> Values:
    return Values(None, codes.astype(np.uint16))


def sparse(codes: I64) -> Values:
    """Without the negative ones, which are missing."""
    rows = np.flatnonzero(codes >= 0).astype(np.int32)
    return Values(rows, codes[rows].astype(np.uint16))


def zipf(rng: np.random.Generator, words: int, events: int) -> I64:
    weights = 1 / np.arange(1, words + 1) ** 1.05
    return rng.choice(words, events, p=weights / weights.sum())


def a_feature(rng: np.random.Generator, events: int, target: I64) -> I64:
    """Codes in [-1, 300): some features tell of the target, some have many values, some lack most."""
    words = int(rng.choice([1, 2, 30, 300]))
    codes = zipf(rng, words, events)
    tells = rng.random(events) < rng.choice([0.0, 0.3, 1.0])
    codes = np.where(tells, (codes + target) % words, codes)
    return np.where(rng.random(events) < rng.choice([0.0, 0.2, 0.95]), -1, codes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(2, 5), st.sampled_from([0.0, 0.3]))
@settings(max_examples=80, deadline=None)
def test_before_correction_it_is_scikit_learn_s(seed: int, events: int, classes: int, unlabelled: float) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, events)
    features = [a_feature(rng, events, target) for _ in range(3)]
    labelled = rng.random(events) >= unlabelled
    given_target = np.where(labelled, target, -1).astype(np.int8)
    told = mutual_information([sparse(each) for each in features], [300] * 3, given_target, classes)
    assert told.events.tolist() == [labelled.sum()] * 3
    if labelled.any():
        expected = [mutual_info_score(target[labelled], each[labelled]) for each in features]
        assert np.allclose(told.raw, np.maximum(expected, 0), rtol=0, atol=1e-9)


def test_it_is_that_of_scikit_learn_s_feature_selection_too() -> None:
    rng = np.random.default_rng(1)
    target = (rng.random(20_000) < 0.3).astype(np.int64)
    features = [np.maximum(a_feature(rng, 20_000, target), 0) for _ in range(7)]
    features.append(np.where(rng.random(20_000) < 0.5, target, rng.integers(0, 300, 20_000)))
    told = mutual_information([dense(each) for each in features], [300] * 8, target.astype(np.int8))
    expected = mutual_info_classif(np.stack(features, axis=1), target, discrete_features=True)
    assert np.allclose(told.raw, expected, rtol=0, atol=1e-9)
    assert expected.max() > 0.1


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=40, deadline=None)
def test_any_split_of_the_events_adds_up_to_the_same_tables(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(-1, 2, 300)
    features = [a_feature(rng, 300, target) for _ in range(4)]
    tables = Tables([300] * 4, pairs=[(0, 1), (0, 3), (2, 3)])
    whole = tables.count([sparse(each) for each in features], target.astype(np.int8))
    parts, start = tables.empty(), 0
    for stop in [*sorted(cuts), 300]:
        some = [sparse(each[start:stop]) for each in features]
        parts = parts + tables.count(some, target[start:stop].astype(np.int8))
        start = stop
    assert np.array_equal(parts, whole)


def test_missing_values_are_a_cell_of_their_own_made_from_what_is_present() -> None:
    rng = np.random.default_rng(2)
    target = rng.integers(0, 2, 5000)
    codes = np.where(rng.random(5000) < np.where(target == 1, 0.9, 0.5), -1, rng.integers(0, 4, 5000))
    tables = Tables([4])
    table = tables.count([sparse(codes)], target.astype(np.int8)).reshape(-1, 2)
    assert table.tolist() == [[((codes == c) & (target == y)).sum() for y in (0, 1)] for c in (0, 1, 2, 3, -1)]
    assert tables.information(table.reshape(-1)).raw[0] > 0.05


def test_each_value_of_an_event_counts_and_the_event_is_not_missing() -> None:
    rows, cells = np.array([0, 0, 2, 2, 3], np.int32), np.array([0, 1, 0, 2, 1], np.uint16)
    target = np.array([1, 0, 1, -1, 0, 0], np.int8)
    table = Tables([3]).count([Values(rows, cells)], target).reshape(-1, 2)
    assert table.tolist() == [[0, 2], [0, 1], [0, 1], [3, 0]]


@pytest.mark.parametrize("words", [2, 10, 300, 3_000, 30_000])
@pytest.mark.parametrize("rate", [0.03, 0.5])
def test_its_null_mean_is_the_exact_one(words: int, rate: float) -> None:
    rng = np.random.default_rng(words)
    codes, target = zipf(rng, words, 5_000), (rng.random(5_000) < rate).astype(np.int64)
    told = mutual_information([dense(codes)], [words], target.astype(np.int8))
    exact = expected_mutual_information(contingency_matrix(codes, target), 5_000)
    assert told.expected[0] == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("words", [5, 300, 30_000])
def test_its_null_deviation_is_that_of_shuffles(words: int) -> None:
    rng = np.random.default_rng(words)
    codes, target = zipf(rng, words, 5_000), (rng.random(5_000) < 0.2).astype(np.int8)
    tables = Tables([words])
    shuffled = [tables.information(tables.count([dense(codes)], rng.permutation(target))).raw[0] for _ in range(400)]
    told = tables.information(tables.count([dense(codes)], target))
    assert told.deviation[0] == pytest.approx(np.std(shuffled), rel=0.15)


@pytest.mark.parametrize("shares", [[0.9, 0.1], [0.6, 0.3, 0.1], [0.4, 0.3, 0.2, 0.1]])
@pytest.mark.parametrize("words", [10, 1_000, 30_000])
def test_z_of_independent_features_is_standard_whatever_their_cardinality(words: int, shares: list[float]) -> None:
    rng = np.random.default_rng(words)
    codes, target = zipf(rng, words, 5_000), rng.choice(len(shares), 5_000, p=shares).astype(np.int8)
    z = [mutual_information([dense(codes)], [words], rng.permutation(target), len(shares)).z[0] for _ in range(400)]
    assert np.mean(z) == pytest.approx(0, abs=0.25)
    assert np.std(z) == pytest.approx(1, abs=0.15)


def test_miller_and_madow_s_correction_is_what_they_say() -> None:
    codes, target = np.array([0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 1, 0, 0, 1, 1, 1, 0])
    told = mutual_information([dense(codes)], [3], target.astype(np.int8))
    # five of six cells filled, three values, two classes
    assert told.corrected[0] == pytest.approx(told.raw[0] - (5 - 3 - 2 + 1) / 16)


def test_miller_and_madow_s_correction_fails_at_high_cardinality_where_the_score_holds() -> None:
    rng = np.random.default_rng(3)
    target = (rng.random(20_000) < 0.1).astype(np.int8)
    told = mutual_information([dense(zipf(rng, 50_000, 20_000))], [50_000], target)
    assert told.corrected[0] > 20 * told.deviation[0]
    assert abs(told.score[0]) < 4 * told.deviation[0]


def test_a_target_of_one_class_or_a_feature_of_one_value_tells_nothing() -> None:
    some, one = dense(np.arange(50)), dense(np.zeros(50, np.int64))
    for target in (np.zeros(50, np.int8), np.full(50, -1, np.int8), np.ones(50, np.int8)):
        told = mutual_information([some, one], [50, 50], target)
        assert told.raw.tolist() == told.score.tolist() == told.z.tolist() == [0.0, 0.0]
    told = mutual_information([one], [50], (np.arange(50) % 2).astype(np.int8))
    assert (told.raw[0], told.expected[0], told.deviation[0]) == (0, 0, 0)


def test_no_features_and_no_events_are_fine() -> None:
    assert len(mutual_information([], [], np.zeros(5, np.int8)).raw) == 0
    assert mutual_information([dense(np.empty(0, np.int64))], [3], np.empty(0, np.int8)).raw.tolist() == [0.0]


def test_a_pair_tells_what_neither_does() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.integers(0, 2, (2, 10_000))
    tables = Tables([2, 2], pairs=[(0, 1)])
    told = tables.information(tables.count([dense(one), dense(other)], (one ^ other).astype(np.int8)))
    assert told.score[:2] == pytest.approx([0, 0], abs=1e-3)
    assert told.score[2] == pytest.approx(np.log(2), abs=1e-3)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 60, 64]), st.sampled_from([3, 64]))
@settings(max_examples=40, deadline=None)
def test_a_pair_of_few_cells_is_their_product_and_missing_when_either_is(seed: int, size: int, other: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = rng.integers(-1, size, 200), rng.integers(-1, other, 200)
    target = rng.integers(-1, 2, 200).astype(np.int8)
    both = np.where((one >= 0) & (two >= 0), one * other + two, -1)
    paired = Tables([size, other], pairs=[(0, 1)]).count([sparse(one), sparse(two)], target)
    crossed = Tables([size * other]).count([sparse(both)], target)
    assert np.array_equal(paired[-len(crossed) :], crossed)


def test_a_pair_of_many_cells_is_hashed_and_most_of_what_it_tells_is_left() -> None:
    rng = np.random.default_rng(5)
    one, two = np.where(rng.random((2, 30_000)) < 0.5, 0, rng.integers(1, 300, (2, 30_000)))
    target = ((one == 0) ^ (two == 0)).astype(np.int8)
    tables = Tables([300, 300], pairs=[(0, 1)])
    joint = tables.count([dense(one), dense(two)], target)
    assert len(joint) == 2 * (301 + 301 + PAIR_CELLS + 1)
    told = tables.information(joint)
    assert told.score[2] > 0.7 * np.log(2)
    assert np.abs(told.z[:2]).max() < 4
    pair_table = joint[-2 * (PAIR_CELLS + 1) :].reshape(-1, 2)
    assert pair_table.sum() == 30_000
    # two combinations a cell on average, of which random places would fill 86 %
    assert (pair_table[:-1].sum(axis=1) > 0).mean() > 0.8


def test_each_combination_of_values_of_an_event_counts_in_a_pair() -> None:
    one = Values(np.array([0, 0, 2], np.int32), np.array([0, 1, 1], np.uint16))
    two = Values(np.array([0, 1, 2, 2], np.int32), np.array([1, 0, 0, 1], np.uint16))
    target = np.array([1, 1, 0], np.int8)
    joint = Tables([2, 2], pairs=[(0, 1)]).count([one, two], target)
    assert joint[-10:].reshape(5, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 1]]


def test_what_does_not_fit_is_refused() -> None:
    target, good = np.zeros(4, np.int8), dense(np.zeros(4, np.int64))
    few = Values(np.array([0, 1], np.int32), np.array([0, 0], np.uint16))
    tables = Tables([2])
    wrong: list[tuple[list[Values], npt.NDArray[Any]]] = [
        ([], target),
        ([good, good], target),
        ([good], np.zeros(3, np.int8)),
        ([good], np.zeros(4, np.int64)),
        ([good], np.full(4, 2, np.int8)),
        ([dense(np.full(4, 2))], target),
        ([replace(few, cells=np.array([0, 2], np.uint16))], target),
        ([replace(few, rows=np.array([0, 4], np.int32))], target),
        ([replace(few, rows=np.array([-1, 0], np.int32))], target),
        ([replace(few, rows=np.array([0], np.int32))], target),
    ]
    for coded, bad in wrong:
        with pytest.raises(ValueError, match="expected"):
            tables.count(coded, bad)
    for cells, classes, pairs in (
        ([2], 1, []),
        ([0], 2, []),
        ([70_000], 2, []),
        ([2, 2], 2, [(1, 0)]),
        ([2], 2, [(0, 1)]),
    ):
        with pytest.raises(ValueError, match="expected"):
            Tables(cells, classes, pairs)
