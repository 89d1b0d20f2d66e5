"""The re-ranking of a base ranker's list, and how its two sides are weighed."""

from collections.abc import Sequence

import numpy as np
import pytest

from online_models.contracts.ids import hashes_of
from online_models.history import ENTRY, SEEN, UserHistory
from retrain_workers.evaluation import Case, Hashes, Popularity
from retrain_workers.lora.adapters import Blend
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.ranking import (
    ItemTexts,
    LoraRanker,
    candidate_scores,
    features_of,
    fit_blend,
    fitted_blend,
    order_by,
)
from retrain_workers.lora.scoring import Scorer
from tests.unit.retrain_workers.lora.little_world import TEXTS, untrained

IDS = [f"item-{number}" for number in range(len(TEXTS))]
HASHES: Hashes = hashes_of(IDS)
ITEMS = ItemTexts.of(IDS, recent=3)
BASE = Popularity(HASHES)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    base: BaseModel = untrained()
    return Scorer(base, TEXTS)


def history(rows: Sequence[int]) -> UserHistory:
    recent, seen = np.zeros(len(rows), ENTRY), np.zeros(len(rows), SEEN)
    recent["item"] = seen["item"] = HASHES[list(rows)]
    return UserHistory(recent, seen)


def test_the_first_candidates_are_ordered_by_the_model_and_the_rest_stays(scorer: Scorer) -> None:
    found = LoraRanker(BASE, scorer, ITEMS, Blend(0.0, 1.0), candidates=6).top([history([0])], 10)[0]
    before = BASE.top([history([0])], 10)[0]
    scores = scorer.scores(np.array([0]), ITEMS.index.rows(before[:6]))
    assert found[:6].tolist() == before[:6][np.argsort(-scores)].tolist()
    assert found[6:].tolist() == before[6:].tolist()


def test_without_a_weight_the_base_order_stays(scorer: Scorer) -> None:
    histories = [history([0, 4]), history([])]
    found = LoraRanker(BASE, scorer, ITEMS, Blend(1.0, 0.0), candidates=12).top(histories, 5)
    assert [each.tolist() for each in found] == [each.tolist() for each in BASE.top(histories, 5)]


def test_an_item_without_a_text_keeps_the_place_of_a_mean_score(scorer: Scorer) -> None:
    stranger = hashes_of(["stranger"])
    scores = candidate_scores(scorer, ITEMS, [history([1])], [np.concatenate([HASHES[:2], stranger])])[0]
    assert np.isnan(scores).tolist() == [False, False, True]
    assert features_of(scores)[2, 1] == pytest.approx(0.0, abs=1e-6)
    assert features_of(np.full(3, np.nan))[:, 1].tolist() == [0.0, 0.0, 0.0]


def test_the_newest_known_items_are_told(scorer: Scorer) -> None:
    assert ITEMS.told(history([5, 6, 7, 8])).tolist() == [6, 7, 8]


def test_fitted_weights_follow_the_side_that_choices_follow() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=10) for _ in range(300)]
    by_model = [np.array([int(np.argmax(each + rng.gumbel(size=10)))]) for each in scores]
    by_rank = [np.array([int(rng.choice(10, p=np.arange(10, 0, -1) / 55))]) for _ in scores]
    features = [features_of(each) for each in scores]
    model, rank = fit_blend(features, by_model), fit_blend(features, by_rank)
    assert model.language_model == pytest.approx(1.0, abs=0.2)  # the choices are a logit of it, of weight 1
    assert model.base < 0.15
    assert rank.base > 0.3
    assert rank.language_model < 0.15
    assert order_by(model, scores[0])[0] == np.argmax(scores[0])


def test_too_few_choices_tell_no_weights(scorer: Scorer) -> None:
    cases = [Case(history([0]), HASHES[[5]])] * 19
    assert fitted_blend(BASE, scorer, ITEMS, cases, 10) is None
    blend = fitted_blend(BASE, scorer, ITEMS, [*cases, *cases], 10)
    assert blend is not None
    assert blend.base >= 0 <= blend.language_model
