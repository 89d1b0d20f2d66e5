"""Which impressions were taken, against a loop over all pairs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrain_workers.data.impressions import Looked, taken

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-1, 3), st.integers(0, 30)), max_size=25)
Row = tuple[int, int, int, int]


def looked(rows: list[Row]) -> Looked:
    user, item, request, ts_ms = np.array(rows, np.int64).reshape(-1, 4).T
    return Looked(user, item, request, ts_ms)


@given(shown=ROWS, answers=ROWS, window_ms=st.integers(0, 10))
def test_an_impression_is_taken_by_its_request_or_soon_after(
    shown: list[Row], answers: list[Row], window_ms: int
) -> None:
    def answered(user: int, item: int, request: int, ts_ms: int) -> bool:
        return any(
            item == its_item
            and ((request >= 0 and request == its) or (user == who and ts_ms <= when <= ts_ms + window_ms))
            for who, its_item, its, when in answers
        )

    assert taken(looked(shown), looked(answers), window_ms).tolist() == [answered(*row) for row in shown]
