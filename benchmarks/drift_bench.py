"""DriftBench: seeded streams whose drift is known, as the fine histograms that a flow would have counted.

- A run is 60 streams: 40 of numbers (eight families, 2 % missing) and 20 of words (Zipf 1.05 over 5 to 10,000 words).
  A reference of m rows in 40 panes, then 40 panes before and 40 after the onset, n/4 rows each; a window is 4 panes.
- 20 of the 60 drift: in mean, spread or missing rate; in mix, popularity skew or new words. Abruptly, gradually (rows of
  the new law among those of the old, over 5 windows), incrementally (the law itself moves) or recurring.
- Severity is the population PSI between the law after full drift and the law before, on the old law's deciles and a bin
  for missing values, or on all words; new words are measured against a floor of 1 %.
- Benign jitter: each pane's law is shifted by N(0, j) standard deviations, or each word's share by a factor exp(N(0, j)).
  It is in the reference too, and is no drift.
- Rows are independent given their pane's law, so that a pane's histogram is multinomial: cells are drawn, not rows, from
  exact cell probabilities. That is the same distribution and lets 50,000 rows cost what 500 do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import ndtr

from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.events import EventType
from online_models.contracts.features import NUMERIC_BINS, WORD_BUCKETS, FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from online_models.histograms import Counts, rebin

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

FAMILIES: Final = ("normal", "lognormal", "gamma", "beta", "t3", "zero-inflated", "bimodal", "count")
CARDINALITIES: Final = (5, 50, 1_000, 10_000)
SEVERITIES: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
PATTERNS: Final = ("abrupt", "gradual", "incremental", "recurring")
NUMERIC_DRIFTS: Final = ("mean", "spread", "missing")
WORD_DRIFTS: Final = ("mix", "skew", "new")
NUMBERS, WORDS, DRIFTING = 40, 20, 20
REFERENCE_PANES, HALF, PANES_PER_WINDOW = 40, 40, 4
PANE_MS: Final = 60_000
CLEAN, DRIFTED, BETWEEN = 0, 1, 2
_MISSING: Final = 0.02
_NEW_WORDS: Final = 10


@dataclass(frozen=True, slots=True)
class Law:
    """How one family's values are distributed at a given drift: P(X < x), and the standard deviation without drift."""

    below: Callable[[Floats, str, float], Floats]
    deviation: float


def _normal(x: Floats, drift: str, s: float) -> Floats:
    return np.asarray(ndtr((x - _mean(drift, s)) / _spread(drift, s)))


def _lognormal(x: Floats, drift: str, s: float) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(ndtr((np.log(np.maximum(x, 0.0)) - _mean(drift, s)) / _spread(drift, s)))


def _gamma(x: Floats, drift: str, s: float) -> Floats:
    unmoved = x / (1 + s) if drift == "mean" else 1.678 + (x - 1.678) / _spread(drift, s)
    return np.asarray(stats.gamma.cdf(unmoved, 2))


def _beta(x: Floats, drift: str, s: float) -> Floats:
    unmoved = x - 0.16 * s if drift == "mean" else 0.2645 + (x - 0.2645) / _spread(drift, s)
    return np.asarray(stats.beta.cdf(unmoved, 2, 5))


def _t3(x: Floats, drift: str, s: float) -> Floats:
    return np.asarray(stats.t.cdf((x - _mean(drift, s)) / _spread(drift, s), 3))


def _zero_inflated(x: Floats, drift: str, s: float) -> Floats:
    zeros = max(0.8 - 0.5 * s, 0.02) if drift == "spread" else 0.8
    positive = zeros + (1 - zeros) * -np.expm1(-np.maximum(x, 0.0) / (1 + _mean(drift, s)))
    return np.where(x > 0, positive, 0.0)


def _bimodal(x: Floats, drift: str, s: float) -> Floats:
    left = min(0.5 + 0.3 * s, 0.98) if drift == "spread" else 0.5
    shift = _mean(drift, s)
    return np.asarray(left * ndtr(x - shift + 2) + (1 - left) * ndtr((x - shift - 2) / 0.5))


