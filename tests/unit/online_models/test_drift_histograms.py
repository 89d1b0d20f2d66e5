"""PSI, KS and KL over histograms: their values, their calibration under no drift, and what they do not miss."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from online_models.contracts.features import FeatureKind
from online_models.contracts.ids import hash64
from online_models.drift.base import HistogramDetector
from online_models.drift.chi_square import ChiSquareDetector, chi_square_divergence
from online_models.drift.composite import Agreement, two_of_three
from online_models.drift.js import JsDetector, jensen_shannon
from online_models.drift.kl import KlDetector, kl_divergence
from online_models.drift.ks import KsDetector, kolmogorov_smirnov, largest_gaps, total_variation
from online_models.drift.psi import PsiDetector, population_stability_index
from online_models.drift.references import coarsen, sums_between
from online_models.drift.verdict import Verdict
from online_models.drift.wasserstein import WassersteinDetector, distances_moved, wasserstein
from online_models.histograms import Counts, count_hashed, count_numeric, rebin

F64 = npt.NDArray[np.float64]
DETECTORS: tuple[type[HistogramDetector], ...] = (
    *(PsiDetector, KsDetector, KlDetector),
    *(JsDetector, ChiSquareDetector, WassersteinDetector),
)
NUMERIC, CATEGORICAL = FeatureKind.NUMERIC, FeatureKind.CATEGORICAL
N, M = 500, 5000
COARSE = st.lists(st.integers(0, 500), min_size=2, max_size=30).map(lambda cells: np.array(cells, np.int64))


def numbers(values: F64, low: float = -8.0, high: float = 8.0) -> Counts:
    counts: Counts = count_numeric(values, np.zeros(len(values), np.int64), 1, low, high, 256)[0]
    return counts


def zipf(words: int) -> F64:
    weights = np.arange(1, words + 1) ** -1.05
    shares: F64 = weights / weights.sum()
    return shares


def words(rng: np.random.Generator, shares: F64, n: int) -> Counts:
    hashes = np.array([hash64(f"word-{i}") for i in range(len(shares))], np.uint64)
    none = np.empty(0, np.int64)
    drawn = hashes[rng.choice(len(shares), n, p=shares)]
    counts: Counts = count_hashed(drawn, np.zeros(n, np.int64), none, 1, 256)[0]
    return counts


def draw(rng: np.random.Generator, feature: str, n: int) -> Counts:
    """A window of n events of one of the features under test, 2 % of the numbers missing."""
    if feature.startswith("zipf"):
        return words(rng, zipf(int(feature.removeprefix("zipf"))), n)
    values = {
        "normal": rng.normal(size=n),
        "lognormal": np.log1p(rng.lognormal(size=n)),
        "zero-inflated": np.where(rng.random(n) < 0.8, 0.0, rng.exponential(size=n)),
        "count": rng.poisson(3, n).astype(np.float64),
    }
    return numbers(np.where(rng.random(n) < 0.02, np.nan, values[feature]))


def judge(reference: Counts, kind: FeatureKind, window: Counts) -> Agreement:
    readings = []
    for detector in (PsiDetector(reference, kind), KsDetector(reference, kind), KlDetector(reference, kind)):
        detector.update(window)
        readings.append(detector.reading)
    return two_of_three(*readings)


def kind_of(feature: str) -> FeatureKind:
    return CATEGORICAL if feature.startswith("zipf") else NUMERIC


@pytest.mark.parametrize("feature", ["normal", "lognormal", "zero-inflated", "count", "zipf5", "zipf50", "zipf1000"])
def test_at_most_one_window_in_a_hundred_without_drift_is_called_drift(feature: str) -> None:
    rng = np.random.default_rng(20)
    verdicts = []
    for _ in range(10):
        reference = draw(rng, feature, M)
        verdicts += [judge(reference, kind_of(feature), draw(rng, feature, N)).verdict for _ in range(50)]
    assert verdicts.count(Verdict.INCONCLUSIVE) == 0
    assert verdicts.count(Verdict.DRIFT) <= 5


def shifted_by_psi(shares: F64, towards: F64, psi: float) -> F64:
    """The shares whose population PSI from the given ones is `psi`, along a direction in log shares."""
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        other = shares * np.exp(middle * towards)
        other /= other.sum()
        low, high = (middle, high) if ((other - shares) * np.log(other / shares)).sum() < psi else (low, middle)
    return other


@pytest.mark.parametrize("card", [5, 50, 1000])
def test_a_population_psi_of_one_half_in_words_is_found_in_95_of_100_windows(card: int) -> None:
    rng = np.random.default_rng(21)
    found = []
    for _ in range(40):
        shares = zipf(card)
        other = shifted_by_psi(shares, rng.normal(size=card), 0.5)
        reference = words(rng, shares, M)
        found += [judge(reference, CATEGORICAL, words(rng, other, N)).verdict is Verdict.DRIFT for _ in range(10)]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("kind", ["mean", "spread", "missing"])
def test_a_population_psi_of_one_half_in_numbers_is_found_in_95_of_100_windows(kind: str) -> None:
    rng = np.random.default_rng(22)
    edges = stats.norm.ppf(np.linspace(0, 1, 11))

    def psi(shift: float, spread: float) -> float:
        shares = np.diff(stats.norm.cdf((edges - shift) / spread))
        return float(((shares - 0.1) * np.log(shares / 0.1)).sum())

    shift, spread, missing = {"mean": (0.7286, 1, 0.02), "spread": (0, 2.0159, 0.02), "missing": (0, 1, 0.2133)}[kind]
    gone = (missing - 0.02) * np.log(missing / 0.02 * 0.98 / (1 - missing))
    assert psi(shift, spread) + gone == pytest.approx(0.5, abs=0.001)
    found = []
    for _ in range(20):
        reference = numbers(np.where(rng.random(M) < 0.02, np.nan, rng.normal(size=M)))
        for _ in range(20):
            window = rng.normal(shift, spread, N)
            window[rng.random(N) < missing] = np.nan
            found.append(judge(reference, NUMERIC, numbers(window)).verdict is Verdict.DRIFT)
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize(
    ("statistic", "degrees"),
    [(population_stability_index, 30), (kl_divergence, 15), (jensen_shannon, 3.75), (chi_square_divergence, 30)],
)
def test_without_drift_most_of_the_sampling_bias_is_gone(
    statistic: Callable[[Counts, Counts], tuple[F64, F64]], degrees: int
) -> None:
    rng = np.random.default_rng(23)
    shares = zipf(31)
    for n in (500, 5000):
        values = [statistic(rng.multinomial(10 * n, shares), rng.multinomial(n, shares))[0] for _ in range(300)]
        assert np.mean(values) < 0.3 * degrees * (1 / n + 1 / (10 * n))


@given(COARSE, st.data())
@settings(deadline=None)
def test_divergences_are_finite_never_negative_and_0_for_the_same_counts(
    reference: Counts, data: st.DataObject
) -> None:
    window = np.array(
        data.draw(st.lists(st.integers(0, 500), min_size=len(reference), max_size=len(reference))), np.int64
    )
    if not reference.sum() or not window.sum():
        return
    for statistic in (population_stability_index, kl_divergence, jensen_shannon, chi_square_divergence):
        found, p = statistic(reference, window)
        assert 0 <= found < np.inf
        assert 0 <= p <= 1
        assert statistic(reference, reference)[0] == 0
        assert found == pytest.approx(statistic(reference[::-1], window[::-1])[0], abs=1e-9)
    tv, p = total_variation(reference, window)
    d, _ = kolmogorov_smirnov(reference, window)
    assert 0 <= d <= tv + 1e-12 <= 1 + 1e-9
    assert 0 <= p <= 1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_ks_on_bins_is_scipys_on_the_binned_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, window = rng.integers(0, 40, 600), rng.integers(0, 40, 300) // rng.integers(1, 3)
    d, p = kolmogorov_smirnov(np.bincount(reference, minlength=40), np.bincount(window, minlength=40))
    oracle = stats.ks_2samp(reference, window, method="asymp")
    assert d == pytest.approx(oracle.statistic)
    assert p == pytest.approx(stats.kstwobign.sf(np.sqrt(600 * 300 / 900) * d))


@given(st.lists(st.integers(1, 90), min_size=4, max_size=4), st.lists(st.integers(0, 90), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_p_value_for_words_is_scipys_chi_square(reference: list[int], window: list[int]) -> None:
    if not sum(window):
        return
    _, p = total_variation(np.array(reference), np.array(window))
    oracle = stats.chi2_contingency(np.array([reference, window]), correction=False)
    assert p == pytest.approx(oracle.pvalue)


@pytest.mark.parametrize("detector_type", DETECTORS)
@pytest.mark.parametrize(("window_events", "reference_events"), [(499, 5000), (500, 499), (0, 5000), (500, 0)])
def test_too_few_events_on_either_side_give_no_verdict(
    detector_type: type[HistogramDetector], window_events: int, reference_events: int
) -> None:
    reference, window = np.zeros(19, np.int64), np.zeros(19, np.int64)
    reference[3], window[12] = reference_events, window_events
    detector = detector_type(reference, NUMERIC, threshold=0.1)
    detector.update(window)
    assert (detector.enough, detector.drift_detected, detector.statistic) == (False, False, 0.0)


@pytest.mark.parametrize("detector_type", DETECTORS)
def test_a_verdict_is_taken_back_when_the_next_window_is_too_small(
    detector_type: type[HistogramDetector],
) -> None:
    reference, window = np.zeros(19, np.int64), np.zeros(19, np.int64)
    reference[3], window[12] = 5000, 500
    detector = detector_type(reference, NUMERIC, threshold=0.1)
    detector.update(window)
    assert detector.drift_detected
    detector.update(window // 2)
    assert (detector.enough, detector.drift_detected) == (False, False)


@pytest.mark.parametrize("detector_type", DETECTORS)
@pytest.mark.parametrize("kind", list(FeatureKind))
def test_a_constant_reference_is_quiet_for_itself_and_fires_for_another_constant(
    detector_type: type[HistogramDetector], kind: FeatureKind
) -> None:
    reference = np.zeros(19, np.int64)
    reference[7] = M
    detector = detector_type(reference, kind, threshold=0.1)
    detector.update(reference // 10)
    assert not detector.drift_detected
    detector.update(np.roll(reference, 1) // 10)
    assert detector.drift_detected


@pytest.mark.parametrize("kind", [NUMERIC, CATEGORICAL])
def test_ks_wants_a_difference_that_is_both_significant_and_of_some_size(kind: FeatureKind) -> None:
    def fires(reference: list[int], window: list[int]) -> bool:
        detector = KsDetector(np.array([0, *reference, 0, 0]), kind, min_events=10)
        detector.update(np.array([0, *window, 0, 0]))
        return detector.drift_detected

    assert fires([5000, 5000], [400, 600])
    assert not fires([5_000_000, 5_000_000], [480_000, 520_000])  # p is 0, but D only 0.02
    assert not fires([50, 50], [4, 6])  # D is 0.1, but of ten events


def test_one_corrupt_value_does_not_hide_a_shift() -> None:
    rng = np.random.default_rng(24)
    shifted = rng.normal(1.0, 1.0, 20_000)
    shifted[0] = 1e9
    reference = numbers(rng.normal(size=20_000))
    assert len(judge(reference, NUMERIC, numbers(shifted)).alarms) == 3


def test_missing_values_are_drift_although_ks_cannot_see_them() -> None:
    rng = np.random.default_rng(25)
    values = rng.normal(size=M)
    gone = np.where(rng.random(M) < 0.4, np.nan, values)
    verdict = judge(numbers(values), NUMERIC, numbers(gone))
    assert verdict.verdict is Verdict.DRIFT
    assert [alarm.detector for alarm in verdict.alarms] == ["psi", "kl"]


def test_a_detector_does_not_share_the_callers_reference() -> None:
    reference = np.array([0, 2500, 2500, 0, 0], np.int64)
    detector = PsiDetector(reference, NUMERIC)
    window = reference // 10
    reference[:] = [0, 0, 0, 5000, 0]
    detector.update(window)
    assert not detector.drift_detected


def test_kernels_over_many_features_give_what_each_feature_gives_alone() -> None:
    rng = np.random.default_rng(10)
    cells = (1, 3, 40, 256, 7)
    held = [rng.integers(0, 50, each).astype(np.float64) for each in cells]
    now = [rng.integers(0, 50, each).astype(np.float64) for each in cells]
    held[1][:], now[4][:] = 0.0, 0.0  # empty sides
    ends = np.cumsum(cells)
    bounds = np.stack([ends - cells, ends], 1)
    for kernel in (largest_gaps, distances_moved):
        whole = kernel(np.concatenate(held), np.concatenate(now), bounds)
        alone = [kernel(r, h, np.array([[0, len(r)]]))[0] for r, h in zip(held, now, strict=True)]
        assert whole.tolist() == alone
        assert whole[[1, 4]].tolist() == [0.0, 0.0]
        assert (whole[2:4] > 0).all()


def test_wasserstein_is_scipys_less_its_bias_in_standard_deviations() -> None:
    rng = np.random.default_rng(11)
    reference, window = rng.multinomial(5_000, np.ones(60) / 60), rng.multinomial(500, np.arange(60) / 1_770)
    place, q = np.arange(60), reference / 5_000
    below = np.cumsum(q)
    expected = np.sqrt(2 / np.pi * np.maximum(below * (1 - below), 0) * (1 / 500 + 1 / 5_000)).sum()
    apart = stats.wasserstein_distance(place, place, reference, window) - expected
    deviation = np.sqrt((q * (place - (q * place).sum()) ** 2).sum())
    assert float(wasserstein(reference, window)) == pytest.approx(apart / deviation, rel=1e-9)
    assert wasserstein(reference, np.stack([window, reference])).shape == (2,)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_coarse_counts_of_many_features_are_those_of_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = [rng.poisson(3, size).astype(np.int64) for size in (4, 259, 30)]
    to = [rebin(each, kind) for each, kind in zip(counts, (NUMERIC, NUMERIC, CATEGORICAL), strict=True)]
    ends = np.cumsum([len(each) for each in counts])
    bounds = np.stack([np.append(0, ends[:-1]), ends], 1)
    coarse_of = np.concatenate([each.coarse_of for each in to]).astype(np.uint16)
    fine = np.concatenate(counts).astype(np.float64)
    bins = max(each.bins for each in to)
    found = coarsen(fine, bounds, coarse_of, bins)
    for row, each in enumerate(to):
        assert found[row, : each.bins].tolist() == each.apply(counts[row]).tolist()
        assert not found[row, each.bins :].any()
    assert sums_between(fine, bounds).tolist() == [int(each.sum()) for each in counts]
