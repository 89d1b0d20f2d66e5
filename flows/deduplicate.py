"""Which events were seen before, in bounded memory.

- Two generations of sorted hashes: when the young one is full it becomes the old one, and the old one is forgotten.
- Membership by binary search of the batch's sorted hashes; arrays are replaced, never changed, so a snapshot is free.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

SCHEMA_VERSION = 1


class SeenEvents:
    """Remembers the newest `capacity / 2` to `capacity` distinct event hashes; all of them up to `capacity`.

    8 bytes per hash. Two events with one hash would be taken for one: with a million remembered, a chance of one in
    18 trillion per event.

    Raises
    ------
    ValueError
        When the capacity is not an even number of at least 2.

    >>> seen = SeenEvents(capacity=4)
    >>> seen.admit(np.array([7, 8, 7], np.uint64)).tolist(), seen.admit(np.array([8, 9], np.uint64)).tolist()
    ([True, True, False], [False, True])
    """

    def __init__(self, capacity: int = 1_048_576) -> None:
        if capacity < 2 or capacity % 2:
            raise ValueError(f"capacity: expected an even number of at least 2, got {capacity}")
        self._generation = capacity // 2
        self._old: Hashes = np.empty(0, np.uint64)
        self._young: Hashes = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._old) + len(self._young)

    def admit(self, event_hash: Hashes) -> npt.NDArray[np.bool_]:
        """True (n,) for each hash that was not seen before, neither earlier nor in the same batch (n,)."""
        distinct, first = np.unique(event_hash, return_index=True)
        new = ~(_contains(self._old, distinct) | _contains(self._young, distinct))
        rows = np.sort(first[new])
        admitted = np.zeros(len(event_hash), np.bool_)
        admitted[rows] = True
        self._remember(event_hash[rows])
        return admitted

    def _remember(self, hashes: Hashes) -> None:
        """Add new hashes in the order they came, so that what is forgotten does not depend on batch borders."""
        while len(hashes):
            if len(self._young) >= self._generation:
                self._old, self._young = self._young, np.empty(0, np.uint64)
            room = self._generation - len(self._young)
            fitting = np.sort(hashes[:room])
            self._young = np.insert(self._young, np.searchsorted(self._young, fitting), fitting)
            hashes = hashes[room:]

    def snapshot(self) -> tuple[Any, ...]:
        """Schema version, and the old and the young generation, uint64 sorted."""
        return (SCHEMA_VERSION, self._old, self._young)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot; it may have been made with another capacity.

        Raises
        ------
        ValueError
            When the snapshot's schema is not known.
        """
        version, *generations = snapshot
        if version != SCHEMA_VERSION:
            raise ValueError(f"SeenEvents snapshot: expected schema version {SCHEMA_VERSION}, got {version}")
        self._old, self._young = generations


def _contains(sorted_hashes: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    if not len(sorted_hashes):
        return np.zeros(len(wanted), np.bool_)
    at = np.searchsorted(sorted_hashes, wanted)
    # beyond the end there is nothing to compare with; the last element is then smaller and so not equal
    found: npt.NDArray[np.bool_] = sorted_hashes[np.minimum(at, len(sorted_hashes) - 1)] == wanted
    return found
