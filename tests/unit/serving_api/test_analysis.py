"""The harm test keeps its error rate under peeking, and no data never means success."""

from dataclasses import replace
from math import isfinite, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln

from online_models.contracts.rollouts import FULL_WEIGHT_BP, StageCounts
from serving_api.analysis import (
    Error,
    Failed,
    GateConfig,
    Inconclusive,
    Required,
    StageTally,
    Successful,
    log_harm,
    verdict,
)

GATE = GateConfig()


def counts(users: int, successes: int) -> StageCounts:
    """Users who came once each."""
    return StageCounts(users=users, successes=successes, requests=users, hits=successes)


REQUIRED = Required(canary_requests=100, stable_requests=20)
COUNTS = st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)).map(lambda pair: counts(max(pair), min(pair)))
TALLIES = st.builds(StageTally, st.sampled_from([500, 2_500, 5_000, 7_500, 9_800]), COUNTS, COUNTS)


def tally(weight_bp: int, canary: tuple[int, int], stable: tuple[int, int]) -> StageTally:
    return StageTally(
        weight_bp,
        counts(*canary),
        counts(*stable),
    )


def integrated_log_harm(tally: StageTally, gate: GateConfig) -> float:
    """The same mixture by numerical integration of the likelihood ratio over the truncated prior."""
    q0 = tally.weight_bp / FULL_WEIGHT_BP
    kappa = 1.0 / (gate.smallest_effect**2 * q0 * (1.0 - q0))
    a, b = kappa * q0, kappa * (1.0 - q0)
    c, s = tally.canary.successes, tally.stable.successes

    def prior(q: float) -> float:
        return float(np.exp((a - 1) * log(q) + (b - 1) * np.log1p(-q) - betaln(a, b)))

    def ratio(q: float) -> float:
        return float(np.exp(c * log(q / q0) + s * (np.log1p(-q) - np.log1p(-q0))))

    mass = quad(prior, 0, q0, epsrel=1e-10)[0]
    return log(quad(lambda q: prior(q) * ratio(q), 0, q0, epsrel=1e-10)[0] / mass)


@pytest.mark.parametrize("weight_bp", [500, 5_000, 9_800])
@pytest.mark.parametrize("successes", [(0, 3), (5, 40), (40, 40), (60, 5)])
def test_the_closed_form_equals_the_integral_it_stands_for(weight_bp: int, successes: tuple[int, int]) -> None:
    one = tally(weight_bp, (1_000, successes[0]), (1_000, successes[1]))
    assert log_harm(one, GATE) == pytest.approx(integrated_log_harm(one, GATE), rel=1e-6, abs=1e-6)


@given(TALLIES)
def test_the_e_value_is_finite_whatever_the_counts(one: StageTally) -> None:
    assert isfinite(log_harm(one, GATE))


@given(TALLIES)
def test_one_more_success_of_the_canary_never_adds_evidence_of_harm(one: StageTally) -> None:
    better = replace(one, canary=StageCounts(users=10_000, successes=one.canary.successes + 1))
    assert log_harm(better, GATE) <= log_harm(one, GATE) + 1e-6


