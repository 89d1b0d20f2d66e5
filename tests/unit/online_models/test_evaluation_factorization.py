"""Factors by alternating least squares beside implicit's, and the models that use them."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from online_models import als
from online_models.contracts.jobs import TrainAls
from online_models.evaluation.contenders import study_of
from online_models.evaluation.factor_baselines import REFITS, FoldInAls, FrozenAls, events_per_refit
from online_models.evaluation.factorization import confidences, factorize, trained
from online_models.evaluation.log import Log
from online_models.evaluation.protocol import prequential
from tests.evaluation_logs import log_of, tastes

F32 = npt.NDArray[np.float32]

HOW = TrainAls(factors=8, half_life_days=0.5)
LOG = log_of(tastes(5, events=2_000))


def loss(c: csr_matrix, X: F32, Y: F32, regularization: float) -> float:
    """sum_ui c_ui (p_ui - x_u . y_i)^2 + lambda (|X|^2 + |Y|^2), c_ui = 1 and p_ui = 0 where nothing happened"""
    P = (c > 0).toarray().astype(np.float64)
    C = np.where(P > 0, c.toarray(), 1.0)
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    return float((C * (P - X @ Y.T) ** 2).sum() + regularization * ((X**2).sum() + (Y**2).sum()))


def test_the_loss_is_implicit_s_within_a_hundredth() -> None:
    end = len(LOG)
    ours = factorize(LOG, end, HOW)
    c = confidences(LOG, end, HOW)
    with threadpool_limits(1):
        theirs = AlternatingLeastSquares(
            factors=8, regularization=1.0, iterations=HOW.iterations, random_state=0, num_threads=1
        )
        theirs.fit(c, show_progress=False)
    expected = loss(c, theirs.user_factors, theirs.item_factors, 1.0)
    assert loss(c, ours.users, ours.items, 1.0) == pytest.approx(expected, rel=0.01)
    nothing = np.zeros_like(ours.users), np.zeros_like(ours.items)
    assert expected < 0.8 * loss(c, *nothing, 1.0)


def test_the_items_are_the_exact_solution_for_the_users() -> None:
    factors = factorize(LOG, 900, HOW)
    c = confidences(LOG, 900, HOW).toarray()
    X = factors.users.astype(np.float64)
    for item in (0, 7, 31):
        C, p = np.diag(np.where(c[:, item] > 0, c[:, item], 1.0)), (c[:, item] > 0).astype(np.float64)
        exact = np.linalg.solve(X.T @ C @ X + HOW.regularization * np.eye(8), X.T @ C @ p)
        np.testing.assert_allclose(factors.items[item], exact, rtol=1e-3, atol=1e-5)


def test_confidence_is_of_strength_and_age() -> None:
    log = replace(LOG, strength=np.linspace(1, 4, len(LOG)).astype(np.float32))
    c = confidences(log, 500, HOW)
    age_days = (log.ts_ms[499] - log.ts_ms[100]) / 86_400_000
    expected = 1 + HOW.alpha * log.strength[100] * 2 ** (-age_days / HOW.half_life_days)
    assert c[log.user[100], log.item[100]] == pytest.approx(expected, rel=1e-6)
    weights = factorize(log, 500, HOW).weights
    np.testing.assert_allclose(weights, c.sum(axis=0).A1 - (c > 0).sum(axis=0).A1, rtol=1e-5)


def test_only_what_came_before_the_cut_counts_and_the_same_is_the_same() -> None:
    cut = 900
    other = Log.of(LOG.ids, LOG.user, np.where(np.arange(len(LOG)) < cut, LOG.item, 0), LOG.ts_ms, LOG.strength)
    one, two = factorize(LOG, cut, HOW), factorize(other, cut, HOW)
    np.testing.assert_array_equal(one.users, two.users)
    np.testing.assert_array_equal(one.items, two.items)
    assert (factorize(LOG, cut, TrainAls(factors=8, seed=1)).items != one.items).any()


def test_a_version_is_made_of_the_factors() -> None:
    factors = factorize(LOG, 900, HOW)
    version = trained(LOG, factors, HOW)
    assert version.ids == LOG.ids[: len(factors.items)]
    assert (version.users, version.fold_in.alpha, version.fold_in.regularization) == (len(factors.users), 2.0, 1.0)
    np.testing.assert_allclose(version.gramian, factors.items.T @ factors.items, rtol=1e-5)
    np.testing.assert_allclose(version.user_gramian, factors.users.T @ factors.users, rtol=1e-5)


def test_frozen_scores_are_products_of_the_trained_vectors_and_new_items_have_none() -> None:
    factors = factorize(LOG, int(LOG.begins[100]), HOW)
    model = FrozenAls(LOG, 100, factors)
    at = next(
        LOG.moment(group) for group in range(LOG.groups - 1, 0, -1) if LOG.moment(group).user < len(factors.users)
    )
    scores = model.scores(at)
    np.testing.assert_allclose(scores[: len(factors.items)], factors.items @ factors.users[at.user], rtol=1e-5)
    assert not scores[len(factors.items) :].any()


def test_fold_in_takes_the_whole_live_history() -> None:
    factors = factorize(LOG, int(LOG.begins[600]), HOW)
    model = FoldInAls(LOG, 600, factors, HOW)
    at = LOG.moment(LOG.groups - 1)
    history = at.history[LOG.item[at.history] < len(factors.items)]
    assert history.max() >= LOG.begins[600]
    Y = factors.items
    c = (1 + HOW.alpha * LOG.strength[history]).astype(np.float32)
    x = als.fold_in(np.array([0, len(c)]), LOG.item[history], c, Y, als.gramian(Y), HOW.regularization)[0]
    np.testing.assert_allclose(model.scores(at)[: len(Y)], Y @ x, rtol=1e-3, atol=1e-5)


def test_a_refit_is_what_training_then_would_give_and_there_are_about_ten() -> None:
    study = study_of(LOG, 0.8)
    every = events_per_refit(LOG, study.split)
    assert every == (len(LOG) - int(LOG.begins[study.split.test])) // REFITS
    model = FoldInAls(LOG, study.split.test, factorize(LOG, int(LOG.begins[study.split.test]), HOW), HOW, every)
    prequential(model, LOG, study.split.test, LOG.groups - 1)
    fitted = [0]
    for group in range(study.split.test, LOG.groups - 1):
        end = LOG.moment(group).end
        if end - max(fitted[-1], int(LOG.begins[study.split.test])) >= every:
            fitted.append(end)
    assert 8 <= len(fitted) <= 11
    fresh = FoldInAls(LOG, LOG.groups - 1, factorize(LOG, fitted[-1], HOW), HOW)
    at = LOG.moment(LOG.groups - 1)
    np.testing.assert_array_equal(model.scores(at), fresh.scores(at))
