"""Intention to treat: a request counts for the arm of its user, whoever answered it; and what of that the monitors hear."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from flows.open_requests import Outcome
from flows.outcomes import Told
from flows.triggers import Signal
from online_models.contracts.events import FeatureValue
from online_models.contracts.ids import ModelVersion, hash64
from tests.outcome_events import (
    V1,
    V2,
    found,
    groups,
    last_groups,
    last_windows,
    later,
    outcomes,
    rows,
    shown,
    stand_in,
    taken,
    windows,
)

V3 = ModelVersion("v3")


def arms(told: Sequence[Told]) -> list[tuple[ModelVersion, str, int, int, int]]:
    """Version, variant, requests, users and hits of each window in a rollout."""
    return [(w.version, w.variant, w.requests, w.users, w.hits) for w in last_windows(told) if w.rollout_id]


def test_who_stands_in_for_an_arm_s_version_counts_for_the_arm() -> None:
    told = found(
        outcomes(),
        shown("r1", 0, user="u1", version=V2, rollout=7, stage=1, variant="canary"),
        stand_in("r2", 1, user="u2", asked="canary", version=V2),
        stand_in("r3", 2, user="u3", asked="canary", version=V2, by=V1),
        stand_in("r4", 3, user="u4", asked="stable", version=V1),
        stand_in("r5", 4, user="u5", asked="arm", version=V3, by=V1),
        taken("r2", 5),
        taken("r4", 6),
        later(5_000),
    )
    assert arms(told) == [(V2, "canary", 3, 3, 1), (V1, "stable", 1, 1, 1), (V3, "arm", 1, 1, 0)]
    sums = {(g.variant, g.version): rows(g)[0].sum() for g in last_groups(told)}
    assert sums == {("canary", V2): 3, ("stable", V1): 1, ("arm", V3): 1}


@pytest.mark.parametrize(
    ("said", "variant", "version"),
    [
        ({"asked_variant": "fallback", "asked_version": "v2"}, "fallback", V1),
        ({"asked_variant": "control", "asked_version": "v2"}, "fallback", V1),
        ({"asked_variant": 3.0, "asked_version": "v2"}, "fallback", V1),
        ({"asked_variant": "canary"}, "canary", V1),
        ({"asked_variant": "canary", "asked_version": ""}, "canary", V1),
        ({"asked_variant": "canary", "asked_version": 2.0}, "canary", V1),
        ({"asked_variant": "canary", "asked_version": "v" * 300}, "canary", V1),
        ({"asked_version": "v2"}, "fallback", V1),
    ],
)
def test_an_arm_that_is_none_of_ours_is_not_counted_for(
    said: dict[str, FeatureValue], variant: str, version: ModelVersion
) -> None:
    event = shown("r1", 0, version=V1, rollout=7, stage=1, variant="fallback", asked=said)
    (window,) = windows(found(outcomes(), event, later(5_000)))
    assert (window.variant, window.version) == (variant, version)


@pytest.mark.parametrize("stage", [1e30, -2.0, 20.0, 0.5, float("inf"), float("nan"), "1", ["1"]])
def test_a_stage_that_no_plan_has_is_outside_of_rollouts(stage: FeatureValue) -> None:
    event = shown("r1", 0, rollout=7, variant="canary", version=V2, asked={"stage": stage})
    told = found(outcomes(), event, later(5_000))
    (window,) = windows(told)
    assert (window.rollout_id, window.stage, groups(told)) == (0, -1, [])


@pytest.mark.parametrize("stage", [-1.0, 0.0, 19.0, 3])
def test_a_stage_that_a_plan_may_have_is_that_stage(stage: FeatureValue) -> None:
    (window,) = windows(found(outcomes(), shown("r1", 0, rollout=7, asked={"stage": stage}), later(5_000)))
    assert (window.rollout_id, window.stage) == (7, stage)


@pytest.mark.parametrize(("rollout", "counted"), [(2**63 - 1, 2**63 - 1), (2**63, 0), (-1, 0), (10**30, 0)])
def test_a_rollout_that_no_row_may_have_is_none(rollout: int, counted: int) -> None:
    (window,) = windows(found(outcomes(), shown("r1", 0, rollout=rollout, stage=1), later(5_000)))
    assert window.rollout_id == counted


# --- what the monitors hear

MODEL, POPULARITY = 0.30, 0.10


def ramp(
    strangers: float, weights: Sequence[float], requests: int, rng: np.random.Generator, rates: Sequence[float] = ()
) -> Iterator[Outcome]:
    """A rollout through its weights (0: before it, 1: promoted), so many requests each, whatever the arm equally good.

    strangers : share of users whom popularity answers; rates : of the model at each weight
    """
    number = 0
    for place, weight in enumerate(weights):
        rate = rates[place] if rates else MODEL
        for _ in range(requests):
            user, name, ts_ms = f"u{rng.integers(2_000)}", f"r{number}", 1_000 * number
            number += 1
            stranger, canary = _share(user, "stranger") < strangers, _share(user, "arm") < weight
            arm, version = ("canary", V2) if canary else ("stable", V1)
            if weight in (0, 1):
                variant, by = ("fallback", None) if stranger else ("stable", V1)
                yield from shown(name, ts_ms, "a", user=user, version=by, variant=variant)
            elif stranger:
                yield from stand_in(name, ts_ms, user=user, asked=arm, version=version, stage=place)
            else:
                yield from shown(name, ts_ms, "a", user=user, version=version, rollout=7, stage=place, variant=arm)
            if rng.random() < (POPULARITY if stranger else rate):
                yield from taken(name, ts_ms)


def _share(user: str, salt: str) -> float:
    return hash64(f"{salt}|{user}") / 2**64


WEIGHTS = (0, 0, 0.05, 0.25, 0.5, 0.75, 0.98, 1)


@pytest.mark.parametrize("strangers", [0.1, 0.3])
def test_a_ramp_of_an_equal_canary_is_no_drift(strangers: float) -> None:
    for seed in range(2):
        told = found(outcomes(), list(ramp(strangers, WEIGHTS, 6_000, np.random.default_rng(seed))))
        assert [each.reason for each in told if isinstance(each, Signal)] == []
        assert sum(w.requests for w in last_windows(told) if w.variant == "canary") > 10_000


def test_a_fall_of_stable_during_a_ramp_is_heard() -> None:
    falls = [0.3] * 4 + [0.15] * 4
    told = found(outcomes(), list(ramp(0.1, WEIGHTS, 6_000, np.random.default_rng(1), falls)))
    assert {each.detector for each in told if isinstance(each, Signal)} == {"hit_rate", "ctr"}


def heard(*, variant: str, rollout: int, asked: str) -> bool:
    """Whether a fall of such requests is an alarm."""
    events: list[Outcome] = []
    said: dict[str, FeatureValue] = {"asked_variant": asked, "asked_version": "v1"} if asked else {}
    for number in range(800):
        name, ts_ms = f"r{number}", 1_000 * number
        events += shown(name, ts_ms, "a", rollout=rollout, stage=1 if rollout else -1, variant=variant, asked=said)
        if number % (2 if number < 400 else 10) == 0:
            events += taken(name, ts_ms)
    return any(isinstance(each, Signal) for each in found(outcomes(), events))


@pytest.mark.parametrize(
    ("variant", "rollout", "asked", "expected"),
    [
        *(("fallback", 0, "", True), ("stable", 0, "", True), ("", 0, "", True)),
        *(("canary", 0, "", False), ("arm", 0, "", False)),
        *(("stable", 7, "", True), ("fallback", 7, "stable", True)),
        *(("canary", 7, "", False), ("arm", 7, "", False)),
        *(("fallback", 7, "canary", False), ("fallback", 7, "arm", False)),
        *(("fallback", 7, "", False), ("", 7, "", False)),
    ],
)
def test_heard_is_what_is_outside_of_rollouts_and_what_is_of_stable_s_users(
    variant: str, rollout: int, asked: str, expected: bool
) -> None:
    assert heard(variant=variant, rollout=rollout, asked=asked) is expected
