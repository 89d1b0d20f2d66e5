"""A bandit: who gets how many users, that nobody falls below the floor, and what it loses against always showing the best."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, GROUPS, Arm, Metric, VariantWindow
from online_models.rollout_store import Grouped
from serving_api.rollouts.bandit import (
    FEWEST_GROUPS,
    Learned,
    Sampling,
    answering,
    best_shares,
    comparable,
    design_effect,
    floored,
    learn,
    standardised,
)

V1, V2, V3 = VERSIONS = tuple(ModelVersion(f"v{number}") for number in (1, 2, 3))
EQUAL = (Arm(V1, 3_334), Arm(V2, 3_333), Arm(V3, 3_333))
HOUR_MS = 3_600_000
SAMPLING = Sampling(timedelta(hours=1), fewest_trials=100, floor=0.05, half_life=timedelta(days=2))


def window(
    hour: int, version: ModelVersion, requests: int, hits: int, variant: str = "", clicks: tuple[int, int] = (0, 0)
) -> VariantWindow:
    """One hour of one arm."""
    variant = variant or ("stable" if version == V1 else "arm")
    start = hour * HOUR_MS
    return VariantWindow(
        ModelName("movies"), version, 1, 0, start, start + HOUR_MS, 0, 0, requests, hits, *clicks, variant=variant
    )


def windows(*hours: Sequence[tuple[int, int]]) -> list[VariantWindow]:
    """Requests and hits of each arm, hour by hour."""
    return [
        window(hour, version, requests, hits)
        for hour, arms in enumerate(hours)
        for version, (requests, hits) in zip(VERSIONS, arms, strict=False)
    ]


def learned(
    found: Sequence[VariantWindow], sampling: Sampling = SAMPLING, metric: Metric = Metric.HIT_RATE, seed: int = 0
) -> Learned | str:
    return learn(EQUAL, found, {}, metric, sampling, np.random.default_rng(seed))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda shares: sum(shares) > 0.01),
    st.floats(0.0001, 0.9),
)
def test_weights_add_up_to_all_users_and_keep_the_floor(shares: list[float], floor: float) -> None:
    weights = floored(np.array(shares), floor)
    assert sum(weights) == FULL_WEIGHT_BP
    assert min(weights) >= min(round(floor * FULL_WEIGHT_BP), FULL_WEIGHT_BP // len(shares))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda shares: sum(shares) > 0.01), st.floats(0.01, 0.1)
)
def test_a_weight_is_the_floor_and_the_arm_s_part_of_the_rest(shares: list[float], floor: float) -> None:
    least = round(floor * FULL_WEIGHT_BP)
    rest = FULL_WEIGHT_BP - least * len(shares)
    for weight, share in zip(floored(np.array(shares), floor), shares, strict=True):
        assert weight == pytest.approx(least + rest * share / sum(shares), abs=1.0)


def test_nothing_is_learned_before_every_arm_has_been_tried() -> None:
    assert learned(windows([(500, 50), (500, 50), (99, 9)])) == "fewer than 100 trials of v3"
    assert learned([]) == "fewer than 100 trials of v1, v2, v3"
    assert isinstance(learned(windows([(500, 50), (500, 50), (100, 9)])), Learned)


def test_the_best_arm_gets_all_but_the_floors_and_equal_arms_the_same() -> None:
    clear = learned(windows([(4_000, 800), (4_000, 1_200), (4_000, 800)]))
    assert isinstance(clear, Learned)
    assert [arm.weight_bp for arm in clear.arms] == [500, 9_000, 500]
    equal = learned(windows([(4_000, 800)] * 3))
    assert isinstance(equal, Learned)
    assert all(abs(arm.weight_bp - 3_333) < 400 for arm in equal.arms)


def test_the_same_seed_gives_the_same_weights_and_the_evidence_says_why() -> None:
    found = windows([(400, 80), (400, 90), (400, 85)])
    first, second = learned(found), learned(found)
    assert first == second
    assert isinstance(first, Learned)
    rows = first.evidence["arms"]
    assert isinstance(rows, list)
    assert [(row["version"], row["rate"], row["weight_bp"]) for row in rows] == [
        (arm.version, rate, arm.weight_bp) for arm, rate in zip(first.arms, (0.2, 0.225, 0.2125), strict=True)
    ]


def test_clicks_count_where_the_metric_is_ctr() -> None:
    found = [
        window(0, version, 1_000, 500, clicks=(2_000, clicks))
        for version, clicks in zip(VERSIONS, (100, 300, 100), strict=True)
    ]
    better = learned(found, metric=Metric.CTR)
    assert isinstance(better, Learned)
    assert better.arms[1].weight_bp == 9_000


def test_what_stood_in_for_an_arm_and_other_versions_do_not_count() -> None:
    found = [
        *windows([(200, 20), (200, 20), (200, 20)]),
        window(0, V2, 900, 900, "fallback"),
        window(0, ModelVersion("v9"), 5, 5),
    ]
    counts = comparable(found, VERSIONS, Metric.HIT_RATE)
    assert (counts.trials.tolist(), counts.successes.tolist()) == ([[200.0] * 3], [[20.0] * 3])


def test_a_window_that_an_arm_is_missing_in_compares_nothing() -> None:
    counts = comparable(windows([(200, 20), (200, 20), (200, 20)], [(200, 20), (200, 20)]), VERSIONS, Metric.HIT_RATE)
    assert len(counts.trials) == 1


def test_an_arm_that_grew_while_everybody_took_more_is_no_better() -> None:
    """Arms alike in each window: summed up, the second would be at 0.37 and the first at 0.13."""
    counts = comparable(windows([(900, 90), (100, 10)], [(100, 40), (900, 360)]), (V1, V2), Metric.HIT_RATE)
    rates, trials = standardised(counts, timedelta(days=10**6))
    assert rates == pytest.approx([0.25, 0.25])
    assert (trials < 400).all()  # (sum w)^2 / sum (w^2 / n), far fewer than the 1,000 trials of each


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 10**6))
def test_of_one_window_the_rates_and_trials_are_its_own(first: int, second: int, seed: int) -> None:
    hits = np.random.default_rng(seed).binomial([first, second], 0.3)
    counts = comparable(windows([(first, int(hits[0])), (second, int(hits[1]))]), (V1, V2), Metric.HIT_RATE)
    rates, trials = standardised(counts, timedelta(days=1))
    assert rates == pytest.approx([hits[0] / first, hits[1] / second])
    assert trials == pytest.approx([first, second])


def test_the_variance_of_a_standardised_rate_is_that_of_its_trials() -> None:
    """Monte Carlo, against (sum w)^2 / sum (w^2 / n) trials where old windows count in full."""
    rng, rate = np.random.default_rng(1), 0.3
    trials = np.array([[90, 30], [40, 60], [20, 80]])
    found = []
    for _ in range(4_000):
        hits = rng.binomial(trials, rate)
        drawn = windows(*[list(zip(n, x, strict=True)) for n, x in zip(trials.tolist(), hits.tolist(), strict=True)])
        rates, behind = standardised(comparable(drawn, (V1, V2), Metric.HIT_RATE), timedelta(days=10_000))
        found.append(rates)
    assert np.var(found, axis=0) == pytest.approx(rate * (1 - rate) / behind, rel=0.1)


def test_old_windows_say_less() -> None:
    turned = windows(*([[(100, 40), (100, 20), (100, 20)]] * 48 + [[(100, 20), (100, 40), (100, 20)]] * 24))
    short = learned(turned, Sampling(timedelta(hours=1), 100, 0.05, half_life=timedelta(hours=8)))
    long = learned(turned, Sampling(timedelta(hours=1), 100, 0.05, half_life=timedelta(days=100)))
    assert isinstance(short, Learned)
    assert isinstance(long, Learned)
    assert short.arms[1].weight_bp > 8_000 > 1_000 > long.arms[1].weight_bp


def grouped(trials: npt.NDArray[np.int64], successes: npt.NDArray[np.int64]) -> Grouped:
    """As requests and hits, and the same as impressions and clicks."""
    return np.stack([trials, successes, trials, successes]).astype(np.int64)


@pytest.mark.parametrize(("requests_of_a_user", "expected"), [(1, 1.0), (20, 1 + 19 * 0.2)])
def test_users_who_return_are_as_many_trials_as_their_variance_says(requests_of_a_user: int, expected: float) -> None:
    """Beta(a, b) users of intra-class correlation 1 / (a + b + 1) = 0.2: Kish's 1 + (m - 1) rho."""
    rng = np.random.default_rng(3)
    effects = []
    for _ in range(40):
        groups = rng.integers(0, GROUPS, 3_000)
        hits = rng.binomial(requests_of_a_user, rng.beta(1.2, 2.8, 3_000))
        trials = np.bincount(groups, minlength=GROUPS) * requests_of_a_user
        counts = grouped(trials, np.bincount(groups, hits, GROUPS).astype(np.int64))
        effects.append(design_effect([counts], Metric.HIT_RATE))
    assert np.mean(effects) == pytest.approx(expected, rel=0.08)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=GROUPS, max_size=GROUPS))
