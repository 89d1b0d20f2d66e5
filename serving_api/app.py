"""Wires the API and the rollout controller: settings and stores in, a FastAPI application or a Controller out."""

import gc
import logging
import os
import random
import socket
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.types import Receive, Scope, Send

from online_models.contracts.ids import ModelName
from online_models.ports import (
    ArtifactStore,
    KeyStore,
    ModelRegistry,
    RolloutStore,
    RouteStore,
)
from online_models.settings import StoreSettings
from online_models.stores import postgres, redis
from online_models.stores.files import SegmentLog
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_keys import PostgresKeys
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis import RedisRoutes
from online_models.stores.redis_reads import RedisStreamReads, RedisUserReads
from online_models.stores.redis_serving import RedisServing
from online_models.stores.servers import open_servers
from serving_api.impressions import ImpressionLog
from serving_api.instruments import Instruments
from serving_api.last_known import LastKnown
from serving_api.list_maker import Lists
from serving_api.modes import Modes
from serving_api.precompute import Precompute
from serving_api.reader import Reader, ReaderStores, ReaderTimes
from serving_api.recommender import Kept, Recommender
from serving_api.rollouts.bandit import Sampling
from serving_api.rollouts.controller import Controller
from serving_api.rollouts.operations import Operations
from serving_api.rollouts.readiness import RolloutStores
from serving_api.routes import (
    batch,
    events,
    health,
    index,
    metrics,
    models,
    preferences,
    recommendations,
    rollout_orders,
    rollouts,
    similar,
)
from serving_api.routes.bodies import BodyLimit, refused
from serving_api.routes.parts import Parts
from serving_api.served import ServedCounts, ServedPublisher
from serving_api.settings import ServingSettings, shared_metrics
from serving_api.shadow import Shadow

log: Final = logging.getLogger(__name__)

POLL_STATEMENT_TIMEOUT: Final = timedelta(seconds=3)
"""Tried twice, and perhaps twice more by a version being loaded: below the 15 s after which a reader counts as dead."""

POLL_CONNECT_TIMEOUT: Final = timedelta(seconds=2)

GC_THRESHOLDS: Final = (50_000, 20, 50)
SWITCH_SECONDS: Final = 0.001
IDS_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class Stores:
    """The opened stores of one serving process; `polled` and `operated` have connections of their own, which hold up nobody
    else."""

    redis_url: str
    routes: RouteStore
    polled: ReaderStores
    registry: ModelRegistry
    rollouts: RolloutStore
    keys: KeyStore
    operated: RolloutStores
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
        polling = held.enter_context(closing(_impatient_database(endpoints.postgres_dsn)))
        operating = held.enter_context(closing(_impatient_database(endpoints.postgres_dsn)))
        event_log = held.enter_context(closing(SegmentLog(settings.segments, now)))
        routes, artifacts = RedisRoutes(client), FilesystemArtifacts(settings.artifacts)
        yield Stores(
            redis_url=endpoints.redis_url,
            routes=routes,
            polled=ReaderStores(
                routes, RedisStreamReads(client), PostgresRegistry(polling), artifacts, PostgresInteractions(polling)
            ),
            registry=PostgresRegistry(database),
            rollouts=PostgresRollouts(database),
            keys=PostgresKeys(operating),
            operated=RolloutStores(PostgresRegistry(operating), PostgresRollouts(operating), routes, artifacts),
            artifacts=artifacts,
            event_log=event_log,
        )


def _impatient_database(dsn: str) -> postgres.Database:
    """A connection, opened on first use, that gives up soon."""
    return postgres.Database(dsn, statement_timeout=POLL_STATEMENT_TIMEOUT, connect_timeout=POLL_CONNECT_TIMEOUT)


class Api(FastAPI):
    """FastAPI behind layers of ours, for its own six are half of a plain request's cost: the count, the fast path, and behind
    that the limit of bodies."""

    def __init__(self, instruments: Instruments, max_body_bytes: int, **settings: Any) -> None:
        super().__init__(**settings)
        fast = recommendations.FastPath(BodyLimit(super().__call__, max_body_bytes), self.state)
        self._front = metrics.CountRequests(fast, instruments)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._front(scope, receive, send)


def create_app(
    settings: ServingSettings | None = None, store_settings: StoreSettings | None = None, opened: Stores | None = None
) -> FastAPI:
    """The API; settings come from the environment and `penstock.toml` unless given.

    opened : stores that the caller opened and closes; without them they are opened at the start of the application
    """
    serving = settings or ServingSettings.load()
    storing = store_settings or StoreSettings.load()
    instruments = Instruments(shared_metrics())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opening = nullcontext(opened) if opened is not None else open_stores(storing)
        with opening as stores, _reading(serving, stores, instruments) as reader, tuned_interpreter():
            patience = timedelta(seconds=serving.redis_timeout_seconds)
            users = RedisUserReads(stores.redis_url, patience, lists=_modes(serving).reads_lists)
            with (
                closing(RedisServing(stores.redis_url, patience)) as store,
                _keeping(serving, stores, instruments, reader, store) as kept,
            ):
                try:
                    app.state.parts = _parts(serving, stores, instruments, reader, users, store, kept)
                    yield
                finally:
                    await users.close()

    app = Api(
        instruments,
        serving.max_body_bytes,
        title="Penstock",
        summary="Fresh recommendations, and the events that keep them fresh.",
        version="0.1.0",
        lifespan=lifespan,
        # It would look for OpenTelemetry's providers on each request; this process has metrics of its own.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={RequestValidationError: refused},
    )
    conducted = (rollouts, rollout_orders, models)
    for resource in (index, recommendations, batch, similar, preferences, events, *conducted, health, metrics):
        app.include_router(resource.router)
    return app


