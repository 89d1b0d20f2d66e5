"""A candidate that raises on every request, and one that goes all the way, under load: what people notice of either.

- API, flow, controller, Redis and PostgreSQL as an embedded installation has them, in processes of their own on the same cores,
  and people who ask as fast as they are answered. The paces are the defaults: the reader's 1 s, the controller's 2 s and 0.5 s.
- The candidate that raises does so once it is loaded, verified and ready, on every user's request, see `failing_api`.
- First exposure: the first answer in whose place another version had to stand in. Weight 0: the route document names no canary.
- The other candidate climbs by the controller's own verdicts, with small minimums; a third is promoted by an operator's call.
"""

import argparse
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np

from benchmarks.event_latency import ITEMS, MODEL, addresses, publish, registered, running
from benchmarks.failing_api import FAILS
from benchmarks.report import Machine, Target, environment, result, table
from benchmarks.serving_load import serving
from benchmarks.visiting import Crowd, Seen, visiting
from online_models.contracts import keys
from online_models.contracts.events import Event, EventType
from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import OPEN_PHASES, Phase, Rollout, Route
from online_models.stores import postgres, redis
from online_models.stores.embedded import Endpoints, embedded
from online_models.stores.files import SegmentLog
from online_models.stores.postgres_keys import PostgresKeys
from online_models.stores.postgres_rollouts import PostgresRollouts
from serving_api.access import Role, new_key

RUNS: Final = 5
USERS: Final = 5_000
LOOK_SECONDS: Final = 0.005
SETTLE_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 300.0
TARGET_SECONDS: Final = 5.0

FLOW: Final = {
    "PENSTOCK_FLOW_ATTRIBUTION_SECONDS": "2",
    "PENSTOCK_FLOW_OUTCOME_WINDOW_SECONDS": "10",
    "PENSTOCK_FLOW_EPOCH_WALL_SECONDS": "2",
}

PACE: Final = {
    "PENSTOCK_SERVING_STAGE_MIN_USERS": "100",
    "PENSTOCK_SERVING_STAGE_MIN_STABLE_USERS": "20",
    "PENSTOCK_SERVING_STAGE_MIN_SECONDS": "5",
    "PENSTOCK_SERVING_BAKE_SECONDS": "5",
}

NO_SHADOW: Final = {"PENSTOCK_SERVING_SHADOW_REQUESTS": "0"}


@dataclass(frozen=True, slots=True)
class Fall:
    """What one candidate that raises came to.

    asked : answers in whose place another version stood in; failed : requests without a good answer; wrong : answers without an
    item, or by another version than the stable one
    seconds : from the first exposure to weight 0; to_last : to the last answer that the candidate was asked for
    """

    asked: int
    failed: int
    wrong: int
    seconds: float
    to_last: float


@dataclass(slots=True)
class Installation:
    """A running installation, and every change of the route document with when it was seen (seconds of `perf_counter`)."""

    endpoints: Endpoints
    home: Path
    crowd: Crowd
    rollouts: PostgresRollouts
    url: str
    routes: list[tuple[float, Route]] = field(default_factory=list)

    def rollout_of(self, canary: ModelVersion) -> Rollout | None:
        """The candidate's rollout, once it has one."""
        found = self.rollouts.rollouts_of(MODEL, canary)
        return next((each for each in found if each.canary == canary), None)

    def ended(self, canary: ModelVersion, phase: Phase) -> Rollout:
        """The candidate's rollout once it has ended. Raises RuntimeError when it has not ended so."""

        def final() -> bool:
            found = self.rollout_of(canary)
            return found is not None and found.phase not in OPEN_PHASES

        until(final, f"the rollout of {canary} ends")
        found = self.rollout_of(canary)
        assert found is not None
        if found.phase is not phase:
            why = self.rollouts.events(found)[-1].reason
            raise RuntimeError(f"the rollout of {canary} should be {phase}, and is {found.phase}: {why}")
        return found


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    machine = Machine.here()
    with installed(options.users, options.seed) as here:
        exposed = [fallen(here, options.seed + run, NO_SHADOW) for run in range(options.runs)]
        shadowed = fallen(here, options.seed + options.runs, {})
        climbed, climb = promoted(here, options.seed + 101)
        called, call = promoted_by_call(here, options.seed + 102)
    print(falls_table(exposed, shadowed))
    print(f"\nby itself from 5 % to everybody: {climb:.0f} s, {len(climbed)} requests, {failures(climbed)} failed")
    print(f"by an operator's call: {call:.2f} s until every answer is the new version's, {failures(called)} failed")
    figures = {
        "seconds to weight 0, median": round(float(np.median([each.seconds for each in exposed])), 3),
        "seconds to weight 0, most": round(max(each.seconds for each in exposed), 3),
        "seconds to the last request it was asked for, most": round(max(each.to_last for each in exposed), 3),
        "requests it was asked for, most": max(each.asked for each in exposed),
        "requests it was asked for after a shadow": shadowed.asked,
        "seconds from a call to promote to the last answer of the old version": round(call, 3),
        "requests during the climb": len(climbed),
    }
    every = [*exposed, shadowed]
    targets = [
        Target(
            "seconds from first exposure to weight 0, most",
            max(each.seconds for each in exposed),
            at_most=TARGET_SECONDS,
        ),
        Target("requests failed beside a candidate that raises", sum(each.failed for each in every), at_most=0),
        Target("requests answered wrongly beside it", sum(each.wrong for each in every), at_most=0),
        Target("requests failed over a full promotion", failures(climbed) + failures(called), at_most=0),
    ]
    print(result("rollback_speed", machine, figures, targets))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks rollback_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks rollback_speed --runs 5 --seed 1",
    )
    top.add_argument("--runs", type=int, default=RUNS, help=f"candidates that raise (default: {RUNS})")
    top.add_argument("--users", type=int, default=USERS, help=f"people (default: {USERS:,})")
    top.add_argument("--seed", type=int, default=1)
    return top


