"""What the replaying benchmarks ask of the flow."""

from pathlib import Path

from benchmarks import replay_json, replay_wide
from benchmarks.replay import flow_config
from flows.settings import FlowSettings


def test_a_flow_reads_the_features_and_settings_that_a_benchmark_writes(tmp_path: Path) -> None:
    path = tmp_path / "penstock.toml"
    path.write_text(flow_config(replay_json.SETTINGS, replay_json.FEATURES))
    settings = FlowSettings.load(path)
    assert settings.features == replay_json.FEATURES
    assert (settings.embeddings, settings.interactions, settings.window_seconds) == (False, False, 3_600)


def test_a_wide_log_declares_every_feature_once() -> None:
    specs = replay_wide.features_of(70, 30)
    assert len({spec.name for spec in specs}) == 100
    assert sum(spec.kind == "numeric" for spec in specs) == 70
