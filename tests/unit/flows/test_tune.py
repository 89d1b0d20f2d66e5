"""A replay over sets of policies: each alarms as it would have in the stream job, and triggers by its own rules."""

import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from flows.__main__ import main
from flows.offline import Log, parse_log
from flows.ranges import TimeRange
from flows.settings import FlowSettings
from flows.triggers import TriggerPolicy
from flows.tune import (
    Alarm,
    Outcome,
    PolicySet,
    episodes,
    json_of,
    read_sets,
    reference_span,
    text_of,
    tune,
    usual_sets,
)
from online_models.contracts.events import Event, EventType, TimeBounds
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.drift.policy import Policy
from online_models.errors import SourceError
from tests.samples import event
from tests.strategies import ndjson

HOUR_MS = 3_600_000
START_MS = 1_300_000_000_000 // (24 * HOUR_MS) * (24 * HOUR_MS)
BOUNDS = TimeBounds(0, 2**62)
RATING = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 10.0, 100)
SETTINGS = FlowSettings(
    features=(RATING,),
    window_seconds=3 * 3600,
    slide_seconds=3600,
    lateness_seconds=0,
    cooldown_seconds=0,
    near_line_effect=0.0,
)
RULES = TriggerPolicy(hysteresis=2, cooldown_ms=0, daily_budget=4)
SHIPPED = PolicySet("shipped", {"recommender": Policy()}, RULES)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Three days of 500 ratings an hour; the third day's are higher by half a standard deviation."""
    rng = np.random.default_rng(11)
    events: list[Event] = []
    for hour in range(72):
        for at in np.sort(rng.integers(0, HOUR_MS, 500)).tolist():
            value = float(np.clip(rng.normal(5.5 if hour >= 48 else 5.0, 1), 0, 9.9))
            events.append(event(len(events), ts=START_MS + hour * HOUR_MS + at, value=value))
    path = tmp_path_factory.mktemp("logs") / "log.ndjson"
    path.write_bytes(ndjson(events))
    return parse_log(str(path))


DAY_ONE = TimeRange(START_MS, START_MS + 24 * HOUR_MS)


def test_a_drift_is_found_when_it_came_and_explained(log: Log) -> None:
    (found,) = tune(log, DAY_ONE, SETTINGS, [SHIPPED], BOUNDS)
    assert found.windows == 45  # they end by the hour from 03:00 of the second day to 23:00 of the third
    assert {alarm.feature for alarm in found.alarms} == {"rating"}
    assert min(alarm.window_end for alarm in found.alarms) in ("2011-03-15T01:00:00Z", "2011-03-15T02:00:00Z")
    assert len(episodes(found.alarms)) == 1
    assert all(alarm.why.startswith("rating: drift, ") for alarm in found.alarms)


def test_a_small_drift_is_left_to_the_online_updates_as_in_the_stream_job(log: Log) -> None:
    eager = PolicySet("eager", {"recommender": Policy(confirm=False)}, TriggerPolicy(1, 0, 99))
    lenient = SETTINGS.model_copy(update={"near_line_effect": 0.1})
    (trained,) = tune(log, DAY_ONE, SETTINGS, [eager], BOUNDS)
    (left,) = tune(log, DAY_ONE, lenient, [eager], BOUNDS)
    small = [each for each in left.decisions if each.reason.startswith("near-line updates answer it")]
    assert 0 < len(small) < trained.triggers
    assert left.triggers == trained.triggers - len(small)


def test_text_triggers_apart_from_what_the_recommender_reads(log: Log) -> None:
    """Here the ratings stand for both: each alarms, and neither counts for the other's hysteresis."""
    read = msgspec.structs.replace(RATING, name="read", component="llm")
    settings = SETTINGS.model_copy(update={"features": (RATING, read)})
    both = PolicySet("both", {"recommender": Policy(), "llm": Policy()}, RULES)
    (found,) = tune(log, DAY_ONE, settings, [both], BOUNDS)
    first = [each for each in found.decisions if each.triggered][:2]
    assert [each.features for each in first] == [("rating",), ("read",)]


def test_sets_differ_and_the_trigger_rules_say_what_they_suppressed(log: Log) -> None:
    eager = PolicySet("eager", {"recommender": Policy(confirm=False)}, TriggerPolicy(1, 0, 1))
    deaf = PolicySet("deaf", {"recommender": Policy(effect=5.0)}, RULES)
    shipped, quick, silent = tune(log, DAY_ONE, SETTINGS, [SHIPPED, eager, deaf], BOUNDS)
    assert (silent.alarms, silent.decisions) == ([], [])
    first = next(asked for asked in shipped.decisions)
    assert not first.triggered
    assert first.reason == "hysteresis: 1 of 2 drifting windows in a row"
    assert next(asked for asked in quick.decisions).triggered
    assert quick.triggers == 1
    assert {asked.reason.split(":")[0] for asked in quick.decisions if not asked.triggered} == {"budget"}
    assert len(quick.alarms) >= len(shipped.alarms)


def test_a_window_that_touches_the_reference_is_not_judged(log: Log) -> None:
    late = TimeRange(START_MS + 20 * HOUR_MS, START_MS + 70 * HOUR_MS)
    (found,) = tune(log, late, SETTINGS, [SHIPPED], BOUNDS)
    assert found.windows == 20  # those that end by 20:00 of the first day


