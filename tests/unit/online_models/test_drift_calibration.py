"""P-values that hold: under chance alone, under what is usual in the reference, in sparse bins and sparse buckets."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from online_models.drift.buckets import BURSTS, POPULARITY, SHARES, SHIFT, bucket_sums, word_tests
from online_models.drift.calibration import HABITS, MIN_PANES, Habits, adjusted, detectable, residuals
from online_models.drift.fdr import benjamini_hochberg
from online_models.drift.policy import Policy, combine

F64 = npt.NDArray[np.float64]
BINS, PANES, WIDTH, EVENTS = 11, 60, 4, 500


def shares(rng: np.random.Generator, panes: int, habit: float) -> F64:
    """Shares (panes, BINS) that move together along one direction from pane to pane."""
    direction = np.linspace(-1, 1, BINS)
    logs = habit * rng.normal(size=(panes, 1)) * direction
    found: F64 = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    return found


def p_values(rng: np.random.Generator, habit: float, learn: bool, windows: int = 20, shift: float = 0.0) -> F64:
    """p-values of windows that move as usual, and of `shift` across what is usual."""
    panes = rng.multinomial(EVENTS, shares(rng, PANES, habit)).astype(np.int64)
    habits = Habits.none(1, BINS)
    if learn:
        habits.learn(0, panes, WIDTH)
    across = np.where(np.arange(BINS) % 2, 1.0, -1.0) * shift
    out = []
    for _ in range(windows):
        moved = shares(rng, WIDTH, habit) * np.exp(across)
        window = rng.multinomial(EVENTS, moved / moved.sum(1, keepdims=True)).sum(0)[None].astype(np.float64)
        reference = panes.sum(0)[None].astype(np.float64)
        unit = 1 / window.sum(1) + 1 / reference.sum(1)
        x2, _, _ = adjusted(residuals(reference, window), unit, habits.usual(np.array([float(WIDTH)])), habits)
        out.append(float(stats.chi2.sf(x2[0], BINS - 1)))
    return np.array(out)


def test_what_is_usual_is_no_drift_and_is_drift_without_the_panes() -> None:
    rng = np.random.default_rng(1)
    learned = np.concatenate([p_values(rng, 0.3, True) for _ in range(30)])
    naive = np.concatenate([p_values(rng, 0.3, False) for _ in range(30)])
    assert (learned < 0.05).mean() < 0.09
    assert (learned < 0.001).mean() < 0.01
    assert (naive < 0.001).mean() > 0.2


def test_without_habits_the_panes_cost_little() -> None:
    rng = np.random.default_rng(2)
    found = np.concatenate([p_values(rng, 0.0, True) for _ in range(30)])
    assert 0.02 < (found < 0.05).mean() < 0.08


def test_drift_across_a_habit_is_found_with_full_power() -> None:
    rng = np.random.default_rng(3)
    assert (p_values(rng, 0.3, True, windows=40, shift=0.2) < 1e-4).mean() > 0.95


def test_too_few_panes_teach_nothing() -> None:
    habits = Habits.none(1, BINS)
    habits.learn(0, np.full((MIN_PANES - 1, BINS), 50), WIDTH)
    assert habits.panes[0] == 0
    assert habits.usual(np.array([4.0])).tolist() == [0.0]
    habits.learn(0, np.random.default_rng(0).multinomial(EVENTS, np.full(BINS, 1 / BINS), MIN_PANES), WIDTH)
    assert habits.panes[0] == MIN_PANES


def test_the_directions_of_habit_are_orthonormal() -> None:
    rng = np.random.default_rng(4)
    habits = Habits.none(1, BINS + 3)
    habits.learn(0, rng.multinomial(EVENTS, shares(rng, PANES, 0.3)), WIDTH)
    known = habits.variance[0] > 0
    directions = habits.directions[0, known]
    assert 1 <= known.sum() <= HABITS
    assert directions @ directions.T == pytest.approx(np.eye(known.sum()), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=2, max_size=20))
@settings(max_examples=100, deadline=None)
def test_residuals_are_finite_and_signed_by_the_move(cells: list[tuple[int, int]]) -> None:
    reference, window = np.array(cells, np.float64).T
    if not reference.sum() or not window.sum():
        return
    roots = residuals(reference, window)
    assert np.isfinite(roots).all()
    moved = window / window.sum() - reference / reference.sum()
    assert (np.sign(roots[np.abs(moved) > 1e-12]) == np.sign(moved[np.abs(moved) > 1e-12])).all()


def test_where_counts_are_large_the_residuals_make_pearsons_chi_square() -> None:
    reference, window = np.array([500.0, 900.0, 600.0]), np.array([90.0, 200.0, 110.0])
    oracle = stats.chi2_contingency(np.array([reference, window]), correction=False).statistic
    assert (residuals(reference, window) ** 2).sum() == pytest.approx(oracle)


def test_one_event_that_the_reference_never_saw_is_no_drift() -> None:
    reference, window = np.array([[100_000.0, 100_000.0, 0.0]]), np.array([[500.0, 499.0, 1.0]])
    x2 = (residuals(reference, window) ** 2).sum()
    assert stats.chi2.sf(x2, 2) > 0.001
    assert ((window - [[500, 500, 0]]) ** 2 / np.maximum(window, 1)).sum() >= 1
    many = np.array([[450.0, 450.0, 100.0]])
    assert stats.chi2.sf((residuals(reference, many) ** 2).sum(), 2) < 1e-12


@pytest.mark.parametrize(("free", "significance"), [(10, 0.01 / 60), (31, 0.0005), (4, 0.01)])
def test_the_smallest_detectable_drift_is_found_99_times_in_100(free: int, significance: float) -> None:
    unit = 1 / 2_000 + 1 / 20_000
    least = float(detectable(np.array([float(free)]), np.array([unit]), np.array([significance]))[0])
    power = stats.ncx2.sf(stats.chi2.isf(significance, free), free, least / unit)
    assert 0.98 < power < 0.9985


def zipf(words: int) -> F64:
    weights = np.arange(1, words + 1) ** -1.05
    found: F64 = weights / weights.sum()
    return found


def of_words(reference: F64, window: F64, draws: float = 1.0) -> F64:
    bounds = np.array([[0, len(reference)]])
    found: F64 = word_tests(reference * draws, window * draws, bounds, np.zeros(1))[0][0]
    return found


@pytest.mark.parametrize("words", [5, 200, 20_000])
@pytest.mark.parametrize("n", [500, 5_000])
def test_tests_of_words_hold_at_any_cardinality(words: int, n: int) -> None:
    rng = np.random.default_rng(5)
    law = np.bincount(rng.integers(0, 4_096, words), zipf(words), 4_096)
    found = []
    for _ in range(15):
        reference = rng.multinomial(10 * n, law).astype(np.float64)
        found += [of_words(reference, rng.multinomial(n, law).astype(np.float64)) for _ in range(20)]
    p_value = np.array(found)
    assert ((p_value < 0.05).mean(0) < 0.1).all()
    assert ((p_value < 0.001).mean(0) < 0.014).all()
    assert np.isfinite(p_value).all()


def test_each_test_of_words_finds_what_it_asks_for() -> None:
    rng = np.random.default_rng(6)
    law = zipf(4_000)
    reference = rng.multinomial(20_000, law).astype(np.float64)
    mixed = law * np.exp(0.6 * rng.normal(size=len(law)))
    burst = law * 0.95
    burst[3_000:3_010] += 0.005
    steeper = np.arange(1, 4_001) ** -1.25
    for other, test in ((mixed, SHARES), (burst, BURSTS), (steeper, POPULARITY)):
        window = rng.multinomial(2_000, other / other.sum()).astype(np.float64)
        assert of_words(reference, window)[test] < 1e-6


def sums_of(reference: F64, window: F64, habit: float) -> F64:
    """What the tests of words are made of, bucket by bucket."""
    k = reference + window
    h, k = window[k > 0], k[k > 0]
    m, n = reference.sum(), window.sum()
    f = n / (n + m)
    v = f * (1 - f)
    away = h - k * f
    u = np.where(k > 1, (away**2 - (1 - 2 * f) * away) / (k * v) - 1, 0.0)
    mean = (k - 1) * v * habit
    variance = 2 * (k - 1) / k * (1 + mean) ** 2
    third = (4 * (k - 1) * (1 - 2 * f) ** 2 / v + 8 * (k - 1) * (k - 2)) / k**2 * (1 + mean) ** 3
    found = []
    for w in (SHIFT * v * k / (1 + SHIFT * v * k), np.ones(len(k))):
        w = np.where(k > 1, w, 0.0)
        found += [(w * u).sum(), (w * mean).sum(), (w**2 * variance).sum(), (w**3 * third).sum()]
    square = (k * np.log(k) ** 2 * (1 + k * v * habit)).sum() - (k * np.log(k)).sum() ** 2 / (n + m)
    return np.array([*found, (np.log(k) * away).sum(), v * max(square, 0.0), 1 / n + 1 / m])


@pytest.mark.parametrize("draws", [1.0, 0.25, 0.3])
@pytest.mark.parametrize("habit", [0.0, 0.01])
def test_sums_over_buckets_are_those_of_bucket_by_bucket(draws: float, habit: float) -> None:
    rng = np.random.default_rng(9)
    sides: list[tuple[F64, F64]] = []
    for words, events in ((4_000, 2_000), (50, 40_000), (3, 9)):  # few, more than 1,024, and hardly any in a bucket
        law = np.bincount(rng.integers(0, 4_096, words), zipf(words), 4_096)
        drawn: F64 = 4.0 * rng.multinomial([10 * events, events], law).astype(np.float64)
        sides.append((drawn[0], drawn[1]))
    reference, window = (np.concatenate(each) for each in zip(*sides, strict=True))
    bounds = np.array([[0, 4_096], [4_096, 8_192], [8_192, 12_288]])
    found = bucket_sums(reference, window, bounds, np.full(3, habit), np.full(3, draws), SHIFT)
    for row, (r, h) in enumerate(sides):
        assert found[row] == pytest.approx(sums_of(r * draws, h * draws, habit), rel=1e-9, abs=1e-9)


def test_words_that_come_in_groups_are_not_drift() -> None:
    rng = np.random.default_rng(7)
    law = zipf(300)

    def groups(events: int) -> F64:
        found: F64 = 4.0 * rng.multinomial(events, law).astype(np.float64)
        return found

    grouped = np.array([of_words(groups(20_000), groups(2_000), 0.25) for _ in range(60)])
    assert ((grouped < 0.01).mean(0) < 0.1).all()
    naive = np.array([of_words(groups(20_000), groups(2_000)) for _ in range(20)])
    assert (naive[:, SHARES] < 0.01).mean() > 0.9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0.001, 0.5))
@settings(max_examples=200, deadline=None)
def test_benjamini_hochberg_is_scipys(p_values: list[float], q: float) -> None:
    found = benjamini_hochberg(np.array(p_values), q)
    adjusted_p = stats.false_discovery_control(p_values, method="bh")
    clear = np.abs(adjusted_p - q) > 1e-9
    assert (found[clear] == (adjusted_p <= q)[clear]).all()


def test_a_q_outside_0_to_1_is_refused() -> None:
    for q in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="q between"):
            benjamini_hochberg(np.array([0.5]), q)


@pytest.mark.parametrize("rule", ["any", "two_of_three", "weighted"])
def test_combined_p_values_hold_for_independent_and_for_equal_detectors(rule: str) -> None:
    rng = np.random.default_rng(8)
    for p in (rng.random((40_000, 3)), np.repeat(rng.random((40_000, 1)), 3, 1)):
        found = combine(p, np.ones(3), rule)  # type: ignore[arg-type]
        assert (found < 0.01).mean() < 0.0125
        assert ((found >= 0) & (found <= 1)).all()


def test_a_detector_without_weight_or_without_reading_is_not_asked() -> None:
    p = np.array([[1e-9, 0.5, np.nan], [0.5, 1e-9, np.nan]])
    found = combine(p, np.array([1.0, 0.0, 1.0]), "weighted")
    assert found[0] < 1e-8
    assert found[1] == pytest.approx(0.5)
    assert combine(np.full((1, 3), np.nan), np.ones(3), "any").tolist() == [1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"q": 0.0},
        {"q": 1.0},
        {"effect": -0.1},
        {"effect": float("nan")},
        {"min_events": 0},
        {"weights": {"psi": -1.0}},
        {"weights": {"psi": 0.0}},
        {"thresholds": {"psi": float("nan")}},
    ],
)
def test_a_policy_refuses_what_makes_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="policy: expected"):
        Policy(**wrong)  # type: ignore[arg-type]
