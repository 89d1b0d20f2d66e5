"""Findings: what scores and alarms become in PostgreSQL, once, and the jobs that they ask for."""

import pickle
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from flows.delayed_labels import DelayedLabels
from flows.drift import Scored, row_id
from flows.findings import Finding, Findings, FindingSink, Input
from flows.instruments import Instruments
from flows.levels import Champion, JobTemplate, Level, LevelRules
from flows.tally import Tally
from flows.triggers import DAY_MS, LANGUAGE_MODEL, Family, Signal, TriggerPolicy
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import JobState, NewJob, Start, TrainAls, TrainLora, TrainTwoTower, trigger_id
from online_models.contracts.rollouts import GROUPS, GroupedCounts, ShadowCounts, VariantWindow
from online_models.ports import DriftRow, FeatureWindowRow, WindowRow
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres import Database
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_windows import PostgresWindows
from tests.flow_process import all_rows
from tests.samples import MOVIES

HOUR_MS = 3_600_000
POLICY = TriggerPolicy(hysteresis=2, cooldown_ms=3 * HOUR_MS, daily_budget=9)
RULES = LevelRules(False, frozenset(), 0.0, 0, 0, 0, 0, dict.fromkeys(Level, POLICY))
TEMPLATE = JobTemplate(dict.fromkeys((Level.WARM, Level.COLD), TrainAls(factors=8)), TrainAls(factors=8), "config")
VARIANT = VariantWindow(MOVIES, ModelVersion("v1"), 0, -1, 0, HOUR_MS, 0, 0, 1, 1, 10, 1, "stable", 1)
GROUPED = GroupedCounts(MOVIES, ModelVersion("v1"), 7, 1, "stable", 5, bytes(range(16)) * GROUPS)
SHADOWED = ShadowCounts(MOVIES, ModelVersion("v2"), 5, bytes(range(122)) * 80)


def findings(bootstrap_events: int = 1_000, template: JobTemplate = TEMPLATE) -> Findings:
    return Findings(RULES, template, bootstrap_events)


def scored(
    hour: int,
    drifted: bool = False,
    events: int = 100,
    has_champion: bool = True,
    *,
    champion: Champion | None = None,
    words_drifted: bool | None = None,
    effect: float = 0.4,
) -> Scored:
    """A judged window that ends at an hour; its drift is of one feature. words_drifted : whether the language model's do"""
    start, end, reason = (hour - 1) * HOUR_MS, hour * HOUR_MS, "genres: moved" if drifted else ""
    alarm = DriftRow(
        row_id("drift", MOVIES, "composite", "genres", start, end),
        *("drift", MOVIES, "composite", "genres", start, end, 0.4, 0.1, reason),
    )
    return Scored(
        row=WindowRow(MOVIES, start, end, b"{}"),
        features=[],
        alarms=[alarm] if drifted else [],
        signal=Signal(MOVIES, "composite", start, end, drifted, False, reason, effect=effect),
        new_events=events,
        has_champion=has_champion,
        champion=champion,
        language=None if words_drifted is None else words(hour, words_drifted),
    )


def words(hour: int, drifted: bool) -> Signal:
    """What the features of text say."""
    start, end = (hour - 1) * HOUR_MS, hour * HOUR_MS
    return Signal(
        MOVIES, "panel_llm", start, end, drifted, False, "titles: moved" if drifted else "", component=LANGUAGE_MODEL
    )


def labels_fall(hour: int, settle_ms: int = 0) -> Signal:
    """An alarm of the delayed labels."""
    end = hour * HOUR_MS
    family, component = Family.LABELS, LANGUAGE_MODEL
    return Signal(MOVIES, "llm_auc", end - HOUR_MS, end, True, True, "AUC fell", settle_ms, family, component)


def fall(hour: int, settle_ms: int = 0, detector: str = "hit_rate") -> Signal:
    """An alarm of the outcomes."""
    end = hour * HOUR_MS
    return Signal(MOVIES, detector, end, end, True, True, "fell", settle_ms, Family.OUTCOME)


def drift_rows(found: Sequence[Finding]) -> list[tuple[str, str, str]]:
    """Kind, detector and reason (up to its first colon) of each row of `drift_events`."""
    rows = [each for each in found if isinstance(each, DriftRow)]
    return [(row.kind, row.detector, row.reason.split(":")[0]) for row in rows]


def jobs(found: Sequence[Finding]) -> list[NewJob]:
    return [each for each in found if isinstance(each, NewJob)]


