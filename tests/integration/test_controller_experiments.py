"""Experiments under the rollout controller: a shadow, A/B, A/A and bandits, what each waits for, tells and ends with."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    Arm,
    Kind,
    Phase,
    Plan,
    Policy,
    ShadowCounts,
    Stage,
    served_arm,
)
from online_models.ports import Act, NewRollout
from online_models.stores.embedded import Endpoints
from serving_api.rollouts.decisions import Action, Hold, Move
from serving_api.rollouts.shadow_estimates import offline
from tests.rollout_desk import MINUTE, MOVIES, PLAN, Desk, controller_desk

HALF = Stage(5_000, min_users=100, min_stable_users=100, min_seconds=60.0, max_seconds=7_200.0)
A_DAY = (replace(HALF, max_seconds=86_400.0),)


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    with controller_desk(fresh_stores, tmp_path) as desk:
        yield desk


def test_leaving_the_shadow_tells_of_agreement_and_latency(desk: Desk) -> None:
    desk.ramping()
    left = next(event for event in desk.rollouts.events(desk.latest()) if event.to_stage == 1)
    assert left.evidence["verdict"] == "Successful"
    assert (left.evidence["ranking_cpu_p99_ms"], left.evidence["latency_p99_ms"]) == ({"canary": 1.0}, {"stable": 1.0})
    agreement = left.evidence["agreement"]
    assert isinstance(agreement, dict)
    assert agreement["compared"] == 40_000
    assert left.evidence["offline"] is None


def test_leaving_the_shadow_tells_what_its_lists_would_have_earned(desk: Desk) -> None:
    _, canary = desk.preparing()
    desk.say(canary)
    desk.tick()
    counts = np.zeros((2, 20, 61), "<u4")
    counts[0, np.arange(10), np.arange(10)[::-1]] = 1_000
    counts[1, :10] = counts[0, :10] // 10
    desk.windows.put_shadow_counts([ShadowCounts(MOVIES, canary, 0, counts.tobytes())])
    desk.pass_stage(canary)
    left = desk.last_event()
    assert (left.from_stage, left.to_stage) == (0, 1)
    told = left.evidence["offline"]
    assert isinstance(told, dict)
    assert told == offline(counts.astype(np.int64))
    assert (told["looks"], told["lists"], told["clicks_per_list"], told["kept"]) == ("assumed", 1_000, 1.0, 1.0)
    desk.pass_stage(canary)
    assert "offline" not in desk.last_event().evidence


def begun(desk: Desk, kind: Kind, stages: tuple[Stage, ...], versions: int) -> tuple[Arm, ...]:
    """An operator's experiment of so many versions, of an A/A of one, whose readers have said nothing. Returns the arms."""
    made = [desk.publish(1)]
    desk.tick()
    weights = [FULL_WEIGHT_BP // versions + (n < FULL_WEIGHT_BP % versions) for n in range(versions)]
    made += [desk.publish(n + 2) for n in range(versions - 1)]
    arms = tuple(Arm(version, weight) for version, weight in zip(made, weights, strict=True))
    new = NewRollout(
        MOVIES, made[0], made[0] if kind is Kind.AA else made[1], Plan(stages, Policy()), kind,
        arms if kind is Kind.BANDIT else (), automatic=False,
    )  # fmt: skip
    desk.rollouts.create(new, Act("key:alice", "compare", {}))
    return arms


def experiment(desk: Desk, kind: Kind, stages: tuple[Stage, ...], versions: int = 2) -> tuple[Arm, ...]:
    """One in its first stage."""
    arms = begun(desk, kind, stages, versions)
    for arm in arms:
        desk.say(arm.version)
    desk.tick()
    assert desk.latest().stage == 0
    return arms


def hour(desk: Desk, arms: tuple[Arm, ...], *rates: float | None) -> Action:
    """What a tick does after an hour in which a thousand users came to each arm; a rate of None : nobody came to that one."""
    desk.window += 1
    for arm, rate in zip(arms, rates, strict=True):
        if rate is not None:
            desk.count_arm("stable" if arm is arms[0] else "arm", arm.version, 1_000, rate)
    desk.now += 61 * MINUTE
    for arm in arms[1:]:
        desk.say(arm.version)
    return desk.tick()


def test_an_ab_ends_with_its_answer_and_promotes_nobody(desk: Desk) -> None:
    stable, _ = experiment(desk, Kind.AB, (HALF,))
    desk.count(canary_rate=0.24, stable_rate=0.20)
    assert isinstance(desk.tick(MINUTE), Move)
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.CONCLUDED, 0)
    assert desk.last_event().evidence["winner"] == "canary"
    assert desk.registry.champion(MOVIES) == stable.version


