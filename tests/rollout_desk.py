"""A controller on real stores as a test leads it: versions, what readers say, what the flow counts, and a clock that stands."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    LATENCY_EDGES_MS,
    GroupedCounts,
    Plan,
    Policy,
    ReaderStatus,
    Rollout,
    RolloutEvent,
    Route,
    Served,
    VariantWindow,
)
from online_models.ports import Act, ArtifactStore, ModelRegistry, RolloutStore, RouteStore
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.postgres_windows import PostgresWindows
from online_models.stores.redis import RedisRoutes
from serving_api.rollouts.bandit import Sampling
from serving_api.rollouts.controller import Controller
from serving_api.rollouts.decisions import Action
from serving_api.rollouts.ramp import Pace, ramp
from serving_api.rollouts.readiness import RolloutStores
from serving_api.rollouts.transitions import Command, Decision, Waiting, command
from tests.api_process import store_settings
from tests.artifacts import publish, small_model
from tests.tallies import spread

MOVIES = ModelName("movies")
MINUTE = timedelta(minutes=1)
PACE = Pace(
    shadow_requests=50, min_users=100, min_stable_users=20, min_seconds=60.0, max_seconds=3_600.0, bake_seconds=90.0
)
PLAN = Plan(ramp((5, 25, 50, 75, 100), 200, 0.1, PACE), Policy())
SAMPLING = Sampling(every=timedelta(hours=1), fewest_trials=100, floor=0.05, half_life=timedelta(days=2))
READER = "reader"


class OneModel(PostgresRegistry):
    """The registry as if it had one model only."""

    def __init__(self, database: Database, model: ModelName) -> None:
        super().__init__(database)
        self._model = model

    def models(self) -> list[ModelName]:
        return [model for model in super().models() if model == self._model]


@dataclass
class Desk:
    """A controller, the stores around it, and a clock that the test moves."""

    database: Database
    routes: RedisRoutes
    artifacts: FilesystemArtifacts
    model: ModelName = MOVIES
    plan: Plan = PLAN
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.registry = PostgresRegistry(self.database)
        self.rollouts = PostgresRollouts(self.database)
        self.windows = PostgresWindows(self.database)
        self.controller = self.build("first", self.database)
        self.window = 0
        self._served: dict[tuple[int, str], Served] = {}
        self._served_of = 0

    def build(
        self, actor: str, database: Database, wrapped: Callable[[RolloutStores], RolloutStores] | None = None
    ) -> Controller:
        """A controller on a connection; wrapped : puts something around its stores."""
        registry: ModelRegistry = OneModel(database, self.model)
        rollouts: RolloutStore = PostgresRollouts(database)
        routes: RouteStore = self.routes
        artifacts: ArtifactStore = self.artifacts
        stores = RolloutStores(registry, rollouts, routes, artifacts)
        rng = np.random.default_rng(0)
        return Controller(wrapped(stores) if wrapped else stores, self.plan, SAMPLING, actor, lambda: self.now, rng)

    def publish(self, seed: int) -> ModelVersion:
        return publish(self.artifacts, self.registry, self.model, small_model(seed))

    def say(self, version: ModelVersion, *, ready: bool = True, error: str = "", reader: str = READER) -> None:
        """What a reader would say of a version."""
        registered = self.registry.version(self.model, version)
        assert registered is not None
        status = ReaderStatus(version, ready, registered.manifest_sha256 if ready else "", error)
        self.routes.put_status(self.model, reader, status)
        self.routes.heartbeat(self.model, reader, self.now)

    def count(self, canary_rate: float, stable_rate: float, users: int = 40_000) -> None:
        """What the flow and a reader would count of both arms in the present stage: new users, of one request each."""
        rollout = self.latest()
        self.window += 1
        if rollout.weight_bp:
            on_canary = users * rollout.weight_bp // FULL_WEIGHT_BP
            self.count_arm("canary", rollout.canary, on_canary, canary_rate)
            self.count_arm("stable", rollout.stable, users - on_canary, stable_rate)
            self.serve("canary", on_canary)
            self.serve("stable", users - on_canary)
        else:
            self.serve("canary", users)
            self.serve("stable", users)

    def count_arm(self, variant: str, version: ModelVersion, users: int, rate: float) -> None:
        """What the flow would count of one variant in the present window."""
        rollout, start = self.latest(), self.window
        hits = round(users * rate)
        key = (self.model, version, rollout.id, rollout.stage)
        self.windows.put_variant_windows(
            [
                VariantWindow(
                    *key, start * 1000, start * 1000 + 1000, users, hits, users, hits, users, hits,
                    variant=variant, stage_users=users,
                )
            ]
        )  # fmt: skip
        grouped = np.stack([spread(count) for count in (users, hits, users, hits)]).astype("<u4")
        self.windows.put_grouped_counts([GroupedCounts(*key, variant, start, grouped.tobytes())])

    def serve(self, variant: str, requests: int, errors: int = 0, cold: int = 0) -> None:
        """What a reader would count of one variant's requests in the present stage, beside what it has counted before.

        cold : of people of whom nothing is known, whom popularity answers
        """
        rollout = self.latest()
        if self._served_of != rollout.id:
            self._served, self._served_of = {}, rollout.id
        before = self._served.get((rollout.stage, variant), Served())
        self._served[rollout.stage, variant] = replace(
            before,
            requests=before.requests + requests,
            errors=before.errors + errors,
            users=before.users + requests,
            user_errors=before.user_errors + errors,
            fallbacks=before.fallbacks + errors + cold,
            user_fallbacks=before.user_fallbacks + errors + cold,
            stood_in=before.stood_in + errors,
            latency=(before.latency[0] + requests, *[0] * len(LATENCY_EDGES_MS)),
            compared=before.compared + (requests - errors if variant == "canary" and not rollout.weight_bp else 0),
        )
        self.routes.put_served(self.model, rollout.id, READER, self._served)

    def latest(self) -> Rollout:
        rollout = self.rollouts.latest(self.model)
        assert rollout is not None
        return rollout

    def route(self) -> Route:
        route = self.routes.route(self.model)
        assert route is not None
        return route

    def order(self, which: Command) -> None:
        """What an operator would do, without a controller."""
        rollout = self.latest()
        decision = command(rollout, which, "an operator's reason", Waiting("not asked"), self.now)
        assert isinstance(decision, Decision)
        self.rollouts.transition(rollout, decision.rollout, Act("key:alice", decision.reason, {}))

    def tick(self, after: timedelta = timedelta(0)) -> Action:
        self.now += after
        return self.controller.tick()[self.model]

    def look(self, after: timedelta = timedelta(0)) -> Action | None:
        self.now += after
        return self.controller.look().get(self.model)

    def events(self) -> list[tuple[str, int, int]]:
        """Phase, stage and weight of each event of the latest rollout, oldest first."""
        return [(event.to_phase, event.to_stage, event.weight_bp) for event in self.rollouts.events(self.latest())]

    def last_event(self) -> RolloutEvent:
        return self.rollouts.events(self.latest())[-1]

    def reasons(self) -> list[str]:
        """Why the latest rollout moved, oldest first."""
        return [event.reason for event in self.rollouts.events(self.latest())]

    def preparing(self) -> tuple[ModelVersion, ModelVersion]:
        """A rollout whose canary no reader holds yet: its stable and its canary version."""
        stable = self.publish(1)
        self.tick()
        canary = self.publish(2)
        self.tick()
        return stable, canary

    def ramping(self) -> tuple[ModelVersion, ModelVersion]:
        """A rollout in its first stage with users: its stable and its canary version."""
        stable, canary = self.preparing()
        self.say(canary)
        self.tick()
        while self.latest().weight_bp == 0:
            self.pass_stage(canary)
        return stable, canary

    def pass_stage(self, canary: ModelVersion, canary_rate: float = 0.21, stable_rate: float = 0.20) -> Action:
        """Count enough of both arms, and tick after the stage's time."""
        self.count(canary_rate, stable_rate)
        self.now += 2 * MINUTE
        self.say(canary)
        return self.tick()


@contextmanager
def controller_desk(endpoints: Endpoints, home: Path) -> Iterator[Desk]:
    """One on stores that nobody else has."""
    with (
        closing(redis_store.connect(endpoints.redis_url)) as client,
        closing(postgres_store.connect(endpoints.postgres_dsn)) as database,
    ):
        yield Desk(database, RedisRoutes(client), FilesystemArtifacts(store_settings(endpoints, home).artifacts))
