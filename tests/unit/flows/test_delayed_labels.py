"""Delayed labels: windows of enough labels, a version against its own beginning, and a change of taste that only labels show."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.delayed_labels import VERSIONS, DelayedLabels, fall
from flows.labelled_scores import Auc
from flows.reports import Report, text_of, told
from flows.triggers import LANGUAGE_MODEL, Family, Signal
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import ModelVersion
from online_models.drift.panel import Memory, Panel
from online_models.drift.verdict import Verdict
from online_models.ports import FeatureWindowRow
from online_models.sketches import Layout, sketch
from online_models.text import Surprise, TextColumns, TextModel
from tests.oracles.features import Row, Rows, observed
from tests.samples import MOVIES

V1, V2 = ModelVersion("v1"), ModelVersion("v2")
HOUR_MS = 3_600_000
SETTLE_MS = 7_000


@dataclass(frozen=True)
class Request:
    version: ModelVersion
    ts_ms: int
    user: int
    scores: list[float]
    taken: list[bool]


def labels(least: int = 30, window_ms: int = HOUR_MS) -> DelayedLabels:
    return DelayedLabels(window_ms, least, drop_fraction=0.1, settle_ms=SETTLE_MS)


def add(state: DelayedLabels, requests: Sequence[Request]) -> list[FeatureWindowRow | Signal]:
    found = []
    for each in requests:
        found += state.add(MOVIES, each.version, each.ts_ms, each.user, each.scores, each.taken)
    return found


def rows(found: Sequence[FeatureWindowRow | Signal]) -> list[FeatureWindowRow]:
    return [each for each in found if isinstance(each, FeatureWindowRow)]


def signals(found: Sequence[FeatureWindowRow | Signal]) -> list[Signal]:
    return [each for each in found if isinstance(each, Signal)]


def traffic(
    hours: int, seed: int, strength: float = 1.0, start_hour: int = 0, per_hour: int = 60, version: ModelVersion = V1
) -> list[Request]:
    """Requests of ten items; `strength` : how much of the score is true."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(hours * per_hour):
        scores = rng.normal(-2, 1.5, 10)
        truth = strength * scores + (1 - strength) * rng.normal(-2, 1.5, 10)
        taken = rng.random(10) < 1 / (1 + np.exp(-truth))
        ts_ms = start_hour * HOUR_MS + number * HOUR_MS // per_hour
        made.append(Request(version, ts_ms, int(rng.integers(0, 500)), scores.tolist(), taken.tolist()))
    return made


def test_a_window_is_told_when_a_later_request_comes_and_it_has_enough_labels() -> None:
    state = labels(least=2)
    first = [Request(V1, 5 * HOUR_MS + n, n, [1.0, -1.0], [True, False]) for n in range(2)]
    assert add(state, first) == []
    (row,) = rows(add(state, [Request(V1, 6 * HOUR_MS, 1, [0.0], [False])]))
    assert (row.model, row.feature, row.champion) == (MOVIES, "llm_score@v1", "v1")
    assert (row.window_start_ms, row.window_end_ms, row.events) == (5 * HOUR_MS, 6 * HOUR_MS, 4)
    assert (row.statistics["auc"], row.statistics["taken"], row.verdict) == (1.0, 2.0, "unjudged")


def test_a_window_with_few_labels_goes_on_to_a_later_hour() -> None:
    state = labels(least=2)
    few = [Request(V1, hour * HOUR_MS, hour, [1.0, -1.0], [True, False]) for hour in (0, 3)]
    assert add(state, few) == []
    (row,) = rows(add(state, [Request(V1, 4 * HOUR_MS, 9, [0.0], [True])]))
    assert (row.window_start_ms, row.window_end_ms, row.events) == (0, 4 * HOUR_MS, 4)


def test_versions_have_windows_and_beginnings_of_their_own() -> None:
    both = sorted([*traffic(4, 1), *traffic(4, 2, strength=0.0, version=V2)], key=lambda each: each.ts_ms)
    found = add(labels(), both)
    assert [row.feature for row in rows(found)] == ["llm_score@v1", "llm_score@v2"] * 3
    assert signals(found) == []
    assert all((row.statistics["auc"] > 0.7) is (row.champion == "v1") for row in rows(found))


