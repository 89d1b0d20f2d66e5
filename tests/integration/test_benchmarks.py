"""The benchmarks as people run them: a process whose last line is the result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.workloads import WORKLOADS
from flows.chunks import Chunk, Lines
from flows.parse import parse
from online_models.contracts.events import EVENT_TYPES, TimeBounds
from tests.strategies import ndjson

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_replay_ends_with_one_line_of_json() -> None:
    done = run("replay", "--events", "3000", "--seed", "1", "--runs", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"benchmark", "commit", "machine", "figures", "targets"}
    assert result["benchmark"] == "replay"
    assert set(result["machine"]) == {"cores", "cpu", "load"}
    assert result["figures"]["events"] == 3000
    assert 0 < result["figures"]["events_per_second_with_start"] < result["figures"]["events_per_second"]
    (target,) = result["targets"]
    assert target["name"] == "1: whole-job events/s on seeded ratings (seed 1, 3000 events)"
    assert target["target"] == ">= 50000"
    assert target["value"] == result["figures"]["events_per_second"]
    assert target["met"] == (target["value"] >= 50_000)


def test_help_lists_the_benchmarks_and_an_unknown_one_is_refused() -> None:
    assert "replay" in run("--help").stdout
    unknown = run("reply")
    assert unknown.returncode == 2
    assert "replay" in unknown.stderr


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_workload_is_valid_in_time_order_and_the_same_for_the_same_seed(name: str) -> None:
    log = ndjson(list(WORKLOADS[name](2_000, 3)))
    assert log == ndjson(list(WORKLOADS[name](2_000, 3)))
    assert log != ndjson(list(WORKLOADS[name](2_000, 4)))
    parsed = parse(Chunk("log", "log.ndjson", 0, Lines(log, 0)), TimeBounds(0, 2**42))
    assert parsed.rejects == []
    assert len(set(parsed.batch.event_hash.tolist())) == 2_000
    assert (parsed.batch.ts_ms[1:] >= parsed.batch.ts_ms[:-1]).all()
    kinds = {EVENT_TYPES[code].value for code in parsed.batch.type.tolist()}
    assert kinds == ({"rating"} if name == "ratings" else {"impression", "click", "watch", "purchase"})
