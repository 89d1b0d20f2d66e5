"""From an event in the live log to a vector that a reader can serve: a real `flows run`, a producer and a prober.

- The producer appends to a live segment at a fixed rate, on its own clock: a flow that falls behind does not slow it down.
- Some events are of users who appear once. The prober asks Redis for their vectors every few milliseconds; a latency runs from
  just before an event's append to the answer that held its user's vector.
- Every event is an engagement, most users of a batch have one in it: nothing is spared by what users share.
- Producer, prober, flow, Redis and PostgreSQL share the cores of one machine.
"""

import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from benchmarks.report import environment
from online_models import als
from online_models.contracts import keys
from online_models.contracts.artifacts import DataWindow, Manifest
from online_models.contracts.events import Event, EventType
from online_models.contracts.features import DEFAULT_FEATURES, spec_hash
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import Route
from online_models.embedding_space import Axes
from online_models.stores import postgres, redis
from online_models.stores.embedded import Endpoints, embedded
from online_models.stores.files import SegmentLog
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts

MODEL: Final = ModelName("movies")
ITEMS: Final = 10_000
USERS: Final = 100_000
FACTORS: Final = 64
WARM_UP_RATE: Final = 200
WARM_UP_SECONDS: Final = 3.0
APPEND_SECONDS: Final = 0.005
PROBE_SECONDS: Final = 0.002
PROBES_PER_SECOND: Final = 50
ASKED_AT_ONCE: Final = 32
PATIENCE_SECONDS: Final = 60.0
START_SECONDS: Final = 240.0
"""The first flow of a fresh machine compiles its kernels."""


@dataclass(frozen=True, slots=True)
class Load:
    """Lines to append, in order; `probes` maps the number of a line to the Redis key of the vector that it must lead to."""

    lines: list[bytes]
    probes: dict[int, str]


@dataclass(frozen=True, slots=True)
class Latencies:
    """What one offered rate led to.

    offered : events per second that the producer was to append; appended : that it did
    applied : events per second from the first append to the last vector
    seconds : float64 (probes,), of those that came, and for the others how long they were waited for
    lost : probes that did not come
    """

    offered: int
    appended: float
    applied: float
    seconds: npt.NDArray[np.float64]
    lost: int

    def milliseconds(self, share: float) -> float:
        """What this share of the probes took at most.

        >>> Latencies(1, 1, 1, np.array([0.001, 0.002, 0.003]), 0).milliseconds(0.5)
        2.0
        """
        return float(np.quantile(self.seconds, share, method="higher")) * 1e3


