"""The forecast is what simulations find, and says so when the traffic is not enough."""

import json
from dataclasses import asdict

import msgspec
import numpy as np
import pytest
from scipy.stats import invgauss

from online_models.contracts.rollouts import GROUPS, Kind, Plan, Policy, Stage
from online_models.rollout_store import Traffic
from serving_api.analysis.e_values import log_harm, log_limit
from serving_api.analysis.lift import half_width, lift, terms
from serving_api.analysis.power import _inverse_gaussian_median, forecast
from serving_api.rollouts.plans import plan_for

MANY = Traffic(users_per_day=20_000, success_rate=0.05)
RAMP = (
    Stage(0, shadow=True, min_users=200),
    Stage(500, margin=0.4),
    Stage(5_000, margin=0.1),
    Stage(9_800, margin=0.1),
)


@pytest.mark.parametrize(("rate", "loss", "share"), [(0.05, 0.2, 0.05), (0.2, 0.1, 0.5)])
def test_canary_users_to_catch_a_loss_are_the_median_of_simulated_rollouts(
    rate: float, loss: float, share: float
) -> None:
    plan = Plan((Stage(round(share * 10_000)),), Policy(smallest_effect=loss))
    expected = forecast(plan, Traffic(1_000.0, rate)).canary_users_to_catch
    assert expected is not None
    rng = np.random.default_rng(1)
    step, runs = max(expected // 50, 1), 300
    canary = rng.binomial(step, rate * (1 - loss), (runs, 400)).cumsum(axis=1)
    stable = rng.binomial(round(step * (1 - share) / share), rate, (runs, 400)).cumsum(axis=1)
    found = log_harm(canary[..., None], stable[..., None], [share], 0.0, loss) >= log_limit(plan.policy.harm_alpha)
    assert np.median(np.where(found.any(axis=1), found.argmax(axis=1) + 1, 401)) * step == pytest.approx(
        expected, rel=0.2
    )


def test_later_stages_start_from_what_earlier_ones_have_proven() -> None:
    shadow, five, half, last = forecast(Plan(RAMP), MANY).stages
    assert (shadow.users, shadow.canary_users, shadow.limited_by) == (200, 0, "minimum users")
    assert five.limited_by == half.limited_by == "proof of the margin"
    assert last.limited_by == "minimum users"
    alone = forecast(Plan((RAMP[2],)), MANY).stages[0]
    assert (half.users or 0) < (alone.users or 0)
    assert half.canary_users == pytest.approx((half.users or 0) / 2, abs=1)


def test_totals_are_sums_and_all_of_it_is_json() -> None:
    found = forecast(Plan(RAMP), MANY)
    assert found.users == sum(stage.users or 0 for stage in found.stages)
    assert found.days == pytest.approx((found.users or 0) / MANY.users_per_day, rel=0.01)
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == json.loads(msgspec.json.encode(found))


def test_minimum_duration_counts_in_users_of_that_time() -> None:
    found = forecast(Plan((Stage(5_000, min_seconds=43_200.0),)), MANY)
    assert (found.stages[0].limited_by, found.users, found.days) == ("minimum duration", 10_000, 0.5)


def test_a_stage_that_cannot_be_passed_in_its_time_is_warned_of() -> None:
    few = Traffic(users_per_day=300.0, success_rate=0.4)
    (warning, *_) = forecast(Plan((Stage(500, min_users=100),)), few).warnings
    assert "stage 0 (5%) takes about 6.7 days, longer than its maximum of 1.0" in warning
    assert forecast(Plan((Stage(500, min_users=10),)), few).warnings[0].startswith("a loss of 10%")


@pytest.mark.parametrize(("rate", "effect", "weight_bp"), [(0.2, 0.2, 5_000), (0.1, 0.3, 2_000)])
def test_an_experiment_ends_at_the_users_that_simulated_ones_of_the_smallest_effect_end_at(
    rate: float, effect: float, weight_bp: int
) -> None:
    plan = Plan((Stage(weight_bp, max_seconds=1e9),), Policy(smallest_effect=effect))
    (stage,) = forecast(plan, Traffic(1_000.0, rate), Kind.AB).stages
    assert stage.limited_by == "proof of a difference"
    assert stage.users is not None
    rng, runs, looks = np.random.default_rng(2), 300, 60
    step = stage.users // 20
    trials = rng.multinomial(step, [weight_bp / 10_000, 1 - weight_bp / 10_000], (runs, looks))[..., None]
    groups = rng.multinomial(trials[..., 0], np.full(GROUPS, 1 / GROUPS)).cumsum(axis=1)  # (runs, looks, 2, GROUPS)
    hits = rng.binomial(np.diff(groups, axis=1, prepend=0), rate * np.array([[1 - effect], [1.0]])).cumsum(axis=1)
    found = lift(terms(hits, groups))
    told = found.log_ratio + half_width(found, -np.log(1 - effect), plan.policy.promote_alpha / 2) < 0
    median = np.median(np.where(told.any(axis=1), told.argmax(axis=1) + 1, looks)) * step
    assert median == pytest.approx(stage.users, rel=0.25)


def test_an_experiment_that_cannot_tell_the_smallest_effect_in_its_time_says_which_one_it_can() -> None:
    """An A/B of the default settings at 1,000 users a day: two months for 10 %, 23 % can be told in two weeks."""
    plan = plan_for(Kind.AB, Plan((Stage(500, min_users=500),)))
    few = Traffic(users_per_day=1_000.0, success_rate=0.05)
    found = forecast(plan, few, Kind.AB)
    assert found.stages[0].limited_by == "proof of a difference"
    assert (found.users or 0) > 50_000
    (warning,) = found.warnings
    assert "a difference of 10% takes about" in warning
    assert "in the 14.0 of the experiment about 23% can be" in warning
    told = forecast(Plan(plan.stages, Policy(smallest_effect=0.23)), few, Kind.AB)
    assert told.warnings == []
    assert forecast(plan, Traffic(200_000.0, 0.05), Kind.AB).warnings == []


def test_an_experiment_may_wait_for_its_least_users_and_not_for_a_margin() -> None:
    plan = Plan((Stage(5_000, min_users=10**9, margin=0.001),))
    found = forecast(plan, MANY, Kind.AB)
    assert found.stages[0].limited_by == "minimum users"
    assert found.warnings[0].startswith("stage 0 (50%) takes about 100000.0 days, longer than its maximum of 1.0")
    barren = forecast(plan, Traffic(1_000.0, 0.0), Kind.BANDIT)
    assert barren.warnings == ["nothing was taken lately: no difference can be proven at this success rate"]


def test_two_of_many_arms_are_told_apart_later_than_two_of_two() -> None:
    users = [forecast(Plan((Stage(10_000 - 10_000 // arms),)), MANY, Kind.BANDIT).users or 0 for arms in (2, 4, 8)]
    assert users[0] == forecast(Plan((Stage(5_000),)), MANY, Kind.AB).users
    assert [each / users[0] for each in users] == pytest.approx([1.0, 2.0, 4.0], rel=0.01)


def test_unknown_traffic_is_said_and_leaves_no_number_made_up() -> None:
    unknown = forecast(Plan(RAMP), Traffic(0.0, 0.0))
    assert unknown.warnings == ["no traffic is known: users and days cannot be told"]
    assert (unknown.users, unknown.days, unknown.canary_users_to_catch) == (None, None, None)
    barren = forecast(Plan(RAMP), Traffic(1_000.0, 0.0))
    assert barren.warnings == ["nothing was taken lately: no margin can be proven at this success rate"]


@pytest.mark.parametrize("traffic", [Traffic(0.0, 0.0), Traffic(1.0, 1.0), Traffic(1e9, 1e-9), MANY])
def test_any_traffic_and_an_empty_plan_have_a_forecast(traffic: Traffic) -> None:
    for plan in (Plan(), Plan(RAMP), Plan((Stage(10_000),)), Plan((Stage(5_000),), Policy(tolerated_harm=0.5))):
        for kind in Kind:
            json.dumps(asdict(forecast(plan, traffic, kind)), allow_nan=False)


@pytest.mark.parametrize("mean", [0.02, 0.3, 1.0, 20.0])
def test_the_median_of_an_inverse_gaussian_is_scipy_s(mean: float) -> None:
    assert _inverse_gaussian_median(mean) == pytest.approx(float(invgauss.median(mean)), rel=1e-12)
