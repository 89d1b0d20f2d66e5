"""The stages that nobody asked for: a shadow first, weights that rise, and a loss that no stage lets too many users meet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.rollouts import FULL_WEIGHT_BP, WhenOverdue
from serving_api.rollouts.ramp import Pace, ramp

PACE = Pace(200, 500, 100, 600.0, 86_400.0, 3_600.0)
PERCENTS = st.lists(st.integers(1, 100), min_size=1, max_size=8, unique=True).map(lambda some: tuple(sorted(some)))


@given(PERCENTS, st.integers(1, 4_999), st.floats(0.001, 0.999))
def test_what_might_be_lost_times_who_would_meet_it_is_at_most_the_margin(
    percents: tuple[float, ...], holdback_bp: int, margin: float
) -> None:
    stages = ramp(percents, holdback_bp, margin, PACE)[1:]
    following = [stage.weight_bp for stage in stages[1:]] + [FULL_WEIGHT_BP]
    excluded = 1.0
    for stage, weight_bp in zip(stages, following, strict=True):
        excluded = stage.margin or excluded
        assert excluded * weight_bp / FULL_WEIGHT_BP <= margin * (1 + 1e-9)
    assert excluded == pytest.approx(margin)


@pytest.mark.parametrize(
    ("percents", "asked"),
    [
        ((5,), [0.1]),
        ((5, 50), [0.2, 0.1]),
        ((5, 25, 50, 75, 100), [0.4, 0.2, 0.1 / 0.75, 0.1, None]),
        ((5, 50, 80), [0.2, 0.125, 0.1]),
        ((5, 50, 97, 100), [0.2, 0.1, None, None]),
        ((50, 100), [0.1, None]),
        ((3, 97), [0.1 / 0.97, 0.1]),
        ((5, 100), [0.1, None]),
    ],
)
def test_the_whole_margin_is_proven_by_the_last_stage_that_tells_much(
    percents: tuple[float, ...], asked: list[float | None]
) -> None:
    found = [stage.margin for stage in ramp(percents, 200, 0.1, PACE)[1:]]
    assert found == [each if each is None else pytest.approx(each) for each in asked]


@given(PERCENTS, st.integers(1, 4_999))
def test_weights_rise_and_leave_the_holdback(percents: tuple[float, ...], holdback_bp: int) -> None:
    weights = [stage.weight_bp for stage in ramp(percents, holdback_bp, 0.1, PACE)]
    assert weights == sorted(set(weights))
    assert weights[-1] <= FULL_WEIGHT_BP - holdback_bp


def test_the_shadow_asks_for_scored_requests_and_no_proof() -> None:
    shadow, *shown = ramp((5, 100), 200, 0.1, PACE)
    assert (shadow.shadow, shadow.weight_bp, shadow.min_users, shadow.margin) == (True, 0, 200, None)
    assert not any(stage.shadow for stage in shown)
    assert not ramp((5, 100), 200, 0.1, Pace(0, 500, 100, 600.0, 86_400.0, 3_600.0))[0].shadow


def test_the_last_stage_bakes_for_longer_and_may() -> None:
    *_, before, last = ramp((5, 100), 200, 0.1, PACE)
    assert (before.min_seconds, last.min_seconds) == (600.0, 3_600.0)
    assert last.max_seconds == before.max_seconds + 3_600.0
    assert last.min_users == before.min_users


def test_every_stage_is_overdue_in_the_way_that_is_asked_for() -> None:
    pace = Pace(200, 500, 100, 600.0, 86_400.0, 3_600.0, WhenOverdue.ROLL_BACK)
    assert {stage.when_overdue for stage in ramp((5, 25, 100), 200, 0.1, pace)} == {WhenOverdue.ROLL_BACK}
