"""What a comparison of two versions says."""

import pytest

from online_models.contracts.ids import ModelVersion
from retrain_workers.reports.head_to_head import HeadToHead, lines_of
from retrain_workers.validation.intervals import Interval

V1, V2 = ModelVersion("v1"), ModelVersion("v2")
FIGURES = {"hit_rate_at_10": 0.5, "ndcg_at_10": 0.25}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "no difference shown")]
)
def test_only_an_interval_on_one_side_of_nothing_is_a_verdict(low: float, high: float, verdict: str) -> None:
    found = HeadToHead(30, 7, False, FIGURES, {**FIGURES, "ndcg_at_10": 0.3}, Interval(0.05, low, high, 30))
    head, columns, *rows, last = lines_of(V1, V2, found)
    assert head == "30 users on events since 7 ms"
    assert columns.split() == ["v1", "v2", "gain"]
    assert [row.split() for row in rows] == [
        ["hit_rate_at_10", "0.5000", "0.5000", "+0.0000"],
        ["ndcg_at_10", "0.2500", "0.3000", "+0.0500"],
    ]
    assert last == f"NDCG@10 of v2 over v1: +0.0500 in [{low:+.4f}, {high:+.4f}]: {verdict}"


def test_events_that_one_version_knows_are_named() -> None:
    found = HeadToHead(30, 7, True, FIGURES, FIGURES, Interval(0.0, -0.1, 0.1, 30))
    assert lines_of(V1, V2, found)[0].endswith("; some were in the data of one of them")


def test_without_later_events_there_is_nothing_to_compare_on() -> None:
    (line,) = lines_of(V1, V2, HeadToHead(0, 7, False, {}, {}, None))
    assert line.startswith("no events after the data of both v1 and v2")
