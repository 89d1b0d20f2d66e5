"""Coverage, inequality, novelty and diversity against their definitions, scipy and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_distances

from online_models import metrics
from tests.oracles import metrics as oracle

ITEMS = 8
ROW = st.lists(st.integers(-1, ITEMS - 1), min_size=4, max_size=4)
ROWS = st.lists(ROW, min_size=1, max_size=6)
COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any)
DECAYED = st.lists(st.just(0.0) | st.floats(1e-3, 50), min_size=ITEMS, max_size=ITEMS).filter(any)
VECTORS = st.lists(
    st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    min_size=ITEMS,
    max_size=ITEMS,
)
CATEGORIES = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=ITEMS, max_size=ITEMS)


@given(ROWS)
@settings(deadline=None)
def test_coverage_from_counts_is_that_from_rankings(rows: list[list[int]]) -> None:
    rankings = [[item for item in row if item >= 0] for row in rows]
    counts = metrics.recommendation_counts(np.array(rows), ITEMS)
    assert counts.tolist() == [sum(ranked.count(item) for ranked in rankings) for item in range(ITEMS)]
    assert metrics.covered_share(counts) == metrics.catalogue_coverage(rankings, ITEMS, 4)


def test_coverage_counts_each_item_of_the_catalogue_once() -> None:
    assert metrics.catalogue_coverage([[1, 2, 3], [1, 2, 9]], 4, 2) == 0.5
    assert metrics.catalogue_coverage([], 4, 2) == 0.0
    assert metrics.catalogue_coverage([np.array([4, 2]), np.array([2, 3])], 10, 1) == 0.2
    with pytest.raises(ValueError, match="catalogue of at least one item, got 0"):
        metrics.catalogue_coverage([[1]], 0, 1)
    with pytest.raises(ValueError, match="expected k >= 1, got 0"):
        metrics.catalogue_coverage([[1]], 1, 0)
    with pytest.raises(ValueError, match="at most the 1 items of the catalogue, got 2"):
        metrics.catalogue_coverage([[1, 2]], 1, 2)


@given(COUNTS)
@settings(deadline=None)
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    assert metrics.gini(np.array(counts)) == pytest.approx(oracle.gini(counts), abs=1e-12)


def test_an_item_that_is_never_recommended_makes_attention_less_equal() -> None:
    assert metrics.gini(np.array([2, 2])) == 0.0
    assert metrics.gini(np.array([2, 2, 0, 0])) == 0.5


@given(ROWS.filter(lambda rows: all(max(row) >= 0 for row in rows)), DECAYED)
@settings(deadline=None)
def test_novelty_is_the_mean_self_information_of_a_list(rows: list[list[int]], counts: list[float]) -> None:
    expected = []
    for row in rows:
        bits = [oracle.self_information(item, counts) for item in row if item >= 0]
        expected.append(sum(bits) / len(bits))
    np.testing.assert_allclose(metrics.novelty(np.array(rows), np.array(counts)), expected, atol=1e-12)


def test_an_item_that_nobody_knows_is_finitely_novel_and_no_less_than_any_other() -> None:
    for counts in ([1000.0, 7.0, 0.0], [0.5, 0.01, 0.0]):
        bits = metrics.self_information(np.array(counts))
        assert math.isfinite(bits[2])
        assert bits[2] == bits.max()


def test_an_empty_list_has_no_novelty() -> None:
    with pytest.raises(ValueError, match="expected lists of at least one item, got an empty one at 1"):
        metrics.novelty(np.array([[0, -1], [-1, -1]]), np.array([1, 2]))


@given(ROWS, VECTORS)
@settings(deadline=None)
def test_vector_diversity_is_the_mean_cosine_distance_over_pairs(
    rows: list[list[int]], vectors: list[list[int]]
) -> None:
    found = metrics.vector_diversity(np.array(rows), np.array(vectors, np.float32))
    by_hand = [[1 - oracle.cosine(a, b) for b in vectors] for a in vectors]
    np.testing.assert_allclose(found, [oracle.mean_over_pairs(by_hand, row) for row in rows], atol=1e-6)
    # scikit-learn says 0 of an item and itself, even of one without a vector
    theirs = cosine_distances(np.array(vectors, np.float64))
    np.fill_diagonal(theirs, [1.0 - any(vector) for vector in vectors])
    np.testing.assert_allclose(found, [oracle.mean_over_pairs(theirs.tolist(), row) for row in rows], atol=1e-6)


@given(ROWS, CATEGORIES)
@settings(deadline=None)
def test_category_diversity_is_the_mean_jaccard_distance_over_pairs(
    rows: list[list[int]], categories: list[list[bool]]
) -> None:
    found = metrics.category_diversity(np.array(rows), np.array(categories))
    sets = [{at for at, has in enumerate(each) if has} for each in categories]
    by_hand = [[oracle.jaccard_distance(a, b) for b in sets] for a in sets]
    np.testing.assert_allclose(found, [oracle.mean_over_pairs(by_hand, row) for row in rows], atol=1e-12)
    theirs = cdist(np.array(categories), np.array(categories), "jaccard").tolist()
    np.testing.assert_allclose(found, [oracle.mean_over_pairs(theirs, row) for row in rows], atol=1e-12)


def test_identical_items_do_not_differ_and_opposite_ones_do_most() -> None:
    vectors = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
    assert metrics.vector_diversity(np.array([[0, 0, 0]]), vectors).tolist() == pytest.approx([0.0], abs=1e-15)
    assert metrics.vector_diversity(np.array([[0, 1, -1]]), vectors).tolist() == pytest.approx([2.0])


def test_a_list_of_one_has_no_diversity() -> None:
    lists = np.array([[2, -1, -1], [-1, -1, -1]])
    assert metrics.vector_diversity(lists, np.eye(3)).tolist() == [0.0, 0.0]
    assert metrics.category_diversity(lists, np.eye(3, dtype=np.bool_)).tolist() == [0.0, 0.0]


def test_what_is_no_list_vector_or_category_is_refused() -> None:
    lists = np.array([[0, 1]])
    with pytest.raises(ValueError, match=r"expected rows in \[0, 3\) or -1, got 3 at 0, 1"):
        metrics.recommendation_counts(np.array([[0, 3]]), 3)
    with pytest.raises(ValueError, match="expected lists of whole numbers"):
        metrics.recommendation_counts(np.array([[0.0, 1.0]]), 3)
    with pytest.raises(ValueError, match="expected lists of whole numbers"):
        metrics.recommendation_counts(np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="expected finite vectors"):
        metrics.vector_diversity(lists, np.array([[np.nan], [1.0]]))
    with pytest.raises(ValueError, match="expected bool categories"):
        metrics.category_diversity(lists, np.eye(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected counts >= 0, got -1\.0 at 1"):
        metrics.gini(np.array([3, -1]))
    with pytest.raises(ValueError, match="expected a positive count, got none in 2"):
        metrics.gini(np.array([0, 0]))
