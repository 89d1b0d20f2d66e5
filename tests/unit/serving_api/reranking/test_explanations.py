"""An explanation names what added most, and never an item of the history that there is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_api.reranking.explanations import NEEDS_AN_ITEM, Code, Evidence, Explanation, explain, strongest_item

CODES = (Code.BECAUSE_YOU_WATCHED, Code.SIMILAR_CONTENT, Code.POPULAR)


def told(
    contributions: list[float], items: tuple[int, int, int] = (0, 0, 0), pinned: bool = False, drawn: bool = False
) -> Explanation:
    evidence = Evidence(np.array([contributions]), CODES, np.array([items], np.uint64))
    return explain(evidence, np.array([pinned]), np.array([drawn]))[0]


def test_the_source_that_added_most_explains() -> None:
    assert told([0.5, 0.2, 0.4], (7, 8, 0)) == (Code.BECAUSE_YOU_WATCHED, 7)
    assert told([0.5, 0.6, 0.4], (7, 8, 0)) == (Code.SIMILAR_CONTENT, 8)
    assert told([0.5, 0.6, 0.4], (7, 0, 0)) == (Code.SIMILAR_CONTENT, None)
    assert told([np.nan, -1.0, 0.1], (7, 8, 0)) == (Code.POPULAR, None)
    assert told([0.5, 0.5, 0.5], (7, 8, 0)) == (Code.BECAUSE_YOU_WATCHED, 7)


def test_where_nothing_can_be_said_nothing_is_claimed() -> None:
    assert told([0.0, -1.0, np.nan], (7, 8, 9)) == (Code.FOR_YOU, None)
    assert told([0.5, 0.2, 0.1], (0, 8, 9)) == (Code.FOR_YOU, None)


def test_chance_and_rules_are_named_before_any_source() -> None:
    assert told([0.5, 0.2, 0.1], (7, 8, 9), pinned=True) == (Code.FEATURED, None)
    assert told([0.5, 0.2, 0.1], (7, 8, 9), drawn=True) == (Code.EXPLORE, None)


@given(st.lists(st.floats(allow_infinity=False), min_size=3, max_size=3), st.tuples(*[st.sampled_from([0, 5])] * 3))
def test_a_code_about_an_item_of_the_history_always_has_one(
    contributions: list[float], items: tuple[int, int, int]
) -> None:
    code, item = told(contributions, items)
    assert item is not None or code not in NEEDS_AN_ITEM
    assert item != 0


def test_evidence_of_another_shape_is_refused() -> None:
    evidence = Evidence(np.zeros((1, 2)), CODES, np.zeros((1, 3), np.uint64))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        explain(evidence, np.zeros(1, np.bool_), np.zeros(1, np.bool_))


@given(st.integers(0, 2**31), st.integers(0, 6), st.integers(0, 8))
def test_the_strongest_item_of_the_history_adds_most_to_a_score(seed: int, m: int, h: int) -> None:
    rng = np.random.default_rng(seed)
    factors, history = (rng.integers(-3, 4, (rows, 3)).astype(np.float32) for rows in (m, h))
    weights = rng.integers(1, 4, h).astype(np.float32)
    for item, place in zip(factors, strongest_item(factors, history, weights).tolist(), strict=True):
        adds = [float(weight * (of @ item)) for of, weight in zip(history, weights, strict=True)]
        assert place == (adds.index(max(adds)) if adds and max(adds) > 0 else -1)
