"""Assignment is sticky, nested over growing weights, fair, and the same in every process and release."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Arm, Route, Variant
from serving_api.assignment import Assignment, arm_of, assigned, bucket, splits_users

WEIGHTS = st.integers(0, FULL_WEIGHT_BP)
V1, V2, V3 = ModelVersion("v1"), ModelVersion("v2"), ModelVersion("v3")
ROOT = Path(__file__).parents[3]

GOLDEN = ROOT / "tests" / "golden" / "assignment.json"
"""Rows of (salt, user, bucket, variant at weights 500, 2500 and 5000, version under `BANDIT`), as written once by the
release that introduced arms. A user who is elsewhere in a later release has changed arms in the middle of a rollout."""

RAMP = (500, 2_500, 5_000)
BANDIT = (Arm(V1, 6_000), Arm(V2, 3_000), Arm(V3, 1_000))


def route(weight_bp: int, salt: str = "salt", canary: ModelVersion = V2) -> Route:
    return Route(epoch=1, stable=V1, canary=canary, weight_bp=weight_bp, salt=salt)


def variant(user: str, to: Route) -> Variant:
    return assigned(user, to).variant


@dataclass(frozen=True)
class Known:
    salt: str
    user: str
    bucket: int
    variants: list[str]
    arm: str


def golden() -> list[Known]:
    return [Known(*row) for row in json.loads(GOLDEN.read_text())]


def recomputed(salt: str, user: str) -> Known:
    variants = [str(variant(user, route(weight, salt))) for weight in RAMP]
    return Known(salt, user, bucket(salt, user), variants, arm_of(user, salt, BANDIT).version)


def test_every_user_of_the_golden_file_is_where_they_were() -> None:
    known = golden()
    assert len(known) >= 600
    assert len({each.salt for each in known}) >= 3
    assert [recomputed(each.salt, each.user) for each in known] == known


PROGRAM = """
import json, sys
from dataclasses import astuple
sys.path.insert(0, {directory!r})
from test_assignment import golden, recomputed
print(json.dumps([astuple(recomputed(each.salt, each.user)) for each in golden()]))
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_another_process_puts_them_there_too(seed: str) -> None:
    program = PROGRAM.format(directory=str(Path(__file__).parent))
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [Known(*row) for row in json.loads(done.stdout)] == golden()


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


@given(st.text(max_size=20), st.text(max_size=20))
def test_nobody_leaves_the_canary_on_its_way(user: str, salt: str) -> None:
    on_canary = [variant(user, route(weight, salt)) is Variant.CANARY for weight in RAMP]
    assert on_canary == sorted(on_canary)


@given(st.text(max_size=20))
def test_nobody_is_on_the_canary_at_weight_zero_and_everybody_at_full_weight(user: str) -> None:
    assert assigned(user, route(0)) == Assignment(V1, Variant.STABLE, 1.0)
    assert assigned(user, route(FULL_WEIGHT_BP)) == Assignment(V2, Variant.CANARY, 1.0)


@given(st.text(max_size=20))
def test_without_a_canary_everybody_is_on_stable(user: str) -> None:
    assert assigned(user, Route(epoch=1, stable=V1, weight_bp=5_000)) == Assignment(V1, Variant.STABLE, 1.0)


@given(st.text(max_size=20))
def test_a_shadow_is_shown_to_nobody(user: str) -> None:
    shadow = Route(epoch=1, stable=V1, canary=V2, salt="s", rollout_id=1, stage=0, shadow=True)
    assert assigned(user, shadow) == Assignment(V1, Variant.STABLE, 1.0)
    assert not splits_users(shadow)


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


def test_the_champion_against_itself_has_both_variants() -> None:
    found = {assigned(f"user-{n}", route(5_000, canary=V1)) for n in range(100)}
    assert found == {Assignment(V1, Variant.STABLE, 0.5), Assignment(V1, Variant.CANARY, 0.5)}


@given(st.text(max_size=20), st.integers(1, FULL_WEIGHT_BP - 1))
def test_the_propensity_is_the_share_of_the_arm(user: str, weight_bp: int) -> None:
    shares = {Variant.CANARY: weight_bp / FULL_WEIGHT_BP, Variant.STABLE: 1 - weight_bp / FULL_WEIGHT_BP}
    found = assigned(user, route(weight_bp))
    assert found.propensity == pytest.approx(shares[found.variant], abs=1e-12)


def bandit(*weights: int, salt: str = "salt") -> Route:
    arms = tuple(Arm(ModelVersion(f"v{n}"), weight) for n, weight in enumerate(weights, 1))
    return Route(epoch=1, stable=V1, salt=salt, rollout_id=1, stage=0, arms=arms)


def test_a_bandit_s_arms_have_users_by_their_weights() -> None:
    users, shares = 30_000, (0.6, 0.25, 0.1, 0.05)
    for salt in ("a", "b", "c"):
        to = bandit(6_000, 2_500, 1_000, 500, salt=salt)
        found = Counter(assigned(f"user-{n}", to).version for n in range(users))
        expected = {f"v{n}": share * users for n, share in enumerate(shares, 1)}
        statistic = sum((found[ModelVersion(v)] - many) ** 2 / many for v, many in expected.items())
        assert statistic < chi2.ppf(1 - 1e-6, len(shares) - 1)


def test_of_a_bandit_the_champion_is_stable_and_the_others_are_arms() -> None:
    found = {assigned(f"user-{n}", bandit(6_000, 3_000, 1_000)) for n in range(300)}
    assert found == {
        Assignment(V1, Variant.STABLE, 0.6),
        Assignment(V2, Variant.ARM, 0.3),
        Assignment(V3, Variant.ARM, 0.1),
    }


@given(st.text(max_size=20), st.permutations(BANDIT))
def test_the_order_of_a_bandit_s_arms_moves_nobody(user: str, arms: list[Arm]) -> None:
    assert arm_of(user, "salt", tuple(arms)) == arm_of(user, "salt", BANDIT)


@given(st.text(max_size=20), st.lists(st.integers(1, 9_000), min_size=3, max_size=3), st.integers(0, 9_000))
def test_a_user_moves_only_to_an_arm_that_gained_weight(user: str, weights: list[int], gain: int) -> None:
    before = assigned(user, bandit(*weights)).version
    after = assigned(user, bandit(weights[0] + gain, *weights[1:])).version
    assert after in (before, V1)


def test_a_change_of_weights_moves_no_more_users_than_it_must() -> None:
    users = 20_000
    before, after = bandit(5_000, 3_000, 2_000), bandit(6_000, 2_500, 1_500)
    moved = sum(assigned(f"u{n}", before).version != assigned(f"u{n}", after).version for n in range(users))
    low, high = binom.interval(1 - 1e-6, users, 0.1)  # half the sum of the changes: 10 % must move
    assert low <= moved <= high


@given(st.text(max_size=20))
def test_an_arm_without_weight_has_nobody(user: str) -> None:
    assert assigned(user, bandit(0, 10_000)).version == V2
