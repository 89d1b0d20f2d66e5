"""The rollout controller on real PostgreSQL and Redis: what moves a rollout, what holds it, and who wins a race."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace as replace_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from online_models.contracts import keys
from online_models.contracts.ids import ModelName
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    Arm,
    Kind,
    Phase,
    Plan,
    Policy,
    Rollout,
    Served,
    ShadowCounts,
    Stage,
    served_arm,
)
from online_models.errors import StoreError
from online_models.ports import Act, NewRollout
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis import RedisRoutes
from serving_api.rollouts.controller import Controller, Pacing
from serving_api.rollouts.decisions import Adopt, Create, Hold, Move
from serving_api.rollouts.readiness import RolloutStores
from serving_api.rollouts.shadow_estimates import offline
from serving_api.rollouts.transitions import Command, Decision, Waiting, command
from tests.api_process import eventually, started_api, store_settings
from tests.artifacts import flip_one_byte
from tests.own_redis import running_redis
from tests.rollout_desk import MINUTE, MOVIES, PLAN, Desk

WEIGHTS = [stage.weight_bp for stage in PLAN.stages]
LAST = len(WEIGHTS) - 1


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    client = redis_store.connect(fresh_stores.redis_url)
    with closing(client), closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database:
        yield Desk(database, RedisRoutes(client), FilesystemArtifacts(store_settings(fresh_stores, tmp_path).artifacts))


def order(desk: Desk, which: Command) -> None:
    """What an operator would do, without a controller."""
    decision = command(desk.latest(), which, "an operator's reason", Waiting("not asked"), desk.now)
    assert isinstance(decision, Decision)
    desk.rollouts.transition(desk.latest(), decision.rollout, Act("key:alice", decision.reason, {}))


def test_the_first_version_is_adopted_without_a_rollout(desk: Desk) -> None:
    version = desk.publish(1)
    assert desk.tick() == Adopt(version)
    route = desk.routes.route(MOVIES)
    assert route is not None
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
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.canary, route.weight_bp, route.shadow) == (canary, 0, False)  # readers load it from here
    assert desk.tick() == Hold("no live reader")
    desk.say(canary, reader="one")
    desk.routes.heartbeat(MOVIES, "two", desk.now)
    desk.routes.heartbeat(ModelName("products"), "a reader of another domain", desk.now)
    assert desk.tick() == Hold("waiting for reader two")
    desk.say(canary, reader="two")
    assert isinstance(desk.tick(), Move)
    route = desk.routes.route(MOVIES)
    assert route is not None
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
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.stable, route.canary, route.epoch) == (canary, None, desk.latest().epoch)
    assert isinstance(desk.tick(), Hold)


def test_leaving_the_shadow_tells_of_agreement_and_latency(desk: Desk) -> None:
    desk.ramping()
    left = next(event for event in desk.rollouts.events(desk.latest()) if event.to_stage == 1)
    assert left.evidence["verdict"] == "Successful"
    assert (left.evidence["ranking_cpu_p99_ms"], left.evidence["latency_p99_ms"]) == ({"canary": 1.0}, {"stable": 1.0})
    agreement = left.evidence["agreement"]
    assert isinstance(agreement, dict)
    assert agreement["compared"] == 40_000
    assert left.evidence["offline"] is None


def test_leaving_the_shadow_tells_what_its_lists_would_have_earned(desk: Desk) -> None:
    _, canary = desk.preparing()
    desk.say(canary)
    desk.tick()
    counts = np.zeros((2, 20, 61), "<u4")
    counts[0, np.arange(10), np.arange(10)[::-1]] = 1_000
    counts[1, :10] = counts[0, :10] // 10
    desk.windows.put_shadow_counts([ShadowCounts(MOVIES, canary, 0, counts.tobytes())])
    desk.pass_stage(canary)
    left = desk.rollouts.events(desk.latest())[-1]
    assert (left.from_stage, left.to_stage) == (0, 1)
    told = left.evidence["offline"]
    assert isinstance(told, dict)
    assert told == offline(counts.astype(np.int64))
    assert (told["looks"], told["lists"], told["clicks_per_list"], told["kept"]) == ("assumed", 1_000, 1.0, 1.0)
    desk.pass_stage(canary)
    assert "offline" not in desk.rollouts.events(desk.latest())[-1].evidence


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
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.stable, route.canary, route.weight_bp) == (stable, None, 0)
    last = desk.rollouts.events(desk.latest())[-1]
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
    order(desk, Command.PAUSE)
    desk.publish(3)
    assert isinstance(desk.pass_stage(canary), Hold)
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (desk.latest().phase, route.weight_bp) == (Phase.PAUSED, 500)
    order(desk, Command.RESUME)
    assert isinstance(desk.tick(), Move)
    assert desk.latest().phase is Phase.SUPERSEDED


def test_a_paused_rollout_is_still_rolled_back(desk: Desk) -> None:
    desk.ramping()
    order(desk, Command.PAUSE)
    desk.count(canary_rate=0.01, stable_rate=0.20)
    desk.tick()
    assert desk.latest().phase is Phase.ROLLED_BACK


def test_an_aborted_rollout_is_followed_by_the_next_candidate_and_not_by_itself(desk: Desk) -> None:
    stable, _ = desk.ramping()
    order(desk, Command.ABORT)
    assert desk.tick() == Hold("no candidate")
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.stable, route.canary) == (stable, None)
    younger = desk.publish(3)
    assert desk.tick() == Create(stable, younger)


@pytest.mark.parametrize("paused", [False, True])
def test_a_canary_that_fails_its_requests_is_off_at_the_next_look(desk: Desk, paused: bool) -> None:
    stable, _ = desk.ramping()
    if paused:
        order(desk, Command.PAUSE)
    desk.serve("canary", 15, errors=15)
    assert desk.look(timedelta(seconds=1)) is None  # too few to say
    desk.serve("canary", 10, errors=10)
    assert isinstance(desk.look(timedelta(seconds=1)), Move)
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.ROLLED_BACK, 0)
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.stable, route.canary) == (stable, None)
    last = desk.rollouts.events(desk.latest())[-1]
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
    order(desk, Command.PAUSE)
    order(desk, Command.RESUME)
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
    order(desk, Command.ABORT)
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


def test_while_redis_is_away_ticks_and_looks_are_counted_as_failed_and_later_ones_go_on(
    postgres: str, tmp_path: Path
) -> None:
    with running_redis(tmp_path / "redis") as server, closing(postgres_store.connect(postgres)) as database:
        client = redis_store.connect(server.url)
        desk = Desk(database, RedisRoutes(client), FilesystemArtifacts(tmp_path / "artifacts"))
        _, canary = desk.ramping()
        server.stop()
        assert desk.controller.tick() == {}
        assert desk.controller.look() == {}
        assert desk.controller.failures == 2
        server.start()
        assert isinstance(desk.pass_stage(canary), Move)
        route = desk.routes.route(MOVIES)
        assert route is not None
        assert route.weight_bp == 2_500
        client.close()


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


def experiment(desk: Desk, kind: Kind, stages: tuple[Stage, ...], versions: int = 2) -> tuple[Arm, ...]:
    """An operator's experiment in its first stage, of so many versions; of an A/A of one. Returns the arms."""
    made = [desk.publish(1)]
    desk.tick()
    weights = [FULL_WEIGHT_BP // versions + (n < FULL_WEIGHT_BP % versions) for n in range(versions)]
    made += [desk.publish(n + 2) for n in range(versions - 1)]
    arms = tuple(Arm(version, weight) for version, weight in zip(made, weights, strict=True))
    new = NewRollout(
        MOVIES, made[0], made[0] if kind is Kind.AA else made[1], Plan(stages, Policy()), kind,
        arms if kind is Kind.BANDIT else (), automatic=False,
    )  # fmt: skip
    desk.rollouts.create(new, Act("key:alice", "compare", {}))
    for version in made:
        desk.say(version)
    desk.tick()
    assert desk.latest().stage == 0
    return arms


HALF = Stage(5_000, min_users=100, min_stable_users=100, min_seconds=60.0, max_seconds=7_200.0)


def test_an_ab_ends_with_its_answer_and_promotes_nobody(desk: Desk) -> None:
    stable, _ = experiment(desk, Kind.AB, (HALF,))
    desk.count(canary_rate=0.24, stable_rate=0.20)
    assert isinstance(desk.tick(MINUTE), Move)
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.CONCLUDED, 0)
    assert desk.rollouts.events(desk.latest())[-1].evidence["winner"] == "canary"
    assert desk.registry.champion(MOVIES) == stable.version


