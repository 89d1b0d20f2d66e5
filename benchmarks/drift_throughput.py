"""Feature values per second from a batch in memory to the state of its window and a verdict on every feature, beside peers.

- All judge the same rows against a reference of as many: what is timed is the window alone, on one thread, in CPU time. Fitting
  the reference and building the frame or the columns is not.
- Peers give one statistic a feature; ours are all of the panel's, calibrated, with a verdict over the features together.
- `histograms` is what peers keep: counts. `profile` adds moments, extremes, cardinality and frequent words.
- Numeric features are compared with peers that take numbers only, all features with NannyML.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.peer_scripts.rows import Case, cases, measured
from benchmarks.peers import PeerError, environment, run
from benchmarks.report import Machine, Target, result, table
from benchmarks.wide_workloads import matrix
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.columns import EMPTY, Column, take
from online_models.contracts.events import TYPE_CODES, Event, EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from online_models.drift.panel import Memory, Panel
from online_models.histograms import rebin
from online_models.sketches import Layout, sketch

CLICK: Final = (EventType.CLICK,)
HOUR_MS: Final = 3_600_000
PANES: Final = 40
RUNS: Final = 15

SIZES: Final = {"F=30, 10k rows": (30, 10_000), "F=30, 100k rows": (30, 100_000)}
WIDE_SIZES: Final = {"F=100, 100k rows": (100, 100_000), "F=300, 100k rows": (300, 100_000)}
JUDGED_AT: Final = "F=30, 100k rows"
"""Where the targets hold."""

COMPARED: Final = {"scouter": "numeric", "frouros": "numeric", "nannyml": "all", "evidently": "numeric"}
"""Peer -> the features of ours that it is compared with."""
FLOORS: Final = {"scouter": 4.0, "nannyml": 40.0, "evidently": 400.0}
"""Peer -> how many times as fast ours should be, in CPU time."""
DOCUMENTED: Final = {"scouter": "psi, frame", "nannyml": "ks+chi2, ten chunks", "evidently": "report by default"}
"""Peer -> how its own documentation calls it, which is seldom the fastest way."""
FLOOR_VALUES_PER_SECOND: Final = 130e6

Measured = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Case -> what was done -> figures of `measured`."""


@dataclass(frozen=True)
class ColumnsOf:
    """The `FeatureColumns` of a batch whose columns lie in memory."""

    columns: Mapping[str, Column]

    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def column(self, name: str) -> Column:
        return self.columns.get(name, EMPTY)

    def take(self, rows: npt.NDArray[np.bool_]) -> "ColumnsOf":
        return ColumnsOf({name: take(column, rows) for name, column in self.columns.items()})


@dataclass(frozen=True)
class Batch:
    """Clicks of one moment with these features: what features are constructed from (`Observed`)."""

    type: npt.NDArray[np.int8]
    ts_ms: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    item_hash: npt.NDArray[np.uint64]
    user_hash: npt.NDArray[np.uint64]
    features: ColumnsOf
    events: Sequence[Event] = ()

    @classmethod
    def of(cls, case: Case, rows: slice) -> Self:
        """Some rows of a case."""
        fingerprints = np.array([hash64(f"w{word}") for word in range(int(case.words.max()) + 1)], np.uint64)
        numbers = {
            name: Column(None, np.ascontiguousarray(of[rows]))
            for name, of in zip(case.numeric_names, case.numbers, strict=True)
        }
        words = {
            name: Column(word_rows=None, words=fingerprints[of[rows]])
            for name, of in zip(case.word_names, case.words, strict=True)
        }
        n = case.rows
        hashes = np.zeros(n, np.uint64)
        return cls(
            np.full(n, TYPE_CODES[EventType.CLICK], np.int8),
            np.zeros(n, np.int64),
            np.full(n, np.nan),
            hashes,
            hashes,
            ColumnsOf({**numbers, **words}),
        )


def specs_of(case: Case, words: bool) -> list[FeatureSpec]:
    """The case's features; ranges hold all but a thousandth of the reference at either end."""
    ranges = np.quantile(case.numbers[:, : case.rows], (0.001, 0.999), axis=1).T.tolist()
    numeric = [
        FeatureSpec(name, FeatureKind.NUMERIC, f"features.{name}", CLICK, low, high)
        for name, (low, high) in zip(case.numeric_names, ranges, strict=True)
    ]
    named = [FeatureSpec(name, FeatureKind.CATEGORICAL, f"features.{name}", CLICK) for name in case.word_names]
    return numeric + named if words else numeric