def ever_alarmed(rng: np.random.Generator, canary_rate: float, gate: GateConfig, looks: int) -> bool:
    """A rollout through three stages while everybody's rate drifts, looked at again and again."""
    past = 0.0
    for weight_bp, base in ((500, 1.2), (2_500, 0.8), (5_000, 1.0)):
        p_canary, p_stable = canary_rate * base, 0.1 * base
        canary = rng.binomial(200 * weight_bp // FULL_WEIGHT_BP * 5, p_canary, looks).cumsum()
        stable = rng.binomial(200 * (FULL_WEIGHT_BP - weight_bp) // FULL_WEIGHT_BP * 5, p_stable, looks).cumsum()
        for c, s in zip(canary.tolist(), stable.tolist(), strict=True):
            now = past + log_harm(tally(weight_bp, (10**6, c), (10**6, s)), gate)
            if now >= -log(gate.alpha):
                return True
        past = now
    return False


def test_equal_arms_are_rolled_back_at_most_at_rate_alpha_over_many_looks() -> None:
    rng = np.random.default_rng(20260101)
    runs = 400
    alarms = sum(ever_alarmed(rng, 0.1, GATE, 12) for _ in range(runs))
    assert alarms / runs <= GATE.alpha + 3 * (GATE.alpha * (1 - GATE.alpha) / runs) ** 0.5


def test_half_the_success_rate_is_found() -> None:
    rng = np.random.default_rng(20260102)
    assert sum(ever_alarmed(rng, 0.05, GATE, 12) for _ in range(50)) == 50


def test_tolerated_harm_is_not_reported_but_more_is() -> None:
    tolerant = GateConfig(tolerated_harm=0.3)
    slightly_worse = tally(5_000, (5_000, 400), (5_000, 500))
    assert log_harm(slightly_worse, GATE) > -log(GATE.alpha) > log_harm(slightly_worse, tolerant)
    assert log_harm(tally(5_000, (5_000, 200), (5_000, 500)), tolerant) > -log(tolerant.alpha)


@given(st.lists(st.sampled_from([500, 2_500, 5_000, 9_800]), max_size=5))
def test_no_data_is_inconclusive_in_every_stage(weights: list[int]) -> None:
    tallies = [StageTally(weight, StageCounts(), StageCounts()) for weight in weights]
    assert isinstance(verdict(tallies, Required(0, 0), GATE), Inconclusive)


@given(TALLIES)
def test_success_needs_the_required_users_of_both_arms(one: StageTally) -> None:
    required = Required(one.canary.users + 1, 0)
    assert not isinstance(verdict([one], required, GATE), Successful)
    assert not isinstance(verdict([one], Required(0, one.stable.users + 1), GATE), Successful)


def test_one_user_short_of_the_requirement_holds() -> None:
    short = tally(5_000, (99, 50), (99, 50))
    assert isinstance(verdict([short], Required(99, 99), GATE), Successful)
    assert isinstance(verdict([short], Required(100, 99), GATE), Inconclusive)
    assert isinstance(verdict([short], Required(99, 100), GATE), Inconclusive)


def test_users_without_any_success_prove_nothing() -> None:
    assert isinstance(verdict([tally(5_000, (1_000, 0), (1_000, 0))], REQUIRED, GATE), Inconclusive)


def test_an_equal_canary_is_successful_and_one_below_the_margin_holds() -> None:
    assert isinstance(verdict([tally(500, (200, 40), (3_800, 760))], REQUIRED, GATE), Successful)
    held = verdict([tally(500, (200, 34), (3_800, 760))], REQUIRED, GATE)
    assert isinstance(held, Inconclusive)
    assert "no evidence of harm" in held.reason


def test_harm_in_an_earlier_stage_fails_a_good_looking_one() -> None:
    earlier = tally(5_000, (1_000, 20), (1_000, 100))
    now = tally(7_500, (300, 30), (100, 10))
    assert isinstance(verdict([now], REQUIRED, GATE), Successful)
    judged = verdict([earlier, now], REQUIRED, GATE)
    assert isinstance(judged, Failed)
    assert float(str(judged.evidence["log_e"])) > float(str(judged.evidence["log_e_limit"]))


def test_stages_are_not_pooled() -> None:
    """Both stages are equal within; pooled, the canary's rate would be 14 % against stable's 19 %."""
    high = tally(500, (500, 100), (9_500, 1_900))
    low = tally(5_000, (1_000, 110), (1_000, 110))
    assert isinstance(verdict([high, low], REQUIRED, GATE), Successful)


def test_more_successes_than_users_is_an_error_not_a_verdict() -> None:
    assert isinstance(verdict([tally(500, (10, 11), (190, 5))], REQUIRED, GATE), Error)


def test_a_split_of_users_far_from_the_weight_is_an_error_not_a_verdict() -> None:
    """At 75 % the canary should have three times the users: successes alone would look like harm."""
    judged = verdict([tally(7_500, (1_000, 200), (1_000, 200))], REQUIRED, GATE)
    assert isinstance(judged, Error)
    assert "1000 of 2000 users at a weight of 75.00%" in judged.reason


def mismatched(canary_hits: int) -> StageTally:
    """A 75 % stage whose canary got half of the users."""
    canary, stable = (StageCounts(users=1_000, successes=200, requests=1_000, hits=hits) for hits in (canary_hits, 200))
    return StageTally(7_500, canary, stable)


def test_a_clearly_bad_canary_is_rolled_back_in_spite_of_a_wrong_split() -> None:
    judged = verdict([mismatched(canary_hits=99)], REQUIRED, GATE)
    assert isinstance(judged, Failed)
    assert "breaker" in judged.reason


def test_a_wrong_split_in_any_stage_never_lets_a_canary_on() -> None:
    good = tally(500, (200, 40), (3_800, 760))
    assert isinstance(verdict([good], REQUIRED, GATE), Successful)
    assert isinstance(verdict([mismatched(canary_hits=300), good], REQUIRED, GATE), Error)


def test_impossible_counts_are_an_error_before_the_breaker() -> None:
    bad = replace(mismatched(canary_hits=0), stable=StageCounts(users=1_000, requests=1_000, hits=1_001))
    assert isinstance(verdict([bad], REQUIRED, GATE), Error)


def test_a_split_by_chance_is_never_an_error() -> None:
    rng = np.random.default_rng(20260103)
    for weight_bp in (500, 5_000, 9_800):
        for users in rng.integers(1, 5_000, 300).tolist():
            on_canary = int(rng.binomial(users, weight_bp / FULL_WEIGHT_BP))
            judged = verdict([tally(weight_bp, (on_canary, 0), (users - on_canary, 0))], REQUIRED, GATE)
            assert isinstance(judged, Inconclusive)


def with_requests(canary: tuple[int, int], stable: tuple[int, int]) -> StageTally:
    """A stage of returning users only: no first exposure, so nothing for the harm test."""
    arms = [StageCounts(requests=requests, hits=hits) for requests, hits in (canary, stable)]
    return StageTally(2_500, *arms)


def test_the_breaker_trips_on_a_clearly_bad_canary_whose_users_have_all_been_seen() -> None:
    found = verdict([with_requests((300, 20), (900, 180))], REQUIRED, GATE)
    assert isinstance(found, Failed)
    assert "breaker" in found.reason


@pytest.mark.parametrize("tally", [with_requests((299, 0), (900, 180)), with_requests((300, 30), (900, 180))])
def test_the_breaker_needs_enough_requests_and_less_than_half_of_stable_s_rate(tally: StageTally) -> None:
    assert not isinstance(verdict([tally], REQUIRED, GATE), Failed)
