"""The user tower as it is served: equal to torch, and how long a user's vector and the scores of all items take without it.

- Seeded towers of the job's usual sizes, none of their parameters zero; histories of every length, unknown items among them.
- One thread; wall time of single calls after the first, which compiles. Torch's own time for the same vectors stands beside it.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from benchmarks.report import Machine, Target, result, table
from online_models.als import top_k
from online_models.contracts.events import Item
from online_models.contracts.jobs import TrainTwoTower
from online_models.two_tower import UserTower
from retrain_workers.two_tower.items import ItemContent
from retrain_workers.two_tower.network import Sizes, Towers, begin_parameters

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

CATALOGUES: Final = (3_500, 100_000)
PARITY_HISTORIES: Final = 2_000
TIMED_VECTORS: Final = 2_000
TIMED_SCORINGS: Final = 200
BEST: Final = 200
MOST_DIFFERENCE: Final = 1e-5
MOST_MILLISECONDS: Final = 0.5


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when it ran, whether or not every target is met."""
    options = parser().parse_args(arguments)
    machine, figures = Machine.here(), dict[str, float]()
    rows = [
        [
            "items",
            "largest difference to torch",
            "vector p50 µs",
            "p99",
            "torch p50 µs",
            "scores p50 µs",
            f"best {BEST} p50 µs",
        ]
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for items in CATALOGUES:
            found = measured(items, options.seed)
            figures |= {f"{items} items: {name}": round(value, 9) for name, value in found.items()}
            rows.append([f"{items:,}", *(f"{value:.3g}" if value < 1 else f"{value:,.1f}" for value in found.values())])
    torch.set_num_threads(threads)
    print(table(rows))
    print(result("serving_tower", machine, figures, targets_of(figures)))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks serving_tower",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks serving_tower --seed 7",
    )
    found.add_argument("--seed", type=int, default=0, metavar="N", help="of the towers and the histories")
    return found


def measured(items: int, seed: int) -> dict[str, float]:
    """The figures of one catalogue, in the order of the table's columns."""
    rng, job = np.random.default_rng(seed), TrainTwoTower()
    network = drawn_towers(items, job, rng)
    popularity = np.log(rng.dirichlet(np.ones(items)).clip(1e-9)).astype(np.float32)
    tower = UserTower.of(
        network.served() | {"log_popularity": popularity, "popularity_weight": np.array(0.2, np.float32)}
    )
    histories = drawn_histories(PARITY_HISTORIES, job.recent, items, rng)
    oldest_first = [history[::-1] for history in histories]
    places = np.arange(job.recent)[::-1]
    ours = np.array([tower.vector(history, places=places) for history in oldest_first])
    torch_vectors = np.concatenate([network.user_vectors(chunk) for chunk in np.array_split(histories, 8)])
    full = [history[history >= 0] for history in drawn_histories(TIMED_VECTORS, job.recent, items, rng)]
    vectors = milliseconds([partial(tower.vector, history) for history in full])
    in_torch = milliseconds(torch_calls(network, histories[:TIMED_SCORINGS]))
    scorings = milliseconds([partial(tower.scores, vector) for vector in ours[:TIMED_SCORINGS]])
    scores, none = tower.scores(ours[0]), np.empty(0, np.int64)
    best = milliseconds([partial(top_k, scores, BEST, none)] * TIMED_SCORINGS)
    return {
        "largest difference to torch": float(np.abs(ours - torch_vectors).max()),
        "user vector p50 us": 1e3 * float(np.median(vectors)),
        "user vector p99 us": 1e3 * float(np.quantile(vectors, 0.99)),
        "torch user vector p50 us": 1e3 * float(np.median(in_torch)),
        "scores of all items p50 us": 1e3 * float(np.median(scorings)),
        f"best {BEST} of them p50 us": 1e3 * float(np.median(best)),
    }


def drawn_towers(items: int, job: TrainTwoTower, rng: np.random.Generator) -> Towers:
    """Towers of which no parameter is zero, over a catalogue of made-up titles."""
    ids = [f"i{row}" for row in range(items)]
    catalogue = {
        name: Item(name, "m", f"w{row % 977} w{row % 31} (19{row % 90 + 10})", [f"c{row % 20}"])
        for row, name in enumerate(ids)
    }
    content = ItemContent.of(ids, catalogue)
    sizes = Sizes(items, len(content.categories), job.members, job.dimensions, job.hidden, job.recent, {})
    begun = begin_parameters(sizes, int(rng.integers(2**31)))
    return Towers(
        {name: array + rng.normal(0, 0.2, array.shape).astype(np.float32) for name, array in begun.items()}, content
    )


def drawn_histories(many: int, length: int, items: int, rng: np.random.Generator) -> I64:
    """Rows (many, length), newest first, -1 beyond each one's own length and for a few unknown items."""
    rows = rng.integers(0, items, (many, length))
    rows[rng.random(rows.shape) < 0.05] = -1
    return np.where(np.arange(length) < rng.integers(0, length + 1, many)[:, None], rows, -1)


def torch_calls(network: Towers, histories: I64) -> list[Callable[[], object]]:
    """One user at a time, as a reader with torch would do it: over item inputs that are ready."""
    inputs = torch.from_numpy(network.served()["item_inputs"])
    places = torch.arange(histories.shape[1])

    def vector(history: I64) -> object:
        rows = torch.from_numpy(history)
        with torch.no_grad():
            return network.users(inputs[rows.clamp(min=0)], torch.where(rows >= 0, places, -1)[None], {})

    return [partial(vector, history) for history in histories]


def milliseconds(calls: Sequence[Callable[[], object]]) -> npt.NDArray[np.float64]:
    """Wall time of each call; the first one is made once before."""
    calls[0]()
    taken = np.empty(len(calls))
    for number, call in enumerate(calls):
        begun = time.perf_counter()
        call()
        taken[number] = 1e3 * (time.perf_counter() - begun)
    return taken


def targets_of(figures: dict[str, float]) -> list[Target]:
    """Parity and the time of a vector, over both catalogues."""
    worst = {name: max(value for key, value in figures.items() if key.endswith(f": {name}")) for name in (
        "largest difference to torch", "user vector p50 us",
    )}  # fmt: skip
    return [
        Target("largest difference to torch", worst["largest difference to torch"], at_most=MOST_DIFFERENCE),
        Target("user vector p50 ms", round(worst["user vector p50 us"] / 1e3, 4), at_most=MOST_MILLISECONDS),
    ]
