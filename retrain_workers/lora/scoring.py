"""Scores of (history, candidate) by a base with or without an adapter, for many users at once.

- The adapter is merged: no product beside the base's own is made for a score.
- Rows of one number of candidates share a batch, shortest first; a batch is bounded by tokens, so memory is too.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from retrain_workers.lora.adapters import Adapter, merged
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.packing import Batch, PackedRow, Packer

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

BATCH_TOKENS: Final = 4_096


class Scorer:
    """s = logit(Yes) - logit(No): the log-odds, by the model, that the user takes the candidate.

    texts : of all items, by row; see `prompts.item_text`
    """

    def __init__(self, base: BaseModel, texts: Sequence[str], adapter: Adapter | None = None) -> None:
        """Raises ArtifactError when the adapter is of another base."""
        self._decoder = base.decoder if adapter is None else merged(base, adapter)
        self._packer, self._prompt = Packer(base.prompt, texts), base.prompt

    def scores(self, history: Rows, candidates: Rows) -> F32:
        """Scores (c,) of candidates (c,) after a history (h,), oldest first; all are item rows."""
        return self.score_users([history], [candidates])[0]

    def score_texts(self, history: Sequence[str], candidates: Sequence[str]) -> F32:
        """Scores (c,) of texts, as those of items of the catalogue."""
        packer = Packer(self._prompt, [*history, *candidates])
        numbers = np.arange(len(history) + len(candidates))
        row = packer.row(numbers[: len(history)], numbers[len(history) :])
        return packed_scores(self._decoder, [row])[0]

    def score_users(self, histories: Sequence[Rows], candidates: Sequence[Rows] | Rows) -> list[F32]:
        """Scores (c_u,) of each user's candidates (c_u,) after their history (h_u,)."""
        return packed_scores(self._decoder, self._packer.rows(histories, candidates))


def packed_scores(decoder: Decoder, rows: Sequence[PackedRow]) -> list[F32]:
    """Scores (c,) of each packed row, in the order of the rows."""
    found = [np.empty(0, np.float32)] * len(rows)
    with torch.inference_mode():
        for numbers in _batches(rows):
            scores = decoder.scores(Batch.of([rows[number] for number in numbers], decoder.device))
            for number, row in zip(numbers, scores.float().cpu().numpy(), strict=True):
                found[number] = row
    return found


def _batches(rows: Sequence[PackedRow]) -> Iterator[list[int]]:
    """Numbers of rows that share a batch; rows without a candidate are in none."""
    shapes = [(len(row.answers), len(row)) for row in rows]
    batch: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: (shapes[number], number)):
        candidates, length = shapes[number]
        full = batch and (shapes[batch[0]][0] != candidates or (len(batch) + 1) * length > BATCH_TOKENS)
        if full:
            yield batch
            batch = []
        if candidates:
            batch.append(number)
    if batch:
        yield batch
