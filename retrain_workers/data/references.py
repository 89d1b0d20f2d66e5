"""Reference sketches: what a version's training data looked like, for drift to be measured against.

- They count the newest events only, those that still weigh half or more in training: a champion that was retrained after a
  shift must not be measured against the time before it.
- They are cut into panes like those of the stream job's windows, which tell how a feature varies by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from online_models.construction import NLL
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.columns import FeatureColumns
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureSpec
from online_models.embedding_space import PREFIX
from online_models.histograms import rebin
from online_models.interactions import DAY_MS, Interactions
from online_models.sketches import Layout, sketch
from online_models.text import Surprise, TextColumns, TextModel
from retrain_workers.data.point_in_time import ObservedRows, observed

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
    text_model: TextModel | None = None,
) -> list[FeatureSketch]:
    """Histograms of the domain's features over the newest events, and how these varied over stretches of time.

    Those at most one half-life older than the newest, or the newest `SKETCH_EVENTS` if these reach back further. Impressions
    are not read for training: a feature declared on them too is sketched, and so declared, without them.

    Parameters
    ----------
    places : where the interactions lie in the space of the model that is trained; without, no feature in it has a sketch
    pane_seconds : of the windows that will be judged; 0 for the usual ones
    text_model : that of the version; without one, no surprise of a text has a sketch
    """
    start = _start(interactions, half_life_days)
    newest = observed(interactions, np.arange(start, len(interactions)))
    if text_model is not None:
        newest = replace(newest, features=TextColumns(Surprise(text_model), newest.features))
    placed = None if places is None else _placed(newest, places, start)
    pane_ms = pane_seconds * 1000 or USUAL_PANE_MS
    sketches = []
    for spec in specs:
        told = told_in_training(spec)
        source = placed if spec.source.startswith(PREFIX) else newest
        readable = text_model is not None or NLL not in spec.source
        if source is not None and readable and told.types and (not spec.domains or domain in spec.domains):
            sketches.append(_sketch(told, source, pane_ms))
    return sketches


def told_in_training(spec: FeatureSpec) -> FeatureSpec:
    """A feature as its reference declares it: without impressions, which training does not read."""
    return msgspec.structs.replace(spec, types=tuple(kind for kind in spec.types if kind is not EventType.IMPRESSION))


def _placed(newest: ObservedRows, places: Places, start: int) -> ObservedRows:
    """The newest events, those from row `start` on, of the sampled users, with their places as features."""
    sampled = places.rows[start:]
    return ObservedRows(
        newest.type[sampled],
        newest.ts_ms[sampled],
        newest.value[sampled],
        newest.item_hash[sampled],
        newest.user_hash[sampled],
        places.features.take(np.arange(len(places.rows)) >= start).take(sampled),
    )


def _start(interactions: Interactions, half_life_days: float) -> int:
    """The first event of the reference."""
    n = len(interactions)
    newest_ms = int(interactions.ts_ms[-1]) if n else 0
    young = int(np.searchsorted(interactions.ts_ms, newest_ms - half_life_days * DAY_MS))
    return min(young, max(n - SKETCH_EVENTS, 0))


def _sketch(spec: FeatureSpec, reference: ObservedRows, window_pane_ms: int) -> FeatureSketch:
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
