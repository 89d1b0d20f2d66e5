"""Assignment is sticky, nested over growing weights, and fair."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Route
from serving_api.assignment import Variant, bucket, variant

WEIGHTS = st.integers(0, FULL_WEIGHT_BP)


def route(weight_bp: int, salt: str = "salt") -> Route:
    return Route(epoch=1, stable=ModelVersion("v1"), canary=ModelVersion("v2"), weight_bp=weight_bp, salt=salt)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_bucket_is_a_basis_point_and_never_changes(salt: str, user: str) -> None:
    assert 0 <= bucket(salt, user) < FULL_WEIGHT_BP
    assert bucket(salt, user) == bucket(salt, user)


def test_the_bucket_of_a_known_user_is_the_same_in_every_release() -> None:
    assert [bucket("rollout-1", user) for user in ("user-1", "user-2", "é")] == [4802, 6075, 2840]


@given(st.text(max_size=20), WEIGHTS, WEIGHTS)
def test_a_growing_weight_keeps_everybody_who_is_on_the_canary(user: str, one: int, other: int) -> None:
    small, large = sorted((one, other))
    if variant(user, route(small)) is Variant.CANARY:
        assert variant(user, route(large)) is Variant.CANARY


@given(st.text(max_size=20))
def test_nobody_is_on_the_canary_at_weight_zero_and_everybody_at_full_weight(user: str) -> None:
    assert variant(user, route(0)) is Variant.STABLE
    assert variant(user, route(FULL_WEIGHT_BP)) is Variant.CANARY


@given(st.text(max_size=20))
def test_without_a_canary_everybody_is_on_stable(user: str) -> None:
    assert variant(user, Route(epoch=1, stable=ModelVersion("v1"), weight_bp=5_000)) is Variant.STABLE


def test_the_share_of_users_lies_within_binomial_bounds_of_the_weight() -> None:
    users = 20_000
    for weight_bp in (500, 2_500, 5_000, 7_500, 9_800):
        for salt in ("a", "b", "c"):
            arms = Counter(variant(f"user-{n}", route(weight_bp, salt)) for n in range(users))
            low, high = binom.interval(1 - 1e-6, users, weight_bp / FULL_WEIGHT_BP)
            assert low <= arms[Variant.CANARY] <= high


def test_another_salt_draws_other_users() -> None:
    first = {n for n in range(20_000) if variant(f"user-{n}", route(500, "a")) is Variant.CANARY}
    second = {n for n in range(20_000) if variant(f"user-{n}", route(500, "b")) is Variant.CANARY}
    assert len(first & second) < 0.15 * len(first)
