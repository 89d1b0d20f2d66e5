"""Verdicts: what fails, what passes, what holds; and no data never means success."""

import json
import re
from dataclasses import replace
from math import isfinite

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.rollouts import Metric, Plan, Policy, Served, Stage
from online_models.rollout_store import VariantCounts
from serving_api.analysis import evidence
from serving_api.analysis.verdicts import (
    Error,
    Failed,
    Inconclusive,
    StageTally,
    Successful,
    Verdict,
    comparison,
    verdict,
)
from tests.tallies import arm, clean, stage_of, tally

LAW = settings(deadline=None)
MARGIN = 0.2
STAGES = (
    Stage(0, shadow=True, min_users=200),
    Stage(500),
    Stage(2_500),
    Stage(5_000, margin=MARGIN),
    Stage(9_800, margin=MARGIN),
    Stage(9_900),
)
PLAN = Plan(STAGES)
SHADOW, FIVE, QUARTER, HALF, ALL, BAKE = range(6)

PAIRS = st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)).map(lambda pair: (max(pair), min(pair)))
TALLIES = st.builds(
    lambda stage, canary, stable: stage_of(STAGES[stage].weight_bp, canary, stable, stage),
    st.integers(FIVE, ALL),
    PAIRS,
    PAIRS,
)


def at(stage: int, canary: tuple[int, int], stable: tuple[int, int]) -> StageTally:
    return stage_of(STAGES[stage].weight_bp, canary, stable, stage)


def judged(*tallies: StageTally) -> Verdict:
    return verdict(tallies, PLAN)


GOOD = at(HALF, (9_000, 1_800), (9_000, 1_800))


@LAW
@given(st.lists(TALLIES, max_size=4))
def test_evidence_is_json_and_finite_whatever_the_counts(tallies: list[StageTally]) -> None:
    for found in (verdict(tallies, PLAN), comparison(tallies, PLAN)):
        json.dumps(found.evidence, allow_nan=False)
        msgspec.json.encode(found.evidence)


@LAW
@given(st.integers(SHADOW, ALL), st.integers(0, 3))
def test_no_data_is_inconclusive_in_every_stage_though_the_plan_asks_for_none(stage: int, before: int) -> None:
    stages = tuple(msgspec.structs.replace(each, min_users=0, min_stable_users=0, margin=None) for each in STAGES)
    tallies = [at(FIVE, (0, 0), (0, 0))] * before + [at(stage, (0, 0), (0, 0))]
    assert isinstance(verdict(tallies, Plan(stages)), Inconclusive)
    assert isinstance(comparison(tallies, Plan(stages)), Inconclusive)


def test_without_a_stage_nothing_has_been_measured() -> None:
    assert isinstance(verdict([], PLAN), Inconclusive)
    assert isinstance(comparison([], PLAN), Inconclusive)


def test_a_tally_of_no_stage_of_the_plan_is_an_error() -> None:
    assert isinstance(verdict([replace(GOOD, stage=len(STAGES))], PLAN), Error)


def test_an_equal_canary_passes_and_says_what_is_excluded() -> None:
    found = judged(GOOD)
    assert isinstance(found, Successful)
    assert "a loss of 20.0% is excluded" in found.reason
    assert found.evidence["missing"] == []


def test_users_answers_and_proof_are_each_needed() -> None:
    assert isinstance(judged(GOOD), Successful)
    few_users = replace(GOOD.canary, counts=msgspec.structs.replace(GOOD.canary.counts, stage_users=99))
    few_stable = replace(GOOD.stable, counts=msgspec.structs.replace(GOOD.stable.counts, stage_users=19))
    for short, missing in (
        (replace(GOOD, canary=few_users), "99 of 100 canary users"),
        (replace(GOOD, stable=few_stable), "19 of 20 stable users"),
        (replace(GOOD, canary_served=Served()), "0 of 100 canary requests counted"),
        (replace(GOOD, stable_served=Served()), "0 of 20 stable requests counted"),
        (at(HALF, (900, 180), (900, 180)), "a loss of 20.0% is not excluded yet"),
        (at(HALF, (9_000, 0), (9_000, 9)), "too few hits"),
    ):
        found = judged(short)
        assert isinstance(found, Inconclusive)
        assert missing in found.reason


def test_a_stage_without_a_margin_asks_for_no_proof() -> None:
    assert isinstance(judged(at(FIVE, (100, 20), (1_900, 380))), Successful)


