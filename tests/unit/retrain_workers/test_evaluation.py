"""The offline gate: who is judged, on what, and how."""

from dataclasses import replace

import numpy as np
import pytest

from online_models.contracts.ids import hash64
from retrain_workers.datasets import Dataset, Split
from retrain_workers.evaluation import Accept, Gate, Popularity, Reject, Scores, cases_of, judge, score, unaided_cases

GATE = Gate(tolerance=0.05, absurd_share=0.5, min_users=20)


def scores(ndcg: float, users: int = 100) -> Scores:
    column = np.full(users, ndcg)
    return Scores(column, column, column)


@pytest.mark.parametrize(("ours", "verdict"), [(0.60, Accept), (0.50, Accept), (0.476, Accept), (0.474, Reject)])
def test_a_candidate_may_lose_no_more_than_the_tolerance(ours: float, verdict: type) -> None:
    assert type(judge(scores(ours), scores(0.5), scores(0.1), GATE)) is verdict


def test_with_too_few_users_a_champion_stays_however_good_the_candidate_looks() -> None:
    found = judge(scores(0.9, 19), scores(0.1, 19), scores(0.1, 19), GATE)
    assert found == Reject("inconclusive: 19 holdout users, 20 needed")
    assert isinstance(judge(scores(0.9, 20), scores(0.1, 20), scores(0.1, 20), GATE), Accept)


def test_no_users_at_all_is_never_success_against_a_champion() -> None:
    assert isinstance(judge(scores(0.9, 0), scores(0.1, 0), scores(0.1, 0), GATE), Reject)


def test_a_first_model_is_refused_only_when_it_is_absurd_beside_popularity() -> None:
    assert isinstance(judge(scores(0.16), None, scores(0.3), GATE), Accept)
    assert isinstance(judge(scores(0.14), None, scores(0.3), GATE), Reject)
    assert isinstance(judge(scores(0.0, 3), None, scores(0.3, 3), GATE), Accept)


def test_the_reason_holds_the_numbers() -> None:
    found = judge(scores(0.4), scores(0.5), scores(0.1), GATE)
    assert found.reason == (
        "NDCG 0.4000 against 0.5000 of the champion, difference -0.1000 ± 0.0000 on 100 users: "
        "below 95% of the champion"
    )


def small_split() -> Split:
    """User 0 met items 0 (liked) and 1 (skipped) and later liked 0, 1, 2 and 3; user 1 is new and likes 4."""
    rows = [(0, 0, 1, 1.0), (0, 1, 2, 0.0), *((0, item, 5, 1.0) for item in (0, 1, 2, 3)), (1, 4, 6, 1.0)]
    user, item, ts_ms, strength = (np.array(column) for column in zip(*rows, strict=True))
    names = [f"i{row}" for row in range(5)]
    recommended = np.zeros(len(rows), np.bool_)
    everything = Dataset(["a", "b"], names, user, item, ts_ms, strength.astype(np.float32), recommended)
    return Split(everything.take(ts_ms < 5), everything.take(ts_ms >= 5), 5)


def hashes(*items: int) -> list[int]:
    return sorted(hash64(f"i{item}") for item in items)


def test_a_case_is_what_was_known_before_the_cut_and_the_unseen_items_liked_after_it() -> None:
    known, new = sorted(cases_of(small_split()), key=lambda case: -len(case.history.seen))
    assert known.history.recent["item"].tolist() == hashes(0)
    assert sorted(known.history.seen["item"].tolist()) == hashes(0, 1)
    assert known.relevant.tolist() == hashes(2, 3)
    assert len(new.history.seen) == len(new.history.recent) == 0
    assert new.relevant.tolist() == hashes(4)


def test_a_user_who_liked_only_what_they_had_met_is_no_case() -> None:
    parts = small_split()
    repeated = parts.holdout.take(parts.holdout.item < 2)
    assert cases_of(replace(parts, holdout=repeated)) == []


def recommended_split(*items: int) -> Split:
    """The small split, where what was liked of these items answered a recommendation."""
    parts = small_split()
    return replace(parts, holdout=replace(parts.holdout, recommended=np.isin(parts.holdout.item, items)))


def test_what_was_recommended_is_left_out_of_a_case() -> None:
    known, new = sorted(unaided_cases(recommended_split(2), 2), key=lambda case: -len(case.history.seen))
    assert known.relevant.tolist() == hashes(3)
    assert new.relevant.tolist() == hashes(4)


def test_a_user_who_found_nothing_alone_is_left_out() -> None:
    (only,) = unaided_cases(recommended_split(2, 3), 1)
    assert only.relevant.tolist() == hashes(4)


@pytest.mark.parametrize("items", [(2, 3), (2, 3, 4)])
def test_with_too_few_who_found_something_alone_everything_liked_is_the_test(items: tuple[int, ...]) -> None:
    found = unaided_cases(recommended_split(*items), 2)
    assert [case.relevant.tolist() for case in found] == [case.relevant.tolist() for case in cases_of(small_split())]
    assert len(found) == 2


def test_a_recommendation_taken_up_before_the_cut_is_part_of_the_history() -> None:
    parts = small_split()
    aided = replace(parts, history=replace(parts.history, recommended=np.ones(len(parts.history), np.bool_)))
    found, expected = unaided_cases(aided, 2), cases_of(parts)
    assert [len(case.history.seen) for case in found] == [len(case.history.seen) for case in expected]


def test_figures_are_those_of_the_unseen_list() -> None:
    # The list of user a, less items 0 and 1, is 4 2 3: hits at ranks 2 and 3. That of user b is 0 1 4: a hit at 3.
    order = np.array([hash64(f"i{item}") for item in (0, 1, 4, 2, 3)], np.uint64)
    found = score(Popularity(order), cases_of(small_split()))
    known = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert sorted(found.ndcg.tolist()) == pytest.approx(sorted([known, 1 / np.log2(4)]))
    assert sorted(found.mrr.tolist()) == pytest.approx([1 / 3, 1 / 2])
    assert found.hit_rate.tolist() == [1.0, 1.0]


def test_without_cases_there_are_no_figures() -> None:
    empty = score(Popularity(np.empty(0, np.uint64)), [])
    assert len(empty) == 0
    assert empty.figures() == {}