def test_an_ab_without_a_difference_ends_when_its_time_is_over(desk: Desk) -> None:
    _, variant = experiment(desk, Kind.AB, (HALF,))
    desk.count(canary_rate=0.20, stable_rate=0.20)
    assert isinstance(desk.tick(MINUTE), Hold)
    desk.say(variant.version)
    assert isinstance(desk.tick(121 * MINUTE), Move)
    assert desk.latest().phase is Phase.CONCLUDED
    assert "inconclusive" in desk.reasons()[-1]


def test_an_aa_goes_through_all_stages_and_moves_no_alias(desk: Desk) -> None:
    (stable,) = experiment(desk, Kind.AA, PLAN.stages, versions=1)
    aliases = desk.registry.aliases(MOVIES)
    while desk.latest().phase is Phase.RAMPING:
        assert isinstance(desk.pass_stage(stable.version, 0.20, 0.20), Move)
    assert [stage for _, stage, _ in desk.events()] == [-1, *range(len(PLAN.stages)), LAST]
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.CONCLUDED, 0)
    assert desk.registry.aliases(MOVIES) == aliases


def test_a_bandit_waits_for_the_readers_of_all_its_arms(desk: Desk) -> None:
    versions = [desk.publish(1)]
    desk.tick()
    versions += [desk.publish(2), desk.publish(3)]
    arms = tuple(Arm(version, weight) for version, weight in zip(versions, (3_334, 3_333, 3_333), strict=True))
    new = NewRollout(MOVIES, versions[0], versions[1], Plan((HALF,)), Kind.BANDIT, arms, automatic=False)
    desk.rollouts.create(new, Act("key:alice", "which one", {}))
    desk.say(versions[1])
    assert desk.tick() == Hold("waiting for reader reader")
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert [arm.weight_bp for arm in route.arms] == [FULL_WEIGHT_BP, 0, 0]
    desk.say(versions[2])
    assert isinstance(desk.tick(), Move)
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert route.arms == arms


