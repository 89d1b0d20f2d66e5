"""The demo: a seeded world meets the whole loop, live, and the story is told as it happens.

Real Redis and PostgreSQL, real processes (flow, worker, API, controller), event time faster than the clock. Tastes shift, the
flow notices, the worker retrains, the candidate is canaried to everybody; then a spoiled candidate is published and rolled back.
"""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from online_models.contracts.jobs import JobKind
from online_models.settings import StoreSettings
from online_models.stores.catalogue import read_catalogue
from online_models.stores.embedded import Endpoints
from online_models.stores.files import SegmentLog
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.servers import open_servers
from scripts.simulate import MOVIES, PRODUCTS, World, encode, history
from scripts.spoil import publish_spoiled
from scripts.traffic import Rates, Traffic
from scripts.witness import Witness

HOME: Final = Path(".penstock/demo")
START_MS: Final = 1_748_736_000_000
"""2025-06-01T00:00Z: event time of the first visit. Fixed, so that a seed gives the same world on any day."""

HISTORY_DAYS: Final = 10
DAY_MS: Final = 86_400_000
PATIENCE_SECONDS: Final = 240.0
"""Longest wait for one turn of the story."""

SETTINGS: Final = {
    # Event time runs about an hour per second, so windows are minutes and cooldowns are hours.
    "PENSTOCK_FLOW_WINDOW_SECONDS": "3600",
    "PENSTOCK_FLOW_SLIDE_SECONDS": "0",  # fewer windows, so fewer lines to read
    # That recommendations begin moves genres by 0.1 (on PSI's scale): drift, and found, but not the one of this story.
    "PENSTOCK_FLOW_POLICIES": '{"recommender": {"effect": 0.25}}',
    "PENSTOCK_FLOW_LATENESS_SECONDS": "120",
    "PENSTOCK_FLOW_ATTRIBUTION_SECONDS": "240",
    "PENSTOCK_FLOW_OUTCOME_WINDOW_SECONDS": "1800",
    "PENSTOCK_FLOW_COOLDOWN_SECONDS": "86400",
    "PENSTOCK_FLOW_BOOTSTRAP_EVENTS": "5000",
    "PENSTOCK_FLOW_SETTLE_SECONDS": "7200",
    "PENSTOCK_FLOW_TRAIN_HALF_LIFE_DAYS": "0.05",
    "PENSTOCK_FLOW_TRAIN_FACTORS": "24",
    # Factors first, two towers when tastes have shifted; a language model reads the titles of the products.
    "PENSTOCK_FLOW_RETRAIN_MODEL": "two_tower",
    "PENSTOCK_FLOW_TRAIN_TWO_TOWER": '{"dimensions": 32, "hidden": 64, "epochs": 4}',
    "PENSTOCK_FLOW_LANGUAGE_MODELS": '["products"]',
    "PENSTOCK_FLOW_TRAIN_LORA": '{"rank": 8, "alpha": 16, "epochs": 1, "choices": 1000, "recent": 12, "candidates": 30}',
    "PENSTOCK_FLOW_EPOCH_WALL_SECONDS": "2",
    "PENSTOCK_FLOW_LIVE_POLL_WALL_SECONDS": "0.5",
    "PENSTOCK_WORKER_POLL_SECONDS": "0.5",
    "PENSTOCK_WORKER_GATE_MARGIN": "0.15",  # a few hundred people tell no finer difference
    "PENSTOCK_SERVING_ALLOW_EVENT_TIME": "true",
    "PENSTOCK_SERVING_POLL_SECONDS": "0.5",
    "PENSTOCK_SERVING_CONTROL_SECONDS": "0.5",
    "PENSTOCK_SERVING_CONTROL_FAST_SECONDS": "0.25",
    "PENSTOCK_SERVING_SHADOW_REQUESTS": "30",
    "PENSTOCK_SERVING_STAGE_MIN_USERS": "8",  # 5 % of the 400 people of a domain are 20 on average, and may be 12
    "PENSTOCK_SERVING_STAGE_MIN_STABLE_USERS": "1",  # the 2 % who are left in the end are 8, and may be 2
    "PENSTOCK_SERVING_STAGE_MIN_SECONDS": "2",
    "PENSTOCK_SERVING_BAKE_SECONDS": "4",
    "PENSTOCK_SERVING_GATE": '{"margin": 0.3}',  # a few hundred people who come back tell no finer difference
    "PENSTOCK_SERVING_STAGE_MAX_SECONDS": "120",  # nor this one always: then the story tells that, and goes on
    "PENSTOCK_SERVING_STAGE_OVERDUE": "roll_back",
}

