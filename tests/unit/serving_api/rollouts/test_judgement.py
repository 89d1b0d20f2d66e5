"""From counts by variant to tallies by stage, and what is kept of a verdict."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import (
    GROUPS,
    LATENCY_EDGES_MS,
    Kind,
    Phase,
    Plan,
    Rollout,
    Served,
    Stage,
    StageCounts,
)
from online_models.rollout_store import VariantCounts
from serving_api.analysis.verdicts import Inconclusive, Successful
from serving_api.rollouts.judgement import agreement, evidence_of, judged, quantile_ms, tallies_of
from serving_api.rollouts.shadow_estimates import offline

START = datetime(2026, 1, 1, tzinfo=UTC)
V1, V2 = ModelVersion("v1"), ModelVersion("v2")
PLAN = Plan((Stage(0, shadow=True, min_users=20, min_stable_users=20), Stage(500), Stage(9_800)))
ROLLOUT = Rollout(
    RolloutId(7), ModelName("movies"), V1, V2, Phase.RAMPING, 1, 500, Epoch(9), "salt", START, START, plan=PLAN
)


def counts(stage: int, variant: str, version: ModelVersion, users: int) -> VariantCounts:
    return VariantCounts(stage, variant, version, StageCounts(users=users), np.zeros((4, GROUPS), np.int64))


def test_each_stage_so_far_has_its_weight_and_both_arms_of_it() -> None:
    measured = [counts(0, "stable", V1, 5), counts(1, "canary", V2, 6), counts(1, "stable", V1, 7)]
    served = {(0, "canary"): Served(requests=3), (1, "stable"): Served(requests=4)}
    shadow, first = tallies_of(ROLLOUT, measured, served)
    assert (shadow.stage, shadow.weight_bp, first.stage, first.weight_bp) == (0, 0, 1, 500)
    assert (shadow.stable.counts.users, first.canary.counts.users, first.stable.counts.users) == (5, 6, 7)
    assert (shadow.canary_served.requests, first.stable_served.requests, first.canary_served) == (3, 4, Served())
    assert shadow.canary.counts == StageCounts()


def test_a_version_that_stands_in_and_later_stages_are_left_out() -> None:
    measured = [counts(1, "fallback", V2, 9), counts(1, "canary", V1, 8), counts(2, "canary", V2, 7)]
    assert [tally.canary.counts.users for tally in tallies_of(ROLLOUT, measured, {})] == [0, 0]


def test_an_aa_tells_its_arms_apart_by_variant() -> None:
    aa = replace(ROLLOUT, kind=Kind.AA, canary=V1)
    _, tally = tallies_of(aa, [counts(1, "canary", V1, 2), counts(1, "stable", V1, 3)], {})
    assert (tally.canary.counts.users, tally.stable.counts.users) == (2, 3)


def test_before_the_first_stage_there_is_nothing_to_judge() -> None:
    preparing = replace(ROLLOUT, phase=Phase.PREPARING, stage=-1)
    assert tallies_of(preparing, [counts(1, "canary", V2, 2)], {}) == []
    assert isinstance(judged(preparing, []), Inconclusive)


def test_a_bandit_has_no_verdict() -> None:
    bandit = replace(ROLLOUT, kind=Kind.BANDIT)
    verdict = judged(bandit, tallies_of(bandit, [counts(1, "canary", V2, 10**6)], {}))
    assert verdict == Inconclusive("a bandit decides nothing", {})


def shadowed(requests: int = 50) -> dict[tuple[int, str], Served]:
    latency = (requests - 1, *[0] * 8, 1, 0, 0, 0)
    sums = Served(requests=requests, users=requests, latency=latency, compared=40, overlap=30.0, first_same=10)
    return {(0, "canary"): sums, (0, "stable"): replace(sums, latency=(0, requests, *[0] * 11))}


def test_leaving_a_shadow_stage_tells_how_far_the_lists_agreed_and_how_long_they_took() -> None:
    shadow = replace(ROLLOUT, stage=0, weight_bp=0)
    tallies = tallies_of(shadow, [], shadowed())
    verdict = judged(shadow, tallies)
    assert isinstance(verdict, Successful)
    evidence = evidence_of(shadow, tallies, verdict)
    assert evidence["verdict"] == "Successful"
    assert evidence["judgement"] == verdict.reason
    assert evidence["agreement"] == {"requests": 50, "compared": 40, "dropped": 0, "overlap": 0.75, "first_same": 0.25}
    assert evidence["ranking_cpu_p99_ms"] == {"canary": 1_000.0}
    assert evidence["latency_p99_ms"] == {"stable": 2.0}
    assert evidence["offline"] is None


def test_a_shadow_stage_tells_what_its_lists_would_earn_and_decides_nothing_by_it() -> None:
    shadow = replace(ROLLOUT, stage=0, weight_bp=0)
    tallies, counts = tallies_of(shadow, [], shadowed()), np.full((2, 20, 61), 7, np.int64)
    verdict = judged(shadow, tallies)
    evidence = evidence_of(shadow, tallies, verdict, counts)
    assert evidence == {**evidence_of(shadow, tallies, verdict), "offline": offline(counts)}
    assert evidence["offline"] is not None
    # without a tally there is nothing to judge, and in a stage with people on the canary it is in no shadow
    assert "offline" not in evidence_of(shadow, [], verdict, counts)
    assert "offline" not in evidence_of(ROLLOUT, tallies_of(ROLLOUT, [], {}), verdict, counts)


def test_only_a_shadow_has_an_agreement_and_cpu_time_in_the_place_of_latency() -> None:
    tallies = tallies_of(ROLLOUT, [], {(1, arm): sums for (_, arm), sums in shadowed().items()})
    evidence = evidence_of(ROLLOUT, tallies, judged(ROLLOUT, tallies))
    assert not {"agreement", "ranking_cpu_p99_ms"} & set(evidence)
    assert evidence["latency_p99_ms"] == {"canary": 1_000.0, "stable": 2.0}


def test_nothing_compared_is_no_agreement() -> None:
    assert agreement(Served(requests=5, dropped=5)) == {
        "requests": 5, "compared": 0, "dropped": 5, "overlap": None, "first_same": None,
    }  # fmt: skip


@given(st.lists(st.floats(0.01, 6_000.0), min_size=1, max_size=300), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_the_bucket_s_edge_above_it(latencies: list[float], share: float) -> None:
    latency = np.bincount(np.searchsorted(LATENCY_EDGES_MS, latencies), minlength=len(LATENCY_EDGES_MS) + 1)
    exact = np.quantile(latencies, share, method="inverted_cdf")
    above = [edge for edge in LATENCY_EDGES_MS if edge >= exact]
    assert quantile_ms(Served(latency=tuple(latency.tolist())), share) == (above[0] if above else None)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_without_requests_there_is_no_quantile(share: float) -> None:
    assert quantile_ms(Served(), share) is None
