"""Identifiers that cross a process border, as distinct types.

All are strings on the wire; `EventHash`, `UserHash` and `ItemHash` are the 64-bit xxh3 of theirs, used in columns and in Redis.
"""

from typing import NewType

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
    """64-bit xxh3 of an identifier's UTF-8 bytes: the same in every process and release.

    >>> hash64("movie-1") == hash64("movie-1"), 0 <= hash64("") < 2**64
    (True, True)
    """
    return xxhash.xxh3_64_intdigest(identifier.encode())
