"""The local combine: one chunk of events becomes what it adds to each pane, before anything travels between processes."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from flows.admission import Admitted
from flows.live_space import LiveSpace
from flows.settings import FlowSettings
from online_models.construction import NLL, construct
from online_models.contracts.events import EVENT_TYPES, TYPE_CODES, EventBatch
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.embedding_space import PREFIX
from online_models.entries import Coded
from online_models.heavy_hitters import new_heavy_words
from online_models.information import Joint, Target
from online_models.ports import FeatureWord
from online_models.ranking import Ranking
from online_models.sketches import Layout, Sketches, coded_sketch, sketch

PlanKey = tuple[str, str]
"""A domain and a plan tag: "" for the declared features, a model version for those that only mean something in its space, and
`text_tag` of one for those that only mean something under its text model."""

TEXT: Final = "text:"

KNOWN_WORDS: Final = 65_536
"""Frequent words remembered per feature, so that each is told once by a process."""


@dataclass(frozen=True, slots=True)
class PaneDelta:
    """What one chunk adds to one pane: domain -> events, (domain, tag) -> sketches, domain -> joint counts with the target."""

    events: Mapping[str, int]
    sketches: Mapping[PlanKey, Sketches]
    joint: Mapping[str, Joint]


@dataclass(frozen=True, slots=True)
class WindowDelta:
    """What one chunk adds to the windows. `max_ts_ms` is None when it held no valid event."""

    partition: str
    max_ts_ms: int | None
    panes: Mapping[int, PaneDelta]
    events: int
    rejected: int
    duplicates: int
    words: Sequence[FeatureWord] = ()


def text_tag(version: ModelVersion) -> str:
    """The plan tag of features under a version's text model."""
    return f"{TEXT}{version}"


class Measured(enum.Enum):
    """By what a feature is measured: the event itself, a place in the live version's space, or the live version's text model."""

    EVENT = enum.auto()
    SPACE = enum.auto()
    TEXT = enum.auto()


def measured_by(spec: FeatureSpec) -> Measured:
    """By what a feature is measured."""
    if spec.source.startswith(PREFIX):
        return Measured.SPACE
    return Measured.TEXT if spec.source.startswith(NLL) else Measured.EVENT


class Plans:
    """How the sketches of each domain lie, by its declared features; what a live version measures is a plan of its own."""

    def __init__(self, settings: FlowSettings) -> None:
        self._settings = settings
        self._layouts: dict[tuple[str, Measured], Layout] = {}

    def declared(self, domain: str) -> Layout:
        """The features that are read from events."""
        return self._layout(domain, Measured.EVENT)

    def embedded(self, domain: str) -> Layout:
        """The features that are places in the live version's space."""
        return self._layout(domain, Measured.SPACE)

    def read(self, domain: str) -> Layout:
        """The features that the live version's text model makes of texts."""
        return self._layout(domain, Measured.TEXT)

    def ranking(self, domain: str) -> Ranking:
        """A new ranking of the declared features by what they tell of success."""
        cells = [spec.cells + 2 for spec in self.declared(domain).specs]
        half_life = timedelta(seconds=self._settings.rank_half_life_seconds)
        return Ranking(cells, pairs=self._settings.rank_pairs, half_life=half_life)

    def of(self, domain: str, tag: str) -> Layout:
        """The layout of sketches under a plan tag."""
        by_version = Measured.TEXT if tag.startswith(TEXT) else Measured.SPACE
        return self._layout(domain, by_version if tag else Measured.EVENT)

    def _layout(self, domain: str, measured: Measured) -> Layout:
        key = (domain, measured)
        if key not in self._layouts:
            specs = [spec for spec in self._settings.specs(domain) if measured_by(spec) is measured]
            self._layouts[key] = Layout(specs, self._settings.profile)
        return self._layouts[key]


