"""The two-tower network: trained from nothing or from the champion, as artifact files, and at work as a ranker.

- A cold start passes over all data several times. A warm start goes on from the champion's parameters by the names of items and
  categories, once over what is newer than the champion's data, and over a share of the old so that it is not forgotten.
- Popularity: with logQ correction scores are log odds, popularity within; how much of it to put back is chosen on the newest
  events, before the only pass that learns from them. Never on what comes after the data.
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
import torch
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

from online_models import als
from online_models.contracts.ids import hashes_of
from online_models.contracts.jobs import Start, TrainTwoTower
from online_models.errors import TrainingError
from online_models.history import UserHistory
from online_models.learner import TWO_TOWER_FILE
from online_models.two_tower import UserTower
from retrain_workers.attempt import Attempt
from retrain_workers.two_tower.devices import Devices, deterministic
from retrain_workers.two_tower.examples import Examples, TowerData
from retrain_workers.two_tower.items import ItemContent, moved_rows
from retrain_workers.two_tower.loop import Loop, Schedule
from retrain_workers.two_tower.network import Sizes, Towers, begin_parameters
from retrain_workers.validation.evaluation import Hashes, Popularity

KIND: Final = "two_tower"
TRAINING_FILE: Final = "two_tower_training.safetensors"
"""All parameters, which a warm start goes on from; readers have no use for it."""

SERVED_SCALE: Final = 0.3
"""What scores are multiplied with before they are served, for the weight that a new blend gives them. Measured beside the other
sources on MovieLens latest-small before its test (4,858 events, of which the first 300): hit@10 0.140 (0.120) without the towers,
0.144 (0.120), 0.147 (0.160), 0.148 (0.157), 0.147 (0.153) with them at 0.03, 0.1, 0.3, 1."""

POPULARITY_WEIGHTS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
NEWEST_SHARE: Final = 0.05
"""Of the examples: what popularity's weight is chosen on."""

MOST_CHOSEN_ON: Final = 2_000
WARM_RATE: Final = 2.0
"""Learning rate of a warm start, in those of a cold one: few steps have to make room for what is new."""

_CATEGORY_NAMES: Final = "category_names"
_POPULARITY_WEIGHT: Final = "popularity_weight"
_CHUNK: Final = 256

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
    passes, newest = passes_of(examples, job, start, since_ms)
    rate = job.learning_rate * (WARM_RATE if start is Start.WARM else 1.0)
    schedule = Schedule(passes, job.batch_size, rate, job.recent, job.seed, corrected)
    identity, devices = identity_of(data, job, begin, schedule, device), Devices.of(device)
    loop = Loop(Towers(begin, content), examples, schedule, attempt, identity, devices)
    for number in range(len(passes) - 1):
        loop.finish_pass(number)
    with deterministic(devices), threadpool_limits(1):
        if passes:
            weight = loop.noted(lambda: best_popularity_weight(loop.towers, examples, newest, job.recent))
            loop.finish_pass(len(passes) - 1)
        else:
            weight = _champion_weight(warm)
        serving = served_tensors(loop.towers, log_popularity_of(examples, len(examples)), weight)
    about: Tensors = {
        _CATEGORY_NAMES: np.frombuffer(msgspec.json.encode(content.categories), np.uint8),
        _POPULARITY_WEIGHT: np.array(weight, np.float32),
    }
    return TrainedTowers(serving, {**loop.towers.arrays(), **about}, start)


