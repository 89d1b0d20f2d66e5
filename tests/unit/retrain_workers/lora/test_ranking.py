"""The re-ranking of a base ranker's list, and how its two sides are weighed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from online_models.contracts.ids import hashes_of
from online_models.history import ENTRY, SEEN, UserHistory
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.ranking import (
    ItemTexts,
    LoraRanker,
    candidate_scores,
    fit_weight,
    fitted_weight,
    gains_of,
    later_choices,
)
from retrain_workers.lora.scoring import Scorer
from retrain_workers.validation.evaluation import Case, Hashes, Popularity
from tests.unit.retrain_workers.lora.little_world import TEXTS, untrained

IDS = [f"item-{number}" for number in range(len(TEXTS))]
HASHES: Hashes = hashes_of(IDS)
ITEMS = ItemTexts.of(IDS, recent=3)


class ByPlace(Popularity):
    """Popularity, whose scores fall by a tenth a place."""

    def ranked(self, histories: Sequence[UserHistory], count: int) -> list[tuple[Hashes, npt.NDArray[np.float32]]]:
        lists = self.top(histories, count)
        return [(found, -0.1 * np.arange(len(found), dtype=np.float32)) for found in lists]


BASE = ByPlace(HASHES)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    base: BaseModel = untrained()
    return Scorer(base, TEXTS)


def history(rows: Sequence[int]) -> UserHistory:
    recent, seen = np.zeros(len(rows), ENTRY), np.zeros(len(rows), SEEN)
    recent["item"] = seen["item"] = HASHES[list(rows)]
    return UserHistory(recent, seen)


def test_scored_candidates_move_by_what_the_model_says_and_others_keep_their_scores(scorer: Scorer) -> None:
    for weight in (0.05, 1.0):
        found = LoraRanker(BASE, scorer, ITEMS, weight, candidates=6).top([history([0])], 10)[0]
        (before, base), *_ = BASE.ranked([history([0])], 16)
        said = scorer.scores(np.array([0]), ITEMS.index.rows(before[:6]))
        total = dict(zip(before.tolist(), base.tolist(), strict=True))
        for item, z in zip(before[:6].tolist(), ((said - said.mean()) / said.std()).tolist(), strict=True):
            total[item] += weight * z
        expected = sorted(total, key=lambda item: -total[item])[:10]
        assert found.tolist() == expected


def test_without_a_weight_the_base_order_stays(scorer: Scorer) -> None:
    histories = [history([0, 4]), history([])]
    found = LoraRanker(BASE, scorer, ITEMS, 0.0, candidates=12).top(histories, 5)
    assert [each.tolist() for each in found] == [each.tolist() for each in BASE.top(histories, 5)]


def test_an_item_without_a_text_gains_nothing(scorer: Scorer) -> None:
    stranger = hashes_of(["stranger"])
    scores = candidate_scores(scorer, ITEMS, [history([1])], [np.concatenate([HASHES[:2], stranger])])[0]
    assert np.isnan(scores).tolist() == [False, False, True]
    gains = gains_of(scores, 0.5, 4)
    assert gains[2:].tolist() == [0.0, 0.0]
    assert sorted(gains[:2].tolist()) == pytest.approx([-0.5, 0.5], abs=1e-5)
    assert gains_of(np.full(3, np.nan), 1.0, 3).tolist() == [0.0, 0.0, 0.0]


def test_the_newest_known_items_are_told(scorer: Scorer) -> None:
    assert ITEMS.told(history([5, 6, 7, 8])).tolist() == [6, 7, 8]


def test_the_weight_is_what_choices_owe_to_the_model_beyond_the_base() -> None:
    rng = np.random.default_rng(0)
    base, z = ([rng.normal(size=10) for _ in range(400)] for _ in range(2))
    for weight in (0.0, 0.7):
        taken = [np.array([int(np.argmax(b + weight * x + rng.gumbel(size=10)))]) for b, x in zip(base, z, strict=True)]
        assert fit_weight(base, z, taken) == pytest.approx(weight, abs=0.15)


def test_choices_that_go_against_the_model_give_it_no_weight() -> None:
    z = [np.arange(5.0) - 2] * 50
    assert fit_weight([np.zeros(5)] * 50, z, [np.array([0])] * 50) == 0.0
    assert fit_weight([np.zeros(5)] * 50, z, [np.array([4])] * 50) > 1.0


def test_only_users_who_took_a_candidate_tell_anything(scorer: Scorer) -> None:
    cases = [Case(history([0]), HASHES[[5]]), Case(history([0]), HASHES[[11]])]
    later = later_choices(BASE, cases, 10)
    assert [case.relevant.tolist() for case in later.cases] == [HASHES[[5]].tolist()]
    assert fitted_weight(scorer, ITEMS, later) >= 0
