"""Training data: one domain's stored interactions as numbered columns, their chronological split and sketches.

- Users and items are numbered in the order of their sorted ids, so that the same events give the same matrix
  anywhere.
- The split is by time alone: everything in the history happened strictly before everything in the holdout.
- The reference sketches count the newest events only, those that still weigh half or more in training: a
  champion that was retrained after a shift must not be measured against the time before it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from online_models.als import event_strength
from online_models.columns import MappingColumns
from online_models.construction import Identified
from online_models.contracts.artifacts import DataWindow, FeatureSketch
from online_models.contracts.columns import FeatureColumns
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureSpec
from online_models.contracts.ids import hashes_of
from online_models.embedding_space import PREFIX
from online_models.errors import TrainingError
from online_models.histograms import rebin
from online_models.ports import Interactions
from online_models.sketches import Layout, sketch

DAY_MS: Final = 86_400_000

SKETCH_EVENTS: Final = 2_000
"""A reference of fewer events than this, where there are more, would itself be noise."""

PANE_MS: Final = (60_000, 600_000, 3_600_000, 6 * 3_600_000, DAY_MS, 7 * DAY_MS)
USUAL_PANE_MS: Final = 6 * 3_600_000
"""A quarter of a day, the window that is watched by default."""

MIN_PANES: Final = 40
MAX_PANES: Final = 400
"""A reference is cut into panes as long as those of the windows, or shorter, so that there are at least so many; at most so
many newest ones are kept.