def _count(x: Floats, drift: str, s: float) -> Floats:
    if drift != "spread":
        return np.asarray(stats.poisson.cdf(np.ceil(x) - 1, 3 * (1 + _mean(drift, s))))
    values = np.floor(3 + (np.arange(60) - 3) * (1 + s) + 0.5)
    held = np.append(0.0, np.cumsum(stats.poisson.pmf(np.arange(60), 3)))
    return np.asarray(held[np.searchsorted(values, x, side="left")])


def _mean(drift: str, s: float) -> float:
    return s if drift == "mean" else 0.0


def _spread(drift: str, s: float) -> float:
    return 1 + s if drift == "spread" else 1.0


_LAWS: Final = {
    "normal": Law(_normal, 1.0),
    "lognormal": Law(_lognormal, float(stats.lognorm.std(1))),
    "gamma": Law(_gamma, float(stats.gamma.std(2))),
    "beta": Law(_beta, float(stats.beta.std(2, 5))),
    "t3": Law(_t3, float(stats.t.std(3))),
    "zero-inflated": Law(_zero_inflated, 0.6),
    "bimodal": Law(_bimodal, float(np.sqrt(4 + 0.625))),
    "count": Law(_count, float(np.sqrt(3))),
}


def below(family: str, x: Floats, drift: str, s: float, jitter: float = 0.0) -> Floats:
    """P(X < x) of a family after drift s of a kind, moved by `jitter` of its standard deviations."""
    law = _LAWS[family]
    if family == "zero-inflated":  # the zeros stay
        return law.below(x / (1 + jitter), drift, s)
    if family == "count":  # some rows count one more, or one less, but never less than 0
        share, step = min(abs(jitter) * np.sqrt(3), 1.0), float(np.sign(jitter))
        moved = np.where(x <= 0, 0.0, law.below(np.where(x > 0, x - step, x), drift, s))
        return np.asarray((1 - share) * law.below(x, drift, s) + share * moved)
    return law.below(x - jitter * law.deviation, drift, s)


@lru_cache
def quantile(family: str, share: float) -> float:
    """The smallest x with P(X <= x) >= share, by bisection."""
    low, high = -60.0, 120.0
    for _ in range(80):
        middle = (low + high) / 2
        reached = below(family, np.array([np.nextafter(middle, np.inf)]), "", 0.0)[0] >= share
        low, high = (low, middle) if reached else (middle, high)
    return round(high, 9)


def stability(p: Floats, q: Floats, floor: float) -> float:
    """Population PSI of shares q against p, none of them taken below `floor`."""
    p, q = np.maximum(p, floor), np.maximum(q, floor)
    return float(((q - p) * np.log(q / p)).sum())


def _solve(psi_of: Callable[[float], float], severity: float, most: float = 60.0) -> float:
    """The drift s at which the PSI is the severity; `most` where it cannot be reached."""
    low, high = 0.0, 0.01
    while psi_of(high) < severity and high < most:
        high *= 2
    high = min(high, most)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if psi_of(middle) < severity else (low, middle)
    return high


@lru_cache
def numeric_strength(family: str, drift: str, severity: float) -> float:
    """How far a family must drift for a severity."""
    if drift == "missing":
        shares = np.array([_MISSING, 1 - _MISSING])
        return _solve(lambda s: stability(shares, shares + np.array([s, -s]), 1e-6), severity, 0.9)
    edges = np.unique([quantile(family, tenth / 10) for tenth in range(1, 10)])

    def deciles(s: float) -> Floats:
        return np.diff(below(family, edges, drift, s), prepend=0.0, append=1.0)

    return _solve(lambda s: stability(deciles(0.0), deciles(s), 1e-4), severity)


