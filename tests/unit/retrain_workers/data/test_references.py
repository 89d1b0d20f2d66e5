"""Reference sketches: which events they count, and the panes they are cut into."""

import msgspec
import numpy as np
import pytest

from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.features import WORD_BUCKETS, FeatureKind, FeatureSpec
from online_models.embedding_space import EmbeddingColumns
from online_models.histograms import rebin
from online_models.interactions import DAY_MS, Interactions
from retrain_workers.data.references import MAX_PANES, SKETCH_EVENTS, USUAL_PANE_MS, Places, reference_sketches
from tests.clustered_world import as_interactions, clustered_events

HOUR = FeatureSpec("hour", FeatureKind.NUMERIC, "hour", (EventType.CLICK,), 0.0, 24.0, 24)
OF_PRODUCTS = FeatureSpec("category", FeatureKind.CATEGORICAL, "type", (EventType.CLICK,), domains=("products",))


def sketched_events(columns: Interactions, half_life_days: float) -> int:
    (sketch,) = reference_sketches(columns, "movies", [HOUR], half_life_days)
    return sum(sketch.counts)


def test_sketches_count_the_events_of_the_newest_half_life() -> None:
    columns = as_interactions(clustered_events(0, events=SKETCH_EVENTS + 500))  # one an hour
    assert sketched_events(columns, half_life_days=100) == 2_401
    assert sketched_events(columns, half_life_days=1) == SKETCH_EVENTS
    assert sketched_events(columns, half_life_days=1_000) == SKETCH_EVENTS + 500


def test_only_the_features_of_the_domain_are_sketched() -> None:
    columns = as_interactions(clustered_events(0, events=100))
    sketches = reference_sketches(columns, "movies", [HOUR, OF_PRODUCTS], 30)
    assert [sketch.feature for sketch in sketches] == [HOUR]


RATING = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 5.0, 20)
ITEM = FeatureSpec("item", FeatureKind.CATEGORICAL, "item_id", tuple(EventType), bins=64)


def stored(times_ms: list[int], kinds: list[EventType] | None = None) -> Interactions:
    n = len(times_ms)
    return Interactions(
        user_id=["u"] * n,
        item_id=[f"i{row % 7}" for row in range(n)],
        type=np.array([TYPE_CODES[kind] for kind in kinds or [EventType.RATING] * n], np.int8),
        ts_ms=np.array(times_ms, np.int64),
        value=(np.arange(n) % 5).astype(np.float64),
        recommended=np.zeros(n, np.bool_),
        features=[None] * n,
    )


def sketch_of(columns: Interactions, spec: FeatureSpec, places: Places | None = None) -> FeatureSketch:
    (sketch,) = reference_sketches(columns, "movies", [spec], 1e6, places)
    return sketch


