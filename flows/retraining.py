"""What these settings ask of retraining: the rules of its levels, and the job of each."""

import hashlib
from typing import Final

import msgspec

from flows.levels import JobTemplate, Level, LevelRules
from flows.settings import FlowSettings
from flows.triggers import TriggerPolicy
from online_models.contracts.features import DEFAULT_FEATURES, spec_hash
from online_models.contracts.jobs import JobPayload, Start, TrainAls, TrainLora, TrainTwoTower

TRAINED: Final = (Level.WARM, Level.COLD, Level.LORA)


def policy(settings: FlowSettings) -> TriggerPolicy:
    """The trigger rules of a level that has none of its own."""
    return TriggerPolicy(settings.hysteresis_windows, settings.cooldown_seconds * 1000, settings.daily_budget)


def rules(settings: FlowSettings) -> LevelRules:
    """Which level a signal gets, and how often."""
    bounds = {
        Level.WARM: (settings.warm_cooldown_seconds, settings.warm_daily_budget),
        Level.COLD: (settings.cold_cooldown_seconds, settings.cold_daily_budget),
        Level.LORA: (settings.lora_cooldown_seconds, settings.lora_daily_budget),
    }
    policies = {
        level: TriggerPolicy(
            settings.hysteresis_windows,
            1000 * (settings.cooldown_seconds if cooldown is None else cooldown),
            settings.daily_budget if budget is None else budget,
        )
        for level, (cooldown, budget) in bounds.items()
    }
    return LevelRules(
        two_tower=settings.retrain_model == "two_tower",
        language_models=frozenset(settings.language_models),
        near_line_effect=settings.near_line_effect,
        near_line_ms=settings.near_line_seconds * 1000,
        cold_every_warms=settings.cold_every_warms,
        cold_every_ms=settings.cold_every_seconds * 1000,
        schedule_ms=settings.schedule_seconds * 1000,
        policies={**policies, Level.NEAR_LINE: policies[Level.WARM]},
    )


def template(settings: FlowSettings) -> JobTemplate:
    """What the jobs of these settings ask for."""
    identity = f"{spec_hash(settings.features)}|{policy(settings)}|{settings.window_seconds}|{settings.pane_seconds}"
    payloads = {level: _payload(settings, level) for level in TRAINED}
    config_hash = hashlib.sha256(f"{identity}|{settings.retrain_model}".encode()).hexdigest()
    return JobTemplate(payloads, _factors(settings), config_hash)


def _payload(settings: FlowSettings, level: Level) -> JobPayload:
    factors = _factors(settings)
    if level is Level.LORA:
        shared = {
            "half_life_days": factors.half_life_days,
            "pane_seconds": factors.pane_seconds,
            **settings.train_lora,
        }
        return msgspec.structs.replace(msgspec.convert(shared, TrainLora), features=factors.features)
    if settings.retrain_model == "als":
        return factors
    start = Start.WARM if level is Level.WARM else Start.COLD
    return msgspec.structs.replace(msgspec.convert(settings.train_two_tower, TrainTwoTower), als=factors, start=start)


def _factors(settings: FlowSettings) -> TrainAls:
    return TrainAls(
        factors=settings.train_factors,
        half_life_days=settings.train_half_life_days,
        features=() if settings.features == DEFAULT_FEATURES else settings.features,
        pane_seconds=settings.pane_seconds,
    )
