"""A bandit among versions that have passed the gate: how many users each gets, by Thompson sampling.

- An arm's rate has a Beta posterior. Windows count for less the older they are, so that it follows a world that drifts.
- Arms are compared over the same mix of windows: summed up, an arm that grew while everybody took more would seem the better one.
- An arm that no window tells of any more is held at the floor, so that the others go on to be compared without it.
- Users come back, so that requests say less than as many coins would: counts are divided by the design effect.
- Each arm keeps a floor of users: it can be seen to become better, and every logged choice keeps a known probability above 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Arm, Metric, Variant, VariantWindow
from online_models.rollout_store import Grouped

DRAWS: Final = 20_000
"""Of the joint posterior, for one set of weights: a probability of being best is known to 0.004."""

ARM_VARIANTS: Final = (Variant.STABLE.value, Variant.ARM.value)

MISSED_REQUESTS: Final = 20
"""An arm that should have had so many since its last window, at the floor's share of them all, does not answer any more."""

FEWEST_GROUPS: Final = 8
"""Groups of users with trials below which nothing is said about how much they differ."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a bandit learns.

    every : least time between two changes of the weights
    fewest_trials : of each arm, before the first; 1 at least
    floor : least share of users of each arm; with more arms than fit, they share evenly
    half_life : of what a window says, in event time
    """

    every: timedelta
    fewest_trials: int
    floor: float
    half_life: timedelta


@dataclass(frozen=True, slots=True)
class Counts:
    """What the arms did, float64 (windows, arms) each; ends_ms : of the windows, int64 (windows,)."""

    trials: npt.NDArray[np.float64]
    successes: npt.NDArray[np.float64]
    ends_ms: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Learned:
    """New weights, and what they follow from, ready for JSON; silent : what there is to say of arms held at the floor."""

    arms: tuple[Arm, ...]
    evidence: dict[str, object]
    silent: tuple[str, ...] = ()


def learn(
    arms: Sequence[Arm],
    windows: Sequence[VariantWindow],
    grouped: Mapping[ModelVersion, Grouped],
    metric: Metric,
    sampling: Sampling,
    rng: np.random.Generator,
) -> Learned | str:
    """New weights of the arms, or why it is too early for them.

    windows : of the rollout, in any order; grouped : counts by group of users (4, GROUPS) of each version
    """
    found = answering(windows, [arm.version for arm in arms], metric, sampling)
    mute, versions = found.mute, [arm.version for arm in arms if arm.version not in found.mute]
    if not versions:
        return "; ".join(mute.values())
    counts = comparable([each for each in windows if each.window_start_ms >= found.since_ms], versions, metric)
    few = counts.trials.sum(axis=0) < sampling.fewest_trials  # (answering arms,)
    if few.any():
        named = ", ".join(version for version, too_few in zip(versions, few, strict=True) if too_few)
        return "; ".join([f"fewer than {sampling.fewest_trials} trials of {named}", *mute.values()])
    rates, trials = standardised(counts, sampling.half_life)
    effect = design_effect([grouped[version] for version in versions if version in grouped], metric)
    best = dict(zip(versions, best_shares(rates, trials / effect, rng).tolist(), strict=True))
    weights = floored(np.array([best.get(arm.version, 0.0) for arm in arms]), sampling.floor)
    learned = tuple(Arm(arm.version, weight) for arm, weight in zip(arms, weights, strict=True))
    known = dict(zip(versions, zip(trials.tolist(), rates.tolist(), strict=True), strict=True))
    rows = [_row(arm, known.get(arm.version), best.get(arm.version, 0.0)) for arm in learned]
    evidence = {"arms": rows, "design_effect": round(effect, 3), "silent": list(mute.values())}
    return Learned(learned, evidence, tuple(mute.values()))


def _row(arm: Arm, known: tuple[float, float] | None, best: float) -> dict[str, object]:
    """known : trials and rate; None of an arm held at the floor."""
    trials, rate = known or (0.0, None)
    return {
        "version": arm.version,
        "trials": round(trials, 1),
        "rate": None if rate is None else round(rate, 6),
        "best": round(best, 4),
        "weight_bp": arm.weight_bp,
    }


@dataclass(frozen=True, slots=True)
class Answering:
    """Which arms can be compared, and since when.

    mute : those that cannot, each with what there is to say of it
    since_ms : when the last of the others came back from a silence; before that it is not known how it did
    """

    mute: dict[ModelVersion, str]
    since_ms: int


