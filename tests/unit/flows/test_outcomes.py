"""Outcomes: what counts for which version, when it is final, and when a fall of a rate is an alarm."""

import pickle
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.admission import Admitted
from flows.delayed_labels import DelayedLabels
from flows.open_requests import FALLBACK, Outcome
from flows.outcomes import Outcomes, Told, detector_of, outcomes_of
from flows.settings import FlowSettings
from flows.triggers import LANGUAGE_MODEL, Family, Signal
from online_models.contracts.events import EventType, FeatureValue
from online_models.contracts.ids import ModelVersion, hash64
from online_models.contracts.rollouts import VariantWindow
from online_models.drift.adwin import Adwin
from online_models.drift.prequential import Prequential, Worse
from online_models.ports import FeatureWindowRow
from tests.outcome_events import (
    ATTRIBUTION_MS,
    SETTLE_MS,
    V1,
    V2,
    WINDOW_MS,
    found,
    last_windows,
    later,
    outcomes,
    shown,
    taken,
    windows,
)
from tests.samples import MOVIES, batch, event


def counts(found: Sequence[Told]) -> list[tuple[int, int, int, int]]:
    """Requests, hits, impressions and clicks of each window."""
    return [(each.requests, each.hits, each.impressions, each.clicks) for each in windows(found)]


def test_a_request_is_counted_once_the_time_for_answers_is_over() -> None:
    state = outcomes()
    assert found(state, shown("r1", 0), taken("r1", 300)) == []
    assert found(state, later(ATTRIBUTION_MS)) == []
    (window,) = found(state, later(ATTRIBUTION_MS + 1))
    assert counts([window]) == [(1, 1, 2, 1)]
    assert window == VariantWindow(MOVIES, V1, 0, -1, 0, WINDOW_MS, 1, 1, 1, 1, 2, 1, "stable", stage_users=1)
    assert found(state, later(9 * ATTRIBUTION_MS)) == []


def test_a_window_grows_with_each_of_its_requests_and_the_next_begins_empty() -> None:
    state = outcomes()
    assert counts(found(state, shown("r1", 0), taken("r1", 1), later(5_000))) == [(1, 1, 2, 1)]
    assert counts(found(state, shown("r2", 9_999, "abc"), later(15_000))) == [(2, 1, 5, 1)]
    (window,) = windows(found(state, shown("r3", 15_000), later(19_000)))
    assert (window.window_start_ms, window.window_end_ms, window.requests) == (10_000, 20_000, 1)


def test_an_item_taken_twice_or_in_several_ways_is_one_click() -> None:
    answers = [taken("r1", 10 * n, "b", kind) for n, kind in enumerate((EventType.CLICK, EventType.WATCH) * 2)]
    assert counts(found(outcomes(), shown("r1", 0), *answers, later(5_000))) == [(1, 1, 2, 1)]


def test_an_item_that_was_not_shown_in_the_request_is_no_answer_to_it() -> None:
    state = outcomes()
    first = found(state, shown("r1", 0, "ab"), shown("r2", 0, "cd"), taken("r1", 5, "c"), later(5_000))
    assert counts(first)[-1] == (2, 0, 4, 0)


def test_an_answer_counts_until_the_end_of_the_attribution_and_not_after_it() -> None:
    for ts_ms, hits in ((ATTRIBUTION_MS, 1), (ATTRIBUTION_MS + 1, 0)):
        in_one_chunk = found(outcomes(), shown("r1", 0), taken("r1", ts_ms), later(5_000))
        state = outcomes()
        in_several = [*found(state, shown("r1", 0)), *found(state, later(ATTRIBUTION_MS))]
        in_several += [*found(state, taken("r1", ts_ms)), *found(state, later(5_000))]
        assert counts(in_one_chunk) == counts(in_several) == [(1, hits, 2, hits)]


def test_versions_rollouts_stages_and_variants_are_counted_apart() -> None:
    first = found(
        outcomes(),
        shown("r1", 0),
        shown("r2", 0, version=V2, rollout=7, stage=0, variant="canary"),
        shown("r3", 0, rollout=7, stage=0),
        shown("r4", 0, rollout=7, stage=1),
        shown("r5", 0, version=None, variant="fallback"),
        shown("r6", 0, rollout=7, stage=1, variant="canary"),
        later(5_000),
    )
    keys = [(each.version, each.rollout_id, each.stage, each.variant) for each in windows(first)]
    assert keys == [
        (V1, 0, -1, "stable"),
        (V2, 7, 0, "canary"),
        (V1, 7, 0, "stable"),
        (V1, 7, 1, "stable"),
        (FALLBACK, 0, -1, "fallback"),
        (V1, 7, 1, "canary"),
    ]
    assert {each.requests for each in windows(first)} == {1}


