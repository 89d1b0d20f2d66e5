"""One attempt at a job in a spawned process: what it is asked, what it tells, what it uses, and how it ends.

- The process leads a process group of its own; whoever ends it ends what it has started too.
- A process whose parent is gone ends at once: it watches the parent's end of a pipe, which the kernel closes even on kill -9.
- Progress goes the way of the outcome, over one pipe. It is dropped while the pipe is full: a parent that has stopped reading
  must not hold up a training.
"""

import logging
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, Self

from online_models.contracts.jobs import Progress, RetrainJob
from online_models.errors import TrainingError
from retrain_workers.attempt import Attempt, Watched
from retrain_workers.checkpoints import JobCheckpoints
from retrain_workers.process_usage import ProcessUsage
from retrain_workers.publish import Prepared, Refused
from retrain_workers.retry import ErrorKind

_LOG = logging.getLogger(__name__)

_ERROR_LENGTH: Final = 2_000
_LEAVE_SECONDS: Final = 1.0
"""A process that has told its outcome may tidy up for so long: semaphores and temporary files that libraries have made."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that gave no result: what kind of error, and its message."""

    kind: ErrorKind
    error: str


Outcome = Prepared | Refused | Failed

Train = Callable[[RetrainJob, Attempt], Prepared | Refused]
"""What the process runs, picklable. A TrainingError is permanent, any other exception transient."""


class TrainingProcess:
    """An attempt that runs inside the `with` block; leaving the block ends it, whatever it is doing.

    progress : the last that it told; None before that
    usage, wall_seconds : up to the last look, or to its end once the block is left
    """

    def __init__(self, train: Train, job: RetrainJob, checkpoints: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._messages, self._sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_training_process, args=(train, job, checkpoints, self._sender), name=f"train-{job.id}", daemon=True
        )
        self._began = 0.0
        self.progress: Progress | None = None
        self.usage = ProcessUsage()
        self.wall_seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._process.start()
        self._sender.close()  # the child holds the only writing end, so its death is an end of file
        return self

    def __exit__(self, *_: object) -> None:
        kill_group(self._process)
        wait([self._process.sentinel])
        self.look()  # not reaped yet: this reading is final
        self._process.join()
        self._process.close()
        self._messages.close()

    def outcome_within(self, pause: timedelta, stop: "Connection[bytes, bytes]") -> Outcome | None:
        """What came of the attempt; None when the pause is over or `stop` is readable first. Looks at what it uses meanwhile."""
        deadline = time.monotonic() + pause.total_seconds()
        while self._messages in wait([self._messages, stop], max(0.0, deadline - time.monotonic())):
            try:
                message: Outcome | Progress = self._messages.recv()
            except (EOFError, OSError):  # an OSError where it died in the middle of a message
                return self._death()
            if not isinstance(message, Progress):
                wait([self._process.sentinel], _LEAVE_SECONDS)
                self.look()
                return message
            self.progress = message
            if time.monotonic() >= deadline:  # one that never stops telling is looked after all the same
                break
        self.look()
        return None

    def look(self) -> None:
        """Bring `usage` and `wall_seconds` up to date."""
        assert self._process.pid is not None, "started in __enter__"
        self.usage = self.usage.then(ProcessUsage.of(self._process.pid))
        self.wall_seconds = time.monotonic() - self._began

    def _death(self) -> Failed:
        wait([self._process.sentinel])
        self.look()
        self._process.join()
        code = self._process.exitcode
        why = " (killed, perhaps because the machine ran out of memory)" if code == -signal.SIGKILL else ""
        return Failed(ErrorKind.CRASH, f"the training process died with exit code {code}{why}")


def _training_process(
    train: Train, job: RetrainJob, checkpoints: Path, sender: "Connection[Outcome | Progress, Outcome | Progress]"
) -> None:
    lead_group()

    def send(progress: Progress) -> None:
        # a pipe is writable while a whole page is free, and a progress is far smaller
        if select.select([], [sender], [], 0)[1]:
            sender.send(progress)

    attempt = Watched(JobCheckpoints.of(checkpoints, job), send, time.monotonic)
    sender.send(_outcome_of(train, job, attempt))


def lead_group() -> None:
    """What a process of a worker does first: lead a group of its own, and see that it ends with its parent."""
    os.setpgid(0, 0)  # Ctrl-C does not reach it: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def kill_group(process: BaseProcess) -> None:
    """Kill a started process and what it has started in turn. Not after it is reaped: its number may be another group's then."""
    assert process.pid is not None, "expected a started process"
    with suppress(ProcessLookupError):  # not yet the leader of a group
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _end_with_parent() -> None:
    """Wait for the end of the process that has started this one, and kill this one's group."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by multiprocessing"
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _outcome_of(train: Train, job: RetrainJob, attempt: Attempt) -> Outcome:
    try:
        return train(job, attempt)
    except TrainingError as error:
        return Failed(ErrorKind.PERMANENT, str(error))
    except Exception as error:  # noqa: BLE001  the outermost boundary of an attempt
        _LOG.exception("job.attempt_failed job_id=%s model=%s", job.id, job.model)
        return Failed(ErrorKind.TRANSIENT, f"{type(error).__name__}: {error}"[:_ERROR_LENGTH])
