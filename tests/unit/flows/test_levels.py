"""Levels: which training answers which signal, and what is left to the online updates. Each row of a table is a case."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.levels import Answer, Champion, JobTemplate, Level, LevelRules, Trained, answer, overdue
from flows.triggers import LANGUAGE_MODEL, RECOMMENDER, Family, Signal, TriggerPolicy
from online_models.contracts.artifacts import ArtifactFile
from online_models.contracts.ids import ModelVersion
from online_models.contracts.jobs import JobPayload, Start, TrainAls, TrainLora, TrainTwoTower, trigger_id
from tests.samples import MOVIES, manifest

V1 = ModelVersion("v1")
RATE = TriggerPolicy(hysteresis=2, cooldown_ms=100, daily_budget=3)
RULES = LevelRules(
    two_tower=True,
    language_models=frozenset({"movies"}),
    near_line_effect=0.05,
    near_line_ms=1_000,
    cold_every_warms=3,
    cold_every_ms=10_000,
    schedule_ms=5_000,
    policies=dict.fromkeys(Level, RATE),
)
ALS = replace(RULES, two_tower=False)
FACTORS = Champion(V1)
TOWERS = Champion(V1, towers=True)


def signal(family: Family = Family.COMPOSITE, end_ms: int = 2_000, effect: float = 0.3, llm: bool = False) -> Signal:
    component = LANGUAGE_MODEL if llm else RECOMMENDER
    return Signal(MOVIES, "panel", 0, end_ms, True, True, "moved", family=family, component=component, effect=effect)


@pytest.mark.parametrize(
    ("champion", "trained", "rules", "expected"),
    [
        (TOWERS, Trained(), RULES, Answer(Level.WARM)),
        (TOWERS, Trained(), ALS, Answer(Level.COLD)),
        (FACTORS, Trained(), RULES, Answer(Level.COLD, "there are no towers to go on from")),
        (None, Trained(), RULES, Answer(Level.COLD, "there are no towers to go on from")),
        (TOWERS, Trained(0, 0, 2), RULES, Answer(Level.WARM)),
        (TOWERS, Trained(0, 0, 3), RULES, Answer(Level.COLD, "after 3 warm starts")),
        (TOWERS, Trained(0, 0, 3), replace(RULES, cold_every_warms=0), Answer(Level.WARM)),
        (TOWERS, Trained(0, -8_000), RULES, Answer(Level.COLD, "10 s of event time after the last cold start")),
        (TOWERS, Trained(0, -7_999), RULES, Answer(Level.WARM)),
        (TOWERS, Trained(0, -8_000), replace(RULES, cold_every_ms=0), Answer(Level.WARM)),
    ],
)
def test_a_drift_of_features_is_answered_warm_where_that_can_be_and_cold_every_so_often(
    champion: Champion | None, trained: Trained, rules: LevelRules, expected: Answer
) -> None:
    assert answer(signal(), None, trained, champion, rules) == expected


def test_a_champion_that_was_trained_cold_counts_as_the_last_cold_start_and_a_warm_one_does_not() -> None:
    late = signal(end_ms=60_000)
    assert answer(late, None, Trained(), replace(TOWERS, trained_until_ms=50_000), RULES).level is Level.COLD
    assert answer(late, None, Trained(), replace(TOWERS, trained_until_ms=50_001), RULES).level is Level.WARM
    assert answer(late, None, Trained(), replace(TOWERS, cold=False), RULES).level is Level.WARM


@pytest.mark.parametrize("family", [Family.OUTCOME, Family.SCHEDULE, Family.BOOTSTRAP])
@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_people_who_turn_away_the_schedule_and_a_first_training_are_answered_cold(
    family: Family, effect: float
) -> None:
    assert answer(signal(family, effect=effect), None, Trained(), TOWERS, RULES) == Answer(Level.COLD)


@pytest.mark.parametrize(
    ("effect", "since_ms", "level"),
    [
        (0.049, None, Level.NEAR_LINE),
        (0.050, None, Level.WARM),
        (0.049, 1_001, Level.NEAR_LINE),
        (0.049, 1_000, Level.WARM),
    ],
)
def test_a_small_drift_is_left_to_the_online_updates_until_it_has_stood_for_long(
    effect: float, since_ms: int | None, level: Level
) -> None:
    found = answer(signal(effect=effect), since_ms, Trained(), TOWERS, RULES)
    assert found.level is level
    assert found.held == ("near-line updates answer it: effect 0.049 is below 0.05" if level is Level.NEAR_LINE else "")


@pytest.mark.parametrize("family", list(Family))
def test_what_the_language_model_s_evidence_says_trains_an_adapter_if_one_may_be(family: Family) -> None:
    of_text = signal(family, effect=0.01, llm=True)
    assert answer(of_text, None, Trained(), TOWERS, RULES) == Answer(Level.LORA)
    off = answer(of_text, None, Trained(), TOWERS, replace(RULES, language_models=frozenset()))
    assert (off.level, off.held) == (
        Level.LORA,
        "no language model is trained: `language_models` does not name the domain",
    )
    assert "no version" in answer(of_text, None, Trained(), None, RULES).held


@pytest.mark.parametrize(
    ("now_ms", "trained", "champion", "rules", "due"),
    [
        (5_000, Trained(0), TOWERS, RULES, True),
        (4_999, Trained(0), TOWERS, RULES, False),
        (5_000, Trained(), TOWERS, RULES, True),  # the champion's data end at 0
        (6_000, Trained(0), replace(TOWERS, trained_until_ms=1_500), RULES, False),
        (9_000, Trained(0), None, RULES, False),
        (9_000, Trained(0), TOWERS, replace(RULES, schedule_ms=0), False),
        (
            5_000,
            Trained(0),
            TOWERS,
            replace(RULES, policies=dict.fromkeys(Level, replace(RATE, cooldown_ms=9_000))),
            False,
        ),
    ],
)
def test_the_schedule_counts_from_the_last_training(
    now_ms: int, trained: Trained, champion: Champion | None, rules: LevelRules, due: bool
) -> None:
    assert bool(overdue(now_ms, trained, champion, rules)) is due


@given(st.lists(st.sampled_from(list(Level)), max_size=30))
def test_the_memory_of_trainings_is_that_of_the_list_of_them(levels: list[Level]) -> None:
    trained = Trained()
    for number, level in enumerate(levels):
        trained = trained.after(level, number)
    own = [(number, level) for number, level in enumerate(levels) if level in (Level.WARM, Level.COLD)]
    cold = [number for number, level in own if level is Level.COLD]
    assert trained.last_ms == (own[-1][0] if own else None)
    assert trained.cold_ms == (cold[-1] if cold else None)
    assert trained.warms == sum(level is Level.WARM and number > max(cold, default=-1) for number, level in own)


def test_a_manifest_tells_how_the_champion_came_about() -> None:
    plain = Champion.of(manifest("v3"))
    assert plain == Champion(ModelVersion("v3"), cold=True, towers=False, trained_until_ms=1, language_model=False)
    made = manifest("v3")
    towers = ArtifactFile("two_tower.safetensors", 1, "0")
    full = type(made)(
        **{name: getattr(made, name) for name in made.__struct_fields__}
        | {"files": [towers], "start": "warm", "language_model": ModelVersion("v2")}
    )
    assert Champion.of(full) == Champion(ModelVersion("v3"), False, True, 1, True)


def test_a_job_is_its_level_s_and_says_so() -> None:
    payloads: dict[Level, JobPayload] = {
        Level.WARM: TrainTwoTower(),
        Level.COLD: TrainTwoTower(als=TrainAls(), start=Start.COLD),
        Level.LORA: TrainLora(),
    }
    template = JobTemplate(payloads, TrainAls(factors=3), "hash")
    warm, cold = template.job(signal(), Level.WARM, ""), template.job(signal(), Level.COLD, "after 3 warm starts")
    assert (warm.reason, cold.reason) == ("warm: panel: moved", "cold (after 3 warm starts): panel: moved")
    assert (warm.payload, cold.payload) == (payloads[Level.WARM], payloads[Level.COLD])
    first = template.job(replace(signal(), family=Family.BOOTSTRAP), Level.COLD, "")
    assert first.payload == TrainAls(factors=3)
    assert warm.trigger_id == cold.trigger_id == trigger_id(MOVIES, "panel", "hash", 2_000)
