"""DriftBench draws what it says: its laws are those of sampled values, its severities those of its drift."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from benchmarks import drift_bench as bench
from benchmarks.drift_accuracy import Tally, episodes, labels_of, windows_of
from online_models.histograms import count_numeric

SAMPLERS: dict[str, Callable[[np.random.Generator, int], bench.Floats]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "gamma": lambda rng, n: rng.gamma(2, size=n),
    "beta": lambda rng, n: rng.beta(2, 5, n),
    "t3": lambda rng, n: rng.standard_t(3, n),
    "zero-inflated": lambda rng, n: np.where(rng.random(n) < 0.8, 0.0, rng.exponential(size=n)),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.5, rng.normal(-2, 1, n), rng.normal(2, 0.5, n)),
    "count": lambda rng, n: rng.poisson(3, n).astype(float),
}


@pytest.mark.parametrize("family", bench.FAMILIES)
def test_cells_are_drawn_as_values_would_have_fallen(family: str) -> None:
    rng = np.random.default_rng(1)
    low, high = bench.quantile(family, 0.001), bench.quantile(family, 0.999)
    shares = np.diff(bench.below(family, np.linspace(low, high, 257), "", 0.0), prepend=0.0, append=1.0)
    values = SAMPLERS[family](rng, 200_000)
    counts = count_numeric(values, np.zeros(len(values), np.int64), 1, low, high, 256)[0][:-1]
    busy = shares * len(values) > 20
    x2 = ((counts - shares * len(values))[busy] ** 2 / (shares[busy] * len(values))).sum()
    assert stats.chi2.sf(x2, busy.sum() - 1) > 1e-4
    assert counts[~busy].sum() < 2 * shares[~busy].sum() * len(values) + 20


@pytest.mark.parametrize("family", bench.FAMILIES)
@pytest.mark.parametrize("jitter", [-0.3, 0.3])
def test_jitter_moves_a_law_and_leaves_it_one(family: str, jitter: float) -> None:
    x = np.linspace(-5, 20, 400)
    moved = bench.below(family, x, "", 0.0, jitter)
    assert (np.diff(moved) >= -1e-12).all()
    assert 0 <= moved.min() <= moved.max() <= 1
    assert ((moved - bench.below(family, x, "", 0.0)) * jitter <= 1e-9).all()


@pytest.mark.parametrize("drift", bench.WORD_DRIFTS)
@pytest.mark.parametrize("severity", bench.SEVERITIES)
def test_word_drift_has_the_severity_it_says(drift: str, severity: float) -> None:
    towards = np.random.default_rng(2).normal(size=50)
    strength = bench.word_strength(50, drift, severity, towards)
    shares = bench.word_shares(50, drift, strength, towards)
    assert shares.sum() == pytest.approx(1)
    if drift == "new":
        assert (strength - 0.01) * np.log(strength / 0.01) == pytest.approx(severity, rel=1e-6)
    else:
        old = bench.word_shares(50, "", 0.0, towards)
        assert bench.stability(old, shares, 1e-6) == pytest.approx(severity, rel=1e-6)


def test_a_run_is_its_seed_and_has_the_shape_it_says() -> None:
    one, again, other = (bench.run(3, number, 400, 4_000, 0.05) for number in (0, 0, 1))
    assert all(np.array_equal(a.panes, b.panes) and a.sketch == b.sketch for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0].panes, other[0].panes)
    assert len(one) == 60
    assert sum(bool(each.drift) for each in one) == bench.DRIFTING
    for each in one:
        assert each.panes.sum(1).tolist() == [100] * 80
        assert sum(each.sketch.counts) == 4_000
        assert windows_of(each.panes).sum(1).tolist() == [400] * 77
        labels = labels_of(each)
        assert (labels[:37] == bench.CLEAN).all()
        assert (labels == bench.DRIFTED).any() == bool(each.drift)


def test_a_tally_counts_streams_and_its_intervals_hold_the_rate() -> None:
    streams = bench.run(4, 0, 400, 4_000)
    alarms = np.stack([labels_of(each) == bench.DRIFTED for each in streams], 1)
    tally = Tally()
    tally.add(streams, alarms)
    assert tally.rate(0, 1)[0] == 0
    assert 0 < tally.rate(0, 1)[2] < 0.02
    assert tally.rate(2, 3)[0] == tally.rate(2, 3)[2] == 1
    assert (tally.triggers, tally.wrong, tally.before) == (0, 0, 37)
    tally.add(streams, ~alarms)
    rate, low, high = tally.rate(0, 1)
    assert rate == pytest.approx(0.5)
    assert low < rate < high
    assert episodes(np.array([True, False] * 5)) == 0
