"""What settings ask of retraining: a job of each level knows what the windows of this flow are, and rates are each level's."""

import pytest
from pydantic import ValidationError

from flows.levels import Level
from flows.retraining import rules, template
from flows.settings import FlowSettings
from flows.triggers import TriggerPolicy
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.jobs import JobPayload, Start, TrainAls, TrainLora, TrainTwoTower

PRICE = FeatureSpec("price", FeatureKind.NUMERIC, "features.price", (EventType.CLICK,))


def payload(level: Level, **given: object) -> JobPayload:
    return template(FlowSettings.model_validate(given)).payloads[level]


def test_a_job_says_which_features_and_panes_its_version_will_be_judged_by() -> None:
    asked = [
        payload(level, window_seconds=3_600, features=(PRICE,), retrain_model="two_tower")
        for level in Level
        if level != "near-line"
    ]
    for each in asked:
        inner = each.als if isinstance(each, TrainTwoTower) else each
        assert (inner.features, inner.pane_seconds) == ((PRICE,), 900)
    als = payload(Level.COLD)
    assert isinstance(als, TrainAls)
    assert als.features == ()  # the default ones need not be repeated


def test_als_has_one_payload_and_towers_one_for_each_start() -> None:
    assert payload(Level.WARM) == payload(Level.COLD) == TrainAls(pane_seconds=21_600)
    warm, cold = (payload(level, retrain_model="two_tower", train_factors=8) for level in (Level.WARM, Level.COLD))
    als = TrainAls(factors=8, pane_seconds=21_600)
    assert (warm, cold) == (TrainTwoTower(als, Start.WARM), TrainTwoTower(als, Start.COLD))


def test_further_options_of_jobs_come_as_tables() -> None:
    lora = payload(Level.LORA, train_lora={"ranks": [8, 16], "epochs": 1}, train_half_life_days=9.0)
    assert lora == TrainLora(ranks=(8, 16), epochs=1, half_life_days=9.0, pane_seconds=21_600)
    warm = payload(Level.WARM, retrain_model="two_tower", train_two_tower={"warm_epochs": 2})
    assert isinstance(warm, TrainTwoTower)
    assert warm.warm_epochs == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_lora": {"rnak": 8}},
        {"train_lora": {"rank": "eight"}},
        {"train_lora": {"half_life_days": 1.0}},
        {"train_two_tower": {"start": "cold"}},
        {"retrain_model": "lora"},
    ],
)
def test_options_that_no_job_has_or_that_others_decide_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FlowSettings.model_validate(wrong)


def test_a_level_has_the_usual_rate_unless_it_has_its_own() -> None:
    usual = rules(FlowSettings(cooldown_seconds=60, daily_budget=5)).policies
    assert set(usual) == set(Level)
    assert set(usual.values()) == {TriggerPolicy(2, 60_000, 5)}
    own = rules(
        FlowSettings(cooldown_seconds=60, daily_budget=5, cold_cooldown_seconds=0, lora_daily_budget=1)
    ).policies
    assert own[Level.WARM] == usual[Level.WARM]
    assert own[Level.COLD] == TriggerPolicy(2, 0, 5)
    assert own[Level.LORA] == TriggerPolicy(2, 60_000, 1)


def test_another_model_to_train_asks_under_other_trigger_ids() -> None:
    one, same, other = (template(FlowSettings(retrain_model=kind)) for kind in ("als", "als", "two_tower"))
    assert one.config_hash == same.config_hash != other.config_hash
