"""What operators are shown of a rollout: its counts, what the gates say of them, and who did what."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import Phase, ReaderStatus, Rollout, Served, ShadowCounts, VariantWindow
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres_windows import PostgresWindows
from serving_api.access import Role
from serving_api.commands.lines import history_lines, start_lines, status_lines
from tests.api_process import eventually
from tests.operator_world import MOVIES, Desk, operator_desk


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    with operator_desk(fresh_stores, tmp_path) as desk:
        yield desk


def count(desk: Desk, rollout: Rollout, version: ModelVersion, variant: str, users: int, successes: int) -> None:
    """What the stream job and a reader would say of one variant in the present stage."""
    every = {"users": users, "successes": successes, "requests": users, "hits": successes}
    window = VariantWindow(
        MOVIES, version, rollout.id, rollout.stage, 0, 60_000, **every,
        impressions=users, clicks=successes, variant=variant, stage_users=users,
    )  # fmt: skip
    PostgresWindows(desk.world.database).put_variant_windows([window])
    served = Served(requests=users, users=users, latency=(users, *[0] * 12))
    desk.world.routes.put_served(MOVIES, rollout.id, f"reader-{variant}", {(rollout.stage, variant): served})


def harmed(desk: Desk) -> Rollout:
    """A rollout whose canary takes away what its users had."""
    desk.started()
    rollout = desk.world.ramp(3)
    count(desk, rollout, rollout.canary, "canary", 2_000, 100)
    count(desk, rollout, rollout.stable, "stable", 2_000, 600)
    return rollout


def test_a_report_has_the_plan_the_counts_and_what_the_gates_say_now(desk: Desk) -> None:
    rollout = harmed(desk)
    response = desk.get()
    told = response.json()
    assert response.headers["ETag"] == f'"{rollout.epoch}"'
    assert (told["phase"], told["stage"], told["weight_bp"]) == ("ramping", 3, 5_000)
    assert [stage["weight_bp"] for stage in told["plan"]["stages"]] == [0, 500, 2_500, 5_000, 7_500, 9_800]
    present = told["stages"][3]
    counts = {each["variant"]: (each["version"], each["users"], each["successes"]) for each in present["counts"]}
    assert counts == {"canary": ("v3", 2_000, 100), "stable": ("v2", 2_000, 600)}
    assert {each["variant"]: each["requests"] for each in present["served"]} == {"canary": 2_000, "stable": 2_000}
    assert told["stages"][0] == {"stage": 0, "counts": [], "served": []}
    assert told["judged"]["verdict"] == "Failed"
    assert told["judged"]["evidence"]["log_e"] > told["judged"]["evidence"]["log_e_limit"]
    assert told["outlook"].startswith("the next tick makes it rolled_back")
    assert (told["last_event"]["reason"], told["last_event"]["to_stage"]) == ("set up", 3)


def test_a_report_says_what_is_waited_for(desk: Desk) -> None:
    desk.started()
    preparing = desk.get().json()
    assert (preparing["judged"], preparing["stages"]) == (None, [])
    assert "reader" in preparing["outlook"]
    desk.world.ramp(1)
    told = desk.get().json()
    assert told["judged"]["verdict"] == "Inconclusive"
    assert told["outlook"] == told["judged"]["reason"]


def test_a_finished_rollout_is_final_and_keeps_its_counts(desk: Desk) -> None:
    harmed(desk)
    desk.post("abort")
    told = desk.get().json()
    assert (told["phase"], told["judged"], told["outlook"]) == ("aborted", None, "aborted is final")
    assert told["stages"][3]["counts"][0]["users"] == 2_000


def test_a_bandit_and_a_rollback_are_shown_as_well(desk: Desk) -> None:
    desk.started(kind="bandit", arms=["v1", "v2", "v3"])
    desk.world.ramp(0)
    told = desk.get().json()
    assert (told["judged"], [arm["weight_bp"] for arm in told["arms"]]) == (None, [3_334, 3_333, 3_333])
    desk.post("rollback", body={"version": "previous", "reason": "a slip"})
    back = desk.get().json()
    assert (back["kind"], back["phase"], back["plan"]["stages"], back["stages"]) == ("rollback", "promoted", [], [])


def test_a_rollback_tells_what_readers_say_of_the_version_that_was_returned_to(desk: Desk) -> None:
    routes, (first, _) = desk.world.routes, desk.world.champions
    assert desk.post("rollback", body={"version": "previous", "reason": "a slip"}).status_code == 200
    eventually(lambda: desk.get().json()["outlook"] == "promoted is final", "the reader holds the version")
    routes.heartbeat(MOVIES, "another", desk.api.parts.clock())
    assert desk.get().json()["outlook"] == "promoted is final; waiting for reader another"
    routes.put_status(MOVIES, "another", ReaderStatus(first, ready=False, error="golden query 0"))
    assert desk.get().json()["outlook"] == "promoted is final; refused by reader another: golden query 0"


def test_the_history_names_who_did_what_and_why_the_youngest_first(desk: Desk) -> None:
    desk.started()
    desk.post("pause", Role.OPERATOR, {"reason": "looking at it"})
    desk.post("abort", Role.APPROVER, {"reason": "seen enough"})
    told = desk.get("/history").json()["rollouts"]
    assert [rollout["phase"] for rollout in told] == ["aborted", "promoted"]
    events = told[0]["events"]
    assert [event["to_phase"] for event in events] == ["preparing", "paused", "aborted"]
    assert [event["reason"] for event in events[1:]] == ["looking at it", "seen enough"]
    names = [event["actor"].split(" (")[0] for event in events]
    assert names == ["key:the-admin", "key:the-operator", "key:the-approver"]
    assert [event["evidence"]["role"] for event in events] == ["admin", "operator", "approver"]
    assert len(desk.get("/history?limit=1").json()["rollouts"]) == 1
    for limit in ("0", "101", "many"):
        assert desk.get(f"/history?limit={limit}").status_code == 422


def test_lines_for_people_name_the_boundaries_and_what_happened(desk: Desk) -> None:
    rollout = harmed(desk)
    lines = status_lines(desk.get().content)
    text = "\n".join(lines)
    assert lines[0] == f"movies rollout {rollout.id} (canary): v3 beside v2"
    assert lines[1].strip() == f"ramping in stage 3, 50 % of users, epoch {rollout.epoch}"
    assert "by test: set up" in lines[2]
    for words in ("gates: Failed", "harm", "of 3.689", "canary 2000 of 500", "errors", "the next tick makes it rolled"):
        assert words in text, text
    history = history_lines(desk.get("/history").content)
    assert history[0].split() == ["rollout", "when", "epoch", "phase", "stage", "weight", "who", "why"]
    assert len(history) == 5
    assert sum("ramping" in line and "50 %" in line for line in history) == 1


def test_lines_of_a_shadow_tell_requests_for_nobody_is_on_its_canary(desk: Desk) -> None:
    desk.started()
    rollout = desk.world.ramp(0)
    needed = rollout.plan.stages[0]
    served = Served(requests=7, users=7, latency=(7, *[0] * 12))
    desk.world.routes.put_served(MOVIES, rollout.id, "reader-7", {(0, "canary"): served})
    lines = [line.split() for line in status_lines(desk.get().content)]
    (told,) = [line for line in lines if line[:2] == ["requests", "canary"]]
    assert told == f"requests canary 7 of {needed.min_users}, stable 0 of {needed.min_stable_users}".split()
    assert not [line for line in lines if line[:2] == ["users", "canary"]]


def test_a_shadow_is_shown_with_what_its_lists_would_earn(desk: Desk) -> None:
    desk.started()
    rollout = desk.world.ramp(0)
    assert desk.get().json()["judged"]["evidence"]["offline"] is None
    assert offline_line(desk) == "nothing is counted yet"
    windows, counts = PostgresWindows(desk.world.database), np.zeros((2, 20, 61), "<u4")
    counts[0, np.arange(10), np.arange(10)] = 20
    windows.put_shadow_counts([ShadowCounts(MOVIES, rollout.canary, 0, counts.tobytes())])
    assert offline_line(desk) == "200 effective impressions of 200, 500 needed"
    counts[0], counts[1] = counts[0] * 10, counts[0] * 2
    windows.put_shadow_counts([ShadowCounts(MOVIES, rollout.canary, 0, counts.tobytes())])
    told = desk.get().json()["judged"]["evidence"]["offline"]
    assert (told["looks"], told["lists"], told["at_least"], told["taken"]) == ("assumed", 200, 2.0, 400)
    assert offline_line(desk) == (
        "at least 2 clicks a list, 2 as shown; order of common items +0.00%, +0.00% to +0.00%; 100.0% of what was taken "
        "is in it; 2000 effective impressions, looks assumed"
    )
    desk.post("promote", body={"reason": "seen enough"})
    assert desk.world.events()[-1].evidence["offline"] == told


def offline_line(desk: Desk) -> str:
    """What the command says of the shadow's lists."""
    (line,) = [line for line in status_lines(desk.get().content) if line.split()[0] == "offline"]
    return " ".join(line.split()[1:])


