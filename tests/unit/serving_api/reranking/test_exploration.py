"""A draw decides, and its propensity is the length of the draws that decide so."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_api.reranking.exploration import Explored, explore


@given(st.integers(1, 12), st.sampled_from([0.25, 0.5, 1.0]))
def test_every_outcome_has_the_propensity_of_its_share_of_draws(m: int, epsilon: float) -> None:
    pool, cells = np.arange(100, 100 + m), 4 * m
    outcomes = [explore(7, pool, epsilon, (cell + 0.5) / cells) for cell in range(cells)]
    shares = {item: count / cells for item, count in Counter(outcome.item for outcome in outcomes).items()}
    assert {outcome.item: outcome.propensity for outcome in outcomes} == pytest.approx(shares)
    assert all(outcome.drawn == (outcome.item != 7) for outcome in outcomes)
    assert set(pool.tolist()) <= shares.keys()


@given(st.floats(0, 1, exclude_max=True))
def test_without_a_pool_or_a_probability_the_incumbent_stays_for_certain(draw: float) -> None:
    assert (
        explore(7, np.zeros(0, np.int64), 0.5, draw) == explore(7, np.array([1]), 0.0, draw) == Explored(7, False, 1.0)
    )


@given(st.integers(1, 500), st.floats(1e-6, 1))
def test_the_last_draw_below_epsilon_is_of_the_pool(m: int, epsilon: float) -> None:
    found = explore(-1, np.arange(m), epsilon, np.nextafter(epsilon, 0))
    assert found.item == m - 1
