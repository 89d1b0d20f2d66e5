"""What the item tower knows of items: their categories and words of their title, as bags of rows of two tables.

- Words (the year is one, and so is its decade) are hashed into a table of fixed size: a word never met before has a row.
- Categories have a row each, by name: a warm start finds a category's row in whatever order the new names are.
- A bag of n rows weighs each of them 1 / sqrt(n): items of many words lie as far out as items of few.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from online_models.content import terms
from online_models.contracts.events import Item
from online_models.contracts.ids import hash64

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

WORD_ROWS: Final = 8192
"""Rows of the table of hashed words: of 10,000 distinct ones two or three share a row, and hardly ever two of one title."""

MOST_WORDS: Final = 16
MOST_CATEGORIES: Final = 16
"""Of one item; further ones are left out."""

_CATEGORY: Final = "category "


@dataclass(frozen=True, slots=True)
class Bags:
    """A few rows of a table for each item: rows int64 (items, m); weights float32 (items, m), 0 where there is no further row."""

    rows: I64
    weights: F32

    @classmethod
    def of(cls, bags: Sequence[Sequence[int]], most: int) -> Self:
        """From the rows of each item.

        >>> Bags.of([[7], [], [1, 2, 3, 4]], 4).weights.tolist()
        [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]
        """
        width = max(1, min(most, max(map(len, bags), default=0)))
        rows, weights = np.zeros((len(bags), width), np.int64), np.zeros((len(bags), width), np.float32)
        for item, bag in enumerate(bags):
            kept = bag[:width]
            rows[item, : len(kept)] = kept
            weights[item, : len(kept)] = 1 / math.sqrt(len(kept) or 1)
        return cls(rows, weights)


@dataclass(frozen=True, slots=True)
class ItemContent:
    """categories : names, sorted, in the order of their rows; of_categories, of_words : each item's bag"""

    categories: Sequence[str]
    of_categories: Bags
    of_words: Bags

    @classmethod
    def of(cls, items: Sequence[str], catalogue: Mapping[str, Item]) -> Self:
        """Of items in row order; one that the catalogue lacks, or that it says nothing of, has empty bags.

        >>> content = ItemContent.of(["1", "?"], {"1": Item("1", "movies", "Heat (1995)", ["Crime", "Action"])})
        >>> content.categories, content.of_categories.rows.tolist(), content.of_words.weights.astype(float).round(2).tolist()
        (['action', 'crime'], [[1, 0], [0, 0]], [[0.58, 0.58, 0.58], [0.0, 0.0, 0.0]])
        """
        told = [list(terms(catalogue[item])) if item in catalogue else [] for item in items]
        names = sorted({name for each in told for name in _categories(each)})
        row = {name: number for number, name in enumerate(names)}
        return cls(
            categories=names,
            of_categories=Bags.of([[row[name] for name in _categories(each)] for each in told], MOST_CATEGORIES),
            of_words=Bags.of([list(_words(each)) for each in told], MOST_WORDS),
        )


def _categories(told: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(term.removeprefix(_CATEGORY) for term in told if term.startswith(_CATEGORY)))


def _words(told: Sequence[str]) -> Iterator[int]:
    """Rows of the words, each namespace's apart: a year that is a title is not the year."""
    return (hash64(term) % WORD_ROWS for term in dict.fromkeys(told) if not term.startswith(_CATEGORY))


def moved_rows(names: Sequence[str], before: Sequence[str], table: F32, otherwise: F32) -> F32:
    """A table (names, d) with the rows that these names had before; other rows are those of `otherwise`.

    before : names of the rows of `table`, each once

    >>> moved_rows("ba", "xa", np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32)).tolist()
    [[0.0], [1.0]]
    """
    moved, row = otherwise.copy(), {name: number for number, name in enumerate(before)}
    known = [number for number, name in enumerate(names) if name in row]
    moved[known] = table[[row[names[number]] for number in known]]
    return moved
