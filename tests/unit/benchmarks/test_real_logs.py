"""Copies of a log in which nothing happens, and a benchmark without its data."""

import json
from pathlib import Path

import pytest

from benchmarks.real_logs import main, shuffled
from flows.chunks import Chunk, Lines
from flows.parse import parse
from online_models.contracts.events import TimeBounds
from tests.samples import event
from tests.strategies import ndjson

LOG = ndjson(
    [event(number, ts=1000 * number, user_id=f"u{number // 5}", item_id=f"i{number}") for number in range(100)]
)


def test_a_copy_keeps_the_times_and_the_rows_but_not_their_order() -> None:
    was, now = ([json.loads(line) for line in log.splitlines()] for log in (LOG, shuffled(LOG, 1)))
    assert [each["ts"] for each in now] == [each["ts"] for each in was]
    assert [each["event_id"] for each in now] != [each["event_id"] for each in was]
    assert sorted(each["event_id"] for each in now) == sorted(each["event_id"] for each in was)
    assert shuffled(LOG, 1) == shuffled(LOG, 1) != shuffled(LOG, 2)
    assert parse(Chunk("log", "a.ndjson", 0, Lines(shuffled(LOG, 1), 0)), TimeBounds(0, 2**42)).rejects == []


def test_sittings_stay_whole_and_in_order() -> None:
    now = [json.loads(line) for line in shuffled(LOG, 1, sittings=True).splitlines()]
    sittings = [now[start : start + 5] for start in range(0, 100, 5)]
    assert all(len({each["user_id"] for each in sitting}) == 1 for sitting in sittings)
    assert all([int(each["item_id"][1:]) % 5 for each in sitting] == [0, 1, 2, 3, 4] for sitting in sittings)
    assert [sitting[0]["user_id"] for sitting in sittings] != [f"u{number}" for number in range(20)]


def test_without_the_data_there_is_a_message_and_no_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    assert main([]) == 0
    out = capsys.readouterr().out
    assert f"MovieLens: no {tmp_path}/ml-latest-small; set PENSTOCK_DATA" in out
    assert json.loads(out.splitlines()[-1])["targets"] == []
