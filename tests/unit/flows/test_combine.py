"""The local combine: any split of events over chunks adds up to the same panes, and frequent words are told once."""

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.admission import Admitted
from flows.combine import Combine, PaneDelta, Plans, WindowDelta
from flows.settings import FlowSettings
from flows.windows import Pane
from online_models.contracts.events import Event, EventType, FeatureValue, Reject
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.sketches import Sketches
from tests.samples import batch, event

PANE_MS = 1_000
TYPES = (EventType.RATING, EventType.CLICK, EventType.IMPRESSION)
SETTINGS = FlowSettings(
    window_seconds=4,
    features=(
        FeatureSpec("stars", FeatureKind.NUMERIC, "value", TYPES, 0.0, 5.0, 10),
        FeatureSpec("genres", FeatureKind.MULTI_VALUED, "features.genres", TYPES, bins=16),
        FeatureSpec("colour", FeatureKind.CATEGORICAL, "features.colour", TYPES, domains=("products",)),
    ),
)


def combine() -> Combine:
    return Combine(SETTINGS, Plans(SETTINGS), None)


def admitted(events: Sequence[Event], rejects: int = 0, duplicates: int = 0) -> Admitted:
    bad = Reject("bad", "log", 0, b"x", 1)
    return Admitted("log", batch(events), [bad] * rejects, [bad] * duplicates)


def added(deltas: Sequence[WindowDelta]) -> dict[int, Pane]:
    panes: dict[int, Pane] = {}
    for delta in deltas:
        for number, pane in delta.panes.items():
            panes.setdefault(number, Pane()).add(pane)
    return panes


def vectors(sketches: Sketches) -> tuple[list[int], list[int], list[list[float]]]:
    return sketches.sums.tolist(), sketches.registers.tolist(), sketches.extremes.tolist()


def same(one: dict[int, Pane], other: dict[int, Pane]) -> bool:
    def told(pane: Pane) -> object:
        joint = {domain: counts.tolist() for domain, counts in pane.joint.items()}
        return pane.events, {key: vectors(each) for key, each in pane.sketches.items()}, joint

    return {number: told(pane) for number, pane in one.items()} == {
        number: told(pane) for number, pane in other.items()
    }


def rated(number: int, ts: int, domain: str, value: float | None) -> Event:
    features: dict[str, FeatureValue] = (
        {"genres": ["Drama", "War"][: number % 3]} if domain == "movies" else {"colour": f"c{number % 4}"}
    )
    kind = (EventType.RATING, EventType.RATING, EventType.CLICK, EventType.IMPRESSION)[number % 4]
    return event(number, kind, ts=ts, domain=domain, value=value, features=features)


@settings(deadline=None)  # the first example loads compiled kernels
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3_999), st.sampled_from(["movies", "products"]), st.none() | st.floats(-1, 6)),
        min_size=1,
        max_size=40,
    ),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_split_of_events_over_chunks_adds_up_to_the_same_panes(
    rows: list[tuple[int, str, float | None]], cuts: list[int]
) -> None:
    events = [rated(number, ts, domain, value) for number, (ts, domain, value) in enumerate(rows)]
    whole = added([combine()(admitted(events))])
    bounds = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    parts = [events[start:end] for start, end in itertools.pairwise(bounds)]
    one = combine()
    assert same(added([one(admitted(part)) for part in parts]), whole)
    # the order in which processes' deltas arrive does not matter either
    assert same(added([combine()(admitted(part)) for part in reversed(parts)]), whole)


def test_a_delta_counts_what_came_with_the_chunk() -> None:
    events = [rated(1, 100, "movies", 4.0), rated(2, 1_100, "products", 5.0)]
    delta = combine()(admitted(events, rejects=2, duplicates=1))
    assert (delta.events, delta.rejected, delta.duplicates, delta.max_ts_ms) == (5, 2, 1, 1_100)
    assert {number: pane.events for number, pane in delta.panes.items()} == {0: {"movies": 1}, 1: {"products": 1}}
    assert combine()(admitted([])).max_ts_ms is None


def test_a_domain_s_sketches_hold_its_own_features_only() -> None:
    plans = Plans(SETTINGS)
    assert [spec.name for spec in plans.declared("movies").specs] == ["stars", "genres"]
    assert [spec.name for spec in plans.declared("products").specs] == ["stars", "genres", "colour"]
    assert plans.embedded("movies").specs == ()
    delta = combine()(admitted([rated(number, 0, "products", 4.0) for number in range(8)]))
    pane: PaneDelta = delta.panes[0]
    state = plans.of("products", "").state(pane.sketches["products", ""], "colour")
    assert (state.events, state.missing, state.values) == (8, 0, 8)


def test_a_frequent_word_is_told_once() -> None:
    one = combine()
    events = [rated(number, 0, "movies", 4.0) for number in range(12)]
    told = one(admitted(events)).words
    assert {(word.model, word.feature, word.text) for word in told} == {
        ("movies", "genres", "Drama"),
        ("movies", "genres", "War"),
    }
    assert one(admitted(events)).words == []


def test_clicks_and_impressions_are_counted_jointly_with_the_features() -> None:
    events = [rated(number, 0, "movies", float(number % 4)) for number in range(40)]
    pane = combine()(admitted(events)).panes[0]
    ranking = Plans(SETTINGS).ranking("movies")
    told = ranking.update(0, pane.joint["movies"])
    assert told.events[0] == 20
    stars = ranking.ranks()[0]
    assert stars.features == (0,)  # clicks all have two stars, impressions three
    assert told.raw[0] == pytest.approx(math.log(2))
