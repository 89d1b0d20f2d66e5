"""Looks of the rollout controller between its ticks: what they take for a failure, what they leave, and what they record."""

import threading
from collections.abc import Iterator
from dataclasses import replace as replace_dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from online_models.contracts.rollouts import (
    Phase,
    Rollout,
    Served,
)
from online_models.errors import StoreError
from online_models.ports import Act
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres_rollouts import PostgresRollouts
from serving_api.rollouts.controller import Pacing
from serving_api.rollouts.decisions import Hold, Move
from serving_api.rollouts.readiness import RolloutStores
from serving_api.rollouts.transitions import Command
from tests.api_process import eventually
from tests.rollout_desk import MOVIES, Desk, controller_desk


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    with controller_desk(fresh_stores, tmp_path) as desk:
        yield desk


@pytest.mark.parametrize("paused", [False, True])
def test_a_canary_that_fails_its_requests_is_off_at_the_next_look(desk: Desk, paused: bool) -> None:
    stable, _ = desk.ramping()
    if paused:
        desk.order(Command.PAUSE)
    desk.serve("canary", 15, errors=15)
    assert desk.look(timedelta(seconds=1)) is None  # too few to say
    desk.serve("canary", 10, errors=10)
    assert isinstance(desk.look(timedelta(seconds=1)), Move)
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.ROLLED_BACK, 0)
    route = desk.route()
    assert (route.stable, route.canary) == (stable, None)
    last = desk.last_event()
    assert "errors of 25 of 25" in last.reason
    recent = last.evidence["recent"]
    assert isinstance(recent, dict)
    assert recent["requests"] == 25
    assert desk.look(timedelta(seconds=1)) is None


def test_errors_of_long_ago_and_of_stable_trip_nothing(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 1_000, errors=150)
    desk.serve("stable", 1_000, errors=1_000)
    assert desk.look(timedelta(seconds=1)) is None
    desk.serve("canary", 19, errors=19)
    assert desk.look(timedelta(minutes=5)) is None
    assert desk.latest().phase is Phase.RAMPING


def test_people_of_whom_nothing_is_known_end_no_rollout(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 100, cold=90)
    desk.serve("stable", 1_900, cold=1_710)
    assert desk.look(timedelta(seconds=1)) is None
    assert isinstance(desk.tick(), Hold)
    assert desk.latest().phase is Phase.RAMPING


def test_a_controller_that_begins_while_a_canary_fails_sees_what_happened_in_this_stage(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 30, errors=30)
    successor = desk.build("second", desk.database)
    desk.now += timedelta(seconds=2)
    successor._watch(MOVIES, desk.latest())
    assert isinstance(successor.look()[MOVIES], Move)


def test_after_a_resume_a_controller_that_begins_does_not_take_the_whole_stage_for_the_last_minute(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 90, errors=30)
    desk.now += timedelta(hours=1)
    desk.order(Command.PAUSE)
    desk.order(Command.RESUME)
    desk.now += timedelta(seconds=2)
    successor = desk.build("second", desk.database)
    successor._watch(MOVIES, desk.latest())
    assert successor.look() == {}
    desk.serve("canary", 30, errors=30)
    desk.now += timedelta(seconds=1)
    assert isinstance(successor.look()[MOVIES], Move)


def test_a_look_at_what_an_operator_has_ended_changes_nothing(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 30, errors=30)
    desk.order(Command.ABORT)
    assert isinstance(desk.look(timedelta(seconds=1)), Hold)
    assert desk.latest().phase is Phase.ABORTED


def test_what_failed_in_a_rollout_ends_no_later_one(desk: Desk) -> None:
    _, canary = desk.ramping()
    watching, acting = desk.controller, desk.build("second", desk.database)
    desk.serve("canary", 30, errors=30)
    desk.publish(3)
    acting.tick()
    acting.tick()
    assert desk.latest().canary != canary
    assert watching.look() == {}
    assert desk.latest().phase is Phase.PREPARING


def test_what_fails_while_another_controller_moves_on_is_off_in_its_new_stage(desk: Desk) -> None:
    _, canary = desk.ramping()
    watching, acting = desk.controller, desk.build("second", desk.database)
    watching.look()
    desk.controller = acting
    desk.pass_stage(canary)
    assert desk.latest().stage == 2
    rollout = desk.latest()
    failing = {(1, "canary"): Served(requests=80_000, errors=70_000)}
    desk.routes.put_served(MOVIES, rollout.id, "another reader", failing)
    desk.now += timedelta(seconds=1)
    assert isinstance(watching.look()[MOVIES], Move)
    assert desk.latest().phase is Phase.ROLLED_BACK


def test_running_ticks_now_and_then_and_looks_more_often(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 30, errors=30)
    desk.now += timedelta(seconds=1)
    stop = threading.Event()
    running = threading.Thread(target=desk.controller.run, args=(stop, Pacing(full_seconds=600.0, fast_seconds=0.01)))
    running.start()
    try:
        eventually(lambda: desk.latest().phase is Phase.ROLLED_BACK, "a look rolls back")
    finally:
        stop.set()
        running.join()
    assert "breaker" in desk.reasons()[-1]


def test_a_decision_that_fails_keeps_no_route_from_the_readers(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 30, errors=30)

    def stuck(stores: RolloutStores) -> RolloutStores:
        return replace_dataclass(stores, rollouts=Stuck(desk.database))

    controller = desk.build("second", desk.database, stuck)
    controller._watch(MOVIES, desk.latest())
    desk.order(Command.PAUSE)
    desk.now += timedelta(seconds=1)
    assert controller.look() == {}
    assert controller.failures == 1
    assert (desk.route().epoch, desk.latest().phase) == (desk.latest().epoch, Phase.PAUSED)


class Stuck(PostgresRollouts):
    """Rollouts that cannot be moved."""

    def transition(self, old: Rollout, new: Rollout, act: Act) -> Rollout:
        raise StoreError(f"rollout {old.id} should become {new.phase}, because {act.reason}, and cannot")
