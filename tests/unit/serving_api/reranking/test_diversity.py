"""Maximal marginal relevance on vectors and categories of any kind."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_api.reranking.candidates import Categories
from serving_api.reranking.diversity import ALIKE_BY_CATEGORIES, ALIKE_BY_FACTORS, Likeness, Pool, fill

Floats = npt.NDArray[np.float64]
NO_PINS = np.zeros((0, 0), np.bool_), np.zeros(0, np.int64)


def free(scores: Floats) -> Pool:
    n = len(scores)
    every = np.ones(n, np.bool_)
    return Pool(scores.astype(np.float32), every, ~every, np.zeros((0, n), np.bool_), np.zeros(0, np.int64))


def plain_worth(scores: Floats, likeness: Floats, mmr_lambda: float, listed: list[int]) -> Floats:
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    closest = likeness[:, listed].max(axis=1) if listed else np.full(len(scores), -1.0)
    worth: Floats = mmr_lambda * relevance - (1 - mmr_lambda) * closest
    return worth


@settings(deadline=None)
@given(
    st.integers(0, 2**31), st.integers(2, 60), st.integers(1, 70), st.sampled_from([0.0, 0.3, 0.8]), st.integers(1, 12)
)
def test_each_item_of_a_list_has_the_best_marginal_relevance_of_those_left(
    seed: int, n: int, k: int, mmr_lambda: float, count: int
) -> None:
    rng = np.random.default_rng(seed)
    scores, factors = rng.normal(size=n), rng.normal(size=(n, k)).astype(np.float32)
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    how = Likeness(mmr_lambda, ALIKE_BY_FACTORS, factors, np.zeros((n, 1), np.uint64))
    chosen = fill(free(scores), *NO_PINS, how, min(count, n))[0].tolist()
    assert len(set(chosen)) == min(count, n)
    for size, item in enumerate(chosen):
        worth = plain_worth(scores, unit @ unit.T, mmr_lambda, chosen[:size])
        left = np.setdiff1d(np.arange(n), chosen[:size])
        assert worth[item] >= worth[left].max() - 1e-5


def test_shared_categories_make_items_alike_in_every_word_of_bits() -> None:
    names = [f"genre {n}" for n in range(130)]
    items = [names[:3], names[:3], names[126:], names[125:129], []]
    how = Likeness(0.5, ALIKE_BY_CATEGORIES, np.zeros((5, 1), np.float32), Categories(names).bits(items))
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    # Beside 0 and 2 item 4 is like none, 1 is 0's twin, 3 is like 2 by three of five: worth 0, 0.375 - 0.5 and 0.125 - 0.3.
    assert fill(free(scores), *NO_PINS, how, 5)[0].tolist() == [0, 2, 4, 1, 3]


@pytest.mark.parametrize("kind", [ALIKE_BY_FACTORS, ALIKE_BY_CATEGORIES])
def test_items_of_which_nothing_is_known_are_like_none(kind: int) -> None:
    how = Likeness(0.5, kind, np.zeros((3, 2), np.float32), np.zeros((3, 1), np.uint64))
    assert fill(free(np.array([3.0, 2.0, 1.0])), *NO_PINS, how, 3)[0].tolist() == [0, 1, 2]


def test_nothing_is_asked_for_of_no_candidates() -> None:
    how = Likeness(0.5, ALIKE_BY_FACTORS, np.zeros((0, 2), np.float32), np.zeros((0, 1), np.uint64))
    assert fill(free(np.zeros(0)), *NO_PINS, how, 0)[0].tolist() == []
