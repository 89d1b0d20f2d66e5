"""Identifiers that cross a process border, as distinct types.

All are strings on the wire; `EventHash`, `UserHash` and `ItemHash` are the XXH64 of theirs, used in columns and in Redis.
"""

from collections.abc import Sequence
from typing import NewType

import numpy as np
import numpy.typing as npt
import xxhash

EventId = NewType("EventId", str)
UserId = NewType("UserId", str)
ItemId = NewType("ItemId", str)
RequestId = NewType("RequestId", str)

ModelName = NewType("ModelName", str)
"""One recommender, named after its domain: `movies`, `products`."""

ModelVersion = NewType("ModelVersion", str)
"""`v<fencing token>`: unique in one registry, larger is younger."""

RolloutId = NewType("RolloutId", int)
JobId = NewType("JobId", int)
FencingToken = NewType("FencingToken", int)
Epoch = NewType("Epoch", int)


def hash64(identifier: str) -> int:
    """XXH64 (seed 0) of an identifier's UTF-8 bytes: the same in every process and release.

    `online_models.hashing` computes the same of bytes that are no Python objects yet.

    >>> hash64("movie-1") == hash64("movie-1"), 0 <= hash64("") < 2**64
    (True, True)

    References
    ----------
    Collet, Y. (2016). xxHash fast digest algorithm, specification of XXH64.
    """
    return xxhash.xxh64_intdigest(identifier.encode())


def hashes_of(identifiers: Sequence[str]) -> npt.NDArray[np.uint64]:
    """`hash64` of each identifier, uint64 (n,).

    >>> hashes_of(["a", "b"]).tolist() == [hash64("a"), hash64("b")]
    True
    """
    return np.fromiter(map(hash64, identifiers), np.uint64, len(identifiers))
