"""User groups: what a rollout's variants did, summed up by group of users.

- What differs between groups is chance, also where users come back: the spread of these sums is the error of a variant's rates.
- Kept for the newest two rollouts, for all of their stages; a request of an older one is not counted here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from flows.newest import Newest
from flows.open_requests import ARMS, Request
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import GROUPS, GroupedCounts

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
        self._rollouts: Newest[dict[Key, _Sums]] = Newest(dict)

    def add(self, model: ModelName, requests: Iterable[Request]) -> list[GroupedCounts]:
        """Take in final requests; returns the sums that they changed, each once."""
        changed: dict[tuple[int, Key], _Sums] = {}
        for request in requests:
            sums = self._rollouts.of(request.rollout_id) if request.rollout_id else None
            if sums is not None and request.variant in ARMS:
                key = (request.stage, request.variant, request.version)
                if key not in sums:
                    sums[key] = _Sums(request.ts_ms)
                _count(sums[key], request)
                changed[request.rollout_id, key] = sums[key]
        return [
            GroupedCounts(model, version, rollout_id, stage, variant, sums.since_ms, _packed(sums).tobytes())
            for (rollout_id, (stage, variant, version)), sums in changed.items()
        ]

    def snapshot(self) -> dict[int, Any]:
        """Plain values; `restore` continues exactly from here."""
        return {
            rollout_id: {key: (each.since_ms, _packed(each)) for key, each in sums.items()}
            for rollout_id, sums in self._rollouts.states.items()
        }

    def restore(self, snapshot: dict[int, Any]) -> None:
        """Take a snapshot's state."""
        self._rollouts.states = {
            rollout_id: {key: _Sums(since_ms, counts.tolist()) for key, (since_ms, counts) in sums.items()}
            for rollout_id, sums in snapshot.items()
        }


def _count(sums: _Sums, request: Request) -> None:
    group, counts = request.user >> SHIFT, sums.counts
    counts[group] += 1
    counts[GROUPS + group] += bool(request.taken)
    counts[2 * GROUPS + group] += len(request.shown)
    counts[3 * GROUPS + group] += len(request.taken)


def _packed(sums: _Sums) -> Any:
    """uint32 (4 * GROUPS,), little-endian."""
    return np.array(sums.counts, "<u4")
