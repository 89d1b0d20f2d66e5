"""The benchmark of the towers on any log and without its data; the model it tests is the one that is served."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import two_tower
from benchmarks.two_tower import ALS, COLD, WARM, WITHOUT, TowerModel, cold, main, read
from online_models.contracts.events import Item
from online_models.contracts.jobs import TrainTwoTower
from online_models.two_tower import UserTower
from tests.clustered_world import GROUPS, ITEMS, clustered_events
from tests.strategies import ndjson

SMALL = TrainTwoTower(dimensions=16, hidden=16, recent=10, epochs=4, batch_size=128, learning_rate=1e-2)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two-tower") / "world.ndjson"
    path.write_bytes(ndjson(clustered_events(1)))
    items = [Item(f"item-{j}", "movies", f"Film {j}", [f"group-{j % GROUPS}"]) for j in range(ITEMS)]
    path.with_name("world.items.ndjson").write_bytes(msgspec.json.Encoder().encode_lines(items))
    return path


def test_any_log_gives_the_table_the_figures_and_the_targets(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(two_tower, "TrainTwoTower", lambda: SMALL)
    assert main(["--log", str(log), "--seeds", "2"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "two_tower"
    figures = found["figures"]
    for model in (ALS, COLD, WARM, WITHOUT, "popularity", "EASE"):
        assert 0 < figures[f"world.ndjson: hit@10, {model}"] < 1
        assert figures[f"world.ndjson: CPU s to train, {model}"] >= 0
    ratio = figures[f"world.ndjson: hit@10, {COLD}"] / figures[f"world.ndjson: hit@10, {ALS}"]
    values = {target["name"]: target["value"] for target in found["targets"]}
    assert values[f"world.ndjson: hit@10 of {COLD} / {ALS}"] == pytest.approx(ratio, rel=0.01)
    assert len(values) == 3


def test_the_model_ranks_by_the_served_tower_and_strangers_by_popularity(log: Path) -> None:
    events, catalogue = read(log)
    assert len(catalogue) == ITEMS
    until = events.groups // 2
    towers = cold(events, catalogue, until, SMALL)
    model, tower = TowerModel(events, until, towers), UserTower.of(towers.serving)
    at = events.moment(until)
    expected = tower.scores(tower.vector(events.item[at.history]))
    assert model.scores(at)[: len(tower)].tolist() == expected.tolist()
    stranger = at._replace(history=np.empty(0, np.int64))
    counts = np.bincount(events.item[: at.begin], minlength=at.items)
    assert model.scores(stranger).tolist() == counts.tolist()


def test_without_the_data_there_is_a_message_and_no_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    assert main(["--log", "movielens"]) == 0
    out = capsys.readouterr().out
    assert f"MovieLens: no {tmp_path}/ml-latest-small" in out
    assert json.loads(out.splitlines()[-1])["targets"] == []


def test_a_log_that_cannot_be_measured_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--log", str(tmp_path / "missing.ndjson")]) == 1
    assert "cannot be read" in capsys.readouterr().err
