"""The two-tower network: trained from nothing or from the champion, as artifact files, and at work as a ranker.

- A cold start passes over all data several times. A warm start goes on from the champion's parameters by the names of items and
  categories, once over what is newer than the champion's data, and over a share of the old so that it is not forgotten.
- Popularity: towers learn what popularity at the time leaves open, and what is popular at the end of the data is put back, with
  the weight that it had in training. A weight chosen on the newest 5 % of the examples was too low: 0.4 and 0.6 where the next
  tenth of MovieLens was ranked best by 1.
- The same data, job, seed and champion give the same bytes on a CPU, with or without an interruption.
- What is served is scaled by `SERVED_SCALE`: no order changes by it, but the blend begins with the weight that suits its scores.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from online_models import als
from online_models.contracts.ids import hashes_of
from online_models.contracts.jobs import Start, TrainTwoTower
from online_models.errors import TrainingError
from online_models.history import UserHistory
from online_models.learner import TWO_TOWER_FILE
from online_models.two_tower import UserTower
from retrain_workers.attempt import Attempt
from retrain_workers.data.sampling import replayed
from retrain_workers.determinism import arithmetic_of, deterministic
from retrain_workers.two_tower.devices import Devices
from retrain_workers.two_tower.examples import Examples, TowerData
from retrain_workers.two_tower.items import ItemContent, moved_rows
from retrain_workers.two_tower.loop import Loop, Schedule
from retrain_workers.two_tower.network import Sizes, Towers, begin_parameters
from retrain_workers.two_tower.popularity import half_life_of, log_shares_after
from retrain_workers.validation.evaluation import Hashes, Popularity

KIND: Final = "two_tower"
TRAINING_FILE: Final = "two_tower_training.safetensors"
"""All parameters, which a warm start goes on from; readers have no use for it."""

SERVED_SCALE: Final = 0.3
"""What scores are multiplied with before they are served, for the weight that a new blend gives them. Measured beside the other
sources on MovieLens latest-small before its test (4,858 events, of which the first 300): hit@10 0.140 (0.120) without the towers,
0.144 (0.120), 0.147 (0.160), 0.148 (0.157), 0.147 (0.153) with them at 0.03, 0.1, 0.3, 1. That was with towers of one
member and less popularity in them."""

WARM_RATE: Final = 2.0
"""Learning rate of a warm start, in those of a cold one: few steps have to make room for what is new."""

_CATEGORY_NAMES: Final = "category_names"

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TrainedTowers:
    """serving : the tensors of `online_models.two_tower.expected_shapes`; training : all parameters, for a warm start
    start : what it began with; a warm start is a cold one where there was nothing to go on from
    """

    serving: Mapping[str, F32]
    training: Tensors
    start: Start

    def files(self) -> dict[str, bytes]:
        """The artifact's files; the same tensors give the same bytes."""
        return {TWO_TOWER_FILE: save(dict(self.serving)), TRAINING_FILE: save(dict(self.training))}

    def ranker(self, items: Sequence[str], popularity: Popularity) -> "TwoTowerRanker":
        """The towers at work; items : ids in row order."""
        return TwoTowerRanker(UserTower.of(self.serving), items, popularity)


class TwoTowerRanker:
    """Ranks by the torch-free user tower; by popularity where the history holds no item that the towers know."""

    def __init__(self, tower: UserTower, items: Sequence[str], popularity: Popularity) -> None:
        """items : ids in row order of the tower. Raises ValueError when they are not as many."""
        if len(items) != len(tower):
            raise ValueError(f"expected {len(tower)} items as in the tower, got {len(items)}")
        self._tower, self._popularity = tower, popularity
        self._index, self._hashes = als.ItemIndex.of(items), hashes_of(items)

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """See `evaluation.Ranker`."""
        return [self._best(history, count) for history in histories]

    def _best(self, history: UserHistory, count: int) -> Hashes:
        rows = self._index.rows(history.recent["item"])
        if not (rows >= 0).any():
            return self._popularity.unseen(history, count)
        scores = self._tower.scores(self._tower.vector(rows))
        return self._hashes[als.top_k(scores, count, self._index.rows(history.seen["item"]))]


