"""What a job trains on: the events as they were at one moment, and what the catalogue says of the items."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName
from online_models.interactions import Interactions
from online_models.ports import InteractionStore
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.impressions import ATTRIBUTION_MS, Impressions
from retrain_workers.data.snapshots import take


@dataclass(frozen=True, slots=True)
class TrainingData:
    """dataset : the events that a model may learn from; interactions : those that it was made of
    catalogue : by item id; impressions : None where nobody asked for them
    snapshot_sha256 : of all that was read
    """

    dataset: Dataset
    interactions: Interactions
    catalogue: Mapping[str, Item]
    impressions: Impressions | None = None
    snapshot_sha256: str = ""

    def before(self, cut_ms: int) -> "TrainingData":
        """What was known at a cut: the events before it, under the same numbering, and the impressions whose time to be taken was
        over."""
        shown = None if self.impressions is None else self.impressions.before(cut_ms - ATTRIBUTION_MS)
        early = self.dataset.take(self.dataset.ts_ms < cut_ms)
        return replace(self, dataset=early, interactions=self.interactions.before(cut_ms), impressions=shown)


def read_training_data(
    store: InteractionStore, model: ModelName, snapshots: Path, until_ms: int | None, *, impressions: bool
) -> TrainingData:
    """Take a snapshot under `snapshots` and read it.

    Raises
    ------
    ArtifactError
        When a file of the snapshot is altered meanwhile; another attempt reads those events again.
    StoreError, StoreUnavailable
        When PostgreSQL fails.
    """
    snapshot = take(store, model, snapshots, until_ms)
    interactions = snapshot.interactions()
    return TrainingData(
        dataset=dataset_of(interactions),
        interactions=interactions,
        catalogue={item.item_id: item for item in store.items(model)},
        impressions=snapshot.impressions() if impressions else None,
        snapshot_sha256=snapshot.sha256,
    )