def answering(
    windows: Iterable[VariantWindow], versions: Sequence[ModelVersion], metric: Metric, sampling: Sampling
) -> Answering:
    """The arms that answer, and those that do not, or have only just begun to answer again.

    An arm is silent that has had no trial for a half-life, or while all arms had requests of which `MISSED_REQUESTS` fall to one
    at the floor. It is compared again once it has had `fewest_trials` since, and all arms over that time alone.
    """
    kept = [window for window in windows if window.variant in ARM_VARIANTS and window.version in versions]
    gaps, mute, since_ms = _Gaps(kept, sampling), dict[ModelVersion, str](), 0
    for version in versions:
        tried = [each for each in kept if each.version == version and _counted(each, metric)[0]]
        last, returned = gaps.last_and_return([(each.window_start_ms, each.window_end_ms) for each in tried])
        trials = sum(_counted(each, metric)[0] for each in tried if each.window_start_ms >= returned)
        if gaps.between(last, gaps.newest):
            mute[version] = f"no window of {version}" + (f" since {_instant(last)}" if tried else "")
        elif returned and trials < sampling.fewest_trials:
            mute[version] = f"{version} answers again since {_instant(returned)}, {trials:.0f} trials"
        else:
            since_ms = max(since_ms, returned)
    return Answering(mute, since_ms)


