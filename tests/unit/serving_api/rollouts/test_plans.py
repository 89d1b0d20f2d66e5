"""The plan of a rollout by what it is for."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, MOST_STAGES, Kind, Plan, Policy, Stage
from serving_api.analysis.verdicts import Inconclusive, verdict
from serving_api.rollouts.plans import MOST_ARMS, bandit_plan, equal_arms, plan_for
from serving_api.rollouts.ramp import Pace, ramp
from tests.tallies import stage_of

SHADOW = Stage(0, shadow=True, min_users=9_999)
RAMP = Plan(
    (SHADOW, Stage(500, min_users=50, margin=0.2), Stage(9_800, min_users=70, min_seconds=900.0, margin=0.2)),
    Policy(margin=0.2),
)


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
    own = (SHADOW, Stage(1_000, margin=0.1), Stage(9_000, margin=0.1))
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


@pytest.mark.parametrize("kind", [Kind.CANARY, Kind.AA])
def test_a_stage_without_a_margin_gets_the_ramp_s_and_a_shadow_needs_none(kind: Kind) -> None:
    """The stages that the command line's help gives as an example."""
    plan = plan_for(kind, RAMP, [SHADOW, Stage(500), Stage(5_000)])
    assert [stage.margin for stage in plan.stages] == [None, 0.4, 0.2]


@pytest.mark.parametrize("kind", [Kind.CANARY, Kind.AA])
def test_after_the_whole_proof_a_last_stage_needs_none_and_may_have_one(kind: Kind) -> None:
    own = [Stage(5_000), Stage(7_500), Stage(9_800)]
    assert [stage.margin for stage in plan_for(kind, RAMP, own).stages] == [pytest.approx(0.2 / 0.75), 0.2, None]
    assert plan_for(kind, RAMP, [*own[:2], Stage(9_800, margin=0.3)]).stages[-1].margin == 0.3
    with pytest.raises(ValueError, match=r"margin: expected at most 0\.2 at a weight of 7500"):
        plan_for(kind, RAMP, [Stage(5_000), Stage(7_500, margin=0.201), Stage(9_800)])


def test_a_last_stage_that_asks_for_the_whole_proof_lets_those_before_it_ask_for_their_share() -> None:
    own = [Stage(5_000), Stage(7_500), Stage(9_800, margin=0.2)]
    asked = [0.2 / 0.75, 0.2 / 0.98, 0.2]
    assert [stage.margin for stage in plan_for(Kind.CANARY, RAMP, own).stages] == pytest.approx(asked)


@given(
    st.lists(st.integers(1, FULL_WEIGHT_BP - 1), min_size=1, max_size=6, unique=True),
    st.lists(st.none() | st.floats(0.01, 0.9), min_size=6, max_size=6),
)
def test_whatever_margins_are_named_no_more_than_the_whole_is_risked(
    weights: list[int], named: list[float | None]
) -> None:
    own = [Stage(weight, margin=margin) for weight, margin in zip(sorted(weights), named, strict=False)]
    try:
        stages = plan_for(Kind.CANARY, RAMP, own).stages
    except ValueError:
        return
    excluded = 1.0
    for stage, weight in zip(stages, [*(stage.weight_bp for stage in stages[1:]), FULL_WEIGHT_BP], strict=True):
        excluded = min(excluded, stage.margin or excluded)
        assert excluded * weight / FULL_WEIGHT_BP <= 0.2 * (1 + 1e-9)
    assert excluded <= 0.2
    assert all(margin in (None, stage.margin) for stage, margin in zip(stages, named, strict=False))


def test_an_own_margin_may_be_narrower_than_the_ramp_s_and_no_wider() -> None:
    own = [Stage(500, margin=0.01), Stage(5_000, margin=0.2)]
    assert plan_for(Kind.CANARY, RAMP, own).stages == tuple(own)
    for stages in ([Stage(500, margin=0.41), Stage(5_000)], [Stage(500), Stage(5_000, margin=0.21)]):
        with pytest.raises(ValueError, match=r"margin: expected at most 0\.[24] at a weight of"):
            plan_for(Kind.CANARY, RAMP, stages)


@pytest.mark.parametrize(("canary", "stable"), [(0, 20), (100, 0)])
def test_a_stage_of_a_canary_waits_for_somebody_in_both_arms(canary: int, stable: int) -> None:
    for weight_bp in (0, 500):
        stage = Stage(weight_bp, shadow=not weight_bp, min_users=canary, min_stable_users=stable)
        with pytest.raises(ValueError, match="min_users, min_stable_users: expected 1 at least"):
            plan_for(Kind.CANARY, RAMP, [stage, Stage(5_000)])


@given(st.lists(st.integers(1, FULL_WEIGHT_BP - 1), min_size=1, max_size=MOST_STAGES, unique=True))
def test_stages_of_no_margin_are_those_of_the_ramp(weights: list[int]) -> None:
    pace = Pace(0, 100, 20, 60.0, 86_400.0, 60.0)
    theirs = ramp([weight / 100 for weight in sorted(weights)], 0, 0.2, pace)
    ours = plan_for(Kind.CANARY, RAMP, [Stage(each.weight_bp) for each in theirs]).stages
    assert [stage.margin for stage in ours] == [stage.margin for stage in theirs]


def test_no_stages_of_an_operator_promote_a_canary_of_few_users_without_a_hit() -> None:
    weights = [(500, 5_000), (5_000, 9_800)]
    plans = [
        plan_for(Kind.CANARY, RAMP, [Stage(low), Stage(high, min_users=1, min_stable_users=1)]) for low, high in weights
    ]
    for plan, users in product(plans, (1, 100)):
        beside = [users * (FULL_WEIGHT_BP - stage.weight_bp) // stage.weight_bp for stage in plan.stages]
        seen = [stage_of(plan.stages[n].weight_bp, (users, 0), (beside[n], 0), n) for n in range(len(plan.stages))]
        for stage in plan.stages[: 1 + (plan.stages[-1].margin is not None)]:
            assert isinstance(verdict(seen[: plan.stages.index(stage) + 1], plan), Inconclusive)


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


def test_shadows_one_after_the_other_need_no_margin() -> None:
    plan = plan_for(Kind.CANARY, RAMP, [SHADOW, SHADOW, Stage(500)])
    assert [stage.margin for stage in plan.stages] == [None, None, 0.2]
