"""Prequential drift against means written out in full; its bound on false alarms; what it says of a drop."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.drift.composite import drop_exceeds
from online_models.drift.prequential import Prequential, Worse

F64 = npt.NDArray[np.float64]


def a_stream(seed: int) -> F64:
    """Rates, or real losses, whose mean jumps up to twice."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(300, 1500))
    level = np.full(n, 0.5)
    for start in rng.integers(0, n, 2):
        level[start:] = rng.choice([0.05, 0.95])
    if seed % 2:
        return (rng.random(n) < level).astype(np.float64)
    return rng.gamma(2.0, level + 0.1, n)


def oracle(values: F64, detector: Prequential) -> list[int]:
    """The places of detections, each look from all values since the last detection."""
    found, start, furthest, clock = [], 0, 0.0, max(1, detector.window // 10)
    fast, slow = ((w - 1) / (w + 1) for w in (detector.window, detector.past))
    log = np.log(detector.false_alarm_every / clock)
    for i in range(len(values)):
        n, x = i + 1 - start, values[start : i + 1]
        w_fast, w_slow = (fade ** np.arange(n)[::-1] for fade in (fast, slow))
        if n > 1:
            furthest = max(furthest, abs(x[-1] - np.average(x[:-1], weights=w_slow[1:])))
        if n < 2 * detector.window or n % clock:
            continue
        w_fast, w_slow = w_fast / w_fast.sum(), w_slow / w_slow.sum()
        recent, past = w_fast @ x, w_slow @ x
        variance = (w_slow @ (x - past) ** 2) * ((w_fast - w_slow) ** 2).sum()
        margin = np.sqrt(2 * variance * log) + w_fast.max() * furthest / 3 * log
        worse = recent - past if detector.worse is Worse.HIGHER else past - recent
        if worse > margin and worse > detector.fraction * abs(past):
            found.append(i)
            start, furthest = i + 1, 0.0
    return found


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 20, 60, 100]),
    st.sampled_from([2, 20]),
    st.sampled_from([0.01, 0.1, 0.5]),
    st.sampled_from(Worse),
)
@settings(max_examples=25, deadline=None)
def test_detections_are_those_of_the_means_written_out(
    seed: int, window: int, pasts: int, fraction: float, worse: Worse
) -> None:
    values = a_stream(seed)
    every = 10 * window
    detector = Prequential(window=window, past=pasts * window, fraction=fraction, worse=worse, false_alarm_every=every)
    found = []
    for i in range(len(values)):
        detector.update(values[i : i + 1])
        if detector.drift_detected:
            found.append(i)
    assert found == oracle(values, detector)


def test_these_streams_hold_detections() -> None:
    found = 0
    for seed in range(20):
        detector = Prequential(window=60, false_alarm_every=600)
        detector.update(a_stream(seed))
        found += detector.detections
    assert found >= 5


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("window", [100, 2_000])
def test_false_alarms_are_no_more_than_promised_without_any_floor_of_effect(rate: float, window: int) -> None:
    rng = np.random.default_rng(6)
    every, told = 20_000, 2_000_000
    for worse in Worse:
        detector = Prequential(window=window, fraction=1e-9, worse=worse, false_alarm_every=every)
        detector.update((rng.random(told) < rate).astype(np.float64))
        assert detector.detections <= told / every


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.4), (0.2, 0.12), (0.1, 0.05)])
def test_a_drop_of_a_rate_is_found_with_its_size(before: float, after: float) -> None:
    rng = np.random.default_rng(7)
    detector = Prequential(worse=Worse.LOWER)
    detector.update((rng.random(100_000) < before).astype(np.float64))
    assert detector.detections == 0
    lasted = 0
    while not detector.detections:
        detector.update((rng.random(100) < after).astype(np.float64))
        lasted += 100
    assert lasted <= 2 * detector.window
    assert drop_exceeds(detector.mean_before, detector.mean_after, detector.fraction)
    assert detector.statistic > detector.threshold


def test_a_significant_change_below_the_fraction_is_no_drift() -> None:
    rng = np.random.default_rng(8)
    told = np.concatenate([rng.random(100_000) < 0.5, rng.random(50_000) < 0.47]).astype(np.float64)
    lenient, strict = (Prequential(worse=Worse.LOWER, window=20_000, fraction=f) for f in (0.1, 0.01))
    for detector in (lenient, strict):
        detector.update(told)
    assert (lenient.detections, strict.detections) == (0, 1)


def test_what_gets_better_is_no_drift() -> None:
    rng = np.random.default_rng(9)
    told = np.concatenate([rng.random(50_000) < 0.3, rng.random(50_000) < 0.6]).astype(np.float64)
    for worse, found in ((Worse.LOWER, False), (Worse.HIGHER, True)):
        detector = Prequential(worse=worse)
        detector.update(told)
        assert (detector.detections > 0) == found


def test_a_constant_loss_is_no_drift_and_its_rise_is() -> None:
    detector = Prequential(window=100)
    detector.update(np.zeros(5000))
    assert (detector.detections, detector.margin) == (0, 0.0)
    detector.update(np.ones(200))
    assert detector.detections == 1


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [[1.0]]])
def test_a_value_that_is_no_number_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        Prequential().update(np.array(bad))