class _Gaps:
    """Whether an arm without trials between two moments (epoch ms) was silent, by what all arms had to answer meanwhile."""

    def __init__(self, windows: Sequence[VariantWindow], sampling: Sampling) -> None:
        begun = sorted((window.window_start_ms, window.requests) for window in windows)
        self._starts = np.array([start for start, _ in begun], np.int64)
        self._asked = np.concatenate([[0], np.cumsum([requests for _, requests in begun])])
        self._floor, self._longest_ms = sampling.floor, sampling.half_life.total_seconds() * 1000
        self.first = int(self._starts[0]) if begun else 0
        self.newest = max((window.window_end_ms for window in windows), default=0)

    def between(self, since_ms: int, until_ms: int) -> bool:
        """Whether that is a silence."""
        begin, end = np.searchsorted(self._starts, [since_ms, until_ms])
        missed = self._floor * (self._asked[end] - self._asked[begin])
        return bool(missed >= MISSED_REQUESTS or until_ms - since_ms > self._longest_ms)

    def last_and_return(self, tried: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """When an arm with trials in these windows last answered, and when it did again after its last silence; 0 for never."""
        last, returned = self.first, 0
        for start, end in sorted(tried):
            if last < start and self.between(last, start):
                returned = start
            last = max(last, end)
        return last, returned


def _instant(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def comparable(windows: Iterable[VariantWindow], versions: Sequence[ModelVersion], metric: Metric) -> Counts:
    """The arms' counts of the windows in which each has trials, oldest first. What stood in for an arm does not count."""
    place = {version: arm for arm, version in enumerate(versions)}
    kept = [window for window in windows if window.variant in ARM_VARIANTS and window.version in place]
    ends = {window.window_start_ms: window.window_end_ms for window in sorted(kept, key=lambda w: w.window_start_ms)}
    rows = {start: row for row, start in enumerate(ends)}
    trials, successes = np.zeros((len(ends), len(versions))), np.zeros((len(ends), len(versions)))
    for window in kept:
        cell = rows[window.window_start_ms], place[window.version]
        tried, took = _counted(window, metric)
        trials[cell] += tried
        successes[cell] += took
    shared = (trials > 0).all(axis=1)
    return Counts(trials[shared], successes[shared], np.array(list(ends.values()), np.int64)[shared])


def standardised(counts: Counts, half_life: timedelta) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Each arm's rate over one mix of windows, and how many trials stand behind it: float64 (arms,) both.

    A window t of n_at trials of arm a, whose end is age_t before the newest, has the same weight for every arm,
    w_t = 2^(-age_t / half_life) sum_a n_at:

        rate_a = sum_t w_t x_at / n_at / sum_t w_t

    Its variance is that of (sum_t w_t)^2 / sum_t (w_t^2 / n_at) trials. Those count, or the discounted ones where they are fewer:
    of a world that drifts old trials say less than their number.

    >>> counts = Counts(np.array([[90.0, 10.0], [10.0, 90.0]]), np.array([[9.0, 1.0], [4.0, 36.0]]), np.array([0, 0]))
    >>> rates, trials = standardised(counts, timedelta(days=1))
    >>> rates.tolist(), trials.round().tolist()  # pooled, the second would seem to be at 0.37, the first at 0.13
    ([0.25, 0.25], [36.0, 36.0])
    """
    ages = (counts.ends_ms.max() - counts.ends_ms) / (half_life / timedelta(milliseconds=1))
    discount = 0.5**ages  # (windows,)
    weights = discount * counts.trials.sum(axis=1)
    rates = weights @ (counts.successes / counts.trials) / weights.sum()
    behind = weights.sum() ** 2 / (np.square(weights) @ (1.0 / counts.trials))
    return rates, np.minimum(behind, discount @ counts.trials)


def design_effect(grouped: Sequence[Grouped], metric: Metric) -> float:
    """Variance of a rate whose trials come in users, over that of as many independent trials; 1 at least.

    Users fall into groups by their hash. The delete-a-group jackknife over those of one arm, (G - 1) / G sum_g (R_-g - R_.)^2,
    is held against R (1 - R) / n; the arms' ratios are averaged by their trials. 1 where the groups are too few to say.

    References
    ----------
    Kish, L. (1965). Survey Sampling. Wolter, K. (2007). Introduction to Variance Estimation, chapter 4.
    """
    rows = (0, 1) if metric is Metric.HIT_RATE else (2, 3)
    ratios = [(_ratio(counts[rows[0]], counts[rows[1]]), float(counts[rows[0]].sum())) for counts in grouped]
    known = [(ratio, trials) for ratio, trials in ratios if ratio is not None]
    total = sum(trials for _, trials in known)
    return max(1.0, sum(ratio * trials for ratio, trials in known) / total) if total else 1.0


def best_shares(
    rates: npt.NDArray[np.float64], trials: npt.NDArray[np.float64], rng: np.random.Generator, draws: int = DRAWS
) -> npt.NDArray[np.float64]:
    """Probability that each arm has the highest rate, by draws from Beta(1 + successes, 1 + failures): float64 (arms,).

    References
    ----------
    Thompson, W. (1933). On the likelihood that one unknown probability exceeds another. Biometrika 25.
    Scott, S. (2010). A modern Bayesian look at the multi-armed bandit: the share of users is that probability.
    """
    drawn = rng.beta(1.0 + rates * trials, 1.0 + (1.0 - rates) * trials, (draws, len(rates)))  # (draws, arms)
    return np.bincount(drawn.argmax(axis=1), minlength=len(rates)) / draws


def floored(shares: npt.NDArray[np.float64], floor: float) -> tuple[int, ...]:
    """Weights in basis points, p = f + (1 - n f) w, that add up to all users; none is below the floor.

    >>> floored(np.array([0.9, 0.1, 0.0]), 0.05)
    (8150, 1350, 500)
    >>> floored(np.array([1.0, 0.0, 0.0]), 0.5)  # more than there is
    (3334, 3333, 3333)
    """
    least = min(round(floor * FULL_WEIGHT_BP), FULL_WEIGHT_BP // len(shares))
    exact = (FULL_WEIGHT_BP - least * len(shares)) * shares / shares.sum()
    whole = np.floor(exact).astype(int)
    # what is left of whole basis points goes to the largest remainders, the first of equals
    left = FULL_WEIGHT_BP - least * len(shares) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return tuple(int(weight) + least for weight in whole)


def _counted(window: VariantWindow, metric: Metric) -> tuple[int, int]:
    if metric is Metric.HIT_RATE:
        return window.requests, window.hits
    return window.impressions, window.clicks


def _ratio(trials: npt.NDArray[np.int64], successes: npt.NDArray[np.int64]) -> float | None:
    """Jackknife variance over binomial variance of one arm, from counts by group (GROUPS,); None where nothing is known."""
    n, x = trials[trials > 0].astype(float), successes[trials > 0].astype(float)
    rate = x.sum() / n.sum() if len(n) else 0.0
    if len(n) < FEWEST_GROUPS or not 0.0 < rate < 1.0:
        return None
    without = (x.sum() - x) / (n.sum() - n)  # (G,)
    jackknife = (len(n) - 1) / len(n) * float(np.square(without - without.mean()).sum())
    return jackknife / (rate * (1.0 - rate) / float(n.sum()))
