"""What a controller does next: a recommender before an adapter, neither twice, and nothing against an operator."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import Kind, Phase, Plan, Rollout, Stage
from serving_api.rollouts.decisions import Action, Adopt, Create, Hold, Move, Situation, decide
from serving_api.rollouts.transitions import Ready, Waiting

MOVIES = ModelName("movies")
START = datetime(2026, 1, 1, tzinfo=UTC)
V1, V2, V3 = (ModelVersion(f"v{number}") for number in (1, 2, 3))
PLAN = Plan((Stage(500), Stage(9_800)))
OPEN = Rollout(RolloutId(1), MOVIES, V1, V2, Phase.RAMPING, 0, 500, Epoch(5), "salt", START, START, plan=PLAN)


def decided(candidates: Sequence[ModelVersion], adapters: Sequence[ModelVersion], latest: Rollout | None) -> Action:
    return decide(Situation(MOVIES, V1, None, latest, candidates, adapters, [], Waiting("not asked")), START)


def test_the_first_whole_version_is_adopted() -> None:
    nothing = Situation(MOVIES, None, None, None, [], [], [], Waiting("not asked"))
    assert isinstance(decide(nothing, START), Hold)
    assert decide(Situation(MOVIES, None, V2, None, [V3], [], [], Waiting("")), START) == Adopt(V2)


@pytest.mark.parametrize("latest", [None, replace(OPEN, phase=Phase.ROLLED_BACK), replace(OPEN, phase=Phase.ABORTED)])
def test_the_youngest_recommender_is_tried_and_an_adapter_where_there_is_none(latest: Rollout | None) -> None:
    assert decided([V2, V3], [ModelVersion("v9")], latest) == Create(V1, V3)
    assert decided([], [V2, V3], latest) == Create(V1, V3)
    assert isinstance(decided([], [], latest), Hold)


def test_a_recommender_takes_the_place_of_an_open_canary_and_an_adapter_waits_for_its_end() -> None:
    superseding = decided([V3], [], OPEN)
    assert isinstance(superseding, Move)
    assert (superseding.new.phase, superseding.new.stable) == (Phase.SUPERSEDED, V1)
    assert decided([], [V3], OPEN) == decided([], [], OPEN)


@pytest.mark.parametrize(
    "latest",
    [replace(OPEN, phase=Phase.PAUSED), *(replace(OPEN, kind=kind) for kind in (Kind.AB, Kind.AA, Kind.BANDIT))],
)
def test_candidates_wait_while_an_operator_has_paused_and_while_an_experiment_is_open(latest: Rollout) -> None:
    waiting = decided([V3], [], latest)
    assert isinstance(waiting, Hold)
    assert waiting == decided([], [], latest)


def test_a_move_carries_the_verdict_that_it_follows() -> None:
    preparing = replace(OPEN, phase=Phase.PREPARING, stage=-1, weight_bp=0)
    move = decide(Situation(MOVIES, V1, None, preparing, [], [], [], Ready()), START)
    assert isinstance(move, Move)
    assert (move.old, move.new.stage, move.new.weight_bp) == (preparing, 0, 500)
    assert move.evidence["verdict"] == "Inconclusive"
