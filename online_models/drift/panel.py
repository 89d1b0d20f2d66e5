"""The verdict on all features of a window at once: measured together, judged against one rate of false alarms.

1. Quiet features grow over earlier quiet windows.
2. Every detector measures every feature; p-values know what is usual in the reference's panes.
3. The component's policy makes one p-value per feature, Benjamini-Hochberg decides over all of them, and what is too
   small to matter is none.
4. An alarm must be visible one hop earlier, unless it is overwhelming, and must not be the season.
Each step is a function of counts and memory: the same window, panel and memory give the same verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from online_models.contracts.artifacts import FeatureSketch
from online_models.drift.base import Floats, Reading, Snapshot, not_a_snapshot_of
from online_models.drift.calibration import Habits
from online_models.drift.fdr import benjamini_hochberg
from online_models.drift.measure import DETECTORS, Measured, measure
from online_models.drift.policy import IMMEDIATE, Policy, combine
from online_models.drift.quiet import Stretch, grow, kept
from online_models.drift.references import References, sums_between
from online_models.drift.seasons import season_of, span_ms, too_short
from online_models.drift.verdict import (
    FeatureVerdict,
    Labels,
    Moved,
    Verdict,
    WindowVerdict,
    bin_label,
    explain,
)
from online_models.histograms import Counts

Bools = npt.NDArray[np.bool_]

MOVED: Final = 3
"""Bins that an explanation names."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a panel remembers of the windows of one length before this one.

    start_ms, end_ms : of the previous window
    alarmed : features whose previous window was significant, confirmed or not
    quiet : feature -> its earlier windows that held too little, oldest first
    """

    start_ms: int = 0
    end_ms: int = 0
    alarmed: frozenset[str] = frozenset()
    quiet: Mapping[str, tuple[Stretch, ...]] = field(default_factory=dict)

    def snapshot(self) -> Snapshot:
        """`(name, schema version, start, end, alarmed names, then name, start, end, events, cells, counts per quiet window)`."""
        stretches = [(name, each) for name in sorted(self.quiet) for each in self.quiet[name]]
        told = ((name, s.start_ms, s.end_ms, s.events, s.cells.copy(), s.counts.copy()) for name, s in stretches)
        names = "\n".join(sorted(self.alarmed))
        return ("panel", 1, self.start_ms, self.end_ms, names, *(part for each in told for part in each))

    @classmethod
    def restore(cls, snapshot: Snapshot) -> Self:
        """The memory behind a snapshot.

        Raises
        ------
        ValueError
            When the snapshot is something else's or another version's.
        """
        match snapshot:
            case ("panel", 1, int(start_ms), int(end_ms), str(alarmed), *rest) if len(rest) % 6 == 0:
                quiet: dict[str, tuple[Stretch, ...]] = {}
                for place in range(0, len(rest), 6):
                    match rest[place : place + 6]:
                        case [
                            str(name),
                            int(start),
                            int(end),
                            int(events),
                            np.ndarray() as cells,
                            np.ndarray() as held,
                        ]:
                            stretch = Stretch(start, end, cells.astype(np.int64), held.astype(np.int64), events)
                            quiet[name] = (*quiet.get(name, ()), stretch)
                        case _:
                            raise not_a_snapshot_of("panel", 1, snapshot)
                return cls(start_ms, end_ms, frozenset(filter(None, alarmed.split("\n"))), quiet)
            case _:
                raise not_a_snapshot_of("panel", 1, snapshot)


@dataclass(frozen=True, slots=True)
class _Window:
    """A window of F features, grown where it was quiet.

    present : (F,), whether there are counts; enough : (F,), enough of them, and in the reference
    fine : (C,), by `References.lay_out`
    events : (F,), effective ones; windows : (F,), earlier ones that it has grown by
    draws : (F,), independent draws per counted value: one event may have several words
    """

    present: Bools
    fine: Floats
    events: Floats
    windows: npt.NDArray[np.int64]
    draws: Floats
    enough: Bools


class Panel:
    """Judges windows of a champion's features.

    Parameters
    ----------
    references : a sketch per feature; ghosts are not judged
    policies : component -> policy; a component that is not named has the default one
    labels : words for a coarse bin of a feature; by default ranges of numbers and numbers of hash buckets

    Raises
    ------
    ValueError
        When a sketch does not fit its own feature.
    """

    def __init__(
        self,
        references: Sequence[FeatureSketch],
        policies: Mapping[str, Policy] | None = None,
        labels: Labels | None = None,
    ) -> None:
        judged = [each for each in references if not each.feature.ghost]
        held = [each for each in judged if any(each.counts)]
        self._empty = tuple(each.feature.name for each in judged if not any(each.counts))
        self._references = References.of(held)
        self._names = [spec.name for spec in self._references.specs]
        self._events = self._references.events
        self._policies = tuple((policies or {}).get(each.feature.component, Policy()) for each in held)
        self._least = np.array([policy.min_events for policy in self._policies], np.int64)
        self._q = np.array([policy.q for policy in self._policies], np.float64)
        self._limits = Limits.of(self._policies)
        self._weights = [np.array([each.weight(name) for name in DETECTORS]) for each in self._policies]
        components = [each.feature.component for each in held]
        self._components = [
            np.array([place for place, name in enumerate(components) if name == component])
            for component in dict.fromkeys(components)
        ]
        self._labels = labels
        self._said: dict[tuple[int, int], str] = {}
        self._habits: dict[int, Habits] = {}

    def judge(
        self,
        counts: Mapping[str, Counts],
        start_ms: int,
        end_ms: int,
        memory: Memory,
        events: Mapping[str, int] | None = None,
    ) -> tuple[WindowVerdict, Memory]:
        """The verdicts on a window, and what to remember for the next of this length.

        Parameters
        ----------
        counts : feature -> fine counts, int64 (cells + 3,); features without counts are not judged
        start_ms, end_ms : event time of the window
        memory : what the previous call for windows of this length returned, or `Memory()`
        events : feature -> events behind the counts, where that is not their sum: one event may have several words

        Raises
        ------
        ValueError
            When counts have another length than the reference's, or the window does not end after it starts.
        """
        if start_ms >= end_ms:
            raise ValueError(f"expected a window that ends after it starts, got {start_ms} to {end_ms}")
        window, quiet = self._grow(counts, events or {}, start_ms, end_ms, memory)
        for place in np.flatnonzero(~window.enough).tolist():  # compared with itself: no drift, and no division by 0
            start, end = self._references.bounds[place]
            window.fine[start:end] = self._references.fine[start:end]
        measured = self._measure(window, end_ms - start_ms)
        p_value, significant, overwhelming = self._decide(measured, window.enough)
        recent = memory.alarmed if memory.start_ms < start_ms <= memory.end_ms else frozenset()
        seen = []
        for place, name in enumerate(self._names):
            if significant[place]:
                known = overwhelming[place] or not self._policies[place].confirm or name in recent
                seen.append(Verdict.DRIFT if known else Verdict.UNCONFIRMED)
            else:
                seen.append(Verdict.STABLE if window.enough[place] else Verdict.INCONCLUSIVE)
        features = self._features(seen, p_value, measured, window, start_ms, end_ms)
        for name in self._empty:
            if name in counts:
                features[name] = FeatureVerdict(
                    Verdict.INCONCLUSIVE, why=f"{name}: no verdict, the reference has no events"
                )
        alarmed = frozenset(self._names[place] for place in np.flatnonzero(significant).tolist())
        return WindowVerdict(start_ms, end_ms, features), Memory(start_ms, end_ms, alarmed, quiet)

    def _grow(
        self, counts: Mapping[str, Counts], events: Mapping[str, int], start_ms: int, end_ms: int, memory: Memory
    ) -> tuple[_Window, dict[str, tuple[Stretch, ...]]]:
        references = self._references
        # a window without the feature says nothing of those before it
        quiet = {
            name: kept(earlier, np.zeros(0, np.int64), 0, start_ms, end_ms)
            for name, earlier in memory.quiet.items()
            if name not in counts
        }
        fine = references.lay_out(counts)
        held = sums_between(fine, references.bounds)
        present = np.array([name in counts for name in self._names], np.bool_)
        told = [events.get(name, total) for name, total in zip(self._names, held.tolist(), strict=True)]
        seen, windows = np.array(told, np.float64), np.zeros(len(held), np.int64)
        for place in np.flatnonzero(present & (seen < self._least)).tolist():
            name, policy, few = self._names[place], self._policies[place], int(seen[place])
            earlier = memory.quiet.get(name, ())
            quiet[name] = kept(earlier, counts[name], few, start_ms, end_ms)
            grown = grow(counts[name], few, start_ms, end_ms, earlier, policy.min_events)
            fine[slice(*references.bounds[place])] = grown.counts
            held[place], seen[place], windows[place] = grown.counts.sum(), grown.events, grown.windows
        enough = present & (seen >= self._least) & (self._events >= self._least)
        draws = np.where(present & (held > seen), seen / np.maximum(held, 1e-300), 1.0)
        return _Window(present, fine, seen, windows, draws, enough), quiet

    def _measure(self, window: _Window, length_ms: int) -> Measured:
        pane_ms = self._references.pane_ms
        length = np.where(pane_ms > 0, length_ms / np.maximum(pane_ms, 1), 1.0)
        return measure(self._references, window.fine, window.draws, length, self._habits_at(length_ms), self._q)

    def _habits_at(self, length_ms: int) -> Habits:
        """What is usual for windows of a length; learned once per length."""
        if length_ms not in self._habits:
            references = self._references
            found = Habits.none(len(references.specs), references.coarse.shape[1])
            for place, (panes, pane_ms, policy) in enumerate(
                zip(references.panes, references.pane_ms.tolist(), self._policies, strict=True)
            ):
                if policy.calibrated and pane_ms:
                    found.learn(place, panes, max(1, round(length_ms / pane_ms)))
            self._habits[length_ms] = found
        return self._habits[length_ms]

    def _decide(self, measured: Measured, enough: Bools) -> tuple[Floats, Bools, Bools]:
        """Per feature its p-value, whether it is significant and large enough to matter, and whether overwhelmingly so."""
        p_value = np.ones(len(enough))
        significant, overwhelming = np.zeros((2, len(enough)), np.bool_)
        for places in self._components:
            policy = self._policies[places[0]]
            weights = self._weights[places[0]]
            p = combine(measured.p_value[places], weights, policy.rule)
            p_value[places] = p = np.where(enough[places], p, 1.0)
            if policy.calibrated:
                matters = enough[places] & (measured.effect[places] >= policy.effect)
                judged = p[enough[places]]
                for q, found in ((policy.q, significant), (policy.q / IMMEDIATE, overwhelming)):
                    passing = np.zeros(len(places), np.bool_)
                    passing[enough[places]] = benjamini_hochberg(judged, q)
                    found[places] = passing & matters
            else:
                significant[places] = enough[places] & beyond_thresholds(measured, places, policy, weights)
        return p_value, significant, overwhelming

    def _features(
        self, seen: list[Verdict], p_value: Floats, measured: Measured, window: _Window, start_ms: int, end_ms: int
    ) -> dict[str, FeatureVerdict]:
        events = np.rint(window.events).astype(np.int64).tolist()
        said = readings(measured, self._limits, events)
        numbers = p_value.tolist(), measured.effect.tolist(), measured.detectable.tolist(), window.windows.tolist()
        found = {}
        for place in np.flatnonzero(window.present).tolist():
            name, verdict, held = self._names[place], seen[place], int(self._events[place])
            p, effect, least, windows = (each[place] for each in numbers)
            note, moved = "", tuple[Moved, ...]()
            if verdict is Verdict.INCONCLUSIVE:
                each = FeatureVerdict(verdict, (), p, events=events[place], windows=windows)
            else:
                if verdict is not Verdict.STABLE:
                    verdict, note = self._season(place, verdict, measured, start_ms, end_ms)
                    moved = self._moved(place, measured)
                each = FeatureVerdict(verdict, said[place], p, effect, least, events[place], windows, moved)
            found[name] = replace(each, why=explain(name, each, held, note))
        return found

    def _season(self, place: int, seen: Verdict, measured: Measured, start_ms: int, end_ms: int) -> tuple[Verdict, str]:
        """The verdict on a significant window, knowing the seasons of its reference, and what is to be said of them."""
        references = self._references
        panes, starts, pane_ms = references.panes[place], references.starts_ms[place], int(references.pane_ms[place])
        now = measured.coarse[place, : panes.shape[1]]
        season = season_of(now, start_ms, end_ms, panes, starts, pane_ms, self._policies[place].q)
        if season:
            note = f"like the same time of the {season.period} in the reference, {season.panes} stretches of it"
            return Verdict.SEASONAL, note
        return seen, too_short(span_ms(starts, pane_ms)) if len(starts) else ""

    def _moved(self, place: int, measured: Measured) -> tuple[Moved, ...]:
        held, now = self._references.coarse[place], measured.coarse[place]
        m, n, bins = float(held.sum()), float(now.sum()), self._references.assignments[place].bins
        most = np.argsort(-np.abs(measured.roots[place]), kind="stable")[:MOVED].tolist()
        return tuple(
            Moved(each, self._label(place, each), float(held[each]) / m, float(now[each]) / n)
            for each in most
            if each < bins
        )

    def _label(self, place: int, each: int) -> str:
        if (place, each) not in self._said:
            spec, assignment = self._references.specs[place], self._references.assignments[place]
            self._said[place, each] = (
                self._labels(spec.name, each) if self._labels else bin_label(spec, assignment, each)
            )
        return self._said[place, each]


def beyond_thresholds(measured: Measured, places: npt.NDArray[np.int64], policy: Policy, weights: Floats) -> Bools:
    """Whether features (places,) alarm by fixed thresholds of their statistics, of the p-value for KS."""
    thresholds = np.array([policy.threshold(name) for name in DETECTORS])
    reached = np.nan_to_num(measured.statistic[places], nan=0.0) >= thresholds
    ks = DETECTORS.index("ks")
    reached[:, ks] = measured.p_value[places, ks] < thresholds[ks]
    asked = reached & (weights > 0)
    needed = {"any": weights[weights > 0].min(), "two_of_three": 2.0, "weighted": weights.sum() / 2}
    voices = np.where(weights > 0, 1.0, 0.0) if policy.rule == "two_of_three" else weights
    found: Bools = (asked * voices).sum(1) >= needed[policy.rule]
    return found


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the detectors' readings alarm, and whether by their p-value, below it, or by their statistic, from it on; (F, D)."""

    at: Floats
    by_p_value: Bools

    @classmethod
    def of(cls, policies: Sequence[Policy]) -> Self:
        """Against q by the p-value when calibrated, else against thresholds: KS's is one of its p-value."""
        shape = (len(policies), len(DETECTORS))
        at = [[policy.q if policy.calibrated else policy.threshold(name) for name in DETECTORS] for policy in policies]
        by_p_value = [[policy.calibrated or name == "ks" for name in DETECTORS] for policy in policies]
        return cls(np.array(at, np.float64).reshape(shape), np.array(by_p_value, np.bool_).reshape(shape))


def readings(measured: Measured, limits: Limits, events: Sequence[int]) -> list[tuple[Reading, ...]]:
    """For each feature, one reading per detector that applies."""
    # NaN is neither below nor above
    alarms = np.where(limits.by_p_value, measured.p_value < limits.at, measured.statistic >= limits.at)
    columns = measured.statistic.tolist(), limits.at.tolist(), alarms.tolist(), measured.p_value.tolist(), events
    return [
        tuple(
            Reading(name, statistic, limit, alarm, True, p if p == p else None, seen)
            for name, statistic, limit, alarm, p in zip(DETECTORS, *row, strict=True)
            if statistic == statistic
        )
        for *row, seen in zip(*columns, strict=True)
    ]
