"""The transition table: what may raise a weight, what must lower it, and what is final."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import FULL_WEIGHT_BP, OPEN_PHASES, Phase, ReaderStatus, Rollout
from serving_api.analysis import Error, Failed, Inconclusive, Required, Successful, Verdict
from serving_api.rollout import Readiness, Ready, Refused, Waiting, ramp, readiness, step, supersede

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PLAN = ramp((5, 25, 50, 75, 100), 200, Required(100, 20), MINUTE, 10 * MINUTE)

GOOD, BAD = Successful("good", {}), Failed("harm", {})
UNSURE, BROKEN = Inconclusive("unsure", {}), Error("broken", {})
VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from([GOOD, BAD, UNSURE, BROKEN])
READINESS: st.SearchStrategy[Readiness] = st.sampled_from([Ready(), Waiting("late"), Refused("torn")])
MINUTES = st.integers(0, 20).map(lambda n: n * MINUTE)


def rollout(phase: Phase = Phase.RAMPING, stage: int = 0) -> Rollout:
    return Rollout(
        id=RolloutId(1),
        model=ModelName("movies"),
        stable=ModelVersion("v1"),
        canary=ModelVersion("v2"),
        phase=phase,
        stage=stage,
        weight_bp=PLAN[stage].weight_bp if stage >= 0 else 0,
        epoch=Epoch(5),
        salt="salt",
        created_at=START,
        stage_started_at=START,
    )


OPEN = st.one_of(
    st.just(rollout(Phase.PREPARING, -1)),
    st.builds(rollout, st.sampled_from([Phase.RAMPING, Phase.PAUSED]), st.integers(0, len(PLAN) - 1)),
)


@given(OPEN, VERDICTS, READINESS, MINUTES)
def test_weight_rises_only_while_ready_and_not_against_the_verdict(
    old: Rollout, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    new = step(old, verdict, readiness, START + elapsed, PLAN).rollout
    if new.weight_bp > old.weight_bp:
        assert isinstance(readiness, Ready)
        assert old.phase is Phase.PREPARING or (verdict is GOOD and elapsed >= MINUTE)


@given(OPEN, VERDICTS, READINESS, MINUTES)
def test_harm_and_a_refused_artifact_end_every_open_rollout_that_serves(
    old: Rollout, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    new = step(old, verdict, readiness, START + elapsed, PLAN).rollout
    harmed = verdict is BAD and old.phase is not Phase.PREPARING
    assert (new.phase is Phase.ROLLED_BACK) == (harmed or isinstance(readiness, Refused))
    if new.phase is Phase.ROLLED_BACK:
        assert new.weight_bp == 0


@given(
    st.sampled_from([phase for phase in Phase if phase not in OPEN_PHASES]),
    st.integers(-1, len(PLAN) - 1), VERDICTS, READINESS, MINUTES,
)  # fmt: skip
def test_final_phases_are_absorbing(
    phase: Phase, stage: int, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    old = rollout(phase, stage)
    assert step(old, verdict, readiness, START + elapsed, PLAN).rollout == old


@given(OPEN, VERDICTS, READINESS, MINUTES)
def test_a_step_never_touches_versions_salt_or_epoch(
    old: Rollout, verdict: Verdict, readiness: Readiness, elapsed: timedelta
) -> None:
    new = step(old, verdict, readiness, START + elapsed, PLAN).rollout
    kept = ("id", "model", "stable", "canary", "epoch", "salt", "created_at")
    assert all(getattr(new, name) == getattr(old, name) for name in kept)


@given(st.lists(st.tuples(VERDICTS, READINESS), max_size=30))
def test_a_rollout_is_promoted_only_after_a_success_in_each_stage(
    ticks: list[tuple[Verdict, Readiness]],
) -> None:
    current, passed = rollout(Phase.PREPARING, -1), 0
    for n, (verdict, ready) in enumerate(ticks, start=1):
        new = step(current, verdict, ready, START + n * 2 * MINUTE, PLAN).rollout
        passed += verdict is GOOD and isinstance(ready, Ready) and current.phase is Phase.RAMPING
        current = new
    if current.phase is Phase.PROMOTED:
        assert passed >= len(PLAN)
        assert current.weight_bp == FULL_WEIGHT_BP


def test_a_good_canary_walks_through_every_stage_to_promotion() -> None:
    current, weights = rollout(Phase.PREPARING, -1), []
    for n in range(1, 7):
        current = step(current, GOOD, Ready(), START + n * MINUTE, PLAN).rollout
        weights.append(current.weight_bp)
    assert weights == [500, 2_500, 5_000, 7_500, 9_800, FULL_WEIGHT_BP]
    assert current.phase is Phase.PROMOTED


def test_the_minimum_duration_is_waited_for() -> None:
    early = step(rollout(), GOOD, Ready(), START + MINUTE / 2, PLAN)
    assert early.rollout == rollout()
    assert "minimum duration" in early.reason


def test_an_overdue_stage_holds_and_says_so() -> None:
    held = step(rollout(), UNSURE, Ready(), START + 11 * MINUTE, PLAN)
    assert held.rollout == rollout()
    assert "overdue" in held.reason
    assert "overdue" not in step(rollout(), UNSURE, Ready(), START + 9 * MINUTE, PLAN).reason


@pytest.mark.parametrize("waiting", [rollout(Phase.PREPARING, -1), rollout()])
def test_waiting_too_long_for_a_reader_is_overdue(waiting: Rollout) -> None:
    late = step(waiting, GOOD, Waiting("waiting for reader two"), START + 11 * MINUTE, PLAN)
    assert late.rollout == waiting
    assert "reader two; overdue" in late.reason
    assert "overdue" not in step(waiting, GOOD, Waiting("two"), START + 9 * MINUTE, PLAN).reason


def test_a_paused_rollout_does_not_advance_but_is_still_rolled_back() -> None:
    paused = rollout(Phase.PAUSED)
    assert step(paused, GOOD, Ready(), START + 5 * MINUTE, PLAN).rollout == paused
    assert step(paused, BAD, Ready(), START + 5 * MINUTE, PLAN).rollout.phase is Phase.ROLLED_BACK


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


def test_a_plan_cut_short_under_a_running_rollout_still_ends_it() -> None:
    last = msgspec.structs.replace(rollout(stage=4))
    assert step(last, GOOD, Ready(), START + MINUTE, PLAN[:2]).rollout.phase is Phase.PROMOTED
