"""Shadow sums: where a version in the shadow had what others were shown, and what of it was taken.

- Kept for the last two versions that came: what comes late, of the one before, is still counted. A version that comes again
  begins new sums, with the time of their first request.
- Of requests outside of rollouts only, for nobody is exposed by what is in the shadow; see `open_requests` for which those are.
"""

from collections.abc import Iterable
from typing import Any, Final

from flows.newest import KEPT
from flows.open_requests import Request
from flows.sums import Sums
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import SHADOW_PLACES, SHADOW_POSITIONS, ShadowCounts

COLUMNS: Final = SHADOW_PLACES + 1
CELLS: Final = SHADOW_POSITIONS * COLUMNS


class ShadowSums:
    """One model's sums, (2 * CELLS,) each, the version that came last at the end."""

    def __init__(self) -> None:
        self._versions: dict[ModelVersion, Sums] = {}

    def add(self, model: ModelName, requests: Iterable[Request]) -> list[ShadowCounts]:
        """Take in final requests; returns the sums that they changed, each once."""
        changed: dict[tuple[ModelVersion, int], Sums] = {}
        for request in requests:
            if request.shadow is not None and request.places:
                sums = self._of(request.shadow, request.ts_ms)
                _count(sums, request)
                changed[request.shadow, sums.since_ms] = sums
        return [ShadowCounts(model, version, since_ms, sums.tobytes()) for (version, since_ms), sums in changed.items()]

    def _of(self, version: ModelVersion, ts_ms: int) -> Sums:
        known = self._versions.pop(version, None)
        sums = self._versions[version] = known or Sums.zeros(ts_ms, 2 * CELLS)
        if len(self._versions) > KEPT:
            del self._versions[next(iter(self._versions))]
        return sums

    def snapshot(self) -> dict[ModelVersion, Any]:
        """Plain values; `restore` continues exactly from here."""
        return {version: sums.snapshot() for version, sums in self._versions.items()}

    def restore(self, snapshot: dict[ModelVersion, Any]) -> None:
        """Take a snapshot's state."""
        self._versions = {version: Sums.restored(each) for version, each in snapshot.items()}


def _count(sums: Sums, request: Request) -> None:
    for item, (position, place) in request.places.items():
        cell = position * COLUMNS + place
        sums.counts[cell] += 1
        sums.counts[CELLS + cell] += item in request.taken