def test_a_fall_is_a_row_and_a_signal_that_asks_for_an_adapter_after_it_has_settled() -> None:
    found = add(labels(), [*traffic(8, 3), *traffic(4, 4, strength=0.3, start_hour=8)])
    fallen = [row for row in rows(found) if row.verdict == "drift"]
    assert {row.verdict for row in rows(found)[:8]} == {"unjudged", "stable"}
    assert fallen[0].window_start_ms == 8 * HOUR_MS
    assert fallen[0].why.startswith("llm_score@v1: drift, AUC 0.6")
    assert fallen[0].effect is not None
    assert 0.3 < fallen[0].effect < 1.0
    first = signals(found)[0]
    assert (first.detector, first.family, first.component) == ("llm_auc", Family.LABELS, LANGUAGE_MODEL)
    assert (first.drifted, first.alone, first.fall, first.settle_ms) == (True, True, True, SETTLE_MS)
    assert (first.window_start_ms, first.window_end_ms) == (8 * HOUR_MS, 9 * HOUR_MS)
    assert first.reason.startswith("AUC of v1 fell from 0.8")
    assert first.feature == "llm_score@v1"


def test_a_small_fall_shows_in_several_windows_together() -> None:
    """No single window of it is certain; four are."""
    found = add(labels(), [*traffic(6, 5), *traffic(8, 6, strength=0.65, start_hour=6)])
    alarms = signals(found)
    assert alarms
    assert alarms[0].window_end_ms > 8 * HOUR_MS


def test_a_steady_model_is_hardly_ever_an_alarm() -> None:
    """A month of hours in all."""
    alarms = [len(signals(add(labels(), traffic(24, seed)))) for seed in range(100, 130)]
    assert sum(alarms) <= 2


@pytest.mark.parametrize(
    ("now", "reference", "alarm"),
    [
        (Auc(0.70, 0.01), Auc(0.80, 0.01), True),
        (Auc(0.78, 0.001), Auc(0.80, 0.001), False),  # certain, and within what is tolerated
        (Auc(0.70, 0.05), Auc(0.80, 0.01), False),
        (Auc(0.30, 0.01), Auc(0.45, 0.01), False),  # it never told anything
        (Auc(float("nan"), float("inf")), Auc(0.80, 0.01), False),
        (Auc(0.70, 0.01), Auc(0.80, float("inf")), False),
        (Auc(1.0, 0.0), Auc(1.0, 0.0), False),
    ],
)
def test_only_what_is_certain_and_more_than_tolerated_is_a_fall(now: Auc, reference: Auc, alarm: bool) -> None:
    assert fall(now, reference, 0.1).certain is alarm


def test_the_silent_versions_are_forgotten_first() -> None:
    state = labels(least=1)
    names = [ModelVersion(f"v{number}") for number in range(VERSIONS + 2)]
    add(state, [Request(name, number, 1, [0.0], [True]) for number, name in enumerate(names)])
    assert [held[0] for held in state.snapshot()] == names[2:]


