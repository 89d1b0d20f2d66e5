"""Which impressions were taken and when, against a loop over all pairs, and that a cut knows no later answer."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from online_models.contracts.events import ATTRIBUTION_MS, Event, EventType
from retrain_workers.data.datasets import dataset_of
from retrain_workers.data.impressions import NEVER, Impressions, Looked, taken
from retrain_workers.data.sampling import negatives
from retrain_workers.data.training_data import TrainingData
from tests.clustered_world import as_interactions
from tests.samples import event

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-1, 3), st.integers(0, 30)), max_size=25)
Row = tuple[int, int, int, int]


def looked(rows: list[Row]) -> Looked:
    user, item, request, ts_ms = np.array(rows, np.int64).reshape(-1, 4).T
    return Looked(user, item, request, ts_ms)


@given(shown=ROWS, answers=ROWS, window_ms=st.integers(0, 10))
def test_an_impression_is_taken_by_its_request_or_soon_after(
    shown: list[Row], answers: list[Row], window_ms: int
) -> None:
    def first(user: int, item: int, request: int, ts_ms: int) -> int:
        found = [
            when
            for who, its_item, its, when in answers
            if item == its_item
            and ((request >= 0 and request == its) or (user == who and ts_ms <= when <= ts_ms + window_ms))
        ]
        return min(found, default=NEVER)

    assert taken(looked(shown), looked(answers), window_ms).tolist() == [first(*row) for row in shown]


def impressions(shown: list[Row], answers: list[Row], window_ms: int) -> Impressions:
    n = len(shown)
    return Impressions(
        [f"u{user}" for user, *_ in shown],
        [f"i{item}" for _, item, *_ in shown],
        looked(shown).ts_ms,
        [None if request < 0 else f"r{request}" for _, _, request, _ in shown],
        np.full(n, -1, np.int32),
        np.ones(n),
        taken(looked(shown), looked(answers), window_ms),
    )


@given(shown=ROWS, answers=ROWS, window_ms=st.integers(0, 10), cut_ms=st.integers(0, 40))
@example(shown=[(0, 0, 0, 0)], answers=[(0, 0, 0, 20)], window_ms=5, cut_ms=20)  # of the request, at the very cut
def test_what_was_known_at_a_cut_is_what_a_log_that_ends_there_tells(
    shown: list[Row], answers: list[Row], window_ms: int, cut_ms: int
) -> None:
    shown.sort(key=lambda row: row[3])
    known = impressions(shown, answers, window_ms).before(cut_ms, window_ms)
    until = [row for row in shown if row[3] < cut_ms - window_ms]
    expected = impressions(until, [row for row in answers if row[3] < cut_ms], window_ms)
    assert (known.user_id, known.item_id, known.request_id) == (expected.user_id, expected.item_id, expected.request_id)
    assert known.ts_ms.tolist() == expected.ts_ms.tolist()
    assert known.taken_ms.tolist() == expected.taken_ms.tolist()
    assert known.clicked.tolist() == expected.clicked.tolist()


CUT_MS = 10 * ATTRIBUTION_MS


def shown_and_answered(answered_ms: int) -> TrainingData:
    """A user who took i0 and was shown i1, which they answered at a time, by its request."""
    events: list[Event] = [
        event(1, EventType.CLICK, ts=ATTRIBUTION_MS, user_id="u", item_id="i0"),
        event(2, EventType.CLICK, ts=ATTRIBUTION_MS, user_id="other", item_id="i1"),
        event(3, EventType.CLICK, ts=ATTRIBUTION_MS, user_id="other", item_id="i2"),
        event(4, EventType.CLICK, ts=answered_ms, user_id="u", item_id="i1", request_id="r"),
    ]
    one = np.ones(1)
    looked_at = Impressions(
        ["u"], ["i1"], np.array([ATTRIBUTION_MS]), ["r"], one.astype(np.int32), one, np.array([answered_ms])
    )
    interactions = as_interactions(sorted(events, key=lambda each: int(each.ts)))
    return TrainingData(dataset_of(interactions), interactions, {}, looked_at)


@pytest.mark.parametrize(("answered_ms", "negative"), [(CUT_MS, True), (CUT_MS + 1, True), (CUT_MS - 1, False)])
def test_an_answer_planted_after_the_cut_takes_no_negative_away_before_it(answered_ms: int, *, negative: bool) -> None:
    known = shown_and_answered(answered_ms).before(CUT_MS)
    assert known.impressions is not None
    first = np.flatnonzero(known.dataset.user == known.dataset.users.index("u"))[:1]
    (found,) = negatives(known.dataset, first, 2, 0, known.impressions).item
    assert (known.dataset.items[found[0]] == "i1") is negative
    assert known.impressions.clicked.tolist() == [not negative]
