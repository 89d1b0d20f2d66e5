"""The gate's verdicts and its report."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from retrain_workers.validation.evaluation import Hashes, Scores
from retrain_workers.validation.gate import Check, Gate, GateReport, Verdict, decode_report, judge

GATE = Gate()


def scores(ndcg: float, users: int = 300, items: int = 10) -> Scores:
    """Everybody is served alike, from so many items."""
    column = np.full(users, ndcg)
    lists = [np.arange(start % items, start % items + 1, dtype=np.uint64) for start in range(users)]
    return Scores(column, column, column, lists)


def noisy(mean: float, users: int, seed: int) -> Scores:
    """A few users are served fully, the others not at all."""
    ndcg = (np.random.default_rng(seed).random(users) < mean).astype(np.float64)
    return Scores(ndcg, ndcg, ndcg)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(0.60, Verdict.BETTER), (0.50, Verdict.NON_INFERIOR), (0.48, Verdict.NON_INFERIOR), (0.45, Verdict.WORSE)],
)
def test_what_is_plain_is_told(ours: float, verdict: Verdict) -> None:
    report = judge(scores(ours), scores(0.5), scores(0.1), GATE)
    assert report.verdict is verdict
    assert report.accepted == (verdict is not Verdict.WORSE)


def test_what_cannot_be_told_is_refused_however_good_the_candidate_looks() -> None:
    candidate, champion = noisy(0.12, 60, 1), noisy(0.10, 60, 2)
    assert candidate.ndcg.mean() > champion.ndcg.mean()
    report = judge(candidate, champion, champion, GATE)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert not report.accepted


def test_with_too_few_users_a_champion_stays() -> None:
    found = judge(scores(0.9, 19), scores(0.1, 19), scores(0.1, 19), GATE)
    assert not found.accepted
    assert found.reason() == "inconclusive: 19 holdout users, 20 needed"
    assert judge(scores(0.9, 20), scores(0.1, 20), scores(0.1, 20), GATE).accepted


def test_a_first_model_without_data_passes_unless_it_takes_the_place_of_a_champion_that_cannot_be_read() -> None:
    few = scores(0.9, 19)
    assert judge(few, None, few, GATE).verdict is Verdict.FIRST
    found = judge(few, None, few, replace(GATE, unseen_first=False))
    assert (found.verdict, found.reason()) == (Verdict.INCONCLUSIVE, "inconclusive: 19 holdout users, 20 needed")
    assert judge(scores(0.9), None, scores(0.5), replace(GATE, unseen_first=False)).verdict is Verdict.FIRST


def test_no_users_at_all_is_never_success_against_a_champion() -> None:
    assert judge(scores(0.9, 0), scores(0.1, 0), scores(0.1, 0), GATE).verdict is Verdict.INCONCLUSIVE


def test_two_that_serve_nobody_are_no_success() -> None:
    assert not judge(scores(0.0), scores(0.0), scores(0.0), GATE).accepted


def test_a_first_model_is_refused_only_when_it_is_absurd_beside_popularity() -> None:
    assert judge(scores(0.16), None, scores(0.3), GATE).verdict is Verdict.FIRST
    assert judge(scores(0.14), None, scores(0.3), GATE).verdict is Verdict.WORSE
    assert judge(scores(0.0, 3), None, scores(0.3, 3), GATE).accepted


def test_the_reason_of_a_refusal_holds_the_numbers_of_what_failed() -> None:
    found = judge(scores(0.4), scores(0.5), scores(0.1), GATE)
    assert found.reason().startswith(
        "worse: NDCG@10 0.4000 against 0.5000 of the champion, difference -0.1000 (97.5 % interval -0.10"
    )
    assert "on 300 users, margin 5%" in found.reason()
    assert "overlap" not in found.reason()


def test_all_figures_go_into_the_metrics() -> None:
    found = judge(scores(0.5), scores(0.5), scores(0.1), GATE, figures={"holdout_events": 7.0})
    metrics = found.metrics()
    assert metrics["ndcg_at_10"] == metrics["champion_ndcg_at_10"] == 0.5
    assert metrics["popularity_ndcg_at_10"] == pytest.approx(0.1)
    assert metrics["holdout_events"] == 7.0
    assert (metrics["gate_coverage"], metrics["gate_overlap"]) == (1.0, 1.0)
    assert metrics["gate_quality"] > 0


def test_a_report_is_json_and_comes_back() -> None:
    found = judge(noisy(0.2, 100, 3), noisy(0.2, 100, 4), scores(0.1, 100), GATE)
    raw = found.encode()
    assert decode_report(raw) == found
    assert msgspec.json.decode(raw)["verdict"] == str(found.verdict)
    empty = judge(scores(0.9, 0), scores(0.1, 0), scores(0.1, 0), GATE)
    assert decode_report(empty.encode()) == empty


def test_the_same_scores_give_the_same_report() -> None:
    one, two = (judge(noisy(0.2, 100, 1), noisy(0.2, 100, 2), noisy(0.1, 100, 3), GATE) for _ in range(2))
    assert one.encode() == two.encode()


def named(report: GateReport, name: str) -> Check:
    (found,) = (check for check in report.checks if check.name == name)
    return found


def test_a_candidate_that_shows_few_items_is_refused_though_it_is_better() -> None:
    narrow, wide = scores(0.6, items=4), scores(0.5, items=10)
    report = judge(narrow, wide, wide, GATE)
    assert report.verdict is Verdict.FAILED
    assert named(report, "coverage").value == pytest.approx(0.4)
    assert report.reason() == "failed: 4 items in lists of 10 against 10 of the champion, at least 50% needed"
    assert judge(narrow, wide, wide, replace(GATE, coverage_share=0.4)).accepted


def test_a_candidate_with_other_lists_is_refused_where_an_overlap_is_asked_for() -> None:
    lists: list[Hashes] = [np.array([100 + user], np.uint64) for user in range(300)]
    candidate, champion = replace(scores(0.6), lists=lists), scores(0.5)
    assert judge(candidate, champion, champion, GATE).accepted
    report = judge(candidate, champion, champion, replace(GATE, overlap_floor=0.1))
    assert report.verdict is Verdict.FAILED
    assert named(report, "overlap").value == 0.0


@pytest.mark.parametrize(("old", "accepted"), [(0.5, True), (0.13, True), (0.1, False)])
def test_a_candidate_that_has_forgotten_the_old_regime_is_refused(old: float, accepted: bool) -> None:
    report = judge(scores(0.5), scores(0.5), scores(0.1), GATE, (scores(old), scores(0.5)))
    assert report.accepted == accepted
    assert named(report, "old_regime").value == pytest.approx(old / 0.5)
    assert report.verdict is (Verdict.NON_INFERIOR if accepted else Verdict.FAILED)


def test_forgetting_is_allowed_where_as_much_is_gained_today() -> None:
    shifted = judge(scores(0.4), scores(0.1), scores(0.1), GATE, (scores(0.1), scores(0.8)))
    assert shifted.verdict is Verdict.BETTER
    slightly = judge(scores(0.12), scores(0.1), scores(0.1), GATE, (scores(0.1), scores(0.8)))
    assert slightly.verdict is Verdict.FAILED


def test_too_few_old_cases_say_nothing() -> None:
    report = judge(scores(0.5), scores(0.5), scores(0.1), GATE, (scores(0.0, 5), scores(0.5, 5)))
    assert report.accepted
    assert named(report, "old_regime").value is None


def test_further_checks_decide_with_the_others() -> None:
    slow = Check("latency", 200.0, 100.0, False, "p99 200 ms, at most 100 allowed")
    quick = Check("latency", 20.0, 100.0, True, "p99 20 ms, at most 100 allowed")
    good = judge(scores(0.6), scores(0.5), scores(0.1), GATE)
    assert good.with_checks([quick]).verdict is Verdict.BETTER
    refused = good.with_checks([quick, slow])
    assert refused.verdict is Verdict.FAILED
    assert refused.reason() == "failed: p99 200 ms, at most 100 allowed"
    bad = judge(scores(0.3), scores(0.5), scores(0.1), GATE, checks=[slow])
    assert bad.verdict is Verdict.WORSE
    assert bad.metrics()["gate_latency"] == 200.0


def deep(judged: Scores, listed: Scores) -> Scores:
    """Scores of the best 100 items and of the list at their head."""
    return replace(listed, deep=judged.ndcg, depth=100)


def test_the_best_of_many_items_decide_where_lists_are_too_short_to_tell() -> None:
    champion = deep(scores(0.20), noisy(0.05, 300, 1))
    report = judge(deep(scores(0.30), noisy(0.05, 300, 2)), champion, champion, GATE)
    assert report.verdict is Verdict.BETTER
    assert report.figures["ndcg_at_100"] == pytest.approx(0.3)
    assert report.reason().startswith("better: NDCG@100 0.3000 against 0.2000 of the champion")


def test_a_candidate_that_is_better_in_depth_and_worse_in_its_lists_is_refused() -> None:
    champion = deep(scores(0.2), scores(0.5))
    report = judge(deep(scores(0.3), scores(0.4)), champion, champion, GATE)
    assert report.verdict is Verdict.FAILED
    assert named(report, "list").value == pytest.approx(0.8)
    assert judge(deep(scores(0.3), scores(0.49)), champion, champion, GATE).accepted
