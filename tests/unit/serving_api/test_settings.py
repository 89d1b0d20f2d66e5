"""Settings that contradict themselves are refused."""

import pytest
from pydantic import ValidationError

from serving_api.app import plan_of
from serving_api.settings import ServingSettings


def test_the_default_stages_end_below_a_holdback() -> None:
    assert [stage.weight_bp for stage in plan_of(ServingSettings())] == [500, 2_500, 5_000, 7_500, 9_800]


@pytest.mark.parametrize("percents", [(), (0, 50), (50, 5), (5, 5), (5, 101)])
def test_stages_rise_within_their_range(percents: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="stage_percents"):
        ServingSettings(stage_percents=percents)


def test_the_default_count_is_not_above_the_maximum() -> None:
    with pytest.raises(ValidationError, match="default_k"):
        ServingSettings(default_k=11, max_k=10)
