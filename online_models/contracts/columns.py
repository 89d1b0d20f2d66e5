"""Features of a batch of events as columns: what every input format becomes and every monitor reads.

- A missing value has no entry, so it costs nothing, however many features an event could have.
- A feature may hold numbers in some events and words in others; who declared a kind reads that kind only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]


def _no_text(place: int) -> str:
    raise IndexError(f"expected the place of a word, got {place} in a column without words")


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of the n events of a batch.

    number_rows : int32 (k,) increasing, the events that carry a number; None when all n do, in order (k = n)
    numbers : float64 (k,); NaN is missing, infinities are below or above every range
    word_rows : int32 (w,) non-decreasing, the events that carry words, one entry a word; None when all n carry one (w = n)
    words : uint64 (w,), `ids.hash64` of each word; within one event the words are distinct
    text : place of a word in `words` -> its text; may be slow, for the few words that are shown to people
    """

    number_rows: Rows | None = field(default_factory=lambda: np.empty(0, np.int32))
    numbers: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))
    word_rows: Rows | None = field(default_factory=lambda: np.empty(0, np.int32))
    words: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    text: Callable[[int], str] = _no_text


EMPTY = Column()
"""A feature that no event of the batch carries."""


def take(column: Column, rows: npt.NDArray[np.bool_]) -> Column:
    """The column of the events where `rows` (n,) is true, renumbered.

    >>> take(Column(None, np.array([5.0, 6.0, 7.0])), np.array([True, False, True])).numbers.tolist()
    [5.0, 7.0]
    >>> some = take(Column(np.array([0, 2], np.int32), np.array([5.0, 7.0])), np.array([False, True, True]))
    >>> some.number_rows.tolist(), some.numbers.tolist()
    ([1], [7.0])
    """
    renumbered = (np.cumsum(rows) - 1).astype(np.int32)
    keep = rows if column.number_rows is None else rows[column.number_rows]
    number_rows = None if column.number_rows is None else renumbered[column.number_rows[keep]]
    word_keep = rows if column.word_rows is None else rows[column.word_rows]
    word_rows = None if column.word_rows is None else renumbered[column.word_rows[word_keep]]
    places, text = np.flatnonzero(word_keep), column.text
    return Column(
        number_rows,
        column.numbers[keep],
        word_rows,
        column.words[word_keep],
        lambda place: text(int(places[place])),
    )


class FeatureColumns(Protocol):
    """The features of one batch, looked up by name; what nobody asks for is never computed."""

    def names(self) -> tuple[str, ...]:
        """Names of the features that events of the batch may carry, in no particular order."""

    def column(self, name: str) -> Column:
        """One feature; `EMPTY` for an unknown name. The same object on every call is not promised."""

    def take(self, rows: npt.NDArray[np.bool_]) -> "FeatureColumns":
        """The features of the events where `rows` (n,) is true, renumbered."""
