"""The protocol of test-then-train from its definition, in plain Python: which events count, what is known before each, ranks.

- And the baselines that can be said in a sentence, over lists of (user, item, ts_ms).
"""

import math
from collections.abc import Sequence

Event = tuple[int, int, int]
"""User, item, time."""
Group = list[Event]


def groups_of(events: Sequence[Event]) -> list[Group]:
    """First occurrences of each pair, by time; all of one user at one time together, where the first of them was."""
    users: list[int] = []
    met: set[tuple[int, int]] = set()
    groups: dict[tuple[int, int], Group] = {}
    by_time = sorted(events, key=lambda event: event[2])
    for user, _, _ in by_time:
        if user not in users:
            users.append(user)
    for user, item, ts_ms in sorted(by_time, key=lambda event: (event[2], users.index(event[0]))):
        if (user, item) not in met:
            met.add((user, item))
            groups.setdefault((ts_ms, user), []).append((user, item, ts_ms))
    return list(groups.values())


def rank_of(scores: Sequence[float], met: set[int], target: int) -> int:
    """Place of the target among the items that are neither met nor without a score, best first, ties by row; -1 for none."""
    left = [row for row, score in enumerate(scores) if row not in met and score > -math.inf]
    order = sorted(left, key=lambda row: (-scores[row], row))
    return order.index(target) if target in order else -1


def cosine_scores(before: Sequence[Event], history: Sequence[int], items: int) -> list[float]:
    """For each item the sum over the others of the history of |users of both| / sqrt(|users of one| |users of the other|)."""
    takers = [{user for user, item, _ in before if item == row} for row in range(items)]
    return [
        sum(len(takers[row] & takers[a]) / math.sqrt(len(takers[row]) * len(takers[a])) for a in history if a != row)
        for row in range(items)
    ]


def rule_scores(
    before: Sequence[Event], history: Sequence[int], items: int, window: int, half_life: float, shrinkage: float
) -> list[float]:
    """For each item the sum over the history of its share of what followed, 1 / distance each, halved by later events."""
    weight: dict[tuple[int, int], float] = {}
    mass: dict[int, float] = {}
    lists: dict[int, list[int]] = {}
    for user, item, _ in before:
        mine = lists.setdefault(user, [])
        for distance, earlier in enumerate(reversed(mine[-window:]), 1):
            weight[earlier, item] = weight.get((earlier, item), 0.0) + 1 / distance
            mass[earlier] = mass.get(earlier, 0.0) + 1 / distance
        mine.append(item)
    return [
        sum(
            2 ** (-later / half_life) * weight.get((a, row), 0.0) / (mass.get(a, 0.0) + shrinkage)
            for later, a in enumerate(reversed(history))
        )
        for row in range(items)
    ]
