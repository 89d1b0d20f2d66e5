"""True and false alarms of the shipped panel on DriftBench, beside the rules that practice uses.

- The panel is judged as shipped, from fine histograms to verdicts; TPR over windows that are wholly drifted with
  severity >= 0.1, FPR over windows that are wholly clean, the ones after other streams' onset included.
- Windows overlap and streams repeat their windows: intervals resample whole streams.
- A false trigger is what a retrain would have followed: alarms in two windows in a row, before any onset.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import kolmogorov
from scipy.stats import beta, chi2

from benchmarks import drift_bench as bench
from benchmarks.report import Machine, Target, result, table
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.features import FeatureKind
from online_models.drift.chi_square import chi_square_divergence
from online_models.drift.fdr import benjamini_hochberg
from online_models.drift.panel import Memory, Panel
from online_models.drift.policy import Policy
from online_models.histograms import Counts, rebin

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Alarms = Callable[[Sequence[bench.Stream]], Bools]

SHIPPED: Final = "penstock, as shipped"
HEADLINE: Final = 0.1
WINDOWS: Final = 2 * bench.HALF - bench.PANES_PER_WINDOW + 1
BEFORE: Final = bench.HALF - bench.PANES_PER_WINDOW + 1
FEATURES_TIMED: Final = 100
BOOTSTRAPS: Final = 400


def windows_of(panes: Counts) -> Counts:
    """Histograms (77, cells + 3) of all windows of a stream's panes."""
    total = np.cumsum(np.concatenate([np.zeros_like(panes[:1]), panes]), 0)
    sums: Counts = total[bench.PANES_PER_WINDOW :] - total[: -bench.PANES_PER_WINDOW]
    return sums


def labels_of(stream: bench.Stream) -> npt.NDArray[np.int8]:
    """`CLEAN` or `DRIFTED` where all panes of a window (77,) are, else `BETWEEN`."""
    inside = np.lib.stride_tricks.sliding_window_view(stream.labels, bench.PANES_PER_WINDOW)
    clean, drifted = (inside == bench.CLEAN).all(1), (inside == bench.DRIFTED).all(1)
    return np.where(clean, bench.CLEAN, np.where(drifted, bench.DRIFTED, bench.BETWEEN)).astype(np.int8)


def of_panel(policy: Policy, with_panes: bool = True, taken: list[float] | None = None) -> Alarms:
    """Alarms (77, 60) of a panel; `taken` collects CPU seconds per verdict."""

    def alarms(streams: Sequence[bench.Stream]) -> Bools:
        sketches = [each.sketch if with_panes else bare(each.sketch) for each in streams]
        panel, memory = Panel(sketches, {"recommender": policy}), Memory()
        windows = {each.sketch.feature.name: windows_of(each.panes) for each in streams}
        out = np.zeros((WINDOWS, len(streams)), np.bool_)
        for place in range(WINDOWS):
            counts = {name: held[place] for name, held in windows.items()}
            started = time.process_time()
            end = (place + bench.PANES_PER_WINDOW) * bench.PANE_MS
            verdict, memory = panel.judge(counts, place * bench.PANE_MS, end, memory)
            if taken is not None:
                taken.append(time.process_time() - started)
            drifted = set(verdict.drifted)
            out[place] = [each.sketch.feature.name in drifted for each in streams]
        return out

    return alarms


def bare(sketch: FeatureSketch) -> FeatureSketch:
    """A reference that does not say how it varied in itself."""
    return FeatureSketch(sketch.feature, sketch.counts)


def published(name: str) -> Alarms:
    """What practice does: ten quantile bins or every word, empty shares filled with 1e-4, fixed thresholds."""

    def alarms(streams: Sequence[bench.Stream]) -> Bools:
        return np.stack([_published(each)[name] for each in streams], 1)

    return alarms


def _published(stream: bench.Stream) -> Mapping[str, Bools]:
    held, windows = np.array(stream.sketch.counts), windows_of(stream.panes)
    m, n = held.sum(), windows.sum(1)
    numeric = stream.sketch.feature.kind is FeatureKind.NUMERIC
    if numeric:
        assignment = rebin(held, FeatureKind.NUMERIC)
        r, h = assignment.apply(held), np.array([assignment.apply(window) for window in windows])
        cells, now = held[:-1], windows[:, :-1]
        inside, many = cells.sum(), now.sum(1)
        distance = np.abs(np.cumsum(now / many[:, None] - cells / inside, 1)).max(1)
        p_value = kolmogorov(np.sqrt(many * inside / (many + inside)) * distance)
    else:
        known = (held > 0) | (windows.sum(0) > 0)
        r, h = held[known], windows[:, known]
        both = np.maximum(h + r, 1)
        x2 = ((h * np.sqrt(m / n)[:, None] - r * np.sqrt(n / m)[:, None]) ** 2 / both).sum(1)
        p_value = chi2.sf(x2, ((h + r) > 0).sum(1) - 1)
    p, q = np.maximum(h / n[:, None], 1e-4), np.maximum(r / m, 1e-4)
    psi, kl = ((p - q) * np.log(p / q)).sum(1) > 0.2, (p * np.log(p / q)).sum(1) > 0.1
    ks = p_value < 0.05
    return {"psi": psi, "ks": ks, "two": psi.astype(int) + kl + ks >= 2}