def test_counts_go_through_as_they_are() -> None:
    assert findings().add(VARIANT) == [VARIANT]
    assert findings().add(SHADOWED) == [SHADOWED]
    assert findings().add(GROUPED) == [GROUPED]


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
    assert jobs(rows) == [NewJob(MOVIES, expected, "cold: composite: genres: moved", TEMPLATE.payloads[Level.COLD])]


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
    assert asked == [
        (events, f"cold: bootstrap: no version yet, {events} events") for events in (1_200, 2_400, 4_800, 9_600)
    ]


def test_a_model_with_a_champion_never_asks_for_a_first_training() -> None:
    state = findings(bootstrap_events=1)
    assert [state.add(scored(hour)) for hour in (24, 48)] == [[scored(24).row], [scored(48).row]]


def test_a_first_training_does_not_hold_back_the_first_drift() -> None:
    state = findings(bootstrap_events=1)
    assert len(jobs(state.add(scored(5, has_champion=False)))) == 1
    assert len(jobs(state.add(fall(6)))) == 1


# --- levels

TOWERS = Champion(ModelVersion("v1"), towers=True, language_model=True)
DEEP = replace(RULES, two_tower=True, language_models=frozenset({"movies"}))
OF_LEVELS = JobTemplate(
    {
        Level.WARM: TrainTwoTower(start=Start.WARM),
        Level.COLD: TrainTwoTower(start=Start.COLD),
        Level.LORA: TrainLora(),
    },
    TrainAls(),
    "config",
)


def deep(rules: LevelRules = DEEP) -> Findings:
    """Findings that may ask for any level."""
    return Findings(rules, OF_LEVELS, bootstrap_events=1_000)


def asked(found: Sequence[Finding]) -> list[str]:
    """Levels and detectors of the jobs."""
    for job in jobs(found):
        level = Level(job.reason.split(":")[0].split(" (")[0])
        assert job.payload == OF_LEVELS.payloads[level]
    return [":".join(job.reason.split(":")[:2]) for job in jobs(found)]


def test_each_kind_of_evidence_gets_its_level() -> None:
    state = deep()
    story = [scored(hour, True, champion=TOWERS, words_drifted=True) for hour in (1, 2)]
    assert [asked(state.add(each)) for each in story] == [[], ["warm: composite", "lora: panel_llm"]]
    assert asked(state.add(fall(3))) == ["cold: hit_rate"]
    assert asked(state.add(labels_fall(4))) == ["lora: llm_auc"]


def test_the_language_model_s_drift_does_not_hold_the_recommender_s_back_and_the_reverse() -> None:
    state = deep()
    state.add(scored(0, champion=TOWERS))
    assert asked(state.add(labels_fall(1))) == ["lora: llm_auc"]
    state.add(scored(2, True, champion=TOWERS))
    assert asked(state.add(scored(3, True, champion=TOWERS))) == ["warm: composite"]
    assert drift_rows(state.add(labels_fall(3)))[1] == ("suppressed", "llm_auc", "cooldown")


def test_a_fall_of_labels_that_settles_is_asked_for_with_the_first_window_after_it() -> None:
    state = deep()
    state.add(scored(4, champion=TOWERS))
    assert asked(state.add(labels_fall(5, settle_ms=HOUR_MS))) == []
    assert asked(state.add(scored(5, champion=TOWERS))) == []
    assert asked(state.add(scored(6, champion=TOWERS))) == ["lora: llm_auc"]


def test_without_a_language_model_its_drift_is_a_row_that_says_so() -> None:
    state = deep(replace(DEEP, language_models=frozenset()))
    (_, row) = drift_rows(state.add(labels_fall(1)))
    assert row == ("suppressed", "llm_auc", "no language model is trained")


def test_a_small_drift_is_left_to_the_online_updates_until_it_has_stood() -> None:
    state = deep(replace(DEEP, near_line_effect=0.05, near_line_ms=3 * HOUR_MS))
    told = [state.add(scored(hour, True, champion=TOWERS, effect=0.03)) for hour in range(1, 5)]
    small = ("suppressed", "composite", "near-line updates answer it")
    assert [drift_rows(found)[1] for found in told[:3]] == [("suppressed", "composite", "hysteresis"), small, small]
    assert asked(told[3]) == ["warm: composite"]


def test_every_few_warm_starts_there_is_a_cold_one() -> None:
    state, levels = deep(replace(DEEP, cold_every_warms=2)), []
    for hour in range(0, 200, 20):  # calm in between, and further apart than any cooldown
        for each in (scored(hour, True, champion=TOWERS), scored(hour + 1, True, champion=TOWERS)):
            levels += asked(state.add(each))
        state.add(scored(hour + 2, champion=TOWERS))
        state.add(scored(hour + 3, champion=TOWERS))
    warm, cold = "warm: composite", "cold (after 2 warm starts): composite"
    assert levels == [warm, warm, cold, warm, warm, cold, warm, warm, cold, warm]