def falls_table(exposed: Sequence[Fall], shadowed: Fall) -> str:
    rows = [["candidate that raises", "s to weight 0", "s to the last it was asked", "asked", "failed", "wrong"]]
    named = [*((str(run), each) for run, each in enumerate(exposed, 1)), ("with a shadow before", shadowed)]
    for name, each in named:
        times = (f"{each.seconds:.2f}", f"{each.to_last:.2f}") if each.asked else ("-", "-")
        rows.append([name, *times, str(each.asked), str(each.failed), str(each.wrong)])
    return table(rows)


@contextmanager
def installed(users: int, seed: int) -> Iterator[Installation]:
    """An installation with a first version that people ask for, without a controller."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-home-") as name:
        home = Path(name)
        home.chmod(0o711)  # PostgreSQL may run under another account
        with embedded(home) as endpoints:
            postgres.migrate(endpoints.postgres_dsn)
            publish(endpoints, home, seed)
            command = ["benchmarks.failing_api"]
            with (
                running(endpoints, home, FLOW),
                serving("penstock", command, "", "/readyz", addresses(endpoints, home), home / "api.log") as api,
                closing(postgres.connect(endpoints.postgres_dsn)) as database,
            ):
                introduce(endpoints, home, users)
                crowd = Crowd(api.url, MODEL, users, seed)
                here = Installation(endpoints, home, crowd, PostgresRollouts(database), api.url)
                with visiting(crowd), watching(here):
                    time.sleep(SETTLE_SECONDS)
                    yield here


def introduce(endpoints: Endpoints, home: Path, users: int) -> None:
    """Let everybody have met two items, so that the version of their arm answers them, and not popularity."""
    now_ms = round(time.time() * 1000)
    lines = [
        msgspec.json.encode(
            Event(
                str(uuid.uuid4()), EventType.WATCH, f"u{user}", f"i{(7 * user + step) % ITEMS}", now_ms, MODEL, 3_000.0
            )
        )
        for user in range(users)
        for step in range(2)
    ]
    with closing(SegmentLog(home / "events", lambda: datetime.now(UTC))) as log:
        log.append(lines)
    with closing(redis.connect(endpoints.redis_url)) as client:
        last = keys.history(MODEL, f"u{users - 1}")
        until(lambda: bool(client.exists(last)), "the flow has learned of everybody")


@contextmanager
def watching(here: Installation) -> Iterator[None]:
    """While it is open, every route document is noted within `LOOK_SECONDS`."""
    stop = threading.Event()

    def look() -> None:
        with closing(redis.connect(here.endpoints.redis_url)) as client:
            routes = redis.RedisRoutes(client)
            while not stop.wait(LOOK_SECONDS):
                route = routes.route(MODEL)
                if route is not None and (not here.routes or here.routes[-1][1] != route):
                    here.routes.append((time.perf_counter(), route))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def controlling(here: Installation, settings: Mapping[str, str]) -> Iterator[None]:
    """While it is open, `python -m serving_api control` runs."""
    chosen = environment({**addresses(here.endpoints, here.home), **PACE, **settings})
    with (here.home / "control.log").open("ab") as output:
        command = [sys.executable, "-m", "serving_api", "control"]
        process = subprocess.Popen(command, cwd=here.home, env=chosen, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def fallen(here: Installation, seed: int, settings: Mapping[str, str]) -> Fall:
    """One candidate that raises, until nobody is asked to be answered by it any more."""
    first, before = len(here.crowd.seen), len(here.routes)
    stable = here.rollouts.champion_epoch(MODEL)
    assert stable is not None
    with controlling(here, settings):
        canary = registered(here.endpoints, here.home, seed, {FAILS: 1.0})
        here.ended(canary, Phase.ROLLED_BACK)
        until(lambda: here.routes[-1][1].canary is None, "the route names no canary")
        time.sleep(SETTLE_SECONDS)
    zero = next(at for at, route in reversed(here.routes[before:]) if route.canary is None)
    return fall_of(here.crowd.seen[first:], stable[0], zero, shadowed=settings is not NO_SHADOW)


def fall_of(seen: Sequence[Seen], stable: ModelVersion, zero: float, *, shadowed: bool) -> Fall:
    """What people saw of a candidate that raises, which had weight 0 from `zero` on (seconds of `perf_counter`).

    Raises RuntimeError when nobody was exposed to it, unless it may have fallen in a shadow: that is no time of 0 s.
    """
    stood_in = [each.at for each in seen if each.variant == "fallback"]
    wrong = sum(each.status == 200 and (each.version != stable or not each.items) for each in seen)
    if stood_in:
        return Fall(len(stood_in), failures(seen), wrong, zero - stood_in[0], stood_in[-1] - stood_in[0])
    if shadowed:
        return Fall(0, failures(seen), wrong, 0.0, 0.0)
    raise RuntimeError(f"nobody of {len(seen)} was exposed to the candidate: there is no time to take")


def promoted(here: Installation, seed: int) -> tuple[list[Seen], float]:
    """What people saw while a good candidate climbed by itself, and how long that took from its first exposure."""
    first = len(here.crowd.seen)
    with controlling(here, NO_SHADOW):
        canary = registered(here.endpoints, here.home, seed)
        here.ended(canary, Phase.PROMOTED)
        time.sleep(SETTLE_SECONDS)
    seen = here.crowd.seen[first:]
    exposed = next(each.at for each in seen if each.variant == "canary")
    everybody = max(each.at for each in seen if each.version != canary)
    return seen, everybody - exposed


def promoted_by_call(here: Installation, seed: int) -> tuple[list[Seen], float]:
    """What people saw around an operator's call to promote, and seconds from the call to the last answer of the old version."""
    first = len(here.crowd.seen)
    key = approvers_key(here)
    with controlling(here, NO_SHADOW), httpx.Client(base_url=here.url, headers=key, trust_env=False) as client:
        canary = registered(here.endpoints, here.home, seed)

        def ramping() -> bool:
            found = here.rollout_of(canary)
            return found is not None and found.phase is Phase.RAMPING

        until(ramping, f"{canary} is on its way")
        etag = client.get(f"/v1/rollouts/{MODEL}").raise_for_status().headers["ETag"]
        begun = time.perf_counter()
        body, headers = {"reason": "the benchmark wants it"}, {"If-Match": etag}
        client.post(f"/v1/rollouts/{MODEL}/promote", json=body, headers=headers).raise_for_status()
        time.sleep(2 * SETTLE_SECONDS)
    seen = here.crowd.seen[first:]
    return seen, max(each.at for each in seen if each.version != canary) - begun


def approvers_key(here: Installation) -> dict[str, str]:
    """The header of a fresh key."""
    with closing(postgres.connect(here.endpoints.postgres_dsn)) as database:
        text, key = new_key("benchmark", Role.APPROVER, datetime.now(UTC), None, secrets.token_bytes)
        PostgresKeys(database).put_key(key)
    return {"Authorization": f"Bearer {text}"}


def failures(seen: Sequence[Seen]) -> int:
    """Requests without a good answer."""
    return sum(each.status != 200 for each in seen)


def until(holds: Callable[[], bool], what: str) -> None:
    """Return once something holds. Raises TimeoutError when that takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(0.05)
