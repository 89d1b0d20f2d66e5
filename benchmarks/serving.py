"""The reader under load, beside handlers that do nothing: what a request costs, how long it takes, and what a silent Redis does.

- The API, the empty handlers and wrk are processes of their own. CPU seconds of a server's process over its requests give the
  requests per second of one core; on a busy machine that ratio holds where rates do not.
- The rounds go over all servers in turn, so that what disturbs the machine disturbs them alike; figures are medians over rounds.
- The full route is measured: variant, Redis, blend, titles, impressions, for users who all have vector and history; once with the
  default settings, which re-rank nothing, and once with diversity, freshness and an exposure cap. Plain requests skip FastAPI.
- Nothing is published while it is measured: how requests fare beside a busy stream is what `freshness` shows.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import Machine, Target, result, table
from benchmarks.serving_load import Load, LoadError, Server, finish_load, measured, serving, start_load, wrk
from benchmarks.serving_recall import Recall, recall
from benchmarks.serving_world import DOMAIN, POPULAR, Known, World, drawn, fill, known, publish
from online_models.contracts.ids import ModelVersion
from online_models.settings import StoreSettings
from online_models.stores import postgres, redis
from online_models.stores.embedded import Endpoints, embedded
from serving_api.model_cache import EXACT_ITEMS

FACTORS: Final = 64
MET: Final = 30
K: Final = 10
EMPTY: Final = {"fastapi": "empty FastAPI", "fastapi_dict": "empty FastAPI, dict", "starlette": "empty Starlette"}
PENSTOCK: Final = "penstock"
RERANKED: Final = "penstock, re-ranked"
RERANKING: Final = '{"mmr_lambda": 0.8, "freshness_bonus": 0.1, "exposure_cap": 0.5}'

PAUSED_CONNECTIONS: Final = 32
PAUSE_MS: Final = 5_000
PAUSED_SECONDS: Final = 9
BEFORE_PAUSE_SECONDS: Final = 2.0
TIMEOUT_MS: Final = 250.0
"""Of the setting `redis_timeout_seconds`, by default."""

SHARE_OF_EMPTY: Final = 0.5
P99_MS: Final = 5.0
RECALL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Cell:
    """Medians over the rounds of one server at one number of connections; `us` is CPU time per request."""

    us: float
    rate: float
    p50_ms: float
    p99_ms: float

    @property
    def per_core(self) -> float:
        """Requests per second that one core serves."""
        return 1e6 / self.us


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured at one number of items."""

    cells: Mapping[tuple[str, int], Cell]
    recall: Recall
    paused: Load


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when it ran."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    try:
        wrk()
        sizes = {items: size_of(items, options) for items in options.items}
    except LoadError as error:
        print(f"benchmark serving: {error}", file=sys.stderr)
        return 1
    print(table_of(sizes))
    print(result("serving", machine, figures_of(sizes), targets_of(sizes)))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks serving",
        description="The whole recommendation route under load from wrk, beside empty handlers.",
        epilog="example: python -m benchmarks serving --items 10000 100000 --rounds 5",
    )
    top.add_argument(
        "--items",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        metavar="N",
        help="catalogue sizes (default 10000 100000 1000000)",
    )
    top.add_argument("--users", type=int, default=10_000, metavar="N", help="distinct users that are asked for")
    top.add_argument("--connections", type=int, nargs="+", default=[1, 32, 128], metavar="N", help="default 1 32 128")
    top.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds to take the median of (default 3)")
    top.add_argument(
        "--seconds", type=int, default=3, metavar="S", help="of load on each server in a round (default 3)"
    )
    top.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the items and users (default 0)")
    return top


def size_of(items: int, options: argparse.Namespace) -> Size:
    """All figures at one number of items."""
    world = drawn(items, options.users, FACTORS, MET, options.seed)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        home = Path(directory)
        home.chmod(0o711)  # PostgreSQL may run under another account
        with service(world, home) as running:
            script, api = home / "load.lua", running.servers[0]
            cells = cells_of(running.servers, script, options)
            print(f"{items:,} items: recall, and a pause of Redis", flush=True)
            stores = (StoreSettings(home=home), running.endpoints)
            found = recall(api, running.stream, running.version, *stores, K)
            return Size(cells, found, paused(api, script, running.endpoints, options.users))


@dataclass(frozen=True, slots=True)
class Service:
    """The running servers, the API first, and what it answers from."""

    servers: list[Server]
    endpoints: Endpoints
    version: ModelVersion
    stream: Known


@contextmanager
def service(world: World, home: Path) -> Iterator[Service]:
    """The API over a published world, and the empty handlers."""
    with embedded(home) as endpoints, ExitStack() as running:
        postgres.migrate(endpoints.postgres_dsn)
        start = time.monotonic()
        version = publish(world, StoreSettings(home=home), endpoints)
        stream = known(world, version)
        fill(stream, version, endpoints, world.item_ids[:POPULAR])
        print(f"{len(world.item_factors):,} items published in {time.monotonic() - start:.0f} s", flush=True)
        asked, command = f"/v1/recommendations/USER?domain={DOMAIN}&k={K}", ["serving_api", "serve", "--port"]
        environment = {"PENSTOCK_HOME": str(home)}
        api = serving(PENSTOCK, command, asked, "/readyz", environment, home / "api.log")
        servers = [running.enter_context(api)]
        environment |= {"PENSTOCK_SERVING_RERANKING": RERANKING}
        other = serving(RERANKED, command, asked, "/readyz", environment, home / "reranked.log")
        servers.append(running.enter_context(other))
        for name in EMPTY:
            handler = serving(name, ["benchmarks.empty_handlers", name], "/empty", "/empty", {}, home / f"{name}.log")
            servers.append(running.enter_context(handler))
        yield Service(servers, endpoints, version, stream)


