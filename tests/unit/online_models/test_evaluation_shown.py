"""Impressions of a log with what became of them, and a candidate's places on them."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from online_models.contracts.events import (
    ATTRIBUTION_MS,
    SHADOW_PLACE_FEATURE,
    SHADOW_VERSION_FEATURE,
    Event,
    EventType,
    FeatureValue,
)
from online_models.errors import SourceError
from online_models.evaluation.off_policy import (
    USER_ITEM,
    places_of_policy,
    places_of_shadow,
    read_policy,
    study_candidate,
    study_positions,
)
from online_models.evaluation.shown import MOST_PLACES, Shown, read_shown
from online_models.off_policy import Estimated, Ranked, Reason, Refused, Terms
from tests.off_policy_worlds import Shelf
from tests.samples import event, event_id
from tests.strategies import ndjson

T0 = 1_767_225_600_000


def impression(
    number: int,
    item_id: str,
    position: int | None,
    request_id: str | None = "r1",
    *,
    user_id: str = "u1",
    ts: int = T0,
    propensity: float | None = None,
    features: dict[str, FeatureValue] | None = None,
) -> Event:
    return Event(
        event_id=event_id(number),
        type=EventType.IMPRESSION,
        user_id=user_id,
        item_id=item_id,
        ts=ts,
        domain="movies",
        request_id=request_id,
        position=position,
        model_version="v1",
        propensity=propensity,
        features=features,
    )


def click_on(shown: Event, number: int) -> Event:
    """A click that names its request."""
    return msgspec.structs.replace(shown, event_id=event_id(number), type=EventType.CLICK)


def shown_of(path: Path, events: Sequence[Event]) -> Shown:
    (path / "log.ndjson").write_bytes(ndjson(events))
    return read_shown([path / "log.ndjson"])


def test_an_impression_is_taken_by_its_request_or_soon_by_its_user(tmp_path: Path) -> None:
    shown = shown_of(
        tmp_path,
        [
            impression(1, "a", 0),
            impression(2, "b", 1),
            impression(3, "c", 2),
            impression(4, "d", 3),
            impression(5, "e", 4),
            event(6, EventType.CLICK, item_id="a", ts=T0 + 100 * ATTRIBUTION_MS, request_id="r1"),
            event(7, EventType.WATCH, item_id="b", ts=T0 + ATTRIBUTION_MS),
            event(8, EventType.CLICK, item_id="c", ts=T0 + ATTRIBUTION_MS + 1),
            event(9, EventType.PURCHASE, item_id="d", ts=T0 + 1, user_id="u2"),
            event(10, EventType.RATING, item_id="e", ts=T0 + 1, request_id="r1"),
        ],
    )
    assert shown.taken.tolist() == [True, True, False, False, False]


def test_what_comes_twice_counts_once_and_what_belongs_to_no_list_is_left_out(tmp_path: Path) -> None:
    twice = impression(1, "a", 0, propensity=0.5)
    shown = shown_of(tmp_path, [twice, twice, impression(2, "b", None), impression(3, "c", 1, request_id=None)])
    assert (len(shown), shown.listless, shown.items, shown.requests, shown.versions) == (1, 2, ["a"], ["r1"], ["v1"])
    assert shown.propensity.tolist() == [0.5]


def test_a_log_without_impressions_has_none(tmp_path: Path) -> None:
    shown = shown_of(tmp_path, [event(1)])
    assert len(shown) == 0
    assert study_positions(shown).looks.tolist() == []


def test_places_of_the_shadow_are_read_from_the_impressions(tmp_path: Path) -> None:
    placed: dict[str, FeatureValue] = {SHADOW_VERSION_FEATURE: "v2", SHADOW_PLACE_FEATURE: 1.0}
    said: list[dict[str, FeatureValue] | None] = [placed, {SHADOW_VERSION_FEATURE: "v2"}, None]
    shown = shown_of(tmp_path, [impression(n, f"i{n}", n, features=features) for n, features in enumerate(said)])
    places = places_of_shadow(shown, "v2")
    assert places.told.tolist() == [True, True, False]
    assert places.place.tolist() == [1, -1, -1]
    with pytest.raises(SourceError, match="no impression has a place by v3; versions in the shadow: v2"):
        places_of_shadow(shown, "v3")


@pytest.mark.parametrize(
    "place",
    ["1e300", "NaN", "Infinity", "-1.0", "-1e300", "true", "1.5", str(MOST_PLACES), f"{MOST_PLACES}.0", '"1"', "[]"],
)
def test_a_place_in_the_shadow_that_no_list_has_is_nowhere(place: str, tmp_path: Path) -> None:
    told: dict[str, FeatureValue] = {SHADOW_VERSION_FEATURE: "v2", SHADOW_PLACE_FEATURE: 7.25}
    (line,) = ndjson([impression(1, "a", 0, features=told)]).splitlines()
    (tmp_path / "log.ndjson").write_bytes(
        line.replace(b"7.25", place.encode()) + b"\n" + ndjson([impression(2, "b", 1)])
    )
    shown = read_shown([tmp_path / "log.ndjson"])
    assert shown.shadow_place.tolist() == [-1] * len(shown)
    assert len(study_positions(shown).looks) == 2


@pytest.mark.parametrize("position", [2**31 - 1, MOST_PLACES, -1, -(2**31)])
def test_an_impression_at_a_position_that_no_list_has_belongs_to_none(position: int, tmp_path: Path) -> None:
    shown = shown_of(
        tmp_path, [impression(1, "a", 0), impression(2, "b", position), impression(3, "c", MOST_PLACES - 1)]
    )
    assert (shown.position.tolist(), len(study_positions(shown).looks)) == ([0, MOST_PLACES - 1], MOST_PLACES)


def test_a_list_of_the_request_comes_before_one_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "policy.ndjson"
    file.write_text('{"request_id":"r1","items":["b","a"],"propensities":[0.5,1]}\n\n{"user_id":"u1","items":["a"]}\n')
    events = [
        impression(1, "a", 0),
        impression(2, "b", 1),
        impression(3, "a", 0, "r2"),
        impression(4, "a", 0, "r3", user_id="u2"),
    ]
    places = places_of_policy(shown_of(tmp_path, events), read_policy(file))
    assert places.told.tolist() == [True, True, True, False]
    assert places.place.tolist() == [1, 0, 0, -1]
    assert places.probability.tolist() == [1.0, 0.5, 1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a list a line, got none"),
        ("nonsense", "line 1: JSON is malformed"),
        ('{"items":["a"]}', "expected one of request_id and user_id"),
        ('{"items":["a"],"request_id":"r","user_id":"u"}', "expected one of request_id and user_id"),
        (
            '{"items":["a"],"user_id":"u"}\n{"items":["b"],"user_id":"u"}',
            "line 2: .*a second one for 'u'",
        ),
        ('{"items":[],"user_id":"u"}', "expected distinct items, at least one"),
        ('{"items":["a","a"],"user_id":"u"}', "expected distinct items, at least one"),
        ('{"items":["a"],"user_id":"u","propensities":[0.5,0.5]}', "as many propensities"),
        ('{"items":["a"],"user_id":"u","propensities":[1.5]}', "expected propensities within"),
    ],
)
def test_a_file_of_lists_that_is_none_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.ndjson"
    file.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_policy(file)


def test_a_missing_file_of_lists_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_policy(tmp_path / "none.ndjson")


def explored(requests: int, epsilon: float, seed: int) -> list[Event]:
    """Lists of two places, the second given to chance among `b` and nine others; `c3` is taken twice as often as `b`."""
    rng = np.random.default_rng(seed)
    made = []
    for request in range(requests):
        drawn = rng.random() < epsilon
        item, propensity = (f"c{rng.integers(9)}", epsilon / 9) if drawn else ("b", 1 - epsilon)
        user, ts = f"u{request}", T0 + 1_000 * request
        first = impression(3 * request, "a", 0, f"r{request}", user_id=user, ts=ts, propensity=1.0)
        second = impression(3 * request + 1, item, 1, f"r{request}", user_id=user, ts=ts, propensity=propensity)
        made += [first, second]
        if rng.random() < (0.4 if item == "c3" else 0.2):
            made.append(click_on(second, 3 * request + 2))
    return made


def test_places_given_to_chance_are_estimated_by_their_propensities(tmp_path: Path) -> None:
    shown = shown_of(tmp_path, explored(6_000, 0.9, 1))
    file = tmp_path / "policy.ndjson"
    file.write_text("".join(f'{{"user_id":"u{n}","items":["a","c3"]}}\n' for n in range(6_000)))
    places = places_of_policy(shown, read_policy(file))
    found = study_candidate(shown, places, study_positions(shown), Terms(min_ess=300)).slots
    assert found is not None
    for each in found.values():
        assert isinstance(each, Estimated)
        assert each.covers(0.4)
        assert not each.covers(0.2)
        assert each.diagnosis.mean_weight == pytest.approx(1, abs=0.1)


def test_one_ranker_s_log_refuses_a_candidate_for_want_of_positions(tmp_path: Path) -> None:
    shown = shown_of(tmp_path, [impression(n, f"i{n % 5}", n % 5, f"r{n // 5}") for n in range(100)])
    file = tmp_path / "policy.ndjson"
    file.write_text('{"user_id":"u1","items":["i1","i0"]}\n')
    study = study_candidate(
        shown, places_of_policy(shown, read_policy(file)), study_positions(shown, USER_ITEM), Terms()
    )
    assert isinstance(study.ranked, Refused)
    assert study.ranked.reason is Reason.NO_POSITIONS
    assert study.ranked.detail.startswith("position propensities: position 0, which the others are compared with")


def test_a_log_of_several_rankers_gives_positions_and_values_a_candidate(tmp_path: Path) -> None:
    shelf = Shelf.drawn(3, positions=4, items=6)
    position, clicked, item = shelf.swaps(3, 2_000)
    made = []
    for row, (place, taken, code) in enumerate(zip(position.tolist(), clicked.tolist(), item.tolist(), strict=True)):
        shown_there = impression(2 * row, f"i{code}", place, f"r{row // 4}", user_id=f"u{row // 4}")
        made += [shown_there, click_on(shown_there, 2 * row + 1)] if taken else [shown_there]
    shown = shown_of(tmp_path, made)
    np.testing.assert_array_equal(shown.taken, clicked)
    study = study_positions(shown)
    assert study.positions is not None
    assert (np.abs(study.looks - shelf.theta)[1:] < 4 * study.positions.standard_error[1:]).all()
    best = [f"i{code}" for code in np.argsort(-shelf.taken)[:4].tolist()]
    file = tmp_path / "policy.ndjson"
    lines = [{"request_id": f"r{n}", "items": best} for n in range(0, 2_000, 2)]
    file.write_bytes(msgspec.json.Encoder().encode_lines(lines))
    found = study_candidate(shown, places_of_policy(shown, read_policy(file)), study, Terms())
    assert found.requests == 1_000
    assert isinstance(found.ranked, Ranked)
    assert found.ranked.order.lower > 0
    none = study_candidate(shown, places_of_policy(shown, read_policy(file)), study, Terms(), version="v9")
    assert isinstance(none.ranked, Refused)
