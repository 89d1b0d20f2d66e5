"""The validation gate's errors and power: equal candidates called better, worse ones let through, better ones let through.

- Simulated: users with a few relevant items each, two rankers that put them into the same place for a share of the items; most
  users gain nothing from either, as in life. A candidate 10 % worse misses a tenth of its hits: its NDCG is 10 % lower exactly.
- A warm start that is refused and a cold one after it, on the same users: two looks, one error.
- Rankers: two ALS fits of one synthetic log with different seeds, judged as a worker would; and one of them with every tenth
  user's list spoiled.
- MovieLens, where the data are: users' scores by two ALS fits, drawn with replacement, each pair swapped or not by a coin: equal
  by construction, with the ties and the tails of a real log.
- Intervals of rates are Clopper and Pearson's, 95 %.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from benchmarks.report import Machine, Target, data_folder, result, table
from online_models.contracts.jobs import TrainAls
from online_models.history import UserHistory
from retrain_workers import als
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.splits import split
from retrain_workers.validation.evaluation import CUTOFF, Hashes, Ranker, Scores, cases_of, depth_of, score
from retrain_workers.validation.gate import Gate, Verdict, judge

F64 = npt.NDArray[np.float64]

PAIRS: Final = 200
GRID_PAIRS: Final = 1_000
USERS: Final = (20, 50, 100, 200, 400, 1_000, 2_000)
HITS: Final = (0.05, 0.2)
SHARED: Final = (0.9, 0.5)
GAINS: Final = (-0.1, 0.0, 0.1, 0.2, 0.5)

HEADLINE: Final = (400, 0.2, 0.7)
"""Users, hit probability and shared places of the simulation that the targets name."""

MOST_RELEVANT: Final = 10
GAIN: Final = 1 / np.log2(np.arange(2, CUTOFF + 2))  # (10,), by place
IDEAL: Final = np.concatenate([[0.0], np.cumsum(GAIN)])  # (11,), by number of relevant items

JOB: Final = TrainAls(factors=16, iterations=6, half_life_days=365.0, holdout_fraction=0.2)
SPOILED: Final = 0.1
WRONG: Final = 0.05
REFUSED: Final = 0.95
POWER: Final = 0.8
"""How often a better candidate is to get through, for its number of users to be called enough."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many of n."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else float("nan")

    @property
    def bounds(self) -> tuple[float, float]:
        """Clopper and Pearson's 95 % interval.

        >>> [round(bound, 4) for bound in Rate(5, 200).bounds]
        [0.0082, 0.0574]
        """
        low = beta.ppf(0.025, self.hits, self.n - self.hits + 1) if self.hits else 0.0
        high = beta.ppf(0.975, self.hits + 1, self.n - self.hits) if self.hits < self.n else 1.0
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.bounds
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A ranker that gives a share of users, by their history, a list of items that nobody takes."""

    ranker: Ranker
    share: float
    rng: np.random.Generator

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        lists = self.ranker.top(histories, count)
        spoiled = self.rng.random(len(lists)) < self.share
        return [np.arange(count, dtype=np.uint64) if out else each for each, out in zip(lists, spoiled, strict=True)]


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    machine, rng, gate = Machine.here(), np.random.default_rng(options.seed), Gate()
    figures: dict[str, float] = {}
    targets: list[Target] = []
    pairs = options.pairs

    print(f"Simulated, {options.grid_pairs:,} pairs each; margin {gate.margin:.0%}, alpha {gate.alpha:.0%}")
    figures |= grid(rng, options.grid_pairs, gate)
    targets += grid_targets(figures)

    users, hit, shared = HEADLINE
    simulated = {gain: simulated_verdicts(rng, pairs, users, hit, shared, gain, gate) for gain in (0.0, -0.1)}
    figures |= tell(f"simulated, {users} users", simulated[0.0], simulated[-0.1], targets)
    looks = {gain: verdicts_of_two_looks(rng, pairs, users, hit, shared, gain, gate) for gain in (0.0, -0.1)}
    figures |= tell("simulated, warm then cold", looks[0.0], looks[-0.1], targets)
    equal, spoiled = ranker_verdicts(options.seed, pairs, gate)
    figures |= tell("ALS of two seeds", equal, spoiled, targets)
    movielens = movielens_scores(data_folder())
    if movielens is None:
        print("MovieLens: no ml-latest-small; set PENSTOCK_DATA to the folder of the data sets")
    else:
        figures |= tell("MovieLens", *swapped_verdicts(rng, pairs, *movielens, gate), targets)
    print(result("gate", machine, figures, targets))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks gate --seed 1",
    )
    found.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help="pairs of models of each kind")
    found.add_argument("--grid-pairs", type=int, default=GRID_PAIRS, metavar="N", help="of each cell of the grid")
    found.add_argument("--seed", type=int, default=0)
    return found


# --- simulated scores ---------------------------------------------------------------------------------


def simulated_scores(
    rng: np.random.Generator, pairs: int, users: int, hit: float, shared: float, gain: float, candidates: int = 1
) -> F64:
    """NDCG of a champion and of its candidates, (1 + candidates, pairs, users); a candidate's expectation is 1 + gain times the
    champion's.

    A user has a geometric number of relevant items and a hit probability of mean `hit` (Beta); a relevant item is at a place of
    the list with that probability, if no other is there, and for a share of the items all rankers agree on it. The worse of
    champion and candidates then lose hits.
    """
    sides = 1 + candidates
    relevant = np.minimum(rng.geometric(0.5, (pairs, users)), MOST_RELEVANT)
    chance = rng.beta(2 * hit, 2 * (1 - hit), (pairs, users))
    sums, taken = np.zeros((sides, pairs, users)), np.zeros((sides, pairs, users), np.int64)  # places as bits
    champion, candidate = (1.0, 1 + gain) if gain <= 0 else (1 / (1 + gain), 1.0)
    keep = [champion] + candidates * [candidate]
    for item in range(MOST_RELEVANT):
        agreed = rng.random((pairs, users)) < shared
        places = rng.integers(0, CUTOFF, (sides, pairs, users))
        hits = rng.random((sides, pairs, users)) < chance
        for side in range(sides):
            at, found = (np.where(agreed, column[0], column[side]) for column in (places, hits))
            found = found & (relevant > item) & ((taken[side] >> at) & 1 == 0)
            taken[side] |= np.where(found, 1 << at, 0)
            sums[side] += np.where(found & (rng.random((pairs, users)) < keep[side]), GAIN[at], 0.0)
    scores: F64 = sums / IDEAL[relevant]
    return scores


def scores_of(ndcg: F64) -> Scores:
    """Scores of which the gate reads NDCG alone; the rest follows it."""
    return Scores((ndcg > 0).astype(np.float64), ndcg, ndcg)


def verdicts_of(pairs: Iterator[tuple[F64, F64]], gate: Gate) -> list[Verdict]:
    """Of (champion, candidate) scores (users,) each."""
    return [
        judge(scores_of(candidate), scores_of(champion), scores_of(champion), gate).verdict
        for champion, candidate in pairs
    ]


def simulated_verdicts(
    rng: np.random.Generator, pairs: int, users: int, hit: float, shared: float, gain: float, gate: Gate
) -> list[Verdict]:
    champion, candidate = simulated_scores(rng, pairs, users, hit, shared, gain)
    return verdicts_of(zip(champion, candidate, strict=True), gate)


def verdicts_of_two_looks(
    rng: np.random.Generator, pairs: int, users: int, hit: float, shared: float, gain: float, gate: Gate
) -> list[Verdict]:
    """A warm start and, where it is refused, a cold one on the same users, as `cycle.judged_settings` has it."""
    champion, warm, cold = simulated_scores(rng, pairs, users, hit, shared, gain, candidates=2)
    each = gate.for_each_of(2)
    first = verdicts_of(zip(champion, warm, strict=True), each)
    second = verdicts_of(zip(champion, cold, strict=True), each)
    return [one if one.accepts else other for one, other in zip(first, second, strict=True)]


def grid(rng: np.random.Generator, pairs: int, gate: Gate) -> dict[str, float]:
    """Print how often candidates are accepted, by users and by what the candidate gains; returns the figures."""
    heads = ["users", "hit", "shared", "equal as better", *(f"{gain:+.0%} accepted" for gain in GAINS)]
    rows, figures = [heads], dict[str, float]()
    for hit, shared, users in product(HITS, SHARED, USERS):
        found = {gain: simulated_verdicts(rng, pairs, users, hit, shared, gain, gate) for gain in GAINS}
        better = rate(found[0.0], lambda verdict: verdict is Verdict.BETTER)
        accepted = {gain: rate(found[gain], lambda verdict: verdict.accepts) for gain in GAINS}
        rows.append(
            [f"{users:,}", f"{hit}", f"{shared}", *(f"{each.value:.1%}" for each in (better, *accepted.values()))]
        )
        cell = f"{users} users, hit {hit}, shared {shared}"
        figures[f"{cell}: equal called better"] = better.value
        figures |= {f"{cell}: {gain:+.0%} accepted": each.value for gain, each in accepted.items()}
    print(table(rows))
    print_power(figures)
    return figures


def print_power(figures: dict[str, float]) -> None:
    """From how many users on a better candidate gets through at least four times in five."""
    for hit, shared, gain in product(HITS, SHARED, (0.1, 0.2)):
        enough = [
            users
            for users in USERS
            if figures[f"{users} users, hit {hit}, shared {shared}: {gain:+.0%} accepted"] >= POWER
        ]
        told = f"from {enough[0]:,} users on" if enough else f"not with {USERS[-1]:,} users"
        print(f"hit {hit}, shared {shared}: {gain:+.0%} accepted in {POWER:.0%} {told}")


def grid_targets(figures: dict[str, float]) -> list[Target]:
    """The worst cells."""
    better = max(value for name, value in figures.items() if name.endswith("equal called better"))
    worse = max(value for name, value in figures.items() if name.endswith("-10% accepted"))
    return [
        Target("worst cell: equal candidates called better", better, at_most=WRONG),
        Target("worst cell: 10 % worse refused", 1 - worse, at_least=REFUSED),
    ]


def rate(verdicts: Sequence[Verdict], counts: Callable[[Verdict], bool]) -> Rate:
    return Rate(sum(map(counts, verdicts)), len(verdicts))


def tell(name: str, equal: Sequence[Verdict], worse: Sequence[Verdict], targets: list[Target]) -> dict[str, float]:
    """Print and give what is asked for: equal models called better, and 10 % worse ones refused."""
    better = rate(equal, lambda verdict: verdict is Verdict.BETTER)
    accepted = rate(equal, lambda verdict: verdict.accepts)
    refused = rate(worse, lambda verdict: not verdict.accepts)
    print(
        f"{name}, {len(equal)} pairs: equal called better {better}, accepted {accepted}; 10 % worse refused {refused}"
    )
    targets += [
        Target(f"{name}: equal candidates called better", better.value, at_most=WRONG),
        Target(f"{name}: 10 % worse refused", refused.value, at_least=REFUSED),
    ]
    return {
        f"{name}: equal called better": better.value,
        f"{name}: equal called better, upper bound": better.bounds[1],
        f"{name}: equal accepted": accepted.value,
        f"{name}: 10 % worse refused": refused.value,
        f"{name}: 10 % worse refused, lower bound": refused.bounds[0],
    }


# --- rankers ------------------------------------------------------------------------------------------


def synthetic_log(seed: int, users: int = 400, items: int = 300, events_per_user: int = 25) -> Dataset:
    """Users who like a few of 12 groups of items, and in these the popular ones; one event a minute."""
    rng = np.random.default_rng(seed)
    groups = 12
    taste = rng.dirichlet(np.full(groups, 0.25), users)  # (users, groups)
    popular = 1 / (1 + rng.permutation(items)) ** 0.7
    group = np.arange(items) % groups
    within = np.where(group[None, :] == np.arange(groups)[:, None], popular, 0.0)  # (groups, items)
    chance = (0.9 * taste + 0.1 / groups) @ (within / within.sum(axis=1, keepdims=True))  # (users, items)
    user = rng.permutation(np.repeat(np.arange(users), events_per_user)).astype(np.int32)
    edges = np.cumsum(chance, axis=1)
    draws = rng.random(len(user)) * edges[user, -1]
    item = np.fromiter((np.searchsorted(edges[u], x) for u, x in zip(user, draws, strict=True)), np.int32, len(user))
    return Dataset(
        [f"u{number}" for number in range(users)],
        [f"i{number}" for number in range(items)],
        user,
        np.minimum(item, items - 1),
        np.arange(len(user), dtype=np.int64) * 60_000,
        np.ones(len(user), np.float32),
        np.zeros(len(user), np.bool_),
    )


def ranker_verdicts(seed: int, pairs: int, gate: Gate) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts on ALS fits of equal settings and other seeds, and on one of them spoiled for a tenth of the users."""
    rng = np.random.default_rng([seed, 1])
    equal, worse = [], []
    for pair in range(pairs):
        parts = split(synthetic_log(seed * 100_003 + pair), JOB.holdout_fraction)
        cases = cases_of(parts)
        one, other = (als.fit(parts.history, replaced_seed(2 * pair + n), 10.0).ranker() for n in (0, 1))
        depth = depth_of(parts.history)
        champion = score(one, cases, depth)
        equal.append(judge(score(other, cases, depth), champion, champion, gate).verdict)
        worse.append(judge(score(Spoiled(other, SPOILED, rng), cases, depth), champion, champion, gate).verdict)
    return equal, worse


