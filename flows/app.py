"""Wires the stream job: settings and stores in, a Bytewax dataflow out.

Two ways in: `replay` recorded logs to their end, or `run` on the live segments until stopped.
"""

import dataclasses
import fcntl
import gc
import json
import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import FixedPartitionedSource
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from flows.admission import Admitted, admit_events
from flows.chunks import Chunk, Limits, Lines
from flows.combine import Combine, Measured, Plans, measured_by
from flows.dead_letters import DeadLetterSink, dead_letters
from flows.deduplicate import SeenEvents
from flows.drift import score_windows
from flows.embeddings import EmbeddingSink, OnlineLearnerFactory, learn_embeddings
from flows.findings import FindingSink, decide
from flows.instruments import Instruments
from flows.interactions import InteractionSink, store_interactions
from flows.live import Champions, LiveVersions
from flows.live_space import LiveSpace
from flows.outcomes import watch_outcomes
from flows.parse import parse
from flows.progress import Display, ProgressSink, Stopwatch, progress_of
from flows.retraining import rules, template
from flows.segments import SegmentSource
from flows.settings import FlowSettings
from flows.sources import LogSource
from flows.tally import Tally
from flows.vowpal_wabbit import VwMapping
from flows.windows import close_windows
from online_models import learner
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.events import TimeBounds, timestamp_ms
from online_models.contracts.ids import ModelName
from online_models.drift.adwin import Adwin
from online_models.drift.panel import Memory, Panel
from online_models.errors import PenstockError, SourceError
from online_models.ports import EmbeddingStore, InteractionStore, JobQueue, WindowStore
from online_models.settings import StoreSettings
from online_models.stores import redis
from online_models.stores.catalogue import read_catalogue
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_windows import PostgresWindows
from online_models.stores.servers import open_servers
from online_models.text import TextModel

log: Final = logging.getLogger(__name__)

RECOVERY_PARTITIONS: Final = 8
"""Fixed for the life of a recovery store."""

WARM_UP_MODEL: Final = ModelName("movies")
WARM_UP_LINES: Final = b"".join(
    b'{"event_id":"00000000-0000-0000-0000-00000000000%d","type":"%s","user_id":"u","item_id":"i","ts":0,'
    b'"domain":"movies","value":1.0,"features":{"genres":["Drama"]}}\n' % (number, kind)
    for number, kind in enumerate((b"rating", b"impression", b"click"))
)


@dataclass(frozen=True, slots=True)
class Stores:
    """The adapters of one flow process."""

    interactions: InteractionStore
    windows: WindowStore
    queue: JobQueue
    embeddings: EmbeddingStore
    live: LiveVersions
    champions: Champions


@dataclass(frozen=True, slots=True)
class Run:
    """One run's identity and directory: its recovery store and dead letters live there, its positions in Redis carry its id."""

    run_id: str
    directory: Path

    @property
    def dead_letters(self) -> Path:
        """The run's dead-letter file."""
        return self.directory / "dead-letters.ndjson"

    @property
    def recovery(self) -> Path:
        """The run's recovery store."""
        return self.directory / "recovery"


def build_flow(
    settings: FlowSettings,
    source: FixedPartitionedSource[Chunk, Any],
    stores: Stores,
    run: Run,
    tally: Tally,
    display: Display,
    instruments: Instruments | None,
    bounds: Callable[[], TimeBounds],
) -> Dataflow:
    """The stream job. Step ids are permanent: recovered state is found by them."""
    flow = Dataflow("penstock")
    names = tuple(dict.fromkeys(name for spec in settings.features for name in spec.reads))
    admitted = admit_events("admission", op.input("events", flow, source), bounds, settings.dedupe_capacity, names)

    plans = Plans(settings)
    space = LiveSpace(stores.live, stores.embeddings) if settings.embeddings else None
    closed = close_windows("hist", admitted, settings, Combine(settings, plans, space))
    op.output("progress_sink", progress_of("totals", closed), ProgressSink(tally, display))
    scored = score_windows("drift", closed, settings, plans, stores.champions)
    outcomes = watch_outcomes("variants", admitted, settings)
    merged = op.merge("found", scored, outcomes)
    asked = template(settings) if settings.interactions else None  # there is nothing else to train on
    found = decide("decide", merged, rules(settings), asked, settings.bootstrap_events)
    op.output("finding_sink", found, FindingSink(stores.windows, stores.queue, tally, instruments))

    if settings.embeddings:
        make = OnlineLearnerFactory(
            run.run_id,
            stores.embeddings,
            stores.live,
            settings.popularity_half_life_days,
            settings.publish_wall_seconds,
        )
        op.output("embedding_sink", learn_embeddings("learn", admitted), EmbeddingSink(make, tally))
    if settings.interactions:
        rows = store_interactions("interactions", admitted)
        op.output("interaction_sink", rows, InteractionSink(stores.interactions, tally))
    turned_away = dead_letters("dead_letters", admitted)
    op.output("dead_letter_sink", turned_away, DeadLetterSink(run.dead_letters, tally))
    return flow


