"""An API with operators' keys over a model that has had champions: `v1` and on, the youngest of them a candidate."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
from redis import Redis

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Phase, Rollout, RolloutEvent, Route, Stage
from online_models.ports import Act, NewRollout
from online_models.settings import StoreSettings
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis import RedisRoutes
from serving_api.access import Role
from serving_api.rollouts.route_projection import project
from tests.api_process import FAST, Api, eventually, started_api, store_settings
from tests.artifacts import publish, small_model

MOVIES = ModelName("movies")
PATH = "/v1/rollouts/movies"
BODY = {"reason": "seen in the shop"}
TEST = Act("test", "set up", {})


@dataclass
class Operators:
    """The stores behind an API, and what tests do to them beside it; no controller runs."""

    settings: StoreSettings
    database: Database
    client: Redis
    champions: list[ModelVersion] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = PostgresRegistry(self.database)
        self.rollouts = PostgresRollouts(self.database)
        self.routes = RedisRoutes(self.client)
        self.artifacts = FilesystemArtifacts(self.settings.artifacts)

    def publish(self, seed: int, *, language: bool = False) -> ModelVersion:
        return publish(self.artifacts, self.registry, MOVIES, small_model(seed), language=language)

    def crown(self, seed: int) -> ModelVersion:
        """A fresh version that becomes the champion."""
        version = self.publish(seed)
        if not self.champions:
            self.rollouts.adopt(MOVIES, version, "test")
        else:
            rollout = self.rollouts.create(NewRollout(MOVIES, self.champions[-1], version, FAST.plan), TEST)
            self.move(rollout, Phase.PROMOTED)
        self.champions.append(version)
        project(self.rollouts, self.routes, MOVIES)
        return version

    def move(self, rollout: Rollout, phase: Phase) -> Rollout:
        """What a controller would do."""
        weight = FULL_WEIGHT_BP if phase is Phase.PROMOTED else 0
        return self.rollouts.transition(rollout, msgspec.structs.replace(rollout, phase=phase, weight_bp=weight), TEST)

    def ramp(self, stage: int = 1) -> Rollout:
        """Bring the open rollout to a stage, as a controller would."""
        old = self.latest()
        planned: Stage = old.plan.stages[stage]
        changes = {"phase": Phase.RAMPING, "stage": stage, "weight_bp": planned.weight_bp}
        moved = self.rollouts.transition(old, msgspec.structs.replace(old, **changes), TEST)
        project(self.rollouts, self.routes, MOVIES)
        return moved

    def latest(self) -> Rollout:
        rollout = self.rollouts.latest(MOVIES)
        assert rollout is not None
        return rollout

    def events(self) -> list[RolloutEvent]:
        return self.rollouts.events(self.latest())

    def route(self) -> Route:
        route = self.routes.route(MOVIES)
        assert route is not None
        return route


@dataclass
class Desk:
    """An API, and a key of each role."""

    api: Api
    world: Operators

    def __post_init__(self) -> None:
        self.keys = {role: self.api.key_of(role, f"the-{role}") for role in Role}

    def post(
        self, verb: str, role: Role = Role.ADMIN, body: object = BODY, *, matched: bool = True, **headers: str
    ) -> httpx.Response:
        """POST with a role's key; matched : at the present epoch of the youngest rollout."""
        given = {**self.keys[role], **{name.replace("_", "-"): told for name, told in headers.items()}}
        latest = self.world.rollouts.latest(MOVIES) if matched else None
        if latest is not None:
            given.setdefault("If-Match", f'"{latest.epoch}"')
        return self.api.send("POST", f"{PATH}/{verb}" if verb else PATH, body, given)

    def get(self, rest: str = "", role: Role = Role.VIEWER) -> httpx.Response:
        return self.api.get(f"{PATH}{rest}", self.keys[role])

    def start(self, **body: object) -> httpx.Response:
        return self.post("", body={**BODY, **body}, matched=False)

    def started(self, **body: object) -> Rollout:
        """A rollout whose versions the reader holds."""
        response = self.start(**body)
        assert response.status_code == 201, response.text
        rollout = self.world.latest()
        wanted = {rollout.canary, *(arm.version for arm in rollout.arms)}
        eventually(lambda: wanted <= set(self.api.reader.state(MOVIES).versions), "the reader holds the versions")
        return rollout


@contextmanager
def operators(endpoints: Endpoints, home: Path, *, crowned: int = 2) -> Iterator[Operators]:
    """So many champions one after the other, and a candidate; where none is crowned there is no candidate either."""
    with (
        closing(redis_store.connect(endpoints.redis_url)) as client,
        closing(postgres_store.connect(endpoints.postgres_dsn)) as database,
    ):
        world = Operators(store_settings(endpoints, home), database, client)
        for seed in range(crowned):
            world.crown(seed + 1)
        if crowned:
            world.publish(crowned + 1)
        yield world


@contextmanager
def operator_desk(endpoints: Endpoints, home: Path, *, crowned: int = 2) -> Iterator[Desk]:
    """The same, with an API over them."""
    with operators(endpoints, home, crowned=crowned) as world, started_api(world.settings) as api:
        yield Desk(api, world)
