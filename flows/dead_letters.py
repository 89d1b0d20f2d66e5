"""Dead letters: rows that are not valid events, in an NDJSON file with reason, source, offset and bytes.

The file is cut back to its last snapshot on resume: each row is in it exactly once.
"""

import base64
import os
from pathlib import Path

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.admission import Admitted
from flows.tally import Tally
from online_models.contracts.events import Reject


class DeadLetter(msgspec.Struct, frozen=True):
    """One line of the file. `bytes` is base64, cut to the first 64 KiB; `length` is the row's full size in bytes."""

    reason: str
    source: str
    offset: int
    length: int
    bytes: str


def dead_letter(reject: Reject) -> DeadLetter:
    """A reject's dead letter."""
    text = base64.b64encode(reject.raw).decode()
    return DeadLetter(reject.reason, reject.source, reject.offset, reject.length, text)


class DeadLetterPartition(StatefulSinkPartition[list[Reject], tuple[int, int]]):
    """Appends to the file; its snapshot is (bytes, letters) written."""

    def __init__(self, path: Path, tally: Tally, resume: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115 - held for the life of the partition
        size, letters = resume
        self._file.truncate(size)
        self._tally = tally
        self._tally.dead_letters = letters
        self._encoder = msgspec.json.Encoder()

    def write_batch(self, values: list[list[Reject]]) -> None:
        letters = [dead_letter(reject) for rejects in values for reject in rejects]
        self._file.write(b"".join(self._encoder.encode(letter) + b"\n" for letter in letters))
        self._file.flush()
        self._tally.dead_letters += len(letters)

    def snapshot(self) -> tuple[int, int]:
        os.fsync(self._file.fileno())
        return (self._file.tell(), self._tally.dead_letters)

    def close(self) -> None:
        self._file.close()


class DeadLetterSink(FixedPartitionedSink[list[Reject], tuple[int, int]]):
    """One file per run."""

    def __init__(self, path: Path, tally: Tally) -> None:
        self._path = path
        self._tally = tally

    def list_parts(self) -> list[str]:
        return ["dead-letters-0"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[int, int] | None) -> DeadLetterPartition:
        return DeadLetterPartition(self._path, self._tally, resume_state or (0, 0))


@operator
def dead_letters(step_id: str, up: Stream[Admitted]) -> KeyedStream[list[Reject]]:
    """Admitted chunks -> what was turned away, for a `DeadLetterSink`."""
    turned_away = op.map(
        "turned_away", up, lambda admitted: ("dead-letters-0", [*admitted.rejects, *admitted.duplicates])
    )
    return op.filter("not_empty", turned_away, lambda item: bool(item[1]))
