"""What the stream says of items, in plain dicts and loops: the oracle of neighbours, popularity, contexts and sources."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from online_models.history import EMPTY, UserHistory, merge
from online_models.neighbours import CAPACITY
from online_models.popularity import CLOCK_NAMES, DAY_HALF_LIVES, EVENT_HALF_LIVES, LEAST_SHARE

DAY_MS = 86_400_000

Number = type[np.float32] | type[np.float64]


class PlainNeighbours:
    """Rows as dicts neighbour -> weight, in order of arrival; `number` is what they are counted in."""

    def __init__(self, mass_limit: float, number: Number = np.float64) -> None:
        self.mass_limit, self.number = mass_limit, number
        self.rows: dict[int, dict[int, np.floating]] = {}
        self.mass: dict[int, np.floating] = {}

    def add(self, row: int, neighbour: int, weight: float) -> None:
        known, mass = self.rows.setdefault(row, {}), self.mass.get(row, self.number(0))
        if mass > self.mass_limit:
            for other in known:
                known[other] = self.number(known[other] / 2)
            mass = self.number(mass / 2)
        self.mass[row] = self.number(mass + self.number(weight))
        if neighbour not in known and len(known) == CAPACITY:
            lightest = min(known, key=lambda other: known[other])  # the first of equals
            self.rows[row] = {
                (neighbour if other == lightest else other): (self.number(0) if other == lightest else held)
                for other, held in known.items()
            }
        known = self.rows[row]
        known[neighbour] = self.number(known.get(neighbour, self.number(0)) + self.number(weight))

    def of(self, row: int) -> tuple[list[int], list[float]]:
        known = self.rows.get(row, {})
        return list(known), [float(weight) for weight in known.values()]


@dataclass
class PlainPopularity:
    """Every event that there was: (item, time)."""

    events: list[tuple[int, int]] = field(default_factory=list)

    def count(self, item: int, ts_ms: int) -> None:
        self.events.append((item, ts_ms))

    def shares(self, items: int, ts_ms: int) -> npt.NDArray[np.float64]:
        """log2 of each item's share (CLOCKS, items): sums of 2^(-age / half-life) by each clock."""
        found = np.full((len(CLOCK_NAMES), items), LEAST_SHARE)
        number = len(self.events)
        ages = [[number - 1 - place for place in range(number)]] * len(EVENT_HALF_LIVES)
        ages += [[ts_ms - ts for _, ts in self.events]] * len(DAY_HALF_LIVES)
        half_lives = [*EVENT_HALF_LIVES, *(days * DAY_MS for days in DAY_HALF_LIVES)]
        for clock, half_life in enumerate(half_lives):
            logs = [-age / half_life for age in ages[clock]]
            for item in {item for item, _ in self.events}:
                mine = [log for log, (other, _) in zip(logs, self.events, strict=True) if other == item]
                found[clock, item] = max(log2_sum(mine) - log2_sum(logs), LEAST_SHARE)
        return found


def log2_sum(logs: Sequence[float]) -> float:
    """log2 of the sum of 2^x, which itself may be beyond any float."""
    highest = max(logs)
    return highest + math.log2(math.fsum(2.0 ** (log - highest) for log in logs))


def plain_contexts(
    old: Sequence[UserHistory], user: Sequence[int], events: npt.NDArray[np.void]
) -> tuple[list[npt.NDArray[np.void]], list[int]]:
    """The recent events of each event's user just before it, and how many of them are of an earlier time."""
    now, contexts, until = list(old), [], []
    for place, u in enumerate(user):
        recent = now[u].recent
        contexts.append(recent)
        until.append(sum(int(entry["ts_ms"]) < int(events["ts_ms"][place]) for entry in recent))
        now[u] = merge(now[u], events[place : place + 1], EMPTY.seen)
    return contexts, until


class PlainSources:
    """Rules, companions and popularity from events (item, time) and the items that their users had just met, oldest first."""

    def __init__(self, follow_window: int, together_window: int, follow_mass: float, together_mass: float) -> None:
        self._follow_window, self._together_window = follow_window, together_window
        self.followers = PlainNeighbours(follow_mass, np.float32)
        self.companions = PlainNeighbours(together_mass, np.float32)
        self.popularity = PlainPopularity()

    def learn(self, item: int, ts_ms: int, context: Sequence[int]) -> None:
        near = list(context)[-self._together_window :]
        for distance, other in zip(range(len(near), 0, -1), near, strict=True):
            if other == item:
                continue
            if distance <= self._follow_window:
                self.followers.add(other, item, 1 / distance)
            self.companions.add(other, item, 1.0)
            self.companions.add(item, other, 1.0)
        self.popularity.count(item, ts_ms)
