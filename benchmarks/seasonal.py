"""Streams that come and go without drifting: day and week cycles, levels that wander, rows that follow one another.

- False alarms of the shipped panel after references that span the season and references that do not; and, with half a
  standard deviation of true drift on top, how much of it is still found.
- Each world has six features of numbers and two of words. Rows are 250 to 1,000 a pane, a window is four panes.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from benchmarks import drift_bench as bench
from benchmarks.report import Machine, Target, result, table
from online_models.contracts.events import EventType
from online_models.contracts.features import NUMERIC_BINS, WORD_BUCKETS, FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from online_models.drift.panel import Memory, Panel
from online_models.drift.seasons import DAY_MS, WEEK_MS
from online_models.drift.verdict import Verdict
from online_models.histograms import Counts, count_numeric

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

NUMBERS, WORDS, VOCABULARY = 6, 2, 200
WIDTH: Final = 4
SHIFT: Final = 0.5
QUARTER_HOUR, HOUR = 900_000, 3_600_000


@dataclass(frozen=True, slots=True)
class World:
    """How the level of a feature moves over panes, in standard deviations, and how its rows follow one another.

    level : (random numbers, pane starts (P,)) -> (P,)
    pane_ms, rows : length of a pane, and its rows
    reference_ms : spans of the reference that are tried; judged_ms : time that is judged after it
    inertia : correlation of a row with the row before
    """

    name: str
    level: Callable[[Rng, Floats], Floats]
    pane_ms: int
    rows: int
    reference_ms: tuple[int, ...]
    judged_ms: int
    inertia: float = 0.0


def day(rng: Rng, at_ms: Floats) -> Floats:
    """A day's cycle, half a standard deviation up and down."""
    return 0.5 * np.asarray(np.sin(2 * np.pi * (at_ms / DAY_MS + rng.random())))


def week(rng: Rng, at_ms: Floats) -> Floats:
    """Weekends lie half a standard deviation away."""
    return np.where(at_ms % WEEK_MS >= 5 * DAY_MS, 0.5 * float(rng.choice([-1, 1])), 0.0)


def wandering(rng: Rng, at_ms: Floats) -> Floats:
    """A level of a tenth of a standard deviation that forgets a tenth of itself per pane."""
    return np.asarray(lfilter([np.sqrt(1 - 0.9**2)], [1, -0.9], 0.1 * rng.normal(size=len(at_ms))))


def steady(rng: Rng, at_ms: Floats) -> Floats:
    """No movement."""
    return np.zeros(len(at_ms))


