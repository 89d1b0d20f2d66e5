"""Judging a window: against what the champion was trained on, or not at all."""

import msgspec
import numpy as np
import pytest

from flows.drift import Scored, WindowReport, judge, score
from flows.live import Reference
from flows.settings import FlowSettings
from flows.windows import ClosedWindow, Counts
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import ModelVersion
from online_models.drift.psi import THRESHOLD, PsiDetector
from tests.samples import MOVIES

RATING = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 5.0, 50)
GENRES = FeatureSpec("genres", FeatureKind.MULTI_VALUED, "features.genres", (EventType.RATING,), bins=64)
OF_PRODUCTS = FeatureSpec("amount", FeatureKind.NUMERIC, "value", (EventType.PURCHASE,), bins=8, domains=("products",))
SETTINGS = FlowSettings(features=(RATING, GENRES, OF_PRODUCTS), min_window_events=200)
HOUR_MS = 3_600_000


def drawn(spec: FeatureSpec, events: int, seed: int, shift: float = 0.0, missing: int = 0) -> Counts:
    """Counts (bins + 3,) of a bell over the bins, moved by a share of them."""
    rng = np.random.default_rng(seed)
    bins = np.clip(rng.normal((0.3 + shift) * spec.bins, 0.1 * spec.bins, events).astype(int), 0, spec.bins - 1)
    counts: Counts = np.bincount(bins + 1, minlength=spec.bins + 3).astype(np.int64)
    counts[-1] = missing
    return counts


def reference(*specs: FeatureSpec) -> Reference:
    return Reference(ModelVersion("v3"), {spec.name: (spec, drawn(spec, 5_000, seed=1)) for spec in specs})


def window(events: int = 2_000, shift: float = 0.0, **counts: Counts) -> ClosedWindow:
    found = {spec.name: drawn(spec, events, seed=2, shift=shift) for spec in (RATING, GENRES)}
    return ClosedWindow(MOVIES, HOUR_MS, 2 * HOUR_MS, events, {**found, **counts})


def report(scored: Scored) -> WindowReport:
    return msgspec.json.decode(scored.row.report, type=WindowReport)


def test_a_window_like_the_reference_is_calm_and_its_figures_are_reported() -> None:
    found = score(window(), reference(RATING, GENRES), SETTINGS)
    assert (found.alarms, found.signal.drifted, found.signal.reason) == ([], False, "")
    assert (found.events, found.has_champion, report(found).reference) == (2_000, True, "v3")
    rating = report(found).features["rating"]
    expected = PsiDetector(drawn(RATING, 5_000, seed=1), RATING.kind, min_events=200)
    expected.update(drawn(RATING, 2_000, seed=2))
    assert (rating.events, rating.missing, rating.psi) == (2_000, 0, expected.statistic)
    assert rating.ks is not None
    assert rating.kl is not None


def test_a_moved_window_is_an_alarm_per_feature_and_one_signal() -> None:
    found = score(window(shift=0.2), reference(RATING, GENRES), SETTINGS)
    assert [alarm.feature for alarm in found.alarms] == ["rating", "genres"]
    for alarm in found.alarms:
        assert (alarm.kind, alarm.model, alarm.detector) == ("drift", MOVIES, "composite")
        assert (alarm.window_start_ms, alarm.window_end_ms, alarm.threshold) == (HOUR_MS, 2 * HOUR_MS, THRESHOLD)
        assert alarm.statistic == report(found).features[alarm.feature].psi
        assert alarm.statistic > THRESHOLD
        assert alarm.feature in alarm.reason
    signal = found.signal
    assert (signal.drifted, signal.alone, signal.detector) == (True, False, "composite")
    assert (signal.window_start_ms, signal.window_end_ms) == (HOUR_MS, 2 * HOUR_MS)
    assert signal.reason == "; ".join(alarm.reason for alarm in found.alarms)


def test_only_the_feature_that_moved_is_an_alarm() -> None:
    moved = window(rating=drawn(RATING, 2_000, seed=2, shift=0.2))
    assert [alarm.feature for alarm in score(moved, reference(RATING, GENRES), SETTINGS).alarms] == ["rating"]


def test_without_a_champion_a_window_is_reported_unjudged() -> None:
    found = score(window(shift=0.5), None, SETTINGS)
    assert (found.alarms, found.signal.drifted, found.has_champion) == ([], False, False)
    assert report(found).reference is None
    assert [(each.events, each.psi, each.drifted) for each in report(found).features.values()] == [
        (2_000, None, False),
        (2_000, None, False),
    ]


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
    sketches = {"rating": (other, drawn(other, 5_000, seed=1)), **reference(GENRES).features}
    found = score(window(shift=0.2), Reference(ModelVersion("v3"), sketches), SETTINGS)
    assert [alarm.feature for alarm in found.alarms] == ["genres"]
    assert report(found).features["rating"].psi is None


def test_a_feature_that_the_champion_has_not_got_is_not_judged() -> None:
    found = score(window(shift=0.2), reference(GENRES), SETTINGS)
    assert [alarm.feature for alarm in found.alarms] == ["genres"]


def test_too_few_values_say_nothing() -> None:
    for events, judged in ((199, False), (200, True)):
        found = judge(RATING, drawn(RATING, events, seed=2, shift=0.3), reference(RATING), 200)
        assert (found.psi is not None, found.drifted) == (judged, judged)
        assert found.events == events


def test_missing_values_are_counted_and_a_rise_of_them_is_drift() -> None:
    found = judge(RATING, drawn(RATING, 1_000, seed=2, missing=1_000), reference(RATING), 200)
    assert (found.events, found.missing, found.drifted) == (2_000, 1_000, True)


def test_features_of_other_domains_and_undeclared_ones_are_left_out() -> None:
    undeclared = np.zeros(11, np.int64)
    found = score(window(amount=undeclared, unknown=undeclared), reference(RATING, GENRES), SETTINGS)
    assert set(report(found).features) == {"rating", "genres"}


def test_the_same_window_gives_the_same_rows_and_another_window_or_feature_other_ids() -> None:
    found = score(window(shift=0.2), reference(RATING, GENRES), SETTINGS)
    assert found == score(window(shift=0.2), reference(RATING, GENRES), SETTINGS)
    closed = window(shift=0.2)
    later = ClosedWindow(closed.model, closed.start_ms + 1, closed.end_ms + 1, closed.events, closed.counts)
    ids = [alarm.id for each in (closed, later) for alarm in score(each, reference(RATING, GENRES), SETTINGS).alarms]
    assert len(set(ids)) == 4
