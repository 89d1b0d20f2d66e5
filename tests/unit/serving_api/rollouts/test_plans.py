"""The plan of a rollout by what it is for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Kind, Plan, Policy, Stage
from serving_api.rollouts.plans import MOST_ARMS, MOST_STAGES, bandit_plan, equal_arms, plan_for

SHADOW = Stage(0, shadow=True, min_users=9_999)
RAMP = Plan((SHADOW, Stage(500, min_users=50), Stage(9_800, min_users=70, min_seconds=900.0)), Policy(margin=0.2))


@pytest.mark.parametrize("kind", [Kind.CANARY, Kind.AA])
def test_a_canary_and_an_aa_go_through_the_settings_stages(kind: Kind) -> None:
    assert plan_for(kind, RAMP) == RAMP


@pytest.mark.parametrize("kind", [Kind.AB, Kind.BANDIT])
def test_an_experiment_has_one_stage_as_demanding_as_the_most_demanding(kind: Kind) -> None:
    plan = plan_for(kind, RAMP)
    (stage,) = plan.stages
    assert (stage.weight_bp, stage.shadow, stage.margin) == (5_000, False, None)
    assert (stage.min_users, stage.min_seconds) == (70, 900.0)
    assert plan.policy == RAMP.policy


def test_stages_of_the_operator_take_the_place_of_the_settings() -> None:
    own = (SHADOW, Stage(1_000), Stage(9_000))
    assert plan_for(Kind.CANARY, RAMP, own) == Plan(own, RAMP.policy)
    assert plan_for(Kind.AB, RAMP, [Stage(2_000)]).stages == (Stage(2_000),)


@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        (Kind.CANARY, []),
        (Kind.CANARY, [SHADOW]),
        (Kind.CANARY, [Stage(500), SHADOW]),
        (Kind.CANARY, [Stage(500), Stage(500)]),
        (Kind.CANARY, [Stage(500), Stage(400)]),
        (Kind.CANARY, [Stage(0)]),
        (Kind.CANARY, [Stage(500), Stage(FULL_WEIGHT_BP)]),
        (Kind.CANARY, [Stage(weight) for weight in range(1, MOST_STAGES + 2)]),
        (Kind.AA, [Stage(500), Stage(400)]),
        (Kind.AB, [Stage(500), Stage(5_000)]),
        (Kind.AB, [SHADOW]),
        (Kind.BANDIT, [Stage(500), Stage(5_000)]),
    ],
)
def test_stages_that_are_no_way_up_are_refused(kind: Kind, stages: list[Stage]) -> None:
    with pytest.raises(ValueError, match="stages: expected"):
        plan_for(kind, RAMP, stages)


@given(st.integers(2, MOST_ARMS))
def test_equal_arms_add_up_and_differ_by_one_basis_point_at_most(count: int) -> None:
    versions = [ModelVersion(f"v{number}") for number in range(count)]
    arms = equal_arms(versions)
    weights = [arm.weight_bp for arm in arms]
    assert [arm.version for arm in arms] == versions
    assert sum(weights) == FULL_WEIGHT_BP
    assert max(weights) - min(weights) <= 1
    (stage,) = bandit_plan(plan_for(Kind.BANDIT, RAMP), arms).stages
    assert stage.weight_bp == sum(weights[1:])
