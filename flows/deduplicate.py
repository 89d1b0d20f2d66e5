"""Which events were seen before, in bounded memory.

- Two generations of hashes: when the young one is full it becomes the old one, and the old one is forgotten.
- A generation is a log of its hashes in order, and an open-addressing table of them with linear probing, at most half full.
- The log only grows, at its end: so a snapshot is a view of it, and costs nothing until it is written.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.hashing import borrowed

Hashes = npt.NDArray[np.uint64]

SCHEMA_VERSION = 1


class _Generation:
    """At most `room` distinct hashes: `log[:size]` in order, and the same in `slots`.

    slots : uint64 (2^k + 1,), the last tells whether the hash 0 is here, which marks an empty slot elsewhere
    """

    def __init__(self, room: int) -> None:
        self.log: Hashes = np.empty(room, np.uint64)
        self.slots: Hashes = np.empty((1 << (2 * room - 1).bit_length()) + 1, np.uint64)
        self.slots[:] = 0  # np.zeros would not ask for large pages, with which looking up takes a fifth less
        self.size = 0

    @property
    def hashes(self) -> Hashes:
        """What is remembered, in order: uint64 (size,)."""
        return self.log[: self.size]

    @staticmethod
    def of(hashes: Hashes, room: int) -> "_Generation":
        """A generation of these distinct hashes, and of `room` if that is more."""
        made = _Generation(max(room, len(hashes), 1))
        _, made.size = _admit(hashes, 0, _NOTHING, made.slots, made.log, 0, np.empty(len(hashes), np.bool_))
        return made


_NOTHING: Hashes = np.zeros(2, np.uint64)
"""The table of a generation that holds nothing."""


class SeenEvents:
    """Remembers the newest `capacity / 2` to `capacity` distinct event hashes; all of them up to `capacity`.

    24 to 40 bytes per hash. Two events with one hash would be taken for one: with a million remembered, a chance of one in
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
        self._room = capacity // 2
        self._old = _Generation.of(_NOTHING[:0], 1)
        self._young = _Generation(self._room)

    def __len__(self) -> int:
        return self._old.size + self._young.size

    def admit(self, event_hash: Hashes) -> npt.NDArray[np.bool_]:
        """True (n,) for each hash that is not remembered, neither from earlier nor from before in the same batch (n,)."""
        admitted = np.empty(len(event_hash), np.bool_)
        done = 0
        while done < len(event_hash):
            young = self._young
            done, young.size = _admit(
                event_hash, done, self._old.slots, young.slots, young.log[: self._room], young.size, admitted
            )
            if done < len(event_hash):
                self._old, self._young = young, _Generation(self._room)
        return admitted

    def snapshot(self) -> tuple[Any, ...]:
        """Schema version, and the old and the young generation, uint64, each in the order of its first coming."""
        return (SCHEMA_VERSION, self._old.hashes, self._young.hashes)

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
        self._old, self._young = (_Generation.of(hashes, self._room) for hashes in generations)


@njit(cache=True, nogil=True)
def _admit(
    hashes: Hashes, start: int, old: Hashes, young: Hashes, log: Hashes, size: int, admitted: npt.NDArray[np.bool_]
) -> tuple[int, int]:
    """Fill `admitted` (n,) from `start` on; where it ended, early when the log (room,) is full, and the log's new size."""
    old, young = borrowed(old), borrowed(young)
    for row in range(start, hashes.size):
        wanted = hashes[row]
        place = _slot(young, wanted)
        known = young[place] != 0 or old[_slot(old, wanted)] != 0
        if not known:
            if size >= log.size:
                return row, size
            young[place] = wanted if wanted else np.uint64(1)
            log[size] = wanted
            size += 1
        admitted[row] = not known
    return hashes.size, size


@njit(cache=True, nogil=True)
def _slot(slots: Hashes, wanted: np.uint64) -> int:
    """Where a hash is, or the empty slot where it belongs."""
    last = slots.size - 1
    if wanted == 0:
        return last
    # The low bits of a hash are as random as any; a linear probe stays in a cache line.
    place = np.int64(wanted & np.uint64(last - 1))
    while slots[place] != 0 and slots[place] != wanted:
        place = (place + 1) & (last - 1)
    return int(place)