def latencies(rates: Sequence[int], seconds: float, seed: int) -> list[Latencies]:
    """One flow on stores of its own, offered one rate after the other for so many seconds.

    Raises
    ------
    RuntimeError
        When the flow does not start, or ends by itself.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-bench-home-") as name:
        home = Path(name)
        home.chmod(0o711)  # PostgreSQL may run under another account
        with embedded(home) as endpoints:
            postgres.migrate(endpoints.postgres_dsn)
            version = publish(endpoints, home, seed)
            with running(endpoints, home) as process:
                return measured(endpoints, home, version, process, rates, seconds, seed)


def measured(
    endpoints: Endpoints,
    home: Path,
    version: ModelVersion,
    process: subprocess.Popen[bytes],
    rates: Sequence[int],
    seconds: float,
    seed: int,
) -> list[Latencies]:
    """A short warm-up, then each rate."""
    segments = SegmentLog(home / "events", lambda: datetime.now(UTC))
    found, first = [], 0
    for rate, length in ((WARM_UP_RATE, WARM_UP_SECONDS), *((rate, seconds) for rate in rates)):
        load = drawn_load(version, rate, length, first, round(time.time() * 1000), seed)
        first += len(load.lines)
        found.append(offered(endpoints, segments, load, rate))
        if process.poll() is not None:
            raise RuntimeError(f"the flow ended by itself:\n{(home / 'flow.log').read_text()[-4000:]}")
    segments.close()
    return found[1:]


def publish(endpoints: Endpoints, home: Path, seed: int) -> ModelVersion:
    """A version of random factors, champion and routed to."""
    version = registered(endpoints, home, seed)
    with closing(postgres.connect(endpoints.postgres_dsn)) as database:
        epoch = PostgresRollouts(database).adopt(MODEL, version, "benchmark")
    with closing(redis.connect(endpoints.redis_url)) as client:
        redis.RedisRoutes(client).put_route(MODEL, Route(epoch=epoch, stable=version))
    return version


def registered(endpoints: Endpoints, home: Path, seed: int, metrics: Mapping[str, float] | None = None) -> ModelVersion:
    """A version of random factors, a candidate where there is a champion."""
    rng = np.random.default_rng(seed)
    Y, X = (rng.normal(scale=FACTORS**-0.5, size=(rows, FACTORS)).astype(np.float32) for rows in (ITEMS, ITEMS // 2))
    tensors = {
        "item_factors": Y,
        "user_factors": X,
        "item_gramian": als.gramian(Y),
        "user_gramian": als.gramian(X),
        "item_axes": Axes.of(Y, Y).packed(),
        "user_axes": Axes.of(Y, X).packed(),
    }
    ids = {"items": [f"i{row}" for row in range(len(Y))], "users": [f"old-{row}" for row in range(len(X))]}
    files = {f"{name}.json": msgspec.json.encode(listed) for name, listed in {**ids, "popular": []}.items()}
    with closing(postgres.connect(endpoints.postgres_dsn)) as database:
        registry = PostgresRegistry(database)
        version = registry.new_version()
        artifacts = FilesystemArtifacts(home / "artifacts")
        manifest = msgspec.structs.replace(manifest_of(version), metrics=dict(metrics or {}))
        manifest, sha256 = artifacts.write(manifest, {"factors.safetensors": save(tensors), **files})
        registry.register(manifest, sha256, "benchmark")
    return version


def addresses(endpoints: Endpoints, home: Path) -> dict[str, str]:
    """Settings by which a process finds these stores."""
    return {
        "PENSTOCK_HOME": str(home),
        "PENSTOCK_REDIS_URL": endpoints.redis_url,
        "PENSTOCK_POSTGRES_DSN": endpoints.postgres_dsn,
    }


def manifest_of(version: ModelVersion) -> Manifest:
    return Manifest(
        model=MODEL,
        version=version,
        kind="als",
        created_at="2026-01-01T00:00:00+00:00",
        files=[],
        hyperparameters={"factors": FACTORS, "alpha": 2.0, "regularization": 1.0, "recency_half_life_events": 10.0},
        metrics={},
        data_window=DataWindow(0, 1, 1),
        sketches=[],
        feature_spec_hash=spec_hash(DEFAULT_FEATURES),
        golden=[],
    )


@contextmanager
def running(
    endpoints: Endpoints, home: Path, settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m flows run` on these stores, from when it listens until it has drained."""
    log = home / "flow.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flows", "run"]
        process = subprocess.Popen(
            command,
            cwd=home,
            env=environment({**addresses(endpoints, home), **(settings or {})}),
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while b"flow_started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the flow does not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def drawn_load(version: ModelVersion, rate: int, seconds: float, first: int, start_ms: int, seed: int) -> Load:
    """Views of items by Zipf, each by any of many users; every so often one by a user of its own.

    first : number of the first event; loads of one run share none
    """
    rng = np.random.default_rng((seed, first))
    count = round(rate * seconds)
    item = (np.minimum(rng.zipf(1.2, count), ITEMS) * rng.integers(1, 20, count) - 1) % ITEMS
    users = [f"u{user}" for user in rng.integers(0, USERS, count).tolist()]
    every = max(1, rate // PROBES_PER_SECOND)
    probes = {at: f"probe-{first + at}" for at in range(every - 1, count, every)}
    for at, user in probes.items():
        users[at] = user
    watched = rng.gamma(2.0, 1500.0, count).round().tolist()
    encoder = msgspec.json.Encoder()
    lines = [
        encoder.encode(
            Event(
                event_id=str(uuid.UUID(int=first + at)),
                type=EventType.WATCH,
                user_id=users[at],
                item_id=f"i{item[at]}",
                ts=start_ms + at * 1000 // rate,
                domain=MODEL,
                value=watched[at],
                features={"genres": ["Drama"]},
            )
        )
        for at in range(count)
    ]
    return Load(lines, {at: keys.user_vector(MODEL, version, user) for at, user in probes.items()})


def offered(endpoints: Endpoints, segments: SegmentLog, load: Load, rate: int) -> Latencies:
    """Append the load at its rate, wait for its vectors."""
    waiting: deque[tuple[str, float]] = deque()
    ended: list[float] = []
    start = time.perf_counter()
    producer = threading.Thread(target=lambda: ended.append(append(segments, load, rate, waiting)))
    producer.start()
    deadline = start + len(load.lines) / rate + PATIENCE_SECONDS
    with closing(redis.connect(endpoints.redis_url)) as client:
        seconds: list[float] = []
        while len(seconds) < len(load.probes) and time.perf_counter() < deadline:
            # What was appended first comes first: asking for the next few is enough.
            asked = [waiting.popleft() for _ in range(min(ASKED_AT_ONCE, len(waiting)))]
            raws = cast(list[bytes | None], client.mget([key for key, _ in asked])) if asked else []
            now = time.perf_counter()
            seconds += [now - at for (_, at), raw in zip(asked, raws, strict=True) if raw is not None]
            waiting.extendleft(reversed([each for each, raw in zip(asked, raws, strict=True) if raw is None]))
            time.sleep(PROBE_SECONDS)
    producer.join()
    done = time.perf_counter()
    took = np.array([*seconds, *(done - at for _, at in waiting)])
    count = len(load.lines)
    return Latencies(rate, count / (ended[0] - start), count / (done - start), took, len(waiting))


def append(segments: SegmentLog, load: Load, rate: int, waiting: deque[tuple[str, float]]) -> float:
    """Append lines as they fall due, and each probe with its time to `waiting`; returns when the last was appended."""
    at, count, start = 0, len(load.lines), time.perf_counter()
    while at < count:
        now = time.perf_counter()
        due = min(count, round((now - start) * rate))
        # from when it fell due: what a starved producer waits counts too
        probes = [(load.probes[line], start + line / rate) for line in range(at, due) if line in load.probes]
        segments.append(load.lines[at:due])
        waiting.extend(probes)
        at = due
        time.sleep(max(0.0, APPEND_SECONDS - (time.perf_counter() - now)))
    return time.perf_counter()
