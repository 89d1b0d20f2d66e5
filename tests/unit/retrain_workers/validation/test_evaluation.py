"""Who is judged, on what, and how: cases, their guard against leaks, figures of lists."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.artifacts import DataWindow
from online_models.contracts.ids import hash64
from online_models.errors import TrainingError
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.splits import Split
from retrain_workers.validation.evaluation import (
    PERSISTENCE,
    Hashes,
    Popularity,
    cases_of,
    depth_of,
    distinct_items,
    jaccard,
    old_regime_cases,
    parts_and_cases,
    rank_biased_overlap,
    score,
    unaided_cases,
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


def leaky_split(seed: int) -> tuple[Split, int]:
    """An honest split of a drawn log, and an event of its holdout, as a row of the log."""
    rng = np.random.default_rng(seed)
    n, cut_ms = 200, 150
    ts_ms = np.arange(n, dtype=np.int64)
    log = Dataset(
        [f"u{row}" for row in range(8)],
        [f"i{row}" for row in range(20)],
        rng.integers(0, 8, n).astype(np.int32),
        rng.integers(0, 20, n).astype(np.int32),
        ts_ms,
        np.ones(n, np.float32),
        np.zeros(n, np.bool_),
    )
    return Split(log.take(ts_ms < cut_ms), log, cut_ms), int(rng.integers(cut_ms, n))


@pytest.mark.parametrize("seed", range(5))
def test_an_event_of_the_future_in_a_history_is_an_error_that_names_it(seed: int) -> None:
    planted, future = leaky_split(seed)
    log = planted.holdout
    holdout = log.take(log.ts_ms >= planted.cut_ms)
    assert len(cases_of(replace(planted, holdout=holdout))) > 0
    leaking = log.take((log.ts_ms < planted.cut_ms) | (log.ts_ms == future))
    who, what = log.users[log.user[future]], log.items[log.item[future]]
    with pytest.raises(
        TrainingError, match=rf"leak: .* before 150 ms, got user '{who}' with item '{what}' at {future} ms"
    ):
        unaided_cases(replace(planted, history=leaking, holdout=holdout), 1)


def test_an_event_at_the_very_time_of_the_cut_is_future_too() -> None:
    planted, _ = leaky_split(0)
    log = planted.holdout
    with pytest.raises(TrainingError, match="at 150 ms"):
        cases_of(Split(log.take(log.ts_ms <= 150), log.take(log.ts_ms > 150), 150))


def test_an_event_from_before_the_cut_is_no_test() -> None:
    planted, _ = leaky_split(0)
    with pytest.raises(TrainingError, match="leak: expected a holdout from 150 ms on"):
        cases_of(planted)


def test_the_old_regime_is_the_end_of_what_the_champion_was_trained_on() -> None:
    planted, _ = leaky_split(1)
    log = planted.holdout
    ours = old_regime_cases(log, champion_end_ms=99, holdout_fraction=0.2)
    old = log.take(log.ts_ms < 100)
    expected = cases_of(Split(old.take(old.ts_ms < 80), old.take(old.ts_ms >= 80), 80))
    assert [case.relevant.tolist() for case in ours] == [case.relevant.tolist() for case in expected]
    assert ours
    assert old_regime_cases(log, champion_end_ms=0, holdout_fraction=0.2) == []
    assert old_regime_cases(log, champion_end_ms=-1, holdout_fraction=0.2) == []


def test_lists_that_were_scored_are_kept_for_what_they_have_in_common() -> None:
    order = np.array([hash64(f"i{item}") for item in (0, 1, 4, 2, 3)], np.uint64)
    found = score(Popularity(order), cases_of(small_split()))
    assert sorted(len(each) for each in found.lists) == [3, 5]
    assert distinct_items(found.lists) == 5
    assert distinct_items([]) == 0


def slow_overlap(ours: list[int], theirs: list[int]) -> float:
    """Webber's equation 30, place by place."""
    depth, p = min(len(ours), len(theirs)), PERSISTENCE
    common = [len(set(ours[:d]) & set(theirs[:d])) for d in range(1, depth + 1)]
    sums = sum(common[d - 1] / d * p**d for d in range(1, depth + 1))
    return common[-1] / depth * p**depth + (1 - p) / p * sums


