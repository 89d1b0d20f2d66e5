"""ADWIN over many features against river's, value for value: speed, and the same detections and windows.

- River twice: its public class, and a bare loop over the Rust object behind it, which is the fastest that it can go.
  Its values are Python floats without the missing ones, made outside of the time that is taken.
- All three see the same streams, in turn, several times; rates and ratios are medians of CPU time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from river import drift

from benchmarks.report import Machine, Target, result, table
from online_models.drift.adwin import AdwinMany

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Found = list[list[int]]
T = TypeVar("T")

KINDS: Final = ("stationary", "abrupt", "gradual", "binary", "heavy tails", "missing")
"""Features take these in turn."""

FASTER: Final = 5.0


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when any detection or window differs from river's."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    values = streams(options.features, options.values, options.seed)
    lists = [row[~np.isnan(row)].tolist() for row in values]
    seconds: dict[str, list[float]] = {"penstock": [], "river": [], "river's helper": []}
    ours_many(values[:, :100], options.batch)
    for _ in range(options.runs):
        detected = timed(seconds["penstock"], lambda: ours_many(values, options.batch))
        theirs = timed(seconds["river"], lambda: river_class(lists))
        helped = timed(seconds["river's helper"], lambda: river_helper(lists))
    ours = among_present(detected[0], values), detected[1]
    same = ours == theirs and ours[0] == helped
    ratios = {name: times(seconds, name) for name in seconds if name != "penstock"}
    show(seconds, values.size)
    print(table(detections_of(ours[0])))
    print(f"detections and widths of {len(values)} streams {'are' if same else 'ARE NOT'} those of river")
    figures = {f"{name} values/s": values.size / statistics.median(taken) for name, taken in seconds.items()}
    figures |= {"detections": sum(map(len, ours[0])), "same as river": float(same)}
    targets = [Target(f"times {name}", ratio, at_least=FASTER) for name, ratio in ratios.items()]
    print(result("adwin", machine, figures, targets))
    if not same:
        print("benchmark adwin: detections or widths differ from river's", file=sys.stderr)
    return 0 if same else 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks adwin", description="ADWIN over many features, beside river, median over runs."
    )
    top.add_argument("--features", type=int, default=60, metavar="N", help="streams (default 60)")
    top.add_argument("--values", type=int, default=100_000, metavar="N", help="values of each (default 100000)")
    top.add_argument("--batch", type=int, default=10_000, metavar="N", help="values of a batch (default 10000)")
    top.add_argument("--runs", type=int, default=5, metavar="N", help="runs to take the median of (default 5)")
    top.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the streams (default 0)")
    return top


def streams(features: int, count: int, seed: int) -> Floats:
    """(features, count) values of every kind of `KINDS`; NaN is missing."""
    rng = np.random.default_rng(seed)
    return np.stack([stream(KINDS[feature % len(KINDS)], count, rng) for feature in range(features)])


def stream(kind: str, count: int, rng: np.random.Generator) -> Floats:
    """One stream; all but the stationary one change two times."""
    times = np.sort(rng.integers(0, count, 2))
    level = np.zeros(count)
    for start in times:
        level[start:] = rng.uniform(0.05, 0.3)
    match kind:
        case "stationary":
            return rng.random(count)
        case "abrupt":
            return rng.random(count) + level
        case "gradual":
            return rng.normal(0.5, 0.2, count) + np.interp(np.arange(count), times, [0.0, 0.3])
        case "binary":
            return (rng.random(count) < 0.1 + level).astype(np.float64)
        case "heavy tails":
            return rng.standard_t(2.0, count) + 5 * level
        case _:
            return np.where(rng.random(count) < 0.2, np.nan, rng.random(count) + level)


def timed(seconds: list[float], run: Callable[[], T]) -> T:
    """What a run gives; its CPU time is added to the list."""
    start = time.process_time()
    done = run()
    seconds.append(time.process_time() - start)
    return done


def ours_many(values: Floats, batch: int) -> tuple[Places, list[int]]:
    """The detections, (k, 2) stream and place, and the width of each stream's window."""
    adwin, found = AdwinMany(len(values)), []
    for start in range(0, values.shape[1], batch):
        adwin.update(values[:, start : start + batch])
        found.append(adwin.found + np.array([0, start]))
    return np.concatenate(found), adwin.widths.tolist()


def among_present(detected: Places, values: Floats) -> Found:
    """The places of each stream's detections, not counting missing values."""
    present = np.cumsum(~np.isnan(values), axis=1) - 1
    found: Found = [[] for _ in values]
    for feature, place in detected.tolist():
        found[feature].append(int(present[feature, place]))
    return found


def river_class(lists: Sequence[Sequence[float]]) -> tuple[Found, list[int]]:
    """The places of each stream's detections and its width by river's public class."""
    found: Found = []
    widths = []
    for values in lists:
        adwin, places = drift.ADWIN(), []
        for place, value in enumerate(values):
            adwin.update(value)
            if adwin.drift_detected:
                places.append(place)
        found.append(places)
        widths.append(adwin.width)
    return found, widths


def river_helper(lists: Sequence[Sequence[float]]) -> Found:
    """Places of the detections by the object behind the class, made anew after each."""
    found: Found = []
    for values in lists:
        update, places = drift.ADWIN()._helper.update, []
        for place, value in enumerate(values):
            if update(value):
                places.append(place)
                update = drift.ADWIN()._helper.update
        found.append(places)
    return found


def times(seconds: dict[str, list[float]], name: str) -> float:
    """Median over runs of how many times as long as ours another took."""
    return statistics.median(other / ours for ours, other in zip(seconds["penstock"], seconds[name], strict=True))


def show(seconds: dict[str, list[float]], count: int) -> None:
    rows = [["", "values/s", "fastest", "slowest"]]
    for name, taken in seconds.items():
        rates = (count / each for each in (statistics.median(taken), min(taken), max(taken)))
        rows.append([name, *(f"{rate:,.0f}" for rate in rates)])
    print(table(rows))


def detections_of(found: Found) -> list[list[str]]:
    kinds = {kind: sum(map(len, found[at :: len(KINDS)])) for at, kind in enumerate(KINDS)}
    return [["stream", "detections"], *([kind, str(count)] for kind, count in kinds.items())]