def test_an_ab_without_a_difference_ends_when_its_time_is_over(desk: Desk) -> None:
    _, variant = experiment(desk, Kind.AB, (HALF,))
    desk.count(canary_rate=0.20, stable_rate=0.20)
    assert isinstance(desk.tick(MINUTE), Hold)
    desk.say(variant.version)
    assert isinstance(desk.tick(121 * MINUTE), Move)
    assert desk.latest().phase is Phase.CONCLUDED
    assert "inconclusive" in desk.reasons()[-1]


def test_an_aa_goes_through_all_stages_and_moves_no_alias(desk: Desk) -> None:
    (stable,) = experiment(desk, Kind.AA, PLAN.stages, versions=1)
    aliases = desk.registry.aliases(MOVIES)
    while desk.latest().phase is Phase.RAMPING:
        assert isinstance(desk.pass_stage(stable.version, 0.20, 0.20), Move)
    assert [stage for _, stage, _ in desk.events()] == [-1, *range(len(PLAN.stages)), len(PLAN.stages) - 1]
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.CONCLUDED, 0)
    assert desk.registry.aliases(MOVIES) == aliases


def test_a_bandit_waits_for_the_readers_of_all_its_arms(desk: Desk) -> None:
    arms = begun(desk, Kind.BANDIT, (HALF,), versions=3)
    desk.say(arms[1].version)
    assert desk.tick() == Hold("waiting for reader reader")
    assert [arm.weight_bp for arm in desk.route().arms] == [FULL_WEIGHT_BP, 0, 0]
    desk.say(arms[2].version)
    assert isinstance(desk.tick(), Move)
    assert desk.route().arms == arms
    assert [arm.weight_bp for arm in arms] == [3_334, 3_333, 3_333]


def test_a_bandit_moves_users_to_its_best_arm_now_and_then_with_a_row_each(desk: Desk) -> None:
    arms = experiment(desk, Kind.BANDIT, A_DAY, versions=3)
    assert isinstance(desk.tick(), Hold)
    assert isinstance(hour(desk, arms, 0.20, 0.30, 0.20), Move)
    assert [arm.weight_bp for arm in desk.latest().arms] == [500, 9_000, 500]
    assert (desk.latest().phase, desk.latest().stage) == (Phase.RAMPING, 0)
    route = desk.route()
    assert (route.arms, route.epoch) == (desk.latest().arms, desk.latest().epoch)
    last = desk.last_event()
    assert last.reason == "Thompson sampling"
    assert "design_effect" in last.evidence
    assert desk.look() is None
    desk.serve(served_arm(arms[2].version), 30, errors=30)
    assert isinstance(desk.look(timedelta(seconds=1)), Move)
    assert desk.latest().phase is Phase.ROLLED_BACK


def test_a_bandit_goes_on_without_an_arm_that_no_window_tells_of_and_says_so(desk: Desk) -> None:
    arms = experiment(desk, Kind.BANDIT, A_DAY, versions=3)
    assert isinstance(hour(desk, arms, 0.20, 0.30, 0.30), Move)
    silent = hour(desk, arms, 0.40, 0.01, None)
    assert isinstance(silent, Move)
    assert silent.reason == f"Thompson sampling; no window of {arms[2].version} since 1970-01-01 00:00:02 UTC"
    assert desk.latest().arms[2].weight_bp == 500
    assert desk.last_event().evidence["silent"] == [silent.reason.removeprefix("Thompson sampling; ")]


def test_one_of_many_arms_that_fails_ends_the_bandit_and_is_named(desk: Desk) -> None:
    arms = experiment(desk, Kind.BANDIT, A_DAY, versions=7)
    for arm in arms[1:]:
        desk.serve(served_arm(arm.version), 100, errors=100 if arm is arms[3] else 0)
    assert isinstance(desk.look(timedelta(seconds=1)), Move)
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.ROLLED_BACK, 0)
    last = desk.last_event()
    assert last.reason == f"breaker: errors of 100 of 100 arm {arms[3].version} requests are above 20%"
    recent = last.evidence["recent"]
    assert isinstance(recent, dict)
    assert recent["requests"] == 100
