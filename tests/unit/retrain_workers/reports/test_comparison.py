"""The comparison of models, its figures, and the files it is written to."""

import json
from pathlib import Path

import numpy as np
import pytest

from online_models.contracts.jobs import TrainAls, TrainTwoTower
from online_models.errors import TrainingError
from online_models.metrics import mae, rmse
from retrain_workers import als
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.splits import split
from retrain_workers.reports.comparison import (
    AlsScorer,
    Comparison,
    Fitted,
    PopularityScorer,
    Row,
    TowerScorer,
    compare,
    contenders,
    held_bytes,
)
from retrain_workers.reports.files import markdown_of, write_comparison, write_reliability
from retrain_workers.validation.calibration import calibrate
from retrain_workers.validation.evaluation import cases_of, popularity_of, score
from tests.clustered_world import as_interactions, clustered_events

JOB = TrainAls(factors=8, iterations=5, half_life_days=60.0, seed=7)
TOWERS = TrainTwoTower(JOB, dimensions=8, hidden=8, epochs=2, batch_size=128)


def refuse(dataset: Dataset) -> Fitted:
    raise TrainingError("expected a miracle, got none")


@pytest.fixture(scope="module")
def world() -> Dataset:
    return dataset_of(as_interactions(clustered_events(1, events=2_500)))


@pytest.fixture(scope="module")
def ratings(world: Dataset) -> np.ndarray:
    """Half of the events are rated, those of the user's own group by one star more."""
    rng = np.random.default_rng(0)
    own = np.array(
        [
            int(world.users[u][5:]) % 4 == int(world.items[i][5:]) % 4
            for u, i in zip(world.user, world.item, strict=True)
        ]
    )
    stars = 3 + 1.5 * own + rng.normal(0, 0.3, len(world))
    return np.where(rng.random(len(world)) < 0.5, stars, np.nan)


@pytest.fixture(scope="module")
def found(world: Dataset, ratings: np.ndarray) -> Comparison:
    return compare(world, {**contenders(JOB, 10.0, towers=TOWERS), "oracle": refuse}, 0.2, ratings=ratings)


def row(found: Comparison, name: str) -> Row:
    (only,) = (each for each in found.rows if each.name == name)
    return only


def test_all_models_are_measured_on_the_same_cases(world: Dataset, found: Comparison) -> None:
    parts = split(world, 0.2)
    expected = score(als.AlsRanker(als.fit(parts.history, JOB, 10.0)), cases_of(parts))
    assert found.users == len(cases_of(parts))
    assert found.cut_ms == parts.cut_ms
    assert row(found, "als").ndcg == pytest.approx(expected.ndcg.mean())
    assert row(found, "als").ndcg_error == pytest.approx(expected.ndcg.std(ddof=1) / len(expected) ** 0.5)
    assert row(found, "als").ndcg > 2 * row(found, "popularity").ndcg
    assert row(found, "two-tower").disk_bytes > row(found, "als").disk_bytes
    assert row(found, "popularity").coverage < row(found, "als").coverage <= 1


def test_a_model_that_cannot_be_fitted_is_left_out_with_its_reason(found: Comparison) -> None:
    assert found.left_out == {"oracle": "expected a miracle, got none"}
    assert [each.name for each in found.rows] == ["als", "two-tower", "boosted trees", "popularity"]


def test_costs_are_told(found: Comparison) -> None:
    for each in found.rows:
        assert each.fit_cpu_seconds >= 0
        assert each.rank_cpu_ms > 0
        assert each.disk_bytes > 0
        assert each.memory_bytes > 0
    assert row(found, "boosted trees").fit_cpu_seconds > row(found, "popularity").fit_cpu_seconds


def test_ratings_are_predicted_by_a_line_of_the_other_users(
    world: Dataset,
    ratings: np.ndarray,
    found: Comparison,
) -> None:
    later = (world.ts_ms >= found.cut_ms) & np.isfinite(ratings)
    assert found.ratings == later.sum()
    users, stars = np.unique(world.user[later], return_inverse=True)[1], ratings[later]
    constant = np.where(users % 2 == 0, stars[users % 2 == 1].mean(), stars[users % 2 == 0].mean())
    assert found.mean_rating is not None
    assert found.mean_rating.rmse == pytest.approx(rmse(constant, stars))
    assert found.mean_rating.mae == pytest.approx(mae(constant, stars))
    ours = row(found, "als").rating
    assert ours is not None
    assert ours.rmse < 0.95 * found.mean_rating.rmse


def test_without_ratings_there_are_no_errors_of_ratings(world: Dataset) -> None:
    bare = compare(world, {"popularity": contenders(JOB, 10.0)["popularity"]}, 0.2)
    assert (bare.ratings, bare.mean_rating, bare.rows[0].rating) == (0, None, None)


def test_without_later_events_there_is_nothing_to_compare_on(world: Dataset) -> None:
    seen = world.take((world.user == 0) & (world.item == world.item[world.user == 0][0]))
    with pytest.raises(TrainingError, match="expected"):
        compare(seen, contenders(JOB, 10.0), 0.2)


def test_single_items_are_scored_as_lists_are_ordered(world: Dataset) -> None:
    parts = split(world, 0.2)
    history = cases_of(parts)[0].history
    unknown = np.array([1], np.uint64)
    popular = PopularityScorer(popularity_of(parts.history, JOB.half_life_days).order)
    towers = contenders(JOB, 10.0, towers=TOWERS)["two-tower"](parts.history).ranker
    assert isinstance(towers, TowerScorer)
    for scorer in (AlsScorer(als.fit(parts.history, JOB, 10.0)), popular, towers):
        (best,) = scorer.top([history], 8)
        scores = scorer.scores([history] * 8, best)
        assert (np.diff(scores) <= 1e-6).all()
        assert np.isnan(scorer.scores([history], unknown)).all()


def test_memory_is_counted_once_whoever_holds_it() -> None:
    column = np.zeros(100_000)
    one = held_bytes([column])
    assert one == pytest.approx(800_000, rel=0.01)
    assert held_bytes([column, column[10:], {"again": column}]) == pytest.approx(one, rel=0.01)


def test_the_report_is_written_as_text_data_and_figure(found: Comparison, tmp_path: Path) -> None:
    text, data, figure = write_comparison(found, tmp_path / "report", "movies")
    assert text.read_text() == markdown_of(found, "movies")
    lines = text.read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == 2 + len(found.rows)
    assert "Left out: oracle, expected a miracle, got none." in lines
    assert json.loads(data.read_text())["rows"][0]["name"] == "als"
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "begins"), [("r.png", b"\x89PNG"), ("r.svg", b"<?xml")])
def test_reliability_is_drawn_as_the_name_says(name: str, begins: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=400)
    labels = rng.random(400) < 1 / (1 + np.exp(-scores))
    found = calibrate(3 * scores[:200], labels[:200])
    path = write_reliability(found, 3 * scores[200:], labels[200:], tmp_path / "plots" / name)
    assert path.read_bytes().startswith(begins)
