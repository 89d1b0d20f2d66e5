"""The ALS refit: determinism, quality, its files and its golden queries."""

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load, save
from scipy.sparse import csr_matrix

from online_models import als as kernel
from online_models.contracts.jobs import TrainAls
from online_models.errors import ArtifactError
from online_models.learner import trained_of
from retrain_workers.als import AlsModel, fit
from retrain_workers.data.datasets import Dataset, dataset_of, decayed_preferences
from retrain_workers.data.splits import split
from retrain_workers.validation.evaluation import cases_of, popularity_of, score
from tests.clustered_world import ITEMS, as_interactions, clustered_events
from tests.samples import manifest

JOB = TrainAls(factors=8, iterations=5, half_life_days=60.0, holdout_fraction=0.2, seed=7)


@pytest.fixture(scope="module")
def world() -> Dataset:
    return dataset_of(as_interactions(clustered_events(1)))


@pytest.fixture(scope="module")
def model(world: Dataset) -> AlsModel:
    return fit(world, JOB, 10.0)


def test_the_same_data_settings_and_seed_give_the_same_bytes(world: Dataset, model: AlsModel) -> None:
    assert fit(world, JOB, 10.0).files() == model.files()
    assert fit(world, replace(JOB, seed=8), 10.0).files() != model.files()


def test_learned_factors_beat_popularity_on_a_clustered_world(world: Dataset) -> None:
    parts = split(world, 0.2)
    cases = cases_of(parts)
    learned = score(fit(parts.history, JOB, 10.0).ranker(), cases)
    popular = score(popularity_of(parts.history, JOB.half_life_days), cases)
    assert len(cases) >= 40
    assert learned.ndcg.mean() > 1.5 * popular.ndcg.mean()


def test_user_factors_solve_the_equations_that_serving_folds_in_with(world: Dataset) -> None:
    converged = fit(world, replace(JOB, iterations=400), 10.0)
    preferences: csr_matrix = decayed_preferences(world, JOB.half_life_days)
    confidence = (1 + JOB.alpha * preferences.data).astype(np.float32)
    Y = converged.item_factors
    exact = kernel.fold_in(
        preferences.indptr, preferences.indices, confidence, Y, kernel.gramian(Y), JOB.regularization
    )
    assert np.abs(exact @ Y.T - converged.user_factors @ Y.T).max() < 0.002


def test_popular_items_are_ordered_by_decayed_strength(world: Dataset, model: AlsModel) -> None:
    strength = np.asarray(decayed_preferences(world, JOB.half_life_days).sum(axis=0)).ravel()
    ordered = [strength[world.items.index(item)] for item in model.popular]
    assert len(ordered) == ITEMS
    assert ordered == pytest.approx(sorted(ordered, reverse=True), rel=1e-5)


def test_an_item_weighs_what_its_events_say_together(world: Dataset, model: AlsModel) -> None:
    strength = np.asarray(decayed_preferences(world, JOB.half_life_days).sum(axis=0)).ravel()
    # the sum over users of c - 1 = alpha r
    expected = [JOB.alpha * strength[world.items.index(item)] for item in model.items]
    assert model.item_weights.dtype.name == "float32"
    assert model.item_weights.tolist() == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0


def test_the_stream_goes_on_from_the_weights_of_the_artifact(world: Dataset, model: AlsModel) -> None:
    files = model.files()
    described = replace(manifest(), hyperparameters=dict(model.hyperparameters))
    trained = trained_of(described, load(files["factors.safetensors"]), list(model.items))
    assert trained.weights.tolist() == model.item_weights.tolist()
    assert trained.users == len(model.users)


def test_an_artifact_made_before_weights_were_kept_counts_each_item_as_met_by_one_user(model: AlsModel) -> None:
    files = model.files()
    tensors = load(files["factors.safetensors"])
    del tensors["item_weights"]
    files["factors.safetensors"] = save(tensors)
    again = AlsModel.of(files, model.hyperparameters)
    assert again.item_weights.tolist() == [1.0] * len(model.items)
    np.testing.assert_array_equal(again.item_factors, model.item_factors)


def test_the_files_give_the_model_back(model: AlsModel) -> None:
    again = AlsModel.of(model.files(), model.hyperparameters)
    assert (list(again.users), list(again.items)) == (list(model.users), list(model.items))
    assert again.files() == model.files()


def test_files_that_are_not_an_als_artifact_are_refused(model: AlsModel) -> None:
    files = model.files()
    del files["items.json"]
    with pytest.raises(ArtifactError, match=r"items\.json"):
        AlsModel.of(files, model.hyperparameters)


def test_golden_queries_are_answered_by_the_fold_in_of_serving(world: Dataset, model: AlsModel) -> None:
    queries = model.golden(world)
    assert len(queries) == 5
    how = kernel.FoldIn.of(model.hyperparameters)
    for query in queries:
        history = np.array(query.history)
        weight = kernel.recency_weights(np.ones(len(history), np.float32), how.half_life_events)
        Y = model.item_factors
        vector = kernel.fold_in(
            np.array([0, len(history)]), history, 1 + how.alpha * weight, Y, kernel.gramian(Y), how.regularization
        )[0]
        assert len(set(query.history)) == len(query.history) > 0
        assert kernel.top_k(Y @ vector, len(query.expected), history).tolist() == query.expected
        assert query.expected
