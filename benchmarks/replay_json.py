"""Monitoring NDJSON with the whole flow: twelve fields a line, embeddings and interactions off, every window judged.

- The rate is per second of the job's own CPU time, stores and start-up left out; beside it stands `orjson.loads` of every line of
  the same file, which only parses.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from benchmarks.replay import Run, flow_config, replayed, table_of
from benchmarks.report import Machine, Target, result
from benchmarks.wide_workloads import write_flat_json
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec

EVENTS: Final = 2_000_000
FLOOR_EVENTS_PER_CPU_SECOND: Final = 1_000_000

_TYPES: Final = (EventType.WATCH, EventType.PURCHASE, EventType.CLICK, EventType.RATING)
FEATURES: Final = (
    FeatureSpec("value", FeatureKind.NUMERIC, "value", _TYPES, 0.0, 4_000.0),
    FeatureSpec("price", FeatureKind.NUMERIC, "features.price", _TYPES, 0.0, 200.0),
    FeatureSpec("age_days", FeatureKind.NUMERIC, "features.age_days", _TYPES, 0.0, 1_000.0),
    FeatureSpec("score", FeatureKind.NUMERIC, "features.score", _TYPES, 0.0, 1.0),
    FeatureSpec("genre", FeatureKind.CATEGORICAL, "features.genre", _TYPES),
    FeatureSpec("device", FeatureKind.CATEGORICAL, "features.device", _TYPES),
)
SETTINGS: Final = {
    "embeddings": False,
    "interactions": False,
    "window_seconds": 3_600,
    "baseline_seconds": 36_000,  # ten windows of 100,000 events: 40 panes, enough for the reference's own variation
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every run ended well."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        log = Path(directory) / "log.ndjson"
        write_flat_json(log, options.events, options.seed)
        line_bytes = log.stat().st_size / options.events
        print(
            f"log: {options.events:,} lines of {line_bytes:.0f} bytes; {options.runs} runs, each in a fresh home",
            flush=True,
        )
        try:
            runs = [replayed(log, flow_config(SETTINGS, FEATURES)) for _ in range(options.runs)]
        except subprocess.CalledProcessError as error:
            print(f"benchmark replay_json: exit status {error.returncode}\n{error.stderr[-4000:]}", file=sys.stderr)
            return 1
        parsing = [parse_seconds(log) for _ in range(options.runs)]
    figures = figures_of(runs, parsing) | {"line_bytes": round(line_bytes, 1)}
    print(table_of(runs))
    print(f"events per CPU second: {figures['events_per_cpu_second']:,.0f}, orjson.loads alone ", end="")
    print(f"{figures['orjson_rows_per_cpu_second']:,.0f}: {figures['ratio_to_orjson']:.2f} of it")
    target = Target(
        "events per second of process CPU time", figures["events_per_cpu_second"], FLOOR_EVENTS_PER_CPU_SECOND
    )
    print(result("replay_json", machine, figures, [target]))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks replay_json",
        description="Monitoring NDJSON with the whole flow, median over runs.",
        epilog="example: python -m benchmarks replay_json --events 500000 --runs 1",
    )
    top.add_argument("--events", type=int, default=EVENTS, metavar="N", help=f"lines of the log (default {EVENTS})")
    top.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the log (default 0)")
    top.add_argument("--runs", type=int, default=3, metavar="N", help="replays to take the median of (default 3)")
    return top


def parse_seconds(log: Path) -> float:
    """CPU seconds of `orjson.loads` on each line of a file."""
    start = time.process_time()
    with log.open("rb") as lines:
        for line in lines:
            orjson.loads(line)
    return time.process_time() - start


def figures_of(runs: Sequence[Run], parsing: Sequence[float]) -> dict[str, float]:
    """Medians over the runs."""
    rates = [run.events / run.cpu_seconds for run in runs]
    rate, parse_rate = statistics.median(rates), runs[0].events / statistics.median(parsing)
    return {
        "events": runs[0].events,
        "rejected": runs[0].rejected,
        "windows": runs[0].windows,
        "runs": len(runs),
        "events_per_cpu_second": round(rate, 1),
        "events_per_cpu_second_least": round(min(rates), 1),
        "events_per_cpu_second_most": round(max(rates), 1),
        "events_per_second": round(statistics.median(run.by_report for run in runs), 1),
        "orjson_rows_per_cpu_second": round(parse_rate, 1),
        "ratio_to_orjson": round(rate / parse_rate, 3),
        "peak_rss_bytes": statistics.median(run.peak_rss_bytes for run in runs),
    }
