"""The most frequent words of a stream, by combinatorial group testing (Cormode and Muthukrishnan 2005, "What's hot and
what's not").

- A linear sketch: all its counters merge by `+`, unlike those of Misra-Gries or Space-Saving, whose merge depends on the order.
- Each of 3 hash functions puts a word's fingerprint, the upper 32 bits of its hash, into one of 128 groups. A group counts
  its words, and those with a 1 in each of the 32 bits: the majority in every bit spells the word that dominates the group.
- Words that were found are taken out and the groups are read again, as in an invertible Bloom lookup table (Goodrich and
  Mitzenmacher 2011), so that two frequent words in one group are both found.
"""

from collections.abc import Container
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.columns import Column

BITS: Final = 32
HASHES: Final = 3
GROUP_BITS: Final = 7
GROUPS: Final = 1 << GROUP_BITS
COUNTERS: Final = HASHES * GROUPS * (BITS + 1)
SHARE: Final = 1 / 256
"""Rarer words are not reported: below, chance spells words that never came."""

Counters = npt.NDArray[np.int64]
Fingerprints = npt.NDArray[np.uint64]

_ODD: Final = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_ROUNDS: Final = 4
_SAMPLE: Final = 4_096
_BYTES: Final = np.uint64(0x0101010101010101)


@njit(cache=True, nogil=True)
def add_fingerprints(words: npt.NDArray[np.uint64], counters: Counters) -> None:
    """Add hashes (n,) to counters (12672,), `HASHES` x `GROUPS` x [one a bit, total].

    Four 64-bit integers hold a group's 32 bit counters, a byte each, so that one vector instruction adds a word to all
    of them; before a byte can overflow they are emptied into the counters.
    """
    packed = np.zeros((HASHES * GROUPS, 4), np.uint64)
    filled = np.zeros(HASHES * GROUPS, np.uint8)
    table = counters.reshape((HASHES * GROUPS, BITS + 1))
    for i in range(words.size):
        fingerprint = words[i] >> np.uint64(32)
        # bits 0-3 of each byte in the lower half, 4-7 in the upper: bit 8 b + k of this is 1 bit of the fingerprint
        spread = fingerprint | (fingerprint >> np.uint64(4)) << np.uint64(32)
        bits_0, bits_1 = spread & _BYTES, (spread >> np.uint64(1)) & _BYTES
        bits_2, bits_3 = (spread >> np.uint64(2)) & _BYTES, (spread >> np.uint64(3)) & _BYTES
        for h in range(HASHES):
            product = (fingerprint * np.uint64(_ODD[h])) & np.uint64(0xFFFFFFFF)
            group = (product >> np.uint64(BITS - GROUP_BITS)) + np.uint64(h * GROUPS)
            packed[group, 0] += bits_0
            packed[group, 1] += bits_1
            packed[group, 2] += bits_2
            packed[group, 3] += bits_3
            filled[group] += np.uint8(1)
            if filled[group] == 255:
                _empty(packed[group], 255, table[group])
                filled[group] = 0
    for g in range(HASHES * GROUPS):
        if filled[g]:
            _empty(packed[g], filled[g], table[g])


@njit(cache=True, nogil=True)
def _empty(packed: npt.NDArray[np.uint64], words: int, counters: Counters) -> None:
    for k in range(4):
        for byte in range(8):
            bit = 8 * byte + k if byte < 4 else 8 * (byte - 4) + 4 + k
            counters[bit] += np.int64((packed[k] >> np.uint64(8 * byte)) & np.uint64(255))
        packed[k] = 0
    counters[BITS] += words


def heavy_words(counters: Counters, k: int) -> list[tuple[int, int]]:
    """The k most frequent words of at least `SHARE` of all, as (fingerprint, count at most), most frequent first.

    Words of 1 % and more are found but for a chance of about one in a thousand; the count is never too small.

    >>> counters, words = np.zeros(COUNTERS, np.int64), np.array([7 << 32, 9 << 32], np.uint64)
    >>> add_fingerprints(np.repeat(words, [30, 10]), counters)
    >>> heavy_words(counters, 5)
    [(7, 30), (9, 10)]
    """
    table = counters.reshape(HASHES, GROUPS, BITS + 1)
    least = max(1.0, int(table[0, :, BITS].sum()) * SHARE)
    found, counts = _frequent(table, least)
    order = np.lexsort((found, -counts))[:k]
    return list(zip(found[order].tolist(), counts[order].tolist(), strict=True))