def test_a_design_effect_is_a_finite_number_from_1(counts: list[tuple[int, float]]) -> None:
    trials = np.array([n for n, _ in counts])
    successes = np.array([int(n * share) for n, share in counts])
    effect = design_effect([grouped(trials, successes)], Metric.CTR)
    assert 1.0 <= effect < np.inf


def test_too_few_groups_say_nothing_about_users() -> None:
    trials = np.zeros(GROUPS, np.int64)
    trials[: FEWEST_GROUPS - 1] = 100
    assert design_effect([grouped(trials, trials // 2 * (np.arange(GROUPS) % 2))], Metric.HIT_RATE) == 1.0
    assert design_effect([], Metric.HIT_RATE) == 1.0


def test_fewer_independent_trials_spread_the_users_more() -> None:
    rates, trials = np.array([0.20, 0.24]), np.array([1_000.0, 1_000.0])
    sure = best_shares(rates, trials, np.random.default_rng(0))
    unsure = best_shares(rates, trials / 10.0, np.random.default_rng(0))
    assert sure[1] > unsure[1] > 0.5


def test_an_arm_whose_users_return_is_believed_later() -> None:
    """Half of the groups take everything, the others nothing: no user's second request tells anything new."""
    trials = np.full(GROUPS, 20, np.int64)
    clustered = grouped(trials, trials * (np.arange(GROUPS) % 2))
    found = windows([(1_000, 500), (1_000, 540), (1_000, 500)])
    independent = learned(found)
    cautious = learn(
        EQUAL, found, dict.fromkeys(VERSIONS, clustered), Metric.HIT_RATE, SAMPLING, np.random.default_rng(0)
    )
    assert isinstance(independent, Learned)
    assert isinstance(cautious, Learned)
    assert independent.arms[1].weight_bp > cautious.arms[1].weight_bp + 1_000
    assert cautious.evidence["design_effect"] == pytest.approx(20.0, rel=0.02)


def played(world: npt.NDArray[np.float64], sampling: Sampling, seed: int) -> npt.NDArray[np.float64]:
    """Weights of the arms hour by hour, (hours, arms), in a world of rates (hours, arms) with 300 requests an hour; an arm of
    the rate NaN does not answer."""
    rng, found, weights = np.random.default_rng(seed), list[VariantWindow](), []
    arms: tuple[Arm, ...] = EQUAL
    for hour, rates in enumerate(world):
        share = np.array([arm.weight_bp for arm in arms]) / FULL_WEIGHT_BP
        weights.append(share)
        requests = rng.multinomial(300, share)
        requests = np.where(np.isnan(rates), 0, requests)
        hits = rng.binomial(requests, np.nan_to_num(rates))
        found += [
            window(hour, version, int(n), int(x)) for version, n, x in zip(VERSIONS, requests, hits, strict=True) if n
        ]
        match learn(arms, found, {}, Metric.HIT_RATE, sampling, rng):
            case Learned(changed):
                arms = changed
            case str():
                pass
    return np.array(weights)


def test_an_arm_that_answers_no_more_does_not_stop_the_others_from_being_compared() -> None:
    """v3 raises from hour 24 on, and from then on v2, the best so far, takes a tenth of what it took."""
    world = np.tile([0.20, 0.30, 0.20], (96, 1))
    world[24:] = [0.20, 0.03, np.nan]
    for seed in range(4):
        weights = played(world, SAMPLING, seed)
        assert weights[23, 1] > 0.8
        assert weights[48, 1] < 0.2
        assert weights[-1].tolist() == [0.9, 0.05, 0.05]


def silence(hours: int, requests: int = 100) -> list[VariantWindow]:
    """A day of three arms, and hours without v3."""
    return windows(*[[(requests, requests // 5)] * 3] * 24, *[[(requests, requests // 5)] * 2] * hours)


def test_an_arm_without_a_window_is_held_at_the_floor_and_named() -> None:
    found = learned(silence(2))
    assert isinstance(found, Learned)
    assert found.silent == ("no window of v3 since 1970-01-02 00:00:00 UTC",)
    assert found.evidence["silent"] == list(found.silent)
    assert found.arms[2].weight_bp == 500
    rows = found.evidence["arms"]
    assert isinstance(rows, list)
    assert rows[2] == {"version": "v3", "trials": 0.0, "rate": None, "best": 0.0, "weight_bp": 500}


def test_an_arm_is_missed_after_as_many_requests_as_one_at_the_floor_would_have_told_of() -> None:
    assert mute(silence(1)) == {}  # 0.05 of 200 are 10
    assert list(mute(silence(2))) == [V3]
    seldom = silence(49, requests=1)
    assert list(mute(seldom)) == [V3]  # for longer than a half-life
    assert mute(seldom[:-2]) == {}


def mute(found: Sequence[VariantWindow]) -> dict[ModelVersion, str]:
    return answering(found, VERSIONS, Metric.HIT_RATE, SAMPLING).mute


def test_an_arm_that_answers_again_waits_for_trials_and_is_then_compared_over_that_time_alone() -> None:
    back = [*silence(5), *[window(29, version, 50, 10) for version in VERSIONS]]
    assert mute(back) == {V3: "v3 answers again since 1970-01-02 05:00:00 UTC, 50 trials"}
    later = [
        *back,
        *[
            window(hour, version, 50, took)
            for hour in (30, 31)
            for version, took in zip(VERSIONS, (10, 10, 40), strict=True)
        ],
    ]
    found = learned(later)
    assert isinstance(found, Learned)
    assert (found.silent, found.arms[2].weight_bp) == ((), 9_000)
    rows = found.evidence["arms"]
    assert isinstance(rows, list)
    assert [row["trials"] < 151 for row in rows] == [True] * 3, "nothing of before its return"


def test_what_was_learned_while_an_arm_was_silent_is_kept_when_it_comes_back() -> None:
    """v3 is silent from hour 24 to 72; meanwhile v2, the best so far, falls to a tenth."""
    world = np.tile([0.20, 0.50, 0.20], (120, 1))
    world[24:, 1] = 0.05
    world[24:72, 2] = np.nan
    for seed in range(4):
        weights = played(world, SAMPLING, seed)
        assert weights[71, 1] < 0.2
        assert weights[73:, 1].max() < 0.3


def test_an_arm_that_never_answered_and_arms_that_showed_nothing_are_told() -> None:
    never = learned(windows([(500, 50), (500, 150)]))
    assert isinstance(never, Learned)
    assert (never.silent, never.arms[1].weight_bp) == (("no window of v3",), 9_000)
    nothing_shown = learned(windows([(900, 90)] * 3), metric=Metric.CTR)
    assert nothing_shown == "no window of v1; no window of v2; no window of v3"


def regret(world: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Hits missed against always showing the best of the hour, per request."""
    return float(np.mean(world.max(axis=1) - (weights * world).sum(axis=1)))


def test_regret_is_below_half_of_equal_shares_and_no_arm_ever_falls_below_its_floor() -> None:
    world = np.tile([0.20, 0.26, 0.20], (120, 1))
    runs = [played(world, SAMPLING, seed) for seed in range(8)]
    uniform = regret(world, np.full_like(world, 1 / 3))
    assert np.mean([regret(world, weights) for weights in runs]) < 0.5 * uniform
    assert min(weights.min() for weights in runs) >= 0.05 - 1 / FULL_WEIGHT_BP


def test_where_the_world_drifts_the_discount_follows_and_a_long_memory_does_not() -> None:
    """All rates rise and fall with the day while the best arm becomes the worst."""
    day = 1.0 + 0.5 * np.sin(np.arange(144) / 24 * 2 * np.pi)[:, None]
    world = day * np.concatenate([np.tile([0.20, 0.28, 0.20], (72, 1)), np.tile([0.28, 0.20, 0.20], (72, 1))])
    following = Sampling(timedelta(hours=1), 100, 0.05, timedelta(hours=24))
    remembering = Sampling(timedelta(hours=1), 100, 0.05, timedelta(days=10_000))
    short = [regret(world, played(world, following, seed)) for seed in range(4)]
    long = [regret(world, played(world, remembering, seed)) for seed in range(4)]
    assert np.mean(short) < 0.75 * np.mean(long)
    assert np.mean(short) < 0.6 * regret(world, np.full_like(world, 1 / 3))
