"""Triggers: hysteresis, cooldown, budget, and what is exempt from them."""

import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.triggers import DAY_MS, Decision, Family, Signal, Suppressed, Trigger, TriggerPolicy, TriggerState, due, step
from online_models.contracts.ids import ModelName

HOUR_MS = 3_600_000
POLICY = TriggerPolicy(hysteresis=2, cooldown_ms=3 * HOUR_MS, daily_budget=2)


def signal(hour: int, drifted: bool = True, alone: bool = False) -> Signal:
    return Signal(ModelName("movies"), "composite", (hour - 1) * HOUR_MS, hour * HOUR_MS, drifted, alone, "moved")


def run(signals: list[Signal], policy: TriggerPolicy = POLICY) -> list[list[Decision]]:
    state, decisions = TriggerState(), []
    for each in signals:
        state, decision = step(state, each, policy)
        decisions.append(decision)
    return decisions


def reasons(decisions: list[list[Decision]]) -> list[str]:
    return [
        decision.reason.split(":")[0] if isinstance(decision, Suppressed) else "Trigger"
        for each in decisions
        for decision in each
    ]


def test_one_drifting_window_is_not_enough() -> None:
    assert reasons(run([signal(1), signal(2)])) == ["hysteresis", "Trigger"]


def test_a_calm_window_in_between_starts_the_count_again() -> None:
    assert reasons(run([signal(1), signal(2, drifted=False), signal(3)])) == ["hysteresis", "hysteresis"]


def test_cooldown_and_then_arming_hold_the_next_trigger_back() -> None:
    decisions = run([signal(hour) for hour in range(1, 9)])
    assert reasons(decisions) == [
        "hysteresis", "Trigger", "cooldown", "cooldown", "not armed", "not armed", "not armed", "Trigger",
    ]  # fmt: skip


def test_calm_windows_arm_again_before_twice_the_cooldown() -> None:
    calm = [signal(hour, drifted=False) for hour in (3, 4)]
    assert reasons(run([signal(1), signal(2), *calm, signal(5), signal(6)]))[-2:] == ["hysteresis", "Trigger"]


def test_an_outcome_alarm_triggers_alone() -> None:
    assert reasons(run([signal(1, alone=True)])) == ["Trigger"]


def test_a_moved_feature_does_not_make_a_fall_of_outcomes_wait_and_the_reverse_does() -> None:
    def fall(hour: int) -> Signal:
        return replace(signal(hour, alone=True), family=Family.OUTCOME)

    moved, longer = [signal(1), signal(2)], signal(1, alone=True)
    assert reasons(run([*moved, fall(3), fall(4)])) == ["hysteresis", "Trigger", "Trigger", "cooldown"]
    assert reasons(run([longer, fall(2)])) == ["Trigger", "Trigger"]
    assert reasons(run([fall(1), signal(2), signal(3)])) == ["Trigger", "hysteresis", "cooldown"]


def test_the_budget_bounds_a_day_and_is_fresh_on_the_next() -> None:
    policy = TriggerPolicy(hysteresis=1, cooldown_ms=0, daily_budget=2)
    day = [signal(hour, alone=True) for hour in (1, 2, 3, 25)]
    assert reasons(run(day, policy)) == ["Trigger", "Trigger", "budget", "Trigger"]


def test_a_trigger_that_waits_comes_with_the_first_signal_after_it_has_settled() -> None:
    alarm = replace(signal(1, alone=True), settle_ms=2 * HOUR_MS)
    decisions = run([alarm, signal(2, drifted=False), signal(2, alone=True), signal(3, drifted=False)])
    assert [len(each) for each in decisions] == [1, 0, 1, 1]
    assert decisions[3] == [Trigger(alarm)]
    assert "waiting" in reasons(decisions)[0]
    assert "is waiting already" in reasons(decisions)[1]


