"""What is made of what people saw of a candidate that raises."""

import pytest

from benchmarks.rollback_speed import Fall, fall_of
from benchmarks.visiting import Seen
from online_models.contracts.ids import ModelVersion

V1, V2 = ModelVersion("v1"), ModelVersion("v2")
STABLE = Seen(1.0, 200, V1, "stable", items=10)


def test_a_fall_lasts_from_the_first_exposure_to_weight_zero_and_to_the_last_exposure() -> None:
    exposed = [Seen(at, 200, V1, "fallback", items=10) for at in (2.0, 2.5)]
    others = [Seen(2.2, 0), Seen(2.3, 200, V2, "canary", items=10), Seen(2.4, 200, V1, "stable", items=0)]
    assert fall_of([STABLE, *exposed, *others], V1, 3.25, shadowed=False) == Fall(2, 1, 2, 1.25, 0.5)


def test_without_an_exposure_there_is_no_time_but_after_a_shadow() -> None:
    with pytest.raises(RuntimeError, match="nobody of 1 was exposed"):
        fall_of([STABLE], V1, 3.25, shadowed=False)
    assert fall_of([STABLE], V1, 3.25, shadowed=True) == Fall(0, 0, 0, 0.0, 0.0)
