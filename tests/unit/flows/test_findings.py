"""Findings: what scores and alarms become in PostgreSQL, once, and the jobs that they ask for."""

from collections.abc import Sequence
from contextlib import closing

from hypothesis import example, given
from hypothesis import strategies as st

from flows.drift import Scored, row_id
from flows.findings import Finding, Findings, FindingSink, Input, JobTemplate
from flows.instruments import Instruments
from flows.tally import Tally
from flows.triggers import DAY_MS, Signal, TriggerPolicy
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import JobState, NewJob, TrainAls, trigger_id
from online_models.contracts.rollouts import VariantWindow
from online_models.ports import DriftRow, WindowRow
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres import Database
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_windows import PostgresWindows
from tests.flow_process import all_rows
from tests.samples import MOVIES

HOUR_MS = 3_600_000
POLICY = TriggerPolicy(hysteresis=2, cooldown_ms=3 * HOUR_MS, daily_budget=9)
TEMPLATE = JobTemplate(TrainAls(factors=8), "config")
VARIANT = VariantWindow(MOVIES, ModelVersion("v1"), 0, -1, 0, HOUR_MS, 0, 0, 1, 1, 10, 1)


def findings(bootstrap_events: int = 1_000, template: JobTemplate = TEMPLATE) -> Findings:
    return Findings(POLICY, template, bootstrap_events)


def scored(hour: int, drifted: bool = False, events: int = 100, has_champion: bool = True) -> Scored:
    """A judged window that ends at an hour; its drift is of one feature."""
    start, end, reason = (hour - 1) * HOUR_MS, hour * HOUR_MS, "genres: moved" if drifted else ""
    alarm = DriftRow(
        row_id("drift", MOVIES, "composite", "genres", start, end),
        *("drift", MOVIES, "composite", "genres", start, end, 0.4, 0.1, reason),
    )
    return Scored(
        row=WindowRow(MOVIES, start, end, b"{}"),
        features=[],
        alarms=[alarm] if drifted else [],
        signal=Signal(MOVIES, "composite", start, end, drifted, False, reason),
        new_events=events,
        has_champion=has_champion,
    )


def fall(hour: int, settle_ms: int = 0, detector: str = "hit_rate") -> Signal:
    """An alarm of the outcomes."""
    return Signal(MOVIES, detector, hour * HOUR_MS, hour * HOUR_MS, True, True, "fell", settle_ms)


def drift_rows(found: Sequence[Finding]) -> list[tuple[str, str, str]]:
    """Kind, detector and reason (up to its first colon) of each row of `drift_events`."""
    rows = [each for each in found if isinstance(each, DriftRow)]
    return [(row.kind, row.detector, row.reason.split(":")[0]) for row in rows]


def jobs(found: Sequence[Finding]) -> list[NewJob]:
    return [each for each in found if isinstance(each, NewJob)]


def test_a_variant_window_goes_through_as_it_is() -> None:
    assert findings().add(VARIANT) == [VARIANT]


def test_a_calm_window_is_one_row() -> None:
    window = scored(1)
    assert findings().add(window) == [window.row]


def test_a_drifting_window_is_reported_at_once_and_asks_for_a_job_when_it_stands() -> None:
    state, first, second = findings(), scored(1, drifted=True), scored(2, drifted=True)
    rows = state.add(first)
    assert rows[:2] == [first.row, *first.alarms]
    assert drift_rows(rows[2:]) == [("suppressed", "composite", "hysteresis")]
    rows = state.add(second)
    assert rows[:2] == [second.row, *second.alarms]
    assert drift_rows(rows[2:]) == [("trigger", "composite", "genres")]
    expected = trigger_id(MOVIES, "composite", "config", 2 * HOUR_MS)
    assert jobs(rows) == [NewJob(MOVIES, expected, "composite: genres: moved", TEMPLATE.payload)]


def test_a_fall_of_a_rate_is_its_own_row_and_asks_at_once() -> None:
    found = findings().add(fall(5))
    assert drift_rows(found) == [("drift", "hit_rate", "fell"), ("trigger", "hit_rate", "fell")]
    (job,) = jobs(found)
    assert job.trigger_id == trigger_id(MOVIES, "hit_rate", "config", 5 * HOUR_MS)


def test_a_fall_that_waits_to_settle_asks_with_the_first_window_after_it() -> None:
    state = findings()
    assert drift_rows(state.add(fall(5, settle_ms=HOUR_MS)))[1][:2] == ("suppressed", "hit_rate")
    assert len(state.add(scored(5))) == 1
    found = state.add(scored(6))
    assert drift_rows(found) == [("trigger", "hit_rate", "fell")]
    assert jobs(found)[0].trigger_id == trigger_id(MOVIES, "hit_rate", "config", 5 * HOUR_MS)


def test_what_is_suppressed_says_why_and_asks_for_nothing() -> None:
    state = findings()
    state.add(fall(5))
    found = state.add(fall(6, detector="ctr"))
    assert drift_rows(found) == [("drift", "ctr", "fell"), ("suppressed", "ctr", "cooldown")]
    assert jobs(found) == []


def test_a_model_without_a_version_asks_for_its_first_training_and_again_when_its_data_have_doubled() -> None:
    state, asked = findings(bootstrap_events=1_000), []
    for day in range(1, 31):
        for job in jobs(state.add(scored(24 * day, events=400, has_champion=False))):
            asked.append((400 * day, job.reason))
    assert asked == [(events, f"bootstrap: no version yet, {events} events") for events in (1_200, 2_400, 4_800, 9_600)]


