"""The live event log as a directory of append-only NDJSON segments: the writing side.

- A segment has one writer, the process that its name tells, so appending needs no lock between processes.
- Names are `<UTC start>-<pid>-<number>.ndjson`: their order is the order of their age, and no two processes share one.
- One `write` per call on a file opened with O_APPEND: a reader sees whole calls, and what it has seen outlives a crash of
  this process (not of the machine: there is no fsync per request).
"""

import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from online_models.errors import StoreError

SEGMENT_SUFFIX: Final = ".ndjson"
ROLL_BYTES: Final = 64 << 20

_START = "%Y%m%dT%H%M%S.%fZ"


class SegmentLog:
    """`EventLog` in a directory.

    Parameters
    ----------
    directory : made when it is missing, with the first append
    clock : the time now, aware; it only names segments
    roll_bytes : a segment takes no further call once that would make it longer than this
    """

    def __init__(self, directory: Path, clock: Callable[[], datetime], roll_bytes: int = ROLL_BYTES) -> None:
        self._directory = directory
        self._clock = clock
        self._roll_bytes = roll_bytes
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._pid = 0
        self._size = 0
        self._number = 0
        self._started = datetime.min.replace(tzinfo=UTC)

    def append(self, lines: Sequence[bytes]) -> None:
        """Append whole NDJSON lines (without their newline), all or none; durable against a crash of this process on
        return. Not idempotent: readers recognise a repeated event by its event_id.

        Raises
        ------
        ValueError
            When a line is empty or contains a newline; nothing is written.
        StoreError
            When the file system takes no more.
        """
        for line in lines:
            if not line or b"\n" in line:
                raise ValueError(f"a line of the event log: expected one line of JSON, got {line[:80]!r}")
        if not lines:
            return
        block = b"\n".join(lines) + b"\n"
        with self._lock:
            try:
                self._append(self._segment_for(len(block)), block)
            except OSError as error:
                raise StoreError(f"{self._directory}: cannot append {len(block)} bytes: {error.strerror}") from error

    def close(self) -> None:
        """Close the current segment; a later append begins another one."""
        with self._lock:
            self._close()

    def _append(self, descriptor: int, block: bytes) -> None:
        written = os.write(descriptor, block)
        if written != len(block):
            # A full disk. Nobody else writes here, so the torn line can be taken back.
            os.ftruncate(descriptor, self._size)
            raise StoreError(f"{self._directory}: expected to append {len(block)} bytes, the disk took {written}")
        self._size += written

    def _segment_for(self, length: int) -> int:
        full = self._size > 0 and self._size + length > self._roll_bytes
        # A forked child begins a segment of its own.
        if self._descriptor is None or full or self._pid != os.getpid():
            self._close()
            self._descriptor = self._open()
        return self._descriptor

    def _open(self) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        # A clock that was set back must not turn the order of names around.
        self._started = max(self._started, self._clock().astimezone(UTC))
        self._pid, self._size = os.getpid(), 0
        while True:
            self._number += 1
            name = f"{self._started.strftime(_START)}-{self._pid:08d}-{self._number:06d}{SEGMENT_SUFFIX}"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
                return os.open(self._directory / name, flags, 0o644)
            except FileExistsError:  # pids repeat, across containers above all
                continue

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
