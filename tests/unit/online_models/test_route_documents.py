"""Route documents of other releases: older ones are read, and older readers read ours."""

import msgspec

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import Arm, Route

V1, V2 = ModelVersion("v1"), ModelVersion("v2")

BEFORE_ARMS = (
    b'{"epoch":42,"stable":"v1","canary":"v2","weight_bp":2500,"salt":"rollout-7","rollout_id":7,"stage":1}',
    b'{"epoch":3,"stable":"v1","canary":null,"weight_bp":0,"salt":"","rollout_id":null,"stage":-1}',
)
"""As they were written before there were shadows and arms."""


class RouteBeforeArms(msgspec.Struct, frozen=True):
    """The document as those releases read it."""

    epoch: int
    stable: ModelVersion
    canary: ModelVersion | None = None
    weight_bp: int = 0
    salt: str = ""
    rollout_id: int | None = None
    stage: int = -1


def test_a_document_of_an_older_release_is_read() -> None:
    found = [msgspec.json.decode(raw, type=Route) for raw in BEFORE_ARMS]
    assert found == [Route(42, V1, V2, 2_500, "rollout-7", 7, 1), Route(3, V1)]


def test_a_reader_of_an_older_release_reads_what_it_knows() -> None:
    arms = (Arm(V1, 6_000), Arm(V2, 4_000))
    ours = msgspec.json.encode(Route(42, V1, V2, 0, "s", 7, 1, shadow=True, arms=arms, slow_ms=100.0))
    assert msgspec.json.decode(ours, type=Route).arms == arms
    assert msgspec.json.decode(ours, type=RouteBeforeArms) == RouteBeforeArms(42, V1, V2, 0, "s", 7, 1)
