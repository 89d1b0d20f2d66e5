"""Alarms on two recorded logs in event time, MovieLens and Online Retail, and on copies of them in which nothing happens.

- A copy keeps the sequence of event times and deals the rows out to them at random: whatever changed over the years is
  spread evenly, so every alarm on it is a false one.
- A second kind of copy deals out sittings, what one user did on one day, as a whole. Nothing changes in it either, but a
  window is made of few users with tastes of their own: how often that alone alarms is told, and has no target.
- Each log runs as `python -m flows tune` runs it: through the stream job's windows and judges with the default policy,
  against its own first part, in windows of two lengths.
- The features are those that `flows declare` finds in the log, and the users and items, which are thousands of words.
"""

import argparse
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.report import Machine, Target, data_folder, result, table
from flows.declare import declare
from flows.offline import Log, parse_log
from flows.settings import FlowSettings
from flows.tune import PolicySet, episode_text, episodes, reference_span, tune, usual_sets
from online_models.contracts.events import EventType, TimeBounds
from online_models.contracts.features import FeatureKind, FeatureSpec
from scripts import import_dataset

DAY_SECONDS: Final = 86_400
DAY_MS: Final = 1000 * DAY_SECONDS
BOUNDS: Final = TimeBounds(0, 2**62)
USERS: Final = "user"
ITEMS: Final = "item"

