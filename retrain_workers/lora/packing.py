"""A history and all its candidates in one row: the history is read once, and no candidate sees another.

- The row is `opening history bridge candidate_1 ... candidate_c`. Candidate k attends to what stands before all candidates
  and to itself, causally, and its positions go on from there: what it sees is the prompt of it alone, to the bit of rounding.
- The same code packs for training and for scoring.
- A batch holds rows of one length or nearly: rows are ordered by length before they are cut into batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch

from retrain_workers.lora.prompts import Prompt

Rows = npt.NDArray[np.int64]

SHARED: Final = -1
PADDING: Final = -2
"""Segments of a token: a candidate's number, from 0; or that it stands before all of them; or behind them, in a shorter row."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One history with its candidates.

    tokens, segments, positions : int64 (length,); answers : int64 (c,), where the answer about each candidate is read
    """

    tokens: Rows
    segments: Rows
    positions: Rows
    answers: Rows

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one number of candidates, padded to one length.

    tokens, segments, positions : int64 (b, length); answers : int64 (b, c)
    """

    tokens: torch.Tensor
    segments: torch.Tensor
    positions: torch.Tensor
    answers: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[PackedRow], device: torch.device | str = "cpu") -> Self:
        """From packed rows."""
        length = max(map(len, rows))
        columns = (
            _padded([row.tokens for row in rows], length, 0),
            _padded([row.segments for row in rows], length, PADDING),
            _padded([row.positions for row in rows], length, 0),
            np.stack([row.answers for row in rows]),
        )
        return cls(*(torch.from_numpy(column).to(device) for column in columns))

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """What is added to attention scores, (b, 1, length, length): 0 where i may see j, else the lowest number.

        i sees j  <=>  j <= i, and j is shared or of the segment of i
        """
        segment, length = self.segments, self.segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
        sees = causal & ((segment[:, None, :] == SHARED) | (segment[:, None, :] == segment[:, :, None]))
        hidden = torch.zeros(sees.shape, dtype=dtype, device=segment.device)
        return hidden.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device."""
        return Batch(*(each.to(device) for each in (self.tokens, self.segments, self.positions, self.answers)))


class Packer:
    """Packs rows over a catalogue of texts; an item's pieces are tokenized when it is first met."""

    def __init__(self, prompt: Prompt, texts: Sequence[str]) -> None:
        self._opening, self._bridge = _ids(prompt.opening()), _ids(prompt.bridge())
        self._told = cache(lambda item: _ids(prompt.told(texts[item])))
        self._asked = cache(lambda item: _ids(prompt.asked(texts[item])))

    def row(self, history: Rows, candidates: Rows) -> PackedRow:
        """One row of item numbers: history (h,), oldest first, and candidates (c,)."""
        shared = np.concatenate([self._opening, *map(self._told, history.tolist()), self._bridge])
        asked = [self._asked(item) for item in candidates.tolist()]
        lengths = np.array([len(piece) for piece in asked], np.int64)
        ends = len(shared) + np.cumsum(lengths)
        segments = np.repeat(np.arange(len(asked)), lengths)
        # a candidate's t-th token stands at position |shared| + t
        positions = len(shared) + np.arange(lengths.sum()) - np.repeat(ends - lengths - len(shared), lengths)
        return PackedRow(
            np.concatenate([shared, *asked]),
            np.concatenate([np.full(len(shared), SHARED), segments]),
            np.concatenate([np.arange(len(shared)), positions]),
            ends - 1,
        )

    def rows(self, histories: Sequence[Rows], candidates: Sequence[Rows] | Rows) -> list[PackedRow]:
        """One row for each history and its candidates."""
        return [self.row(history, asked) for history, asked in zip(histories, candidates, strict=True)]


def by_length(rows: Sequence[PackedRow], size: int, rng: np.random.Generator | None = None) -> Iterator[Rows]:
    """Row numbers of batches of `size` rows or fewer, shortest first; rows of one length in an order that `rng` draws."""
    order = np.arange(len(rows)) if rng is None else rng.permutation(len(rows))
    lengths = np.array([len(row) for row in rows], np.int64)
    order = order[np.argsort(lengths[order], kind="stable")]
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _ids(tokens: Sequence[int]) -> Rows:
    return np.array(tokens, np.int64)


def _padded(rows: Sequence[Rows], length: int, value: int) -> Rows:
    padded = np.full((len(rows), length), value, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
