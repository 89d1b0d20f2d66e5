"""Training of the two towers: the same bytes twice and across interruptions, warm starts by name, ranking, popularity."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.numpy import load

from online_models.contracts.events import Item
from online_models.contracts.ids import hashes_of
from online_models.contracts.jobs import Start, TrainTwoTower
from online_models.errors import TrainingError
from online_models.history import EMPTY
from online_models.learner import TWO_TOWER_FILE
from online_models.two_tower import UserTower, expected_shapes
from retrain_workers.attempt import Unwatched
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.splits import split
from retrain_workers.two_tower import fitting, loop
from retrain_workers.two_tower.examples import TowerData
from retrain_workers.two_tower.fitting import TRAINING_FILE, TrainedTowers, train
from retrain_workers.validation.evaluation import cases_of, history_of, popularity_of, score
from tests.clustered_world import GROUPS, HOUR_MS, ITEMS, START_MS, as_interactions, clustered_events

JOB = TrainTwoTower(
    dimensions=16, hidden=16, recent=10, epochs=4, warm_epochs=1, batch_size=128, learning_rate=1e-2, seed=3
)
CATALOGUE = {
    f"item-{j}": Item(f"item-{j}", "movies", f"Film {j} (199{j % 7})", [f"group-{j % GROUPS}"]) for j in range(ITEMS)
}

SINCE_MS = START_MS + 999 * HOUR_MS
"""The newest of the events that the champion of a warm start has learned: the first 1,000 of 1,500."""


class Watched:
    """An attempt in memory that breaks off after so many reports."""

    def __init__(self, breaks_after: int = 10**9, kept: bytes | None = None) -> None:
        self.left, self.kept = breaks_after, kept
        self.reports: list[tuple[int, int]] = []

    def report(self, phase: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        assert phase == "two_tower"
        assert loss is not None
        self.reports.append((done, total))
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def checkpoint(self, name: str) -> bytes | None:
        return self.kept

    def keep(self, name: str, state: bytes) -> None:
        self.kept = state


def data_of(dataset: Dataset, catalogue: Mapping[str, Item] = CATALOGUE) -> TowerData:
    return TowerData.of(dataset, dataset.items, catalogue)


@pytest.fixture(scope="module")
def world() -> Dataset:
    return dataset_of(as_interactions(clustered_events(1)))


@pytest.fixture(scope="module")
def trained(world: Dataset) -> TrainedTowers:
    return train(data_of(world), JOB, None, None, Unwatched())


def test_the_same_data_job_and_seed_give_the_same_bytes(world: Dataset, trained: TrainedTowers) -> None:
    torch.manual_seed(99)
    assert train(data_of(world), JOB, None, None, Unwatched()).files() == trained.files()
    other = train(data_of(world), replace(JOB, seed=4), None, None, Unwatched())
    assert other.files()[TWO_TOWER_FILE] != trained.files()[TWO_TOWER_FILE]


def test_torch_is_left_as_it_was(world: Dataset) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train(data_of(world), replace(JOB, epochs=1), None, None, Unwatched())
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


@pytest.mark.parametrize("breaks_after", [1, 17, 30])
def test_a_resumed_run_ends_with_the_same_bits(
    world: Dataset, trained: TrainedTowers, monkeypatch: pytest.MonkeyPatch, breaks_after: int
) -> None:
    monkeypatch.setattr(loop, "KEEP_EVERY_SECONDS", 0.0)
    broken = Watched(breaks_after)
    with pytest.raises(KeyboardInterrupt):
        train(data_of(world), JOB, None, None, broken)
    resumed = Watched(kept=broken.kept)
    assert train(data_of(world), JOB, None, None, resumed).files() == trained.files()
    # the step that broke off was reported before it was kept
    assert resumed.reports[0][0] == breaks_after
    assert resumed.reports[-1] == (resumed.reports[-1][1], resumed.reports[0][1])


def test_a_finished_checkpoint_gives_the_result_without_a_step(world: Dataset, trained: TrainedTowers) -> None:
    first = Watched()
    train(data_of(world), JOB, None, None, first)
    again = Watched(kept=first.kept)
    assert train(data_of(world), JOB, None, None, again).files() == trained.files()
    assert again.reports == []


@pytest.mark.parametrize("change", ["seed", "data", "catalogue", "torn"])
def test_a_checkpoint_of_something_else_is_not_gone_on_from(world: Dataset, change: str) -> None:
    job, data, first = replace(JOB, epochs=1), data_of(world), Watched()
    train(data, job, None, None, first)
    assert first.kept is not None
    kept = first.kept[:-1] if change == "torn" else first.kept
    if change == "seed":
        job = replace(job, seed=9)
    if change == "data":
        data = data_of(world.take(np.arange(len(world)) > 0))
    if change == "catalogue":
        data = data_of(world, {})
    resumed = Watched(kept=kept)
    found = train(data, job, None, None, resumed)
    assert resumed.reports[0][0] == 1
    assert found.files() == train(data, job, None, None, Unwatched()).files()


def test_the_files_are_those_that_readers_and_a_warm_start_know(world: Dataset, trained: TrainedTowers) -> None:
    files = trained.files()
    served = load(files[TWO_TOWER_FILE])
    assert {name: tensor.shape for name, tensor in served.items()} == expected_shapes(served)
    assert len(UserTower.of(served)) == len(world.items)
    assert load(files[TRAINING_FILE]).keys() == trained.training.keys()
    assert trained.start is Start.COLD


def test_towers_beat_popularity_on_a_clustered_world(world: Dataset) -> None:
    parts = split(world, 0.2)
    cases, popularity = cases_of(parts), popularity_of(parts.history, 60.0)
    found = train(data_of(parts.history), JOB, None, None, Unwatched())
    learned = score(found.ranker(parts.history.items, popularity), cases)
    assert learned.ndcg.mean() > 1.5 * score(popularity, cases).ndcg.mean()


def test_a_ranker_leaves_out_what_was_seen_and_knows_popularity(world: Dataset, trained: TrainedTowers) -> None:
    popularity = popularity_of(world, 60.0)
    ranker = trained.ranker(world.items, popularity)
    rows = np.flatnonzero(world.user == 0)
    history = history_of(world, rows, world.item_hashes())
    listed, nothing = ranker.top([history, EMPTY], 7)
    assert not np.isin(listed, history.seen["item"]).any()
    assert nothing.tolist() == popularity.order[:7].tolist()
    tower = UserTower.of(trained.serving)
    scores = tower.scores(tower.vector(np.asarray(world.item[rows][-100:], np.int64)))
    unseen = np.setdiff1d(np.arange(len(world.items)), world.item[rows])
    best = unseen[np.argsort(-scores[unseen], kind="stable")][:7]
    assert listed.tolist() == hashes_of([world.items[row] for row in best]).tolist()
    with pytest.raises(ValueError, match="items as in the tower"):
        trained.ranker(world.items[1:], popularity)


@pytest.fixture(scope="module")
def before(world: Dataset) -> Dataset:
    return dataset_of(as_interactions(clustered_events(1)[:1_000]))


@pytest.fixture(scope="module")
def champion(before: Dataset) -> TrainedTowers:
    return train(data_of(before), JOB, None, None, Unwatched())


def warm_towers(data: TowerData, champion: TrainedTowers, items: list[str], **more: int | float) -> TrainedTowers:
    job = replace(JOB, **more)
    return train(data, job, champion.training, items, Unwatched(), since_ms=SINCE_MS)


def test_a_warm_start_passes_over_the_new_and_a_share_of_the_old(
    world: Dataset, before: Dataset, champion: TrainedTowers
) -> None:
    attempt = Watched()
    found = train(data_of(world), JOB, champion.training, list(before.items), attempt, since_ms=SINCE_MS)
    new = len({(u, i) for u, i in zip(world.user.tolist(), world.item.tolist(), strict=True)}) - len(
        {(u, i) for u, i in zip(before.user.tolist(), before.item.tolist(), strict=True)}
    )
    assert attempt.reports[-1][0] == -(-(new + round(0.25 * new)) // JOB.batch_size)
    assert found.start is Start.WARM
    assert UserTower.of(found.serving)


def test_a_warm_start_is_as_good_as_a_cold_start(world: Dataset, before: Dataset, champion: TrainedTowers) -> None:
    later = dataset_of(as_interactions(clustered_events(1, events=2_000)))
    parts = split(later, 0.25, START_MS + 1_500 * HOUR_MS)
    data, popularity, cases = data_of(parts.history), popularity_of(parts.history, 60.0), cases_of(parts)
    warm = warm_towers(data, champion, list(before.items)).ranker(data.items, popularity)
    cold = train(data, JOB, None, None, Unwatched()).ranker(data.items, popularity)
    assert score(warm, cases).ndcg.mean() > 0.9 * score(cold, cases).ndcg.mean()


def test_without_new_events_a_warm_start_is_the_champion_by_the_names_of_items(
    before: Dataset, champion: TrainedTowers
) -> None:
    turned = [*list(before.items)[::-1], "item-new"]
    catalogue = CATALOGUE | {"item-new": Item("item-new", "movies", "Film", ["group-new", "group-1"])}
    data = TowerData.of(before, turned, catalogue)
    found = warm_towers(data, champion, list(before.items))
    np.testing.assert_array_equal(found.serving["item_vectors"][:-1], champion.serving["item_vectors"][::-1])
    assert not found.training["item_ids"][-1].any()
    assert found.serving["popularity_weight"] == champion.serving["popularity_weight"]


def test_other_sizes_and_a_cold_job_begin_from_nothing(
    world: Dataset, before: Dataset, champion: TrainedTowers
) -> None:
    items, data = list(before.items), data_of(world)
    assert warm_towers(data, champion, items, dimensions=8).start is Start.COLD
    assert warm_towers(data, champion, items, recent=5).start is Start.COLD
    assert warm_towers(data, champion, items, members=1).start is Start.COLD
    assert warm_towers(data, champion, items[1:]).start is Start.COLD
    cold = train(data, replace(JOB, start=Start.COLD), champion.training, items, Unwatched(), since_ms=SINCE_MS)
    assert cold.start is Start.COLD


def test_no_score_is_larger_than_the_blend_takes(trained: TrainedTowers) -> None:
    tower = UserTower.of(trained.serving)
    scores = tower.scores(tower.vector(np.arange(10)))
    assert np.abs(scores).max() < 1e3
    assert 1 / np.exp(trained.serving["log_temperature"]) <= 50 * fitting.SERVED_SCALE


@pytest.mark.parametrize(
    "change", [{"members": 0}, {"dimensions": 0}, {"epochs": 0}, {"learning_rate": np.inf}, {"replay_share": -1.0}]
)
def test_settings_out_of_range_are_refused(world: Dataset, change: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="positive settings"):
        train(data_of(world), replace(JOB, **change), None, None, Unwatched())


def test_no_events_and_no_device_are_refused(world: Dataset) -> None:
    with pytest.raises(TrainingError, match="got 0"):
        train(data_of(world.take(world.ts_ms < 0)), JOB, None, None, Unwatched())
    with pytest.raises(TrainingError, match="a device of cpu, cuda, auto"):
        train(data_of(world), JOB, None, None, Unwatched(), device="tpu")
