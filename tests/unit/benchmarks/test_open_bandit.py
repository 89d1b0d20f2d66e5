"""The Open Bandit benchmark: on made logs in the data set's own form, and without its data."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.open_bandit import FOLDER, THOMPSON, UNIFORM, Rows, crossed, drawn, main, read

ITEMS = 6
RATE = np.outer([1.0, 0.8, 0.6], np.linspace(0.02, 0.2, ITEMS))
POLICY = np.tile(np.linspace(1, 6, ITEMS) / np.linspace(1, 6, ITEMS).sum(), (3, 1))


def written(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["", "timestamp", "item_id", "position", "click", "propensity_score"])
        columns = (
            rows.item.tolist(),
            (rows.position + 1).tolist(),
            rows.click.astype(int).tolist(),
            rows.propensity.tolist(),
        )
        out.writerows([n, "2019-11-24", *cells] for n, cells in enumerate(zip(*columns, strict=True)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    rng = np.random.default_rng(0)
    for name, policy in ((UNIFORM, np.full_like(POLICY, 1 / ITEMS)), (THOMPSON, POLICY)):
        written(tmp_path / FOLDER / f"obd_{name}_men_men.csv", drawn(RATE, policy, 6_000, rng))
    return tmp_path


def test_a_log_is_read_with_its_positions_from_zero(data: Path) -> None:
    rows = read(data / FOLDER / f"obd_{UNIFORM}_men_men.csv")
    assert sorted(set(rows.position.tolist())) == [0, 1, 2]
    assert set(rows.propensity.tolist()) == {1 / ITEMS}
    np.testing.assert_allclose(rows.shares.sum(axis=1), 1)


def test_it_tells_the_other_policy_s_rate_both_ways(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA", str(data))
    assert main(["--draws", "50", "--worlds", "60"]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    figures = result["figures"]
    even = np.full_like(POLICY, 1 / ITEMS)
    for name, policy in ((THOMPSON, POLICY), (UNIFORM, even)):
        truth = 100 * float((policy * RATE).sum(axis=1).mean())
        for estimator in ("IPS", "SNIPS", "DR"):
            assert figures[f"{name}, {estimator}: from"] < truth < figures[f"{name}, {estimator}: to"], (
                name,
                estimator,
            )
    assert figures["simulated, holds the truth %"] > 85
    assert figures["simulated, holds random's rate %"] < 85
    looked = [figures[f"position {k}: looked at"] for k in (1, 2, 3)]
    assert all(
        abs(a - b) <= 4 * figures[f"position {k}: ±"] for k, a, b in zip((1, 2, 3), looked, (1, 0.8, 0.6), strict=True)
    )
    assert [target["met"] for target in result["targets"]] == [True]


def test_the_direct_model_has_not_seen_the_rows_that_it_is_asked_about() -> None:
    rows = drawn(RATE, POLICY, 500, np.random.default_rng(1))
    turned = Rows(rows.item, rows.position, 1 - rows.click, rows.propensity)
    one = int(np.flatnonzero(rows.click)[0])
    flipped = Rows(rows.item, rows.position, np.where(np.arange(500) == one, 0, rows.click), rows.propensity)
    was, other, now = (crossed(each, POLICY, 0)[0] for each in (rows, turned, flipped))
    assert was[one] == now[one]
    assert was[one] != other[one]


def test_without_the_data_there_is_a_message_and_no_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    assert main([]) == 0
    out = capsys.readouterr().out
    assert f"Open Bandit: no {tmp_path / FOLDER}; set PENSTOCK_DATA" in out
    assert json.loads(out.splitlines()[-1])["targets"] == []
