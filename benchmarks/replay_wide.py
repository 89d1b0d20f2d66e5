"""Monitoring a wide Parquet log with the whole flow: histograms, moments, cardinality, frequent words, ranking and verdicts.

- Seven features of ten are numeric, a fifth of all values is missing, and impressions with clicks give the ranking a target.
- One numeric feature moves by half a standard deviation in the last part of the log: an alarm shows that windows were judged.
- An instance is one row of the log with all of its features, as in Skrlj et al. 2023, "Drifter: Efficient Online Feature
  Monitoring for Improved Data Integrity in Large-Scale Recommendation Systems", arXiv 2309.08617.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.replay import Run, flow_config, replayed, table_of
from benchmarks.report import Machine, Target, result
from benchmarks.wide_workloads import wide_names, write_wide_parquet
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec

ROWS: Final = 2_000_000
FEATURES: Final = 100
ROWS_PER_HOUR: Final = 100_000

FLOOR_INSTANCES_PER_MINUTE: Final = 10_000_000
MOST_BYTES: Final = 1_000_000_000

SETTINGS: Final = {
    "embeddings": False,
    "interactions": False,
    "window_seconds": 3_600,
    "baseline_seconds": 36_000,  # ten windows of 100,000 rows: 40 panes, enough for the reference's own variation
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every run ended well."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    numeric = options.features * 7 // 10
    config = flow_config(SETTINGS, features_of(numeric, options.features - numeric))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        log = Path(directory) / "log.parquet"
        write_wide_parquet(log, options.rows, numeric, options.features - numeric, options.seed, ROWS_PER_HOUR)
        size = log.stat().st_size / 2**20
        print(
            f"log: {options.rows:,} rows of {options.features} features, {size:,.0f} MiB; {options.runs} runs",
            flush=True,
        )
        try:
            runs = [replayed(log, config) for _ in range(options.runs)]
        except subprocess.CalledProcessError as error:
            print(f"benchmark replay_wide: exit status {error.returncode}\n{error.stderr[-4000:]}", file=sys.stderr)
            return 1
    figures = {"features": options.features, **figures_of(runs, options.features)}
    print(table_of(runs))
    print(f"{figures['instances_per_minute']:,.0f} instances a minute, {figures['drift_events']:.0f} alarms")
    print(result("replay_wide", machine, figures, targets(figures)))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks replay_wide",
        description="Monitoring a wide Parquet log with the whole flow, median over runs.",
        epilog="example: python -m benchmarks replay_wide --features 300 --rows 1000000 --runs 1",
    )
    top.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"rows of the log (default {ROWS})")
    top.add_argument("--features", type=int, default=FEATURES, metavar="F", help=f"features (default {FEATURES})")
    top.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the log (default 0)")
    top.add_argument("--runs", type=int, default=3, metavar="N", help="replays to take the median of (default 3)")
    return top


def features_of(numeric: int, words: int) -> list[FeatureSpec]:
    """The declared features of the wide log."""
    types = (EventType.IMPRESSION, EventType.CLICK)
    number_names, word_names = wide_names(numeric, words)
    return [
        *(FeatureSpec(name, FeatureKind.NUMERIC, f"features.{name}", types, -4.0, 5.0) for name in number_names),
        *(FeatureSpec(name, FeatureKind.CATEGORICAL, f"features.{name}", types) for name in word_names),
    ]


def figures_of(runs: Sequence[Run], features: int) -> dict[str, float]:
    """Medians over the runs."""
    rate = statistics.median(run.by_report for run in runs)
    per_cpu = statistics.median(run.events / run.cpu_seconds for run in runs)
    return {
        "rows": runs[0].events,
        "rejected": runs[0].rejected,
        "windows": runs[0].windows,
        "drift_events": min(run.drift_events for run in runs),
        "runs": len(runs),
        "instances_per_minute": round(60 * rate),
        "instances_per_minute_least": round(60 * min(run.by_report for run in runs)),
        "instances_per_minute_most": round(60 * max(run.by_report for run in runs)),
        "instances_per_cpu_minute": round(60 * per_cpu),
        "feature_values_per_cpu_second": round(features * per_cpu),
        "peak_rss_bytes": max(run.peak_rss_bytes for run in runs),
    }


def targets(figures: dict[str, float]) -> list[Target]:
    """What 100 features must reach; what comes of another number of them is a figure without a bound on the rate."""
    shown = [Target("windows are judged: alarms of the feature that moves", figures["drift_events"], 1)]
    if figures["features"] == FEATURES:
        shown += [
            Target("instances a minute, one process", figures["instances_per_minute"], FLOOR_INSTANCES_PER_MINUTE),
            Target("peak memory, bytes", figures["peak_rss_bytes"], at_most=MOST_BYTES),
        ]
    return shown
