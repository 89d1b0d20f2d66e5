"""The benchmark of serving: its world, its targets, and what it says without wrk."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving import Cell, Size, main, targets_of
from benchmarks.serving_load import Load
from benchmarks.serving_recall import Recall
from benchmarks.serving_world import drawn, known, steps_of
from online_models.contracts.ids import ModelVersion, hash64
from online_models.sources import Sources

ROOT = Path(__file__).parents[3]
V1 = ModelVersion("v1")


def test_a_world_is_the_same_for_the_same_seed() -> None:
    one, other, third = (drawn(500, 40, 8, 6, seed) for seed in (1, 1, 2))
    assert one.item_factors.tobytes() == other.item_factors.tobytes()
    assert one.met.tobytes() == other.met.tobytes()
    assert one.met.tobytes() != third.met.tobytes()
    np.testing.assert_allclose(np.linalg.norm(one.item_factors, axis=1), 1.0, rtol=1e-5)


def test_users_meet_items_of_their_taste() -> None:
    world = drawn(5_000, 50, 16, 10, 0)
    own = [world.item_factors[met] @ world.item_factors[met].mean(axis=0) for met in world.met]
    foreign = [
        world.item_factors[met] @ world.item_factors[world.met[n - 1]].mean(axis=0) for n, met in enumerate(world.met)
    ]
    assert np.mean(own) > 3 * abs(np.mean(foreign))


def test_the_stream_knows_every_user_by_what_they_met() -> None:
    world = drawn(300, 20, 8, 5, 0)
    stream = known(world, V1)
    hashes = [hash64(item) for item in world.item_ids]
    for state, met in zip(stream.states, world.met.tolist(), strict=True):
        assert state.vector is not None
        assert state.vector.shape == (16,)
        assert state.vector.any()
        assert state.history.recent["item"].tolist() == [hashes[row] for row in met]
    assert stream.published.sources is not None
    sources = Sources.decode(stream.published.sources)
    assert sources.items.ids == world.item_ids
    assert sources.popularity.counted().tolist() == [row in world.met for row in range(300)]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
def test_each_event_has_its_user_s_earlier_ones_as_context(users: int, m: int, seed: int) -> None:
    met = np.random.default_rng(seed).integers(0, 9, (users, m))
    steps = steps_of(met)
    expected = [(item, list(row[:n])) for row in met.tolist() for n, item in enumerate(row)]
    contexts = [steps.context[begin:end].tolist() for begin, end in zip(steps.ptr, steps.ptr[1:], strict=False)]
    assert list(zip(steps.item.tolist(), contexts, strict=True)) == expected
    assert steps.ts_ms.reshape(users, m).tolist() == [[3_600_000 * (n + 1) for n in range(m)]] * users


CHEAP, DEAR = Cell(us=100.0, rate=1.0, p50_ms=1.0, p99_ms=4.0), Cell(us=201.0, rate=1.0, p50_ms=1.0, p99_ms=6.0)
QUIET = Load(requests=9, seconds=1.0, p50_ms=1.0, p99_ms=9.0, max_ms=260.0, errors=0, degraded=5)


def met(sizes: Mapping[int, Size]) -> dict[str, bool]:
    return {target.name: target.met for target in targets_of(sizes)}


def test_targets_compare_with_the_empty_fastapi_handler_of_the_same_connections() -> None:
    cells = {("penstock", 1): DEAR, ("fastapi", 1): CHEAP, ("penstock", 32): CHEAP, ("fastapi", 32): CHEAP}
    assert met({10_000: Size(cells, Recall(0.5, 0.5), QUIET)}) == {
        "penstock, 10000 items, 1 connections: of an empty FastAPI's rate per core": False,
        "penstock, 10000 items, 1 connections: p99 ms": False,
        "penstock, 10000 items, 32 connections: of an empty FastAPI's rate per core": True,
        "10000 items, Redis paused for 5 s: errors": True,
        "10000 items, Redis paused for 5 s: degraded answers": True,
        "10000 items, Redis paused for 5 s: p99 ms": True,
    }


def test_targets_ask_for_recall_where_an_index_may_answer_and_for_no_error_in_a_pause() -> None:
    broken = Load(requests=9, seconds=1.0, p50_ms=1.0, p99_ms=300.0, max_ms=2_000.0, errors=1, degraded=0)
    assert met({200_000: Size({}, Recall(0.94, 1.0), broken)}) == {
        "200000 items: recall@10 of the index": False,
        "200000 items, Redis paused for 5 s: errors": False,
        "200000 items, Redis paused for 5 s: degraded answers": False,
        "200000 items, Redis paused for 5 s: p99 ms": False,
    }


def test_without_wrk_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 1
    assert "apt-get install wrk" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_run_ends_with_one_line_of_json() -> None:
    """Needs wrk."""
    command = [sys.executable, "-m", "benchmarks", "serving", "--items", "400", "--users", "60", "--rounds", "1"]
    command += ["--seconds", "1", "--connections", "1", "4"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures["400 items: recall@10 of answers"] == 1.0
    assert figures["400 items, Redis paused: errors"] == 0
    assert figures["400 items, Redis paused: degraded"] > 0
    for connections in (1, 4):
        assert figures[f"400 items, {connections} connections, penstock: requests/s/core"] > 0