def test_a_trigger_that_waits_may_be_asked_for_without_a_signal() -> None:
    alarm = replace(signal(1, alone=True), settle_ms=2 * HOUR_MS)
    state, _ = step(TriggerState(), alarm, POLICY, "cold")
    assert due(state, 3 * HOUR_MS - 1) == (state, [])
    state, decisions = due(state, 3 * HOUR_MS)
    assert decisions == [Trigger(alarm, "cold")]
    assert (state.waiting, state.spent) == (None, {"cold": 1})


def test_a_level_has_a_budget_of_its_own() -> None:
    policy = TriggerPolicy(hysteresis=1, cooldown_ms=0, daily_budget=1)
    state, told = TriggerState(), []
    for hour, level in ((1, "warm"), (2, "warm"), (3, "cold"), (4, "cold"), (25, "warm")):
        state, decisions = step(state, signal(hour, alone=True), policy, level)
        told.append(decisions)
    assert reasons(told) == ["Trigger", "budget", "Trigger", "budget", "Trigger"]


def test_what_is_answered_already_asks_for_nothing_once_it_has_stood() -> None:
    state, told = TriggerState(), []
    for hour, answered in ((1, "near-line: yes"), (2, "near-line: yes"), (3, "")):
        state, decisions = step(state, signal(hour), POLICY, "warm", answered)
        told.append(decisions)
        assert state.since_ms == (HOUR_MS if hour < 3 else None)
    assert reasons(told) == ["hysteresis", "near-line", "Trigger"]


def test_calm_windows_end_what_has_stood_since_the_first() -> None:
    state, since = TriggerState(), []
    for hour, drifted in enumerate((True, False, True, False, False, True), 1):
        state, _ = step(state, signal(hour, drifted), POLICY, answered="near-line")
        since.append(state.since_ms and state.since_ms // HOUR_MS)
    assert since == [1, 1, 1, 1, None, 6]


def test_a_state_survives_as_plain_values() -> None:
    alarm = replace(signal(1, alone=True), settle_ms=HOUR_MS, family=Family.LABELS, effect=0.25)
    state, _ = step(TriggerState(), signal(1, alone=True), POLICY, "warm")
    state, _ = step(state, replace(alarm, window_end_ms=9 * HOUR_MS), POLICY, "lora")
    assert state.waiting is not None
    assert TriggerState.unpacked(pickle.loads(pickle.dumps(state.packed()))) == state


@pytest.mark.parametrize("bad", [{"hysteresis": 0}, {"cooldown_ms": -1}, {"daily_budget": 0}])
def test_an_impossible_policy_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected hysteresis"):
        TriggerPolicy(**{"hysteresis": 1, "cooldown_ms": 0, "daily_budget": 1, **bad})


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 2), st.integers(0, 3)), max_size=60))
def test_no_sequence_of_signals_exceeds_the_rate_or_goes_unanswered(
    steps: list[tuple[int, bool, int, int]],
) -> None:
    hour, signals = 0, []
    for gap, drifted, kind, settle in steps:  # kind 0: of a window, 1: of a longer one, 2: a fall of outcomes
        hour += gap
        told = signal(hour, drifted, kind > 0)
        signals.append(
            replace(told, settle_ms=settle * HOUR_MS, family=Family.OUTCOME if kind == 2 else Family.COMPOSITE)
        )
    fired: list[tuple[int, bool]] = []
    for each, decided in zip(signals, run(signals), strict=True):
        triggers = [decision for decision in decided if isinstance(decision, Trigger)]
        fired += [(each.window_end_ms, trigger.signal.fall) for trigger in triggers]
        assert sum(decision.signal is each for decision in decided) == each.drifted
    falls = [moment for moment, fall in fired if fall]
    assert all(later - earlier >= POLICY.cooldown_ms for earlier, later in pairwise(falls))
    for (earlier, _), (later, fall) in pairwise(fired):
        assert fall or later - earlier >= POLICY.cooldown_ms
    days = [moment // DAY_MS for moment, _ in fired]
    assert all(days.count(day) <= POLICY.daily_budget for day in days)