def chi_square_bh(streams: Sequence[bench.Stream]) -> Bools:
    """The plain chi-square test on the same coarse bins, Benjamini-Hochberg at 1 %, nothing else."""
    p_values = []
    for stream in streams:
        held = np.array(stream.sketch.counts)
        assignment = rebin(held, stream.sketch.feature.kind)
        coarse = np.array([assignment.apply(window) for window in windows_of(stream.panes)])
        p_values.append(chi_square_divergence(assignment.apply(held), coarse)[1])
    return np.array([benjamini_hochberg(row, 0.01) for row in np.stack(p_values, 1)])


@dataclass(slots=True)
class Tally:
    """Counts per stream (a row each): false alarms, clean windows, hits, drifted windows; and what runs and onsets gave."""

    streams: list[tuple[int, int, int, int]] = field(default_factory=list)
    by_severity: dict[float, list[int]] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    alarmed: dict[str, int] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)
    triggers: int = 0
    wrong: int = 0
    before: int = 0

    def add(self, streams: Sequence[bench.Stream], alarms: Bools) -> None:
        """Take in a run's alarms (77, 60)."""
        first: Bools = np.any(alarms[:BEFORE], 1)
        self.triggers, self.before = self.triggers + episodes(first), self.before + BEFORE
        self.wrong += int(first.sum())
        for stream, alarm in zip(streams, alarms.T, strict=True):
            labels = labels_of(stream)
            clean, drifted = labels == bench.CLEAN, labels == bench.DRIFTED
            far = drifted & (stream.severity >= HEADLINE)
            numbers = int((alarm & clean).sum()), int(clean.sum()), int((alarm & far).sum()), int(far.sum())
            self.streams.append(numbers)
            if numbers[0]:
                self.alarmed[stream.family] = self.alarmed.get(stream.family, 0) + numbers[0]
            if numbers[3] > numbers[2]:
                which = f"{stream.family} {stream.drift} {stream.severity:g}"
                self.missed[which] = self.missed.get(which, 0) + numbers[3] - numbers[2]
            if stream.severity:
                held = self.by_severity.setdefault(stream.severity, [0, 0])
                held[0], held[1] = held[0] + int((alarm & drifted).sum()), held[1] + int(drifted.sum())
            if stream.severity >= HEADLINE and stream.pattern == "abrupt":
                found = np.flatnonzero(alarm[BEFORE:])
                self.delays.append((found[0] + 1) / bench.PANES_PER_WINDOW if len(found) else np.inf)

    def rate(self, hits: int, of: int) -> tuple[float, float, float]:
        """A rate and its 95 % interval, whole streams resampled; by Clopper and Pearson where it is 0 or 1, one window in
        four counted, as they overlap so much."""
        numbers = np.array(self.streams, np.float64)[:, [hits, of]]
        total, many = numbers.sum(0)
        if not many:
            return np.nan, np.nan, np.nan
        if total in (0, many):
            k, n = total / bench.PANES_PER_WINDOW, many / bench.PANES_PER_WINDOW
            low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
            return total / many, low, float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
        rng = np.random.default_rng(0)
        drawn = numbers[rng.integers(0, len(numbers), (BOOTSTRAPS, len(numbers)))].sum(1)
        low, high = np.quantile(drawn[:, 0] / np.maximum(drawn[:, 1], 1), [0.025, 0.975])
        return total / many, float(low), float(high)


def episodes(alarms: Bools) -> int:
    """How often alarms (windows,) stand twice in a row after two calm ones, as a retrain needs.

    >>> episodes(np.array([1, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1], bool))
    2
    """
    standing, calm, armed, found = 0, 0, True, 0
    for alarm in alarms:
        standing, calm = (standing + 1, 0) if alarm else (0, calm + 1)
        if armed and standing >= 2:
            found, armed = found + 1, False
        armed = armed or calm >= 2
    return found


def milliseconds(seed: int) -> float:
    """Median CPU time of a verdict over 100 features, 30 of them words."""
    streams = [*bench.run(seed, 0, 2_000, 20_000), *bench.run(seed, 1, 2_000, 20_000)]
    numbers = [each for each in streams if each.sketch.feature.kind is FeatureKind.NUMERIC][:70]
    chosen = [*numbers, *(each for each in streams if each.sketch.feature.kind is not FeatureKind.NUMERIC)][
        :FEATURES_TIMED
    ]
    renamed = [_renamed(each, str(place)) for place, each in enumerate(chosen)]
    taken: list[float] = []
    of_panel(Policy(), taken=taken)(renamed)
    return 1e3 * float(np.median(taken))


def _renamed(stream: bench.Stream, name: str) -> bench.Stream:
    sketch = msgspec.structs.replace(stream.sketch, feature=msgspec.structs.replace(stream.sketch.feature, name=name))
    return bench.Stream(sketch, stream.panes, stream.labels, stream.family)


