"""User groups: what a rollout's variants did, summed up by group of users.

- What differs between groups is chance, also where users come back: the spread of these sums is the error of a variant's rates.
- Kept for the newest rollout, for all of its stages; a late request of an older one is not counted here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from flows.open_requests import Request
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import GROUPS, GroupedCounts

COMPARED: Final = frozenset({"stable", "canary", "arm"})
"""Variants that a model answers for."""

SHIFT: Final = 64 - (GROUPS - 1).bit_length()
"""A group is the top bits of a user's hash."""

Key = tuple[int, str, ModelVersion]
"""Stage, variant and version."""


@dataclass(slots=True)
class _Sums:
    """Event time of the first request counted, and the counts (4 * GROUPS,). Mutable: requests are added one by one."""

    since_ms: int
    counts: list[int] = field(default_factory=lambda: [0] * (4 * GROUPS))


class UserGroups:
    """One model's sums."""

    def __init__(self) -> None:
        self._rollout_id = 0
        self._sums: dict[Key, _Sums] = {}

    def add(self, model: ModelName, requests: Iterable[Request]) -> list[GroupedCounts]:
        """Take in final requests; returns the sums that they changed, each once."""
        told: list[GroupedCounts] = []
        changed: dict[Key, None] = {}
        for request in requests:
            if request.rollout_id > self._rollout_id:
                told += self._told(model, changed)
                self._rollout_id, self._sums, changed = request.rollout_id, {}, {}
            if 0 < request.rollout_id == self._rollout_id and request.variant in COMPARED:
                changed[self._count(request)] = None
        return told + self._told(model, changed)

    def _count(self, request: Request) -> Key:
        key = (request.stage, request.variant, request.version)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = _Sums(request.ts_ms)
        group, counts = request.user >> SHIFT, sums.counts
        counts[group] += 1
        counts[GROUPS + group] += bool(request.taken)
        counts[2 * GROUPS + group] += len(request.shown)
        counts[3 * GROUPS + group] += len(request.taken)
        return key

    def _told(self, model: ModelName, keys: Iterable[Key]) -> list[GroupedCounts]:
        return [
            GroupedCounts(
                *(model, version, self._rollout_id, stage, variant),
                *(self._sums[stage, variant, version].since_ms, _packed(self._sums[stage, variant, version]).tobytes()),
            )
            for stage, variant, version in keys
        ]

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        return (self._rollout_id, {key: (sums.since_ms, _packed(sums)) for key, sums in self._sums.items()})

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        self._rollout_id, sums = snapshot
        self._sums = {key: _Sums(since_ms, counts.tolist()) for key, (since_ms, counts) in sums.items()}


def _packed(sums: _Sums) -> Any:
    """uint32 (4 * GROUPS,), little-endian."""
    return np.array(sums.counts, "<u4")