def warm_up(settings: FlowSettings) -> None:
    """Load the compiled kernels (half a second of one-time work) while the servers start, not inside the first chunk."""
    sample = parse(Chunk("", "", 0, Lines(WARM_UP_LINES, 0)), TimeBounds(0, 2**62)).batch
    SeenEvents(2).admit(sample.event_hash)
    plans = Plans(settings)
    layout = plans.declared(WARM_UP_MODEL)
    (pane,) = Combine(settings, plans, None)(Admitted("", sample, [], [])).panes.values()
    states = [layout.state(pane.sketches[WARM_UP_MODEL, ""], spec.name) for spec in layout.specs]
    references = [FeatureSketch(state.spec, state.counts.tolist()) for state in states]
    Panel(references).judge({state.spec.name: state.counts for state in states}, 0, 1, Memory())
    for state in states:
        state.heavy(1)
    for joint in pane.joint.values():
        plans.ranking(WARM_UP_MODEL).update(0, joint)
    Adwin().update(np.zeros(1))
    if settings.embeddings:
        learner.warm_up()
        if any(measured_by(spec) is Measured.TEXT for spec in settings.features):
            TextModel.of(["a text"]).nll(["a text"])


@contextmanager
def connect(settings: FlowSettings, store_settings: StoreSettings) -> Iterator[Stores]:
    """Open the stores of a flow process: configured servers, or the embedded ones."""
    kernels = threading.Thread(target=warm_up, args=(settings,))
    kernels.start()
    with open_servers(store_settings) as endpoints:
        kernels.join()
        # Interactions are written on a thread of their own, so they have a connection of their own.
        rows, database = Database(endpoints.postgres_dsn), Database(endpoints.postgres_dsn)
        client = redis.connect(endpoints.redis_url)
        embeddings = redis.RedisEmbeddings(client)
        artifacts = FilesystemArtifacts(store_settings.artifacts)
        poll = settings.live_poll_wall_seconds
        try:
            yield Stores(
                interactions=PostgresInteractions(rows),
                windows=PostgresWindows(database),
                queue=PostgresJobs(database),
                embeddings=embeddings,
                live=LiveVersions(redis.RedisRoutes(client), artifacts, embeddings, poll),
                champions=Champions(PostgresRegistry(database), poll),
            )
        finally:
            rows.close()
            database.close()
            client.close()


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold a home against a second flow: both would write the same Redis keys, each from its own memory.

    Raises
    ------
    SourceError
        When another flow runs on this home.
    """
    (home / "flow").mkdir(parents=True, exist_ok=True)
    with open(home / "flow" / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SourceError(f"another flow is running on {home.resolve()}; stop it, or set PENSTOCK_HOME") from error
        yield


def open_run(directory: Path, identity: str, resume: bool) -> Run:
    """A fresh run in an emptied directory, or the one that is there.

    Parameters
    ----------
    identity : what the run reads; a resumed run must read the same

    Raises
    ------
    SourceError
        When there is nothing to resume, or it was a run of something else.
    """
    marker = directory / "run.json"
    if resume:
        return _resumed(marker, directory, identity)
    _empty(directory)
    recovery = directory / "recovery"
    recovery.mkdir(parents=True)
    init_db_dir(recovery, RECOVERY_PARTITIONS)
    run = Run(uuid.uuid4().hex, directory)
    # Last, and whole or not at all: a run with a marker has a recovery store.
    aside = marker.with_suffix(".new")
    aside.write_text(json.dumps({"run_id": run.run_id, "identity": identity}))
    aside.rename(marker)
    return run


def _resumed(marker: Path, directory: Path, identity: str) -> Run:
    if not marker.exists():
        raise SourceError(f"nothing to resume: {marker} is not there; start without --resume")
    saved = json.loads(marker.read_text())
    if saved["identity"] != identity:
        raise SourceError(f"cannot resume: the run in {directory} read {saved['identity']}, not {identity}")
    return Run(saved["run_id"], directory)


def _empty(directory: Path) -> None:
    """Remove a former run's files, and only those that a run writes."""
    for path in [directory / "run.json", *directory.glob("recovery/*"), directory / "dead-letters.ndjson"]:
        path.unlink(missing_ok=True)
    if (directory / "recovery").exists():
        (directory / "recovery").rmdir()


