"""The benchmark of the user tower: parity is measured over what differs, its targets are of the worse catalogue."""

import json

import pytest

from benchmarks import serving_tower
from benchmarks.serving_tower import main, targets_of


def test_it_measures_parity_and_times(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serving_tower, "CATALOGUES", (50, 80))
    monkeypatch.setattr(serving_tower, "BEST", 5)
    for name in ("PARITY_HISTORIES", "TIMED_VECTORS", "TIMED_SCORINGS"):
        monkeypatch.setattr(serving_tower, name, 30)
    assert main(["--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["targets"][0] == {
        "name": "largest difference to torch",
        "value": max(found["figures"][f"{items} items: largest difference to torch"] for items in (50, 80)),
        "target": "<= 1e-05",
        "met": True,
    }
    assert found["figures"]["80 items: best 5 of them p50 us"] > 0


def test_the_targets_are_of_the_worse_catalogue() -> None:
    names = ("largest difference to torch", "user vector p50 us")
    figures = {f"{items} items: {name}": value for name in names for items, value in ((1, 2.0), (2, 700.0))}
    assert [(target.value, target.met) for target in targets_of(figures)] == [(700.0, False), (0.7, False)]
