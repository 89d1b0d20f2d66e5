"""The compiled pass against one event after the other in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.recency import recent_confidences

DAY_MS = 86_400_000
EVENT = st.tuples(st.integers(0, 20 * DAY_MS), st.integers(-1, 4), st.sampled_from([1.0, 2.5, 4.0]))


@given(
    st.lists(st.lists(EVENT, max_size=12), max_size=5),
    st.sampled_from([2.0, np.inf]),
    st.sampled_from([0.5, 3.0, np.inf]),
)
@settings(max_examples=100, deadline=None)
def test_each_user_s_items_have_the_sums_of_their_events_weights(
    users: list[list[tuple[int, int, float]]], half_life_events: float, half_life_days: float
) -> None:
    users = [sorted(events) for events in users]
    events = [event for each in users for event in each]
    ts_ms, rows = (np.array([event[column] for event in events], np.int64) for column in (0, 1))
    strength = np.array([event[2] for event in events], np.float32)
    many = np.array(list(map(len, users)), np.int64)
    indptr, indices, confidence = recent_confidences(ts_ms, strength, rows, many, 3.0, half_life_events, half_life_days)
    assert len(indptr) == len(users) + 1
    for user, each in enumerate(users):
        expected: dict[int, float] = {}
        for at, (time, row, size) in enumerate(each):
            halvings = (len(each) - 1 - at) / half_life_events + (each[-1][0] - time) / DAY_MS / half_life_days
            if row >= 0:
                expected[row] = expected.get(row, 0.0) + size * 2.0**-halvings
        of = slice(indptr[user], indptr[user + 1])
        assert indices[of].tolist() == list(expected)
        assert confidence[of].tolist() == pytest.approx([1 + 3.0 * r for r in expected.values()])
