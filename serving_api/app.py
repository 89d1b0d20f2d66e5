"""Wires the API and the rollout controller: settings and stores in, a FastAPI application or a Controller out."""

import logging
import os
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import FastAPI

from online_models.contracts.ids import ModelName
from online_models.ports import (
    ArtifactStore,
    ModelRegistry,
    RolloutStore,
    RouteStore,
)
from online_models.settings import StoreSettings
from online_models.stores import postgres, redis
from online_models.stores.files import SegmentLog
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis import RedisRoutes
from online_models.stores.redis_reads import RedisStreamReads, RedisUserReads
from online_models.stores.servers import open_servers
from serving_api.analysis import GateConfig, Required
from serving_api.controller import Controller, ControllerStores
from serving_api.instruments import Instruments
from serving_api.reader import Reader, ReaderStores, ReaderTimes
from serving_api.recommender import Recommender
from serving_api.rollout import Stage, ramp
from serving_api.routes import events, health, index, metrics, recommendations, rollouts
from serving_api.routes.parts import Parts
from serving_api.settings import ServingSettings

log: Final = logging.getLogger(__name__)

POLL_STATEMENT_TIMEOUT: Final = timedelta(seconds=3)
"""Tried twice, and perhaps twice more by a version being loaded: below the 15 s after which a reader counts as dead."""

POLL_CONNECT_TIMEOUT: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Stores:
    """The opened stores of one serving process; `polled` has a connection of its own, so that a poll holds up no request."""

    redis_url: str
    routes: RouteStore
    polled: ReaderStores
    registry: ModelRegistry
    rollouts: RolloutStore
    artifacts: ArtifactStore
    event_log: SegmentLog


@contextmanager
def open_stores(settings: StoreSettings) -> Iterator[Stores]:
    """The stores behind configured servers, or embedded ones that are held while the context is open."""
    with ExitStack() as held:
        endpoints = held.enter_context(open_servers(settings))
        client = redis.connect(endpoints.redis_url)
        held.callback(client.close)
        database = held.enter_context(closing(postgres.connect(endpoints.postgres_dsn)))
        polling = held.enter_context(closing(_polling_database(endpoints.postgres_dsn)))
        event_log = held.enter_context(closing(SegmentLog(settings.segments, _now)))
        routes, artifacts = RedisRoutes(client), FilesystemArtifacts(settings.artifacts)
        yield Stores(
            redis_url=endpoints.redis_url,
            routes=routes,
            polled=ReaderStores(
                routes, RedisStreamReads(client), PostgresRegistry(polling), artifacts, PostgresInteractions(polling)
            ),
            registry=PostgresRegistry(database),
            rollouts=PostgresRollouts(database),
            artifacts=artifacts,
            event_log=event_log,
        )


def _polling_database(dsn: str) -> postgres.Database:
    """A connection for the poller, opened on first use, that gives up soon."""
    return postgres.Database(dsn, statement_timeout=POLL_STATEMENT_TIMEOUT, connect_timeout=POLL_CONNECT_TIMEOUT)


def create_app(
    settings: ServingSettings | None = None, store_settings: StoreSettings | None = None, opened: Stores | None = None
) -> FastAPI:
    """The API; settings come from the environment and `penstock.toml` unless given.

    opened : stores that the caller opened and closes; without them they are opened at the start of the application
    """
    serving = settings or ServingSettings.load()
    storing = store_settings or StoreSettings.load()
    instruments = Instruments()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opening = nullcontext(opened) if opened is not None else open_stores(storing)
        with opening as stores, _reading(serving, stores, instruments) as reader:
            users = RedisUserReads(stores.redis_url, timedelta(seconds=serving.redis_timeout_seconds))
            try:
                app.state.parts = _parts(serving, stores, instruments, reader, users)
                yield
            finally:
                await users.close()

    app = FastAPI(
        title="Penstock",
        summary="Fresh recommendations, and the events that keep them fresh.",
        version="0.1.0",
        lifespan=lifespan,
    )
    app.add_middleware(metrics.CountRequests, instruments=instruments)
    for resource in (index, recommendations, events, rollouts, health, metrics):
        app.include_router(resource.router)
    return app


def _parts(
    settings: ServingSettings, stores: Stores, instruments: Instruments, reader: Reader, users: RedisUserReads
) -> Parts:
    return Parts(
        settings=settings,
        instruments=instruments,
        reader=reader,
        recommender=Recommender(reader, users, stores.event_log, instruments, _new_id),
        event_log=stores.event_log,
        registry=stores.registry,
        rollouts=stores.rollouts,
        clock=_now,
        new_id=_new_id,
    )


@contextmanager
def _reading(settings: ServingSettings, stores: Stores, instruments: Instruments) -> Iterator[Reader]:
    """A reader whose versions are loaded or refused, polling on a thread of its own."""
    reader = Reader(
        reader_id=f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        models=[ModelName(domain) for domain in settings.domains],
        stores=stores.polled,
        times=ReaderTimes(
            catalogue_refresh=timedelta(seconds=settings.catalogue_refresh_seconds),
            retire=timedelta(seconds=settings.retire_seconds),
        ),
        instruments=instruments,
        clock=_now,
    )
    stop = threading.Event()
    poller = threading.Thread(target=reader.run, args=(stop, settings.poll_seconds), name="poll", daemon=True)
    try:
        reader.settle()
        poller.start()
        yield reader
    finally:
        stop.set()
        if poller.is_alive():
            poller.join(5.0)
        reader.close()


def plan_of(settings: ServingSettings) -> tuple[Stage, ...]:
    """The stages of the settings."""
    return ramp(
        settings.stage_percents,
        round(settings.holdback_percent * 100),
        Required(settings.stage_min_requests, settings.stage_min_stable_requests),
        settings.stage_shortest,
        settings.stage_longest,
    )


def build_controller(settings: ServingSettings, stores: Stores) -> Controller:
    """The rollout controller on opened stores."""
    gate = GateConfig(
        alpha=settings.gate_alpha,
        tolerated_harm=settings.gate_tolerated_harm,
        smallest_effect=settings.gate_smallest_effect,
        margin=settings.gate_margin,
        breaker_ratio=settings.gate_breaker_ratio,
        breaker_requests=settings.gate_breaker_requests,
    )
    return Controller(
        ControllerStores(stores.registry, stores.rollouts, stores.routes, stores.artifacts),
        plan_of(settings),
        gate,
        actor=f"controller {socket.gethostname()}-{os.getpid()}",
        clock=_now,
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())
