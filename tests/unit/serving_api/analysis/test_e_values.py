"""E-values keep what their name says: an expectation of at most 1 where nothing is wrong, at any split and base rate."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binom

from serving_api.analysis.e_values import (
    EXCESS_RATIOS,
    HARM_EFFECTS,
    log_above,
    log_excess,
    log_harm,
    log_limit,
    log_split,
)

LAW = settings(deadline=None)
SHARES = [0.05, 0.25, 0.5, 0.98]
COUNTS = st.integers(0, 5_000)


def odds_share(share: float, ratio: float) -> float:
    """Probability that a success is the canary's."""
    return share * ratio / (share * ratio + 1.0 - share)


def expectation(log_e: np.ndarray[tuple[int], np.dtype[np.float64]], n: int, q: float) -> float:
    """Of e-values of 0 to n canary successes of n."""
    return float(np.exp(log_e) @ binom.pmf(np.arange(n + 1), n, q))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("tolerated", [0.0, 0.2])
def test_the_expectation_of_harm_is_one_at_its_null_and_less_for_better_canaries(
    share: float, n: int, tolerated: float
) -> None:
    canary = np.arange(n + 1)
    log_e = log_harm(canary[:, None], (n - canary)[:, None], [share], tolerated, 0.1)
    assert expectation(log_e, n, odds_share(share, 1.0 - tolerated)) == pytest.approx(1.0, abs=1e-9)
    for better in (1.01, 1.2, 3.0):
        assert expectation(log_e, n, odds_share(share, (1.0 - tolerated) * better)) < 1.0


@pytest.mark.parametrize("n", [5, 20])
def test_the_expectation_over_two_stages_with_different_splits_is_one(n: int) -> None:
    first, second = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    canary = np.stack([first, second], axis=-1)
    e = np.exp(log_harm(canary, n - canary, [0.05, 0.75], 0.0, 0.1))
    chance = [binom.pmf(np.arange(n + 1), n, share) for share in (0.05, 0.75)]
    assert float(chance[0] @ e @ chance[1]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("n", [1, 7, 60])
def test_the_expectation_of_an_excess_is_at_most_one_also_at_a_share_above_the_true_one(share: float, n: int) -> None:
    canary = np.arange(n + 1)
    log_e = log_excess(canary[:, None], (n - canary)[:, None], [share], 1.5)
    assert expectation(log_e, n, odds_share(share, 1.5)) == pytest.approx(1.0, abs=1e-9)
    assert expectation(log_e, n, odds_share(share, 1.0)) <= 1.0
    assert expectation(log_e, n, odds_share(0.8 * share, 1.5)) <= 1.0


@pytest.mark.parametrize("n", [1, 40])
def test_the_expectation_above_a_rate_is_at_most_one(n: int) -> None:
    log_e = log_above(np.arange(n + 1), n, 0.02)
    assert expectation(log_e, n, 0.02) == pytest.approx(1.0, abs=1e-9)
    assert expectation(log_e, n, 0.01) < 1.0


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("n", [1, 60])
def test_the_expectation_of_the_split_is_one_at_the_weight(share: float, n: int) -> None:
    canary = np.arange(n + 1)
    log_e = log_split(canary[:, None], (n - canary)[:, None], [share])
    assert expectation(log_e, n, share) == pytest.approx(1.0, abs=1e-6)


@LAW
@given(st.lists(st.tuples(st.sampled_from(SHARES), COUNTS, COUNTS), min_size=1, max_size=4), st.floats(0.02, 0.9))
def test_harm_is_the_mixture_of_products_of_binomial_likelihood_ratios(
    stages: list[tuple[float, int, int]], smallest: float
) -> None:
    effects = [(effect * smallest, part) for effect, part in HARM_EFFECTS if effect * smallest < 1.0]
    logs = [
        log(part / sum(each for _, each in effects))
        + sum(
            c * log(odds_share(share, 1.0 - loss) / share)
            + b * log((1.0 - odds_share(share, 1.0 - loss)) / (1.0 - share))
            for share, c, b in stages
        )
        for loss, part in effects
    ]
    share, canary, stable = (np.array(column) for column in zip(*stages, strict=True))
    found = float(log_harm(canary, stable, share, 0.0, smallest))
    assert found == pytest.approx(float(np.logaddexp.reduce(logs)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("counts", [(3, 40), (12, 300), (40, 500)])
def test_the_split_is_the_integral_it_stands_for(counts: tuple[int, int]) -> None:
    canary, stable = counts
    k = 0.95 * 0.05 / (0.1 * 0.05) ** 2

    def integrand(q: float) -> float:
        ratio = canary * log(q / 0.05) + stable * log((1.0 - q) / 0.95)
        return float(beta.pdf(q, k * 0.05, k * 0.95) * np.exp(ratio))

    integral = quad(integrand, 0.01, 0.15, epsrel=1e-10)[0]
    assert float(log_split([canary], [stable], [0.05])) == pytest.approx(log(integral), abs=1e-6)


@LAW
@given(COUNTS, COUNTS, st.sampled_from(SHARES))
def test_one_more_success_of_the_canary_never_adds_evidence_of_harm(canary: int, stable: int, share: float) -> None:
    one, more = (float(log_harm([c], [stable], [share], 0.0, 0.1)) for c in (canary, canary + 1))
    assert np.isfinite(one)
    assert more <= one + 1e-9


@LAW
@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.01, 0.9), st.floats(0.0, 0.09))
def test_an_excess_is_never_more_evidence_at_a_larger_share(
    canary: int, stable: int, share: float, more: float
) -> None:
    low, high = (float(log_excess([canary], [stable], [s], 1.5)) for s in (share, share + more))
    assert high <= low + 1e-9


def test_many_rollouts_at_once_are_as_each_by_itself() -> None:
    rng = np.random.default_rng(1)
    canary, stable = rng.integers(0, 300, (2, 6, 4, 3))
    share = [0.05, 0.25, 0.5]
    at_once = log_harm(canary, stable, share, 0.1, 0.2)
    assert at_once.shape == (6, 4)
    assert at_once[2, 3] == pytest.approx(float(log_harm(canary[2, 3], stable[2, 3], share, 0.1, 0.2)))


def test_a_canary_that_always_fails_is_found_after_a_few_users() -> None:
    assert float(log_excess([4], [0], [0.05], 1.5)) > log_limit(0.015 / 4)
    assert len(EXCESS_RATIOS) == 4
