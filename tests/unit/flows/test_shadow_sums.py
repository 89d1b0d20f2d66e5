"""Shadow sums: what was shown where, where the shadow's list has it, and what was taken; told with each change.

That any order, pieces and restarts give the counts of a plain loop is tested with those of the variants, in `test_exposures`.
"""

from typing import Any

import numpy as np
import pytest

from flows.open_requests import Outcome
from flows.outcomes import Outcomes
from online_models.contracts.events import FeatureValue
from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import SHADOW_PLACES, ShadowCounts
from tests.outcome_events import V1, V2, found, last_shadows, later, outcomes, shadows, shown, taken
from tests.samples import MOVIES

V3 = ModelVersion("v3")


def cells(counts: ShadowCounts) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    """(position, place) -> impressions, and those taken; where there are any."""
    tables: Any = np.frombuffer(counts.counts, "<u4").reshape(2, 20, 61)
    shown, took = ({(p, q): int(table[p, q]) for p, q in np.argwhere(table).tolist()} for table in tables)
    return shown, took


def asked(request: str, ts_ms: int, shadow: FeatureValue | None = V2, stage: int = 0, **more: Any) -> list[Outcome]:
    """A request whose items the shadow has at 1, nowhere, and at 0."""
    at = {"a": 1.0, "c": 0.0}
    return shown(request, ts_ms, ("a", "b", "c"), shadow=shadow, stage=stage, **{"places": at, **more})


def told(*events: list[Outcome]) -> list[ShadowCounts]:
    return last_shadows(found(outcomes(), *events, later(60_000)))


def test_impressions_and_what_was_taken_are_counted_by_position_and_the_shadow_s_place() -> None:
    (counts,) = told(asked("r1", 5), taken("r1", 6, "a"), asked("r2", 7), taken("r2", 8, "b"), taken("r2", 9, "a"))
    assert (counts.model, counts.version, counts.since_ms) == (MOVIES, V2, 5)
    assert cells(counts) == ({(0, 1): 2, (1, SHADOW_PLACES): 2, (2, 0): 2}, {(0, 1): 2, (1, SHADOW_PLACES): 1})


@pytest.mark.parametrize(
    "nobody",
    [
        asked("r", 5, shadow=None),
        asked("r", 5, rollout=7, stage=1),  # people are exposed to it
        asked("r", 5, stage=-1),  # before the first stage
        asked("r", 5, shadow=3.0),
        asked("r", 5, first=20),
        asked("r", 5, first=65_535),
    ],
)
def test_what_is_of_no_shadow_or_far_down_is_not_counted(nobody: list[Outcome]) -> None:
    assert told(nobody) == []


@pytest.mark.parametrize("place", [60.0, -1.0, 0.5, float("nan"), float("inf"), "3", ["3"]])
def test_a_place_that_no_list_has_is_none(place: FeatureValue) -> None:
    (counts,) = told(shown("r", 5, ("a",), shadow=V2, stage=0, places={"a": place}, first=19))
    assert cells(counts) == ({(19, SHADOW_PLACES): 1}, {})


def test_sums_grow_and_only_those_that_changed_are_told() -> None:
    state = outcomes()
    (first,) = shadows(found(state, asked("r1", 5), later(5_000)))
    assert shadows(found(state, shown("r2", 5_001), later(10_000))) == []
    (second,) = shadows(found(state, asked("r3", 11_000), later(20_000)))
    assert (first.since_ms, second.since_ms, cells(first)[0][0, 1], cells(second)[0][0, 1]) == (5, 5, 1, 2)


def test_the_last_two_versions_are_kept_and_one_that_comes_again_after_them_begins_anew() -> None:
    versions = [(1, V1), (2, V2), (3, V1), (4, V2), (5, V3), (6, V2), (7, V1)]
    counted = told(*(asked(f"r{ts_ms}", ts_ms, shadow=version) for ts_ms, version in versions))
    assert [(each.version, each.since_ms, cells(each)[0][0, 1]) for each in counted] == [
        (V1, 1, 2), (V2, 2, 3), (V3, 5, 1), (V1, 7, 1),
    ]  # fmt: skip


def test_a_restored_state_counts_on() -> None:
    state, restored = outcomes(), outcomes()
    found(state, asked("r1", 5), later(5_000), asked("r2", 5_500))
    restored.restore(state.snapshot())
    after = [taken("r2", 5_600, "c"), asked("r3", 6_000, shadow=V3), later(60_000)]
    expected = shadows(found(state, *after))
    assert [(each.version, each.since_ms) for each in expected] == [(V2, 5), (V3, 6_000)]
    assert cells(expected[0]) == ({(0, 1): 2, (1, SHADOW_PLACES): 2, (2, 0): 2}, {(2, 0): 1})
    assert shadows(found(restored, *after)) == expected


def test_only_shadowed_requests_carry_places() -> None:
    state: Outcomes = outcomes()
    found(state, asked("shadowed", 5), asked("exposed", 5, rollout=7), shown("plain", 5))
    requests = state.snapshot()[1]
    assert {name: row[-2:] for name, row in requests.items()} == {
        "shadowed": (V2, {"a": (0, 1), "b": (1, SHADOW_PLACES), "c": (2, 0)}),
        "exposed": (None, {}),
        "plain": (None, {}),
    }