PROCESSES: Final = (
    ("flow", ("-m", "flows", "run")),
    ("worker", ("-m", "retrain_workers", "run", "--types", "als,two_tower")),
    ("worker_lora", ("-m", "retrain_workers", "run", "--types", "lora")),
    ("control", ("-m", "serving_api", "control")),
)


def say(line: str) -> None:
    """One line of the story."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


@dataclass(slots=True)
class Demo:
    """The story's state: who plays, what was seen, and how long each turn took."""

    traffic: Traffic
    witness: Witness
    home: Path
    processes: Sequence[subprocess.Popen[bytes]]
    seconds: dict[str, float] = field(default_factory=dict)

    async def until(
        self, client: httpx.AsyncClient, what: str, happened: Callable[[], bool], pause_seconds: float = 0.0
    ) -> None:
        """Let people come and go until something has happened; its duration is kept under its name."""
        begun = time.monotonic()
        while not happened():
            for process in self.processes:
                if process.poll() is not None:
                    raise RuntimeError(f"a process ended with {process.returncode}; see {self.home}/*.log")
            if time.monotonic() - begun > PATIENCE_SECONDS:
                raise TimeoutError(f"waited {PATIENCE_SECONDS:.0f} s for: {what}; see {self.home}/*.log")
            await self.traffic.step(client)
            await asyncio.sleep(pause_seconds)
            for line in self.witness.news():
                say(line)
        self.seconds[what] = round(time.monotonic() - begun, 2)

    async def ends(self, client: httpx.AsyncClient, what: str, canary: str, phase: str) -> None:
        """Let people come and go until the rollout of a movies candidate has ended; it must have ended so."""
        await self.until(client, what, lambda: bool(self.witness.ended(MOVIES.name, canary)))
        if (found := self.witness.ended(MOVIES.name, canary)) != phase:
            raise RuntimeError(f"the rollout of {canary} should be {phase}, but is {found}")

    async def visits(self, client: httpx.AsyncClient, phase: str, requests: int) -> None:
        """Let people come and go until the movies have answered so many requests in a phase."""
        self.traffic.phase = phase
        rates = self.traffic.rates_of(MOVIES.name, phase)
        await self.until(client, phase, lambda: rates.requests >= requests)


async def story(demo: Demo, endpoints: Endpoints) -> None:
    """The whole plot."""
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
    async with httpx.AsyncClient(timeout=30.0, limits=limits, trust_env=False) as client:
        say("The API is up. Nobody has trained anything yet: everybody is served what is popular.")
        # A fresh machine compiles its kernels first: few people come meanwhile, or popularity wears out before there is a model.
        await demo.until(client, "first_versions", lambda: demo.witness.champions() == 2, pause_seconds=0.5)
        say("Both domains have their first version.")
        await demo.visits(client, "settling", 800)
        await demo.visits(client, "before_shift", 1200)
        _tell(demo, "before_shift")
        champion = demo.witness.champion(MOVIES.name)
        demo.traffic.worlds[MOVIES.name].shift()
        demo.traffic.phase = "after_shift"
        demo.witness.drift_counts_from(demo.traffic.now_ms)
        say("TASTES SHIFT in movies: what used to go together no longer does, and other things are popular.")
        await demo.until(client, "shift_to_trigger", lambda: demo.witness.triggered(MOVIES.name))
        await demo.until(client, "trigger_to_candidate", lambda: bool(demo.witness.candidate(MOVIES.name, champion)))
        _tell(demo, "after_shift")
        demo.traffic.phase = "canary"
        retrained = demo.witness.candidate(MOVIES.name, champion)
        await demo.ends(client, "candidate_to_everybody", retrained, "promoted")
        await demo.visits(client, "after_retrain", 1200)
        _tell(demo, "after_retrain")
        demo.traffic.phase = "language_model"
        await demo.until(client, "language_model", lambda: bool(demo.witness.language_model(PRODUCTS.name)))
        outcome = demo.witness.language_model(PRODUCTS.name)
        say(f"The products' language model, an adapter over a tiny base that has read their titles, is {outcome}.")
        await _spoil(demo, client, endpoints)