def reference_of(case: Case, layout: Layout) -> list[FeatureSketch]:
    """The first half of a case's rows as the references of its features, in panes an hour long."""
    batch = Batch.of(case, slice(case.rows))
    panes = sketch(layout, batch, np.arange(case.rows) * PANES // case.rows, PANES)
    starts = [pane * HOUR_MS for pane in range(PANES)]
    sketches = []
    for spec in layout.specs:
        counts = [layout.state(pane, spec.name).counts for pane in panes]
        total = np.sum(counts, axis=0)
        coarse = rebin(total, spec.kind)
        rows = [coarse.apply(pane).tolist() for pane in counts]
        sketches.append(FeatureSketch(spec, total.tolist(), rows, starts, HOUR_MS))
    return sketches


def judged(case: Case, words: bool, profile: bool) -> dict[str, float]:
    """Our time from a batch in memory to the verdict of its window."""
    layout = Layout(specs_of(case, words), profile)
    panel = Panel(reference_of(case, layout))
    window, pane = Batch.of(case, slice(case.rows, 2 * case.rows)), np.zeros(case.rows, np.int64)
    start_ms = PANES * HOUR_MS

    def judge() -> None:
        (state,) = sketch(layout, window, pane, 1)
        counts = {spec.name: layout.state(state, spec.name).counts for spec in layout.specs}
        panel.judge(counts, start_ms, start_ms + HOUR_MS, Memory())

    return measured(judge, case.rows * len(layout.specs), RUNS)


def kernel(case: Case) -> dict[str, float]:
    """Our time from numeric columns to their histograms, no verdict."""
    layout = Layout(specs_of(case, words=False), profile=False)
    window, pane = Batch.of(case, slice(case.rows, 2 * case.rows)), np.zeros(case.rows, np.int64)
    return measured(lambda: sketch(layout, window, pane, 1), case.rows * len(layout.specs), RUNS)


def ours(inputs: Path) -> Measured:
    """All of ours on all cases, on one thread as the peers are: threads of linear algebra that wait would count as CPU time."""
    with threadpool_limits(1):
        return {
            case.name: {
                "kernel, numeric": kernel(case),
                "histograms, numeric": judged(case, words=False, profile=False),
                "histograms, all": judged(case, words=True, profile=False),
                "profile, all": judged(case, words=True, profile=True),
            }
            for case in cases(inputs)
        }


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when a peer could not be run."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    try:
        pythons = {peer: environment(peer) for peer in options.peers}
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
            inputs = Path(directory)
            write_cases(inputs, SIZES if options.narrow else SIZES | WIDE_SIZES, options.seed)
            found, own_rounds = {}, [ours(inputs)]
            for peer, python in pythons.items():
                found[peer] = run(f"{peer}_drift", python, inputs)
                own_rounds.append(ours(inputs))
    except PeerError as error:
        print(f"benchmark drift_throughput: {error}", file=sys.stderr)
        return 1
    peers = {peer: msgspec.convert(each, dict[str, dict[str, dict[str, float]]]) for peer, each in found.items()}
    own = middle_of(own_rounds)
    figures = {f"{case}; ours, {what}": rate(each) for case, done in own.items() for what, each in done.items()}
    figures |= {
        f"{case}; {peer}, {what}": rate(each)
        for peer, measures in peers.items()
        for case, done in measures.items()
        for what, each in done.items()
    }
    figures |= as_documented(own, peers)
    print(table_of(own, peers))
    print(result("drift_throughput", machine, figures, targets(own, peers)))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks drift_throughput",
        description="From a batch in memory to a window's verdict, beside Scouter, Frouros, NannyML and Evidently.",
        epilog="example: python -m benchmarks drift_throughput --narrow --peers scouter frouros",
    )
    top.add_argument("--peers", nargs="*", choices=COMPARED, default=list(COMPARED), help="compare with these only")
    top.add_argument("--narrow", action="store_true", help="leave out 100 and 300 features (Evidently takes minutes)")
    top.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the rows (default 0)")
    return top


def write_cases(inputs: Path, sizes: Mapping[str, tuple[int, int]], seed: int) -> None:
    """The rows of each case, two thirds of its features numeric, as `peer_scripts.rows` reads them."""
    for name, (features, rows) in sizes.items():
        numeric = round(features * 2 / 3)
        numbers, words = matrix(2 * rows, numeric, features - numeric, seed)
        (inputs / name).mkdir()
        np.save(inputs / name / "numbers.npy", numbers)
        np.save(inputs / name / "words.npy", words)


def middle_of(rounds: Sequence[Measured]) -> Measured:
    """Ours are measured before and after every peer, as the machine's other load comes and goes: the median round by rate."""
    return {
        case: {what: sorted((each[case][what] for each in rounds), key=rate)[len(rounds) // 2] for what in done}
        for case, done in rounds[0].items()
    }


def rate(figures: Mapping[str, float]) -> float:
    """Feature values per second of CPU time."""
    return round(figures["values_per_cpu_second"])


def table_of(own: Measured, peers: Mapping[str, Measured]) -> str:
    """A row for each thing measured; ratios are of CPU time, on the features that the peer takes."""
    rows = [["case", "who", "what", "M values/CPU s", "M values/s", "ours / theirs"]]
    for case, done in own.items():
        rows += [[case, "ours", what, *_rates(each), ""] for what, each in done.items()]
        for peer, measures in peers.items():
            mine = rate(done[f"histograms, {COMPARED[peer]}"])
            rows += [
                [case, peer, what, *_rates(each), f"{mine / rate(each):,.1f}"] for what, each in measures[case].items()
            ]
    return table(rows)


def _rates(figures: Mapping[str, float]) -> tuple[str, str]:
    cpu, wall = figures["values_per_cpu_second"] / 1e6, figures["values_per_second"] / 1e6
    return f"{cpu:,.2f}", f"{wall:,.2f}"


def as_documented(own: Measured, peers: Mapping[str, Measured]) -> dict[str, float]:
    """How many times as fast ours are at 100k rows as peers that are called the way their documentation does."""
    return {
        f"times {peer} as documented ({way})": round(
            rate(own[JUDGED_AT][f"histograms, {COMPARED[peer]}"]) / rate(peers[peer][JUDGED_AT][way]), 2
        )
        for peer, way in DOCUMENTED.items()
        if peer in peers
    }


def targets(own: Measured, peers: Mapping[str, Measured]) -> list[Target]:
    """At 100k rows; each peer at what it does fastest."""
    done = own[JUDGED_AT]
    shown = [Target("kernel, numeric values/s", rate(done["kernel, numeric"]), FLOOR_VALUES_PER_SECOND)]
    for peer, floor in FLOORS.items():
        if peer in peers:
            fastest = max(rate(each) for each in peers[peer][JUDGED_AT].values())
            mine = rate(done[f"histograms, {COMPARED[peer]}"])
            shown.append(Target(f"times {peer}, {COMPARED[peer]} features", round(mine / fastest, 2), floor))
    return shown