def test_a_bake_goes_by_what_was_proven_before_it_until_the_contrary_is_proven() -> None:
    """Where users have all been seen before, nothing else speaks of a loss that came later."""

    def baked(hits: int) -> Verdict:
        seen = at(BAKE, (980_000, hits), (20_000, 4_000))
        canary, stable = (
            replace(each, counts=msgspec.structs.replace(each.counts, users=0, successes=0))
            for each in (seen.canary, seen.stable)
        )
        return judged(GOOD, replace(seen, canary=canary, stable=stable))

    for hits in (196_000, 180_000):
        assert isinstance(baked(hits), Successful)
    worse = baked(147_000)
    assert isinstance(worse, Inconclusive)
    assert worse.reason.startswith("a loss of more than 10.0% is proven: lift -20.3%")
    collapsed = baked(98_000)
    assert isinstance(collapsed, Failed)
    assert collapsed.reason.startswith("collapse")


@pytest.mark.parametrize("hits", [(0, 0), (0, 3), (3, 0), (9_000, 0)])
def test_a_proof_needs_hits_of_both_arms(hits: tuple[int, int]) -> None:
    assert not isinstance(judged(at(HALF, (9_000, hits[0]), (9_000, hits[1]))), Successful)


def test_all_data_of_one_group_of_users_proves_nothing() -> None:
    def alone(one: VariantCounts) -> VariantCounts:
        grouped = np.zeros_like(one.grouped)
        grouped[:, 3] = one.grouped.sum(axis=1)
        return replace(one, grouped=grouped)

    for found in map(judged, (replace(GOOD, canary=alone(GOOD.canary)), replace(GOOD, stable=alone(GOOD.stable)))):
        assert isinstance(found, Inconclusive)
        assert "too few hits for an interval" in found.reason


def test_harm_at_first_exposure_fails_at_any_time_and_adds_up_over_stages() -> None:
    five, quarter = at(FIVE, (900, 140), (17_100, 3_420)), at(QUARTER, (1_500, 240), (4_500, 900))
    assert isinstance(judged(five, at(QUARTER, (0, 0), (0, 0))), Inconclusive)
    found = judged(five, quarter)
    assert isinstance(found, Failed)
    assert "harm" in found.reason
    assert float(str(found.evidence["log_e"])) >= float(str(found.evidence["log_e_limit"]))


def test_tolerated_harm_is_no_harm() -> None:
    worse = at(HALF, (9_000, 1_600), (9_000, 1_800))
    assert isinstance(judged(worse), Failed)
    assert not isinstance(verdict([worse], Plan(STAGES, Policy(tolerated_harm=0.3))), Failed)


def returning(weight: int, canary_hits: int, stable_hits: int, requests: int = 900) -> StageTally:
    """A stage of users who have all been seen before: nothing for the harm test."""
    canary, stable = (
        arm(variant, requests, hits, users=0, successes=0, stage=weight)
        for variant, hits in (("canary", canary_hits), ("stable", stable_hits))
    )
    return tally(STAGES[weight].weight_bp, canary, stable, weight)


def test_a_collapse_is_found_among_users_who_have_all_been_seen() -> None:
    found = judged(returning(HALF, 60, 300))
    assert isinstance(found, Failed)
    assert found.reason.startswith("collapse")
    assert isinstance(judged(returning(HALF, 0, 300)), Failed)
    assert not isinstance(judged(returning(HALF, 200, 300)), Failed)
    assert not isinstance(judged(returning(HALF, 0, 9)), Failed)


def test_a_failed_guardrail_fails_the_rollout() -> None:
    bad = Served(requests=9_000, users=9_000, user_errors=900)
    found = judged(replace(GOOD, canary_served=bad))
    assert isinstance(found, Failed)
    assert "errors: the canary 10.00% of 9000" in found.reason


def mismatched(canary_hits: int = 1_400) -> StageTally:
    """A half stage whose canary got 7,000 of 16,000 users, with stable's success rate unless it is told otherwise."""
    return at(HALF, (7_000, canary_hits), (9_000, 1_800))


def test_a_wrong_split_is_an_error_and_never_harm() -> None:
    found = judged(mismatched())
    assert isinstance(found, Error)
    assert "7000 of 16000 first exposed users where 8000 are expected" in found.reason


def test_a_wrong_split_does_not_shield_a_collapse_or_a_guardrail() -> None:
    assert isinstance(judged(mismatched(canary_hits=200)), Failed)
    bad = Served(requests=7_000, users=7_000, user_empty=900)
    assert isinstance(judged(replace(mismatched(), canary_served=bad)), Failed)


def test_a_wrong_split_in_any_stage_never_lets_a_canary_on() -> None:
    assert isinstance(judged(at(QUARTER, (4_000, 800), (4_000, 800)), GOOD), Error)


