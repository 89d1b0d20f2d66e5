"""When drift becomes a retrain job, and why it sometimes does not: a pure step function.

- Hysteresis: a composite alarm must stand in several windows in a row, and calm windows must follow before the next.
- A fall of hit rate, CTR or labelled quality triggers alone, and only the cooldown of another such fall holds it back: users who
  turn away must not wait because a feature moved before.
- A drift that never calms triggers again after twice the cooldown: the last retrain did not cure it.
- A signal may ask to wait (`settle_ms`): its trigger comes with the first signal after that, drifting or not.
- Cooldown and a budget per UTC day bound the rate of each level of training; both run on event time, so a replay decides the
  same.
- Which level answers a signal is decided elsewhere (`flows.levels`); here it is a name that triggers are counted under.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from online_models.contracts.ids import ModelName

DAY_MS: Final = 86_400_000

RECOMMENDER: Final = "recommender"
LANGUAGE_MODEL: Final = "llm"
"""Components: what is drifting, and what its training would cure."""


class Family(enum.StrEnum):
    """What kind of evidence a signal is: features judged together, a fall of hit rate or CTR, a fall of labelled quality, no
    version at all, or none but the time since the last training."""

    COMPOSITE = "composite"
    OUTCOME = "outcome"
    LABELS = "labels"
    BOOTSTRAP = "bootstrap"
    SCHEDULE = "schedule"


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
    component : `RECOMMENDER` or `LANGUAGE_MODEL`
    effect : the largest of what drifts, on PSI's scale; infinite where it is not of that kind, and so never small
    feature : what it is about, of a detector that can say several things of one window
    """

    model: ModelName
    detector: str
    window_start_ms: int
    window_end_ms: int
    drifted: bool
    alone: bool
    reason: str
    settle_ms: int = 0
    family: Family = Family.COMPOSITE
    component: str = RECOMMENDER
    effect: float = float("inf")
    feature: str = ""

    @property
    def fall(self) -> bool:
        """Whether people turn away, so that only another fall holds it back."""
        return self.family in (Family.OUTCOME, Family.LABELS)

    def packed(self) -> tuple[Any, ...]:
        """Plain values, for a snapshot."""
        return (
            *(
                self.model,
                self.detector,
                self.window_start_ms,
                self.window_end_ms,
                self.drifted,
                self.alone,
                self.reason,
            ),
            *(self.settle_ms, self.family.value, self.component, self.effect, self.feature),
        )

    @classmethod
    def unpacked(cls, values: tuple[Any, ...]) -> "Signal":
        """The signal of `packed` values."""
        return replace(cls(*values), family=Family(values[8]))


