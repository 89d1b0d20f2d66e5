"""The best of scores are those of plain sorting."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.top_k import best_of

VALUES = st.lists(st.sampled_from([-np.inf, np.nan, -1.0, 0.0, 0.5, 2.0, np.inf]), max_size=25)


@given(VALUES, st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_the_best_come_first_with_ties_by_row_and_never_one_at_minus_infinity(values: list[float], count: int) -> None:
    usable = sorted((-value, row) for row, value in enumerate(values) if value > -np.inf)[:count]
    rows, scores = best_of(np.array(values, np.float32), count)
    assert rows.tolist() == [row for _, row in usable]
    assert scores.tolist() == [-value for value, _ in usable]
