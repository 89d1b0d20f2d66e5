"""Metrics from their definitions, one pair or one event at a time in plain Python, and errors by resampling."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]


def auc(scores: Sequence[float], observed: Sequence[int]) -> float:
    """The share of pairs of a 1 and a 0 in which the 1 has the higher score, a tie counting half."""
    ones = [score for score, outcome in zip(scores, observed, strict=True) if outcome]
    zeros = [score for score, outcome in zip(scores, observed, strict=True) if not outcome]
    won = [1.0 if one > zero else 0.5 if one == zero else 0.0 for one, zero in product(ones, zeros)]
    return sum(won) / len(won)


def equal_mass_bins(pairs: Sequence[tuple[float, int]], bins: int) -> list[list[tuple[float, int]]]:
    """The filled bins: of n events in order of prediction, the one at place i is in bin floor(i bins / n), with its ties."""
    in_order = sorted(predicted for predicted, _ in pairs)
    held: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for predicted, observed in pairs:
        held[in_order.index(predicted) * bins // len(pairs)].append((predicted, observed))
    return [held[at] for at in sorted(held)]


def gini(counts: Sequence[float]) -> float:
    """Half the mean difference of two items, drawn with replacement, over the mean."""
    items = len(counts)
    return sum(abs(a - b) for a, b in product(counts, counts)) / (2 * items * sum(counts))


def self_information(item: int, counts: Sequence[float]) -> float:
    unseen = min([1.0, *(count for count in counts if count)])
    return -math.log2((counts[item] or unseen) / sum(counts))


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def jaccard_distance(a: set[int], b: set[int]) -> float:
    return 1 - len(a & b) / len(a | b) if a | b else 0.0


def mean_over_pairs(distances: Sequence[Sequence[float]], listed: Sequence[int]) -> float:
    """The mean distance of two places of a list, -1 being no place; 0 without any pair."""
    pairs = list(combinations([item for item in listed if item >= 0], 2))
    return sum(distances[a][b] for a, b in pairs) / len(pairs) if pairs else 0.0


def clustered_error(figures: Sequence[float], users: Sequence[object]) -> float:
    """sqrt(G / (G - 1) sum over users of (sum of the user's residuals)²) / n."""
    mean = math.fsum(figures) / len(figures)
    residuals: dict[object, float] = defaultdict(float)
    for figure, user in zip(figures, users, strict=True):
        residuals[user] += figure - mean
    groups = len(residuals)
    return math.sqrt(groups / (groups - 1) * sum(r * r for r in residuals.values())) / len(figures)


def bootstrapped_error(figures: Floats, users: npt.NDArray[np.int64], resamples: int, rng: Rng) -> float:
    """Standard deviation of the mean when whole users are drawn again, with replacement."""
    mine = [figures[users == user] for user in np.unique(users)]
    means = []
    for _ in range(resamples):
        drawn = [mine[at] for at in rng.integers(0, len(mine), len(mine))]
        means.append(float(np.concatenate(drawn).mean()))
    return float(np.std(means, ddof=1))
