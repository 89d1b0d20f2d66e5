"""Levels of retraining: how deep a training a signal asks for, and when online updates are answer enough. Pure.

- Near-line is what happens anyway: every event moves vectors, popularity and blend. A small drift of features is left to it for a
  while; nothing is left to it when people turn away.
- Warm goes on from the champion's towers, which is cheap and learns less; cold begins from nothing. A fall of hit rate or CTR
  gets a cold start: what the champion knows is what has become wrong. So does every Nth training, and what is due by schedule.
- ALS has no warm start, so all its trainings are cold, and so is the first one of towers.
- An adapter (LoRA) is trained when the language model's own evidence says so, never for a drift of the recommender.
- Event time alone: a replay decides the same.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, assert_never

from flows.triggers import LANGUAGE_MODEL, Family, Signal, TriggerPolicy
from online_models.contracts.artifacts import Manifest
from online_models.contracts.ids import ModelVersion
from online_models.contracts.jobs import JobPayload, NewJob, Start, trigger_id
from online_models.learner import TWO_TOWER_FILE


class Level(enum.StrEnum):
    """From the cheapest to the dearest; an adapter stands beside them."""

    NEAR_LINE = "near-line"
    WARM = "warm"
    COLD = "cold"
    LORA = "lora"


@dataclass(frozen=True, slots=True)
class Champion:
    """What is known of a model's champion.

    cold : whether its training began from nothing; towers : whether there are towers to go on from
    trained_until_ms : newest event that its recommender has learned from
    language_model : whether it has an adapter
    """

    version: ModelVersion
    cold: bool = True
    towers: bool = False
    trained_until_ms: int = 0
    language_model: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """What its manifest says."""
        return cls(
            manifest.version,
            manifest.start != Start.WARM.value,
            any(file.name == TWO_TOWER_FILE for file in manifest.files),
            manifest.known_until_ms,
            manifest.language_model is not None,
        )


@dataclass(frozen=True, slots=True)
class LevelRules:
    """Which level a signal gets, and how often.

    two_tower : whether towers are trained, or factors alone; language_models : models that adapters are trained for
    near_line_effect : a drift of features below it is small; near_line_ms : how long one may stand and be left to online updates
    cold_every_warms, cold_every_ms : a training is cold after so many warm ones, or so long after the last cold one; 0: never
    schedule_ms : train, drift or not, so long after the last training; 0: never
    policies : rate bounds of each level
    """

    two_tower: bool
    language_models: frozenset[str]
    near_line_effect: float
    near_line_ms: int
    cold_every_warms: int
    cold_every_ms: int
    schedule_ms: int
    policies: Mapping[Level, TriggerPolicy]


@dataclass(frozen=True, slots=True)
class Trained:
    """The recommender's trainings that were asked for, by event time.

    last_ms, cold_ms : of the last one, and of the last cold one; warms : since that
    """

    last_ms: int | None = None
    cold_ms: int | None = None
    warms: int = 0

    def after(self, level: str, now_ms: int) -> "Trained":
        """With one training more; an adapter is none of the recommender."""
        match level:
            case Level.WARM:
                return replace(self, last_ms=now_ms, warms=self.warms + 1)
            case Level.COLD:
                return Trained(now_ms, now_ms)
            case _:
                return self

    def known(self, champion: Champion | None) -> "Trained":
        """With what the champion tells of trainings before this memory began."""
        if champion is None:
            return self
        until_ms = champion.trained_until_ms
        last_ms = until_ms if self.last_ms is None else max(self.last_ms, until_ms)
        return replace(
            self, last_ms=last_ms, cold_ms=until_ms if self.cold_ms is None and champion.cold else self.cold_ms
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The level of a signal.

    why : it is this level and not the usual one; empty when it is the usual one
    held : why nothing is trained however long the signal stands; empty when something is
    """

    level: Level
    why: str = ""
    held: str = ""