@pytest.mark.parametrize("said", ["control", "", 3.0, ["canary"]])
def test_a_variant_that_is_none_of_ours_is_counted_as_nobody_s(said: FeatureValue) -> None:
    (window,) = windows(found(outcomes(), shown("r1", 0, variant=said), later(5_000)))
    assert window.variant == ""


def test_a_request_so_late_that_its_window_is_forgotten_does_not_replace_the_window_s_counts() -> None:
    state = outcomes()
    found(state, shown("r1", 0), shown("r2", 1), later(5_000))
    found(state, shown("r3", 60_000), later(70_000))
    assert found(state, shown("r4", 2), later(80_000)) == []


# --- alarms


def traffic(rates: Sequence[float], start_ms: int = 0, variant: str = "stable") -> list[Outcome]:
    """One request of one item a second; request n is a hit as evenly as `rates[n]` says."""
    made: list[Outcome] = []
    total = 0.0
    for number, rate in enumerate(rates):
        ts_ms, name = start_ms + 1_000 * number, f"{variant}-{start_ms}-{number}"
        made += shown(name, ts_ms, "a", version=V2 if variant == "canary" else V1, variant=variant)
        total += rate
        if int(total) > int(total - rate):
            made += taken(name, ts_ms)
    return made


def signals(found: Sequence[Told]) -> list[Signal]:
    return [each for each in found if isinstance(each, Signal)]


FALL = [0.5] * 400 + [0.1] * 400


def test_a_fall_is_one_signal_of_each_rate_that_asks_to_settle() -> None:
    hit_rate, ctr = signals(found(outcomes(), traffic(FALL)))
    assert (hit_rate.detector, ctr.detector) == ("hit_rate", "ctr")
    assert (hit_rate.model, hit_rate.drifted, hit_rate.alone, hit_rate.settle_ms) == (MOVIES, True, True, SETTLE_MS)
    assert 400_000 < hit_rate.window_end_ms < 600_000
    assert hit_rate.reason.startswith("hit_rate fell from 0.5")


def test_a_fall_of_the_hit_rate_alone_is_one_signal() -> None:
    """Half of the requests take both items instead of each taking one: fewer hits, as many clicks."""
    made: list[Outcome] = []
    for number in range(1_000):
        made += shown(f"r{number}", 1_000 * number)
        items = "a" if number < 500 else "ab" if number % 2 else ""
        made += [outcome for item in items for outcome in taken(f"r{number}", 1_000 * number, item)]
    (signal,) = signals(found(outcomes(), made))
    assert (signal.detector, signal.settle_ms) == ("hit_rate", SETTLE_MS)


def test_a_rise_and_a_fall_within_the_tolerated_share_are_no_alarm() -> None:
    assert signals(found(outcomes(), traffic(FALL[::-1]))) == []
    tolerant = Outcomes(ATTRIBUTION_MS, WINDOW_MS, drop_fraction=0.9, settle_ms=SETTLE_MS)
    assert signals(found(tolerant, traffic(FALL))) == []


def test_a_prequential_monitor_hears_the_same_fall_and_survives_a_restart() -> None:
    def detector() -> Prequential:
        return Prequential(window=300, worse=Worse.LOWER)

    def made() -> Outcomes:
        return Outcomes(ATTRIBUTION_MS, WINDOW_MS, drop_fraction=0.1, settle_ms=SETTLE_MS, detector=detector)

    told = traffic([0.5] * 4_000 + [0.1] * 1_000)
    steady = made()
    expected = signals(found(steady, told))
    assert {signal.detector for signal in expected} == {"hit_rate", "ctr"}
    first = made()
    before = signals(found(first, told[:4_000]))
    resumed = made()
    resumed.restore(pickle.loads(pickle.dumps(first.snapshot())))
    assert before + signals(found(resumed, told[4_000:])) == expected


def test_the_settings_choose_the_detector() -> None:
    assert isinstance(detector_of(FlowSettings()), Adwin)
    chosen = detector_of(FlowSettings(outcome_detector="prequential", drop_fraction=0.2))
    assert isinstance(chosen, Prequential)


@pytest.mark.parametrize("variant", ["canary", "arm"])
def test_the_canary_and_a_bandit_s_arms_are_not_heard(variant: str) -> None:
    assert signals(found(outcomes(), traffic(FALL, variant=variant))) == []
    steady = traffic([0.5] * 800)
    mixed = sorted([*steady, *traffic(FALL, variant=variant)], key=lambda outcome: outcome.ts_ms)
    assert signals(found(outcomes(), mixed)) == []


