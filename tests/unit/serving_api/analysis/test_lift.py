"""The lift: stratified by stage, its variance that of users, its bounds right at any look."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, stdtrit

from online_models.contracts.rollouts import GROUPS
from serving_api.analysis.lift import Lift, half_width, lift, mixing_variance, nothing, terms, variance_for
from tests.tallies import spread

F64 = npt.NDArray[np.float64]


def by_group(hits: list[int], trials: list[int]) -> F64:
    """Terms of one stage of (canary, stable), spread over the groups."""
    return terms(np.stack([spread(each) for each in hits]), np.stack([spread(each) for each in trials]))


def test_one_stage_is_the_plain_ratio_of_rates() -> None:
    found = lift(by_group([300, 900], [1_000, 2_000]))
    assert float(found.log_ratio) == pytest.approx(np.log(0.3 / 0.45))
    assert (float(found.groups), float(found.canary_hits), float(found.stable_hits)) == (128, 300, 900)


def test_a_base_rate_that_drifts_while_the_weight_rises_biases_nothing() -> None:
    """Both stages are equal within; pooled, the canary would be at 12.7 % and stable at 19.2 %."""
    found = lift(by_group([100, 1_900], [500, 9_500]) + by_group([110, 110], [1_000, 1_000]))
    assert float(found.log_ratio) == pytest.approx(0.0, abs=1e-9)


def test_without_data_nothing_is_known() -> None:
    for summed in (nothing(GROUPS), by_group([0, 0], [10, 10]), by_group([5, 0], [10, 10]), by_group([0, 5], [0, 10])):
        found = lift(summed)
        assert float(found.variance) == np.inf
        assert float(half_width(found, 0.1, 0.05)) == np.inf


def test_a_canary_without_a_hit_counts_as_if_it_had_one() -> None:
    none, one = (lift(by_group([hits, 1_000], [1_000, 2_000])) for hits in (0, 1))
    assert float(none.log_ratio) == pytest.approx(float(one.log_ratio))
    assert 1.0 <= float(none.variance) < 1.1
    assert float(none.canary_hits) == 0


def test_the_variance_of_independent_requests_is_the_delta_method_s() -> None:
    rng = np.random.default_rng(1)
    trials = rng.poisson(100, (400, 2, GROUPS))
    hits = rng.binomial(trials, 0.2)
    variances = lift(terms(hits, trials)).variance
    expected = 2 * 0.8 / (0.2 * 100 * GROUPS)
    # the larger of a jackknife with 127 degrees of freedom and of the formula
    assert expected <= variances.mean() <= 1.1 * expected


def returning(rng: np.random.Generator, users: int, weights: list[float]) -> tuple[F64, float, float]:
    """Terms of users who come back in every stage, with exact clustering by user: log ratio and its delta-method variance."""
    rate, bucket, group = rng.beta(1.0, 4.0, users), rng.random(users), rng.integers(0, GROUPS, users)
    summed, residual, sums = nothing(GROUPS), np.zeros(users), np.zeros(2)
    for weight in weights:
        times = rng.poisson(3.0, users)
        hits = rng.binomial(times, rate)
        on = np.stack([bucket < weight, bucket >= weight])  # (2, users)
        trials_of, hits_of = on * times, on * hits
        n, total = trials_of.sum(axis=1), trials_of.sum()
        of_arm = [np.stack([np.bincount(group, each, GROUPS) for each in column]) for column in (hits_of, trials_of)]
        summed = summed + terms(*of_arm)
        a, b = hits_of[0].sum() * n[1] / total, hits_of[1].sum() * n[0] / total
        sums += (a, b)
        # each user's part of A - R B at R = 1, centred on what users of an equal rate would add
        mean = hits_of.sum() / total
        residual += (hits_of[0] - mean * trials_of[0]) * n[1] / total - (hits_of[1] - mean * trials_of[1]) * n[
            0
        ] / total
    variance = float((residual**2).sum() / (sums[0] * sums[1]))
    return summed, float(np.log(sums[0] / sums[1])), variance


def test_the_jackknife_is_clustering_by_user_though_users_return_and_change_arms() -> None:
    rng = np.random.default_rng(2)
    ratios, centres = [], []
    for _ in range(300):
        summed, centre, variance = returning(rng, 3_000, [0.05, 0.25, 0.5, 0.75])
        found = lift(summed)
        assert float(found.log_ratio) == pytest.approx(centre)
        ratios.append(float(found.variance) / variance)
        centres.append((centre, float(found.variance)))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)
    z = np.array([centre / np.sqrt(variance) for centre, variance in centres])
    assert z.std() == pytest.approx(1.0, abs=0.13)
    assert 0.9 <= (np.abs(z) < 1.96).mean() <= 0.985


def test_an_interval_of_independent_requests_would_be_too_narrow_for_users_who_return() -> None:
    rng = np.random.default_rng(3)
    rate, arm, group = rng.beta(0.5, 2.0, 600), rng.random(600) < 0.5, rng.integers(0, GROUPS, 600)
    times = rng.poisson(20.0, 600)
    hits = rng.binomial(times, rate)
    counted = [np.stack([np.bincount(group[on], each[on], GROUPS) for on in (arm, ~arm)]) for each in (hits, times)]
    found = lift(terms(*counted))
    independent = sum((1 - h / n) / h for h, n in zip(counted[0].sum(axis=1), counted[1].sum(axis=1), strict=True))
    assert float(found.variance) > 3 * independent


@pytest.mark.parametrize("alpha", [0.005, 0.025, 0.05])
def test_the_bound_is_narrowest_where_it_is_as_wide_as_the_effect(alpha: float) -> None:
    variance = variance_for(0.1, alpha)
    sharp = Lift(*map(np.array, (0.0, variance, 1e6, 1e3, 1e3)))
    assert float(half_width(sharp, 0.1, alpha)) == pytest.approx(0.1, rel=1e-3)

    def width(mixing: float) -> float:
        u = mixing / variance
        return float(np.sqrt(variance * (1 + 1 / u) * np.log((1 + u) / (2 * alpha) ** 2)))

    best = minimize_scalar(width, bounds=(1e-5, 1.0), method="bounded", options={"xatol": 1e-9})
    assert best.x == pytest.approx(float(mixing_variance(0.1, alpha)), rel=1e-2)
    assert best.fun == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("groups", [5, 27, 128])
def test_few_groups_get_student_s_tail(groups: int) -> None:
    variance = variance_for(0.1, 0.05)
    few, many = (
        float(half_width(Lift(*map(np.array, (0.0, variance, n * 1.0, 1e3, 1e3))), 0.1, 0.05)) for n in (groups, 1e9)
    )
    z = many / np.sqrt(variance)
    assert few / np.sqrt(variance) == pytest.approx(-stdtrit(groups - 1, ndtr(-z)), rel=0.03)


@pytest.mark.parametrize("alpha", [1e-300, 0.005, 0.3, 0.9])
def test_widths_are_finite_and_positive_for_any_variance_and_alpha(alpha: float) -> None:
    variances = np.array([1e-12, 1e-3, 1.0, 1e3])
    found = Lift(np.zeros(4), variances, np.array([1.0, 2.0, 5.0, 128.0]), np.ones(4), np.ones(4))
    widths = half_width(found, 0.1, alpha)
    assert np.isfinite(widths).all()
    assert (widths > 0).all()


def test_a_true_ratio_is_hardly_ever_left_out_though_one_looks_all_the_time() -> None:
    """600 people who return, at 5 % on the canary: from 30 users on."""
    rng = np.random.default_rng(4)
    runs, users = 200, 600
    rate, bucket = rng.beta(1.6, 2.4, (runs, users)), rng.random((runs, users))
    cell = np.arange(runs)[:, None] * 2 * GROUPS + (bucket >= 0.05) * GROUPS + rng.integers(0, GROUPS, (runs, users))
    hits, trials = np.zeros((2, runs, 2, GROUPS))
    ever = np.zeros(runs, np.bool_)
    for _ in range(30):
        active = rng.random((runs, users)) < 0.2
        won = active & (rng.random((runs, users)) < rate)
        for counted, mask in ((trials, active), (hits, won)):
            counted += np.bincount(cell[mask], minlength=runs * 2 * GROUPS).reshape(runs, 2, GROUPS)
        found = lift(terms(hits, trials))
        ever |= found.log_ratio - half_width(found, 0.5, 0.05) > 0.0
    assert ever.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
