"""Ranking of categorical features by mutual information, beside scikit-learn and OutRank on the same rows.

- Ten features of 2 to 100,000 values, Zipf, and a target of two classes. The codes of those seen are the cells, so that all
  three see the same integers and none hashes.
- Ours is everything: tables, information, both corrections. scikit-learn gives the information alone, OutRank's kernel
  either that or its corrected one; its own environment is made by the first run.
- Rates are rows times features by CPU time of one thread, medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from sklearn.feature_selection import mutual_info_classif

from benchmarks import peers
from benchmarks.report import Machine, Target, result, table
from online_models.information import Information, Tables, mutual_information

VALUES: Final = (2, 5, 10, 20, 50, 100, 1_000, 1_000, 10_000, 100_000)
ROWS: Final = (20_000, 100_000)
EQUAL: Final = 1e-9
SKLEARN_TIMES: Final = 25.0
OUTRANK_TIMES: Final = 100.0


@dataclass(frozen=True, slots=True)
class Dense:
    """A feature that every event has."""

    rows: None
    cells: npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Case:
    """codes : uint16 (features, rows); target : int8 (rows,)"""

    codes: npt.NDArray[np.uint16]
    target: npt.NDArray[np.int8]

    @property
    def features(self) -> list[Dense]:
        return [Dense(None, each) for each in self.codes]

    @property
    def cells(self) -> list[int]:
        return [int(each.max()) + 1 for each in self.codes]


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when any value differs from scikit-learn's."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    cases = {f"{rows}": drawn(rows, options.seed) for rows in ROWS}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        for name, case in cases.items():
            write(case, Path(directory) / name)
        try:
            outrank = peers.run("outrank_ranking", peers.environment("outrank"), Path(directory))
        except peers.PeerError as error:
            print(f"benchmark ranking: {error}", file=sys.stderr)
            return 1
    figures: dict[str, float] = {}
    rows = [["rows", "what", "rows x features/s", "times"]]
    for name, case in cases.items():
        said = cast(Mapping[str, Mapping[str, Any]], outrank[name])
        rates, apart = compared(case, said, options.runs)
        figures |= {f"{name}: {what}": rate for what, rate in rates.items()} | {f"{name}: apart": apart}
        rows += [[name, what, f"{rate:,.0f}", f"{rates['penstock'] / rate:,.1f}"] for what, rate in rates.items()]
    print(table(rows))
    apart = max(figures[f"{name}: apart"] for name in cases)
    print(f"furthest from scikit-learn before correction: {apart:.1e} nats")
    print(result("ranking", machine, figures, targets(figures, list(cases))))
    return 0 if apart <= EQUAL else 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks ranking",
        description="Mutual information of categorical features, beside scikit-learn and OutRank.",
    )
    top.add_argument("--runs", type=int, default=7, metavar="N", help="runs to take the median of (default 7)")
    top.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the rows (default 0)")
    return top


def drawn(rows: int, seed: int) -> Case:
    """Rows whose target depends on the first feature of every three."""
    rng = np.random.default_rng((seed, rows))
    words = [zipf(rng, values, rows) for values in VALUES]
    chance = 0.1 + 0.1 * np.sum([word % 2 for word in words[::3]], axis=0)
    codes = np.stack([np.unique(word, return_inverse=True)[1] for word in words]).astype(np.uint16)
    return Case(codes, (rng.random(rows) < chance).astype(np.int8))


def zipf(rng: np.random.Generator, values: int, rows: int) -> npt.NDArray[np.int64]:
    weights = 1 / np.arange(1, values + 1) ** 1.05
    return rng.choice(values, rows, p=weights / weights.sum())


def write(case: Case, directory: Path) -> None:
    """As the peer's script reads it."""
    directory.mkdir()
    np.save(directory / "cells.npy", case.codes.astype(np.int32))
    np.save(directory / "target.npy", case.target.astype(np.int32))


def compared(case: Case, outrank: Mapping[str, Mapping[str, Any]], runs: int) -> tuple[dict[str, float], float]:
    """Rows times features per CPU second of each, and how far our information is from scikit-learn's."""
    features, cells, tables = case.features, case.cells, Tables(case.cells)
    samples = np.ascontiguousarray(case.codes.T.astype(np.int64))

    def ours() -> Information:
        return mutual_information(features, cells, case.target)

    def theirs() -> npt.NDArray[np.float64]:
        return np.asarray(mutual_info_classif(samples, case.target, discrete_features=True, n_jobs=1))

    apart = float(np.abs(ours().raw - theirs()).max())
    work: dict[str, Callable[[], object]] = {
        "penstock": ours,
        "penstock, tables only": lambda: tables.count(features, case.target),
        "scikit-learn": theirs,
    }
    seconds: dict[str, list[float]] = {what: [] for what in work}
    for _ in range(runs):
        for what, run in work.items():
            start = time.process_time()
            run()
            seconds[what].append(time.process_time() - start)
    rates = {what: case.codes.size / statistics.median(taken) for what, taken in seconds.items()}
    rates |= {f"OutRank, {kind}": float(said["values_per_cpu_second"]) for kind, said in outrank.items()}
    return rates, apart


def targets(figures: Mapping[str, float], cases: Sequence[str]) -> list[Target]:
    def times(what: str) -> float:
        return min(figures[f"{name}: penstock"] / figures[f"{name}: {what}"] for name in cases)

    outrank = min(times("OutRank, plain"), times("OutRank, corrected"))
    return [
        Target("times scikit-learn", times("scikit-learn"), at_least=SKLEARN_TIMES),
        Target("times OutRank's kernel", outrank, at_least=OUTRANK_TIMES),
        Target("nats from scikit-learn", max(figures[f"{name}: apart"] for name in cases), at_most=EQUAL),
    ]