@pytest.mark.parametrize("weight", [FIVE, HALF, ALL])
def test_a_split_by_chance_is_hardly_ever_an_error(weight: int) -> None:
    rng = np.random.default_rng(weight)
    for users in rng.integers(1, 5_000, 300).tolist():
        on_canary = int(rng.binomial(users, STAGES[weight].weight_bp / 10_000))
        assert not isinstance(judged(at(weight, (on_canary, 0), (users - on_canary, 0))), Error)


def test_impossible_counts_are_an_error_before_anything_else() -> None:
    collapsed = returning(HALF, 0, 300)
    for counts in ({"successes": 1}, {"hits": 901}, {"clicks": 9_001}, {"repeats": -1}):
        wrong = replace(collapsed.stable, counts=msgspec.structs.replace(collapsed.stable.counts, **counts))
        assert isinstance(judged(replace(collapsed, stable=wrong)), Error)
    grouped = collapsed.canary.grouped.copy()
    grouped[1, 5] = grouped[0, 5] + 1
    assert isinstance(judged(replace(collapsed, canary=replace(collapsed.canary, grouped=grouped))), Error)
    assert isinstance(judged(replace(collapsed, canary_served=Served(requests=5, errors=6))), Error)


def shadowed(canary: Served, stable: Served) -> Verdict:
    return judged(stage_of(0, (0, 0), (0, 0), SHADOW, (canary, stable)))


def test_a_shadow_passes_by_requests_scored_without_error() -> None:
    stable = Served(requests=400)
    assert isinstance(shadowed(Served(requests=200), stable), Successful)
    assert isinstance(shadowed(Served(requests=199), stable), Inconclusive)
    assert isinstance(shadowed(Served(requests=201, errors=2), stable), Inconclusive)
    assert isinstance(shadowed(Served(requests=200), Served(requests=19)), Inconclusive)
    assert isinstance(shadowed(Served(requests=200, empty=100), stable), Failed)


def test_the_metric_is_the_policy_s() -> None:
    fewer_clicks = replace(GOOD.canary, grouped=GOOD.canary.grouped // np.array([[1], [1], [1], [3]]))
    clicked_less = replace(GOOD, canary=fewer_clicks)
    assert isinstance(judged(clicked_less), Successful)
    assert isinstance(verdict([clicked_less], Plan(STAGES, Policy(metric=Metric.CTR))), Failed)


def test_stages_are_not_pooled() -> None:
    """Both stages are equal within; pooled, the canary would be at 20.5 % and stable at 29.2 %."""
    high, low = at(FIVE, (500, 150), (9_500, 2_850)), at(HALF, (9_000, 1_800), (9_000, 1_800))
    assert isinstance(judged(high, low), Successful)


def test_a_comparison_names_the_better_one_once_the_interval_excludes_no_difference() -> None:
    plan = Plan((Stage(5_000),))

    def compared(canary_hits: int) -> Verdict:
        return comparison([stage_of(5_000, (9_000, canary_hits), (9_000, 1_800))], plan)

    better, equal = compared(2_200), compared(1_805)
    assert isinstance(better, Successful)
    assert better.evidence["winner"] == "canary"
    assert isinstance(equal, Inconclusive)
    assert equal.evidence["winner"] is None
    assert isinstance(compared(1_500), Failed)


def test_a_comparison_names_stable_where_the_loss_is_seen_in_users_who_return() -> None:
    canary, stable = (
        arm(name, 9_000, hits, users=90, successes=20) for name, hits in (("canary", 1_500), ("stable", 1_800))
    )
    found = comparison(
        [tally(5_000, canary, stable, answers=(clean(9_000), clean(9_000)))], Plan((Stage(5_000, min_users=50),))
    )
    assert isinstance(found, Successful)
    assert found.evidence["winner"] == "stable"


def test_the_lift_in_the_evidence_is_relative_and_has_its_bounds() -> None:
    lift = judged(GOOD).evidence["lift"]
    assert isinstance(lift, dict)
    assert lift["value"] == pytest.approx(0.0)
    assert -MARGIN < lift["lower"] < 0.0 < lift["upper"]
    assert lift["lowest_allowed"] == -MARGIN
    assert all(isfinite(number) for number in lift.values() if isinstance(number, float))


def test_the_evidence_s_keys_are_the_ones_told() -> None:
    rows = [line[4:29] for line in (evidence.__doc__ or "").splitlines() if line[:4] == "    " != line[4:8]]
    told = {name for row in rows for name in re.findall("[a-z_]+", row)}
    assert told == set(comparison([GOOD], PLAN).evidence)
    assert set(verdict([GOOD], PLAN).evidence) == told - {"winner"}