@dataclass(frozen=True, slots=True)
class Trigger:
    """A retrain job is due, at a level of training."""

    signal: Signal
    level: str = ""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A drifting signal that asks for no job, and why."""

    signal: Signal
    reason: str


Decision = Trigger | Suppressed


@dataclass(frozen=True, slots=True)
class TriggerState:
    """The memory of one component of one model between signals.

    since_ms : end of the first drifting window, since it was last calm
    spent : level -> triggers of the UTC day `day`
    """

    drifting: int = 0
    calm: int = 0
    armed: bool = True
    last_trigger_ms: int | None = None
    last_fall_ms: int | None = None
    day: int = 0
    spent: Mapping[str, int] = field(default_factory=dict)
    waiting: Trigger | None = None
    since_ms: int | None = None

    def packed(self) -> tuple[Any, ...]:
        """Plain values, for a snapshot."""
        waiting = (self.waiting.signal.packed(), self.waiting.level) if self.waiting else None
        rest = (self.last_trigger_ms, self.last_fall_ms, self.day, dict(self.spent), waiting, self.since_ms)
        return (self.drifting, self.calm, self.armed, *rest)

    @classmethod
    def unpacked(cls, values: tuple[Any, ...]) -> "TriggerState":
        """The state of `packed` values."""
        *counted, spent, waiting, since_ms = values
        held = Trigger(Signal.unpacked(waiting[0]), waiting[1]) if waiting else None
        return replace(cls(*counted), spent=dict(spent), waiting=held, since_ms=since_ms)


def step(
    state: TriggerState, signal: Signal, policy: TriggerPolicy, level: str = "", answered: str = ""
) -> tuple[TriggerState, list[Decision]]:
    """The next state, and what a signal leads to: one decision if it drifts, and the trigger that waited until now.

    Parameters
    ----------
    level : what its trigger is counted under; `policy` is that level's
    answered : why it needs no training however long it stands; empty when it does

    >>> policy = TriggerPolicy(hysteresis=2, cooldown_ms=0, daily_budget=9)
    >>> drift = Signal(ModelName("movies"), "composite", 0, 1, True, False, "genres moved")
    >>> state, first = step(TriggerState(), drift, policy)
    >>> state, second = step(state, drift, policy)
    >>> [type(decision).__name__ for decision in first + second]
    ['Suppressed', 'Trigger']
    """
    state, waited = due(_count_windows(state, signal, policy), signal.window_end_ms)
    decisions: list[Decision] = [*waited]
    if not signal.drifted:
        return state, decisions
    if reason := _reason_to_wait(state, signal, policy, level, answered):
        return state, [*decisions, Suppressed(signal, reason)]
    if signal.settle_ms:
        reason = f"waiting {signal.settle_ms // 1000} s of event time for something to learn from"
        return replace(state, waiting=Trigger(signal, level)), [*decisions, Suppressed(signal, reason)]
    trigger = Trigger(signal, level)
    return _spend(state, signal.window_end_ms, trigger), [*decisions, trigger]


def due(state: TriggerState, now_ms: int) -> tuple[TriggerState, list[Trigger]]:
    """The trigger that has waited long enough at an event time, if there is one."""
    waiting = state.waiting
    if waiting is None or now_ms < waiting.signal.window_end_ms + waiting.signal.settle_ms:
        return state, []
    return replace(_spend(state, now_ms, waiting), waiting=None), [waiting]


def _spend(state: TriggerState, now_ms: int, trigger: Trigger) -> TriggerState:
    """One trigger fewer for this day, and the cooldown begins."""
    day, signal = now_ms // DAY_MS, trigger.signal
    spent = state.spent if state.day == day else {}
    return replace(
        state,
        armed=state.armed and signal.alone,
        last_trigger_ms=max(now_ms, state.last_trigger_ms or now_ms),
        last_fall_ms=max(now_ms, state.last_fall_ms or now_ms) if signal.fall else state.last_fall_ms,
        day=day,
        spent={**spent, trigger.level: spent.get(trigger.level, 0) + 1},
        since_ms=None,
    )


def _count_windows(state: TriggerState, signal: Signal, policy: TriggerPolicy) -> TriggerState:
    since_ms = signal.window_end_ms if state.since_ms is None else state.since_ms
    if signal.drifted:
        drifting = state if signal.alone else replace(state, drifting=state.drifting + 1, calm=0)
        return replace(drifting, since_ms=since_ms) if signal.family is Family.COMPOSITE else drifting
    if signal.alone:
        return state
    calm = state.calm + 1
    over = calm >= policy.hysteresis
    return replace(state, drifting=0, calm=calm, armed=state.armed or over, since_ms=None if over else state.since_ms)


def _reason_to_wait(state: TriggerState, signal: Signal, policy: TriggerPolicy, level: str, answered: str) -> str:
    if state.waiting is not None:
        return f"the trigger of {state.waiting.signal.detector} is waiting already"
    if not signal.alone and state.drifting < policy.hysteresis:
        return f"hysteresis: {state.drifting} of {policy.hysteresis} drifting windows in a row"
    if answered:
        return answered
    last_ms = state.last_fall_ms if signal.fall else state.last_trigger_ms
    waited = signal.window_end_ms - last_ms if last_ms is not None else None
    if waited is not None and waited < policy.cooldown_ms:
        return f"cooldown: {waited // 1000} s of {policy.cooldown_ms // 1000} s since the last trigger"
    if not signal.alone and not state.armed and waited is not None and waited < 2 * policy.cooldown_ms:
        return f"not armed: {state.calm} of {policy.hysteresis} calm windows since the last trigger"
    spent = state.spent.get(level, 0) if state.day == signal.window_end_ms // DAY_MS else 0
    if spent >= policy.daily_budget:
        return f"budget: {spent} of {policy.daily_budget} triggers of the UTC day are spent"
    return ""
