"""What the live version makes of a batch, as feature columns: where its users and items lie in its space, how its texts read.

- Items by their trained vectors; a user by a fold-in of the history that Redis holds, which may or may not include the batch
  itself: what a reader would serve from at that moment. Embedding features are the only ones that a replay need not repeat
  to the bit.
- A bounded number of users a batch is looked up, those with the smallest hashes: an even sample, one round trip.
- Texts are read by the text model in the version's artifact, which says what was known as it was trained.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from flows.live import LiveVersions
from online_models.contracts.events import EventBatch
from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.embedding_space import EmbeddingColumns
from online_models.ports import EmbeddingStore
from online_models.text import TextColumns

USERS_PER_BATCH: Final = 256

Bools = npt.NDArray[np.bool_]


class LiveSpace:
    """Places of events in the stable version's space."""

    def __init__(self, live: LiveVersions, embeddings: EmbeddingStore) -> None:
        self._live = live
        self._embeddings = embeddings

    def place(self, model: ModelName, batch: EventBatch) -> tuple[ModelVersion, Bools, EmbeddingColumns] | None:
        """The stable version, bool (n,) the events of sampled users, and where these and their items lie in its space.

        None while nothing is live. A sampled event whose item the version does not know, or whose user has met none of its items,
        has no value; that of another user says nothing.
        """
        versions = self._live.of(model)
        if not versions or versions[0].axes is None:
            return None
        stable = versions[0]
        rows = stable.index.rows(batch.item_hash)
        known = np.flatnonzero(rows >= 0).astype(np.int32)
        items = (known, stable.item_places(rows[known]))
        sampled, users = self._users(model, batch)
        return stable.version, sampled, EmbeddingColumns(items, users)

    def read(self, model: ModelName, batch: EventBatch) -> tuple[ModelVersion, TextColumns] | None:
        """The stable version, and the batch's features with the surprise of their texts. None without a text model."""
        versions = self._live.of(model)
        if not versions or versions[0].surprise is None:
            return None
        return versions[0].version, TextColumns(versions[0].surprise, batch.features)

    def _users(
        self, model: ModelName, batch: EventBatch
    ) -> tuple[Bools, tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]]:
        stable = self._live.of(model)[0]
        hashes, first = np.unique(batch.user_hash, return_index=True)
        sample = first[:USERS_PER_BATCH]
        ids = [UserId(batch.events[row].user_id) for row in sample.tolist()]
        places, met = stable.user_places(self._embeddings.histories(model, ids))
        # hashes ascend, and the sample is their beginning
        user = np.searchsorted(hashes, batch.user_hash)
        sampled = user < len(sample)
        rows = np.flatnonzero(sampled)[met[user[sampled]]].astype(np.int32)
        return sampled, (rows, places[user[rows]])
