"""Metrics per segment: each segment as if it were alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models import metrics
from online_models.metrics import Prequential, WindowedAuc, clustered_mean, per_segment, update_per_segment

EVENTS = st.lists(
    st.tuples(st.sampled_from(["movies", "books", ""]), st.floats(-10, 10), st.integers(0, 4)), min_size=1, max_size=30
)


@given(EVENTS)
@settings(deadline=None)
def test_each_segment_is_measured_as_if_it_were_alone(events: list[tuple[str, float, int]]) -> None:
    segments, figures, users = (np.array(column) for column in zip(*events, strict=True))
    found = per_segment(clustered_mean, segments, figures, users)
    assert list(found) == sorted({segment for segment, _, _ in events})
    for segment, estimate in found.items():
        mine = [(figure, user) for label, figure, user in events if label == segment]
        assert estimate == clustered_mean(np.array([f for f, _ in mine]), np.array([u for _, u in mine]))


@given(EVENTS)
@settings(deadline=None)
def test_running_metrics_of_segments_see_their_own_events_in_order(events: list[tuple[str, float, int]]) -> None:
    segments, figures, _ = (np.array(column) for column in zip(*events, strict=True))
    labels = ("movies", "books", "")
    running = {label: Prequential(0.9) for label in labels}
    cut = len(events) // 2
    for part in (slice(None, cut), slice(cut, None)):
        update_per_segment(running, segments[part], figures[part])
    for label in labels:
        alone = Prequential(0.9)
        for segment, figure, _ in events:
            if segment == label:
                alone.update(np.array([figure]))
        assert running[label].count == alone.count
        assert running[label].value == (None if alone.value is None else pytest.approx(alone.value, abs=1e-9))


def test_segments_may_be_numbers_and_columns_may_be_lists() -> None:
    lists = np.array([[0, 1], [2, 2], [0, 1]])
    counts = np.array([4, 4, 8])
    found = per_segment(lambda part: float(metrics.novelty(part, counts).mean()), np.array([5, 3, 5]), lists)
    assert found == {3: 1.0, 5: 2.0}


def test_a_metric_without_a_value_names_the_segment() -> None:
    scores, observed = np.array([0.1, 0.2, 0.3]), np.array([0, 1, 1])
    with pytest.raises(ValueError, match="segment 'new': expected outcomes of 0 and of 1, got 0 and 1"):
        per_segment(metrics.auc, np.array(["old", "old", "new"]), scores, observed)


def test_a_refused_update_changes_no_segment() -> None:
    running = {"a": WindowedAuc(), "b": WindowedAuc()}
    scores = np.array([0.1, np.nan])
    with pytest.raises(ValueError, match="segment 'b': expected finite scores, got nan"):
        update_per_segment(running, np.array(["a", "b"]), scores, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"expected one of the segments \['a', 'b'\], got 'c'"):
        update_per_segment(running, np.array(["a", "c"]), np.array([0.1, 0.2]), np.array([0, 1]))
    assert [metric.count for metric in running.values()] == [0, 0]


def test_columns_of_another_length_than_the_segments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected segments \(n,\) and columns of n rows, got \(2,\) and \[1\]"):
        per_segment(metrics.recommendation_counts, np.array([1, 2]), np.array([1.0]))
    with pytest.raises(ValueError, match="expected at least one event, got none"):
        per_segment(clustered_mean, np.array([]), np.array([]), np.array([]))