def test_the_fallback_is_heard() -> None:
    assert len(signals(found(outcomes(), traffic(FALL, variant="fallback")))) == 2


# --- the same events in other pieces


def final(state: Outcomes, events: Sequence[Outcome], cuts: Sequence[int]) -> tuple[list[VariantWindow], list[Signal]]:
    """The last state of each window, and all signals, when the events come in pieces."""
    ends = sorted({0, *(cut for cut in cuts if cut < len(events)), len(events)})
    told: list[Told] = []
    for start, end in pairwise(ends):
        told += found(state, list(events[start:end]))
    return last_windows(told), signals(told)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 1_000), min_size=1, max_size=12), fall=st.integers(200, 500))
def test_alarms_do_not_depend_on_where_chunks_end(cuts: list[int], fall: int) -> None:
    events = traffic([0.6] * fall + [0.1] * (700 - fall))
    whole, pieces = final(outcomes(), events, []), final(outcomes(), events, cuts)
    assert len(whole[1]) == 2
    assert pieces == whole


@settings(max_examples=15)
@given(stop=st.integers(0, 1_000), cuts=st.lists(st.integers(0, 1_000), max_size=5))
def test_a_restored_state_goes_on_as_if_it_had_never_stopped(stop: int, cuts: list[int]) -> None:
    arms = [*traffic(FALL), *traffic([0.3] * 800, variant="canary")]
    events = sorted(arms, key=lambda outcome: (outcome.ts_ms, outcome.event.type is not EventType.IMPRESSION))
    running, restored = outcomes(), outcomes()
    final(running, events[:stop], cuts)
    snapshot = running.snapshot()
    expected = final(running, events[stop:], cuts)  # what goes on after a snapshot leaves it as it was
    restored.restore(snapshot)
    assert final(restored, events[stop:], cuts) == expected


# --- what the language model said


def scored_traffic(requests: int, true_until: int, variant: str = "stable") -> list[Outcome]:
    """One request of five items a second, of which the likelier ones are taken until they are not."""
    rng = np.random.default_rng(5)
    made: list[Outcome] = []
    for number in range(requests):
        name, ts_ms = f"{variant}-{number}", 1_000 * number
        scores = dict(zip("abcde", rng.normal(-1, 2, 5).tolist(), strict=True))
        made += shown(name, ts_ms, "abcde", user=f"u{number % 90}", variant=variant, scores=scores)
        for item, score in scores.items():
            if rng.random() < 1 / (1 + np.exp(-score if number < true_until else 1)):
                made += taken(name, ts_ms, item)
    return made


def with_labels() -> Outcomes:
    labels = DelayedLabels(60_000, 20, drop_fraction=0.1, settle_ms=SETTLE_MS)
    return Outcomes(ATTRIBUTION_MS, WINDOW_MS, drop_fraction=0.99, settle_ms=SETTLE_MS, labels=labels)


def score_windows(found: Sequence[Told]) -> list[FeatureWindowRow]:
    return [each for each in found if isinstance(each, FeatureWindowRow)]


def test_scores_are_held_against_what_was_taken_once_the_time_for_answers_is_over() -> None:
    said = {"a": 1.5, "b": -0.5, "c": -2.0}
    state = Outcomes(ATTRIBUTION_MS, WINDOW_MS, 0.1, SETTLE_MS, labels=DelayedLabels(WINDOW_MS, 1, 0.1, SETTLE_MS))
    events = [*shown("r1", 0, "abcd", scores=said), *taken("r1", 300, "a"), *taken("r1", 400, "d")]
    events += [*taken("r1", ATTRIBUTION_MS + 1, "b"), *shown("r2", 12_000, scores={"a": 0.0})]
    (row,) = score_windows(found(state, events, later(14_000)))
    assert (row.feature, row.events, row.statistics["taken"], row.statistics["auc"]) == ("llm_score@v1", 3, 1, 1.0)


def judged_by_label(*asked: tuple[ModelVersion | None, FeatureValue | None]) -> list[tuple[str, int]]:
    """Features and items of the windows after requests by such versions of the recommender and of the language model."""
    state = Outcomes(ATTRIBUTION_MS, WINDOW_MS, 0.1, SETTLE_MS, labels=DelayedLabels(WINDOW_MS, 1, 0.1, SETTLE_MS))
    events: list[Outcome] = []
    for number, (version, scored_by) in enumerate((*asked, asked[0])):
        ts_ms = 30_000 if number == len(asked) else number
        said = {"a": 1.0, "b": -1.0}
        events += [*shown(f"r{number}", ts_ms, version=version, scores=said, scored_by=scored_by)]
        events += taken(f"r{number}", ts_ms + 1)
    return [(row.feature, row.events) for row in score_windows(found(state, events, later(40_000)))]


