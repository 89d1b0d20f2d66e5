"""What the wiring hands on: a job knows what the windows of this flow are."""

from flows.app import template
from flows.settings import FlowSettings
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.jobs import TrainAls


def test_a_job_says_which_features_and_panes_its_version_will_be_judged_by() -> None:
    spec = FeatureSpec("price", FeatureKind.NUMERIC, "features.price", (EventType.CLICK,))
    asked = template(FlowSettings(window_seconds=3_600, features=(spec,))).payload
    assert isinstance(asked, TrainAls)
    assert (asked.features, asked.pane_seconds) == ((spec,), 900)
    assert template(FlowSettings()).payload.features == ()  # the default ones need not be repeated