def test_a_bandit_moves_users_to_its_best_arm_now_and_then_with_a_row_each(desk: Desk) -> None:
    first, second, third = experiment(desk, Kind.BANDIT, (replace(HALF, max_seconds=86_400.0),), versions=3)

    def hour(rates: tuple[float, float, float]) -> None:
        desk.window += 1
        for arm, rate in zip((first, second, third), rates, strict=True):
            desk.count_arm("stable" if arm is first else "arm", arm.version, 1_000, rate)
        desk.now += timedelta(minutes=61)
        for arm in (second, third):
            desk.say(arm.version)

    assert isinstance(desk.tick(), Hold)
    hour((0.20, 0.30, 0.20))
    moved = desk.tick()
    assert isinstance(moved, Move)
    assert [arm.weight_bp for arm in desk.latest().arms] == [500, 9_000, 500]
    assert (desk.latest().phase, desk.latest().stage) == (Phase.RAMPING, 0)
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.arms, route.epoch) == (desk.latest().arms, desk.latest().epoch)
    last = desk.rollouts.events(desk.latest())[-1]
    assert last.reason == "Thompson sampling"
    assert "design_effect" in last.evidence
    assert desk.look() is None
    desk.serve(served_arm(third.version), 30, errors=30)
    assert isinstance(desk.look(timedelta(seconds=1)), Move)
    assert desk.latest().phase is Phase.ROLLED_BACK