@njit(cache=True, nogil=True)
def _frequent(table: Counters, least: float) -> tuple[Fingerprints, Counters]:
    """Fingerprints (f,) of the words that dominate a group, and how often each came at most; read again without those found."""
    residual = table.copy()
    found = np.empty(_ROUNDS * HASHES * GROUPS, np.uint64)
    taken = np.empty(len(found), np.int64)
    many = 0
    for _ in range(_ROUNDS):
        first = many
        for h in range(HASHES):
            for group in range(GROUPS):
                fingerprint = _spelled(residual[h, group])
                # a word that does not belong where it was read is none
                if residual[h, group, BITS] <= 0 or _group(fingerprint, h) != group or fingerprint in found[:many]:
                    continue
                taken[many] = _at_most(residual, fingerprint)
                if taken[many] >= least:
                    found[many] = fingerprint
                    many += 1
        if many == first:
            break
        for i in range(first, many):
            _take_out(residual, found[i], taken[i])
    counts = np.empty(many, np.int64)
    for i in range(many):
        counts[i] = _at_most(table, found[i])
    return found[:many], counts


@njit(cache=True, nogil=True)
def _group(fingerprint: np.uint64, h: int) -> np.int64:
    """The group of a fingerprint under one hash."""
    product = (fingerprint * np.uint64(_ODD[h])) & np.uint64(0xFFFFFFFF)
    return np.int64(product >> np.uint64(BITS - GROUP_BITS))


@njit(cache=True, nogil=True)
def _spelled(counters: Counters) -> np.uint64:
    """The fingerprint that the majorities of a group's counters (33,) spell."""
    fingerprint = np.uint64(0)
    for bit in range(BITS):
        if 2 * counters[bit] > counters[BITS]:
            fingerprint |= np.uint64(1) << np.uint64(bit)
    return fingerprint


@njit(cache=True, nogil=True)
def _at_most(table: Counters, fingerprint: np.uint64) -> int:
    """The least number of words that agree with a fingerprint in one of its bits, in one of its groups."""
    least = np.iinfo(np.int64).max
    for h in range(HASHES):
        counters = table[h, _group(fingerprint, h)]
        for bit in range(BITS):
            one = fingerprint >> np.uint64(bit) & np.uint64(1)
            least = min(least, counters[bit] if one else counters[BITS] - counters[bit])
    return least


@njit(cache=True, nogil=True)
def _take_out(table: Counters, fingerprint: np.uint64, count: int) -> None:
    for h in range(HASHES):
        counters = table[h, _group(fingerprint, h)]
        counters[BITS] -= count
        for bit in range(BITS):
            if fingerprint >> np.uint64(bit) & np.uint64(1):
                counters[bit] -= count


def new_heavy_words(
    column: Column, known: Container[int] = (), share: float = SHARE, rows: npt.NDArray[np.bool_] | None = None
) -> dict[int, str]:
    """Texts of the words that are frequent in a batch and not known yet, by fingerprint.

    Looks at an evenly spaced sample of about 4,096 words, and asks for few texts. A word of `share` that chance keeps out
    of the sample is found in another batch.

    Parameters
    ----------
    known : fingerprints whose text is known
    rows : (n,), the events of the batch that count; all by default

    >>> column = Column(word_rows=None, words=np.array([7 << 32, 9 << 32, 7 << 32], np.uint64), text="aba".__getitem__)
    >>> new_heavy_words(column, known={9})
    {7: 'a'}
    """
    if rows is None:
        step = max(len(column.words) // _SAMPLE, 1)
        words = column.words[::step]
    else:
        places = np.flatnonzero(rows if column.word_rows is None else rows[column.word_rows])
        step = max(len(places) // _SAMPLE, 1)
        places = places[::step]
        words = column.words[places]
    # half of the share: a frequent word may come less often in the sample by chance
    found, first = _repeated(words, max(share * len(words) / 2, 1.0))
    return {
        fingerprint: column.text(place * step if rows is None else int(places[place]))
        for fingerprint, place in sorted(zip(found.tolist(), first.tolist(), strict=True))
        if fingerprint not in known
    }


@njit(cache=True, nogil=True)
def _repeated(words: npt.NDArray[np.uint64], least: float) -> tuple[Fingerprints, Counters]:
    """The fingerprints that `words` (n,) have at least so often, and the first place of each: an open-addressing table."""
    slots = 2
    while slots < 2 * words.size:
        slots *= 2
    first, counts = np.full(slots, -1, np.int64), np.zeros(slots, np.int64)
    for place in range(words.size):
        fingerprint = words[place] >> np.uint64(BITS)
        slot = np.int64(fingerprint & np.uint64(slots - 1))
        while first[slot] >= 0 and words[first[slot]] >> np.uint64(BITS) != fingerprint:
            slot = (slot + 1) & (slots - 1)
        if first[slot] < 0:
            first[slot] = place
        counts[slot] += 1
    places = first[(counts > 0) & (counts >= least)]
    return words[places] >> np.uint64(BITS), places
