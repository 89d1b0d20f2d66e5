"""What a controller does next: a recommender before an adapter, and neither twice."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import Phase, Rollout
from serving_api.analysis import GateConfig, Required
from serving_api.controller import Action, Create, Hold, Move, Situation, decide
from serving_api.rollout import Waiting, ramp

MOVIES = ModelName("movies")
START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PLAN = ramp((5, 100), 200, Required(100, 20), MINUTE, 10 * MINUTE)
V1, V2, V3 = (ModelVersion(f"v{number}") for number in (1, 2, 3))
OPEN = Rollout(RolloutId(1), MOVIES, V1, V2, Phase.RAMPING, 0, 500, Epoch(5), "salt", START, START)


def decided(candidates: Sequence[ModelVersion], adapters: Sequence[ModelVersion], latest: Rollout | None) -> Action:
    situation = Situation(MOVIES, V1, None, latest, candidates, adapters, [], Waiting("not asked"))
    return decide(situation, PLAN, GateConfig(), START)


@pytest.mark.parametrize("latest", [None, replace(OPEN, phase=Phase.ROLLED_BACK)])
def test_the_youngest_recommender_is_tried_and_an_adapter_where_there_is_none(latest: Rollout | None) -> None:
    assert decided([V2, V3], [ModelVersion("v9")], latest) == Create(V1, V3)
    assert decided([], [V2, V3], latest) == Create(V1, V3)
    assert isinstance(decided([], [], latest), Hold)


def test_a_recommender_takes_the_place_of_an_open_rollout_and_an_adapter_waits_for_its_end() -> None:
    superseding = decided([V3], [], OPEN)
    assert isinstance(superseding, Move)
    assert superseding.new.phase is Phase.SUPERSEDED
    waiting = decided([], [V3], OPEN)
    assert not (isinstance(waiting, Move) and waiting.new.phase is Phase.SUPERSEDED)
