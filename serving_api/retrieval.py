"""Exact top-k: one matrix-vector product over trained items and new ones, without what the user has seen.

Below some tens of thousands of items the exact product is as fast as an approximate index, and never stale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from online_models import als
from online_models.contracts.ids import ItemId, hash64
from online_models.ports import Vector
from serving_api.model_cache import LoadedVersion
from serving_api.scoring import scores

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class NewItems:
    """Items that came after a version was trained: ids in row order, and factors float32 (items, k)."""

    ids: Sequence[str]
    index: als.ItemIndex
    factors: Vector

    @classmethod
    def of(cls, vectors: Mapping[ItemId, Vector], loaded: LoadedVersion) -> Self:
        """Those of the vectors that fit the version: unknown to it, of its length, and finite."""
        known = loaded.index.rows(hashes_of(list(vectors))) >= 0
        fitting = {
            item: vector
            for (item, vector), trained in zip(vectors.items(), known.tolist(), strict=True)
            if not trained and vector.shape == (loaded.k,) and np.isfinite(vector).all()
        }
        factors = np.array(list(fitting.values()), np.float32).reshape(len(fitting), loaded.k)
        return cls(list(fitting), als.ItemIndex.of(list(fitting)), factors)


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


def hashes_of(ids: Sequence[str]) -> Hashes:
    """The 64-bit hashes (n,) of ids."""
    return np.fromiter(map(hash64, ids), np.uint64, len(ids))


def best_items(
    loaded: LoadedVersion, new_items: NewItems, vector: Vector, seen: Hashes, k: int
) -> list[tuple[str, float]]:
    """The k best unseen items by x . y, best first, ties by row; trained items before new ones.

    Parameters
    ----------
    vector : x, float32 (k,); seen : hashes (s,)
    """
    trained = len(loaded.item_ids)
    found = np.concatenate([scores(loaded.item_factors, vector), scores(new_items.factors, vector)])  # (items + new,)
    new_rows = new_items.index.rows(seen)
    excluded = np.concatenate([loaded.index.rows(seen), np.where(new_rows >= 0, trained + new_rows, -1)])
    return [
        (loaded.item_ids[row] if row < trained else new_items.ids[row - trained], float(found[row]))
        for row in als.top_k(found, k, excluded).tolist()
    ]