def _parts(
    settings: ServingSettings,
    stores: Stores,
    instruments: Instruments,
    reader: Reader,
    users: RedisUserReads,
    store: RedisServing,
    kept: Kept,
) -> Parts:
    new_id = random_uuids()
    return Parts(
        settings=settings,
        instruments=instruments,
        reader=reader,
        recommender=Recommender(
            reader,
            users,
            store,
            kept,
            instruments,
            new_id,
            Lists(
                reranking=settings.reranking,
                modes=_modes(settings),
                session_items=settings.session_items,
                session_ttl=timedelta(seconds=settings.session_seconds),
            ),
            random.Random().random,
        ),
        kept=store,
        event_log=stores.event_log,
        keys=stores.keys,
        operated=stores.operated,
        operations=Operations(stores.operated, now),
        clock=now,
        new_id=new_id,
    )


def _modes(settings: ServingSettings) -> Modes:
    return Modes(settings.mode, timedelta(seconds=settings.active_seconds))


@contextmanager
def _keeping(
    settings: ServingSettings, stores: Stores, instruments: Instruments, reader: Reader, store: RedisServing
) -> Iterator[Kept]:
    """What requests leave behind them, and the threads that carry it away, which end in an order that loses nothing."""
    counts, patience = ServedCounts(), timedelta(seconds=settings.impression_wait_seconds)
    with (
        closing(ServedPublisher(counts, stores.routes, reader.reader_id, settings.poll_seconds)),
        closing(ImpressionLog(stores.event_log, instruments, settings.impression_queue, patience)) as impressions,
        closing(Shadow(store, impressions, counts, settings.reranking, settings.shadow_share)) as shadow,
    ):
        yield Kept(LastKnown(settings.last_known_bytes), impressions, counts, shadow)


@contextmanager
def open_precompute(settings: ServingSettings, stores: Stores, patience: timedelta) -> Iterator[Precompute]:
    """What makes lists beforehand, over the versions that are routed to now; no reader for the controller to wait for.

    patience : longest wait for Redis
    """
    with closing(_reader(settings, stores, Instruments(None), reports=False)) as reader:
        reader.settle()
        with closing(RedisServing(stores.redis_url, patience)) as kept:
            without_chance = settings.reranking.model_copy(update={"explore_probability": 0.0})
            yield Precompute(reader, kept, stores.polled.interactions, without_chance, now)


@contextmanager
def _reading(settings: ServingSettings, stores: Stores, instruments: Instruments) -> Iterator[Reader]:
    """A reader whose versions are loaded or refused, polling on a thread of its own."""
    reader = _reader(settings, stores, instruments, reports=True)
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


def _reader(settings: ServingSettings, stores: Stores, instruments: Instruments, *, reports: bool) -> Reader:
    return Reader(
        reader_id=f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        models=[ModelName(domain) for domain in settings.domains],
        stores=stores.polled,
        times=ReaderTimes(
            catalogue_refresh=timedelta(seconds=settings.catalogue_refresh_seconds),
            retire=timedelta(seconds=settings.retire_seconds),
        ),
        instruments=instruments,
        clock=now,
        rules=settings.rules,
        reports=reports,
    )


def build_controller(settings: ServingSettings, stores: Stores) -> Controller:
    """The rollout controller on opened stores."""
    return Controller(
        RolloutStores(stores.registry, stores.rollouts, stores.routes, stores.artifacts),
        settings.plan,
        Sampling(
            every=timedelta(seconds=settings.bandit_seconds),
            fewest_trials=settings.bandit_min_requests,
            floor=settings.bandit_floor,
            half_life=timedelta(seconds=settings.bandit_half_life_seconds),
        ),
        actor=f"controller {socket.gethostname()}-{os.getpid()}",
        clock=now,
        rng=np.random.default_rng(),
    )


def now() -> datetime:
    """The clock of this process."""
    return datetime.now(UTC)


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """While requests are answered the collector leaves alone what is there now, catalogues and versions, and looks less often;
    and a thread that computes, on a version or its views, lets requests through sooner.

    A request leaves no cycles; what the collector would walk through again and again are millions of ids. Beside a thread that
    never rests a request took 2.2 ms with Python's own switch interval of 5 ms, and 0.26 ms with this one (medians).
    """
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def random_uuids() -> Callable[[], str]:
    """A source of random UUIDs (version 4), for any thread; the kernel is asked for many at once."""
    ready: list[str] = []

    def one() -> str:
        try:
            return ready.pop()
        except IndexError:
            digits = os.urandom(16 * IDS_AT_ONCE).hex()
            ready.extend(_uuid(digits[start : start + 32]) for start in range(0, len(digits), 32))
            return one()

    return one


def _uuid(digits: str) -> str:
    """The UUID of version 4 that has these random digits wherever that leaves the choice."""
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
