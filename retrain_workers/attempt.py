"""What a training may tell and keep while it runs: its progress, and checkpoints that another attempt goes on from.

- Telling is cheap: what comes too soon after the last word is dropped, so a training may tell of every batch.
- A checkpoint should name the data it was made on, and is of use only there. Where the snapshot of the first attempt is gone,
  another one trains on other events; see `training_data`.
"""

from collections.abc import Callable
from typing import Final, Protocol

from online_models.contracts.jobs import Progress
from retrain_workers.checkpoints import JobCheckpoints

TELL_EVERY_SECONDS: Final = 1.0
"""Progress is passed on at most this often, and at once when a phase begins."""


class Attempt(Protocol):
    """One run of a job, as its training sees it."""

    def report(self, phase: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        """Tell how far it is; cheap, may be called for every batch."""

    def checkpoint(self, name: str) -> bytes | None:
        """What this job kept last under a name, in this attempt or an earlier one; None when nothing, or it is torn."""

    def keep(self, name: str, state: bytes) -> None:
        """Replace what is kept under a name; whole or not at all."""


class Unwatched:
    """An attempt that nobody watches and that nothing resumes: in benchmarks, or for a model that is fitted in one go."""

    def report(self, phase: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        """Nothing."""

    def checkpoint(self, name: str) -> bytes | None:
        """Nothing is kept."""
        return None

    def keep(self, name: str, state: bytes) -> None:
        """Nothing."""


class Part:
    """A part of an attempt: it tells and keeps under names of its own."""

    def __init__(self, attempt: Attempt, name: str) -> None:
        """name : of letters, digits and `_`"""
        self._attempt, self._name = attempt, name

    def report(self, phase: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        """Tell it, with the part's name."""
        self._attempt.report(f"{self._name} {phase}", done, total, loss)

    def checkpoint(self, name: str) -> bytes | None:
        """What the part kept."""
        return self._attempt.checkpoint(f"{self._name}-{name}")

    def keep(self, name: str, state: bytes) -> None:
        """Replace what the part keeps."""
        self._attempt.keep(f"{self._name}-{name}", state)


class Watched:
    """The attempt of a training process.

    checkpoints : of the job; send : passes progress on; clock : monotonic seconds
    """

    def __init__(
        self, checkpoints: JobCheckpoints, send: Callable[[Progress], None], clock: Callable[[], float]
    ) -> None:
        self._checkpoints = checkpoints
        self._send = send
        self._clock = clock
        self._phase = ""
        self._began = self._told = 0.0
        self._first = 0

    def report(self, phase: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        """Pass it on, if the last word is old enough."""
        now = self._clock()
        begins = phase != self._phase
        if begins:
            self._phase, self._began, self._first = phase, now, done
        if begins or now >= self._told + TELL_EVERY_SECONDS:
            self._told = now
            eta_seconds = eta(now - self._began, done - self._first, total - done)
            self._send(Progress(phase, done, total, loss, eta_seconds))

    def checkpoint(self, name: str) -> bytes | None:
        """See `JobCheckpoints.newest`."""
        return self._checkpoints.newest(name)

    def keep(self, name: str, state: bytes) -> None:
        """See `JobCheckpoints.keep`."""
        self._checkpoints.keep(name, state)


def eta(elapsed_seconds: float, done: int, left: int) -> float | None:
    """Seconds that what is left takes at the pace of what was done in this attempt; None while there is no pace.

    >>> eta(20.0, 4, 6), eta(20.0, 0, 6), eta(20.0, 4, -4)
    (30.0, None, None)
    """
    return elapsed_seconds / done * left if done > 0 and left >= 0 else None
