"""What is said of one feature in one window, and the plain words that explain it."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.drift.base import Reading
from online_models.histograms import Assignment


class Verdict(enum.StrEnum):
    """How a window stands to its reference. Too little data is never `stable`."""

    DRIFT = "drift"
    UNCONFIRMED = "unconfirmed"
    """Significant, but not yet in the window one hop earlier."""
    SEASONAL = "seasonal"
    """Unlike the reference as a whole, like the same hour or weekday of it."""
    STABLE = "stable"
    INCONCLUSIVE = "inconclusive"


class Moved(msgspec.Struct, frozen=True, gc=False):
    """A coarse bin whose share of the events has changed: what it holds, its share in the reference and now."""

    bin: int
    label: str
    before: float
    now: float


class FeatureVerdict(msgspec.Struct, frozen=True):
    """A verdict and all that is behind it.

    readings : of each detector that applies
    p_value : all detectors combined; effect : divergence less its sampling bias, on PSI's scale
    detectable : the smallest divergence that this window finds 99 times in 100
    events : of the window, effective ones when it has grown; windows : earlier ones that it has grown by
    moved : the bins that moved most, most first
    why : the verdict in plain words, with its numbers
    """

    verdict: Verdict
    readings: tuple[Reading, ...] = ()
    p_value: float = 1.0
    effect: float = 0.0
    detectable: float = float("inf")
    events: int = 0
    windows: int = 0
    moved: tuple[Moved, ...] = ()
    why: str = ""

    @property
    def alarms(self) -> tuple[Reading, ...]:
        """The readings that say drift."""
        return tuple(reading for reading in self.readings if reading.drift_detected)


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """The verdicts on all features of one window, [start_ms, end_ms) in event time."""

    start_ms: int
    end_ms: int
    features: Mapping[str, FeatureVerdict]

    @property
    def drifted(self) -> tuple[str, ...]:
        """The features that have drifted."""
        return tuple(name for name, each in self.features.items() if each.verdict is Verdict.DRIFT)


Labels = Callable[[str, int], str]
"""Words for a coarse bin of a feature."""


def bin_label(spec: FeatureSpec, assignment: Assignment, place: int) -> str:
    """What a coarse bin holds: a range of numbers, a hash bucket, the other words, or missing values.

    >>> from online_models.contracts.events import EventType
    >>> from online_models.histograms import rebin
    >>> spec = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 4.0, 4)
    >>> bins = rebin(np.array([0, 5, 5, 5, 5, 0, 0]), spec.kind)
    >>> [bin_label(spec, bins, place) for place in range(bins.bins)]
    ['below 0', '0 to 1', '1 to 2', '2 to 3', '3 to 4', 'from 4', 'missing']
    """
    if place == assignment.bins - 1:
        return "missing"
    cells = np.flatnonzero(assignment.coarse_of[:-1] == place)
    if spec.kind is not FeatureKind.NUMERIC:
        return f"bucket {cells[0] - 1}" if len(cells) == 1 else "all other words"
    edges = np.array(spec.edges) if spec.edges else np.linspace(spec.low, spec.high, spec.cells + 1)
    # Cell 0 is all below the first edge, cell i is [edges[i - 1], edges[i]), the last is open
    low = None if cells[0] == 0 else f"{edges[cells[0] - 1]:.4g}"
    high = None if cells[-1] == len(edges) else f"{edges[cells[-1]]:.4g}"
    match low, high:
        case None, None:
            return "any number"
        case None, high:
            return f"below {high}"
        case low, None:
            return f"from {low}"
        case low, high:
            return f"{low} to {high}"


def explain(name: str, found: FeatureVerdict, reference_events: int, note: str = "") -> str:
    """A verdict in plain words; `note` says what else is to be known, such as the season."""
    grown = f" (with {found.windows} earlier quiet windows)" if found.windows else ""
    size = f"{found.events:,} events{grown} against {reference_events:,} in the reference"
    if found.verdict is Verdict.INCONCLUSIVE:
        return f"{name}: no verdict, too few events: {size}"
    least = f"smallest drift that this window could show: {found.detectable:.2g}"
    if found.verdict is Verdict.STABLE:
        return f"{name}: as in the reference (p = {found.p_value:.2g}); {least}"
    moves = ", ".join(f"'{each.label}' {share(each.before)} -> {share(each.now)}" for each in found.moved)
    said = f"{name}: {found.verdict}, {size}: {moves}; divergence {found.effect:.2g} (p = {found.p_value:.2g}); {least}"
    return f"{said}; {note}" if note else said


def share(of: float) -> str:
    """A share in percent.

    >>> share(0.0412), share(0.3)
    ('4.1 %', '30 %')
    """
    return f"{100 * of:.2g} %"
