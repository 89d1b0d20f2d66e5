"""Exposures: who meets a rollout, a stage of it or, outside of rollouts, a day for the first time, and what they are shown then.

- Bounded: users of the newest rollout, of its newest two stages and of the newest two days are remembered, and how many users
  the newest rollout's variants have shown each item.
- A late request of an older rollout exposes nobody.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from flows.open_requests import Request
from online_models.contracts.ids import ModelVersion

DAY_MS: Final = 86_400_000

ShownBy = tuple[int, str, ModelVersion]
"""Stage, variant and version."""


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


class Newest:
    """Who has been met in the newest two of numbered periods; in an older one nobody is met first.

    >>> newest = Newest()
    >>> [newest.first(day, user) for day, user in ((1, 7), (1, 7), (3, 7), (2, 7), (1, 8))]
    [True, False, True, True, False]
    """

    def __init__(self) -> None:
        self._users: dict[int, set[int]] = {}

    def first(self, number: int, user: int) -> bool:
        """Whether a user is met for the first time in a period."""
        users = self._users.get(number)
        if users is None:
            if len(self._users) == 2 and number < min(self._users):
                return False
            users = self._users[number] = set()
            if len(self._users) > 2:
                del self._users[min(self._users)]
        return _added(users, user)

    def snapshot(self) -> dict[int, Any]:
        """Number of a period -> its users, uint64 (n,)."""
        return {number: _array(users) for number, users in self._users.items()}

    def restore(self, snapshot: dict[int, Any]) -> None:
        """Take a snapshot's state."""
        self._users = {number: set(users.tolist()) for number, users in snapshot.items()}


class Exposures:
    """One model's memory of whom it has exposed to what."""

    def __init__(self) -> None:
        self._days = Newest()
        self._begin(0)

    def _begin(self, rollout_id: int) -> None:
        self._rollout_id = rollout_id
        self._users: set[int] = set()
        self._stages = Newest()
        self._items: dict[ShownBy, dict[str, int]] = {}

    def add(self, request: Request) -> Exposure:
        """Take in a final request; returns what it is to its user."""
        if request.rollout_id == 0:
            first = self._days.first(request.ts_ms // DAY_MS, request.user)
            return Exposure(first, first)
        if request.rollout_id < self._rollout_id:
            return Exposure(False, False)
        if request.rollout_id > self._rollout_id:
            self._begin(request.rollout_id)
        first_of_stage = self._stages.first(request.stage, request.user)
        if not _added(self._users, request.user):
            return Exposure(False, first_of_stage)
        shown_by = (request.stage, request.variant, request.version)
        return Exposure(True, first_of_stage, len(request.shown), self._repeats(shown_by, request.shown))

    def _repeats(self, shown_by: ShownBy, items: Iterable[str]) -> int:
        counts = self._items.setdefault(shown_by, {})
        repeats = 0
        for item in items:
            before = counts.get(item, 0)
            counts[item] = before + 1
            # (c + 1) c - c (c - 1) = 2 c
            repeats += 2 * before
        return repeats

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        items = {shown_by: dict(counts) for shown_by, counts in self._items.items()}
        return (self._rollout_id, _array(self._users), self._stages.snapshot(), items, self._days.snapshot())

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        self._rollout_id, users, stages, items, days = snapshot
        self._users = set(users.tolist())
        self._stages.restore(stages)
        self._items = {shown_by: dict(counts) for shown_by, counts in items.items()}
        self._days.restore(days)


def _added(users: set[int], user: int) -> bool:
    """Add a user; whether that is a new one."""
    if user in users:
        return False
    users.add(user)
    return True


def _array(users: set[int]) -> Any:
    return np.fromiter(users, np.uint64, len(users))
