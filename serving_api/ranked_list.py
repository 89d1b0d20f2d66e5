"""A list of items that is the same for everybody, ready for leaving out what somebody has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from online_models.contracts.ids import hashes_of

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class RankedList:
    """Item ids, best first; `hashes` in the same order, for leaving out what was seen."""

    ids: Sequence[str]
    hashes: Hashes

    @classmethod
    def of(cls, ids: Sequence[str]) -> Self:
        """From ids, best first."""
        return cls(ids, hashes_of(ids))

    def unseen(self, seen: Hashes) -> list[str]:
        """The items that are not among the seen hashes (s,), best first."""
        keep = ~np.isin(self.hashes, seen)
        return [item for item, unseen in zip(self.ids, keep.tolist(), strict=True) if unseen]