def test_lines_of_people_on_a_canary_tell_nothing_of_a_shadow(desk: Desk) -> None:
    harmed(desk)
    assert not [line for line in status_lines(desk.get().content) if line.split()[0] == "offline"]


def test_a_rollout_whose_plan_nobody_can_read_is_shown_and_ended(desk: Desk) -> None:
    desk.started()
    desk.world.ramp(2)
    desk.world.database.run(lambda cursor: cursor.execute("UPDATE rollouts SET plan = '[]' WHERE phase = 'ramping'"))
    told = desk.get()
    assert (told.status_code, "its plan has no such stage" in told.json()["outlook"]) == (200, True)
    assert desk.get("/history").status_code == 200
    ended = desk.post("abort")
    assert (ended.status_code, ended.json()["phase"], ended.json()["routed"]) == (200, "aborted", True)


@pytest.mark.parametrize("column", ["kind", "phase"])
def test_a_row_that_nobody_can_read_is_told_of(desk: Desk, column: str) -> None:
    desk.started()
    with desk.world.database.transaction() as cursor:
        cursor.execute(f"ALTER TABLE rollouts DROP CONSTRAINT rollouts_{column}_check")
        cursor.execute(f"UPDATE rollouts SET {column} = 'of a later release'")
    for rest in ("", "/history"):
        told = desk.get(rest)
        assert (told.status_code, "of a later release" in told.text) == (503, True)
    assert desk.post("abort", matched=False).status_code == 409


def test_lines_of_a_start_tell_the_forecast_and_its_warnings(desk: Desk) -> None:
    lines = start_lines(desk.start().content)
    assert any(line.strip().startswith("expected:") for line in lines)
    assert any("warning: no traffic is known" in line for line in lines)
    assert Phase.PREPARING in lines[1]
