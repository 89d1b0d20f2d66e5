"""How much of what was shown lately each item is: decayed counts of impressions in bounded memory.

- Counts are decayed forward: an impression at t adds 2^((t - landmark) / half-life), so that nothing is touched as time goes by.
  The landmark moves by whole half-lives, which scales exactly.
- A share is count over total, which fade alike, so that it changes with impressions alone.
- A full table forgets its lesser half. An item with more than 2 / items of the total is not in it.
- One process counts what it shows itself, on one thread.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from serving_api.reranking.candidates import F32, Hashes

F64 = npt.NDArray[np.float64]

_MOST_HALF_LIVES: Final = 32
"""After so many the landmark moves; a time so many or more before it weighs as that, for 0 could not be divided by."""

_EMPTY: Final = np.uint64(0)
"""No item: one with this hash counts together with hash 1."""


class Exposure:
    """Decayed impressions per item.

    >>> shown, items = Exposure(half_life_seconds=60.0), np.array([7, 8, 9], np.uint64)
    >>> shown.add(items[:1], now_seconds=0.0)
    >>> shown.add(items[:2], now_seconds=60.0)
    >>> shown.shares(items, now_seconds=120.0).tolist(), shown.total(now_seconds=120.0)
    ([0.6000000238418579, 0.4000000059604645, 0.0], 1.25)
    """

    def __init__(self, half_life_seconds: float, items: int = 65_536) -> None:
        """half_life_seconds : an impression so long ago counts half; items : most that are counted apart

        Raises
        ------
        ValueError
            When one of them is not positive, or there is no room for two items.
        """
        if not half_life_seconds > 0 or items < 2:
            raise ValueError(f"expected a positive half-life and 2 items or more, got {half_life_seconds} and {items}")
        self._half_life = half_life_seconds
        self._items = items
        slots = 1 << (2 * items - 1).bit_length()
        self._keys = np.zeros(slots, np.uint64)
        self._counts = np.zeros(slots)
        self._held = 0
        self._total = 0.0
        self._landmark = 0.0

    def __len__(self) -> int:
        return self._held

    def add(self, hashes: Hashes, now_seconds: float) -> None:
        """Count items (m,) that were shown at a time on any steady clock."""
        weight = self._weight(now_seconds)
        self._total += len(hashes) * weight
        step = max(1, self._items // 2)  # so that the table never fills up
        for start in range(0, len(hashes), step):
            some = hashes[start : start + step]
            self._held += _add(self._keys, self._counts, some, np.full(len(some), weight))
            if self._held > self._items:
                self._forget()

    def shares(self, hashes: Hashes, now_seconds: float, least: float = 0.0) -> F32:
        """Which part of all recent impressions each of n items had, float32 (n,); 0 of all while these are fewer than `least`."""
        total = self.total(now_seconds)
        return _shares(self._keys, self._counts, hashes, self._total if total > 0 and total >= least else np.inf)

    def total(self, now_seconds: float) -> float:
        """Recent impressions of all items, each counted 2^(-age / half-life)."""
        weight = self._weight(now_seconds)  # which may move the landmark, and so the total
        return self._total / weight

    def _weight(self, now_seconds: float) -> float:
        """2^((now - landmark) / half-life); of a time long before the landmark as of one just before it."""
        half_lives = (now_seconds - self._landmark) / self._half_life
        if half_lives > _MOST_HALF_LIVES:
            whole = float(np.floor(half_lives))
            scale = float(np.exp2(-whole))
            self._counts *= scale
            self._total *= scale
            self._landmark += whole * self._half_life
            half_lives = (now_seconds - self._landmark) / self._half_life
        return float(np.exp2(max(half_lives, -_MOST_HALF_LIVES)))

    def _forget(self) -> None:
        """Keep the half that was shown most."""
        kept = np.argpartition(-self._counts, self._items // 2)[: self._items // 2]
        keys, counts = self._keys[kept], self._counts[kept]
        self._keys[:], self._counts[:] = _EMPTY, 0.0
        self._held = _add(self._keys, self._counts, keys[keys != _EMPTY], counts[keys != _EMPTY])


@njit(cache=True, nogil=True)
def _add(keys: Hashes, counts: F64, hashes: Hashes, weights: F64) -> int:
    """Add weights (m,) to the counts of items (m,); how many of them are new."""
    new = 0
    for i in range(len(hashes)):
        slot = _slot(keys, hashes[i])
        if keys[slot] == _EMPTY:
            keys[slot] = max(hashes[i], np.uint64(1))
            new += 1
        counts[slot] += weights[i]
    return new


@njit(cache=True, nogil=True)
def _shares(keys: Hashes, counts: F64, hashes: Hashes, total: float) -> F32:
    shares = np.empty(len(hashes), np.float32)
    for i in range(len(hashes)):
        shares[i] = counts[_slot(keys, hashes[i])] / total
    return shares


@njit(cache=True, nogil=True, inline="always")
def _slot(keys: Hashes, one: np.uint64) -> np.uint64:
    """Where an item is, or would be: open addressing in a table that is at most half full."""
    key = max(one, np.uint64(1))
    mask = np.uint64(len(keys) - 1)
    slot = key & mask
    while keys[slot] != _EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot
