"""What re-ranking is told of items, as columns, and category names as bits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """n items that a request may show, best first by the ranking.

    All columns are C-contiguous and writable, as gathering rows makes them: for others the kernels would compile anew.

    hashes : uint64 (n,), of the item ids; distinct
    scores : float32 (n,), of the ranking; an item whose score is not finite is never shown
    factors : float32 (n, k), the items' vectors
    categories : uint64 (n, w), as `Categories.bits` makes them
    age_days : float32 (n,), days since the item came, NaN where unknown
    price : float32 (n,), NaN where unknown
    min_age : float32 (n,), years that a user must be old to see it; 0 for everybody
    """

    hashes: Hashes
    scores: F32
    factors: F32
    categories: Bits
    age_days: F32
    price: F32
    min_age: F32

    def __post_init__(self) -> None:
        """Raise ValueError unless all columns are of one length."""
        n = len(self.hashes)
        columns = (self.scores, self.factors, self.categories, self.age_days, self.price, self.min_age)
        if any(len(column) != n for column in columns):
            raise ValueError(f"expected columns of {n} candidates, got {[len(column) for column in columns]}")

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def plain(cls, hashes: Hashes, scores: F32) -> Self:
        """Candidates (n,) of which nothing but the score is known."""
        n = len(hashes)
        unknown = np.full(n, np.nan, np.float32)
        nothing = np.zeros((n, 1), np.float32), np.zeros((n, 1), np.uint64)
        return cls(hashes, scores, *nothing, unknown, unknown, np.zeros(n, np.float32))


class Categories:
    """A fixed set of category names, each a bit of w 64-bit words.

    >>> names = Categories(["Drama", "War"])
    >>> names.bits([["War"], [], ["Drama", "War", "unheard of"]]).tolist()
    [[2], [0], [3]]
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._place: Mapping[str, int] = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self.words = max(1, -(-len(self._place) // 64))

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def bits(self, items: Sequence[Iterable[str]]) -> Bits:
        """uint64 (n, w), the categories of each item; names that are not in the set are left out."""
        found = np.zeros((len(items), self.words), np.uint64)
        for row, names in enumerate(items):
            for place in (self._place[name] for name in names if name in self._place):
                found[row, place // 64] |= np.uint64(1 << place % 64)
        return found