def answer(
    signal: Signal, since_ms: int | None, trained: Trained, champion: Champion | None, rules: LevelRules
) -> Answer:
    """Which level a signal asks for.

    since_ms : end of the first window of the drift that it tells of; None when it is the first

    >>> rules = LevelRules(True, frozenset(), 0.05, 1_000, 0, 0, 0, {})
    >>> small = Signal("movies", "panel", 0, 500, True, False, "genres moved", effect=0.03)
    >>> champion = Champion("v1", towers=True)
    >>> answer(small, None, Trained(), champion, rules).held
    'near-line updates answer it: effect 0.030 is below 0.05'
    >>> answer(small, -600, Trained(), champion, rules).level
    <Level.WARM: 'warm'>
    """
    if signal.component == LANGUAGE_MODEL:
        return _adapter(signal, champion, rules)
    match signal.family:
        case Family.OUTCOME | Family.LABELS | Family.BOOTSTRAP | Family.SCHEDULE:
            return Answer(Level.COLD)
        case Family.COMPOSITE:
            if small := near_line(signal, since_ms, rules):
                return Answer(Level.NEAR_LINE, held=small)
            return _depth(signal.window_end_ms, trained.known(champion), champion, rules)
        case _:
            assert_never(signal.family)


def _adapter(signal: Signal, champion: Champion | None, rules: LevelRules) -> Answer:
    if signal.model not in rules.language_models:
        return Answer(Level.LORA, held="no language model is trained: `language_models` does not name the domain")
    if champion is None:
        return Answer(Level.LORA, held="no language model is trained: there is no version for it to stand beside")
    return Answer(Level.LORA)


def near_line(signal: Signal, since_ms: int | None, rules: LevelRules) -> str:
    """Why near-line updates answer a drift; nothing when they do not, or no longer."""
    stood_ms = signal.window_end_ms - since_ms if since_ms is not None else 0
    if signal.effect >= rules.near_line_effect or stood_ms >= rules.near_line_ms:
        return ""
    return f"near-line updates answer it: effect {signal.effect:.3f} is below {rules.near_line_effect:g}"


def _depth(now_ms: int, trained: Trained, champion: Champion | None, rules: LevelRules) -> Answer:
    if not rules.two_tower:
        return Answer(Level.COLD)
    if champion is None or not champion.towers:
        return Answer(Level.COLD, "there are no towers to go on from")
    if rules.cold_every_warms and trained.warms >= rules.cold_every_warms:
        return Answer(Level.COLD, f"after {trained.warms} warm starts")
    since_ms = now_ms - trained.cold_ms if trained.cold_ms is not None else 0
    if rules.cold_every_ms and since_ms >= rules.cold_every_ms:
        return Answer(Level.COLD, f"{since_ms // 1000} s of event time after the last cold start")
    return Answer(Level.WARM)


def overdue(now_ms: int, trained: Trained, champion: Champion | None, rules: LevelRules) -> str:
    """Why a training is due by schedule; nothing when it is not, or there is nothing to train again.

    >>> rules = LevelRules(False, frozenset(), 0.05, 1_000, 0, 0, 60_000, {Level.COLD: TriggerPolicy(1, 0, 1)})
    >>> overdue(59_999, Trained(0), Champion("v1"), rules), overdue(60_000, Trained(0), Champion("v1"), rules)
    ('', '60 s of event time since the last training')
    """
    last_ms = trained.known(champion).last_ms
    if champion is None or not rules.schedule_ms or last_ms is None:
        return ""
    passed_ms = now_ms - last_ms
    if passed_ms < max(rules.schedule_ms, rules.policies[Level.COLD].cooldown_ms):
        return ""
    return f"{passed_ms // 1000} s of event time since the last training"


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """What the jobs of each level ask for, and the hash that tells their trigger ids from another configuration's.

    first : of a model without a version: what is quickly there
    """

    payloads: Mapping[Level, JobPayload]
    first: JobPayload
    config_hash: str

    def job(self, signal: Signal, level: Level, why: str) -> NewJob:
        """The job of a trigger; its reason begins with the level."""
        trigger = trigger_id(signal.model, signal.detector, self.config_hash, signal.window_end_ms)
        because = f" ({why})" if why else ""
        begins = signal.family is Family.BOOTSTRAP and level is Level.COLD
        payload = self.first if begins else self.payloads[level]
        return NewJob(signal.model, trigger, f"{level}{because}: {signal.detector}: {signal.reason}", payload)
