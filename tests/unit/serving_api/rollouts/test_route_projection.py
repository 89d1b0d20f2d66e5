"""The route document that a model's rows stand for."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import OPEN_PHASES, Arm, Kind, Phase, Plan, Policy, Rollout, Route, Stage
from serving_api.rollouts.route_projection import route_of

START = datetime(2026, 1, 1, tzinfo=UTC)
V1, V2, V3 = (ModelVersion(f"v{number}") for number in (1, 2, 3))
PLAN = Plan((Stage(0, shadow=True), Stage(500), Stage(9_800)), Policy(slow_ms=40.0))
ROLLOUT = Rollout(
    RolloutId(7), ModelName("movies"), V1, V2, Phase.RAMPING, 1, 500, Epoch(9), "salt", START, START, plan=PLAN
)
ARMS = (Arm(V1, 2_000), Arm(V2, 5_000), Arm(V3, 3_000))


@pytest.mark.parametrize("phase", [Phase.RAMPING, Phase.PAUSED])
def test_an_open_rollout_is_routed_by_its_weight_paused_or_not(phase: Phase) -> None:
    route = route_of(V1, Epoch(3), replace(ROLLOUT, phase=phase))
    assert route == Route(9, V1, V2, 500, "salt", 7, 1, slow_ms=40.0)


def test_a_shadow_is_said_so_only_in_its_stage() -> None:
    assert route_of(V1, Epoch(3), replace(ROLLOUT, stage=0, weight_bp=0)).shadow
    assert not route_of(V1, Epoch(3), replace(ROLLOUT, phase=Phase.PREPARING, stage=-1, weight_bp=0)).shadow
    assert not route_of(V1, Epoch(3), ROLLOUT).shadow


def test_a_bandit_goes_by_its_arms_and_to_the_first_of_them_while_it_prepares() -> None:
    bandit = replace(ROLLOUT, kind=Kind.BANDIT, stage=0, arms=ARMS)
    assert route_of(V1, Epoch(3), bandit).arms == ARMS
    preparing = replace(bandit, phase=Phase.PREPARING, stage=-1, weight_bp=0)
    assert route_of(V1, Epoch(3), preparing).arms == (Arm(V1, 10_000), Arm(V2, 0), Arm(V3, 0))


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in OPEN_PHASES])
@pytest.mark.parametrize(("champion_epoch", "epoch"), [(3, 9), (12, 12)])
def test_after_a_rollout_the_champion_serves_everybody_at_the_larger_epoch(
    phase: Phase, champion_epoch: int, epoch: int
) -> None:
    assert route_of(V2, Epoch(champion_epoch), replace(ROLLOUT, phase=phase)) == Route(epoch, V2)


def test_a_champion_without_any_rollout_serves_at_its_own_epoch() -> None:
    assert route_of(V1, Epoch(3), None) == Route(3, V1)


def test_a_rollout_without_a_plan_is_routed_as_it_stands() -> None:
    assert route_of(V1, Epoch(3), replace(ROLLOUT, plan=Plan())).weight_bp == 500
