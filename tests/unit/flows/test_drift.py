"""Judging windows in their order: against what the champion was trained on, the stream's own beginning, or not at all."""

import pickle
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from flows.combine import Plans, text_tag
from flows.drift import Judge, Scored, WindowReport
from flows.levels import Champion
from flows.live import Reference
from flows.settings import FlowSettings
from flows.windows import ClosedWindow
from online_models.columns import MappingColumns
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.columns import FeatureColumns
from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import ModelVersion, hash64
from online_models.ports import FeatureWord
from online_models.sketches import Layout, Sketches, sketch
from online_models.text import Surprise, TextColumns, TextModel
from tests.samples import MOVIES, batch, event

RATING = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 5.0, 50)
GENRES = FeatureSpec("genres", FeatureKind.MULTI_VALUED, "features.genres", (EventType.RATING,), bins=64)
OF_PRODUCTS = FeatureSpec("amount", FeatureKind.NUMERIC, "value", (EventType.PURCHASE,), bins=8, domains=("products",))
SETTINGS = FlowSettings(
    window_seconds=3600,
    features=(RATING, GENRES, OF_PRODUCTS),
    min_window_events=200,
    longer_windows_seconds=(14_400,),
)
LAYOUT = Plans(SETTINGS).declared(MOVIES)
PANE_MS, HOUR_MS = 900_000, 3_600_000
SAMPLE = batch([event(1)])
SLIGHT = 0.045


class Observed:
    """Ratings around a mean, and genres of which the first becomes more frequent with it; every tenth has no genre."""

    def __init__(self, events: int, seed: int, shift: float = 0.0, missing: int = 0) -> None:
        rng = np.random.default_rng(seed)
        genre = np.where(rng.random(events) < 0.2 + shift, 0, rng.integers(1, 8, events)).tolist()
        self.type = np.full(events, TYPE_CODES[EventType.RATING], np.int8)
        self.ts_ms = np.zeros(events, np.int64)
        self.value = rng.normal(3.0 + 3 * shift, 0.8, events)
        self.value[:missing] = np.nan
        self.item_hash = self.user_hash = np.zeros(events, np.uint64)
        self.events = SAMPLE.events
        self.features: FeatureColumns = MappingColumns(
            [None if row % 10 == 0 else {"genres": [f"g{each}"]} for row, each in enumerate(genre)]
        )


def sketched(events: int, seed: int, shift: float = 0.0, missing: int = 0, layout: Layout = LAYOUT) -> Sketches:
    return sketch(layout, Observed(events, seed, shift, missing), np.zeros(events, np.int64), 1)[0]


def reference(*specs: FeatureSpec, version: str = "v3") -> Reference:
    made = sketched(20_000, seed=1)
    return Reference(
        ModelVersion(version),
        tuple(FeatureSketch(spec, LAYOUT.state(made, spec.name).counts.tolist()) for spec in specs),
    )


