"""Where the users and items of a batch lie in the space of the live version, as feature columns.

- Items by their trained vectors; a user by a fold-in of the history that Redis holds, which may or may not include the batch
  itself: what a reader would serve from at that moment. Embedding features are the only ones that a replay need not repeat
  to the bit.
- A bounded number of users a batch is looked up, those with the smallest hashes: an even sample, one round trip.
"""

from typing import Final

import numpy as np

from flows.live import LiveVersions
from online_models.contracts.events import EventBatch
from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.embedding_space import EmbeddingColumns
from online_models.ports import EmbeddingStore

USERS_PER_BATCH: Final = 256


class LiveSpace:
    """Places of events in the stable version's space."""

    def __init__(self, live: LiveVersions, embeddings: EmbeddingStore) -> None:
        self._live = live
        self._embeddings = embeddings

    def place(self, model: ModelName, batch: EventBatch) -> tuple[ModelVersion, EmbeddingColumns] | None:
        """The stable version, and the coordinates of a batch's items and users in its space; None while there is none.

        An event whose item the version does not know, or whose user is new to it, has no value.
        """
        versions = self._live.of(model)
        if not versions or versions[0].axes is None:
            return None
        stable = versions[0]
        rows = stable.index.rows(batch.item_hash)
        known = np.flatnonzero(rows >= 0).astype(np.int32)
        items = (known, stable.item_places(rows[known]))
        return stable.version, EmbeddingColumns(items, self._users(model, batch))

    def _users(self, model: ModelName, batch: EventBatch) -> tuple[np.ndarray, np.ndarray]:
        stable = self._live.of(model)[0]
        hashes, first = np.unique(batch.user_hash, return_index=True)
        sample = first[:USERS_PER_BATCH]
        ids = [UserId(batch.events[row].user_id) for row in sample.tolist()]
        places, met = stable.user_places(self._embeddings.histories(model, ids))
        # Each event of a sampled user counts, as it does in the reference.
        user = np.searchsorted(hashes[: len(sample)], batch.user_hash)
        in_sample = user < len(sample)
        in_sample[in_sample] &= hashes[user[in_sample]] == batch.user_hash[in_sample]
        in_sample[in_sample] &= met[user[in_sample]]
        rows = np.flatnonzero(in_sample).astype(np.int32)
        return rows, places[user[rows]]
