"""When drift becomes a retrain job, and why it sometimes does not: a pure step function.

- Hysteresis: a composite alarm must stand in several windows in a row, and calm windows must follow before the next.
- A fall of hit rate or CTR triggers alone, and only the cooldown of another such fall holds it back: users who turn away must
  not wait because a feature moved before.
- A drift that never calms triggers again after twice the cooldown: the last retrain did not cure it.
- A signal may ask to wait (`settle_ms`): its trigger comes with the first signal after that, drifting or not.
- Cooldown and a budget per UTC day bound the rate; both run on event time, so a replay decides the same.
"""

from dataclasses import dataclass, replace
from typing import Final

from online_models.contracts.ids import ModelName

DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class TriggerPolicy:
    """hysteresis : drifting windows in a row to trigger, and calm ones to arm again; cooldown_ms, daily_budget : rate bounds."""

    hysteresis: int
    cooldown_ms: int
    daily_budget: int

    def __post_init__(self) -> None:
        if self.hysteresis < 1 or self.cooldown_ms < 0 or self.daily_budget < 1:
            raise ValueError(f"expected hysteresis >= 1, cooldown_ms >= 0, daily_budget >= 1, got {self}")


@dataclass(frozen=True, slots=True)
class Signal:
    """What one detector family says at one window's end.

    alone : needs no second window to count
    settle_ms : event time to let pass before its job, so that there is something new to learn from
    outcome : a fall of hit rate or CTR, which only another such fall holds back
    """

    model: ModelName
    detector: str
    window_start_ms: int
    window_end_ms: int
    drifted: bool
    alone: bool
    reason: str
    settle_ms: int = 0
    outcome: bool = False


@dataclass(frozen=True, slots=True)
class TriggerState:
    """One model's memory between signals."""

    drifting: int = 0
    calm: int = 0
    armed: bool = True
    last_trigger_ms: int | None = None
    last_fall_ms: int | None = None
    day: int = 0
    spent: int = 0
    waiting: Signal | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """A retrain job is due."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A drifting signal that asks for no job, and why."""

    signal: Signal
    reason: str


Decision = Trigger | Suppressed


def step(state: TriggerState, signal: Signal, policy: TriggerPolicy) -> tuple[TriggerState, list[Decision]]:
    """The next state, and what a signal leads to: one decision if it drifts, and the trigger that waited until now.

    >>> policy = TriggerPolicy(hysteresis=2, cooldown_ms=0, daily_budget=9)
    >>> drift = Signal(ModelName("movies"), "composite", 0, 1, True, False, "genres moved")
    >>> state, first = step(TriggerState(), drift, policy)
    >>> state, second = step(state, drift, policy)
    >>> [type(decision).__name__ for decision in first + second]
    ['Suppressed', 'Trigger']
    """
    state = _count_windows(state, signal, policy)
    decisions: list[Decision] = []
    waiting = state.waiting
    if waiting is not None and signal.window_end_ms >= waiting.window_end_ms + waiting.settle_ms:
        state = replace(_spend(state, signal.window_end_ms, waiting), waiting=None)
        decisions.append(Trigger(waiting))
    if not signal.drifted:
        return state, decisions
    if reason := _reason_to_wait(state, signal, policy):
        return state, [*decisions, Suppressed(signal, reason)]
    if signal.settle_ms:
        reason = f"waiting {signal.settle_ms // 1000} s of event time for something to learn from"
        return replace(state, waiting=signal), [*decisions, Suppressed(signal, reason)]
    return _spend(state, signal.window_end_ms, signal), [*decisions, Trigger(signal)]


def _spend(state: TriggerState, now_ms: int, signal: Signal) -> TriggerState:
    """One trigger fewer for this day, and the cooldown begins."""
    day = now_ms // DAY_MS
    return replace(
        state,
        armed=state.armed and signal.alone,
        last_trigger_ms=max(now_ms, state.last_trigger_ms or now_ms),
        last_fall_ms=max(now_ms, state.last_fall_ms or now_ms) if signal.outcome else state.last_fall_ms,
        day=day,
        spent=1 + (state.spent if state.day == day else 0),
    )


def _count_windows(state: TriggerState, signal: Signal, policy: TriggerPolicy) -> TriggerState:
    if signal.alone:
        return state
    if signal.drifted:
        return replace(state, drifting=state.drifting + 1, calm=0)
    calm = state.calm + 1
    return replace(state, drifting=0, calm=calm, armed=state.armed or calm >= policy.hysteresis)


def _reason_to_wait(state: TriggerState, signal: Signal, policy: TriggerPolicy) -> str:
    if state.waiting is not None:
        return f"the trigger of {state.waiting.detector} is waiting already"
    if not signal.alone and state.drifting < policy.hysteresis:
        return f"hysteresis: {state.drifting} of {policy.hysteresis} drifting windows in a row"
    last_ms = state.last_fall_ms if signal.outcome else state.last_trigger_ms
    waited = signal.window_end_ms - last_ms if last_ms is not None else None
    if waited is not None and waited < policy.cooldown_ms:
        return f"cooldown: {waited // 1000} s of {policy.cooldown_ms // 1000} s since the last trigger"
    if not signal.alone and not state.armed and waited is not None and waited < 2 * policy.cooldown_ms:
        return f"not armed: {state.calm} of {policy.hysteresis} calm windows since the last trigger"
    if state.day == signal.window_end_ms // DAY_MS and state.spent >= policy.daily_budget:
        return f"budget: {state.spent} of {policy.daily_budget} triggers of the UTC day are spent"
    return ""