def test_scores_are_held_together_by_the_language_model_that_gave_them_and_not_by_the_recommender() -> None:
    assert judged_by_label((V1, "v1"), (ModelVersion("v2"), "v1"), (None, "v1")) == [("llm_score@v1", 6)]
    assert judged_by_label((V1, "v1"), (V1, "v3")) == [("llm_score@v1", 2), ("llm_score@v3", 2)]


def test_scores_of_impressions_that_do_not_tell_whose_they_are_count_for_the_recommender_s_version() -> None:
    assert judged_by_label((V1, None), (V1, 3.0), (V1, "")) == [("llm_score@v1", 6)]


def test_a_score_that_is_no_finite_number_and_a_list_without_scores_say_nothing() -> None:
    odd: dict[str, FeatureValue] = {"a": "high", "b": float("nan")}
    events = [*shown("r1", 0, scores=odd), *shown("r2", 1), *taken("r1", 2), *shown("r3", 90_000, scores={"a": 0.0})]
    state = Outcomes(ATTRIBUTION_MS, WINDOW_MS, 0.1, SETTLE_MS, labels=DelayedLabels(WINDOW_MS, 1, 0.1, SETTLE_MS))
    assert score_windows(found(state, events, later(99_000))) == []


def test_scores_that_no_longer_tell_are_an_alarm_of_the_language_model_and_a_canary_s_are_not() -> None:
    (first, *_) = told = signals(found(with_labels(), scored_traffic(900, 600)))
    assert {(signal.detector, signal.component, signal.family) for signal in told} == {
        ("llm_auc", LANGUAGE_MODEL, Family.LABELS)
    }
    assert 600_000 < first.window_end_ms <= 720_000
    canary = found(with_labels(), scored_traffic(900, 600, variant="canary"))
    assert (signals(canary), score_windows(canary)) == ([], [])


@settings(max_examples=10, deadline=None)
@given(stop=st.integers(0, 4_000), cuts=st.lists(st.integers(0, 4_000), max_size=5))
def test_windows_of_scores_do_not_depend_on_where_chunks_end_or_a_restart_comes(stop: int, cuts: list[int]) -> None:
    events = scored_traffic(500, 300)
    whole = found(with_labels(), events)
    running, restored = with_labels(), with_labels()
    pieces: list[Told] = []
    for start, end in pairwise(sorted({0, *(cut for cut in cuts if cut < stop), stop})):
        pieces += found(running, events[start:end])
    restored.restore(pickle.loads(pickle.dumps(running.snapshot())))
    pieces += found(restored, events[stop:])
    assert score_windows(pieces) == score_windows(whole)
    assert signals(pieces) == signals(whole)
    assert len(score_windows(whole)) >= 7


def test_a_restored_state_still_knows_how_far_event_time_has_come() -> None:
    running, restored = outcomes(), outcomes()
    found(running, later(70_000))
    restored.restore(running.snapshot())
    assert found(restored, shown("late", 2), later(80_000)) == []


def test_only_impressions_and_answers_that_name_a_request_are_outcomes() -> None:
    kinds = list(EventType)
    events = [event(n, kind, request_id="r1") for n, kind in enumerate(kinds)]
    events += [event(20, EventType.CLICK), event(21, EventType.PURCHASE, domain="products", request_id="r2")]
    movies, products = outcomes_of(Admitted(partition="log", batch=batch(events), rejects=[], duplicates=[]))
    assert [outcome.event.type for outcome in movies[1].outcomes] == [
        EventType.IMPRESSION,
        EventType.CLICK,
        EventType.WATCH,
        EventType.PURCHASE,
    ]
    assert (movies[0], movies[1].model) == ("movies", MOVIES)
    (purchase,) = products[1].outcomes
    assert (products[0], purchase.event, purchase.user) == ("products", events[-1], hash64("u1"))
    assert purchase.ts_ms == events[-1].ts


def test_an_application_s_own_impressions_do_not_take_a_request_out_of_its_rollout() -> None:
    """What it posts tells of no rollout, and may be read before what the API logged of the answer."""
    posted = shown("r1", 0, "a", version=None, variant="")
    logged = shown("r1", 0, version=V2, rollout=7, stage=2, variant="canary")
    for order in ((posted, logged), (logged, posted)):
        (window,) = windows(found(outcomes(), *order, later(ATTRIBUTION_MS + 1)))
        assert (window.version, window.rollout_id, window.stage, window.variant) == (V2, 7, 2, "canary")
        assert (window.users, window.impressions) == (1, 2)