@pytest.mark.parametrize("spec", [RATING, ITEM])
def test_a_reference_is_cut_into_panes_that_add_up_to_its_coarse_counts(spec: FeatureSpec) -> None:
    sketch = sketch_of(stored([1_000 + hour * 3_600_000 // 2 for hour in range(100)]), spec)  # fifty hours
    assert sketch.pane_ms == 3_600_000
    assert sketch.pane_starts_ms == [hour * 3_600_000 for hour in range(50)]
    counts = np.array(sketch.counts)
    assert len(counts) == spec.cells + 3
    assert np.sum(sketch.panes, axis=0).tolist() == rebin(counts, spec.kind).apply(counts).tolist()
    assert {sum(pane) for pane in sketch.panes} == {2}


@pytest.mark.parametrize(
    ("minutes", "pane_ms"),
    [(39, 0), (40, 60_000), (390, 60_000), (391, 600_000), (14_040, 3_600_000), (14_041, 6 * 3_600_000)],
)
def test_panes_are_as_long_as_forty_of_them_allow(minutes: int, pane_ms: int) -> None:
    assert sketch_of(stored([minute * 60_000 for minute in range(minutes)]), RATING).pane_ms == pane_ms


def test_panes_without_events_of_the_feature_are_left_out() -> None:
    times = [minute * 60_000 for minute in range(60)]
    kinds = [EventType.RATING if minute % 3 else EventType.WATCH for minute in range(60)]
    assert sketch_of(stored(times, kinds), RATING).pane_starts_ms == [ms for ms in times if ms % 180_000]
    few = [EventType.RATING if minute % 3 == 0 else EventType.WATCH for minute in range(60)]
    assert sketch_of(stored(times, few), RATING).panes == []
    assert sum(sketch_of(stored(times, few), RATING).counts) == 20


def test_only_the_newest_panes_are_kept_and_all_events_are_counted() -> None:
    quarters = [quarter * USUAL_PANE_MS for quarter in range(MAX_PANES + 20)]
    sketch = sketch_of(stored(quarters), RATING)
    assert len(sketch.panes) == MAX_PANES
    # quarters of days since the epoch are aligned, so the newest event begins the newest pane
    assert sketch.pane_starts_ms[-1] == quarters[-1]
    assert sum(sketch.counts) == len(quarters)


def test_rare_events_are_told_by_longer_panes() -> None:
    sketch = sketch_of(stored([week * 7 * DAY_MS for week in range(60)]), RATING)
    assert (sketch.pane_ms, len(sketch.panes)) == (DAY_MS, 58)


def test_nothing_stored_gives_an_empty_reference() -> None:
    sketch = sketch_of(stored([]), RATING)
    assert (sum(sketch.counts), sketch.panes, sketch.pane_ms) == (0, [], 0)


def test_places_in_the_space_of_the_model_are_sketched_for_the_newest_events() -> None:
    axis = FeatureSpec("axis", FeatureKind.NUMERIC, "embedding.item.0", tuple(EventType), -4.0, 4.0, 8)
    n = SKETCH_EVENTS + 300
    columns = stored([minute * 60_000 for minute in range(n)])
    rows, points = np.arange(0, n, 2, dtype=np.int32), np.linspace(-3.9, 3.9, n // 2)[:, None]
    places = EmbeddingColumns((rows, points), (rows[:0], points[:0]))
    (newest,) = reference_sketches(columns, "movies", [axis], 1e-6, Places(np.ones(n, np.bool_), places))
    assert sum(newest.counts) == newest.events == SKETCH_EVENTS
    assert newest.counts[-1] == SKETCH_EVENTS // 2
    assert newest.counts[1] < newest.counts[8] == (points >= 3).sum()
    # the events of users that are not in the sample are none of the feature's
    sampled = np.arange(n) % 4 < 2
    (some,) = reference_sketches(columns, "movies", [axis], 1e-6, Places(sampled, places))
    assert (some.events, some.counts[-1]) == (SKETCH_EVENTS // 2, SKETCH_EVENTS // 4)
    assert reference_sketches(columns, "movies", [axis], 1e-6) == []


def test_panes_are_those_of_the_windows_however_long_the_reference_is() -> None:
    quarters = [number * USUAL_PANE_MS for number in range(1_200)]  # 300 days
    sketch = sketch_of(stored(quarters), RATING)
    assert (sketch.pane_ms, len(sketch.panes)) == (USUAL_PANE_MS, MAX_PANES)
    (hourly,) = reference_sketches(stored(quarters), "movies", [RATING], 30, pane_seconds=86_400)
    assert hourly.pane_ms == 86_400_000


def test_a_feature_of_impressions_is_declared_without_them_since_training_reads_none() -> None:
    shown = msgspec.structs.replace(RATING, types=(EventType.IMPRESSION, EventType.RATING))
    (sketch,) = reference_sketches(stored([0]), "movies", [shown], 30)
    assert sketch.feature == msgspec.structs.replace(shown, types=(EventType.RATING,))
    only = msgspec.structs.replace(RATING, types=(EventType.IMPRESSION,))
    assert reference_sketches(stored([0]), "movies", [only], 30) == []


def test_the_sketches_of_words_stay_small_in_a_manifest() -> None:
    usual = msgspec.structs.replace(ITEM, bins=0)
    sketch = sketch_of(stored([minute * 60_000 for minute in range(399)]), usual)
    assert len(sketch.counts) == WORD_BUCKETS + 3
    assert len(msgspec.json.encode(sketch)) < 64_000
