"""Guardrails: too many bad answers are found, clean canaries and unlucky splits are left alone."""

import numpy as np
import pytest

from online_models.contracts.rollouts import Policy, Served, StageCounts
from serving_api.analysis.guardrails import NAMES, State, effective_items, guardrails, log_too_many
from serving_api.analysis.verdicts import StageTally
from tests.tallies import arm, served, stage_of, tally

POLICY = Policy()


def with_served(canary: Served, stable: Served, weight_bp: int = 500) -> StageTally:
    return stage_of(weight_bp, (0, 0), (0, 0), answers=(canary, stable))


def states(*tallies: StageTally) -> dict[str, State]:
    return {each.name: each.state for each in guardrails(tallies, POLICY)}


@pytest.mark.parametrize("name", NAMES)
def test_each_guardrail_fails_by_its_own_count_of_first_requests(name: str) -> None:
    bad = served(requests=300, users=200, **{f"user_{name}": 60})
    found = states(with_served(bad, served(requests=4_000, users=3_800, **{f"user_{name}": 38})))
    assert found.pop(name) is State.FAILED
    assert all(state is not State.FAILED for state in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_one_heavy_user_s_bad_requests_are_no_evidence(name: str) -> None:
    heavy = served(requests=3_000, users=200, **{name: 2_900, f"user_{name}": 1})
    assert states(with_served(heavy, Served(requests=4_000, users=3_800)))[name] is State.CLEAN


def test_no_answers_of_either_arm_are_no_data() -> None:
    some = Served(requests=100, users=100)
    assert set(states(with_served(Served(), some)).values()) == {State.NO_DATA}
    assert set(states(with_served(some, Served())).values()) == {State.NO_DATA}
    found = states(with_served(some, some))
    assert {found[name] for name in NAMES} == {State.CLEAN}


def test_below_the_floor_nothing_fails_however_much_more_than_stable_s() -> None:
    rare = Served(requests=10_000, users=10_000, user_errors=30)
    assert states(with_served(rare, Served(requests=190_000, users=190_000)))["errors"] is State.CLEAN
    often = Served(requests=10_000, users=10_000, user_errors=300)
    assert states(with_served(often, Served(requests=190_000, users=190_000)))["errors"] is State.FAILED


def test_a_split_gone_wrong_makes_no_clean_canary_look_bad() -> None:
    """Twice the users that the weight promises, and so twice the errors."""
    canary, stable = (Served(requests=n, users=n, user_errors=n // 20) for n in (20_000, 180_000))
    assert states(with_served(canary, stable))["errors"] is State.CLEAN


def test_evidence_adds_up_over_stages() -> None:
    canary, stable = Served(requests=40, users=40, user_empty=6), Served(requests=760, users=760, user_empty=38)
    one = with_served(canary, stable)
    logs = [
        next(each for each in guardrails([one] * n, POLICY) if each.name == "empty").log_e or 0.0 for n in (1, 2, 6)
    ]
    assert logs == sorted(logs)
    assert logs[0] < logs[2]


def test_false_alarms_of_equal_arms_are_rare_though_looked_at_all_the_time() -> None:
    rng = np.random.default_rng(1)
    runs, looks = 400, 40
    of = rng.multinomial(200, [0.05, 0.95], (runs, looks)).cumsum(axis=1)
    bad = rng.binomial(np.diff(of, axis=1, prepend=0), 0.03 * np.array([1.5, 1.0])).cumsum(axis=1)
    log_e = log_too_many(bad[:, :, None, :], of[:, :, None, :], np.array([0.05]), POLICY)
    alarmed = (log_e >= np.log(1 / 0.05)).any(axis=1)
    assert alarmed.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_a_shadow_is_judged_by_its_requests_and_has_no_fallbacks_and_no_latency_to_compare() -> None:
    stable = Served(requests=1_000, errors=2, empty=10, slow=5)
    found = states(stage_of(0, (0, 0), (1_000, 0), answers=(Served(requests=300, errors=150, slow=300), stable)))
    assert found == {"errors": State.FAILED, "empty": State.CLEAN}


def test_a_shadow_stage_says_nothing_of_the_stages_after_it() -> None:
    shadow = stage_of(0, (0, 0), (0, 0), answers=(Served(requests=300, errors=150), Served(requests=1_000)))
    now = with_served(Served(requests=100, users=100), Served(requests=1_900, users=1_900))
    assert states(shadow, now)["errors"] is State.CLEAN


def covering(users: int, items: float) -> tuple[int, int]:
    """first_items and repeats of users with ten items each of so many effective ones."""
    shown = 10 * users
    return shown, round(shown * (shown - 1) / items)


def covered(canary: tuple[int, float], stable: tuple[int, float]) -> State:
    arms = []
    for variant, (users, items) in (("canary", canary), ("stable", stable)):
        shown, repeats = covering(users, items)
        arms.append(arm(variant, users, 0, first_items=shown, repeats=repeats))
    return states(tally(500, arms[0], arms[1]))["coverage"]


def test_a_canary_that_shows_everybody_the_same_few_items_fails() -> None:
    assert covered((400, 15.0), (4_000, 900.0)) is State.FAILED
    assert covered((400, 700.0), (4_000, 900.0)) is State.CLEAN
    assert covered((400, 9_000.0), (4_000, 900.0)) is State.CLEAN


def test_coverage_waits_for_users_of_both_arms_and_has_room_for_noise() -> None:
    assert covered((199, 15.0), (4_000, 900.0)) is State.NO_DATA
    assert covered((4_000, 15.0), (199, 900.0)) is State.NO_DATA
    assert covered((200, 440.0), (4_000, 900.0)) is State.CLEAN
    assert covered((20_000, 350.0), (20_000, 900.0)) is State.FAILED


def test_without_a_repeat_the_canary_is_as_diverse_as_can_be_told() -> None:
    canary, stable = (arm(name, 300, 0, first_items=3_000, repeats=n) for name, n in (("canary", 0), ("stable", 500)))
    assert states(tally(500, canary, stable))["coverage"] is State.CLEAN
    assert states(tally(500, stable, canary))["coverage"] is State.NO_DATA


def test_the_effective_number_of_items_is_that_of_equally_popular_ones() -> None:
    rng = np.random.default_rng(2)
    counts = np.bincount(rng.integers(0, 50, 40_000), minlength=50)
    repeats = int((counts * (counts - 1)).sum())
    assert effective_items(StageCounts(first_items=40_000, repeats=repeats)) == pytest.approx(50, rel=0.01)
    assert effective_items(StageCounts()) is None
