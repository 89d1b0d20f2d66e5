"""The loop by itself: what a pass visits, what the correction is worth, when it keeps its state and when it gives up."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.jobs import TrainTwoTower
from online_models.errors import TrainingError
from online_models.two_tower import UserTower
from retrain_workers.attempt import Unwatched
from retrain_workers.two_tower.devices import Devices
from retrain_workers.two_tower.examples import Examples, TowerData
from retrain_workers.two_tower.fitting import SERVED_SCALE, train
from retrain_workers.two_tower.items import ItemContent
from retrain_workers.two_tower.loop import Loop, Schedule
from retrain_workers.two_tower.network import Sizes, Towers, begin_parameters
from retrain_workers.two_tower.popularity import PopularityThen

ITEMS, EVENTS, MANY = 30, 900, 4_000
IDS = [f"i{row}" for row in range(ITEMS)]


class Counted(Unwatched):
    """How often a state was kept."""

    kept = 0

    def keep(self, name: str, state: bytes) -> None:
        self.kept += 1


def skewed(events: int = EVENTS) -> TowerData:
    """Whoever comes takes an item by its popularity alone: the n-th by 1 / n."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, ITEMS + 1)
    item = rng.choice(ITEMS, events, p=share / share.sum())
    return TowerData(
        IDS, {}, rng.integers(0, events // 10, events), item, np.arange(events), np.ones(events, np.float32)
    )


def loop_of(attempt: Unwatched, passes: int = 2) -> Loop:
    examples = Examples.of(skewed(), 30.0)
    towers = Towers(begin_parameters(Sizes(ITEMS, 0, 2, 8, 8, 5, {}), 0), ItemContent.of(IDS, {}))
    schedule = Schedule([np.arange(len(examples))] * passes, 64, 1e-2, 5, 0)
    return Loop(towers, examples, schedule, attempt, "this", Devices.of("cpu"))


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 99))
def test_a_pass_visits_every_example_once_in_an_order_of_its_own(rows: int, size: int, seed: int) -> None:
    schedule = Schedule([np.arange(rows)] * 2, size, 1.0, 5, seed)
    first, second = schedule.order(0).tolist(), schedule.order(1).tolist()
    assert sorted(first) == sorted(second) == list(range(rows))
    assert first == Schedule([np.arange(rows)], size, 1.0, 5, seed).order(0).tolist()
    assert rows < 20 or first != second
    assert all(0 < schedule.rate(step) <= 1 for step in range(sum(schedule.steps)))


def test_a_state_is_kept_after_each_pass_and_a_pass_that_is_done_is_not_done_again() -> None:
    attempt = Counted()
    loop = loop_of(attempt)
    for number in range(2):
        loop.finish_pass(number)
    state = loop.state()
    loop.finish_pass(0)
    assert (attempt.kept, loop.state()) == (2, state)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    loop = loop_of(Unwatched())
    with torch.no_grad():
        loop.towers.named["start_input"].fill_(float("nan"))
    with pytest.raises(TrainingError, match="a finite loss, got nan"):
        loop.finish_pass(0)


def turning() -> TowerData:
    """Whoever comes takes an item by its popularity alone: the n-th by 1 / n, but in the last third the n-th from the end."""
    first, rng = skewed(MANY), np.random.default_rng(1)
    item = np.where(np.arange(MANY) < 2 * MANY // 3, first.item, ITEMS - 1 - rng.permutation(first.item))
    return TowerData(IDS, {}, first.user, item, first.ts_ms, first.strength)


def slope(data: TowerData, popularity: npt.NDArray[np.float64], weight: float | None) -> float:
    """By how much scores rise with the log of a popularity; weight : of what is put back, the chosen one when None."""
    job = TrainTwoTower(dimensions=8, hidden=8, recent=5, epochs=8, batch_size=64, learning_rate=1e-2)
    serving = dict(train(data, job, None, None, Unwatched()).serving)
    if weight is not None:
        serving["popularity_weight"] = np.array(weight, np.float32)
    tower = UserTower.of(serving)
    scores = tower.scores(tower.vector(np.empty(0, np.int64))) / SERVED_SCALE
    return float(np.polyfit(np.log(popularity), scores, 1)[0])


def test_towers_leave_popularity_at_the_time_to_be_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With logQ correction alone scores are log odds, which rise by 1 with the log of an item's popularity."""
    popularity = 1 / np.arange(1, ITEMS + 1)
    assert abs(slope(skewed(MANY), popularity, 0.0)) < 0.3
    monkeypatch.setattr(PopularityThen, "at", lambda _, rows, items: np.zeros((len(rows), len(items)), np.float32))
    assert 0.7 < slope(skewed(MANY), popularity, 0.0) < 1.4


def test_what_is_put_back_is_the_newest_popularity() -> None:
    assert slope(turning(), (1 / np.arange(1, ITEMS + 1))[::-1], None) > 0.5