def as_hashes(items: list[int]) -> Hashes:
    return np.array(items, np.uint64)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=10, unique=True),
    st.lists(st.integers(0, 12), min_size=1, max_size=10, unique=True),
)
def test_overlaps_are_those_of_their_definitions(ours: list[int], theirs: list[int]) -> None:
    a, b = as_hashes(ours), as_hashes(theirs)
    assert jaccard(a, b) == pytest.approx(len({*ours} & {*theirs}) / len({*ours} | {*theirs}))
    assert rank_biased_overlap(a, b) == pytest.approx(slow_overlap(ours, theirs))
    assert 0 <= rank_biased_overlap(a, b) <= 1 + 1e-12
    assert rank_biased_overlap(a, a) == pytest.approx(1)


def test_empty_lists_agree_with_each_other_alone() -> None:
    nothing, some = as_hashes([]), as_hashes([1])
    assert (jaccard(nothing, nothing), rank_biased_overlap(nothing, nothing)) == (1.0, 1.0)
    assert (jaccard(nothing, some), rank_biased_overlap(some, nothing)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("fraction", "new_share", "cut_ms"), [(0.1, 0.5, 190), (0.5, 0.5, 190), (0.1, 1.0, 180), (0.02, 1.0, 196)]
)
def test_of_what_is_new_since_the_champion_half_is_left_to_learn_from(
    fraction: float, new_share: float, cut_ms: int
) -> None:
    log = leaky_split(2)[0].holdout  # one event a millisecond, 200 of them
    champion = DataWindow(0, 179, 180)
    parts, cases = parts_and_cases(log, fraction, champion, 1, new_share)
    assert parts.cut_ms == cut_ms
    assert parts.history.ts_ms.max() == cut_ms - 1
    assert len(cases) > 0


def test_without_events_since_the_champion_there_are_no_cases() -> None:
    log = leaky_split(2)[0].holdout
    parts, cases = parts_and_cases(log, 0.1, DataWindow(0, 199, 200), 1)
    assert (len(parts.holdout), cases) == (0, [])


def test_an_event_dated_far_ahead_does_not_hold_up_what_comes_after_the_champion_s_other_events() -> None:
    log = leaky_split(2)[0].holdout
    parts, cases = parts_and_cases(log, 0.1, DataWindow(0, 10**6, 160), 3)
    assert parts.cut_ms == 180
    assert len(cases) >= 3


@pytest.mark.parametrize(("items", "depth"), [(20, 10), (400, 20), (3_000, 100)])
def test_the_depth_of_a_comparison_goes_with_the_catalogue(items: int, depth: int) -> None:
    many, column = np.arange(items, dtype=np.int32), np.ones(items, np.float32)
    names = [f"i{row}" for row in range(items)]
    history = Dataset(["u0"], names, np.zeros(items, np.int32), many, many.astype(np.int64), column, column < 0)
    assert depth_of(history) == depth


def test_deep_figures_are_of_more_items_and_lists_stay_short() -> None:
    order = np.array([hash64(f"i{item}") for item in (0, 1, *range(90, 105), 4, 2, 3)], np.uint64)
    cases = cases_of(small_split())
    plain, found = score(Popularity(order), cases), score(Popularity(order), cases, 18)
    assert plain.judged.tolist() == plain.ndcg.tolist() == found.ndcg.tolist() == [0.0, 0.0]
    # user a: hits at places 17 and 18 of the items that are new to them; user b: at place 18
    known = (1 / np.log2(18) + 1 / np.log2(19)) / (1 + 1 / np.log2(3))
    assert sorted(found.judged.tolist()) == pytest.approx(sorted([known, 1 / np.log2(19)]))
    assert (found.depth, "ndcg_at_18" in found.figures(), "ndcg_at_18" in plain.figures()) == (18, True, False)
    assert [each.tolist() for each in plain.lists] == [each.tolist() for each in found.lists]
    assert max(map(len, found.lists)) == 10
