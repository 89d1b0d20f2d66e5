"""The dead-letter file: each turned-away row once, whatever was interrupted."""

import base64
from collections.abc import Sequence
from pathlib import Path

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from flows.admission import Admitted
from flows.dead_letters import DeadLetter, DeadLetterPartition, DeadLetterSink, dead_letters
from flows.tally import Tally
from online_models.contracts.events import Reject
from tests.samples import batch, event


def reject(number: int, raw: bytes = b"\xff\n\x00 raw") -> Reject:
    return Reject(f"reason {number}", "a.ndjson", 10 * number, raw, len(raw))


def opened(path: Path, tally: Tally, resume: tuple[int, int] | None = None) -> DeadLetterPartition:
    sink = DeadLetterSink(path, tally)
    return sink.build_part("step", sink.list_parts()[0], resume)


def letters(path: Path) -> list[DeadLetter]:
    return [msgspec.json.decode(line, type=DeadLetter) for line in path.read_bytes().splitlines()]


def write(part: DeadLetterPartition, numbers: Sequence[int]) -> None:
    part.write_batch([[reject(number)] for number in numbers])


def test_a_letter_holds_reason_place_and_any_bytes(tmp_path: Path) -> None:
    path, tally = tmp_path / "not" / "there" / "dead-letters.ndjson", Tally()
    part = opened(path, tally)
    cut = Reject("line: too long", "b.ndjson", 7, b"x" * 10, 1_000_000)
    part.write_batch([[reject(1), cut], [reject(2)]])
    first, second, third = letters(path)
    assert (first.reason, first.source, first.offset, first.length) == ("reason 1", "a.ndjson", 10, 7)
    assert base64.b64decode(first.bytes) == b"\xff\n\x00 raw"
    assert (second.length, base64.b64decode(second.bytes)) == (1_000_000, b"x" * 10)
    assert (third.offset, tally.dead_letters) == (20, 3)
    part.close()


def test_what_was_written_after_the_last_snapshot_is_cut_off_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "dead-letters.ndjson"
    killed = opened(path, Tally())
    write(killed, [1, 2])
    snapshot = killed.snapshot()
    assert snapshot == (path.stat().st_size, 2)
    write(killed, [3, 4, 5])
    assert len(letters(path)) == 5
    killed.close()
    tally = Tally()
    resumed = opened(path, tally, snapshot)
    assert ([letter.offset for letter in letters(path)], tally.dead_letters) == ([10, 20], 2)
    write(resumed, [3, 4])
    assert [letter.offset for letter in letters(path)] == [10, 20, 30, 40]
    assert resumed.snapshot() == (path.stat().st_size, 4)
    resumed.close()


def test_half_a_letter_at_the_end_is_cut_off_too(tmp_path: Path) -> None:
    path = tmp_path / "dead-letters.ndjson"
    part = opened(path, Tally())
    write(part, [1])
    snapshot = part.snapshot()
    write(part, [2])
    part.close()
    path.write_bytes(path.read_bytes()[:-5])
    resumed = opened(path, Tally(), snapshot)
    write(resumed, [2])
    assert [letter.offset for letter in letters(path)] == [10, 20]
    resumed.close()


def test_a_run_killed_before_its_first_snapshot_begins_with_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "dead-letters.ndjson"
    for numbers in ([1, 2], [1]):
        part = opened(path, Tally())
        write(part, numbers)
        part.close()
    assert [letter.offset for letter in letters(path)] == [10]


def test_chunks_without_bad_rows_write_nothing() -> None:
    good = Admitted(partition="log", batch=batch([event(1)]), rejects=[], duplicates=[])
    bad = Admitted(partition="log", batch=batch([event(2)]), rejects=[reject(1), reject(2)], duplicates=[reject(3)])
    found: list[tuple[str, list[Reject]]] = []
    flow = Dataflow("flow")
    turned_away = dead_letters("dead_letters", op.input("chunks", flow, TestingSource([good, bad, good])))
    op.output("out", turned_away, TestingSink(found))
    run_main(flow)
    assert found == [("dead-letters-0", [reject(1), reject(2), reject(3)])]
