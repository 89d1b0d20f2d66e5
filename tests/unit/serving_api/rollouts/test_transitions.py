"""The transition table: what may raise a weight, what must lower it, what an operator may ask for, and what is final."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    OPEN_PHASES,
    Arm,
    Kind,
    Phase,
    Plan,
    ReaderStatus,
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
    Refusal,
    Refused,
    Waiting,
    command,
    may_be_superseded,
    readiness,
    stage_of,
    step,
    supersede,
    trip,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
V1, V2 = ModelVersion("v1"), ModelVersion("v2")
WEIGHTS = (0, 500, 2_500, 5_000, 7_500, 9_800)
STAGES = tuple(Stage(weight, shadow=not weight, min_seconds=60.0, max_seconds=600.0) for weight in WEIGHTS)
LAST = len(STAGES) - 1

GOOD, BAD = Successful("good", {}), Failed("harm", {})
UNSURE, BROKEN = Inconclusive("unsure", {}), Error("broken", {})
VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from([GOOD, BAD, UNSURE, BROKEN])
READINESS: st.SearchStrategy[Readiness] = st.sampled_from([Ready(), Waiting("late"), Refused("torn")])
MINUTES = st.integers(0, 20).map(lambda n: n * MINUTE)
STAGED = st.sampled_from([Kind.CANARY, Kind.AA])
FINAL = [phase for phase in Phase if phase not in OPEN_PHASES]


def rollout(phase: Phase = Phase.RAMPING, stage: int = 1, kind: Kind = Kind.CANARY) -> Rollout:
    """A rollout that began its stage at START; an A/B or a bandit has one stage, of 50 %."""
    staged = kind in (Kind.CANARY, Kind.AA)
    stages = STAGES if staged else (replace(STAGES[3]),)
    return Rollout(
        id=RolloutId(1),
        model=ModelName("movies"),
        stable=V1,
        canary=V1 if kind is Kind.AA else V2,
        phase=phase,
        stage=stage if staged else min(stage, 0),
        weight_bp=stages[stage if staged else 0].weight_bp if stage >= 0 else 0,
        epoch=Epoch(5),
        salt="salt",
        created_at=START,
        stage_started_at=START,
        kind=kind,
        plan=Plan(stages),
        arms=(Arm(V1, 5_000), Arm(V2, 5_000)) if kind is Kind.BANDIT else (),
    )


def overdue_ends(old: Rollout) -> Rollout:
    """The same, to be rolled back when overdue."""
    stages = tuple(replace(stage, when_overdue=WhenOverdue.ROLL_BACK) for stage in old.plan.stages)
    return replace(old, plan=Plan(stages))


OPEN = st.one_of(
    st.builds(rollout, st.sampled_from([Phase.PREPARING, Phase.PAUSED]), st.just(-1), st.sampled_from(list(Kind))),
    st.builds(
        rollout, st.sampled_from([Phase.RAMPING, Phase.PAUSED]), st.integers(0, LAST), st.sampled_from(list(Kind))
    ),
)


@given(OPEN, VERDICTS, READINESS, MINUTES)
def test_weight_rises_only_while_ready_and_not_against_the_verdict(
    old: Rollout, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    new = step(old, verdict, readiness, START + elapsed).rollout
    if new.weight_bp > old.weight_bp:
        assert isinstance(readiness, Ready)
        assert old.phase is Phase.PREPARING or (verdict is GOOD and elapsed >= MINUTE)


@given(OPEN, VERDICTS, READINESS, MINUTES)
def test_harm_and_a_refused_artifact_end_every_open_rollout(
    old: Rollout, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    new = step(old, verdict, readiness, START + elapsed).rollout
    harmed = verdict is BAD and old.stage >= 0
    assert (new.phase is Phase.ROLLED_BACK) == (harmed or isinstance(readiness, Refused))
    if new.phase is Phase.ROLLED_BACK:
        assert new.weight_bp == 0


@given(st.sampled_from(FINAL), st.integers(-1, LAST), VERDICTS, READINESS, MINUTES)
def test_final_phases_are_absorbing(
    phase: Phase, stage: int, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    old, now = rollout(phase, stage), START + elapsed
    assert step(old, verdict, readiness, now).rollout == old
    assert trip(old, "errors", now).rollout == old
    for which in Command:
        refusal = command(old, which, "reason", readiness, now)
        assert isinstance(refusal, Refusal)
        assert phase in refusal.reason


@given(OPEN, VERDICTS, READINESS, MINUTES)
def test_a_step_never_touches_versions_salt_plan_or_epoch(
    old: Rollout, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    new = step(old, verdict, readiness, START + elapsed).rollout
    kept = ("id", "model", "stable", "canary", "epoch", "salt", "created_at", "kind", "plan", "arms")
    assert all(getattr(new, name) == getattr(old, name) for name in kept)


@given(STAGED, st.lists(st.tuples(VERDICTS, READINESS), max_size=30))
def test_a_rollout_comes_to_its_end_only_after_a_success_in_each_stage(
    kind: Kind, ticks: list[tuple[Verdict, Readiness]]
) -> None:
    current, passed = rollout(Phase.PREPARING, -1, kind), 0
    for n, (verdict, ready) in enumerate(ticks, start=1):
        new = step(current, verdict, ready, START + n * 2 * MINUTE).rollout
        passed += verdict is GOOD and current.phase is Phase.RAMPING
        current = new
    if current.phase in (Phase.PROMOTED, Phase.CONCLUDED):
        assert passed >= len(STAGES)


@pytest.mark.parametrize(
    ("kind", "end"), [(Kind.CANARY, (Phase.PROMOTED, FULL_WEIGHT_BP)), (Kind.AA, (Phase.CONCLUDED, 0))]
)
def test_a_good_canary_walks_through_every_stage_to_promotion_and_an_aa_to_its_conclusion(
    kind: Kind, end: tuple[Phase, int]
) -> None:
    current, weights = rollout(Phase.PREPARING, -1, kind), []
    for n in range(1, len(STAGES) + 1):
        current = step(current, GOOD, Ready(), START + n * MINUTE).rollout
        weights.append(current.weight_bp)
    assert weights == [*WEIGHTS]
    current = step(current, GOOD, Ready(), START + (len(STAGES) + 1) * MINUTE).rollout
    assert (current.phase, current.weight_bp) == end


def test_a_stage_sets_its_own_weight_whatever_it_was_before() -> None:
    tampered = replace(rollout(stage=1), weight_bp=9_999)
    assert step(tampered, GOOD, Ready(), START + MINUTE).rollout.weight_bp == WEIGHTS[2]


def test_after_a_time_without_a_controller_one_tick_is_one_stage() -> None:
    new = step(rollout(stage=1), GOOD, Ready(), START + timedelta(days=30)).rollout
    assert new.stage == 2
    assert step(new, GOOD, Ready(), START + timedelta(days=30)).rollout == new


def test_the_minimum_duration_is_waited_for() -> None:
    early = step(rollout(), GOOD, Ready(), START + MINUTE / 2)
    assert early.rollout == rollout()
    assert "minimum duration" in early.reason


def test_an_overdue_stage_holds_and_says_so() -> None:
    held = step(rollout(), UNSURE, Ready(), START + 11 * MINUTE)
    assert held.rollout == rollout()
    assert "overdue" in held.reason
    assert "overdue" not in step(rollout(), UNSURE, Ready(), START + 9 * MINUTE).reason


@pytest.mark.parametrize("verdict", [UNSURE, BROKEN])
@pytest.mark.parametrize("old", [rollout(), rollout(Phase.PREPARING, -1)])
def test_an_overdue_stage_is_rolled_back_where_the_plan_says_so_but_not_while_paused(
    verdict: Verdict, old: Rollout
) -> None:
    waiting = overdue_ends(old)
    late = step(waiting, verdict, Waiting("late"), START + 11 * MINUTE)
    assert late.rollout.phase is Phase.ROLLED_BACK
    assert "overdue" in late.reason
    assert step(waiting, verdict, Waiting("late"), START + 10 * MINUTE).rollout == waiting
    paused = replace(waiting, phase=Phase.PAUSED)
    held = step(paused, verdict, Waiting("late"), START + 11 * MINUTE)
    assert held.rollout == paused
    assert "overdue" in held.reason


def test_a_stage_that_passes_late_passes() -> None:
    assert step(overdue_ends(rollout()), GOOD, Ready(), START + 11 * MINUTE).rollout.stage == 2


@pytest.mark.parametrize("waiting", [rollout(Phase.PREPARING, -1), rollout()])
def test_waiting_too_long_for_a_reader_is_overdue(waiting: Rollout) -> None:
    late = step(waiting, GOOD, Waiting("waiting for reader two"), START + 11 * MINUTE)
    assert late.rollout == waiting
    assert "reader two; overdue" in late.reason
    assert "overdue" not in step(waiting, GOOD, Waiting("two"), START + 9 * MINUTE).reason


@pytest.mark.parametrize("stage", [-1, 0, 1, LAST])
def test_a_paused_rollout_does_not_advance_but_is_still_rolled_back(stage: int) -> None:
    paused = rollout(Phase.PAUSED, stage)
    assert step(paused, GOOD, Ready(), START + 5 * MINUTE).rollout == paused
    assert step(paused, GOOD, Refused("torn"), START + 5 * MINUTE).rollout.phase is Phase.ROLLED_BACK
    harmed = step(paused, BAD, Ready(), START + 5 * MINUTE).rollout
    assert harmed.phase is (Phase.ROLLED_BACK if stage >= 0 else Phase.PAUSED)


@pytest.mark.parametrize("kind", [Kind.AB, Kind.BANDIT])
def test_an_experiment_s_time_ends_it_inconclusive(kind: Kind) -> None:
    old = rollout(kind=kind)
    assert step(old, UNSURE, Ready(), START + 10 * MINUTE).rollout == old
    over = step(old, UNSURE, Ready(), START + 11 * MINUTE)
    assert (over.rollout.phase, over.rollout.weight_bp) == (Phase.CONCLUDED, 0)
    assert "inconclusive: unsure" in over.reason
    paused = replace(old, phase=Phase.PAUSED)
    assert step(paused, UNSURE, Ready(), START + 11 * MINUTE).rollout == paused


def test_an_ab_with_an_answer_is_concluded_after_its_shortest_time_though_a_reader_is_late() -> None:
    old = rollout(kind=Kind.AB)
    assert step(old, GOOD, Ready(), START + MINUTE / 2).rollout == old
    answered = step(old, GOOD, Waiting("late"), START + MINUTE)
    assert (answered.rollout.phase, answered.rollout.weight_bp, answered.reason) == (Phase.CONCLUDED, 0, "good")
    assert step(old, BAD, Ready(), START).rollout.phase is Phase.ROLLED_BACK


def test_what_fails_an_aa_is_called_a_false_alarm() -> None:
    failed = step(rollout(kind=Kind.AA), BAD, Ready(), START)
    assert failed.rollout.phase is Phase.ROLLED_BACK
    assert failed.reason == "a false alarm, both arms are v1: harm"


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.RAMPING, Phase.PAUSED])
@pytest.mark.parametrize("plan", [Plan(), Plan(STAGES[:1])])
def test_a_rollout_whose_plan_lacks_its_stage_ends(phase: Phase, plan: Plan) -> None:
    if phase is Phase.PREPARING and plan.stages:
        return  # it has the stage that it is about to enter
    old = replace(rollout(phase, -1 if phase is Phase.PREPARING else 1), plan=plan)
    assert stage_of(old) is None
    ended = step(old, GOOD, Ready(), START + MINUTE)
    assert (ended.rollout.phase, ended.rollout.weight_bp) == (Phase.ROLLED_BACK, 0)
    assert "older release" in ended.reason


@pytest.mark.parametrize("kind", [Kind.CANARY, Kind.AB, Kind.AA, Kind.BANDIT])
@pytest.mark.parametrize("phase", [Phase.RAMPING, Phase.PAUSED])
def test_a_breaker_ends_whatever_requests_meet(kind: Kind, phase: Phase) -> None:
    tripped = trip(rollout(phase, 0, kind), "9 of 20 requests failed", START)
    assert (tripped.rollout.phase, tripped.rollout.weight_bp) == (Phase.ROLLED_BACK, 0)
    assert tripped.reason == "9 of 20 requests failed"


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.PAUSED])
def test_a_breaker_does_nothing_to_what_no_request_has_met(phase: Phase) -> None:
    assert trip(rollout(phase, -1), "errors", START).rollout == rollout(phase, -1)


@pytest.mark.parametrize("stage", range(-1, LAST + 1))
def test_pausing_keeps_the_weight_and_resuming_begins_the_stage_s_time_anew(stage: int) -> None:
    running = rollout(Phase.PREPARING if stage < 0 else Phase.RAMPING, stage)
    paused = command(running, Command.PAUSE, "lunch", Waiting("late"), START + MINUTE)
    assert paused == Decision(replace(running, phase=Phase.PAUSED), "lunch")
    again = command(paused.rollout, Command.RESUME, "back", Waiting("late"), START + 5 * MINUTE)
    assert again == Decision(replace(running, stage_started_at=START + 5 * MINUTE), "back")


def test_what_is_paused_cannot_be_paused_and_what_is_not_cannot_be_resumed() -> None:
    assert command(rollout(Phase.PAUSED), Command.PAUSE, "why", Ready(), START) == Refusal(
        "rollout 1 is paused already"
    )
    assert command(rollout(), Command.RESUME, "why", Ready(), START) == Refusal("rollout 1 is ramping, not paused")


@given(OPEN, READINESS)
def test_whatever_is_open_can_be_aborted(old: Rollout, readiness: Readiness) -> None:
    ended = command(old, Command.ABORT, "complaints", readiness, START + MINUTE)
    assert isinstance(ended, Decision)
    assert (ended.rollout.phase, ended.rollout.weight_bp, ended.reason) == (Phase.ABORTED, 0, "complaints")


@pytest.mark.parametrize(
    "old", [rollout(Phase.PREPARING, -1), rollout(Phase.PAUSED, -1), rollout(), rollout(Phase.PAUSED), rollout(stage=0)]
)
def test_an_operator_promotes_a_canary_from_wherever_it_is_once_readers_hold_it(old: Rollout) -> None:
    done = command(old, Command.PROMOTE, "it is fine", Ready(), START + MINUTE)
    assert isinstance(done, Decision)
    assert (done.rollout.phase, done.rollout.weight_bp) == (Phase.PROMOTED, FULL_WEIGHT_BP)
    refusals = [command(old, Command.PROMOTE, "why", late, START) for late in (Waiting("two is late"), Refused("torn"))]
    assert refusals == [
        Refusal("not every live reader holds v2: two is late"),
        Refusal("not every live reader holds v2: torn"),
    ]


@pytest.mark.parametrize("kind", [Kind.AB, Kind.AA, Kind.BANDIT])
def test_nobody_is_promoted_by_an_experiment(kind: Kind) -> None:
    refusal = command(rollout(kind=kind), Command.PROMOTE, "why", Ready(), START)
    assert isinstance(refusal, Refusal)
    assert "start a canary" in refusal.reason


def test_only_a_canary_that_nobody_has_paused_may_be_superseded() -> None:
    assert [kind for kind in Kind if may_be_superseded(rollout(kind=kind))] == [Kind.CANARY]
    assert [phase for phase in Phase if may_be_superseded(rollout(phase))] == [Phase.PREPARING, Phase.RAMPING]


def test_a_superseded_canary_leaves_stable_alone() -> None:
    ended = supersede(rollout(), ModelVersion("v3"), START + MINUTE)
    assert (ended.rollout.phase, ended.rollout.weight_bp) == (Phase.SUPERSEDED, 0)
    assert ended.rollout.stable == "v1"
    assert "v3" in ended.reason


def test_readiness_needs_every_live_reader_with_the_registered_hash() -> None:
    version = ModelVersion("v2")
    ready = ReaderStatus(version, ready=True, manifest_sha256="abc")
    assert readiness({"one": ready, "two": ready}, "abc") == Ready()
    assert isinstance(readiness({}, "abc"), Waiting)
    assert isinstance(readiness({"one": ready, "two": None}, "abc"), Waiting)
    assert isinstance(readiness({"one": ready}, "other"), Waiting)
    refused = readiness({"one": ready, "two": ReaderStatus(version, ready=False, error="sha256 differs")}, "abc")
    assert isinstance(refused, Refused)
    assert "sha256 differs" in refused.reason