def test_a_training_is_due_by_schedule_without_any_drift_and_counts_from_the_last() -> None:
    state, at = deep(replace(DEEP, schedule_ms=10 * HOUR_MS)), []
    for hour in range(1, 40):
        found = state.add(fall(15)) if hour == 15 else state.add(scored(hour, champion=TOWERS))
        at += [(hour, level) for level in asked(found)]
    assert at == [(10, "cold: schedule"), (15, "cold: hit_rate"), (25, "cold: schedule"), (35, "cold: schedule")]


def test_a_champion_without_an_adapter_asks_for_its_first_one_and_again_when_the_data_have_doubled() -> None:
    state, at = deep(), []
    for hour in range(1, 31):
        found = state.add(scored(hour, events=400, champion=replace(TOWERS, language_model=False)))
        at += [(400 * hour, level) for level in asked(found)]
    assert at == [(events, "lora: bootstrap_llm") for events in (1_200, 2_400, 4_800, 9_600)]


def test_a_first_adapter_that_may_be_on_its_way_is_not_asked_for_again() -> None:
    patient = {**DEEP.policies, Level.LORA: replace(POLICY, cooldown_ms=10 * HOUR_MS)}
    state, at = deep(replace(DEEP, policies=patient)), []
    for hour in range(1, 31):
        found = state.add(scored(hour, events=400, champion=replace(TOWERS, language_model=False)))
        at += [hour for _ in asked(found)]
    assert at == [3, 13, 26]


def test_who_only_monitors_hears_of_every_trigger_and_gets_no_job() -> None:
    state = Findings(replace(DEEP, near_line_effect=9.0, language_models=frozenset()), None, 10)
    told = [state.add(scored(hour, True, words_drifted=True, has_champion=False)) for hour in (1, 2)]
    assert [kind for kind, *_ in drift_rows(told[1])] == ["drift", "trigger", "trigger"]
    assert jobs(told[1]) == []


def test_a_snapshot_from_before_there_were_levels_is_gone_on_from() -> None:
    """As the release before wrote it: a cooldown runs, one trigger is spent, and a fall waits."""
    waiting = (MOVIES, "hit_rate", 5 * HOUR_MS, 5 * HOUR_MS, True, True, "fell", HOUR_MS, True)
    old = (1, (1, 0, False, 4 * HOUR_MS, None, 0, 1, waiting), 700, 1_400)
    state = deep()
    state.restore(old)
    (trigger,) = jobs(state.add(scored(6, champion=TOWERS)))
    assert trigger.trigger_id == trigger_id(MOVIES, "hit_rate", "config", 5 * HOUR_MS)
    assert trigger.payload == OF_LEVELS.payloads[Level.COLD]
    states, events = state.snapshot()[1:3]
    assert (events, states["recommender"][3], states["recommender"][6]) == (800, 6 * HOUR_MS, {"cold": 2})


def ids(inputs: Sequence[Input], template: JobTemplate = TEMPLATE) -> tuple[list[str], list[str]]:
    """Row ids and trigger ids of what inputs become."""
    state = findings(template=template)
    found = [finding for each in inputs for finding in state.add(each)]
    return [each.id for each in found if isinstance(each, DriftRow)], [job.trigger_id for job in jobs(found)]


STORY: list[Input] = [
    scored(1, drifted=True),
    scored(2, drifted=True),
    fall(9),
    fall(9, detector="ctr"),
    VARIANT,
    GROUPED,
    SHADOWED,
]


def test_ids_are_deterministic_distinct_and_of_the_configuration() -> None:
    rows, triggers = ids(STORY)
    assert ids(STORY) == (rows, triggers)
    assert len(set(rows)) == len(rows) == 8
    assert len(set(triggers)) == len(triggers) == 2
    other_rows, other_triggers = ids(STORY, JobTemplate(TEMPLATE.payloads, TEMPLATE.first, "another config"))
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
            case "towers" | "no adapter":
                champion = replace(TOWERS, language_model=kind == "towers")
                made.append(scored(hour, events=400, champion=champion, words_drifted=False))
            case "words" | "small drift":
                small = kind == "small drift"
                made.append(scored(hour, True, champion=TOWERS, words_drifted=True, effect=0.01 if small else 0.4))
            case "labels" | "settling labels":
                made.append(labels_fall(hour, settle_ms=HOUR_MS if kind == "settling labels" else 0))
            case _:
                made.append(fall(hour, settle_ms=HOUR_MS if kind == "settling fall" else 0))
    return made