@given(st.integers(0, 700), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_restored_state_goes_on_as_if_it_had_never_stopped(stop: int, seed: int) -> None:
    arms = [*traffic(8, seed), *traffic(4, seed + 9, strength=0.2, start_hour=8), *traffic(6, seed, version=V2)]
    requests = sorted(arms, key=lambda each: (each.ts_ms, each.version))
    running, restored = labels(), labels()
    add(running, requests[:stop])
    snapshot = running.snapshot()
    kept = pickle.dumps(snapshot)
    expected = add(running, requests[stop:])
    assert pickle.dumps(snapshot) == kept  # what goes on leaves a snapshot as it was
    restored.restore(pickle.loads(kept))
    assert add(restored, requests[stop:]) == expected
    assert signals(expected)


def test_a_report_shows_a_window_of_labels_like_any_other() -> None:
    found = rows(add(labels(), [*traffic(8, 3), *traffic(2, 4, strength=0.3, start_hour=8)]))
    readable = [told(row, {}) for row in found]
    text = text_of(Report(MOVIES, readable, readable))
    assert "llm_score@v1" in text
    assert "1 finding in" in text


# --- what labels see, and what monitors without labels see

TITLES = FeatureSpec(
    "titles", FeatureKind.MULTI_VALUED, "tokens:features.title", (EventType.CLICK,), bins=512, component="llm"
)
NLL = FeatureSpec("nll", FeatureKind.NUMERIC, "nll:features.title", (EventType.CLICK,), 0.0, 16.0, 64, component="llm")
LAYOUT = Layout([TITLES, NLL], profile=False)
TOPICS = 6
OLD_WORDS = [[f"t{topic}w{word}" for word in range(10)] for topic in range(TOPICS)]


@dataclass(frozen=True)
class World:
    """Users of one favourite topic each, and items of one topic each, as people see them by their titles."""

    titles: list[str]
    topic: npt.NDArray[np.int64]
    favourite: npt.NDArray[np.int64]


def world(seed: int, new_words: float = 0.0) -> World:
    """new_words : share of the items whose titles nobody has read before."""
    rng = np.random.default_rng(seed)
    topic = np.arange(300) % TOPICS
    titles = [" ".join(rng.choice(OLD_WORDS[each], 4)) for each in topic.tolist()]
    for item in np.flatnonzero(rng.random(300) < new_words).tolist():
        titles[item] = " ".join(f"new{topic[item]}w{word}" for word in rng.integers(0, 10, 4))
    return World(titles, topic, np.arange(600) % TOPICS)


def lived(
    world: World, hours: int, seed: int, start_hour: int = 0, taste: Sequence[int] = range(TOPICS)
) -> tuple[list[Request], Rows]:
    """Requests with the scores of a model that knows the favourites, and the clicks; taste[t] : the topic that those take who
    took t as the model was trained."""
    rng = np.random.default_rng(seed)
    requests, clicks = [], []
    for number in range(hours * 80):
        user, items = int(rng.integers(0, 600)), rng.choice(300, 10, replace=False)
        scores = np.where(world.topic[items] == world.favourite[user], 0.0, -2.5) + rng.normal(0, 0.3, 10)
        truth = np.where(world.topic[items] == taste[world.favourite[user]], 0.0, -2.5)
        taken = rng.random(10) < 1 / (1 + np.exp(-truth))
        ts_ms = start_hour * HOUR_MS + number * HOUR_MS // 80
        requests.append(Request(V1, ts_ms, user, scores.tolist(), taken.tolist()))
        clicks += [Row(features={"title": world.titles[item]}) for item in items[taken].tolist()]
    return requests, observed(clicks)


def drifting(reference: Rows, window: Rows, model: TextModel) -> set[str]:
    """Which features of text alarm."""
    held = [
        sketch(LAYOUT, _read(seen, model), np.zeros(len(seen.type), np.int64), 1)[0] for seen in (reference, window)
    ]
    then, now = ({spec.name: LAYOUT.state(each, spec.name) for spec in LAYOUT.specs} for each in held)
    panel = Panel([FeatureSketch(each.spec, each.counts.tolist(), events=each.events) for each in then.values()])
    counts, memory = {name: each.counts for name, each in now.items()}, Memory()
    for end in (1, 2):  # seen twice, so confirmed
        verdict, memory = panel.judge(counts, end - 1, end, memory, {name: each.events for name, each in now.items()})
    return {name for name, found in verdict.features.items() if found.verdict is Verdict.DRIFT}


def _read(seen: Rows, model: TextModel) -> Rows:
    return replace(seen, features=TextColumns(Surprise(model), seen.features))


def test_a_change_of_taste_shows_in_the_labels_alone_and_new_words_in_what_is_read() -> None:
    before = world(1)
    model = TextModel.of(before.titles)
    steady, reference = lived(before, 8, seed=2)
    turned = [(topic + 1) % TOPICS for topic in range(TOPICS)]
    other_taste, same_words = lived(before, 4, seed=3, start_hour=8, taste=turned)
    same_taste, other_words = lived(world(1, new_words=0.3), 4, seed=4, start_hour=8)
    assert drifting(reference, same_words, model) == set()
    assert signals(add(labels(), [*steady, *other_taste]))
    assert drifting(reference, other_words, model) == {"titles", "nll"}
    assert signals(add(labels(), [*steady, *same_taste])) == []