class Combine:
    """Chunks to deltas. What it keeps is a memory of words already told, which no window depends on.

    Parameters
    ----------
    space : where features that a live version measures come from; None when nothing is live here
    """

    def __init__(self, settings: FlowSettings, plans: Plans, space: LiveSpace | None) -> None:
        self._pane_ms = settings.pane_seconds * 1000
        self._plans = plans
        self._space = space
        self._known: dict[tuple[str, str], set[int]] = {}
        self._rankings: dict[str, Ranking] = {}
        self._labels = np.full(len(EVENT_TYPES), -1, np.int8)
        self._labels[[TYPE_CODES[kind] for kind in settings.rank_positive]] = 1
        self._labels[[TYPE_CODES[kind] for kind in settings.rank_negative]] = 0

    def __call__(self, admitted: Admitted) -> WindowDelta:
        """What one chunk adds to the windows."""
        batch = admitted.batch
        panes: dict[int, PaneDelta] = {}
        words: list[FeatureWord] = []
        for code, domain in enumerate(batch.domains):
            rows = batch.domain == code
            if rows.any():
                words += self._add_domain(panes, domain, batch if rows.all() else batch.take(rows))
        return WindowDelta(
            partition=admitted.partition,
            max_ts_ms=int(batch.ts_ms.max()) if len(batch) else None,
            panes=panes,
            events=len(batch) + len(admitted.rejects) + len(admitted.duplicates),
            rejected=len(admitted.rejects),
            duplicates=len(admitted.duplicates),
            words=words,
        )

    def _add_domain(self, panes: dict[int, PaneDelta], domain: str, batch: EventBatch) -> list[FeatureWord]:
        ids, index = _panes_of(batch, self._pane_ms)
        events = np.bincount(index, minlength=len(ids))
        layout = self._plans.declared(domain)
        states, coded = coded_sketch(layout, batch, index, len(ids))
        made = {"": states}
        joint = self._joint(domain, coded, self._labels[batch.type], ids, index)
        made |= self._measured(ModelName(domain), batch, index, len(ids))
        for row, pane in enumerate(ids.tolist()):
            old = panes.get(pane, PaneDelta({}, {}, {}))
            sketches = {(domain, tag): each[row] for tag, each in made.items()}
            told = {domain: joint[pane]} if pane in joint else {}
            panes[pane] = PaneDelta(
                {**old.events, domain: int(events[row])}, {**old.sketches, **sketches}, {**old.joint, **told}
            )
        return self._new_words(domain, layout, batch) if layout.profile else []

    def _measured(
        self, model: ModelName, batch: EventBatch, index: npt.NDArray[np.int64], panes: int
    ) -> dict[str, list[Sketches]]:
        """What the live version makes of the events, by plan tag."""
        made: dict[str, list[Sketches]] = {}
        if self._space is None:
            return made
        embedded, read = self._plans.embedded(model), self._plans.read(model)
        if embedded.specs and (placed := self._space.place(model, batch)) is not None:
            version, rows, features = placed
            seen = replace(batch, features=features).take(rows)
            made[version] = sketch(embedded, seen, index[rows], panes)
        if read.specs and (texts := self._space.read(model, batch)) is not None:
            version, columns = texts
            made[text_tag(version)] = sketch(read, replace(batch, features=columns), index, panes)
        return made

    def _joint(
        self,
        domain: str,
        coded: Sequence[Coded],
        target: Target,
        ids: npt.NDArray[np.int64],
        index: npt.NDArray[np.int64],
    ) -> dict[int, Joint]:
        """Joint counts of the panes with a labelled event."""
        if not len(coded) or target.max(initial=-1) < 0:
            return {}
        if domain not in self._rankings:
            self._rankings[domain] = self._plans.ranking(domain)
        ranking, found = self._rankings[domain], {}
        for row in np.flatnonzero(np.bincount(index[target >= 0])).tolist():
            pane = int(ids[row])
            tables = ranking.tables(pane * self._pane_ms)
            of_pane = target if len(ids) == 1 else np.where(index == row, target, np.int8(-1))
            found[pane] = tables.count(coded, of_pane)
        return found

    def _new_words(self, domain: str, layout: Layout, batch: EventBatch) -> list[FeatureWord]:
        found = []
        for spec in layout.specs:
            if spec.kind is FeatureKind.NUMERIC:
                continue
            known = self._known.setdefault((domain, spec.name), set())
            if len(known) < KNOWN_WORDS:
                new = new_heavy_words(construct(spec, batch), known)
                known.update(new)
                found += [FeatureWord(ModelName(domain), spec.name, mark, text) for mark, text in new.items()]
        return found


def _panes_of(batch: EventBatch, pane_ms: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The panes of a batch, ascending, and which of them each event (n,) falls in."""
    first, last = int(batch.ts_ms.min()) // pane_ms, int(batch.ts_ms.max()) // pane_ms
    if first == last:  # most chunks lie in one pane
        return np.array([first]), np.zeros(len(batch), np.int64)
    pane = batch.ts_ms // pane_ms
    later = np.diff(pane)
    if later.min() >= 0:  # a log in order of time needs no sorting
        starts = np.append(True, later > 0)
        return pane[starts], np.cumsum(starts) - 1
    ids, index = np.unique(pane, return_inverse=True)
    return ids, index
