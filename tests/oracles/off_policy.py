"""Off-policy estimates in plain loops, and the two other ways to estimate position propensities that ours is compared with."""

from collections import defaultdict
from collections.abc import Sequence
from math import sqrt


def ips(rewards: Sequence[float], propensities: Sequence[float], targets: Sequence[float], clip: float) -> float:
    total = 0.0
    for reward, propensity, target in zip(rewards, propensities, targets, strict=True):
        total += min(target / propensity, clip) * reward
    return total / len(rewards)


def snips(rewards: Sequence[float], propensities: Sequence[float], targets: Sequence[float], clip: float) -> float:
    total, weight = 0.0, 0.0
    for reward, propensity, target in zip(rewards, propensities, targets, strict=True):
        total += min(target / propensity, clip) * reward
        weight += min(target / propensity, clip)
    return total / weight


def dr(
    rewards: Sequence[float],
    propensities: Sequence[float],
    targets: Sequence[float],
    models: Sequence[tuple[float, float]],
    clip: float,
) -> float:
    total = 0.0
    for reward, propensity, target, (of_action, of_target) in zip(rewards, propensities, targets, models, strict=True):
        total += of_target + min(target / propensity, clip) * (reward - of_action)
    return total / len(rewards)


def effective_rows(weights: Sequence[float]) -> float:
    return sum(weights) ** 2 / sum(weight * weight for weight in weights)


def clustered_error(influences: Sequence[float], units: Sequence[int]) -> float:
    sums: dict[int, float] = defaultdict(float)
    for influence, unit in zip(influences, units, strict=True):
        sums[unit] += influence
    squares = sum(each * each for each in sums.values())
    return sqrt(len(sums) / (len(sums) - 1) * squares) / len(influences)


Cells = dict[tuple[int, int], tuple[int, int]]
"""(item, position) -> rows, clicks"""


def cells(positions: Sequence[int], clicks: Sequence[bool], items: Sequence[int]) -> Cells:
    found: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for position, click, item in zip(positions, clicks, items, strict=True):
        rows, taken = found[item, position]
        found[item, position] = rows + 1, taken + int(click)
    return dict(found)


def ratio(found: Cells, k: int, other: int) -> float:
    """theta_k / theta_other from the items found at both: ratio of the sums of their click rates (Agarwal et al. 2019, eq. 8)."""
    both = [item for item, position in found if position == k and (item, other) in found]
    of_k, of_other = (sum(found[item, at][1] / found[item, at][0] for item in both) for at in (k, other))
    return of_k / of_other if of_other else float("nan")


def chained(found: Cells, positions: int) -> list[float]:
    """Adjacent chain: theta_k / theta_0 as the product of ratios of neighbours."""
    theta = [1.0]
    for k in range(1, positions):
        theta.append(theta[-1] * ratio(found, k, k - 1))
    return theta


def pivoted(found: Cells, positions: int) -> list[float]:
    """Pivot: theta_k / theta_0 from the items found at k and at the first position."""
    return [1.0, *(ratio(found, k, 0) for k in range(1, positions))]


def maximised(found: Cells, positions: int, rounds: int = 20_000) -> list[float]:
    """theta that maximises the likelihood of a Poisson rate for each item times theta, by alternating its two halves."""
    theta = [1.0] * positions
    items = sorted({item for item, _ in found})
    for _ in range(rounds):
        rate = {}
        for item in items:
            own = [(k, *found[item, k]) for k in range(positions) if (item, k) in found]
            rate[item] = sum(taken for _, _, taken in own) / sum(rows * theta[k] for k, rows, _ in own)
        was = theta
        theta = [
            sum(found[item, k][1] for item in items if (item, k) in found)
            / sum(found[item, k][0] * rate[item] for item in items if (item, k) in found)
            for k in range(positions)
        ]
        theta = [each / theta[0] for each in theta]
        if max(abs(a - b) for a, b in zip(theta, was, strict=True)) < 1e-12:
            break
    return theta
