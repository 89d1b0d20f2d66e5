"""Snapshots of the outcomes from before: states as earlier releases left them are gone on from."""

from typing import Any

import numpy as np
import pytest

from flows.open_requests import FALLBACK
from flows.outcomes import Outcomes
from online_models.contracts.ids import hash64
from online_models.contracts.rollouts import VariantWindow
from tests.outcome_events import V1, V2, WINDOW_MS, found, last_windows, later, outcomes, shown, taken, windows
from tests.samples import MOVIES

U1, U2 = hash64("u1"), hash64("u2")


def written(schema: int) -> tuple[Any, ...]:
    """What a release wrote 5 seconds into event time: three open requests of rollout 7, one outside of it, and windows.

    Schema 1 knows no scores, schema 2 has them and, in its later form, whose they are.
    """
    fresh = outcomes().snapshot()
    scores: tuple[Any, ...] = () if schema == 1 else ({"a": 0.5}, None)
    requests = {
        "stable": (4_000, U1, "v1", 7, 1, False, ("a", "b"), ("b",), *scores),
        "canary": (4_100, U2, "v2", 7, 1, True, ("a",), (), *scores),
        "neither": (4_200, U2, "popularity", 7, 1, False, ("c",), (), *scores),
        "outside": (4_300, U2, "v1", 0, -1, False, ("c",), (), *scores),
    }
    early = {"unknown": (("a", 4_900),)}
    exposed = (7, np.array([U1], np.uint64))
    at = (0, WINDOW_MS)
    old = [
        ("movies", "v1", 7, 1, *at, 10, 4, 30, 9, 60, 11),
        ("movies", "v2", 7, 1, *at, 2, 1, 3, 1, 6, 1),
        ("movies", "v1", 0, -1, *at, 0, 0, 5, 1, 10, 1),
    ]
    labels = () if schema == 1 else (fresh[7],)
    return (schema, requests, early, 4_900, exposed, old, fresh[6], *labels)


def resumed(schema: int) -> Outcomes:
    state = outcomes()
    state.restore(written(schema))
    return state


@pytest.mark.parametrize("schema", [1, 2])
def test_a_state_from_before_there_were_variants_goes_on_in_the_rows_that_were_given_one(schema: int) -> None:
    told = windows(found(resumed(schema), taken("canary", 5_000), later(9_000)))
    rollout = [each for each in told if each.rollout_id == 7]
    at = (0, WINDOW_MS)
    assert rollout == [
        # U1 was exposed before, U2 is now, by the canary that takes over its window
        VariantWindow(MOVIES, V1, 7, 1, *at, 10, 4, 31, 10, 62, 12, "stable", stage_users=1),
        VariantWindow(MOVIES, V2, 7, 1, *at, 3, 2, 4, 2, 7, 2, "canary", stage_users=1, first_items=1),
        VariantWindow(MOVIES, FALLBACK, 7, 1, *at, 0, 0, 1, 0, 1, 0, "fallback"),
    ]


@pytest.mark.parametrize("schema", [1, 2])
def test_outside_rollouts_a_window_without_a_variant_is_over_and_one_of_the_stable_version_begins(schema: int) -> None:
    (window,) = [each for each in windows(found(resumed(schema), later(9_000))) if each.rollout_id == 0]
    assert (window.variant, window.requests, window.users) == ("stable", 1, 1)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_state_from_before_goes_on_like_one_of_today(schema: int) -> None:
    old, new = resumed(schema), outcomes()
    new.restore(old.snapshot())
    assert new.snapshot()[0] == 3
    story = [shown("unknown", 4_950, user="u3", rollout=7, stage=1), later(20_000)]
    assert found(new, *story) == found(old, *story)
    (window,) = [
        each for each in last_windows(found(resumed(schema), *story)) if (each.version, each.rollout_id) == (V1, 7)
    ]
    assert window.clicks == 13  # with that of an answer that was there before its impression


def test_a_row_from_before_impressions_told_whose_scores_they_carry_is_read() -> None:
    schema, requests, *rest = written(2)
    state = outcomes()
    state.restore((schema, {name: row[:-1] for name, row in requests.items()}, *rest))
    assert found(state, later(20_000)) == found(resumed(2), later(20_000))


def test_a_state_of_a_later_release_is_refused() -> None:
    with pytest.raises(ValueError, match="expected schema 3, got 4"):
        outcomes().restore((4, *outcomes().snapshot()[1:]))