Fewer tell too little of how a feature varies by itself, more cost memory and tell nothing new.
"""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Events as columns of one length n, oldest first.

    users, items : sorted ids; what the numbers below count into
    user, item : int32 (n,)
    ts_ms : int64 (n,), event time
    strength : float32 (n,), preference; 0 says only that the user has met the item
    recommended : bool (n,), whether the event answers a recommendation
    """

    users: Sequence[str]
    items: Sequence[str]
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    ts_ms: npt.NDArray[np.int64]
    strength: npt.NDArray[np.float32]
    recommended: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ts_ms)

    def take(self, rows: npt.NDArray[np.bool_]) -> "Dataset":
        """The events where `rows` (n,) is true, under the same numbering."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            ts_ms=self.ts_ms[rows],
            strength=self.strength[rows],
            recommended=self.recommended[rows],
        )

    def item_hashes(self) -> npt.NDArray[np.uint64]:
        """64-bit hashes of all items (items,), in row order."""
        return hashes_of(self.items)

    def positive(self) -> "Dataset":
        """The events that say something positive."""
        return self.take(self.strength > 0)


@dataclass(frozen=True, slots=True)
class Split:
    """`history` lies strictly before `cut_ms`; `holdout` are the positive events from then on."""

    history: Dataset
    holdout: Dataset
    cut_ms: int


def dataset_of(interactions: Interactions) -> Dataset:
    """The numbered columns of stored interactions."""
    users, user = _numbered(interactions.user_id)
    items, item = _numbered(interactions.item_id)
    strength = event_strength(interactions.type, interactions.value)
    return Dataset(users, items, user, item, interactions.ts_ms, strength.astype(np.float32), interactions.recommended)


def _numbered(ids: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int32]]:
    names = sorted(set(ids))
    number = {name: row for row, name in enumerate(names)}
    return names, np.fromiter((number[name] for name in ids), np.int32, len(ids))


def refuse_too_little(dataset: Dataset, min_positive_events: int, min_items: int) -> None:
    """Raise TrainingError when the data hold no model. Permanent: a later trigger brings a later job."""
    positive = dataset.positive()
    items = len(np.unique(positive.item))
    if len(positive) < min_positive_events or items < min_items:
        raise TrainingError(
            f"expected at least {min_positive_events} positive events on {min_items} items, "
            f"got {len(positive)} on {items}"
        )


def split(dataset: Dataset, holdout_fraction: float, not_before_ms: int | None = None) -> Split:
    """Cut the data in time so that about the last `holdout_fraction` of the positive events are held out.

    Events at the very time of the cut are held out, all of them. With `not_before_ms` the holdout begins no
    earlier: what a champion has been trained on is no test of it.

    Raises
    ------
    TrainingError
        When nothing positive would be left before the cut.

    >>> column = np.arange(4)
    >>> events = Dataset("ab", "xy", column % 2, column % 2, column * 10, np.ones(4, np.float32), column < 0)
    >>> cut = split(events, 0.25)
    >>> cut.cut_ms, cut.history.ts_ms.tolist(), cut.holdout.ts_ms.tolist()
    (30, [0, 10, 20], [30])
    """
    times = np.sort(dataset.ts_ms[dataset.strength > 0])
    if len(times) == 0:
        raise TrainingError("expected positive events, got none")
    cut_ms = int(times[min(int(len(times) * (1 - holdout_fraction)), len(times) - 1)])
    if not_before_ms is not None:
        cut_ms = max(cut_ms, not_before_ms)
    if times[0] >= cut_ms:
        raise TrainingError(f"expected positive events before the cut at {cut_ms} ms, got none")
    late = dataset.ts_ms >= cut_ms
    return Split(dataset.take(~late), dataset.take(late & (dataset.strength > 0)), cut_ms)


def decayed_preferences(dataset: Dataset, half_life_days: float) -> csr_matrix:
    """Preferences r_ui of all users and items, float32 CSR (users, items), old events decayed in event time.

    r_ui = Σ_e strength_e · 2^(-(t_newest - t_e) / half-life), over the events e of user u with item i
    """
    positive = dataset.positive()
    age_days = (positive.ts_ms.max(initial=0) - positive.ts_ms) / DAY_MS
    weight = positive.strength * np.exp2(-age_days / half_life_days)
    shape = (len(dataset.users), len(dataset.items))
    return csr_matrix((weight.astype(np.float32), (positive.user, positive.item)), shape=shape)


def popular_rows(dataset: Dataset, half_life_days: float) -> npt.NDArray[np.int64]:
    """Item rows by decayed strength, most popular first, ties by id; only items with something positive."""
    popularity = decayed_preferences(dataset, half_life_days).sum(axis=0, dtype=np.float64)
    popularity = np.asarray(popularity).ravel()
    order = np.argsort(-popularity, kind="stable")
    return order[popularity[order] > 0]


def window_of(interactions: Interactions) -> DataWindow:
    """Which events these are: first and last event time, their number, and a hash of all that was read."""
    times = interactions.ts_ms
    start, end = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    return DataWindow(start, end, len(times), content_sha256(interactions))


def content_sha256(interactions: Interactions) -> str:
    """Hex SHA-256 of every column: two trainings on the same data say so."""
    digest = hashlib.sha256()
    for ids in (interactions.user_id, interactions.item_id):
        digest.update(msgspec.json.encode(ids))
    columns: tuple[npt.NDArray[Any], ...] = (interactions.type, interactions.ts_ms, interactions.value)
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    digest.update(msgspec.json.encode(interactions.features, order="deterministic"))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Places:
    """Where events lie in a model's space: an even sample of users stands for all.

    rows : bool (n,), the events of the sampled users; features : the `embedding.` columns of all n events
    """

    rows: npt.NDArray[np.bool_]
    features: FeatureColumns


def reference_sketches(
    interactions: Interactions,
    domain: str,
    specs: Sequence[FeatureSpec],
    half_life_days: float,
    places: Places | None = None,
    pane_seconds: int = 0,
) -> list[FeatureSketch]:
    """Histograms of the domain's features over the newest events, and how these varied over stretches of time.

    Those at most one half-life older than the newest, or the newest `SKETCH_EVENTS` if these reach back further. Impressions
    are not read for training: a feature declared on them too is sketched, and so declared, without them.

    Parameters
    ----------
    places : where the interactions lie in the space of the model that is trained; without, no feature in it has a sketch
    pane_seconds : of the windows that will be judged; 0 for the usual ones
    """
    start = _start(interactions, half_life_days)
    observed = _observed(interactions, start)
    placed = (
        None if places is None else observed.of(places.rows[start:], places.features.take(_since(interactions, start)))
    )
    pane_ms = pane_seconds * 1000 or USUAL_PANE_MS
    sketches = []
    for spec in specs:
        told = msgspec.structs.replace(
            spec, types=tuple(kind for kind in spec.types if kind is not EventType.IMPRESSION)
        )
        source = placed if spec.source.startswith(PREFIX) else observed
        if source is not None and told.types and (not spec.domains or domain in spec.domains):
            sketches.append(_sketch(told, source, pane_ms))
    return sketches


@dataclass(frozen=True, slots=True)
class _Reference:
    """The columns that features are constructed from, see `construction.Observed`; nobody reads texts of ids here."""

    type: npt.NDArray[np.int8]
    ts_ms: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    item_hash: npt.NDArray[np.uint64]
    user_hash: npt.NDArray[np.uint64]
    features: FeatureColumns
    events: Sequence[Identified] = ()

    def of(self, rows: npt.NDArray[np.bool_], features: FeatureColumns) -> "_Reference":
        """The events where `rows` (n,) is true, with other features of the n events."""
        return _Reference(
            self.type[rows],
            self.ts_ms[rows],
            self.value[rows],
            self.item_hash[rows],
            self.user_hash[rows],
            features.take(rows),
        )


def _start(interactions: Interactions, half_life_days: float) -> int:
    """The first event of the reference."""
    n = len(interactions)
    newest_ms = int(interactions.ts_ms[-1]) if n else 0
    young = int(np.searchsorted(interactions.ts_ms, newest_ms - half_life_days * DAY_MS))
    return min(young, max(n - SKETCH_EVENTS, 0))


def _since(interactions: Interactions, start: int) -> npt.NDArray[np.bool_]:
    return np.arange(len(interactions)) >= start


def _observed(interactions: Interactions, start: int) -> _Reference:
    return _Reference(
        interactions.type[start:],
        interactions.ts_ms[start:],
        interactions.value[start:],
        hashes_of(interactions.item_id[start:]),
        hashes_of(interactions.user_id[start:]),
        MappingColumns(interactions.features[start:]),
    )


def _sketch(spec: FeatureSpec, reference: _Reference, window_pane_ms: int) -> FeatureSketch:
    """One feature at a time: the panes of all of them together would not fit into memory."""
    layout = Layout([spec], profile=False)
    pane_ms = _pane_ms(reference.ts_ms, window_pane_ms)
    if pane_ms is None:
        (whole,) = sketch(layout, reference, np.zeros(len(reference.ts_ms), np.int64), 1)
        state = layout.state(whole, spec.name)
        return FeatureSketch(spec, state.counts.tolist(), events=state.events)
    number = reference.ts_ms // pane_ms
    first = max(int(number[0]), int(number[-1]) - MAX_PANES + 1)
    panes = int(number[-1]) - first + 2
    # pane 0 is all that came before the panes that are kept
    states = sketch(layout, reference, np.maximum(number - first + 1, 0), panes)
    counts = np.sum([layout.state(state, spec.name).counts for state in states], axis=0)
    events = sum(layout.state(state, spec.name).events for state in states)
    kept = [p for p in range(1, panes) if layout.state(states[p], spec.name).events]
    if len(kept) < MIN_PANES:
        return FeatureSketch(spec, counts.tolist(), events=events)
    coarse = rebin(counts, spec.kind)
    rows = [coarse.apply(layout.state(states[p], spec.name).counts).tolist() for p in kept]
    return FeatureSketch(spec, counts.tolist(), rows, [(first + p - 1) * pane_ms for p in kept], pane_ms, events)


def _pane_ms(ts_ms: npt.NDArray[np.int64], window_pane_ms: int) -> int | None:
    """The windows' own pane if enough of the newest ones hold an event; else a shorter one, or a longer one if events are rare.

    Longer ones are the last resort, for they hide what changes within a day or a week. ts_ms : (n,), increasing
    """
    shorter = [pane_ms for pane_ms in reversed(PANE_MS) if pane_ms < window_pane_ms]
    longer = [pane_ms for pane_ms in PANE_MS if pane_ms > window_pane_ms]
    for pane_ms in (window_pane_ms, *shorter, *longer):
        number = ts_ms // pane_ms
        if len(np.unique(number[number > number[-1:] - MAX_PANES])) >= MIN_PANES:
            return pane_ms
    return None