def word_shares(words: int, drift: str, s: float, towards: Floats) -> Floats:
    """Shares (words + 10,) after drift s; the last ten are words that the old law never has."""
    exponent = 1.05 + (s if drift == "skew" else 0.0)
    shares = np.arange(1, words + 1) ** -exponent
    if drift == "mix":
        shares = shares / shares.sum() * np.exp(s * (towards - towards.max()))
    new = s if drift == "new" else 0.0
    return np.append(shares / shares.sum() * (1 - new), np.full(_NEW_WORDS, new / _NEW_WORDS))


def word_strength(words: int, drift: str, severity: float, towards: Floats) -> float:
    """How far words must drift for a severity; new words count against a floor of 1 %."""
    if drift == "new":
        return _solve(lambda s: (s - 0.01) * np.log(s / 0.01) if s > 0.01 else 0.0, severity, 0.95)
    old = word_shares(words, "", 0.0, towards)
    return _solve(lambda s: stability(old, word_shares(words, drift, s, towards), 1e-6), severity)


@dataclass(frozen=True, slots=True)
class Stream:
    """One feature of a run.

    sketch : its reference; panes : int64 (80, cells + 3), the histograms of the panes that follow
    labels : int8 (80,), `CLEAN`, `DRIFTED` or `BETWEEN` of each pane
    """

    sketch: FeatureSketch
    panes: Counts
    labels: npt.NDArray[np.int8]
    family: str
    drift: str = ""
    severity: float = 0.0
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Drift of one stream: the share of full strength (`ramp`) and the share of rows of the new law (`mixed`), per pane."""

    drift: str = ""
    severity: float = 0.0
    pattern: str = ""
    ramp: Floats = field(default_factory=lambda: np.zeros(2 * HALF))
    mixed: Floats = field(default_factory=lambda: np.zeros(2 * HALF))
    labels: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(2 * HALF, np.int8))


def plan(rng: Rng, drifts: tuple[str, ...]) -> _Plan:
    """A random kind, severity and pattern of drift."""
    found = _Plan(drifts[rng.integers(len(drifts))], SEVERITIES[rng.integers(5)], PATTERNS[rng.integers(len(PATTERNS))])
    slow = slice(HALF, HALF + 5 * PANES_PER_WINDOW)
    match found.pattern:
        case "recurring":
            for start in (HALF, HALF + 20):
                found.ramp[start : start + 10], found.labels[start : start + 10] = 1.0, DRIFTED
        case "abrupt":
            found.ramp[HALF:], found.labels[HALF:] = 1.0, DRIFTED
        case slowly:
            share = found.mixed if slowly == "gradual" else found.ramp
            share[HALF:], share[slow] = 1.0, np.linspace(0.05, 1.0, 5 * PANES_PER_WINDOW)
            found.labels[HALF:], found.labels[slow] = DRIFTED, BETWEEN
    return found


def run(seed: int, number: int, n: int, m: int, jitter: float = 0.0, drifting: int = DRIFTING) -> list[Stream]:
    """The 60 streams of one run; the same arguments give the same counts.

    Parameters
    ----------
    seed, number : of the family of runs, and of the run in it
    n, m : rows of a window and of the reference
    jitter : standard deviation of the benign shift of each pane
    drifting : how many of the streams drift
    """
    rng = np.random.default_rng([seed, number])
    chosen = set(rng.permutation(NUMBERS + WORDS)[:drifting].tolist())
    streams = []
    for place in range(NUMBERS + WORDS):
        numeric = place < NUMBERS
        planned = plan(rng, NUMERIC_DRIFTS if numeric else WORD_DRIFTS) if place in chosen else _Plan()
        make = _numbers if numeric else _words
        streams.append(make(rng, place, planned, n // PANES_PER_WINDOW, m // REFERENCE_PANES, jitter, seed))
    return streams


def _numbers(rng: Rng, place: int, planned: _Plan, n: int, m: int, jitter: float, seed: int) -> Stream:
    family = FAMILIES[place % len(FAMILIES)]
    low, high = quantile(family, 0.001), quantile(family, 0.999)
    edges = np.linspace(low, high, NUMERIC_BINS + 1)
    strength = numeric_strength(family, planned.drift, planned.severity) if planned.drift else 0.0
    moves = rng.normal(0.0, jitter, REFERENCE_PANES + 2 * HALF) if jitter else np.zeros(REFERENCE_PANES + 2 * HALF)

    def cells(s: float, move: float) -> Floats:
        missing = _MISSING + (s if planned.drift == "missing" else 0.0)
        inside = np.diff(below(family, edges, planned.drift, s, move), prepend=0.0, append=1.0)
        return np.append(np.maximum(inside, 0.0) * (1 - missing), missing)

    old = np.array([cells(0.0, move) for move in moves])
    ramp = np.where(planned.mixed > 0, 1.0, planned.ramp)
    new = np.array([cells(strength * each, move) for each, move in zip(ramp, moves[REFERENCE_PANES:], strict=True)])
    weight = np.where(planned.mixed > 0, planned.mixed, 1.0)[:, None]
    panes = (1 - weight) * old[REFERENCE_PANES:] + weight * new
    spec = FeatureSpec(f"number{place}", FeatureKind.NUMERIC, "value", (EventType.RATING,), low, high)
    return _drawn(rng, spec, old[:REFERENCE_PANES], panes, m, n, planned, family)


def _words(rng: Rng, place: int, planned: _Plan, n: int, m: int, jitter: float, seed: int) -> Stream:
    words = CARDINALITIES[place % len(CARDINALITIES)]
    towards = rng.normal(size=words)
    bucket = np.array([hash64(f"{seed}/{place}/{word}") % WORD_BUCKETS for word in range(words + _NEW_WORDS)])
    order = np.argsort(bucket, kind="stable")
    filled, starts = np.unique(bucket[order], return_index=True)
    strength = word_strength(words, planned.drift, planned.severity, towards) if planned.drift else 0.0
    old = word_shares(words, "", 0.0, towards)

    def cells(share: Floats) -> Floats:
        moved = share * np.exp(jitter * rng.normal(size=len(share))) if jitter else share
        out = np.zeros(WORD_BUCKETS + 3)
        out[1 + filled] = np.add.reduceat(moved[order], starts)
        return np.asarray(out / out.sum())

    def after(ramp: float, mixed: float) -> Floats:
        if mixed:
            return (1 - mixed) * old + mixed * word_shares(words, planned.drift, strength, towards)
        return word_shares(words, planned.drift, strength * ramp, towards) if ramp else old

    reference = np.array([cells(old) for _ in range(REFERENCE_PANES)])
    panes = np.array([cells(after(*each)) for each in zip(planned.ramp, planned.mixed, strict=True)])
    spec = FeatureSpec(f"words{place}", FeatureKind.CATEGORICAL, "item_id", (EventType.CLICK,))
    return _drawn(rng, spec, reference, panes, m, n, planned, f"zipf{words}")


def _drawn(
    rng: Rng, spec: FeatureSpec, reference: Floats, panes: Floats, m: int, n: int, planned: _Plan, family: str
) -> Stream:
    before = rng.multinomial(m, reference)
    sketch = sketch_of(spec, before, -REFERENCE_PANES * PANE_MS, PANE_MS)
    drawn = rng.multinomial(n, panes)
    return Stream(sketch, drawn, planned.labels, family, planned.drift, planned.severity, planned.pattern)


def sketch_of(spec: FeatureSpec, panes: Counts, start_ms: int, pane_ms: int) -> FeatureSketch:
    """The reference that consecutive panes' fine counts (K, cells + 3) make."""
    total = panes.sum(0)
    coarse = rebin(total, spec.kind)
    starts = [start_ms + pane * pane_ms for pane in range(len(panes))]
    return FeatureSketch(spec, total.tolist(), [coarse.apply(pane).tolist() for pane in panes], starts, pane_ms)
