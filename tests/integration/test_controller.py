"""The rollout controller on real PostgreSQL and Redis: what moves a rollout, what holds it, how it ends, and who wins a race."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace as replace_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from online_models.contracts import keys
from online_models.contracts.ids import ModelName
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    Phase,
)
from online_models.errors import StoreError
from online_models.stores import postgres as postgres_store
from online_models.stores.embedded import Endpoints
from serving_api.rollouts.decisions import Adopt, Create, Hold, Move
from serving_api.rollouts.transitions import Command
from tests.api_process import eventually, started_api, store_settings
from tests.artifacts import flip_one_byte
from tests.own_redis import running_redis
from tests.racing import outcomes
from tests.rollout_desk import MINUTE, MOVIES, PLAN, Desk, controller_desk

WEIGHTS = [stage.weight_bp for stage in PLAN.stages]
LAST = len(WEIGHTS) - 1


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    with controller_desk(fresh_stores, tmp_path) as desk:
        yield desk


def test_the_first_version_is_adopted_without_a_rollout(desk: Desk) -> None:
    version = desk.publish(1)
    assert desk.tick() == Adopt(version)
    route = desk.route()
    assert (route.stable, route.canary, route.rollout_id) == (version, None, None)
    assert isinstance(desk.tick(), Hold)


def test_a_first_version_with_a_damaged_artifact_is_not_adopted_but_the_next_whole_one_is(desk: Desk) -> None:
    damaged = desk.publish(1)
    flip_one_byte(desk.artifacts.path(MOVIES, damaged) / "factors.safetensors")
    assert isinstance(desk.tick(), Hold)
    assert desk.routes.route(MOVIES) is None
    whole = desk.publish(2)
    assert desk.tick() == Adopt(whole)


def test_a_candidate_waits_at_weight_zero_until_every_live_reader_holds_it(desk: Desk) -> None:
    desk.publish(1)
    desk.tick()
    canary = desk.publish(2)
    assert isinstance(desk.tick(), Create)
    route = desk.route()
    assert (route.canary, route.weight_bp, route.shadow) == (canary, 0, False)  # readers load it from here
    assert desk.tick() == Hold("no live reader")
    desk.say(canary, reader="one")
    desk.routes.heartbeat(MOVIES, "two", desk.now)
    desk.routes.heartbeat(ModelName("products"), "a reader of another domain", desk.now)
    assert desk.tick() == Hold("waiting for reader two")
    desk.say(canary, reader="two")
    assert isinstance(desk.tick(), Move)
    route = desk.route()
    assert (route.weight_bp, route.shadow) == (0, True)


def test_a_rollout_begins_with_the_controller_s_plan_and_a_forecast(desk: Desk) -> None:
    desk.preparing()
    assert desk.latest().plan == PLAN
    (created,) = desk.rollouts.events(desk.latest())
    assert created.actor == "first"
    forecast = created.evidence["forecast"]
    assert isinstance(forecast, dict)
    assert len(forecast["stages"]) == len(PLAN.stages)
    assert forecast["warnings"]  # nobody has been seen yet


def test_no_data_holds_for_ever(desk: Desk) -> None:
    _, canary = desk.ramping()
    reasons = []
    for _ in range(5):
        desk.say(canary)
        held = desk.tick(30 * MINUTE)
        assert isinstance(held, Hold)
        reasons.append(held.reason)
    assert ["overdue" in reason for reason in reasons] == [False, False, True, True, True]
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.RAMPING, 500)


def test_a_good_candidate_is_promoted_through_all_stages_with_a_row_for_each(desk: Desk) -> None:
    _, canary = desk.preparing()
    desk.say(canary)
    desk.tick()
    for _ in WEIGHTS:
        assert isinstance(desk.pass_stage(canary), Move)
    assert desk.events() == [
        ("preparing", -1, 0),
        *(("ramping", stage, weight) for stage, weight in enumerate(WEIGHTS)),
        ("promoted", LAST, FULL_WEIGHT_BP),
    ]
    assert desk.registry.champion(MOVIES) == canary
    route = desk.route()
    assert (route.stable, route.canary, route.epoch) == (canary, None, desk.latest().epoch)
    assert isinstance(desk.tick(), Hold)


def test_after_a_day_without_a_controller_a_rollout_goes_on_by_one_stage(desk: Desk) -> None:
    _, canary = desk.ramping()
    desk.count(canary_rate=0.21, stable_rate=0.20)
    desk.now += timedelta(days=1)
    desk.say(canary)
    for _ in range(3):
        desk.tick()
    assert desk.latest().stage == 2


def test_a_clearly_bad_candidate_is_rolled_back_at_once_with_its_evidence(desk: Desk) -> None:
    stable, _ = desk.ramping()
    desk.count(canary_rate=0.01, stable_rate=0.20)
    desk.tick()
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.ROLLED_BACK, 0)
    assert desk.registry.champion(MOVIES) == stable
    route = desk.route()
    assert (route.stable, route.canary, route.weight_bp) == (stable, None, 0)
    last = desk.last_event()
    assert last.evidence["verdict"] == "Failed"
    assert last.evidence["judgement"] == last.reason
    stages = last.evidence["stages"]
    assert isinstance(stages, list)
    assert stages[-1]["canary"]["successes"] == 20
    assert desk.tick() == Hold("no candidate")  # what was tried is not tried again


def test_an_artifact_that_a_reader_refuses_is_rolled_back_with_the_readers_words(desk: Desk) -> None:
    _, canary = desk.preparing()
    desk.say(canary, ready=False, error="expected SHA-256 abc, found def")
    desk.tick()
    assert desk.latest().phase is Phase.ROLLED_BACK
    assert "expected SHA-256 abc, found def" in desk.reasons()[-1]


def test_a_younger_candidate_takes_the_canarys_place_and_never_stables(desk: Desk) -> None:
    stable, canary = desk.ramping()
    younger = desk.publish(3)
    assert isinstance(desk.tick(), Move)
    assert desk.latest().phase is Phase.SUPERSEDED
    assert isinstance(desk.tick(), Create)
    assert (desk.latest().stable, desk.latest().canary) == (stable, younger)
    assert canary not in (desk.latest().stable, desk.latest().canary)


def test_a_candidate_older_than_one_that_was_tried_is_left(desk: Desk) -> None:
    desk.publish(1)
    desk.tick()
    desk.publish(2)
    youngest = desk.publish(3)
    desk.tick()
    assert desk.latest().canary == youngest
    desk.say(youngest, ready=False, error="refused")
    desk.tick()
    assert desk.tick() == Hold("no candidate")


def test_a_paused_rollout_waits_for_its_operator_while_a_younger_candidate_waits_too(desk: Desk) -> None:
    _, canary = desk.ramping()
    desk.order(Command.PAUSE)
    desk.publish(3)
    assert isinstance(desk.pass_stage(canary), Hold)
    assert (desk.latest().phase, desk.route().weight_bp) == (Phase.PAUSED, 500)
    desk.order(Command.RESUME)
    assert isinstance(desk.tick(), Move)
    assert desk.latest().phase is Phase.SUPERSEDED


def test_a_paused_rollout_is_still_rolled_back(desk: Desk) -> None:
    desk.ramping()
    desk.order(Command.PAUSE)
    desk.count(canary_rate=0.01, stable_rate=0.20)
    desk.tick()
    assert desk.latest().phase is Phase.ROLLED_BACK


def test_an_aborted_rollout_is_followed_by_the_next_candidate_and_not_by_itself(desk: Desk) -> None:
    stable, _ = desk.ramping()
    desk.order(Command.ABORT)
    assert desk.tick() == Hold("no candidate")
    route = desk.route()
    assert (route.stable, route.canary) == (stable, None)
    younger = desk.publish(3)
    assert desk.tick() == Create(stable, younger)


def test_while_redis_is_away_ticks_and_looks_are_counted_as_failed_and_later_ones_go_on(
    postgres: str, tmp_path: Path
) -> None:
    with (
        running_redis(tmp_path / "redis") as server,
        controller_desk(Endpoints(server.url, postgres), tmp_path) as desk,
    ):
        _, canary = desk.ramping()
        server.stop()
        assert desk.controller.tick() == {}
        assert desk.controller.look() == {}
        assert desk.controller.failures == 2
        server.start()
        assert isinstance(desk.pass_stage(canary), Move)
        assert desk.route().weight_bp == 2_500


def test_sums_that_cannot_be_read_keep_no_route_from_the_readers(desk: Desk) -> None:
    desk.ramping()
    desk.order(Command.PAUSE)
    key = keys.served(MOVIES, desk.latest().id)
    desk.routes._client.delete(key)
    desk.routes._client.set(key, "no hash")
    assert desk.controller.tick() == {}
    assert desk.controller.failures == 1
    assert desk.route().epoch == desk.latest().epoch


def test_the_route_is_written_again_after_redis_has_lost_it(desk: Desk) -> None:
    desk.ramping()
    before = desk.routes.route(MOVIES)
    desk.routes._client.flushdb()
    desk.tick()
    assert desk.routes.route(MOVIES) == before


def test_a_model_that_cannot_be_moved_does_not_stop_the_others(desk: Desk) -> None:
    desk.publish(1)
    with desk.database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO model_versions (model, version, manifest_sha256, manifest)"
            " SELECT 'apples', version, manifest_sha256, '{}' FROM model_versions"
        )
    controller = desk.build(
        "of all models", desk.database, lambda stores: replace_dataclass(stores, registry=desk.registry)
    )
    assert list(controller.tick()) == [MOVIES]
    assert controller.failures == 1


def test_two_controllers_race_and_every_transition_happens_once(desk: Desk, postgres: str) -> None:
    _, canary = desk.preparing()
    desk.say(canary)
    with closing(postgres_store.connect(postgres)) as other_database:
        controllers = [desk.controller, desk.build("second", other_database)]
        for _ in range(len(WEIGHTS) + 1):
            if desk.latest().phase is Phase.RAMPING:
                desk.count(canary_rate=0.21, stable_rate=0.20)
            desk.now += 2 * MINUTE
            desk.say(canary)
            assert not any(isinstance(each, StoreError) for each in outcomes([one.tick for one in controllers]))
    assert [one.failures for one in controllers] == [0, 0]
    assert [weight for _, _, weight in desk.events()] == [0, *WEIGHTS, FULL_WEIGHT_BP]
    assert desk.registry.champion(MOVIES) == canary
    assert desk.route().stable == canary


def test_a_flipped_byte_ends_the_rollout_while_the_old_version_serves(
    desk: Desk, fresh_stores: Endpoints, tmp_path: Path
) -> None:
    stable = desk.publish(1)
    desk.tick()
    with started_api(store_settings(fresh_stores, tmp_path)) as api:
        assert api.recommend("u1")["model_version"] == stable
        canary = desk.publish(2)
        flip_one_byte(desk.artifacts.path(MOVIES, canary) / "factors.safetensors")

        def rolled_back() -> bool:
            desk.now = datetime.now(UTC)
            desk.tick()
            assert api.recommend("u1")["model_version"] == stable
            rollout = desk.rollouts.latest(MOVIES)
            return rollout is not None and rollout.phase is Phase.ROLLED_BACK

        eventually(rolled_back, "the rollout is rolled back")
    ended = desk.latest()
    assert (ended.canary, ended.weight_bp) == (canary, 0)