def test_the_reference_is_the_first_share_or_a_range(log: Log) -> None:
    assert reference_span(None, log, SETTINGS, BOUNDS).end_ms == START_MS + 22 * HOUR_MS
    assert reference_span("50%", log, SETTINGS, BOUNDS) == reference_span("0.5", log, SETTINGS, BOUNDS)
    assert reference_span("2011-03-13..2011-03-14", log, SETTINGS, BOUNDS) == DAY_ONE
    for wrong in ("half", "120%", "0", "nan"):
        with pytest.raises(SourceError, match=r"expected a range A\.\.B or a share"):
            reference_span(wrong, log, SETTINGS, BOUNDS)


def test_the_usual_sets_go_in_both_directions_from_the_settings() -> None:
    settings = FlowSettings(policies={"recommender": {"q": 0.02, "effect": 0.1}}, hysteresis_windows=3)
    ours = Policy(q=0.02, effect=0.1, min_events=settings.min_window_events)
    sets = {each.name: each for each in usual_sets(settings, ["llm", "recommender"])}
    assert list(sets) == ["settings", "published", "stricter", "looser"]
    assert sets["settings"].policies == {"llm": Policy(min_events=settings.min_window_events), "recommender": ours}
    assert sets["stricter"].policies["recommender"].q < ours.q < sets["looser"].policies["recommender"].q
    assert sets["stricter"].policies["recommender"].effect > ours.effect > sets["looser"].policies["recommender"].effect
    assert not sets["published"].policies["llm"].calibrated
    assert {each.trigger.hysteresis for each in sets.values()} == {3}
    assert usual_sets(FlowSettings(), ["recommender"])[0].name == "shipped"


def test_a_user_s_sets_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sets.toml"
    path.write_text('[mine.recommender]\nrule = "any"\nq = 0.05\n[mine.trigger]\nhysteresis_windows = 1\n[bare]\n')
    mine, bare = read_sets(path, SETTINGS)
    assert mine == PolicySet("mine", {"recommender": Policy(rule="any", q=0.05)}, TriggerPolicy(1, 0, 4))
    assert bare == PolicySet("bare", {}, RULES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a.recommender]\nrool = 1", "rool"),
        ("[a.recommender]\nq = 2.0", "q between 0 and 1"),
        ("[a.trigger]\ndaily_budget = 0", "daily_budget >= 1"),
        ("a = 1", "Expected `object`"),
        ("[a", "sets.toml"),
    ],
)
def test_sets_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sets.toml"
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_sets(path, SETTINGS)
    with pytest.raises(SourceError, match=r"no\.toml"):
        read_sets(tmp_path / "no.toml", SETTINGS)


def test_alarms_that_follow_each_other_are_one_episode() -> None:
    def alarm(number: int, feature: str = "a") -> Alarm:
        hour = f"2011-03-13T{number:02}:00:00Z"
        return Alarm("movies", feature, number, "2011-03-13T00:00:00Z", hour, float(number), f"why {number}")

    # every window is as long as the others
    given = [dataclasses.replace(alarm(n), window_start=f"2011-03-13T{n - 1:02}:00:00Z") for n in (1, 2, 3, 7, 8)]
    given.insert(2, dataclasses.replace(alarm(2, "b"), window_start="2011-03-13T01:00:00Z"))
    assert [[each.number for each in episode] for episode in episodes(given)] == [[1, 2, 3], [2], [7, 8]]
    told = text_of([Outcome("mine", 9, given), Outcome("calm", 9)], DAY_ONE)
    assert "why 3 (3 windows until 2011-03-13T03:00:00Z; at its strongest)" in told
    assert told.endswith("calm:\nno alarm")


def test_the_json_holds_everything(log: Log) -> None:
    (found,) = tune(log, DAY_ONE, SETTINGS, [SHIPPED], BOUNDS)
    told = json.loads(json_of([found], DAY_ONE))
    assert told["reference"] == "2011-03-13..2011-03-14"
    (one,) = told["sets"]
    assert one["triggers"] == found.triggers
    assert [alarm["why"] for alarm in one["alarms"]] == [alarm.why for alarm in found.alarms]
    assert [asked["reason"] for asked in one["decisions"]] == [asked.reason for asked in found.decisions]


def test_the_command_prints_a_table_and_writes_json(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_FLOW_WINDOW_SECONDS", "14400")
    assert main(["tune", str(log.paths[0]), "--reference", "2011-03-13..2011-03-14", "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("reference: 2011-03-13..2011-03-14")
    assert [line.split()[0] for line in out.splitlines()[3:7]] == ["shipped", "published", "stricter", "looser"]
    assert "2011-03-15" in out
    assert len(json.loads((tmp_path / "out.json").read_text())["sets"]) == 4
    assert main(["tune", str(log.paths[0]), "--sets", "none.toml"]) == 1
    assert "--sets: none.toml" in capsys.readouterr().err


def test_a_log_too_small_for_a_verdict_is_not_called_calm(log: Log) -> None:
    few = Log(log.paths, TimeRange(START_MS, START_MS + HOUR_MS // 20))
    span = TimeRange(START_MS, START_MS + HOUR_MS // 40)
    (found,) = tune(few, span, SETTINGS, [SHIPPED], BOUNDS)
    assert (found.windows, found.alarms) == (0, [])
    assert text_of([found], span).endswith("no window held enough events for a verdict")


def test_a_log_without_events_says_why_its_first_row_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"broken\n")
    with pytest.raises(SourceError, match=r"no acceptable event, the first row was refused: JSON is malformed"):
        reference_span(None, parse_log(str(tmp_path / "a.ndjson")), SETTINGS, BOUNDS)