KINDS = ["calm", "drift", "drift", "new model", "variant", "fall", "settling fall"]
KINDS += ["towers", "no adapter", "words", "small drift", "labels", "settling labels"]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(KINDS)), max_size=25).map(story), st.integers(0, 25))
@example(story([(1, "drift")] * 9), 2)
def test_a_restored_state_goes_on_as_if_it_had_never_stopped(inputs: list[Input], stop: int) -> None:
    rules = replace(DEEP, near_line_effect=0.05, near_line_ms=4 * HOUR_MS, cold_every_warms=2, schedule_ms=9 * HOUR_MS)
    running, restored = deep(rules), deep(rules)
    for each in inputs[:stop]:
        running.add(each)
    snapshot = running.snapshot()
    kept = pickle.dumps(snapshot)
    expected = [running.add(each) for each in inputs[stop:]]
    assert pickle.dumps(snapshot) == kept  # what goes on leaves a snapshot as it was
    restored.restore(pickle.loads(kept))
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


def test_two_language_models_that_fall_in_one_window_are_two_rows(fresh_stores: Endpoints) -> None:
    state, found = findings(), list[Finding]()
    for version in ("v1", "v2"):
        found += state.add(replace(labels_fall(1), feature=f"llm_score@{version}", reason=f"AUC of {version} fell"))
    write(fresh_stores, Tally(), found, None)
    rows = all_rows(fresh_stores.postgres_dsn)["drift_events"]
    assert sorted((row["kind"], row["feature"]) for row in rows) == [
        ("drift", "llm_score@v1"), ("drift", "llm_score@v2"), ("suppressed", "llm_score@v1"), ("suppressed", "llm_score@v2")
    ]  # fmt: skip


def test_a_window_of_labels_is_stored_beside_those_of_features_and_is_none_of_the_monitored_ones(
    fresh_stores: Endpoints,
) -> None:
    labels, found = DelayedLabels(HOUR_MS, 1, drop_fraction=0.1, settle_ms=0), list[Finding]()
    for hour in range(3):
        for told in labels.add(MOVIES, ModelVersion("v1"), hour * HOUR_MS, hour, [1.0, -1.0], [True, False]):
            assert isinstance(told, FeatureWindowRow)
            found += findings().add(told)
    instruments = Instruments([3600])
    with closing(Database(fresh_stores.postgres_dsn)) as database:
        sink = FindingSink(PostgresWindows(database), PostgresJobs(database), Tally(), instruments)
        part = sink.build_part("step", sink.list_parts()[0], None)
        part.write_batch(found)
        part.snapshot()
        part.close()
        stored = PostgresWindows(database).feature_windows(MOVIES, 0, 9 * HOUR_MS)
    assert [(row.feature, row.events, row.statistics["auc"]) for row in stored] == [("llm_score@v1", 2, 1.0)] * 2
    assert b"llm_score" not in generate_latest(instruments.registry)


def test_figures_go_on_from_the_snapshot(fresh_stores: Endpoints) -> None:
    tally = Tally()
    assert write(fresh_stores, tally, [VARIANT, scored(1).row], (7, 3, 2, 1)) == (7, 3, 2, 1)
    assert (tally.drift_events, tally.triggers, tally.suppressed, tally.jobs) == (7, 3, 2, 1)
    assert len(all_rows(fresh_stores.postgres_dsn)["model_metrics"]) == 1


def test_variant_windows_and_sums_by_group_are_stored_and_a_later_state_replaces_an_earlier_one(
    fresh_stores: Endpoints,
) -> None:
    grown = msgspec.structs.replace(GROUPED, counts=bytes(16 * GROUPS))
    anew = msgspec.structs.replace(GROUPED, since_ms=6)
    write(fresh_stores, Tally(), [VARIANT, GROUPED, anew, grown], None)
    rows = all_rows(fresh_stores.postgres_dsn)
    ((window,), groups) = rows["model_metrics"], rows["grouped_metrics"]
    assert (window["variant"], window["stage_users"], window["requests"]) == ("stable", 1, 1)
    assert [(row["variant"], row["stage"], row["since_ms"], row["counts"]) for row in groups] == [
        ("stable", 1, since_ms, "\\x" + each.counts.hex()) for since_ms, each in ((5, grown), (6, anew))
    ]


def test_counts_of_a_shadow_are_stored_and_a_later_state_replaces_an_earlier_one(fresh_stores: Endpoints) -> None:
    grown = msgspec.structs.replace(SHADOWED, counts=bytes(9_760))
    anew = msgspec.structs.replace(SHADOWED, since_ms=6)
    write(fresh_stores, Tally(), [SHADOWED, anew, grown], None)
    rows = all_rows(fresh_stores.postgres_dsn)["shadow_metrics"]
    assert [(row["model"], row["version"], row["since_ms"], row["counts"]) for row in rows] == [
        ("movies", "v2", since_ms, "\\x" + each.counts.hex()) for since_ms, each in ((5, grown), (6, anew))
    ]


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