def replaced_seed(seed: int) -> TrainAls:
    return TrainAls(JOB.factors, JOB.iterations, half_life_days=JOB.half_life_days, seed=seed)


# --- MovieLens ----------------------------------------------------------------------------------------


def movielens_scores(folder: Path) -> tuple[F64, F64] | None:
    """NDCG (users,) by two ALS fits of MovieLens latest-small; each user's own last fifth is held out. None without the data."""
    path = folder / "ml-latest-small" / "ratings.csv"
    if not path.is_file():
        return None
    dataset = leave_last_out(movielens(path))
    parts = split(dataset, JOB.holdout_fraction)
    cases = cases_of(parts)
    depth = depth_of(parts.history)
    one, other = (score(als.fit(parts.history, replaced_seed(n), 10.0).ranker(), cases, depth) for n in (0, 1))
    return one.judged, other.judged


def movielens(path: Path) -> Dataset:
    """The ratings as events."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = [
            (row["userId"], row["movieId"], float(row["rating"]), int(row["timestamp"]))
            for row in csv.DictReader(lines)
        ]
    rows.sort(key=lambda row: row[3])
    users, items = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    numbers = [{name: number for number, name in enumerate(names)} for names in (users, items)]
    rating = np.array([row[2] for row in rows])
    return Dataset(
        users,
        items,
        np.array([numbers[0][row[0]] for row in rows], np.int32),
        np.array([numbers[1][row[1]] for row in rows], np.int32),
        np.array([row[3] for row in rows], np.int64) * 1_000,
        np.where(rating >= 3.5, rating - 2.5, 0.0).astype(np.float32),
        np.zeros(len(rows), np.bool_),
    )


def leave_last_out(dataset: Dataset) -> Dataset:
    """The same events at the time of their place in the user's life: users there lived at different times, few on both sides of
    any date, and here it is the scores of many users that are wanted."""
    order = np.argsort(dataset.user, kind="stable")
    many = np.bincount(dataset.user, minlength=len(dataset.users))
    place = np.empty(len(dataset), np.float64)
    place[order] = np.concatenate([(np.arange(n) + 0.5) / n for n in many.tolist()])
    by_place = np.argsort(place, kind="stable")
    moved = replace(dataset, ts_ms=(place * 1e12).astype(np.int64))
    return replace(
        moved,
        user=moved.user[by_place],
        item=moved.item[by_place],
        ts_ms=moved.ts_ms[by_place],
        strength=moved.strength[by_place],
        recommended=moved.recommended[by_place],
    )


def swapped_verdicts(
    rng: np.random.Generator, pairs: int, one: F64, other: F64, gate: Gate
) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts on pairs that a coin makes equal, and on those where the candidate also loses each user's score once in ten."""
    n = len(one)

    def drawn(loss: float) -> Iterator[tuple[F64, F64]]:
        for _ in range(pairs):
            users, coin = rng.integers(0, n, n), rng.random(n) < 0.5
            champion, candidate = (np.where(coin, a[users], b[users]) for a, b in ((one, other), (other, one)))
            yield champion, np.where(rng.random(n) < loss, 0.0, candidate)

    return verdicts_of(drawn(0.0), gate), verdicts_of(drawn(SPOILED), gate)
