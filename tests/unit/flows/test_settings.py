"""Settings of the stream job: what is out of range, and which features a domain has."""

import pytest
from pydantic import ValidationError

from flows.settings import FlowSettings
from online_models.contracts.events import EventType
from online_models.contracts.features import DEFAULT_FEATURES, FeatureKind, FeatureSpec
from online_models.drift.policy import Policy

TABLE = {"name": "stars", "kind": "numeric", "source": "value", "types": ["rating"], "high": 5.0}


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("window_seconds", 0),
        ("slide_seconds", -1),
        ("lateness_seconds", -1),
        ("adwin_delta", 1.0),
        ("drop_fraction", 0.0),
        ("daily_budget", 0),
        ("train_factors", 0),
        ("publish_wall_seconds", -0.1),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(key: str, setting: float) -> None:
    with pytest.raises(ValidationError, match=key):
        FlowSettings.model_validate({key: setting})


def test_readers_get_a_publication_every_second_unless_told_otherwise() -> None:
    assert FlowSettings().publish_wall_seconds == 1.0
    for seconds in (0.0, 30.0):  # 0: as often as it goes
        assert FlowSettings.model_validate({"publish_wall_seconds": seconds}).publish_wall_seconds == seconds


def test_settings_do_not_change() -> None:
    settings = FlowSettings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "window_seconds", 1)  # noqa: B010 - a plain assignment is refused by mypy already


def test_panes_are_the_slide_or_the_whole_window() -> None:
    assert FlowSettings(window_seconds=60, slide_seconds=0).pane_seconds == 60
    assert FlowSettings(window_seconds=60, slide_seconds=20).pane_seconds == 20


def test_without_a_slide_a_pane_is_a_quarter_of_the_window_where_that_is_whole() -> None:
    assert FlowSettings(window_seconds=60).pane_seconds == 15
    assert FlowSettings(window_seconds=61).pane_seconds == 61


def test_longer_windows_end_every_quarter_of_theirs() -> None:
    settings = FlowSettings(window_seconds=60, longer_windows_seconds=(120, 480))
    assert settings.lengths == ((4, 1), (8, 2), (32, 8))
    for wrong in (60, 90):
        with pytest.raises(ValueError, match="expected a multiple of 60"):
            FlowSettings(window_seconds=60, longer_windows_seconds=(wrong,))


def test_policies_come_as_tables_and_an_unnamed_component_has_the_default_one() -> None:
    settings = FlowSettings.model_validate({"policies": {"llm": {"rule": "any", "q": 0.05}}, "min_window_events": 300})
    assert (settings.policy("llm").rule, settings.policy("llm").q) == ("any", 0.05)
    assert settings.policy("recommender") == Policy(min_events=300)
    assert set(settings.policy_matrix) == {"recommender"}
    for wrong, told in (
        ({"llm": {"rule": "none"}}, "rule"),
        ({"llm": {"weights": {"chisquare": 1.0}}}, "chisquare"),
        ({"recomender": {}}, "recomender"),
    ):
        with pytest.raises(ValueError, match=told):
            FlowSettings.model_validate({"policies": wrong})
    assert (
        FlowSettings.model_validate({"policies": {"recommender": {"rule": "any"}}}).policy("recommender").min_events
        == 200
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"hgh": 3.0}, "unknown key hgh"),
        ({"source": "nonsense"}, "expected a source"),
        ({"low": 2.0, "high": 1.0}, "expected low < high"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(wrong: dict[str, object], told: str) -> None:
    table = {"name": "f", "kind": "numeric", "source": "value", "types": ["click"], **wrong}
    with pytest.raises(ValueError, match=told):
        FlowSettings.model_validate({"features": [table]})
    twice = {"name": "f", "kind": "numeric", "source": "value", "types": ["click"]}
    with pytest.raises(ValueError, match="distinct names"):
        FlowSettings.model_validate({"features": [twice, twice]})


def test_a_baseline_too_short_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 40 panes"):
        FlowSettings(window_seconds=86_400, baseline_seconds=604_800)
    assert FlowSettings(window_seconds=86_400, baseline_seconds=864_000).baseline_seconds == 864_000


def test_what_the_state_of_windows_depends_on_changes_its_hash() -> None:
    usual = FlowSettings().monitoring_hash
    assert FlowSettings(cooldown_seconds=5, min_window_events=9).monitoring_hash == usual
    for changed in ({"window_seconds": 60}, {"profile": False}, {"features": ()}, {"rank_pairs": 0}):
        assert FlowSettings.model_validate(changed).monitoring_hash != usual


def test_an_event_type_cannot_be_success_and_failure() -> None:
    with pytest.raises(ValueError, match="share click"):
        FlowSettings(rank_negative=(EventType.CLICK,))


def test_features_are_tables_of_their_declaration() -> None:
    settings = FlowSettings.model_validate({"features": [TABLE]})
    assert settings.features == (FeatureSpec("stars", FeatureKind.NUMERIC, "value", (EventType.RATING,), high=5.0),)


@pytest.mark.parametrize("wrong", [{"kind": "curious"}, {"types": ["view"]}, {"bins": "many"}])
def test_a_feature_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Invalid enum value|Expected"):
        FlowSettings.model_validate({"features": [{**TABLE, **wrong}]})


def test_a_domain_has_its_own_features_and_those_of_all() -> None:
    settings = FlowSettings()
    names = [spec.name for spec in settings.specs("movies")]
    assert "genres" in names
    assert "category" not in names
    everywhere = [spec.name for spec in DEFAULT_FEATURES if not spec.domains]
    assert [spec.name for spec in settings.specs("books")] == everywhere != []
