"""One domain's events of a log as sketches: all of them together, and their counts in consecutive stretches of event time.

What is between the stretches of a reference is chance, seasons and habit, which is no drift. How long a log is, is known at
its end only: stretches begin with a minute, and whenever they are too many, all are merged to the next length.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from flows.offline import Log, Tallied, batches
from online_models.construction import construct
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.events import EventBatch, TimeBounds
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import ModelName
from online_models.heavy_hitters import new_heavy_words
from online_models.histograms import rebin
from online_models.sketches import FeatureState, Layout, Sketches, sketch

MINUTE_MS: Final = 60_000

LENGTHS_MS: Final = tuple(
    minutes * MINUTE_MS for minutes in (1, 5, 15, 60, 180, 360, 720, 1_440, 10_080, 40_320, 524_160)
)
"""Each a multiple of the one before, in step with hours, days and weeks."""

FEWEST: Final = 96
MOST: Final = 366
MEMORY_BYTES: Final = 256 * 2**20
"""Between `FEWEST` and `MOST` stretches are kept, as many as fit into this."""


class Stretches:
    """Counts of events in consecutive stretches of event time, all of one length.

    Parameters
    ----------
    most : when there are more, neighbours are merged (but never beyond the last of `LENGTHS_MS`)

    >>> from online_models.contracts.events import EventType
    >>> spec = FeatureSpec("hour", FeatureKind.NUMERIC, "hour", (EventType.CLICK,), bins=2)
    >>> Stretches(Layout([spec], profile=False)).length_ms
    60000
    """

    def __init__(self, layout: Layout, most: int | None = None) -> None:
        self.layout = layout
        affordable = MEMORY_BYTES // max(layout.empty().sums.nbytes, 1)
        self._most = most or min(max(affordable, FEWEST), MOST)
        self._lengths = list(LENGTHS_MS)
        self.held: dict[int, Sketches] = {}
        """Number of the stretch since the epoch -> its counts."""

    @property
    def length_ms(self) -> int:
        """Length of each."""
        return self._lengths[0]

    def add(self, batch: EventBatch) -> None:
        """Take in events."""
        while True:
            ids, place = np.unique(batch.ts_ms // self.length_ms, return_inverse=True)
            if len(self.held.keys() | set(ids.tolist())) <= self._most or len(self._lengths) == 1:
                break
            self._lengthen()
        for number, counts in zip(ids.tolist(), sketch(self.layout, batch, place, len(ids)), strict=True):
            self._merge(number, counts)

    def _lengthen(self) -> None:
        factor = self._lengths[1] // self._lengths.pop(0)
        old, self.held = self.held, {}
        for number, counts in old.items():
            self._merge(number // factor, counts)

    def _merge(self, number: int, counts: Sketches) -> None:
        mine = self.held.get(number)
        self.held[number] = counts if mine is None else mine.merged(counts)


class Profile:
    """What is kept of one domain in one log.

    Parameters
    ----------
    stretched : keep the stretches, which only a reference needs
    """

    def __init__(self, model: ModelName, specs: Sequence[FeatureSpec], *, stretched: bool) -> None:
        self.model = model
        self.specs = tuple(specs)
        self.events = 0
        self.start_ms, self.end_ms = 2**62, -(2**62)
        self.words: dict[str, dict[int, str]] = {
            spec.name: {} for spec in specs if spec.kind is not FeatureKind.NUMERIC
        }
        """Feature -> fingerprint -> text of the words that are frequent somewhere in the log."""
        self._layout = Layout(specs)
        self._total = self._layout.empty()
        self._stretches = Stretches(Layout(specs, profile=False)) if stretched else None

    def add(self, batch: EventBatch) -> None:
        """Take in events of the domain."""
        self.events += len(batch)
        self.start_ms = min(self.start_ms, int(batch.ts_ms.min()))
        self.end_ms = max(self.end_ms, int(batch.ts_ms.max()) + 1)
        self._total = self._total.merged(sketch(self._layout, batch, np.zeros(len(batch), np.int64), 1)[0])
        if self._stretches is not None:
            self._stretches.add(batch)
        for spec in self.specs:
            if spec.name in self.words:
                self.words[spec.name] |= new_heavy_words(construct(spec, batch), self.words[spec.name])

    def state(self, feature: str) -> FeatureState:
        """What is known of one feature in all of the log."""
        return self._layout.state(self._total, feature)

    def references(self) -> list[FeatureSketch]:
        """What another log is judged against: each feature's histogram and its stretches."""
        return [self._reference(spec) for spec in self.specs]

    def _reference(self, spec: FeatureSpec) -> FeatureSketch:
        counts, events = self.state(spec.name).counts, self.state(spec.name).events
        held = {} if self._stretches is None else self._stretches.held
        if self._stretches is None or len(held) < 2:
            return FeatureSketch(spec, counts.tolist(), events=events)
        coarse, layout, length_ms = rebin(counts, spec.kind), self._stretches.layout, self._stretches.length_ms
        numbers = sorted(held)
        panes = [coarse.apply(layout.state(held[number], spec.name).counts).tolist() for number in numbers]
        return FeatureSketch(
            spec, counts.tolist(), panes, [number * length_ms for number in numbers], length_ms, events
        )


def profiles_of(
    log: Log, specs: Sequence[FeatureSpec], capacity: int, bounds: TimeBounds, *, stretched: bool
) -> tuple[dict[ModelName, Profile], Tallied]:
    """A log's profile of each domain in it, and what was read.

    capacity : events remembered to recognise a repeated event_id

    Raises
    ------
    SourceError
        When the log has no acceptable event in its range.
    """
    tally = Tallied()
    profiles: dict[ModelName, Profile] = {}
    for batch in batches(log, bounds, capacity, tally, specs):
        for model, own in by_domain(batch):
            if model not in profiles:
                profiles[model] = Profile(
                    model, [spec for spec in specs if in_domain(spec, model)], stretched=stretched
                )
            profiles[model].add(own)
    if not profiles:
        raise tally.nothing(log)
    return profiles, tally


def in_domain(spec: FeatureSpec, model: ModelName) -> bool:
    """Whether a domain has a feature."""
    return not spec.domains or model in spec.domains


def by_domain(batch: EventBatch) -> list[tuple[ModelName, EventBatch]]:
    """A batch's events by domain."""
    parts = [(ModelName(domain), batch.domain == code) for code, domain in enumerate(batch.domains)]
    return [(model, batch if rows.all() else batch.take(rows)) for model, rows in parts if rows.any()]
