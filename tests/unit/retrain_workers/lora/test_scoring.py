"""Scores of many users at once, of items without a text nobody has, and of texts alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_workers.lora import scoring
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.scoring import Scorer
from tests.unit.retrain_workers.lora.little_world import TEXTS, untrained

ITEMS = st.integers(0, len(TEXTS) - 1)
USERS = st.lists(st.tuples(st.lists(ITEMS, max_size=4), st.lists(ITEMS, max_size=5)), max_size=6)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return untrained()


@settings(deadline=None, max_examples=25)
@given(users=USERS, tokens=st.sampled_from([1, 60, scoring.BATCH_TOKENS]))
def test_many_users_score_as_each_alone_whatever_shares_a_batch(
    base: BaseModel, users: list[tuple[list[int], list[int]]], tokens: int
) -> None:
    scorer = Scorer(base, TEXTS)
    histories, candidates = ([np.array(user[side], np.int64) for user in users] for side in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BATCH_TOKENS", tokens)
        found = scorer.score_users(histories, candidates)
    for history, asked, scores in zip(histories, candidates, found, strict=True):
        assert scores.dtype == np.float32
        assert scores == pytest.approx([scorer.scores(history, asked[[at]])[0] for at in range(len(asked))], abs=1e-5)


def test_texts_score_as_the_items_that_they_are_of(base: BaseModel) -> None:
    scorer = Scorer(base, TEXTS)
    by_item = scorer.scores(np.array([2, 5]), np.array([1, 20]))
    assert scorer.score_texts([TEXTS[2], TEXTS[5]], [TEXTS[1], TEXTS[20]]).tolist() == by_item.tolist()