WORLDS: Final = (
    World("steady", steady, QUARTER_HOUR, 250, (DAY_MS // 2, 2 * DAY_MS), 2 * DAY_MS),
    World("day cycle", day, QUARTER_HOUR, 250, (DAY_MS // 2, 2 * DAY_MS, 7 * DAY_MS), 2 * DAY_MS),
    World("week cycle", week, HOUR, 1_000, (3 * DAY_MS, 14 * DAY_MS, 21 * DAY_MS), 7 * DAY_MS),
    World("wandering level", wandering, QUARTER_HOUR, 250, (DAY_MS // 2, 2 * DAY_MS, 7 * DAY_MS), 2 * DAY_MS),
    World("rows that follow", steady, QUARTER_HOUR, 250, (DAY_MS // 2, 2 * DAY_MS), 2 * DAY_MS, inertia=0.9),
)


def panes_of(world: World, rng: Rng, place: int, panes: int, shifted: Floats) -> tuple[FeatureSpec, Counts]:
    """Fine counts (panes, cells + 3) of one feature; `shifted` (panes,) is its true drift."""
    level = world.level(rng, np.asarray(np.arange(panes) * float(world.pane_ms), np.float64)) + shifted
    if place < NUMBERS:
        spec = FeatureSpec(f"number{place}", FeatureKind.NUMERIC, "value", (EventType.RATING,), -4.0, 4.0)
        innovations = rng.normal(size=panes * world.rows) * np.sqrt(1 - world.inertia**2)
        rows: Floats = np.asarray(lfilter([1.0], [1.0, -world.inertia], innovations), np.float64)
        values = np.asarray(rows + np.repeat(level, world.rows), np.float64)
        return spec, count_numeric(values, np.repeat(np.arange(panes), world.rows), panes, -4.0, 4.0, NUMERIC_BINS)
    spec = FeatureSpec(f"words{place}", FeatureKind.CATEGORICAL, "item_id", (EventType.CLICK,))
    logs = np.log(bench.word_shares(VOCABULARY, "", 0.0, np.zeros(VOCABULARY))[:VOCABULARY])
    shares = np.exp(logs + level[:, None] * rng.normal(size=VOCABULARY))
    buckets = 1 + np.array([hash64(f"{place}/{word}") % WORD_BUCKETS for word in range(VOCABULARY)])
    drawn = rng.multinomial(world.rows, shares / shares.sum(1, keepdims=True))
    counts = np.zeros((panes, WORD_BUCKETS + 3), np.int64)
    np.add.at(counts.T, buckets, drawn.T)
    return spec, counts


def verdicts(world: World, seed: int, reference_ms: int, drift: bool) -> Counter[str]:
    """How often each verdict, and how often an alarm says that it may be seasonal."""
    rng = np.random.default_rng(seed)
    before, after = reference_ms // world.pane_ms, world.judged_ms // world.pane_ms
    shifted = np.where(np.arange(before + after) < before, 0.0, SHIFT * drift)
    features = [panes_of(world, rng, place, before + after, shifted) for place in range(NUMBERS + WORDS)]
    panel = Panel([bench.sketch_of(spec, counts[:before], 0, world.pane_ms) for spec, counts in features])
    memory, found = Memory(), Counter[str]()
    for start in range(before, before + after - WIDTH + 1):
        counts = {spec.name: held[start : start + WIDTH].sum(0) for spec, held in features}
        verdict, memory = panel.judge(counts, start * world.pane_ms, (start + WIDTH) * world.pane_ms, memory)
        for each in verdict.features.values():
            found[each.verdict] += 1
            found["may be"] += each.verdict is Verdict.DRIFT and "may be" in each.why
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every target is met."""
    options = parser().parse_args(arguments)
    seeds = [int(part) for part in options.seeds.split(",")]
    machine, targets, figures = Machine.here(), list[Target](), dict[str, float]()
    rows = [
        ["world", "reference", "windows", "drift %", "says 'may be seasonal'", "seasonal %", "of true drift found %"]
    ]
    for world in WORLDS:
        for span in world.reference_ms:
            clean = sum((verdicts(world, seed, span, False) for seed in seeds), Counter[str]())
            drifted = sum((verdicts(world, seed, span, True) for seed in seeds), Counter[str]())
            many = sum(clean[each] for each in Verdict)
            wrong, seasonal = 100 * clean[Verdict.DRIFT] / many, 100 * clean[Verdict.SEASONAL] / many
            told = 100 * clean["may be"] / max(clean[Verdict.DRIFT], 1)
            right = 100 * drifted[Verdict.DRIFT] / many
            where = f"{world.name}, reference of {span / DAY_MS:g} days"
            says = f"{told:.0f} %" if clean[Verdict.DRIFT] else "-"
            rows.append(
                [
                    world.name,
                    f"{span / DAY_MS:g} d",
                    f"{many:,}",
                    f"{wrong:.2f}",
                    says,
                    f"{seasonal:.2f}",
                    f"{right:.1f}",
                ]
            )
            figures |= {f"false alarms %: {where}": wrong, f"true drift found %: {where}": right}
            if span == world.reference_ms[-1] and world.level is not wandering:
                targets.append(Target(f"false alarms %: {where}", wrong, at_most=0.3))
            elif clean[Verdict.DRIFT]:
                targets.append(Target(f"% of alarms that say so: {where}", told, at_least=100.0))
    print(table(rows))
    print(result("seasonal", machine, figures, targets))
    return 0 if all(each.met for each in targets) else 1


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks seasonal", description=__doc__)
    found.add_argument("--seeds", default="7000,7001,7002", help="one world each, comma-separated")
    return found
