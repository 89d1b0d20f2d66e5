"""Sums: what requests of one kind have come to, a number for each thing that is counted, and since when."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Packed = tuple[int, npt.NDArray[np.uint32]]
"""Since when, and the counts, little-endian."""


@dataclass(slots=True)
class Sums:
    """Event time of the first request counted, and the counts (n,). Mutable: requests are added one by one."""

    since_ms: int
    counts: list[int]

    @classmethod
    def zeros(cls, since_ms: int, n: int) -> Self:
        """Of nothing counted yet."""
        return cls(since_ms, [0] * n)

    def snapshot(self) -> Packed:
        """Plain values; `restored` continues exactly from here."""
        return (self.since_ms, np.array(self.counts, "<u4"))

    @classmethod
    def restored(cls, snapshot: Packed) -> Self:
        """Of a snapshot's state."""
        since_ms, counts = snapshot
        return cls(since_ms, counts.tolist())

    def tobytes(self) -> bytes:
        """The counts, uint32 little-endian."""
        return self.snapshot()[1].tobytes()