def window(hop: int, events: int = 2_000, shift: float = 0.0, missing: int = 0, hours: int = 1) -> ClosedWindow:
    """The window that ends `hop` panes after the first hour."""
    state = sketched(events, seed=10 + hop, shift=shift, missing=missing)
    end_ms = HOUR_MS + hop * PANE_MS
    newest = sketched(events // 4, seed=100 + hop, shift=shift)
    panes = {"": state}
    return ClosedWindow(
        MOVIES, end_ms - hours * HOUR_MS, end_ms, events, panes, {"": newest}, events // 4, None, PANE_MS, PANE_MS
    )


def slight(hop: int, hours: int = 1) -> ClosedWindow:
    """A window that is significant, and not overwhelmingly so."""
    return window(hop, events=800, shift=SLIGHT, hours=hours)


def judge(settings: FlowSettings = SETTINGS) -> Judge:
    return Judge(MOVIES, settings, Plans(settings))


def verdicts(scored: Scored) -> dict[str, str]:
    return msgspec.json.decode(scored.row.report, type=WindowReport).verdicts


CHAMPION = reference(RATING, GENRES)


def test_a_window_like_the_reference_is_calm_and_its_figures_are_reported() -> None:
    found = judge().add(window(0), CHAMPION)
    assert (found.alarms, found.signal.drifted, found.signal.reason) == ([], False, "")
    assert (found.new_events, found.has_champion) == (500, True)
    assert verdicts(found) == {"rating": "stable", "genres": "stable"}
    rating, genres = found.features
    assert (rating.feature, rating.champion, rating.events, rating.missing) == ("rating", "v3", 2_000, 0)
    assert {"psi", "ks", "kl"} <= set(rating.statistics)
    assert rating.mean == pytest.approx(3.0, abs=0.1)
    assert (genres.events, genres.missing, sum(genres.counts)) == (2_000, 200, 2_000)
    assert genres.cardinality == pytest.approx(8, abs=0.2)


def test_an_alarm_is_confirmed_by_the_next_window_unless_it_is_overwhelming() -> None:
    small, large = judge(), judge()
    assert verdicts(large.add(window(0, shift=0.3), CHAMPION))["rating"] == "drift"
    first = small.add(slight(0), CHAMPION)
    assert (verdicts(first)["rating"], first.alarms, first.signal.drifted) == ("unconfirmed", [], False)
    second = small.add(slight(1), CHAMPION)
    (alarm,) = [each for each in second.alarms if each.feature == "rating"]
    assert verdicts(second)["rating"] == "drift"
    assert (alarm.kind, alarm.model, alarm.detector) == ("drift", MOVIES, "panel")
    assert (alarm.window_start_ms, alarm.window_end_ms) == (PANE_MS, HOUR_MS + PANE_MS)
    assert alarm.threshold == SETTINGS.policy("recommender").effect < alarm.statistic
    signal = second.signal
    assert (signal.drifted, signal.alone, signal.detector) == (True, False, "panel")
    assert signal.reason == "; ".join(each.reason for each in second.alarms)
    assert alarm.reason.startswith("rating")


def test_an_alarm_names_the_words_that_it_knows_and_the_rows_keep_the_buckets() -> None:
    one = judge()
    one.learn(FeatureWord(MOVIES, "genres", hash64("g0") >> 32, "g0"))
    resumed = judge()
    resumed.restore(pickle.loads(pickle.dumps(one.snapshot())))
    for each in (one, resumed):
        found = each.add(window(0, shift=0.3), CHAMPION)
        (alarm,) = [alarm for alarm in found.alarms if alarm.feature == "genres"]
        assert "'g0' " in alarm.reason
        assert "'g1'" not in alarm.reason
        assert not any(label == "g0" for label in found.features[1].bins)


def test_restoring_and_going_on_equals_never_having_stopped() -> None:
    windows = [slight(hop) if hop % 4 else window(hop, events=150, shift=SLIGHT) for hop in range(9)]
    steady = judge()
    expected = [steady.add(each, CHAMPION) for each in windows]
    again, found = judge(), []
    for each in windows:
        resumed = judge()
        resumed.restore(pickle.loads(pickle.dumps(again.snapshot())))
        again = resumed
        found.append(again.add(each, CHAMPION))
    assert found == expected
    assert any(scored.alarms for scored in found)


def test_without_a_champion_a_window_is_reported_unjudged() -> None:
    found = judge().add(window(0, shift=0.5), None)
    assert (found.alarms, found.signal.drifted, found.has_champion) == ([], False, False)
    assert verdicts(found) == {"rating": "unjudged", "genres": "unjudged"}
    assert [(each.events, each.p_value, each.champion) for each in found.features] == [(2_000, None, None)] * 2


def test_the_beginning_of_the_stream_stands_in_for_a_champion_that_is_not_there() -> None:
    settings = SETTINGS.model_copy(update={"baseline_seconds": 10 * HOUR_MS // 1000})
    one = judge(settings)
    calm = [one.add(window(hop, events=2_000), None) for hop in range(40)]
    assert {verdicts(each)["rating"] for each in calm[:39]} == {"unjudged"}
    assert verdicts(calm[39])["rating"] == "stable"
    moved = [one.add(window(hop, shift=0.2), None) for hop in (40, 41)]
    assert {alarm.feature for alarm in moved[1].alarms} == {"rating", "genres"}
    assert not moved[1].has_champion
    resumed = judge(settings)
    resumed.restore(pickle.loads(pickle.dumps(one.snapshot())))
    assert resumed.add(window(42, shift=0.2), None) == one.add(window(42, shift=0.2), None)
    # a champion takes its place
    assert one.add(window(43), CHAMPION).features[0].champion == "v3"


def test_a_feature_that_the_champion_cannot_compare_is_compared_with_the_beginning() -> None:
    settings = SETTINGS.model_copy(update={"baseline_seconds": 10 * HOUR_MS // 1000})
    one = judge(settings)
    for hop in range(40):
        one.add(window(hop), reference(GENRES))
    found = [one.add(window(hop, shift=0.2), reference(GENRES)) for hop in (40, 41)]
    assert {alarm.feature for alarm in found[1].alarms} == {"rating", "genres"}


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(RATING, bins=100),
        msgspec.structs.replace(RATING, high=10.0),
        msgspec.structs.replace(RATING, types=(EventType.WATCH,)),
        msgspec.structs.replace(RATING, source="features.stars"),
    ],
)
def test_a_feature_that_the_champion_declared_otherwise_is_not_compared(other: FeatureSpec) -> None:
    sketches = (FeatureSketch(other, [400] * (other.cells + 3)), *reference(GENRES).sketches)
    found = judge().add(window(0, shift=0.3), Reference(ModelVersion("v3"), sketches))
    assert [alarm.feature for alarm in found.alarms] == ["genres"]
    assert verdicts(found)["rating"] == "unjudged"


def test_a_feature_that_the_champion_has_not_got_is_not_judged() -> None:
    found = judge().add(window(0, shift=0.3), reference(GENRES))
    assert [alarm.feature for alarm in found.alarms] == ["genres"]


def test_a_ghost_is_profiled_and_never_judged() -> None:
    ghost = msgspec.structs.replace(GENRES, ghost=True)
    settings = SETTINGS.model_copy(update={"features": (RATING, ghost)})
    found = judge(settings).add(window(0, shift=0.3), reference(RATING, ghost))
    assert verdicts(found) == {"rating": "drift", "genres": "unjudged"}
    assert found.features[1].cardinality is not None


def test_too_few_values_say_nothing_until_the_window_has_grown() -> None:
    one = judge()
    seen = [verdicts(one.add(window(4 * hour, events=80, shift=0.3), CHAMPION))["rating"] for hour in range(6)]
    assert seen[:2] == ["inconclusive", "inconclusive"]
    assert seen[-1] == "drift"


def test_missing_values_are_counted_and_a_rise_of_them_is_drift() -> None:
    one = judge()
    found = [one.add(window(hop, missing=600), CHAMPION) for hop in range(2)][-1]
    rating = found.features[0]
    assert (rating.events, rating.missing, rating.verdict) == (2_000, 600, "drift")


def test_a_longer_window_is_judged_by_itself_and_its_alarm_stands_alone() -> None:
    one = judge()
    one.add(slight(0), CHAMPION)
    longer = one.add(slight(1, hours=4), CHAMPION)
    assert verdicts(longer)["rating"] == "unconfirmed"  # the shorter window before it is no witness
    assert longer.new_events == 0
    found = one.add(window(2, shift=0.3, hours=4), CHAMPION).signal
    assert (found.drifted, found.alone, found.detector) == (True, True, "panel_14400s")


def test_what_was_remembered_against_one_champion_says_nothing_against_the_next() -> None:
    one = judge()
    one.add(slight(0), CHAMPION)
    found = one.add(slight(1), reference(RATING, GENRES, version="v4"))
    assert verdicts(found)["rating"] == "unconfirmed"


def test_a_component_is_judged_by_its_own_policy() -> None:
    settings = SETTINGS.model_copy(update={"policies": {"recommender": {"effect": 10.0}}})
    assert verdicts(judge(settings).add(window(0, shift=0.3), CHAMPION))["rating"] == "stable"


def test_the_language_model_s_features_are_a_signal_of_their_own() -> None:
    """Here the genres stand for text: both drift, and each signal tells of its own."""
    text = msgspec.structs.replace(GENRES, component="llm")
    settings = SETTINGS.model_copy(update={"features": (RATING, text, OF_PRODUCTS)})
    facts = Champion(ModelVersion("v3"), towers=True)
    found = judge(settings).add(window(0, shift=0.3), replace(reference(RATING, text), champion=facts))
    assert (found.has_champion, found.champion) == (True, facts)
    assert found.language is not None
    assert (found.language.detector, found.language.component, found.language.drifted) == ("panel_llm", "llm", True)
    assert found.language.reason.startswith("genres")
    assert (found.signal.component, found.signal.drifted) == ("recommender", True)
    assert found.signal.reason.startswith("rating")
    effects = {alarm.feature: alarm.statistic for alarm in found.alarms}
    assert (found.signal.effect, found.language.effect) == (effects["rating"], effects["genres"])
    calm = judge(settings).add(window(0, shift=0.3), reference(RATING))
    assert calm.language is not None
    assert (calm.language.drifted, calm.language.effect, calm.signal.drifted) == (False, 0.0, True)
    assert judge().add(window(0), CHAMPION).language is None


def test_what_texts_read_like_is_judged_under_the_champion_s_text_model_and_under_no_other() -> None:
    nll = FeatureSpec("nll", FeatureKind.NUMERIC, "nll:features.title", (EventType.RATING,), 0.0, 16.0, component="llm")
    settings = SETTINGS.model_copy(update={"features": (RATING, GENRES, OF_PRODUCTS, nll)})
    layout = Plans(settings).read(MOVIES)
    surprise = Surprise(TextModel.of(["red house", "red car", "blue car"]))

    def read(new: float, seed: int) -> Sketches:
        """2,000 titles, of which a share is in new words."""
        rng = np.random.default_rng(seed)
        titles = np.where(rng.random(2_000) < new, "un autobus", rng.choice(["red house", "blue car"], 2_000)).tolist()
        seen = Observed(2_000, seed)
        seen.features = TextColumns(surprise, MappingColumns([{"title": title} for title in titles]))
        return sketch(layout, seen, np.zeros(2_000, np.int64), 1)[0]

    of_text = FeatureSketch(nll, layout.state(read(0.05, 1), "nll").counts.tolist(), events=2_000)
    champion = replace(CHAMPION, sketches=(*CHAMPION.sketches, of_text))

    def verdict_under(version: str, new: float) -> str | None:
        seen = window(0)
        tag = text_tag(ModelVersion(version))
        found = judge(settings).add(replace(seen, sketches={**seen.sketches, tag: read(new, 2)}), champion)
        assert found.language is not None
        assert found.language.drifted is (verdicts(found).get("nll") == "drift")
        return verdicts(found).get("nll")

    assert (verdict_under("v3", 0.05), verdict_under("v3", 0.3)) == ("stable", "drift")
    assert verdict_under("v4", 0.3) is None


def test_the_same_window_gives_the_same_rows_and_another_window_or_feature_other_ids() -> None:
    found = judge().add(window(0, shift=0.3), CHAMPION)
    assert found == judge().add(window(0, shift=0.3), CHAMPION)
    later = judge().add(window(1, shift=0.3), CHAMPION)
    longer = judge().add(window(0, shift=0.3, hours=4), CHAMPION)
    assert len({alarm.id for each in (found, later, longer) for alarm in each.alarms}) == 6
