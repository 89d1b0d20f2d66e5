"""From a click to other recommendations, through everything: API, event log, stream job, Redis, API.

- `flows run` and `serving_api serve` as an embedded installation has them, in processes of their own on the same cores.
- One user after the other clicks on the best item and asks again every two milliseconds until it is gone from the list.
  A latency runs from just before the click is posted to the answer that has changed.
- Beside it other users may click, at a fixed rate: `--background`.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import numpy.typing as npt

from benchmarks.event_latency import MODEL, addresses, publish, running
from benchmarks.report import Machine, Target, result, table
from benchmarks.serving_load import serving
from online_models.stores import postgres
from online_models.stores.embedded import Endpoints, embedded

CLICKS: Final = 300
WARM_UP: Final = 10
ASKED_EVERY_SECONDS: Final = 0.002
PATIENCE_SECONDS: Final = 10.0
TARGET_MS: Final = 250.0
READY: Final = "/readyz"

F64 = npt.NDArray[np.float64]


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    machine = Machine.here()
    found = {rate: latencies_ms(options.clicks, rate, options.seed) for rate in (0, *options.background)}
    rows = [["clicks/s beside it", "p50 ms", "p90 ms", "p99 ms", "most ms"]]
    figures: dict[str, float] = {}
    for rate, took in found.items():
        told = {name: round(quantile(took, share), 1) for name, share in SHARES.items()}
        rows.append([str(rate), *(f"{value:.0f}" for value in told.values())])
        figures |= {f"at {rate}/s beside it: {name} ms": value for name, value in told.items()}
    targets = [
        Target(
            f"from a click to other recommendations, p99 ms ({options.clicks} clicks)",
            p99_of(found[0]),
            at_most=TARGET_MS,
        )
    ]
    print(table(rows))
    print(result("freshness", machine, figures, targets))
    return 0


SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks freshness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks freshness --clicks 300 --background 100",
    )
    top.add_argument("--clicks", type=int, default=CLICKS, help=f"clicks that are timed (default: {CLICKS})")
    top.add_argument(
        "--background",
        type=int,
        nargs="*",
        default=[100],
        metavar="RATE",
        help="clicks per second of others (default: 100)",
    )
    top.add_argument("--seed", type=int, default=1)
    return top


def quantile(took: F64, share: float) -> float:
    """What this share of the clicks took at most.

    >>> quantile(np.array([1.0, 2.0, 3.0]), 0.5)
    2.0
    """
    return float(np.quantile(took, share, method="higher"))


def p99_of(took: F64) -> float:
    return quantile(took, 0.99)


def latencies_ms(clicks: int, background: int, seed: int) -> F64:
    """Milliseconds of each click (clicks,), on stores of their own."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-home-") as name:
        home = Path(name)
        home.chmod(0o711)  # PostgreSQL may run under another account
        with embedded(home) as endpoints, started(endpoints, home, seed) as url, httpx.Client(base_url=url) as client:
            for number in range(WARM_UP):
                changed_after(client, f"first-{number}")
            with clicking(url, background):
                return 1e3 * np.array([changed_after(client, f"clicks-{number}") for number in range(clicks)])


@contextmanager
def started(endpoints: Endpoints, home: Path, seed: int) -> Iterator[str]:
    """The address of an API beside a flow, over a version of random factors."""
    postgres.migrate(endpoints.postgres_dsn)
    publish(endpoints, home, seed)
    command = ["serving_api", "serve", "--port"]
    with (
        running(endpoints, home),
        serving("penstock", command, "", READY, addresses(endpoints, home), home / "api.log") as api,
    ):
        yield api.url


def changed_after(client: httpx.Client, user: str) -> float:
    """Seconds from before a click on the user's best item to a list without it.

    Raises
    ------
    TimeoutError
        When nothing changes.
    """
    best = items_for(client, user)[0]
    start = time.perf_counter()
    click(client, user, best)
    while best in items_for(client, user):
        if time.perf_counter() - start > PATIENCE_SECONDS:
            raise TimeoutError(f"the click of {user} changes nothing within {PATIENCE_SECONDS:.0f} s")
        time.sleep(ASKED_EVERY_SECONDS)
    return time.perf_counter() - start


def items_for(client: httpx.Client, user: str) -> list[str]:
    answer = client.get(f"/v1/recommendations/{user}?domain={MODEL}").raise_for_status().json()
    return [item["item_id"] for item in answer["items"]]


def click(client: httpx.Client, user: str, item: str) -> None:
    event = {"type": "click", "user_id": user, "item_id": item, "domain": MODEL}
    client.post("/v1/events", json=event).raise_for_status()


@contextmanager
def clicking(url: str, rate: int) -> Iterator[None]:
    """While it is open, so many clicks a second of other users, on a clock of their own."""
    stop = threading.Event()

    def run() -> None:
        with httpx.Client(base_url=url) as client:
            start, done = time.perf_counter(), 0
            while not stop.wait(max(0.0, start + done / rate - time.perf_counter())):
                click(client, f"other-{done % 5_000}", f"i{done % 1_000}")
                done += 1

    others = threading.Thread(target=run)
    if rate:
        others.start()
    try:
        yield
    finally:
        stop.set()
        if rate:
            others.join()
