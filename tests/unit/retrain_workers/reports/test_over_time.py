"""Models fitted at one cut after the other: what each is given, what it is measured on, and what is written."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from online_models.contracts.jobs import TrainAls
from online_models.errors import TrainingError
from retrain_workers import als
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.reports.comparison import Fit, Fitted, contenders
from retrain_workers.reports.over_time import ROLLING, WINDOWS, Window, over_time, rolling, write_over_time
from retrain_workers.validation.evaluation import cases_of, score
from tests.clustered_world import HOUR_MS, as_interactions, clustered_events

JOB = TrainAls(factors=8, iterations=3, half_life_days=60.0, seed=7)
FITS = {name: fit for name, fit in contenders(JOB, 10.0).items() if name in ("als", "popularity")}


@pytest.fixture(scope="module")
def world() -> Dataset:
    return dataset_of(as_interactions(clustered_events(1)))


@pytest.mark.parametrize(("kind", "histories"), [("sliding", [750] * 4), ("expanding", [750, 938, 1_126, 1_314])])
def test_each_model_is_fitted_at_each_cut_and_measured_on_what_came_next(
    world: Dataset, kind: str, histories: list[int]
) -> None:
    windows = over_time(FITS, rolling(world, kind), min_users=5)
    assert [window.history_events for window in windows] == pytest.approx(histories, abs=2)
    assert len({window.cut_ms for window in windows}) == WINDOWS
    splits = list(rolling(world, kind))
    for window, parts in zip(windows, splits, strict=True):
        expected = score(als.AlsRanker(als.fit(parts.history, JOB, 10.0)), cases_of(parts))
        assert window.ndcg["als"] == pytest.approx(expected.ndcg.mean())
        assert window.users == len(expected)
        assert window.ndcg["als"] > window.ndcg["popularity"]
    assert sum(len(parts.holdout) for parts in splits) == 750  # the later half, each event once


@pytest.mark.parametrize("kind", ROLLING)
@pytest.mark.parametrize("windows", [1, 2, 7])
def test_there_are_as_many_cuts_as_asked_for(world: Dataset, kind: str, windows: int) -> None:
    splits = list(rolling(world, kind, windows))
    assert len(splits) == windows
    assert max(int(parts.holdout.ts_ms[-1]) for parts in splits) == int(world.ts_ms[-1])
    assert splits[0].cut_ms == int(world.ts_ms[0]) + 1_499 * HOUR_MS // 2


def after(events: int, fit: Fit) -> Fit:
    def patient(dataset: Dataset) -> Fitted:
        if len(dataset) < events:
            raise TrainingError("expected more events")
        return fit(dataset)

    return patient


def test_a_model_that_has_too_little_to_learn_from_at_first_joins_later(world: Dataset, tmp_path: Path) -> None:
    models = {"popularity": FITS["popularity"], "als": after(1_000, FITS["als"])}
    windows = over_time(models, rolling(world, "expanding"), min_users=5)
    assert ["als" in window.ndcg for window in windows] == [False, False, True, True]
    text, data = write_over_time(windows, tmp_path / "report", "movies")
    assert msgspec.json.decode(data.read_bytes(), type=list[Window]) == windows
    title, _, head, _, *rows = text.read_text().splitlines()
    assert title == "# NDCG@10 over time: movies"
    assert head == "| cut, UTC | events before | users | popularity | als |"
    assert [row.split("|")[-2].strip() for row in rows[:2]] == ["", ""]
    cells = [cell.strip() for cell in rows[-1].split("|")]
    assert cells[1] == "mean ± sd of 2"
    for name, cell in zip(("popularity", "als"), cells[-3:-1], strict=True):
        late = np.array([window.ndcg[name] for window in windows[2:]])
        assert cell == f"{late.mean():.4f} ± {late.std():.4f}"


def test_without_anything_new_to_anybody_there_is_nothing_to_compare_on(world: Dataset) -> None:
    seen = world.take((world.user == 0) & (world.item == world.item[world.user == 0][0]))
    with pytest.raises(TrainingError, match="after some cut"):
        over_time(FITS, rolling(seen, "sliding"))
