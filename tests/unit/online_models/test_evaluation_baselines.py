"""Each baseline against what its name says, computed from the events before."""

import numpy as np
import pytest

from online_models.errors import TrainingError
from online_models.evaluation import baselines
from online_models.evaluation.baselines import Ease, Neighbourhood, Popularity, ease_weights, together_counts
from online_models.evaluation.contenders import CONTENDERS, Study, study_of
from online_models.evaluation.log import Log, Moment
from online_models.evaluation.protocol import Model, prequential
from tests.evaluation_logs import log_of, tastes
from tests.oracles import evaluation as oracle
from tests.oracles.evaluation import Event

DAY_MS = 86_400_000
LOG = log_of(tastes(3, events=500, users=40))
BEFORE: list[Event] = list(zip(LOG.user.tolist(), LOG.item.tolist(), LOG.ts_ms.tolist(), strict=True))
BEGIN = 200


def taught(model: Model, log: Log = LOG, begin: int = BEGIN) -> Model:
    """After all groups from `begin` on, some of which it may have been made with."""
    for group in range(begin, log.groups - 1):
        model.learn(log.moment(group))
    return model


LAST = LOG.moment(LOG.groups - 1)


@pytest.mark.parametrize("begin", [0, BEGIN])
def test_popularity_counts_decayed_events(begin: int) -> None:
    half_life = 0.1
    scores = taught(Popularity(LOG, begin, half_life), begin=begin).scores(LAST)
    newest = LOG.ts_ms[LAST.begin - 1]
    expected = np.zeros(LAST.items)
    for _, item, ts_ms in BEFORE[: LAST.begin]:
        expected[item] += 2 ** (-(newest - ts_ms) / DAY_MS / half_life)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    counts = taught(Popularity(LOG, begin), begin=begin).scores(LAST)
    assert counts.tolist() == np.bincount(LOG.item[: LAST.begin], minlength=LAST.items).tolist()


@pytest.mark.parametrize("begin", [0, BEGIN])
def test_item_knn_is_the_cosine_of_what_users_met(begin: int) -> None:
    model = Neighbourhood(LOG, begin, rules=False, window=None, profile=None, half_life=np.inf, shrinkage=0)
    scores = taught(model, begin=begin).scores(LAST)
    history = LOG.item[LAST.history].tolist()
    expected = np.array(oracle.cosine_scores(BEFORE[: LAST.begin], history, LAST.items))
    np.testing.assert_allclose(np.where(scores > 0, scores, 0), expected, rtol=1e-5)
    assert len(history) > 3


@pytest.mark.parametrize("begin", [0, BEGIN])
def test_rules_are_shares_of_what_followed(begin: int) -> None:
    model = Neighbourhood(LOG, begin, rules=True, window=4, profile=3, half_life=2.0, shrinkage=5.0)
    scores = taught(model, begin=begin).scores(LAST)
    history = LOG.item[LAST.history[-3:]].tolist()
    expected = oracle.rule_scores(BEFORE[: LAST.begin], history, LAST.items, 4, 2.0, 5.0)
    np.testing.assert_allclose(np.where(scores > 0, scores, 0), expected, rtol=1e-5)


def test_what_no_neighbour_speaks_for_is_ranked_by_popularity_after_all_others() -> None:
    split = study_of(LOG, 0.8).split
    model = taught(baselines.sequential_rules(LOG, split), begin=split.test)
    popular = Popularity(LOG, LOG.groups - 1).scores(LAST)
    scores = model.scores(LAST._replace(history=LAST.history[:0]))
    assert (scores < 0).all()
    assert np.argsort(-scores, kind="stable").tolist() == np.argsort(-popular, kind="stable").tolist()


def test_ease_solves_its_constrained_least_squares() -> None:
    end = int(LOG.begins[BEGIN])
    X = np.zeros((LOG.users, len(LOG.ids)))
    X[LOG.user[:end], LOG.item[:end]] = 1
    X = X[:, : LOG.item[:end].max() + 1]
    G = together_counts(LOG, end)
    np.testing.assert_array_equal(G, X.T @ X)
    B = ease_weights(G, 10.0).astype(np.float64)
    # each column is ridge regression of the item on all others
    for item in range(0, G.shape[0], 7):
        others = np.delete(X, item, axis=1)
        ridge = others.T @ others + 10.0 * np.eye(others.shape[1])
        np.testing.assert_allclose(
            np.delete(B[:, item], item), np.linalg.solve(ridge, others.T @ X[:, item]), rtol=1e-3, atol=1e-5
        )
        assert B[item, item] == 0
    scores = taught(Ease(LOG, BEGIN, 10.0)).scores(LAST)
    known = [row for row in LOG.item[LAST.history].tolist() if row < len(B)]
    np.testing.assert_allclose(scores[: len(B)], B[known].sum(axis=0), rtol=1e-4, atol=1e-6)
    assert not scores[len(B) :].any()


def test_ease_of_no_matrix_at_all_is_refused() -> None:
    with pytest.raises(TrainingError, match="not positive definite"):
        ease_weights(np.array([[0, 9], [9, 0]], np.float32), 1.0)


def test_what_is_tuned_is_the_best_before_the_test() -> None:
    split = study_of(LOG, 0.8).split
    asked: list[float] = []

    class Wanted(Popularity):
        """Knows what comes, if its half-life is a week."""

        def __init__(self, days: float) -> None:
            super().__init__(LOG, split.tuning)
            asked.append(days)
            self._knows = days == 7.0

        def scores(self, at: Moment) -> baselines.F32:
            known = LOG.item[at.begin : at.end]
            return np.isin(np.arange(at.items), known if self._knows else []).astype(np.float32)

    assert baselines.best_of(baselines.HALF_LIVES_DAYS, Wanted, LOG, split) == 7.0
    assert asked == list(baselines.HALF_LIVES_DAYS)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "ours"])
def test_strangers_get_live_popularity_from_every_baseline(name: str) -> None:
    study: Study = study_of(LOG, 0.8)
    at = LOG.moment(study.split.test)
    stranger = at._replace(user=LOG.users, history=at.history[:0])
    scores = CONTENDERS[name](study).scores(stranger)
    split = study.split
    popular = (
        baselines.recent_popularity(LOG, split) if name == "recent-popularity" else Popularity(LOG, split.test)
    ).scores(at)
    assert np.argsort(-scores, kind="stable").tolist() == np.argsort(-popular, kind="stable").tolist()


def test_a_dense_table_of_too_many_items_is_refused() -> None:
    many = log_of([(0, item, 0) for item in range(baselines.MOST_DENSE_ITEMS + 1)])
    with pytest.raises(TrainingError, match="15001 items"):
        Ease(many, 1, 1.0)
    with pytest.raises(TrainingError, match="15001 items"):
        Neighbourhood(many, 1, rules=True, window=1, profile=1, half_life=1.0, shrinkage=1.0)


def test_a_baseline_made_with_more_of_the_log_is_one_that_was_taught_it() -> None:
    split = study_of(LOG, 0.8).split
    for made in (baselines.popularity, baselines.item_knn, baselines.recent_item_knn, baselines.sequential_rules):
        early = made(LOG, type(split)(split.tuning, split.tuning))
        prequential(early, LOG, split.tuning, split.test)
        at = LOG.moment(split.test)
        np.testing.assert_array_equal(early.scores(at), made(LOG, split).scores(at))