def test_one_of_many_arms_that_fails_ends_the_bandit_and_is_named(desk: Desk) -> None:
    arms = experiment(desk, Kind.BANDIT, (replace(HALF, max_seconds=86_400.0),), versions=7)
    for arm in arms[1:]:
        desk.serve(served_arm(arm.version), 100, errors=100 if arm is arms[3] else 0)
    assert isinstance(desk.look(timedelta(seconds=1)), Move)
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.ROLLED_BACK, 0)
    last = desk.rollouts.events(desk.latest())[-1]
    assert last.reason == f"breaker: errors of 100 of 100 arm {arms[3].version} requests are above 20%"
    recent = last.evidence["recent"]
    assert isinstance(recent, dict)
    assert recent["requests"] == 100


def test_people_of_whom_nothing_is_known_end_no_rollout(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 100, cold=90)
    desk.serve("stable", 1_900, cold=1_710)
    assert desk.look(timedelta(seconds=1)) is None
    assert isinstance(desk.tick(), Hold)
    assert desk.latest().phase is Phase.RAMPING


def test_sums_that_cannot_be_read_keep_no_route_from_the_readers(desk: Desk) -> None:
    desk.ramping()
    order(desk, Command.PAUSE)
    key = keys.served(MOVIES, desk.latest().id)
    desk.routes._client.delete(key)
    desk.routes._client.set(key, "no hash")
    assert desk.controller.tick() == {}
    assert desk.controller.failures == 1
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert route.epoch == desk.latest().epoch


def test_a_decision_that_fails_keeps_no_route_from_the_readers(desk: Desk) -> None:
    desk.ramping()
    desk.serve("canary", 30, errors=30)

    def stuck(stores: RolloutStores) -> RolloutStores:
        return replace_dataclass(stores, rollouts=Stuck(desk.database))

    controller = desk.build("second", desk.database, stuck)
    controller._watch(MOVIES, desk.latest())
    order(desk, Command.PAUSE)
    desk.now += timedelta(seconds=1)
    assert controller.look() == {}
    assert controller.failures == 1
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.epoch, desk.latest().phase) == (desk.latest().epoch, Phase.PAUSED)


class Stuck(PostgresRollouts):
    """Rollouts that cannot be moved."""

    def transition(self, old: Rollout, new: Rollout, act: Act) -> Rollout:
        raise StoreError(f"rollout {old.id} should become {new.phase}, because {act.reason}, and cannot")


def test_a_bandit_goes_on_without_an_arm_that_no_window_tells_of_and_says_so(desk: Desk) -> None:
    first, second, third = experiment(desk, Kind.BANDIT, (replace(HALF, max_seconds=86_400.0),), versions=3)

    def hour(*counted: tuple[Arm, float]) -> Move:
        desk.window += 1
        for arm, rate in counted:
            desk.count_arm("stable" if arm is first else "arm", arm.version, 1_000, rate)
        desk.now += timedelta(minutes=61)
        for arm in (second, third):
            desk.say(arm.version)
        moved = desk.tick()
        assert isinstance(moved, Move)
        return moved

    hour((first, 0.20), (second, 0.30), (third, 0.30))
    silent = hour((first, 0.40), (second, 0.01))
    assert silent.reason == f"Thompson sampling; no window of {third.version} since 1970-01-01 00:00:02 UTC"
    assert desk.latest().arms[2].weight_bp == 500
    assert desk.rollouts.events(desk.latest())[-1].evidence["silent"] == [
        silent.reason.removeprefix("Thompson sampling; ")
    ]


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
            barrier = threading.Barrier(2)
            threads = [threading.Thread(target=_tick_at, args=(barrier, one)) for one in controllers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert [one.failures for one in controllers] == [0, 0]
    assert [weight for _, _, weight in desk.events()] == [0, *WEIGHTS, FULL_WEIGHT_BP]
    assert desk.registry.champion(MOVIES) == canary
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert route.stable == canary


def _tick_at(barrier: threading.Barrier, controller: Controller) -> None:
    barrier.wait()
    controller.tick()


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
