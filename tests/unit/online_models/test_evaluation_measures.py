"""What outcomes come to: segments by what was known before, figures beyond accuracy, and paired leads."""

import numpy as np
import pytest

from online_models.evaluation.contenders import CONTENDERS, study_of
from online_models.evaluation.measures import SEGMENTS, Yardstick, accuracy_of, leads, measured
from online_models.evaluation.protocol import CUTOFF, Outcome, prequential
from online_models.metrics import Estimate, clustered_difference, hit_at, ndcg_at
from tests.evaluation_logs import log_of, tastes

LOG = log_of(tastes(9, events=800))
STUDY = study_of(LOG, 0.8)
BEGIN = int(LOG.begins[STUDY.split.test])


def test_the_segment_of_an_event_is_of_what_was_known_before_its_group() -> None:
    yardstick = Yardstick.of(STUDY)
    before: dict[int, int] = {}
    expected = []
    for group in range(LOG.groups):
        at = LOG.moment(group)
        for _ in range(at.begin, at.end):
            events = before.get(at.user, 0)
            names = [
                name for name, least in (("0 events", 0), ("1-4 events", 1), ("5-19 events", 5)) if events >= least
            ]
            expected.append("20+ events" if events >= 20 else names[-1])
        before[at.user] = before.get(at.user, 0) + at.end - at.begin
    assert yardstick.user_segment.tolist() == expected[BEGIN:]
    counts = np.bincount(LOG.item[:BEGIN], minlength=len(LOG.ids))
    assert yardstick.counts.tolist() == counts.tolist()
    head = counts[LOG.item[BEGIN:]][yardstick.item_segment == "head items"]
    tail = counts[LOG.item[BEGIN:]][yardstick.item_segment == "tail items"]
    assert head.min() >= tail.max() >= tail.min() > 0
    assert not counts[LOG.item[BEGIN:]][yardstick.item_segment == "new items"].any()


def test_segments_of_users_and_of_items_each_share_out_all_events() -> None:
    yardstick = Yardstick.of(STUDY)
    outcome = prequential(CONTENDERS["popularity"](STUDY), LOG, STUDY.split.test, LOG.groups)
    found = measured(outcome, yardstick)
    for names in (SEGMENTS[:4], SEGMENTS[4:]):
        parts = [found.segments[name].hit for name in names if name in found.segments]
        assert sum(part.events for part in parts) == len(outcome.ranks)
        whole = sum(part.mean * part.events for part in parts) / len(outcome.ranks)
        assert whole == pytest.approx(found.accuracy.hit.mean)
    assert found.accuracy.hit.mean == hit_at(outcome.ranks, CUTOFF).mean()
    assert found.accuracy.hit.mean >= found.accuracy.ndcg.mean > 0
    assert 0 < found.coverage < 0.5 < found.gini < 1
    assert found.predict_us > 0
    assert found.learn_us > 0


def test_lists_that_are_all_the_same_cover_one_list_and_differ_as_their_items_do() -> None:
    yardstick = Yardstick.of(STUDY)
    groups = LOG.groups - STUDY.split.test
    events = len(LOG) - BEGIN
    lists = np.full((groups, CUTOFF), -1)
    lists[1:, :2] = 0, 1  # one user was shown nothing
    outcome = Outcome(np.full(events, -1), lists, np.full(groups, 3e-6), np.full(groups, 1e-6))
    found = measured(outcome, yardstick)
    assert found.coverage == 2 / len(LOG.ids)
    share = yardstick.counts[:2] / yardstick.counts.sum()
    assert found.novelty_bits == pytest.approx(-np.log2(share).mean())
    a, b = yardstick.vectors[:2].astype(np.float64)
    assert found.diversity == pytest.approx(1 - a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-6)
    assert found.predict_us == pytest.approx(3.0)
    assert found.learn_us == pytest.approx(groups / events)
    assert found.accuracy.hit.mean == 0


def test_reciprocal_ranks_are_of_the_whole_ranking() -> None:
    found = accuracy_of(np.array([0, 99, -1]), np.array([1, 2, 3]))
    assert found.mrr.mean == pytest.approx((1 + 0.01) / 3)
    assert found.hit.mean == pytest.approx(1 / 3)


def outcome_of(*ranks: int) -> Outcome:
    none = np.empty(0)
    return Outcome(np.array(ranks), np.full((0, CUTOFF), -1), none, none)


def test_a_lead_is_the_paired_difference_to_the_best_other_one_by_each_metric() -> None:
    outcomes = {"ours": outcome_of(0, 11, 3, -1), "hits": outcome_of(9, 9, 9, 20), "ndcg": outcome_of(0, -1, 0, 30)}
    users = np.array([1, 1, 2, 3])
    hit, ndcg = leads("ours", outcomes, users)
    assert (hit.metric, hit.best) == ("hit@10", "hits")
    assert hit.difference == clustered_difference(
        hit_at(outcomes["ours"].ranks, 10), hit_at(outcomes["hits"].ranks, 10), users
    )
    assert (ndcg.metric, ndcg.best) == ("NDCG@10", "ndcg")
    assert ndcg.difference.mean == pytest.approx(
        (ndcg_at(outcomes["ours"].ranks, 10) - ndcg_at(outcomes["ndcg"].ranks, 10)).mean()
    )
    assert hit.in_errors == pytest.approx(hit.difference.mean / hit.difference.standard_error)
    assert leads("ours", {"ours": outcomes["ours"]}, users) == []


def test_a_lead_without_any_spread_is_nought_or_without_bound() -> None:
    level, ahead = (
        leads("a", {"a": outcome_of(0, 0), "b": outcome_of(rank, rank)}, np.array([1, 2]))[0] for rank in (0, 50)
    )
    assert level.difference == Estimate(0.0, 0.0, 2, 2)
    assert level.in_errors == 0
    assert ahead.in_errors == np.inf
