"""Tokens and kept lists come back as they were, or not at all."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import UserId
from online_models.contracts.rollouts import Variant
from online_models.errors import StoreError
from serving_api.ranking import RankedItem
from serving_api.reranking.explanations import Code
from serving_api.sessions import PageToken, Session, decoded, encode

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
ITEMS = st.lists(
    st.builds(RankedItem, TEXT, st.none() | st.floats(-9, 9), st.sampled_from(Code), st.none() | TEXT, st.floats(0, 1)),
    max_size=4,
)


@given(st.uuids(version=4), st.integers(1, 99_999))
def test_a_token_says_where_a_list_goes_on(request_id: uuid.UUID, offset: int) -> None:
    token = PageToken(str(request_id), offset)
    assert PageToken.parse(str(token)) == token


@given(
    TEXT | st.builds("{}.{}".format, st.uuids(), st.integers(-5, 0) | st.integers(100_000) | TEXT.filter(str.isalpha))
)
def test_anything_else_is_no_token(text: str) -> None:
    with pytest.raises(ValueError, match="expected the page_token of an answer"):
        PageToken.parse(text)


@given(TEXT, ITEMS, st.sampled_from(Variant), st.none() | st.integers(0, 9), st.none() | st.sampled_from(Variant))
def test_a_list_is_kept_as_it_is(
    user: str, items: list[RankedItem], variant: Variant, rollout: int | None, asked: Variant | None
) -> None:
    session = Session(UserId(user), "v1", variant, "vector", rollout, 1, 500, False, items, "v0", 0.05, asked, "v2")
    assert decoded(encode(session)) == session


def test_a_list_that_was_kept_by_an_earlier_release_is_one_without_a_language_model() -> None:
    kept = {"user_id": "u", "model_version": "v1", "variant": "stable", "source": "vector", "rollout_id": None}
    rest = {"stage": -1, "weight_bp": 0, "degraded": False, "items": [["i1", 0.5, "popular", None, 1.0, 0.25]]}
    session = decoded(msgspec.json.encode(kept | rest))
    assert (session.language_model, session.items[0].language, session.arm_propensity) == (None, 0.25, None)
    assert (session.asked_variant, session.asked_version) == (None, None)


def test_a_torn_list_is_a_fault_of_the_store() -> None:
    with pytest.raises(StoreError, match="a session"):
        decoded(b'{"user_id":')