_TS: Final = re.compile(rb'"ts":(\d+)')
"""An event's time as `import_dataset` writes it; within a JSON string its quotes would be escaped."""
_USER: Final = re.compile(rb'"user_id":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Recorded:
    """A data set, and the lengths of the windows that its traffic fills.

    dataset, source : names for `import_dataset` and of its folder
    carrier : the type of its events
    """

    name: str
    dataset: str
    source: str
    carrier: EventType
    window_days: int
    longer_days: int


LOGS: Final = (
    Recorded("MovieLens", "movielens", "ml-latest-small", EventType.RATING, 90, 360),
    Recorded("Online Retail", "online-retail", "online-retail", EventType.PURCHASE, 14, 28),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What the default policy said of one log: windows judged, alarms by feature, retrain jobs, and episodes in words."""

    windows: int
    alarms: Counter[str]
    triggers: int
    told: Sequence[str]


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every target is met, or there is no data to measure."""
    options = parser().parse_args(arguments)
    machine, figures, targets = Machine.here(), dict[str, float](), list[Target]()
    data = data_folder()
    rows = [["log", "rows", "windows", "alarms", "of features", "retrain jobs"]]
    for recorded in LOGS:
        if not (data / recorded.source).is_dir():
            print(f"{recorded.name}: no {data / recorded.source}; set PENSTOCK_DATA to the folder of the data sets")
            continue
        found = measured(recorded, data / recorded.source, [int(seed) for seed in options.seeds.split(",")])
        as_recorded = found[RECORDED]
        rows_dealt, sittings_dealt = (
            [each for order, each in found.items() if order.startswith(kind)] for kind in (SHUFFLED, SITTINGS)
        )
        print(f"\n{recorded.name}, as recorded:\n" + "\n".join(as_recorded.told))
        for order, each in found.items():
            rows.append(row_of(recorded.name, order, each))
            if order.startswith(SHUFFLED) and each.told:
                print(f"\n{recorded.name}, {order}:\n" + "\n".join(each.told))
        figures |= {f"alarms: {recorded.name}": as_recorded.alarms.total()}
        figures |= {f"windows: {recorded.name}": as_recorded.windows}
        figures |= {f"windows of the shuffled copies: {recorded.name}": sum(each.windows for each in rows_dealt)}
        for feature in as_recorded.alarms:
            by_sitting = sum(each.alarms[feature] for each in sittings_dealt)
            share = 100 * by_sitting / max(sum(each.windows for each in sittings_dealt), 1)
            figures |= {f"alarms % of windows, sittings dealt out: {recorded.name}, {feature}": round(share, 1)}
        wrong = sum(each.alarms.total() for each in rows_dealt)
        targets.append(Target(f"false alarms in all shuffled copies of {recorded.name}", wrong, at_most=0))
        targets.append(Target(f"alarms as recorded: {recorded.name}", as_recorded.alarms.total(), at_least=1))
    print("\n" + table(rows))
    print(result("real_logs", machine, figures, targets))
    return 0 if all(each.met for each in targets) else 1


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks real_logs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: PENSTOCK_DATA=data python -m benchmarks real_logs --seeds 1,2,3",
    )
    found.add_argument("--seeds", default="1,2,3,4,5", help="two copies each, comma-separated")
    return found


RECORDED: Final = "as recorded"
SHUFFLED: Final = "rows dealt out"
SITTINGS: Final = "sittings dealt out"


def measured(recorded: Recorded, source: Path, seeds: Sequence[int]) -> dict[str, Found]:
    """Order of the rows -> what is found, the recorded order first."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        log, copy = Path(name) / "log.ndjson", Path(name) / "copy.ndjson"
        import_dataset.main([recorded.dataset, str(source), str(log)])
        settings = settings_of(recorded, parse_log(str(log)))
        found[RECORDED] = judged(parse_log(str(log)), settings)
        for kind, seed in itertools.product((SHUFFLED, SITTINGS), seeds):
            copy.write_bytes(shuffled(log.read_bytes(), seed, sittings=kind == SITTINGS))
            found[f"{kind}, seed {seed}"] = judged(parse_log(str(copy)), settings)
    return found


def settings_of(recorded: Recorded, log: Log) -> FlowSettings:
    """The declared features of a log, its users and its items, in windows of two lengths."""
    words = [FeatureSpec(name, FeatureKind.CATEGORICAL, f"{name}_id", (recorded.carrier,)) for name in (USERS, ITEMS)]
    return FlowSettings(
        features=(*declare([log]), *words),
        window_seconds=recorded.window_days * DAY_SECONDS,
        longer_windows_seconds=(recorded.longer_days * DAY_SECONDS,),
    )


def judged(log: Log, settings: FlowSettings) -> Found:
    """What the default policy says of a log after its first part."""
    span = reference_span(None, log, settings, BOUNDS)
    shipped: PolicySet = usual_sets(settings, ["recommender"])[0]
    (outcome,) = tune(log, span, settings, [shipped], BOUNDS)
    told = sorted(episode_text(episode) for episode in episodes(outcome.alarms))
    return Found(outcome.windows, Counter(alarm.feature for alarm in outcome.alarms), outcome.triggers, told)


def shuffled(log: bytes, seed: int, *, sittings: bool = False) -> bytes:
    """The log with its rows dealt out at random to its event times.

    sittings : deal out together, and in their order, what one user did on one day

    >>> log = b'{"user_id":"a","ts":1}\\n{"user_id":"b","ts":2}\\n{"user_id":"c","ts":3}\\n'
    >>> shuffled(log, 2)
    b'{"user_id":"c","ts":1}\\n{"user_id":"a","ts":2}\\n{"user_id":"b","ts":3}\\n'
    """
    lines, times = log.splitlines(keepends=True), _TS.findall(log)
    keys: Iterable[object] = range(len(lines))
    if sittings:
        keys = ((user, int(time) // DAY_MS) for user, time in zip(_USER.findall(log), times, strict=True))
    parts: dict[object, list[bytes]] = {}
    for key, line in zip(keys, lines, strict=True):
        parts.setdefault(key, []).append(line)
    held = list(parts.values())
    order = np.random.default_rng(seed).permutation(len(held)).tolist()
    dealt = zip((line for place in order for line in held[place]), times, strict=True)
    return b"".join(_TS.sub(b'"ts":' + time, line, count=1) for line, time in dealt)


def row_of(name: str, order: str, found: Found) -> list[str]:
    features = ", ".join(f"{feature} {count}" for feature, count in found.alarms.most_common())
    return [name, order, str(found.windows), str(found.alarms.total()), features or "-", str(found.triggers)]