def cells_of(servers: Sequence[Server], script: Path, options: argparse.Namespace) -> dict[tuple[str, int], Cell]:
    for server in servers:
        measured(server, script, max(options.connections), 1, options.users)  # warm
    found: dict[tuple[str, int], list[Cell]] = {}
    for _ in range(options.rounds):
        for connections in options.connections:
            for server in servers:
                load, us = measured(server, script, connections, options.seconds, options.users)
                if load.errors:
                    raise LoadError(f"{server.name}: {load.errors} errors at {connections} connections")
                cell = Cell(us, load.requests / load.seconds, load.p50_ms, load.p99_ms)
                found.setdefault((server.name, connections), []).append(cell)
    return {place: median(rounds) for place, rounds in found.items()}


def median(cells: Sequence[Cell]) -> Cell:
    return Cell(
        statistics.median(cell.us for cell in cells),
        statistics.median(cell.rate for cell in cells),
        statistics.median(cell.p50_ms for cell in cells),
        statistics.median(cell.p99_ms for cell in cells),
    )


def paused(server: Server, script: Path, endpoints: Endpoints, users: int) -> Load:
    """What load sees while Redis answers nobody for five of its nine seconds."""
    load = start_load(server, script, PAUSED_CONNECTIONS, PAUSED_SECONDS, users, watch=True)
    time.sleep(BEFORE_PAUSE_SECONDS)
    with closing(redis.connect(endpoints.redis_url)) as client:
        client.client_pause(PAUSE_MS)
    return finish_load(load)


def table_of(sizes: Mapping[int, Size]) -> str:
    heads = ["items", "connections", "server", "CPU us", "requests/s/core", "requests/s", "p50 ms", "p99 ms"]
    rows = [
        [
            f"{items:,}",
            str(connections),
            EMPTY.get(name, name),
            f"{cell.us:.0f}",
            f"{cell.per_core:,.0f}",
            f"{cell.rate:,.0f}",
            f"{cell.p50_ms:.2f}",
            f"{cell.p99_ms:.2f}",
        ]
        for items, size in sizes.items()
        for (name, connections), cell in size.cells.items()
    ]
    notes = [
        f"{items:,} items: recall@{K} {size.recall.index:.3f} of the index, {size.recall.answers:.3f} of answers; "
        f"Redis paused for {PAUSE_MS / 1000:g} s of {PAUSED_SECONDS} s: {size.paused.requests:,} requests, "
        f"{size.paused.errors} errors, {size.paused.degraded:,} degraded, p99 {size.paused.p99_ms:.1f} ms, "
        f"longest {size.paused.max_ms:.0f} ms"
        for items, size in sizes.items()
    ]
    return "\n".join([table([heads, *rows]), *notes])


def figures_of(sizes: Mapping[int, Size]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for items, size in sizes.items():
        for (name, connections), cell in size.cells.items():
            where = f"{items} items, {connections} connections, {EMPTY.get(name, name)}"
            figures[f"{where}: CPU us"] = round(cell.us, 1)
            figures[f"{where}: requests/s/core"] = round(cell.per_core, 1)
            figures[f"{where}: p50 ms"] = cell.p50_ms
            figures[f"{where}: p99 ms"] = cell.p99_ms
        figures[f"{items} items: recall@{K} of the index"] = round(size.recall.index, 4)
        figures[f"{items} items: recall@{K} of answers"] = round(size.recall.answers, 4)
        for what in ("requests", "errors", "degraded", "p99_ms", "max_ms"):
            figures[f"{items} items, Redis paused: {what}"] = getattr(size.paused, what)
    return figures


def targets_of(sizes: Mapping[int, Size]) -> list[Target]:
    """Those of the issue; an empty FastAPI handler is the cheapest that there is."""
    targets = []
    for items, size in sizes.items():
        for (name, connections), cell in size.cells.items():
            if name in (PENSTOCK, RERANKED):
                share = cell.per_core / size.cells["fastapi", connections].per_core
                of = f"{name}, {items} items, {connections} connections"
                targets.append(Target(f"{of}: of an empty FastAPI's rate per core", share, at_least=SHARE_OF_EMPTY))
                if connections == 1:
                    targets.append(Target(f"{of}: p99 ms", cell.p99_ms, at_most=P99_MS))
        if items > EXACT_ITEMS:  # fewer are all scored
            targets.append(Target(f"{items} items: recall@{K} of the index", size.recall.index, at_least=RECALL))
        pause = f"{items} items, Redis paused for {PAUSE_MS / 1000:g} s"
        targets.append(Target(f"{pause}: errors", size.paused.errors, at_most=0))
        targets.append(Target(f"{pause}: degraded answers", size.paused.degraded, at_least=1))
        targets.append(Target(f"{pause}: p99 ms", size.paused.p99_ms, at_most=TIMEOUT_MS))
    return targets
