"""What a job trains on: the events as they were at one moment, and what the catalogue said of the items.

- The first attempt of a job decides which events these are. A later attempt opens the same snapshot again, so that a live log
  that has grown meanwhile does not put what was trained so far out of use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.interactions import Interactions
from online_models.ports import InteractionStore
from retrain_workers.attempt import Attempt
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.impressions import Impressions
from retrain_workers.data.snapshots import Snapshot, opened, take

SNAPSHOT: Final = "snapshot"
"""Name of the checkpoint that holds the champion that a job's first attempt met, and the hash of the snapshot that it took."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """dataset : the events that a model may learn from; interactions : those that it was made of
    catalogue : by item id; impressions : None where nobody asked for them
    snapshot_sha256 : of all that was read, the catalogue included
    """

    dataset: Dataset
    interactions: Interactions
    catalogue: Mapping[str, Item]
    impressions: Impressions | None = None
    snapshot_sha256: str = ""

    def before(self, cut_ms: int) -> "TrainingData":
        """What was known at a cut: the events before it, under the same numbering, and the impressions as they were then."""
        shown = None if self.impressions is None else self.impressions.before(cut_ms)
        early = self.dataset.take(self.dataset.ts_ms < cut_ms)
        return replace(self, dataset=early, interactions=self.interactions.before(cut_ms), impressions=shown)


def read_training_data(
    store: InteractionStore,
    model: ModelName,
    snapshots: Path,
    until_ms: int | None,
    champion: ModelVersion | None,
    attempt: Attempt,
    *,
    impressions: bool,
) -> TrainingData:
    """Read the snapshot of the job's earlier attempt under `snapshots`, where that is whole, else take one.

    champion : that the model is to be judged beside; where another has come since the earlier attempt, its data may reach further
        than that snapshot, which then has nothing to judge by

    Raises
    ------
    ArtifactError
        When a file of the snapshot is altered meanwhile; another attempt reads those events again.
    StoreError, StoreUnavailable
        When PostgreSQL fails.
    """
    snapshot = _earlier(model, snapshots, champion, attempt)
    if snapshot is None:
        snapshot = take(store, model, snapshots, until_ms)
        attempt.keep(SNAPSHOT, f"{champion} {snapshot.sha256}".encode())
    interactions = snapshot.interactions()
    return TrainingData(
        dataset=dataset_of(interactions),
        interactions=interactions,
        catalogue={item.item_id: item for item in snapshot.catalogue()},
        impressions=snapshot.impressions() if impressions else None,
        snapshot_sha256=snapshot.sha256,
    )


def _earlier(model: ModelName, snapshots: Path, champion: ModelVersion | None, attempt: Attempt) -> Snapshot | None:
    met, _, sha256 = (attempt.checkpoint(SNAPSHOT) or b"").decode().partition(" ")
    return opened(model, snapshots, sha256) if sha256 and met == str(champion) else None
