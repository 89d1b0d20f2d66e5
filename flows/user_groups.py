"""User groups: what a rollout's variants did, summed up by group of users.

- What differs between groups is chance, also where users come back: the spread of these sums is the error of a variant's rates.
- Kept for the newest two rollouts, for all of their stages; a request of an older one is not counted here.
"""

from collections.abc import Iterable
from typing import Any, Final

from flows.newest import Newest
from flows.open_requests import ARMS, Request, ShownBy
from flows.sums import Sums
from online_models.contracts.ids import ModelName
from online_models.contracts.rollouts import GROUPS, GroupedCounts

SHIFT: Final = 64 - (GROUPS - 1).bit_length()
"""A group is the top bits of a user's hash."""


class UserGroups:
    """One model's sums, (4 * GROUPS,) each."""

    def __init__(self) -> None:
        self._rollouts: Newest[dict[ShownBy, Sums]] = Newest(dict)

    def add(self, model: ModelName, requests: Iterable[Request]) -> list[GroupedCounts]:
        """Take in final requests; returns the sums that they changed, each once."""
        changed: dict[tuple[int, ShownBy], Sums] = {}
        for request in requests:
            sums = self._rollouts.of(request.rollout_id) if request.rollout_id else None
            if sums is not None and request.variant in ARMS:
                key = request.shown_by
                if key not in sums:
                    sums[key] = Sums.zeros(request.ts_ms, 4 * GROUPS)
                _count(sums[key], request)
                changed[request.rollout_id, key] = sums[key]
        return [
            GroupedCounts(model, version, rollout_id, stage, variant, sums.since_ms, sums.tobytes())
            for (rollout_id, (stage, variant, version)), sums in changed.items()
        ]

    def snapshot(self) -> dict[int, Any]:
        """Plain values; `restore` continues exactly from here."""
        return {
            rollout_id: {key: each.snapshot() for key, each in sums.items()}
            for rollout_id, sums in self._rollouts.states.items()
        }

    def restore(self, snapshot: dict[int, Any]) -> None:
        """Take a snapshot's state."""
        self._rollouts.states = {
            rollout_id: {key: Sums.restored(each) for key, each in sums.items()}
            for rollout_id, sums in snapshot.items()
        }


def _count(sums: Sums, request: Request) -> None:
    group, counts = request.user >> SHIFT, sums.counts
    counts[group] += 1
    counts[GROUPS + group] += bool(request.taken)
    counts[2 * GROUPS + group] += len(request.shown)
    counts[3 * GROUPS + group] += len(request.taken)