async def _spoil(demo: Demo, client: httpx.AsyncClient, endpoints: Endpoints) -> None:
    stable = demo.witness.champion(MOVIES.name)
    version = publish_spoiled(demo.home / "artifacts", endpoints, MOVIES.name, stable)
    say(f"A spoiled candidate is published past the gate: {version}, it ranks the least likely items first.")
    demo.traffic.phase = "spoiled"
    await demo.ends(client, "spoiled_to_rollback", version, "rolled_back")
    say(f"Rolled back by itself; {demo.witness.champion(MOVIES.name)} goes on serving everybody.")


def _tell(demo: Demo, phase: str) -> None:
    rates = demo.traffic.rates_of(MOVIES.name, phase)
    say(f"{phase}: hit rate@10 {rates.hit_rate:.3f}, CTR {rates.ctr:.4f} over {rates.requests} movie requests")


def report(demo: Demo) -> dict[str, object]:
    """What happened, counted by the stores and by the people themselves."""
    phases = ("before_shift", "after_shift", "after_retrain")
    rates: dict[str, Rates] = {phase: demo.traffic.rates_of(MOVIES.name, phase) for phase in phases}
    return {
        **demo.witness.figures(),
        "requests": demo.traffic.requests,
        "requests_failed": len(demo.traffic.failed),
        "hit_rate_at_10": {phase: round(rate.hit_rate, 4) for phase, rate in rates.items()},
        "ctr": {phase: round(rate.ctr, 4) for phase, rate in rates.items()},
        "seconds": demo.seconds,
    }


def table(figures: dict[str, object]) -> str:
    """The closing table."""
    hit_rate, ctr = figures["hit_rate_at_10"], figures["ctr"]
    assert isinstance(hit_rate, dict)
    assert isinstance(ctr, dict)
    lines = ["", f"{'movies':<16}{'hit rate@10':>12}{'CTR':>10}"]
    lines += [f"{phase:<16}{hit_rate[phase]:>12.3f}{ctr[phase]:>10.4f}" for phase in hit_rate]
    seconds = figures["seconds"]
    assert isinstance(seconds, dict)
    lines += ["", *(f"{turn:<28}{value:>8.1f} s" for turn, value in seconds.items())]
    lines += ["", f"requests {figures['requests']}, failed {figures['requests_failed']}; events {figures['events']}"]
    return "\n".join(lines)


