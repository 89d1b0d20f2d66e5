"""The smoke test as training runs it: a real child on a real artifact, and what becomes of children that fail."""

import sys
from pathlib import Path

import pytest

from online_models.contracts.ids import ModelVersion
from online_models.contracts.smoke import SmokeFigures, decode_smoke, encode_smoke
from online_models.stores.filesystem import FilesystemArtifacts
from retrain_workers.validation.gate import Gate
from retrain_workers.validation.smoke import Smoked, smoke, smoke_checks
from tests.artifacts import flip_one_byte, small_model
from tests.samples import MOVIES

FIGURES = SmokeFigures(
    version="v1",
    kind="als",
    items=30,
    load_seconds=0.5,
    rss_bytes=2**28,
    requests=2_000,
    clients=8,
    p50_ms=0.2,
    p99_ms=1.0,
    busy_p50_ms=2.0,
    busy_p99_ms=5.0,
    requests_per_second=4_000.0,
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    made, artifacts, version = small_model(1), FilesystemArtifacts(tmp_path), ModelVersion("v1")
    artifacts.write(made.manifest(MOVIES, version, [0, 2]), made.files())
    return artifacts.path(MOVIES, version)


def test_a_good_artifact_passes_in_the_reader_s_own_code(artifact: Path) -> None:
    smoked = smoke(artifact, MOVIES, 60.0, requests=50)
    assert smoked.figures is not None, smoked.failure
    assert (smoked.figures.version, smoked.figures.items, smoked.figures.requests) == ("v1", 30, 100)
    checks = smoke_checks(smoked, Gate(request_ms=10_000))
    assert [check.name for check in checks] == ["smoke", "latency", "load", "memory"]
    assert all(check.passed for check in checks)


def test_a_torn_artifact_is_a_failed_check_that_says_what_is_torn(artifact: Path) -> None:
    flip_one_byte(artifact / "factors.safetensors")
    (check,) = smoke_checks(smoke(artifact, MOVIES, 60.0, requests=50), Gate())
    assert not check.passed
    assert "exit status 1" in check.detail
    assert "factors.safetensors: expected SHA-256" in check.detail


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time; time.sleep(60)", "not finished in 0.5 s"),
        ("import os; os.kill(os.getpid(), 11)", "exit status -11: nothing was said"),
        ("print('hello')", "exit status 0: nothing was said"),
        ("raise SystemExit('no room')", "exit status 1: no room"),
    ],
)
def test_whatever_a_child_does_it_ends_as_a_failed_check(code: str, reason: str, tmp_path: Path) -> None:
    smoked = smoke(tmp_path, MOVIES, 0.5 if "sleep" in code else 20.0, command=[sys.executable, "-c", code])
    assert smoked == Smoked(None, reason)
    (check,) = smoke_checks(smoked, Gate())
    assert not check.passed


def test_a_command_that_is_not_there_is_a_failed_check(tmp_path: Path) -> None:
    assert "cannot be started" in smoke(tmp_path, MOVIES, 1.0, command=[str(tmp_path / "nothing")]).failure


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"errors": 1, "first_error": "ValueError: odd"}, ["smoke"]),
        ({"empty": 3}, ["smoke"]),
        ({"wrong": 3}, ["smoke"]),
        ({"p99_ms": 11.0}, ["latency"]),
        ({"busy_p99_ms": 81.0}, ["load"]),
        ({"p99_ms": 11.0, "busy_p99_ms": 81.0, "errors": 2}, ["smoke", "latency", "load"]),
    ],
)
def test_each_limit_is_a_check(change: dict[str, float], failed: list[str]) -> None:
    figures = decode_smoke(
        encode_smoke(FIGURES).replace(b"}", b"," + _json(change) + b"}") if change else encode_smoke(FIGURES)
    )
    checks = smoke_checks(Smoked(figures), Gate(request_ms=10.0))
    assert [check.name for check in checks if not check.passed] == failed
    if "first_error" in change:
        assert "ValueError: odd" in checks[0].detail


def _json(change: dict[str, float]) -> bytes:
    import msgspec

    return msgspec.json.encode(change)[1:-1]
