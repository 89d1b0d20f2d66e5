"""Gauges of the latest window, counters of all; labels bounded by the declaration."""

import dataclasses
import math
import socket
from urllib.request import urlopen

import pytest

from flows.instruments import VERDICTS, Instruments
from online_models.contracts.ids import ModelName
from online_models.errors import SettingsError
from online_models.ports import FeatureWindowRow
from tests.samples import MOVIES

ROW = FeatureWindowRow(
    model=MOVIES,
    window_start_ms=0,
    window_end_ms=60_000,
    feature="genres",
    kind="multi-valued",
    champion="v1",
    events=1_000,
    missing=250,
    verdict="drift",
    cardinality=19.5,
    new_share=0.125,
    statistics={"psi": 0.31, "kl": 0.12},
    p_value=1e-9,
    effect=0.3,
    detectable=0.02,
    information=0.01,
    rank=3,
)


@pytest.fixture
def instruments() -> Instruments:
    return Instruments([60, 300])


def sample(instruments: Instruments, name: str, model: str = MOVIES, feature: str = "genres", **more: str) -> float:
    labels = {"model": model, "feature": feature, "window": "60", **more}
    found = instruments.registry.get_sample_value(f"penstock_{name}", labels)
    assert found is not None, name
    return found


def test_every_figure_of_a_row_is_a_gauge(instruments: Instruments) -> None:
    instruments.observe([ROW])
    found = {
        name: sample(instruments, f"feature_{name}")
        for name in (
            *("events", "coverage", "cardinality", "new_share", "p_value", "effect", "detectable"),
            *("information_nats", "rank"),
        )
    }
    assert found == {
        "events": 1_000, "coverage": 0.75, "cardinality": 19.5, "new_share": 0.125, "p_value": 1e-9,
        "effect": 0.3, "detectable": 0.02, "information_nats": 0.01, "rank": 3,
    }  # fmt: skip
    assert sample(instruments, "feature_statistic", detector="psi") == 0.31
    assert sample(instruments, "feature_statistic", detector="kl") == 0.12


def test_one_verdict_is_1_and_the_others_are_0(instruments: Instruments) -> None:
    instruments.observe([ROW])
    instruments.observe([dataclasses.replace(ROW, verdict="stable")])
    assert {verdict: sample(instruments, "feature_verdict", verdict=verdict) for verdict in VERDICTS} == {
        verdict: float(verdict == "stable") for verdict in VERDICTS
    }


def test_what_a_later_window_does_not_know_is_not_kept(instruments: Instruments) -> None:
    instruments.observe([ROW])
    instruments.observe([FeatureWindowRow(MOVIES, 0, 60_000, "genres", "multi-valued", None, 0, 0, "unjudged")])
    for name in ("coverage", "cardinality", "p_value", "rank"):
        assert math.isnan(sample(instruments, f"feature_{name}")), name


def test_a_detector_that_said_nothing_of_a_later_window_is_silent(instruments: Instruments) -> None:
    instruments.observe([ROW])
    instruments.observe([dataclasses.replace(ROW, statistics={"psi": 0.1})])
    assert sample(instruments, "feature_statistic", detector="psi") == 0.1
    assert math.isnan(sample(instruments, "feature_statistic", detector="kl"))


def test_windows_and_alarms_are_counted(instruments: Instruments) -> None:
    stable = dataclasses.replace(ROW, feature="rating", verdict="stable")
    later = [dataclasses.replace(row, window_start_ms=60_000, window_end_ms=120_000) for row in (ROW, stable)]
    instruments.observe([ROW, stable, *later])
    instruments.observe([dataclasses.replace(ROW, model=ModelName("products"), window_end_ms=90_000)])
    value = instruments.registry.get_sample_value
    assert value("penstock_windows_total", {"model": MOVIES, "window": "60"}) == 2
    assert value("penstock_windows_total", {"model": "products", "window": "60"}) == 1
    assert value("penstock_window_end_seconds", {"model": MOVIES, "window": "60"}) == 120
    assert sample(instruments, "feature_alarms_total") == 2
    assert sample(instruments, "feature_alarms_total", feature="rating") == 0


def test_windows_of_several_lengths_are_told_apart(instruments: Instruments) -> None:
    instruments.observe([dataclasses.replace(ROW, window_start_ms=-240_000, effect=0.1), ROW])
    assert sample(instruments, "feature_effect", window="300") == 0.1
    assert sample(instruments, "feature_effect", window="60") == 0.3


def test_a_window_that_grew_keeps_its_label(instruments: Instruments) -> None:
    instruments.observe([dataclasses.replace(ROW, window_start_ms=-200_000, effect=0.1)])
    assert sample(instruments, "feature_effect", window="60") == 0.1
    with pytest.raises(ValueError, match="lengths above 0"):
        Instruments([])


def test_the_metrics_are_served_over_http(instruments: Instruments) -> None:
    instruments.observe([ROW])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stop = instruments.serve(port)
    with pytest.raises(SettingsError, match=f"metrics port {port}"):
        Instruments([60]).serve(port)
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    stop()
    assert 'penstock_feature_coverage{feature="genres",model="movies",window="60"} 0.75' in text
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
