"""The rollout controller on real PostgreSQL and Redis: what moves a rollout, what holds it, and who wins a race."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Phase, ReaderStatus, Rollout, VariantWindow
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.postgres_windows import PostgresWindows
from online_models.stores.redis import RedisRoutes
from serving_api.analysis import GateConfig, Required
from serving_api.controller import Action, Adopt, Controller, ControllerStores, Create, Hold, Move
from serving_api.rollout import ramp
from tests.api_process import eventually, started_api, store_settings
from tests.artifacts import flip_one_byte, publish, small_model

MOVIES = ModelName("movies")
MINUTE = timedelta(minutes=1)
PLAN = ramp((5, 25, 50, 75, 100), 200, Required(100, 20), MINUTE, 60 * MINUTE)


@dataclass
class Desk:
    """A controller, the stores around it, and a clock that the test moves."""

    database: Database
    routes: RedisRoutes
    artifacts: FilesystemArtifacts
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.registry = PostgresRegistry(self.database)
        self.rollouts = PostgresRollouts(self.database)
        self.windows = PostgresWindows(self.database)
        self.controller = self.build("first", self.database)

    def build(self, actor: str, database: Database) -> Controller:
        stores = ControllerStores(PostgresRegistry(database), PostgresRollouts(database), self.routes, self.artifacts)
        return Controller(stores, PLAN, GateConfig(), actor, lambda: self.now)

    def publish(self, seed: int) -> ModelVersion:
        return publish(self.artifacts, self.registry, MOVIES, small_model(seed))

    def say(self, version: ModelVersion, *, ready: bool = True, error: str = "", reader: str = "reader") -> None:
        """What a reader would say of a version."""
        registered = self.registry.version(MOVIES, version)
        assert registered is not None
        status = ReaderStatus(version, ready, registered.manifest_sha256 if ready else "", error)
        self.routes.put_status(MOVIES, reader, status)
        self.routes.heartbeat(MOVIES, reader, self.now)

    def count(self, canary_rate: float, stable_rate: float, users: int = 4_000) -> None:
        """What the stream job would count for both versions in the present stage."""
        rollout = self.latest()
        on_canary = users * rollout.weight_bp // FULL_WEIGHT_BP
        self._count(rollout, rollout.canary, on_canary, round(on_canary * canary_rate))
        self._count(rollout, rollout.stable, users - on_canary, round((users - on_canary) * stable_rate))

    def _count(self, rollout: Rollout, version: ModelVersion, users: int, successes: int) -> None:
        self.windows.put_variant_windows(
            [
                VariantWindow(
                    MOVIES,
                    version,
                    rollout.id,
                    rollout.stage,
                    0,
                    1,
                    users,
                    successes,
                    users,
                    successes,
                    users,
                    successes,
                )
            ]
        )

    def latest(self) -> Rollout:
        rollout = self.rollouts.latest(MOVIES)
        assert rollout is not None
        return rollout

    def tick(self, after: timedelta = timedelta(0)) -> Action:
        self.now += after
        return self.controller.tick()[MOVIES]

    def events(self) -> list[tuple[str, int, int]]:
        """Phase, stage and weight of each row in `rollout_events`, oldest first."""
        return self.rows("SELECT to_phase, to_stage, weight_bp FROM rollout_events ORDER BY id")

    def rows(self, statement: str) -> list[tuple[str, int, int]]:
        with self.database.transaction() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def ramping(self) -> tuple[ModelVersion, ModelVersion]:
        """A rollout in its first stage: its stable and its canary version."""
        stable = self.publish(1)
        self.tick()
        canary = self.publish(2)
        self.tick()
        self.say(canary)
        self.tick()
        assert self.latest().stage == 0
        return stable, canary


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    client = redis_store.connect(fresh_stores.redis_url)
    with closing(client), closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database:
        yield Desk(database, RedisRoutes(client), FilesystemArtifacts(store_settings(fresh_stores, tmp_path).artifacts))


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
    assert (route.canary, route.weight_bp) == (canary, 0)  # readers load it from here
    assert desk.tick() == Hold("no live reader")
    desk.say(canary, reader="one")
    desk.routes.heartbeat(MOVIES, "two", desk.now)
    desk.routes.heartbeat(ModelName("products"), "a reader of another domain", desk.now)
    assert desk.tick() == Hold("waiting for reader two")
    desk.say(canary, reader="two")
    assert isinstance(desk.tick(), Move)
    assert desk.latest().weight_bp == 500


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
    _, canary = desk.ramping()
    for _ in range(len(PLAN)):
        desk.count(canary_rate=0.21, stable_rate=0.20)
        desk.now += 2 * MINUTE
        desk.say(canary)
        assert isinstance(desk.tick(), Move)
    assert desk.events() == [
        ("preparing", -1, 0),
        ("ramping", 0, 500),
        ("ramping", 1, 2_500),
        ("ramping", 2, 5_000),
        ("ramping", 3, 7_500),
        ("ramping", 4, 9_800),
        ("promoted", 4, FULL_WEIGHT_BP),
    ]
    assert desk.registry.champion(MOVIES) == canary
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.stable, route.canary, route.epoch) == (canary, None, desk.latest().epoch)
    assert isinstance(desk.tick(), Hold)


def test_a_clearly_bad_candidate_is_rolled_back_at_once_with_its_evidence(desk: Desk) -> None:
    stable, _ = desk.ramping()
    desk.count(canary_rate=0.01, stable_rate=0.20)
    desk.tick()
    assert (desk.latest().phase, desk.latest().weight_bp) == (Phase.ROLLED_BACK, 0)
    assert desk.registry.champion(MOVIES) == stable
    route = desk.routes.route(MOVIES)
    assert route is not None
    assert (route.stable, route.canary, route.weight_bp) == (stable, None, 0)
    ((reason, successes, limit),) = desk.rows(
        "SELECT reason, (evidence #>> '{stages,0,canary,successes}')::int, round((evidence ->> 'log_e_limit')::numeric)::int"
        " FROM rollout_events WHERE to_phase = 'rolled_back'"
    )
    assert "evidence of harm" in reason
    assert (successes, limit) == (2, 3)
    assert desk.tick() == Hold("no candidate")  # what was tried is not tried again


def test_an_artifact_that_a_reader_refuses_is_rolled_back_with_the_readers_words(desk: Desk) -> None:
    desk.publish(1)
    desk.tick()
    canary = desk.publish(2)
    desk.tick()
    desk.say(canary, ready=False, error="expected SHA-256 abc, found def")
    desk.tick()
    assert desk.latest().phase is Phase.ROLLED_BACK
    (reason,) = [row[0] for row in desk.rows("SELECT reason, 0, 0 FROM rollout_events ORDER BY id DESC LIMIT 1")]
    assert "expected SHA-256 abc, found def" in reason


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


def test_the_route_is_written_again_after_redis_has_lost_it(desk: Desk) -> None:
    desk.ramping()
    before = desk.routes.route(MOVIES)
    desk.routes._client.flushdb()
    desk.tick()
    assert desk.routes.route(MOVIES) == before


def test_a_model_that_cannot_be_moved_does_not_stop_the_others(desk: Desk) -> None:
    desk.publish(1)
    desk.tick()
    with desk.database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO model_versions (model, version, manifest_sha256, manifest)"
            " SELECT 'apples', version, manifest_sha256, '{}' FROM model_versions"
        )
    assert list(desk.controller.tick()) == [MOVIES]
    assert desk.controller.failures == 1


def test_two_controllers_race_and_every_transition_happens_once(desk: Desk, postgres: str) -> None:
    desk.publish(1)
    desk.tick()
    canary = desk.publish(2)
    desk.say(canary)
    with closing(postgres_store.connect(postgres)) as other_database:
        controllers = [desk.controller, desk.build("second", other_database)]
        for _ in range(8):
            rollout = desk.rollouts.latest(MOVIES)
            if rollout is not None and rollout.stage >= 0 and rollout.phase is Phase.RAMPING:
                desk.count(canary_rate=0.2, stable_rate=0.2)
            desk.now += 2 * MINUTE
            desk.say(canary)
            barrier = threading.Barrier(2)
            threads = [threading.Thread(target=_tick_at, args=(barrier, one)) for one in controllers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert [one.failures for one in controllers] == [0, 0]
    weights = [weight for _, _, weight in desk.events()]
    assert weights == [0, 500, 2_500, 5_000, 7_500, 9_800, FULL_WEIGHT_BP]
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
        report = api.get("/v1/rollouts/movies").json()
        assert (report["canary"], report["phase"], report["weight_bp"]) == (canary, "rolled_back", 0)
