"""The benchmark on any log and without its data; what its targets are."""

import json
from pathlib import Path

import pytest

from benchmarks.prequential import DATA_SETS, QUICK_MODELS, main, targets_of
from online_models.evaluation.contenders import FROZEN, OURS
from online_models.evaluation.recorded import evaluate
from tests.clustered_world import clustered_events
from tests.strategies import ndjson


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prequential") / "world.ndjson"
    path.write_bytes(ndjson(clustered_events(1)))
    return path


def test_any_log_gives_the_table_the_figures_and_relative_targets(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--log", str(log), "--quick"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["benchmark"] == "prequential"
    for model in QUICK_MODELS:
        assert 0 < found["figures"][f"world.ndjson: hit@10, {model}"] < 1
        assert found["figures"][f"world.ndjson: hit@10 SE, {model}"] > 0
    ratio = found["figures"][f"world.ndjson: hit@10, {OURS}"] / found["figures"][f"world.ndjson: hit@10, {FROZEN}"]
    values = {target["name"]: target["value"] for target in found["targets"]}
    assert values["world.ndjson: hit@10 of ours / frozen ALS"] == pytest.approx(ratio, abs=0.01)
    assert len(values) == 4
    assert sum("in standard errors of the difference" in name for name in values) == 2


def test_a_data_set_has_targets_of_its_own(log: Path) -> None:
    measured = evaluate(str(log), names=("popularity", FROZEN, OURS))
    names = [target.name for target in targets_of("MovieLens", measured, DATA_SETS[0])]
    assert names[-3:] == [
        "MovieLens: hit@10 of ours",
        "MovieLens: NDCG@10 of ours",
        "MovieLens: hit@10 of ours, the aim",
    ]
    bounds = [target.at_least for target in targets_of("MovieLens", measured, DATA_SETS[0])]
    assert bounds == [-1.0, -1.0, 1.8, 1.8, 0.110, 0.060, 0.120]


def test_a_log_that_cannot_be_measured_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--log", str(tmp_path / "missing.ndjson")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_without_the_data_there_is_a_message_and_no_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    assert main([]) == 0
    out = capsys.readouterr().out
    assert f"MovieLens: no {tmp_path}/ml-latest-small; set PENSTOCK_DATA" in out
    assert json.loads(out.splitlines()[-1])["targets"] == []
