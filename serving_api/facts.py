"""What the catalogue says of items, as columns that re-ranking reads by row, and the business rules compiled for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from online_models.contracts.events import Item
from online_models.contracts.ids import hashes_of
from serving_api.reranking.candidates import F32, Bits, Candidates, Categories, Hashes, Mask
from serving_api.reranking.matching import Rules, compiled, matches
from serving_api.rules import Rule

Rows = npt.NDArray[np.int64]

_DAY_MS: Final = 86_400_000.0


@dataclass(frozen=True, slots=True)
class Facts:
    """Columns by row of an item table: categories uint64 (items, w), price and min_age float32 (items,), available_ms float64
    (items,). NaN where unknown, but for min_age: 0 is for everybody."""

    catalogue: Mapping[str, Item]
    names: Categories
    rules: Rules
    categories: Bits
    price: F32
    min_age: F32
    available_ms: npt.NDArray[np.float64]
    ids: Sequence[str] = ()

    @classmethod
    def of(cls, catalogue: Mapping[str, Item], rules: Sequence[Rule], domain: str) -> Self:
        """What a catalogue says, of no rows yet."""
        names = Categories(name for item in catalogue.values() for name in item.categories)
        nothing = np.empty(0, np.float32)
        bits = np.empty((0, names.words), np.uint64)
        return cls(catalogue, names, compiled(rules, domain, names), bits, nothing, nothing, np.empty(0))

    def of_rows(self, ids: Sequence[str], known: "Facts | None" = None) -> "Facts":
        """The same of items in row order; those that the catalogue does not know have no facts.

        known : returned as it is where it is of the same items and catalogue
        """
        if known is not None and known.catalogue is self.catalogue and known.ids == ids:
            return known
        entries = [self.catalogue.get(item) for item in ids]
        return Facts(
            self.catalogue,
            self.names,
            self.rules,
            self.names.bits([entry.categories if entry else () for entry in entries]),
            _column(entry.price if entry else None for entry in entries).astype(np.float32),
            np.nan_to_num(_column(entry.min_age if entry else None for entry in entries), nan=0.0).astype(np.float32),
            _column(entry.available_ms if entry else None for entry in entries),
            list(ids),
        )

    def candidates(self, rows: Rows, hashes: Hashes, scores: F32, vectors: F32, now_ms: int) -> Candidates:
        """Ranked items (n,) with what is known of them; vectors : float32 (n, k)."""
        age_days = ((now_ms - self.available_ms[rows]) / _DAY_MS).astype(np.float32)
        return Candidates(
            hashes, scores, vectors, self.categories[rows], age_days, self.price[rows], self.min_age[rows]
        )

    def barred(self, candidates: Candidates, age: float | None) -> Mask:
        """Which items (n,) a rule excludes, or are for people older than `age` (None: everybody may see them)."""
        excluded = matches(self.rules, candidates).excluded
        return excluded if age is None else excluded | (candidates.min_age > age)

    def permitted(self, ids: Sequence[str], age: float | None, now_ms: int) -> list[str]:
        """Those of the items that neither a rule excludes nor the age bars now (epoch ms), in their order."""
        if not ids or (not self.rules and age is None):
            return list(ids)
        barred = self.barred(self.plain(ids, now_ms), age)
        return [item for item, out in zip(ids, barred.tolist(), strict=True) if not out]

    def plain(self, ids: Sequence[str], now_ms: int) -> Candidates:
        """Items (n,) of which nothing but what the catalogue says is known."""
        n = len(ids)
        hashes = hashes_of(ids)
        nothing = np.zeros((n, 1), np.float32)
        return self.of_rows(ids).candidates(np.arange(n), hashes, np.zeros(n, np.float32), nothing, now_ms)


def _column(values: Iterable[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)
