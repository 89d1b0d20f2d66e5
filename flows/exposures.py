"""Exposures: who meets a rollout, a stage of it or, outside of rollouts, a day for the first time, and what they are shown then.

- Bounded: users of the newest two rollouts, of their newest two stages and of the newest two days are remembered, and how many
  users the variants of these rollouts have shown each item.
- A request of an older rollout exposes nobody.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np

from flows.newest import Newest
from flows.open_requests import Request, ShownBy
from online_models.interactions import DAY_MS


class Exposure(NamedTuple):
    """What a request is to its user.

    first : the first one in its rollout; outside of rollouts, of its day (UTC)
    first_of_stage : the first one in its stage of the rollout; outside of rollouts as `first`
    items : how many items it shows, of a first one in a rollout
    repeats : of these items, ordered pairs of users who now have been shown the same one first, and were not before
    """

    first: bool
    first_of_stage: bool
    items: int = 0
    repeats: int = 0


class _Rollout:
    """Whom one rollout has met, in all and by stage, and how many users each arm has shown an item at first."""

    def __init__(self) -> None:
        self.users: set[int] = set()
        self.stages: Newest[set[int]] = Newest(set)
        self.items: dict[ShownBy, dict[str, int]] = {}

    def add(self, request: Request) -> Exposure:
        """Take in one of its requests; returns what it is to its user."""
        of_stage = self.stages.of(request.stage)
        first_of_stage = of_stage is not None and _added(of_stage, request.user)
        if not _added(self.users, request.user):
            return Exposure(False, first_of_stage)
        return Exposure(True, first_of_stage, len(request.shown), self._repeats(request.shown_by, request.shown))

    def _repeats(self, shown_by: ShownBy, items: Iterable[str]) -> int:
        counts = self.items.setdefault(shown_by, {})
        repeats = 0
        for item in items:
            before = counts.get(item, 0)
            counts[item] = before + 1
            # (c + 1) c - c (c - 1) = 2 c
            repeats += 2 * before
        return repeats

    def snapshot(self) -> tuple[Any, ...]:
        items = {shown_by: dict(counts) for shown_by, counts in self.items.items()}
        return (_array(self.users), _arrays(self.stages), items)

    @classmethod
    def restored(cls, snapshot: tuple[Any, ...]) -> Self:
        rollout = cls()
        users, stages, items = snapshot
        rollout.users = set(users.tolist())
        rollout.stages.states = _sets(stages)
        rollout.items = {shown_by: dict(counts) for shown_by, counts in items.items()}
        return rollout


class Exposures:
    """One model's memory of whom it has exposed to what."""

    def __init__(self) -> None:
        self._days: Newest[set[int]] = Newest(set)
        self._rollouts = Newest(_Rollout)

    def add(self, request: Request) -> Exposure:
        """Take in a final request; returns what it is to its user."""
        if request.rollout_id == 0:
            day = self._days.of(request.ts_ms // DAY_MS)
            first = day is not None and _added(day, request.user)
            return Exposure(first, first)
        rollout = self._rollouts.of(request.rollout_id)
        return Exposure(False, False) if rollout is None else rollout.add(request)

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        rollouts = {rollout_id: rollout.snapshot() for rollout_id, rollout in self._rollouts.states.items()}
        return (rollouts, _arrays(self._days))

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        rollouts, days = snapshot
        self._rollouts.states = {rollout_id: _Rollout.restored(state) for rollout_id, state in rollouts.items()}
        self._days.states = _sets(days)


def _added(users: set[int], user: int) -> bool:
    """Add a user; whether that is a new one."""
    if user in users:
        return False
    users.add(user)
    return True


def _array(users: set[int]) -> Any:
    return np.fromiter(users, np.uint64, len(users))


def _arrays(users: Newest[set[int]]) -> dict[int, Any]:
    """Number of a period -> its users, uint64 (n,)."""
    return {number: _array(each) for number, each in users.states.items()}


def _sets(arrays: dict[int, Any]) -> dict[int, set[int]]:
    return {number: set(each.tolist()) for number, each in arrays.items()}