def test_a_model_with_a_champion_never_asks_for_a_first_training() -> None:
    state = findings(bootstrap_events=1)
    assert [state.add(scored(hour)) for hour in (24, 48)] == [[scored(24).row], [scored(48).row]]


def test_a_first_training_does_not_hold_back_the_first_drift() -> None:
    state = findings(bootstrap_events=1)
    assert len(jobs(state.add(scored(5, has_champion=False)))) == 1
    assert len(jobs(state.add(fall(6)))) == 1


def ids(inputs: Sequence[Input], template: JobTemplate = TEMPLATE) -> tuple[list[str], list[str]]:
    """Row ids and trigger ids of what inputs become."""
    state = findings(template=template)
    found = [finding for each in inputs for finding in state.add(each)]
    return [each.id for each in found if isinstance(each, DriftRow)], [job.trigger_id for job in jobs(found)]


STORY: list[Input] = [scored(1, drifted=True), scored(2, drifted=True), fall(9), fall(9, detector="ctr"), VARIANT]


def test_ids_are_deterministic_distinct_and_of_the_configuration() -> None:
    rows, triggers = ids(STORY)
    assert ids(STORY) == (rows, triggers)
    assert len(set(rows)) == len(rows) == 8
    assert len(set(triggers)) == len(triggers) == 2
    other_rows, other_triggers = ids(STORY, JobTemplate(TEMPLATE.payload, "another config"))
    assert other_rows == rows
    assert not set(other_triggers) & set(triggers)


def story(steps: Sequence[tuple[int, str]]) -> list[Input]:
    """Inputs in the order of event time: each so many hours after the one before."""
    made: list[Input] = []
    hour = 1
    for hours, kind in steps:
        hour += hours
        match kind:
            case "calm" | "drift":
                made.append(scored(hour, kind == "drift"))
            case "new model":
                made.append(scored(hour, events=400, has_champion=False))
            case "variant":
                made.append(VARIANT)
            case _:
                made.append(fall(hour, settle_ms=HOUR_MS if kind == "settling fall" else 0))
    return made


KINDS = ["calm", "drift", "drift", "new model", "variant", "fall", "settling fall"]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(KINDS)), max_size=25).map(story), st.integers(0, 25))
@example(story([(1, "drift")] * 9), 2)
def test_a_restored_state_goes_on_as_if_it_had_never_stopped(inputs: list[Input], stop: int) -> None:
    running, restored = findings(), findings()
    for each in inputs[:stop]:
        running.add(each)
    snapshot = running.snapshot()
    expected = [running.add(each) for each in inputs[stop:]]
    restored.restore(snapshot)
    assert restored.snapshot() == snapshot
    assert [restored.add(each) for each in inputs[stop:]] == expected


def write(stores: Endpoints, tally: Tally, found: Sequence[Finding], resume: tuple[int, ...] | None) -> tuple[int, ...]:
    """What a sink does with findings; its snapshot."""
    with closing(Database(stores.postgres_dsn)) as database:
        sink = FindingSink(PostgresWindows(database), PostgresJobs(database), tally, Instruments([3600]))
        part = sink.build_part("step", sink.list_parts()[0], resume)
        part.write_batch(list(found))
        figures = part.snapshot()
        part.close()
        return figures


def test_findings_become_rows_and_figures_and_a_replay_after_a_crash_adds_nothing(fresh_stores: Endpoints) -> None:
    state, tally = findings(), Tally()
    found = [finding for each in STORY[:2] for finding in state.add(each)]
    assert write(fresh_stores, tally, found, None) == (2, 1, 1, 1)
    assert (tally.drift_events, tally.triggers, tally.suppressed, tally.jobs) == (2, 1, 1, 1)
    rows = all_rows(fresh_stores.postgres_dsn)
    assert [len(rows[table]) for table in ("window_reports", "drift_events", "retrain_jobs")] == [2, 4, 1]
    # Killed before its snapshot: the next process writes the same once more.
    assert write(fresh_stores, Tally(), found, None) == (2, 1, 1, 1)
    assert all_rows(fresh_stores.postgres_dsn) == rows


def test_figures_go_on_from_the_snapshot(fresh_stores: Endpoints) -> None:
    tally = Tally()
    assert write(fresh_stores, tally, [VARIANT, scored(1).row], (7, 3, 2, 1)) == (7, 3, 2, 1)
    assert (tally.drift_events, tally.triggers, tally.suppressed, tally.jobs) == (7, 3, 2, 1)
    assert len(all_rows(fresh_stores.postgres_dsn)["model_metrics"]) == 1


def test_a_job_that_the_queue_refuses_is_a_suppressed_row_that_says_why(fresh_stores: Endpoints) -> None:
    tally = Tally()
    state = findings()
    found = [*state.add(fall(0)), *state.add(fall(DAY_MS // HOUR_MS))]
    assert len(jobs(found)) == 2
    assert write(fresh_stores, tally, found, None) == (2, 2, 1, 1)
    refused = [row for row in all_rows(fresh_stores.postgres_dsn)["drift_events"] if row["kind"] == "suppressed"]
    assert [(row["detector"], row["model"]) for row in refused] == [("queue", "movies")]
    assert str(refused[0]["reason"]).startswith("another job of movies is open")
    assert write(fresh_stores, Tally(), found, None) == (2, 2, 1, 1)
    with closing(Database(fresh_stores.postgres_dsn)) as database:
        assert PostgresJobs(database).states(ModelName("movies"))[JobState.QUEUED] == 1
