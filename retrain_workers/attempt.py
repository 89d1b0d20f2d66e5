"""What a training may tell and keep while it runs: its progress, and checkpoints that another attempt goes on from."""

from typing import Protocol

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """How far an attempt is.

    phase : what it is doing, such as `reading`, `two_tower`, `gate`
    done, total : rows (or steps) of the phase; total 0 where it is not known
    loss : the training loss, smoothed; None in phases without one
    eta_seconds : until the phase ends; None while it is not known
    """

    phase: str
    done: int = 0
    total: int = 0
    loss: float | None = None
    eta_seconds: float | None = None


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
