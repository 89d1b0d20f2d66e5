"""The parts of the online ALS benchmark: its world, its ways and targets, its load and its clock."""

import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks import event_latency, online_als
from benchmarks.event_latency import Latencies, Load, append, drawn_load
from benchmarks.online_als import EXACT, IMPLICIT, World
from flows.chunks import Chunk, Lines
from flows.parse import parse
from online_models.contracts.events import TimeBounds
from online_models.contracts.ids import ModelVersion
from online_models.stores.files import SegmentLog


@pytest.fixture(scope="module")
def world() -> World:
    with threadpool_limits(1):
        return online_als.drawn(users=60, items=400, seed=0)


def test_new_users_meet_another_item_after_what_they_are_folded_in_by(world: World) -> None:
    lengths, before = np.diff(world.entries.indptr), np.diff(world.before.indptr)
    assert len(world.target) == len(lengths) == 60
    assert np.array_equal(lengths, before + 1)
    assert 7 < lengths.mean() < 13
    for user in range(60):
        _, items, confidence = online_als.of_user(world.entries, user)
        assert len(set(items.tolist())) == len(items)
        assert world.target[user] not in items
        assert confidence[-1] == confidence.max() == 1 + online_als.HOW.alpha


def test_every_way_gives_implicits_vectors_and_has_a_rate_and_a_target(world: World) -> None:
    with threadpool_limits(1):
        figures = online_als.folded(world, runs=1) | online_als.moved(world, runs=1, seed=0)
        vectors = {name: way() for name, way in online_als.batches(world).items()}
    for found in vectors.values():
        assert np.allclose(found, vectors[IMPLICIT], rtol=0.05, atol=0.02 * np.abs(vectors[IMPLICIT]).max())
    assert figures["exact: apart from the dense solution"] < 1e-5
    assert all(rate > 0 for name, rate in figures.items() if name.endswith("/s"))
    targets = online_als.fold_in_targets(figures)
    assert [target.bounds for target in targets] == [">= 0.9", ">= 3", ">= 3", ">= -0.001", "<= 1e-05", "<= 1e-05"]
    times = figures[f"{EXACT}: users/s"] / figures[f"{IMPLICIT}: users/s"]
    assert targets[0].value == times
    assert f"{figures[f'{EXACT}: users/s']:,.0f}" in online_als.fold_in_table(figures)


def test_a_load_is_valid_events_at_their_rate_of_which_some_belong_to_users_of_their_own() -> None:
    load = drawn_load(ModelVersion("v1"), 1_000, 2.0, first=7, start_ms=1_700_000_000_000, seed=0)
    text = b"\n".join(load.lines) + b"\n"
    parsed = parse(Chunk("log", "log.ndjson", 0, Lines(text, 0)), TimeBounds(0, 2**42))
    assert parsed.rejects == []
    assert len(set(parsed.batch.event_hash.tolist())) == len(load.lines) == 2_000
    assert (parsed.batch.ts_ms - 1_700_000_000_000).tolist() == list(range(2_000))
    assert len(load.probes) == 2 * event_latency.PROBES_PER_SECOND
    users = [event.user_id for event in parsed.batch.events]
    for line, key in load.probes.items():
        assert users.count(users[line]) == 1
        assert key.endswith(f"v:v1:u:{users[line]}")


def test_lines_are_appended_as_they_fall_due_and_probes_with_their_time(tmp_path: Path) -> None:
    lines = [b"%d" % number for number in range(200)]
    waiting: deque[tuple[str, float]] = deque()
    segments = SegmentLog(tmp_path, lambda: datetime.now(UTC))
    begun = time.perf_counter()
    ended = append(segments, Load(lines, {0: "first", 100: "middle", 199: "last"}), 1_000, waiting)
    segments.close()
    (segment,) = tmp_path.iterdir()
    assert segment.read_bytes().split() == lines
    assert [key for key, _ in waiting] == ["first", "middle", "last"]
    (_, first), (_, middle), (_, last) = waiting
    assert begun <= first <= middle <= last <= ended
    assert middle - begun >= 0.1
    assert last - begun >= 0.199


def test_latencies_become_medians_and_a_target_where_ten_thousand_were_offered() -> None:
    slow, fast = np.array([0.01, 0.02, 0.03, 0.2]), np.array([0.01, 0.02, 0.03, 0.04])
    found = [Latencies(10_000, 9_999.0, 9_998.0, seconds, 1) for seconds in (slow, fast, fast)]
    figures = online_als.latency_figures([*found, Latencies(1_000, 999.0, 998.0, slow, 0)])
    assert (figures["at 1000/s: p50 ms"], figures["at 1000/s: applied/s"]) == (30.0, 998)
    assert (figures["at 10000/s: p99 ms"], figures["at 10000/s: worst p99 ms"]) == (40.0, 200.0)
    assert figures["at 10000/s: lost"] == 3
    (target,) = online_als.latency_targets(figures)
    assert (target.value, target.bounds, target.met) == (40.0, "<= 100", True)
    assert online_als.latency_targets({}) == []
    assert "9,999" in online_als.latency_table(found)
