"""Settings that contradict themselves are refused."""

import pytest
from pydantic import ValidationError

from online_models.contracts.rollouts import Metric, Policy, WhenOverdue
from serving_api.settings import ServingSettings


def test_the_default_plan_begins_in_the_shadow_and_ends_below_a_holdback() -> None:
    stages = ServingSettings().plan.stages
    assert [stage.weight_bp for stage in stages] == [0, 500, 2_500, 5_000, 7_500, 9_800]
    assert [stage.shadow for stage in stages] == [True] + [False] * 5
    assert {stage.when_overdue for stage in stages} == {WhenOverdue.HOLD}


def test_every_setting_of_the_stages_is_in_the_plan() -> None:
    settings = ServingSettings(
        shadow_requests=0,
        stage_percents=(10, 40),
        stage_min_users=7,
        stage_min_stable_users=3,
        stage_min_seconds=1,
        stage_max_seconds=9,
        stage_overdue=WhenOverdue.ROLL_BACK,
        bake_seconds=4,
        gate={"margin": 0.2},
    )
    first, last = settings.plan.stages
    assert (first.weight_bp, first.min_users, first.min_stable_users, first.min_seconds, first.max_seconds) == (
        1_000, 7, 3, 1.0, 9.0,
    )  # fmt: skip
    assert (last.weight_bp, last.min_seconds, last.max_seconds) == (4_000, 4.0, 13.0)
    assert (first.margin, last.margin) == (0.5, 0.2)
    assert first.when_overdue is WhenOverdue.ROLL_BACK


@pytest.mark.parametrize("percents", [(), (0, 50), (50, 5), (5, 5), (5, 101)])
def test_stages_rise_within_their_range(percents: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="stage_percents"):
        ServingSettings(stage_percents=percents)


def test_a_stage_cannot_be_overdue_before_it_may_end() -> None:
    with pytest.raises(ValidationError, match="stage_min_seconds 10 is above stage_max_seconds 9"):
        ServingSettings(stage_min_seconds=10, stage_max_seconds=9)


def test_the_gate_is_the_default_policy_but_for_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServingSettings().policy == Policy()
    monkeypatch.setenv(
        "PENSTOCK_SERVING_GATE", '{"margin": 0.15, "breaker_requests": 30, "metric": "ctr", "slow_ms": 5}'
    )
    wanted = Policy(margin=0.15, breaker_requests=30, metric=Metric.CTR, slow_ms=5.0)
    assert ServingSettings.load().policy == ServingSettings.load().plan.policy == wanted


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        ({"margn": 0.1}, "unknown field `margn`"),
        ({"margin": 1.5}, r"margin: expected within \(0, 1\), got 1.5"),
        ({"margin": "wide"}, "Expected `float`, got `str`"),
        ({"breaker_requests": 2.5}, "Expected `int`, got `float`"),
        ({"metric": "sales"}, "Invalid enum value 'sales'"),
    ],
)
def test_a_gate_that_is_none_is_refused_with_what_is_wrong(gate: dict[str, int | float | str], why: str) -> None:
    with pytest.raises(ValidationError, match=f"gate: .*{why}"):
        ServingSettings(gate=gate)
    with pytest.raises(ValueError, match=why):
        _ = ServingSettings().model_copy(update={"gate": gate}).plan


def test_the_default_count_is_not_above_the_maximum() -> None:
    with pytest.raises(ValidationError, match="default_k"):
        ServingSettings(default_k=11, max_k=10)