METHODS: Final[Mapping[str, Alarms]] = {
    SHIPPED: of_panel(Policy()),
    "penstock, no second look": of_panel(Policy(confirm=False)),
    "penstock, reference without panes": of_panel(Policy(), with_panes=False),
    "chi-square, BH 1 %": chi_square_bh,
    "2 of 3: PSI .2, KL .1, KS .05": published("two"),
    "PSI > 0.2": published("psi"),
    "KS p < 0.05": published("ks"),
}


def measured(n: int, jitter: float, options: argparse.Namespace) -> dict[str, Tally]:
    """Every method on the same runs of one setting."""
    tallies = {name: Tally() for name in METHODS if not options.shipped or name == SHIPPED}
    for seed in options.seeds:
        for number in range(options.runs):
            streams = bench.run(seed, number, n, options.ratio * n, jitter)
            for name, tally in tallies.items():
                tally.add(streams, METHODS[name](streams))
    return tallies


def row(name: str, tally: Tally) -> list[str]:
    wrong, right = tally.rate(0, 1), tally.rate(2, 3)
    severities = " ".join(f"{100 * found[0] / max(found[1], 1):.0f}" for _, found in sorted(tally.by_severity.items()))
    return [
        name,
        f"{100 * wrong[0]:.3f} [{100 * wrong[1]:.3f}, {100 * wrong[2]:.3f}]",
        f"{100 * right[0]:.2f} [{100 * right[1]:.2f}, {100 * right[2]:.2f}]",
        severities,
        f"{tally.wrong}/{tally.before}",
        f"{tally.triggers}",
        f"{np.median(tally.delays):.2f}" if tally.delays else "-",
    ]


HEADS: Final = [
    "method",
    "FPR % [95 %]",
    "TPR % at severity >= 0.1 [95 %]",
    "TPR % at .02 .05 .1 .2 .5",
    "clean windows with an alarm",
    "false triggers",
    "delay",
]


def targets_of(n: int, jitter: float, tally: Tally) -> list[Target]:
    """What the shipped default has to reach in one setting."""
    where = f"n={n} jitter={jitter:g}"
    wrong, right = float(100 * tally.rate(0, 1)[0]), float(100 * tally.rate(2, 3)[0])
    found = [Target(f"TPR % {where}", right, at_least=99.0 if n >= 2_000 else 95.0)]
    found.append(Target(f"FPR % {where}", wrong, at_most=0.3 if jitter else 0.05))
    if n >= 2_000:
        found.append(Target(f"delay windows {where}", float(np.median(tally.delays)), at_most=0.5))
    found.append(Target(f"false triggers per 500 windows {where}", 500 * tally.triggers / tally.before, at_most=1.0))
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every target is met."""
    options = parser().parse_args(arguments)
    machine, figures, targets = Machine.here(), dict[str, float](), list[Target]()
    for n in options.rows:
        for jitter in options.jitter:
            tallies = measured(n, jitter, options)
            print(
                f"n = {n:,}, m = {options.ratio * n:,}, jitter {jitter:g} sd, {len(options.seeds) * options.runs} runs"
            )
            print(table([HEADS, *(row(name, tally) for name, tally in tallies.items())]))
            shipped = tallies[SHIPPED]
            print(f"missed windows: {most(shipped.missed)}; false alarms: {most(shipped.alarmed)}\n", flush=True)
            targets += targets_of(n, jitter, shipped)
    taken = milliseconds(options.seeds[0])
    targets.append(Target("CPU ms per verdict of 100 features", taken, at_most=10.0))
    print(f"{taken:.1f} CPU ms per verdict of {FEATURES_TIMED} features")
    figures.update({each.name: each.value for each in targets})
    print(result("drift_accuracy", machine, figures, targets))
    return 0 if all(each.met for each in targets) else 1


def most(counts: Mapping[str, int]) -> str:
    """The five most frequent, in words."""
    ranked = sorted(counts.items(), key=lambda each: -each[1])[:5]
    return ", ".join(f"{name} {count}" for name, count in ranked) or "none"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks drift_accuracy", description=__doc__)
    found.add_argument("--seeds", type=numbers, default=[7000, 7001], help="families of runs, comma-separated")
    found.add_argument("--runs", type=int, default=2, help="runs of 60 streams per seed and setting")
    found.add_argument("--rows", type=numbers, default=[500, 2_000, 10_000, 50_000], help="rows of a window")
    found.add_argument("--ratio", type=int, default=10, help="rows of the reference per row of a window")
    found.add_argument("--jitter", type=fractions, default=[0.0, 0.02, 0.05], help="benign jitter of a pane, in sd")
    found.add_argument("--shipped", action="store_true", help="only the shipped default")
    return found


def numbers(text: str) -> list[int]:
    """Comma-separated whole numbers."""
    return [int(part) for part in text.split(",")]


def fractions(text: str) -> list[float]:
    """Comma-separated numbers."""
    return [float(part) for part in text.split(",")]
