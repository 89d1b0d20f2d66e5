"""Whole-job speed of `flows replay`: real processes, real stores, a fresh home for each run.

- Two rates. By the report: from the job's first event to all of its effects being durable, stores started before.
  By the process: from its start to its end, imports and the start and stop of the embedded stores included.
- Without options it replays MovieLens latest-small from `PENSTOCK_DATA` when that is there, else the seeded `ratings`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.report import Machine, Target, data_folder, environment, result, table
from benchmarks.workloads import WORKLOADS, write_log
from online_models.contracts.features import FeatureSpec
from scripts import import_dataset

MOVIELENS: Final = "ml-latest-small"
MOVIELENS_EVENTS: Final = 100_836
FLOOR_EVENTS_PER_SECOND: Final = 50_000
RUN_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Run:
    """One replay: events per second by its report and by its process, CPU seconds of the job alone, peak memory."""

    events: int
    rejected: int
    windows: int
    drift_events: int
    by_report: float
    by_process: float
    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every run ended well."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        title, log = log_of(options, Path(directory))
        print(f"log: {title}; {options.runs} runs, each in a fresh home", flush=True)
        try:
            runs = [replayed(log) for _ in range(options.runs)]
        except subprocess.CalledProcessError as error:
            print(f"benchmark replay: exit status {error.returncode}\n{error.stderr[-4000:]}", file=sys.stderr)
            return 1
    figures = figures_of(runs)
    print(table_of(runs))
    target = Target(f"1: whole-job events/s on {title}", figures["events_per_second"], FLOOR_EVENTS_PER_SECOND)
    print(result("replay", machine, figures, [target]))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks replay",
        description="Whole-job speed of `flows replay`, median over runs.",
        epilog="example: python -m benchmarks replay --workload mixed --events 200000 --seed 7",
    )
    top.add_argument("--log", type=Path, metavar="FILE", help="replay this log")
    top.add_argument("--workload", choices=sorted(WORKLOADS), help="replay a seeded log of this kind")
    top.add_argument("--events", type=int, metavar="N", help=f"size of the seeded log (default {MOVIELENS_EVENTS})")
    top.add_argument("--seed", type=int, metavar="S", help="seed of the seeded log (default 0)")
    top.add_argument("--runs", type=int, default=3, metavar="N", help="replays to take the median of (default 3)")
    return top


def log_of(options: argparse.Namespace, directory: Path) -> tuple[str, Path]:
    """What is replayed, in words, and its file: the one given, a seeded one if asked for, or MovieLens if it is there."""
    if options.log:
        return options.log.name, options.log
    log = directory / "log.ndjson"
    source = data_folder() / MOVIELENS
    seeded = any(option is not None for option in (options.workload, options.events, options.seed))
    if not seeded and source.is_dir():
        import_dataset.main(["movielens", str(source), str(log)])
        return "MovieLens", log
    kind, events, seed = options.workload or "ratings", options.events or MOVIELENS_EVENTS, options.seed or 0
    write_log(WORKLOADS[kind](events, seed), log)
    return f"seeded {kind} (seed {seed}, {events} events)", log


def flow_config(settings: Mapping[str, object], features: Sequence[FeatureSpec]) -> str:
    """A `penstock.toml` with these settings of the flow and these features.

    >>> flow_config({"embeddings": False, "window_seconds": 60}, []).splitlines()
    ['[flow]', 'embeddings = false', 'window_seconds = 60']
    """
    lines = ["[flow]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    for spec in features:
        fields = msgspec.to_builtins(spec)
        # Numbers, booleans, texts and lists of them are written alike in JSON and in TOML.
        lines += ["[[flow.features]]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]
    return "\n".join(lines) + "\n"


def replayed(log: Path, config: str = "") -> Run:
    """One replay in a process and a home of its own.

    Parameters
    ----------
    config : content of the `penstock.toml` that it runs under

    Raises
    ------
    CalledProcessError
        When it fails.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-bench-home-") as name:
        home = Path(name)
        home.chmod(0o711)  # PostgreSQL may run under another account
        (home / "penstock.toml").write_text(config)
        command = [sys.executable, "-m", "flows", "replay", str(log.resolve()), "--report", str(home / "report.json")]
        start = time.perf_counter()
        subprocess.run(
            command,
            cwd=home,
            env=environment({"PENSTOCK_HOME": str(home)}),
            check=True,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        seconds = time.perf_counter() - start
        report = json.loads((home / "report.json").read_text())
    return Run(
        events=report["events"],
        rejected=report["rejected"],
        windows=report["windows"],
        drift_events=report["drift_events"],
        by_report=report["events_per_second"],
        by_process=report["events"] / seconds,
        wall_seconds=report["wall_seconds"],
        cpu_seconds=report["cpu_seconds"],
        peak_rss_bytes=report["peak_rss_bytes"],
    )


def figures_of(runs: Sequence[Run]) -> dict[str, float]:
    """Medians over the runs, and the spread of the first rate."""
    rates = [run.by_report for run in runs]
    return {
        "events": runs[0].events,
        "runs": len(runs),
        "events_per_second": round(statistics.median(rates), 1),
        "events_per_second_least": min(rates),
        "events_per_second_most": max(rates),
        "events_per_second_with_start": round(statistics.median(run.by_process for run in runs), 1),
        "wall_seconds": statistics.median(run.wall_seconds for run in runs),
        "cpu_seconds": statistics.median(run.cpu_seconds for run in runs),
        "peak_rss_bytes": statistics.median(run.peak_rss_bytes for run in runs),
    }


def table_of(runs: Sequence[Run]) -> str:
    heads = ["run", "events", "events/s", "with start", "wall s", "CPU s", "peak MiB"]
    rows = [
        [
            str(number),
            f"{run.events:,}",
            f"{run.by_report:,.0f}",
            f"{run.by_process:,.0f}",
            f"{run.wall_seconds:.2f}",
            f"{run.cpu_seconds:.2f}",
            f"{run.peak_rss_bytes / 2**20:.0f}",
        ]
        for number, run in enumerate(runs, 1)
    ]
    return table([heads, *rows])