def deliberate(error: BaseException) -> PenstockError | None:
    """The error of ours that Bytewax has wrapped, if it is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PenstockError):
        cause = cause.__cause__ or cause.__context__
    return cause


def bounds_of(settings: FlowSettings, now: datetime) -> TimeBounds:
    """Event times that are believed."""
    latest = now + timedelta(seconds=settings.future_skew_seconds)
    return TimeBounds(timestamp_ms(settings.earliest), round(latest.timestamp() * 1000))


def limits_of(settings: FlowSettings) -> Limits:
    """How much is read at once."""
    longest = settings.max_line_bytes
    return Limits(max(settings.chunk_bytes, 2 * longest), longest, table_rows=settings.table_rows)


def mapping_of(settings: FlowSettings) -> VwMapping:
    """What the namespaces of a Vowpal Wabbit log mean."""
    start_ms = timestamp_ms(settings.vw_start) if settings.vw_start else None
    return dataclasses.replace(
        VwMapping(numbers=frozenset(settings.vw_numbers), start_ms=start_ms), **dict[str, Any](settings.vw_fields)
    )


def branches(settings: FlowSettings) -> list[str]:
    """Branches that these settings leave out: a run with others has other state, and is not the same run."""
    return [f"without-{name}" for name in ("embeddings", "interactions") if not getattr(settings, name)]


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set: sources then end after their current chunk, and the epoch is snapshotted."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """speed : event seconds per wall second, None for as fast as possible; resume : continue a killed replay."""

    logs: Sequence[Path]
    catalogues: Sequence[Path]
    speed: float | None
    resume: bool


def replay(settings: FlowSettings, store_settings: StoreSettings, options: ReplayOptions) -> dict[str, float]:
    """Replay recorded logs to their end; returns the report's figures."""
    identity = " ".join(
        [*(str(path.resolve()) for path in options.logs), *branches(settings), f"monitoring-{settings.monitoring_hash}"]
    )
    directory = store_settings.home / "flow" / "replay"
    stop = stop_on_signals()
    with alone(store_settings.home), connect(settings, store_settings) as stores:
        for path in options.catalogues:
            stores.interactions.put_items(read_catalogue(path))
        run = open_run(directory, identity, options.resume)
        limits, vw = limits_of(settings), mapping_of(settings)
        source = LogSource(options.logs, speed=options.speed, stop=stop, limits=limits, vw=vw)
        tally = Tally()
        return _execute(settings, source, stores, run, Display(tally, sys.stderr), tally)


def run_live(settings: FlowSettings, store_settings: StoreSettings) -> dict[str, float]:
    """Tail the live segments until SIGTERM or SIGINT; continues where the last run stopped."""
    directory = store_settings.home / "flow" / "live"
    segments = store_settings.segments
    segments.mkdir(parents=True, exist_ok=True)
    stop = stop_on_signals()
    with alone(store_settings.home), connect(settings, store_settings) as stores:
        identity = " ".join([str(segments.resolve()), *branches(settings)])
        run = open_run(directory, identity, resume=(directory / "run.json").exists())
        source = SegmentSource(segments, stop=stop, limits=limits_of(settings))
        tally = Tally()
        display = Display(tally, sys.stderr, now_ms=lambda: round(datetime.now(UTC).timestamp() * 1000))
        return _execute(settings, source, stores, run, display, tally)


def _execute(
    settings: FlowSettings,
    source: FixedPartitionedSource[Chunk, Any],
    stores: Stores,
    run: Run,
    display: Display,
    tally: Tally,
) -> dict[str, float]:
    lengths = [settings.window_seconds, *settings.longer_windows_seconds]
    instruments = Instruments(lengths) if settings.metrics_port else None
    flow = build_flow(
        settings, source, stores, run, tally, display, instruments, lambda: bounds_of(settings, datetime.now(UTC))
    )
    # Batches hold many small lists that die young: collecting less often saves a tenth of the CPU time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    stop_serving = instruments.serve(settings.metrics_port) if instruments else lambda: None
    watch = Stopwatch.start()
    log.info("flow_started run=%s directory=%s", run.run_id, run.directory)
    try:
        run_main(
            flow,
            epoch_interval=timedelta(seconds=settings.epoch_wall_seconds),
            recovery_config=RecoveryConfig(run.recovery),
        )
    except BytewaxRuntimeError as error:
        raise deliberate(error) or error from None
    finally:
        stop_serving()
        display.close()
    figures = watch.figures(tally)
    log.info("flow_ended run=%s events=%d", run.run_id, figures["events"])
    return figures