def sizes_of(job: TrainTwoTower, data: TowerData, content: ItemContent) -> Sizes:
    """Of the parameters that a job trains on some data."""
    return Sizes(
        items=len(data.items),
        categories=len(content.categories),
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
        if before is None or before.dtype != np.float32 or before.shape[-1:] != cold.shape[-1:]:
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


def _champion_weight(warm: Tensors | None) -> float:
    return float((warm or {}).get(_POPULARITY_WEIGHT, np.zeros(())))


def passes_of(examples: Examples, job: TrainTwoTower, start: Start, since_ms: int | None) -> tuple[list[I64], I64]:
    """The rows of each pass, and the newest ones, which only the last pass has: popularity's weight is chosen on them.

    A warm start has the new examples and evenly drawn old ones, `replay_share` as many.
    """
    rows, epochs = np.arange(len(examples)), job.epochs
    newest = max(1, int(NEWEST_SHARE * len(examples)))
    if start is Start.WARM:
        new = int(np.searchsorted(examples.ts_ms, since_ms or 0, side="right"))
        many = min(new, round(job.replay_share * (len(examples) - new)))
        old = np.random.default_rng((job.seed, new)).choice(new, many, replace=False)
        rows, epochs = np.concatenate([np.sort(old), rows[new:]]), job.warm_epochs
        newest = min(newest, len(examples) - new)
    if newest == 0:
        return [], rows[:0]
    held = [rows[:-newest]] * max(1, epochs - 1) if epochs > 1 or start is Start.COLD else []
    last = rows if epochs > 1 or start is Start.WARM else rows[-newest:]
    return [*held, last], rows[-newest:]


def log_popularity_of(examples: Examples, until: int) -> F32:
    """Log of how often each item (items,) is a target of the examples before `until`; one that never is counts as half a time."""
    counts = examples.counts(np.arange(until))
    return np.log(np.maximum(counts, 0.5) / max(1, until)).astype(np.float32)


def best_popularity_weight(towers: Towers, examples: Examples, rows: I64, length: int) -> float:
    """That of `POPULARITY_WEIGHTS` by which these examples' targets rank best: mean of 1 / log2(2 + rank) among all unmet items.

    Popularity is that of the examples before the first of them: what counted their targets too would flatter itself.

    References
    ----------
    Järvelin, Kekäläinen: Cumulated gain-based evaluation of IR techniques. TOIS 20, 2002 (its discount, here without a cutoff).
    """
    log_popularity = log_popularity_of(examples, int(rows[0]))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_CHOSEN_ON)).astype(np.int64))]
    served = towers.served()
    vectors, temperature = served["item_vectors"], np.exp(served["log_temperature"])
    gains = np.zeros(len(POPULARITY_WEIGHTS))
    for at in range(0, len(rows), _CHUNK):
        chunk = rows[at : at + _CHUNK]
        scores = towers.user_vectors(examples.histories(chunk, length)) @ vectors.T / temperature  # (b, items)
        for number, row in enumerate(chunk.tolist()):
            scores[number, examples.met[examples.begin[row] : examples.end[row]]] = -np.inf
        own, target = np.arange(len(chunk)), examples.target[chunk]
        for number, weight in enumerate(POPULARITY_WEIGHTS):
            blended = scores + np.float32(weight) * log_popularity
            ranks = (blended > blended[own, target][:, None]).sum(axis=1)
            gains[number] += (1 / np.log2(2.0 + ranks)).sum()
    return POPULARITY_WEIGHTS[int(gains.argmax())]


def served_tensors(towers: Towers, log_popularity: F32, weight: float) -> dict[str, F32]:
    """What readers have: scores scaled by `SERVED_SCALE`, which is in the temperature and in popularity's weight."""
    served = towers.served()
    return served | {
        "log_popularity": log_popularity,
        "log_temperature": np.asarray(served["log_temperature"] - math.log(SERVED_SCALE), np.float32),
        "popularity_weight": np.asarray(SERVED_SCALE * weight, np.float32),
    }


def identity_of(data: TowerData, job: TrainTwoTower, begin: Mapping[str, F32], schedule: Schedule, device: str) -> str:
    """Hex SHA-256 of all that a training's outcome depends on: a checkpoint of another one is not gone on from."""
    digest = hashlib.sha256(msgspec.json.encode([job, data.items, device, str(torch.__version__), schedule.corrected]))
    known = [data.catalogue[item] for item in data.items if item in data.catalogue]
    digest.update(msgspec.json.encode(known))
    columns = (data.user, data.item, data.ts_ms, *data.demographics.values(), *schedule.passes, *begin.values())
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _refuse(job: TrainTwoTower, data: TowerData) -> None:
    counts = (job.dimensions, job.hidden, job.recent, job.epochs, job.warm_epochs, job.batch_size)
    if min(counts) < 1 or not 0 < job.learning_rate < math.inf or not 0 <= job.replay_share < math.inf:
        raise TrainingError(f"expected positive settings, got {job}")
    if len(data) < 2:
        raise TrainingError(f"expected positive events, got {len(data)}")
