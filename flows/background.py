"""Writes on a thread of their own, in order, so that a store works while the flow goes on.

- What has queued up meanwhile is written in one call: the slower the store, the fewer and larger its transactions.
- A bounded number of batches may be pending; `drain` waits for all.
- After a failed write nothing more is written, and every later call raises its error: a batch must not stand in a store
  whose predecessor is lost.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """One thread, first in first out.

    Parameters
    ----------
    name : of the thread
    write : called on it with the batches that wait, oldest first; at least one
    max_pending : batches that may wait before `submit` waits too
    """

    def __init__(self, name: str, write: Callable[[list[T]], None], max_pending: int = 4) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._write = write
        self._max_pending = max_pending
        self._waiting: deque[T] = deque()
        self._pending: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def submit(self, batch: T) -> None:
        """Queue a batch; raises what an earlier write raised."""
        if self._error is not None:
            raise self._error
        self._waiting.append(batch)
        self._pending.append(self._pool.submit(self._write_waiting))
        self._wait(self._max_pending)

    def drain(self) -> None:
        """Return when all writes are done; raises what one of them raised."""
        self._wait(0)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Drain and end the thread."""
        self.drain()
        self._pool.shutdown()

    def _write_waiting(self) -> None:
        if self._error is not None:
            raise self._error
        batches = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            if batches:
                self._write(batches)
        except BaseException as error:
            self._error = error
            raise

    def _wait(self, leave: int) -> None:
        while len(self._pending) > leave:
            self._pending.popleft().result()
