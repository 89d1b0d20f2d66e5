"""Every state that a rollout can come to, and every edge out of it: verdicts, readers, operators, breakers, candidates and time.

The machine is pure and its time is that of the present stage, so its states are few: they are all visited.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    OPEN_PHASES,
    Arm,
    Kind,
    Phase,
    Plan,
    Rollout,
    Stage,
    WhenOverdue,
)
from serving_api.analysis.verdicts import Error, Failed, Inconclusive, Successful, Verdict
from serving_api.rollouts.transitions import (
    Command,
    Decision,
    Readiness,
    Ready,
    Refused,
    Waiting,
    command,
    may_be_superseded,
    step,
    supersede,
    trip,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VERDICTS: tuple[Verdict, ...] = (Successful("good", {}), Failed("bad", {}), Inconclusive("?", {}), Error("broken", {}))
READINESS: tuple[Readiness, ...] = (Ready(), Waiting("late"), Refused("torn"))
V1, V2 = ModelVersion("v1"), ModelVersion("v2")

SHORTEST, LONGEST = timedelta(seconds=60), timedelta(seconds=600)
AGES = (timedelta(0), SHORTEST, LONGEST + timedelta(seconds=1))
"""A stage has just begun, may end, or is overdue."""

KINDS = (Kind.CANARY, Kind.AA, Kind.AB, Kind.BANDIT)
OVERDUE = tuple(WhenOverdue)


@dataclass(frozen=True)
class Edge:
    """One thing that may happen to a rollout."""

    old: Rollout
    what: str
    verdict: Verdict | None
    readiness: Readiness | None
    new: Rollout

    @property
    def by_operator(self) -> bool:
        return self.what in tuple(Command)

    @property
    def age(self) -> timedelta:
        return NOW - self.old.stage_started_at


def begun(kind: Kind, overdue: WhenOverdue) -> Rollout:
    weights = (0, 500, 5_000, 9_800) if kind in (Kind.CANARY, Kind.AA) else (5_000,)
    stages = tuple(
        Stage(weight, shadow=not weight, min_seconds=60.0, max_seconds=600.0, when_overdue=overdue)
        for weight in weights
    )
    arms = (Arm(V1, 5_000), Arm(V2, 5_000)) if kind is Kind.BANDIT else ()
    return Rollout(
        RolloutId(1), ModelName("movies"), V1, V2, Phase.PREPARING, -1, 0, Epoch(1), "salt", NOW, NOW, kind, Plan(stages), arms
    )  # fmt: skip


def edges_of(old: Rollout) -> Iterator[Edge]:
    """All that may happen to a rollout, including what changes nothing."""
    for readiness in READINESS:
        for verdict in VERDICTS:
            yield Edge(old, "tick", verdict, readiness, step(old, verdict, readiness, NOW).rollout)
        for which in Command:
            answer = command(old, which, "reason", readiness, NOW)
            yield Edge(old, which, None, readiness, answer.rollout if isinstance(answer, Decision) else old)
    yield Edge(old, "breaker", None, None, trip(old, "errors", NOW).rollout)
    if may_be_superseded(old):
        yield Edge(old, "candidate", None, None, supersede(old, ModelVersion("v3"), NOW).rollout)
    for age in AGES:
        if age > NOW - old.stage_started_at:
            yield Edge(old, "time", None, None, replace(old, stage_started_at=NOW - age))


@cache
def explored(kind: Kind, overdue: WhenOverdue) -> tuple[frozenset[Rollout], tuple[Edge, ...]]:
    """All states that can be reached, and all edges between them."""
    waiting = [begun(kind, overdue)]
    states, edges = set(waiting), list[Edge]()
    while waiting:
        for edge in edges_of(waiting.pop()):
            edges.append(edge)
            if edge.new not in states:
                states.add(edge.new)
                waiting.append(edge.new)
    return frozenset(states), tuple(edges)


every_machine = pytest.mark.parametrize(("kind", "overdue"), [(kind, over) for kind in KINDS for over in OVERDUE])


@every_machine
def test_the_search_comes_to_every_stage_and_every_end_that_the_kind_has(kind: Kind, overdue: WhenOverdue) -> None:
    states, edges = explored(kind, overdue)
    ends = {Phase.ROLLED_BACK, Phase.ABORTED}
    ends |= {Phase.PROMOTED, Phase.SUPERSEDED} if kind is Kind.CANARY else {Phase.CONCLUDED}
    assert {state.phase for state in states} == ends | {*OPEN_PHASES}
    assert {state.stage for state in states} == set(range(-1, len(begun(kind, overdue).plan.stages)))
    assert len(edges) > 20 * len([state for state in states if state.phase in OPEN_PHASES])


@every_machine
def test_the_weight_is_the_stage_s_own_and_falls_only_to_0_at_an_end(kind: Kind, overdue: WhenOverdue) -> None:
    _, edges = explored(kind, overdue)
    for edge in edges:
        old, new = edge.old, edge.new
        if new.phase in OPEN_PHASES:
            assert new.weight_bp == (new.plan.stages[new.stage].weight_bp if new.stage >= 0 else 0)
            assert new.weight_bp >= old.weight_bp
        else:
            assert new.weight_bp == (FULL_WEIGHT_BP if new.phase is Phase.PROMOTED else 0)
        if new.weight_bp > old.weight_bp:
            assert isinstance(edge.readiness, Ready)


@every_machine
def test_stages_come_one_by_one_and_none_before_its_time(kind: Kind, overdue: WhenOverdue) -> None:
    _, edges = explored(kind, overdue)
    entered = [edge for edge in edges if edge.new.stage != edge.old.stage]
    assert entered
    for edge in entered:
        assert edge.new.stage == edge.old.stage + 1
        assert edge.new.stage_started_at == NOW
        if edge.old.stage >= 0:
            assert isinstance(edge.verdict, Successful)
            assert edge.age >= SHORTEST
            assert edge.old.phase is Phase.RAMPING


@every_machine
def test_final_states_are_final(kind: Kind, overdue: WhenOverdue) -> None:
    _, edges = explored(kind, overdue)
    out_of_final = [edge for edge in edges if edge.old.phase not in OPEN_PHASES and edge.what != "time"]
    assert out_of_final
    assert all(edge.new == edge.old for edge in out_of_final)


@every_machine
def test_every_open_state_can_be_aborted(kind: Kind, overdue: WhenOverdue) -> None:
    states, edges = explored(kind, overdue)
    aborts = [edge for edge in edges if edge.what == Command.ABORT and edge.old.phase in OPEN_PHASES]
    assert {edge.old for edge in aborts} == {state for state in states if state.phase in OPEN_PHASES}
    assert {edge.new.phase for edge in aborts} == {Phase.ABORTED}


@every_machine
def test_a_promotion_comes_after_the_last_stage_of_a_canary_or_by_an_operator(kind: Kind, overdue: WhenOverdue) -> None:
    _, edges = explored(kind, overdue)
    promotions = [edge for edge in edges if edge.new.phase is Phase.PROMOTED != edge.old.phase]
    assert bool(promotions) == (kind is Kind.CANARY)
    for edge in promotions:
        assert isinstance(edge.readiness, Ready)
        if not edge.by_operator:
            assert (edge.old.stage, edge.old.phase) == (len(edge.old.plan.stages) - 1, Phase.RAMPING)
            assert isinstance(edge.verdict, Successful)
            assert edge.age >= SHORTEST
        else:
            assert edge.what == Command.PROMOTE


@every_machine
def test_what_is_paused_moves_by_operators_and_on_harm_only(kind: Kind, overdue: WhenOverdue) -> None:
    _, edges = explored(kind, overdue)
    moved = [edge for edge in edges if edge.old.phase is Phase.PAUSED != edge.new.phase and not edge.by_operator]
    assert moved
    for edge in moved:
        assert edge.new.phase is Phase.ROLLED_BACK
        assert edge.what == "breaker" or isinstance(edge.verdict, Failed) or isinstance(edge.readiness, Refused)


@every_machine
def test_a_younger_candidate_ends_no_experiment_and_nothing_that_is_paused(kind: Kind, overdue: WhenOverdue) -> None:
    _, edges = explored(kind, overdue)
    for edge in edges:
        if edge.new.phase is Phase.SUPERSEDED != edge.old.phase:
            assert (edge.what, edge.old.kind) == ("candidate", Kind.CANARY)
            assert edge.old.phase is not Phase.PAUSED


@every_machine
def test_without_an_operator_every_running_state_can_come_to_the_good_end(kind: Kind, overdue: WhenOverdue) -> None:
    states, edges = explored(kind, overdue)
    good = Phase.PROMOTED if kind is Kind.CANARY else Phase.CONCLUDED
    reaching = _backwards(edges, lambda state: state.phase is good, lambda edge: not edge.by_operator)
    assert reaching >= {state for state in states if state.phase in (Phase.PREPARING, Phase.RAMPING)}


@every_machine
def test_whatever_is_paused_can_go_on_where_it_was(kind: Kind, overdue: WhenOverdue) -> None:
    _, edges = explored(kind, overdue)
    resumed = [edge for edge in edges if edge.what == Command.RESUME and edge.old.phase is Phase.PAUSED]
    assert resumed
    for edge in resumed:
        assert (edge.new.stage, edge.new.weight_bp) == (edge.old.stage, edge.old.weight_bp)
        assert edge.new.phase is (Phase.RAMPING if edge.old.stage >= 0 else Phase.PREPARING)


def _backwards(
    edges: tuple[Edge, ...], ends: Callable[[Rollout], bool], allowed: Callable[[Edge], bool]
) -> set[Rollout]:
    """The states from which one of the ends can be reached over allowed edges."""
    reaching = {edge.new for edge in edges if ends(edge.new)}
    size = -1
    while len(reaching) != size:
        size = len(reaching)
        reaching |= {edge.old for edge in edges if allowed(edge) and edge.new in reaching}
    return reaching