def train(
    data: TowerData,
    job: TrainTwoTower,
    warm: Tensors | None,
    items_of_warm: Sequence[str] | None,
    attempt: Attempt,
    device: str = "cpu",
    *,
    since_ms: int | None = None,
    corrected: bool = True,
) -> TrainedTowers:
    """Towers of some data.

    Parameters
    ----------
    warm, items_of_warm : the champion's `training` tensors and its items in row order, or None for a cold start. Tensors of other
        sizes than the job's are not gone on from
    since_ms : of a warm start, the end of the champion's data: events after it are new
    device : `cpu`, `cuda` or `auto`; launched by torchrun or accelerate, all processes train together
    corrected : False leaves out the logQ correction, to measure what it is worth

    Raises
    ------
    TrainingError
        When the settings are out of range, there is nothing to learn from, or the loss is not finite.
    """
    _refuse(job, data)
    examples = Examples.of(data, job.als.half_life_days)
    content = ItemContent.of(data.items, data.catalogue)
    sizes = sizes_of(job, data, content)
    begin, start = begin_parameters(sizes, job.seed), Start.COLD
    if job.start is Start.WARM and warm is not None and items_of_warm is not None and since_ms is not None:
        moved = warm_parameters(begin, warm, items_of_warm, data.items, content)
        begin, start = (begin, start) if moved is None else (moved, Start.WARM)
    passes = passes_of(examples, job, start, since_ms)
    rate = job.learning_rate * (WARM_RATE if start is Start.WARM else 1.0)
    schedule = Schedule(passes, job.batch_size, rate, job.recent, job.seed, corrected)
    devices = Devices.of(device)
    identity = identity_of(data, job, begin, schedule, devices)
    loop = Loop(Towers(begin, content), examples, schedule, attempt, identity, devices)
    for number in range(len(passes)):
        loop.finish_pass(number)
    with deterministic(devices.device):
        log_popularity = log_shares_after(examples.target, examples.items, half_life_of(len(examples)))
        serving = served_tensors(loop.towers, log_popularity)
    about: Tensors = {_CATEGORY_NAMES: np.frombuffer(msgspec.json.encode(content.categories), np.uint8)}
    return TrainedTowers(serving, {**loop.towers.arrays(), **about}, start)


def sizes_of(job: TrainTwoTower, data: TowerData, content: ItemContent) -> Sizes:
    """Of the parameters that a job trains on some data."""
    return Sizes(
        items=len(data.items),
        categories=len(content.categories),
        members=job.members,
        d=job.dimensions,
        hidden=job.hidden,
        length=job.recent,
        demographics={name: int(values.max(initial=0)) + 1 for name, values in data.demographics.items()},
    )


def warm_parameters(
    begin: Mapping[str, F32], warm: Tensors, items_of_warm: Sequence[str], items: Sequence[str], content: ItemContent
) -> dict[str, F32] | None:
    """What a warm start begins with: the champion's parameters by name; None when they are of other sizes.

    An item new to the champion begins with a zero id vector, by its content alone; a new category as in a cold start.

    begin : of a cold start of these items
    """
    tables = {
        "item_ids": (items_of_warm, items, np.zeros_like(begin["item_ids"])),
        "categories": (_category_names(warm), content.categories, begin["categories"]),
    }
    moved = dict(begin)
    for name, cold in begin.items():
        before = warm.get(name)
        if before is None or before.dtype != np.float32 or before.shape[1:] != cold.shape[1:]:
            return None
        if name in tables:
            names_before, names, otherwise = tables[name]
            if len(names_before) != len(before):
                return None
            moved[name] = moved_rows(names, names_before, before, otherwise)
        elif before.shape != cold.shape:
            return None
        else:
            moved[name] = before
    return moved


def _category_names(warm: Tensors) -> list[str]:
    try:
        return msgspec.json.decode(warm[_CATEGORY_NAMES].tobytes(), type=list[str])
    except (KeyError, msgspec.DecodeError):
        return []


def passes_of(examples: Examples, job: TrainTwoTower, start: Start, since_ms: int | None) -> list[I64]:
    """The rows of each pass. A warm start has the new examples and evenly drawn old ones, `replay_share` as many."""
    rows = np.arange(len(examples))
    if start is Start.COLD:
        return [rows] * job.epochs
    new = int(np.searchsorted(examples.ts_ms, since_ms or 0, side="right"))
    if new == len(examples):
        return []
    old = replayed(new, len(examples) - new, job.replay_share, job.seed)
    return [np.concatenate([old, rows[new:]])] * job.warm_epochs


def served_tensors(towers: Towers, log_popularity: F32) -> dict[str, F32]:
    """What readers have: scores scaled by `SERVED_SCALE`, which is in the temperature and in popularity's weight."""
    served = towers.served()
    return served | {
        "log_popularity": log_popularity,
        "log_temperature": np.asarray(served["log_temperature"] - math.log(SERVED_SCALE), np.float32),
        "popularity_weight": np.asarray(SERVED_SCALE, np.float32),
    }


def identity_of(
    data: TowerData, job: TrainTwoTower, begin: Mapping[str, F32], schedule: Schedule, devices: Devices
) -> str:
    """Hex SHA-256 of all that a training's outcome depends on: a checkpoint of another one is not gone on from."""
    arithmetic = [*arithmetic_of(devices.device), devices.many]
    digest = hashlib.sha256(msgspec.json.encode([job, data.items, arithmetic, schedule.corrected]))
    known = [data.catalogue[item] for item in data.items if item in data.catalogue]
    digest.update(msgspec.json.encode(known))
    columns = (data.user, data.item, data.ts_ms, *data.demographics.values(), *schedule.passes, *begin.values())
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _refuse(job: TrainTwoTower, data: TowerData) -> None:
    counts = (job.members, job.dimensions, job.hidden, job.recent, job.epochs, job.warm_epochs, job.batch_size)
    if min(counts) < 1 or not 0 < job.learning_rate < math.inf or not 0 <= job.replay_share < math.inf:
        raise TrainingError(f"expected positive settings, got {job}")
    if len(data) < 2:
        raise TrainingError(f"expected positive events, got {len(data)}")