@contextmanager
def processes(home: Path, port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, each with its log under `home`; stopped in the end."""
    environment = {**os.environ, **SETTINGS, "PENSTOCK_HOME": str(home), "PENSTOCK_SERVING_PORT": str(port)}
    commands = (*PROCESSES, ("api", ("-m", "serving_api", "serve", "--port", str(port))))
    started = []
    try:
        for name, command in commands:
            with open(home / f"{name}.log", "wb") as output:
                started.append(
                    subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=output)
                )
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def prepare(home: Path, store: Endpoints, worlds: Sequence[World], seed: int) -> int:
    """Catalogue into PostgreSQL, ten days of history onto the log; returns how many events that is."""
    items = home / "catalogue.items.ndjson"
    items.write_bytes(b"".join(encode(world.catalogue()) for world in worlds))
    PostgresInteractions(Database(store.postgres_dsn)).put_items(read_catalogue(items))
    start = START_MS - HISTORY_DAYS * DAY_MS
    events = [event for world in worlds for event in history(world, start, START_MS, 25, seed)]
    events.sort(key=lambda event: int(str(event["ts"])))
    SegmentLog(home / "events", clock=lambda: datetime.now(UTC)).append(encode(events).splitlines())
    return len(events)


class OccupiedError(Exception):
    """Another process stands where the demo would."""


@contextmanager
def alone(port: int) -> Iterator[None]:
    """Hold the demo's home against a second demo, and see that the port is free."""
    HOME.parent.mkdir(exist_ok=True)
    with open(HOME.with_suffix(".lock"), "w") as lock, socket.socket() as probe:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OccupiedError(f"another demo is running in {HOME.parent.resolve()}") from error
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OccupiedError(f"port {port} is in use ({error.strerror}); try --port {port + 1}") from error
        probe.close()
        yield


async def wait_ready(base_url: str, started: Sequence[subprocess.Popen[bytes]], home: Path) -> None:
    """Return once the API answers; an error when a process has died."""
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(600):
            for process in started:
                if process.poll() is not None:
                    raise RuntimeError(f"a process ended with {process.returncode}; see {home}/*.log")
            try:
                if (await client.get(f"{base_url}/healthz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    raise TimeoutError(f"the API did not answer within 60 s; see {home}/api.log")


def main() -> int:
    """Tell the story; 0 when it ended as it should."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with alone(options.port):
            return _tell_all(options)
    except OccupiedError as error:
        say(f"Cannot start: {error}")
        return 2
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130


def _tell_all(options: argparse.Namespace) -> int:
    # A fresh world has fresh stores: what an earlier demo left would be another world's past.
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    worlds = [World(MOVIES, options.seed), World(PRODUCTS, options.seed)]
    say("Starting a real Redis and a real PostgreSQL under .penstock/demo ...")
    with open_servers(StoreSettings(home=HOME)) as endpoints:
        events = prepare(HOME, endpoints, worlds, options.seed)
        say(f"{events} events of {HISTORY_DAYS} recorded days are on the log: {MOVIES.name} and {PRODUCTS.name}.")
        with processes(HOME.resolve(), options.port) as started:
            return _run(options, worlds, endpoints, started)


def _run(
    options: argparse.Namespace,
    worlds: Sequence[World],
    endpoints: Endpoints,
    started: Sequence[subprocess.Popen[bytes]],
) -> int:
    base_url = f"http://127.0.0.1:{options.port}"
    asyncio.run(wait_ready(base_url, started, HOME))
    rng = np.random.default_rng(options.seed)
    traffic = Traffic({world.plan.name: world for world in worlds}, base_url, START_MS, rng)
    demo = Demo(traffic, Witness(endpoints.postgres_dsn, HOME), HOME, started)
    try:
        asyncio.run(story(demo, endpoints))
    except (TimeoutError, RuntimeError) as error:
        say(f"The story broke off: {error}")
        return 1
    _wait_until_stored(demo.witness)
    if missing := set(JobKind) - demo.witness.kinds_judged():
        say(f"The story is not whole: no model was trained of kind {', '.join(sorted(missing))}")
        return 1
    figures = report(demo)
    (HOME / "report.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures), flush=True)
    for failure in traffic.failed[:5]:
        say(f"failed: {failure}")
    if not options.exit:
        say(f"The API stays up at {base_url} (try {base_url}/docs); Ctrl-C ends it.")
        _sleep_until_interrupted()
    return 0 if not traffic.failed else 1


def _wait_until_stored(witness: Witness) -> None:
    """Return once the flow has stored all that is on the log: the count has stood still for two seconds."""
    stored, since = -1, time.monotonic()
    while time.monotonic() - since < 2.0:
        if (now := witness.stored()) != stored:
            stored, since = now, time.monotonic()
        time.sleep(0.2)


def _sleep_until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        say("Stopping.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/demo.py --exit --seed 7")
    parser.add_argument("--exit", action="store_true", help="leave when the story is told, instead of serving on")
    parser.add_argument("--seed", type=int, default=1, help="another world")
    parser.add_argument("--port", type=int, default=8000, help="where the API listens")
    return parser


if __name__ == "__main__":
    sys.exit(main())
