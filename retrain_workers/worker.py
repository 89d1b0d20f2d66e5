"""The worker: leases a job, has a child process train, finishes it under its fencing token; knows no model.

- The parent does nothing but wait and extend the lease, so that training can starve it of nothing and a crash
  of native code costs one attempt, not the worker.
- A child whose parent is gone stops at once: it watches the parent's end of a pipe, which the kernel closes
  even on kill -9.
- All that decides who may publish is the queue's fencing token. Processes may die, stall or run twice at any
  point.
- A worker that has nothing to do removes, once an hour, the artifacts that killed workers left.
- A worker asked to stop kills its child and gives the lease back; the attempt does not count.
"""

import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection, Pipe, wait
from typing import Final, Self, assert_never

from online_models.contracts.jobs import RetrainJob
from online_models.errors import LeaseLost, StoreUnavailable, TrainingError
from online_models.ports import ArtifactStore, JobQueue, ModelRegistry
from retrain_workers.publish import Prepared, Refused, discard, remove_orphans
from retrain_workers.retry import ErrorKind, GiveUp, RetryAt, RetryPolicy, decide

_LOG = logging.getLogger(__name__)

_ERROR_LENGTH = 2_000
_TIDY_EVERY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that gave no result: what kind of error, and its message."""

    kind: ErrorKind
    error: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The worker was asked to stop while the child was training."""


Outcome = Prepared | Refused | Failed

Train = Callable[[RetrainJob], Prepared | Refused]
"""What the child process runs, picklable. A TrainingError is permanent, any other exception transient."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things may take. `heartbeat` is well below `lease`."""

    lease: timedelta
    heartbeat: timedelta
    poll: timedelta
    job_timeout: timedelta
    retry: RetryPolicy


class StopRequest:
    """A request to stop that can be waited for beside pipes, and set from a signal handler."""

    def __init__(self) -> None:
        self._heard, self._asked = Pipe(duplex=False)
        self.requested = False

    @property
    def heard(self) -> "Connection[bytes, bytes]":
        """Readable once the request is made."""
        return self._heard

    def request(self) -> None:
        """Ask for the stop; idempotent."""
        if not self.requested:
            self.requested = True
            self._asked.send_bytes(b"stop")

    def close(self) -> None:
        """Give the descriptors back."""
        self._heard.close()
        self._asked.close()


class Worker:
    """Takes jobs from a queue until it is asked to stop.

    Parameters
    ----------
    name : who holds the lease, for people
    train : run in a spawned process per attempt
    rng : jitter of retries
    clock : the time now, aware; it only tells the age of artifacts
    """

    def __init__(
        self,
        name: str,
        queue: JobQueue,
        artifacts: ArtifactStore,
        registry: ModelRegistry,
        train: Train,
        terms: Terms,
        rng: random.Random,
        clock: Callable[[], datetime],
    ) -> None:
        self._name = name
        self._queue = queue
        self._artifacts = artifacts
        self._registry = registry
        self._train = train
        self._terms = terms
        self._rng = rng
        self._clock = clock
        self._tidied: datetime | None = None

    def run(self, stop: StopRequest) -> None:
        """Work until asked to stop. An error of a store is logged and the next look taken after a pause."""
        say("worker.started", worker=self._name, pid=os.getpid())
        while not stop.requested:
            try:
                busy = self.step(stop)
                if not busy:
                    self._tidy()
            except Exception:  # noqa: BLE001  the outermost boundary of a tick
                _LOG.exception("worker.tick_failed worker=%s", self._name)
                busy = False
            if not busy:
                wait([stop.heard], self._terms.poll.total_seconds())
        say("worker.stopped", worker=self._name)

    def run_due(self, stop: StopRequest) -> None:
        """Work off the jobs that are due. Raises StoreError or StoreUnavailable when a store fails."""
        jobs = 0
        while not stop.requested and self.step(stop):
            jobs += 1
        say("worker.idle", worker=self._name, jobs=jobs)

    def step(self, stop: StopRequest) -> bool:
        """Take one job to its end, if there is one that is due; returns whether there was."""
        job = self._queue.claim(self._name, self._terms.lease)
        if job is None:
            return False
        kind = type(job.payload).__name__
        say(
            "job.claimed", job, worker=self._name, payload=kind, attempt=job.attempt, token=job.token, reason=job.reason
        )
        try:
            self._finish(job, self._attempt(job, stop), stop)
        except LeaseLost as lost:
            say("job.lease_lost", job, token=job.token, error=lost)
            discard(self._artifacts, self._registry, job)
        return True

    def _tidy(self) -> None:
        now = self._clock()
        if self._tidied is None or now >= self._tidied + _TIDY_EVERY:
            self._tidied = now
            for model, version in remove_orphans(self._artifacts, self._registry, now):
                say("artifact.removed", model=model, version=version, reason="written and never registered")

    def _attempt(self, job: RetrainJob, stop: StopRequest) -> Outcome | Stopped:
        deadline = time.monotonic() + self._terms.job_timeout.total_seconds()
        with TrainingProcess(self._train, job) as child:
            while True:
                outcome = child.outcome_within(self._terms.heartbeat, stop)
                if outcome is not None:
                    return outcome
                if stop.requested:
                    return Stopped()
                if time.monotonic() >= deadline:
                    return Failed(ErrorKind.TIMEOUT, f"not finished in {self._terms.job_timeout}")
                self._heartbeat(job)

    def _heartbeat(self, job: RetrainJob) -> None:
        try:
            self._queue.heartbeat(job, self._terms.lease)
        except StoreUnavailable as error:  # the store may be back before the lease is over; the token decides
            _LOG.warning("job.heartbeat_failed job_id=%s model=%s error=%r", job.id, job.model, str(error))

    def _finish(self, job: RetrainJob, outcome: Outcome | Stopped, stop: StopRequest) -> None:
        """Write the outcome, again and again for one lease while the store is away: the token decides whether it still
        counts, and a write whose answer was lost is refused the second time."""
        deadline = time.monotonic() + self._terms.lease.total_seconds()
        while True:
            try:
                return self._write(job, outcome)
            except StoreUnavailable as error:
                if stop.requested or time.monotonic() >= deadline:
                    raise
                _LOG.warning("job.finish_failed job_id=%s model=%s error=%r", job.id, job.model, str(error))
                wait([stop.heard], self._terms.poll.total_seconds())

    def _write(self, job: RetrainJob, outcome: Outcome | Stopped) -> None:
        match outcome:
            case Prepared(manifest, sha256):
                self._queue.publish(job, manifest, sha256)
                say("job.published", job, version=manifest.version, parent=manifest.parent, **manifest.metrics)
            case Refused(reason):
                self._queue.reject(job, reason)
                say("job.rejected", job, reason=reason)
            case Stopped():
                self._queue.release(job)
                say("job.released", job, reason="the worker was asked to stop")
            case Failed(kind, error):
                self._fail(job, kind, error)
            case _:
                assert_never(outcome)

    def _fail(self, job: RetrainJob, kind: ErrorKind, error: str) -> None:
        match decide(kind, job.attempt, job.max_attempts, self._terms.retry, self._rng):
            case RetryAt(after):
                self._queue.retry(job, after, error)
                say("job.retried", job, attempt=job.attempt, after=after, error=error)
            case GiveUp(reason):
                self._queue.bury(job, f"{reason}: {error}")
                say("job.buried", job, attempt=job.attempt, reason=reason, error=error)


class TrainingProcess:
    """One attempt in a spawned process; leaving the block ends it, whatever it is doing."""

    def __init__(self, train: Train, job: RetrainJob) -> None:
        context = multiprocessing.get_context("spawn")
        self._outcome, self._sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_training_process, args=(train, job, self._sender), name=f"train-{job.id}", daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        self._sender.close()  # the child holds the only writing end, so its death is an end of file
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._outcome.close()

    def outcome_within(self, pause: timedelta, stop: StopRequest) -> Outcome | None:
        """What came of the attempt; None when the pause is over or a stop was asked for first."""
        if self._outcome not in wait([self._outcome, stop.heard], pause.total_seconds()):
            return None
        try:
            outcome: Outcome = self._outcome.recv()
        except EOFError:
            self._process.join()
            return Failed(ErrorKind.CRASH, f"the training process died with exit code {self._process.exitcode}")
        return outcome


def _training_process(train: Train, job: RetrainJob, sender: "Connection[Outcome, Outcome]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    sender.send(_outcome_of(train, job))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by multiprocessing"
    parent.join()
    os._exit(1)


def _outcome_of(train: Train, job: RetrainJob) -> Outcome:
    try:
        return train(job)
    except TrainingError as error:
        return Failed(ErrorKind.PERMANENT, str(error))
    except Exception as error:  # noqa: BLE001  the outermost boundary of an attempt
        _LOG.exception("job.attempt_failed job_id=%s model=%s", job.id, job.model)
        return Failed(ErrorKind.TRANSIENT, f"{type(error).__name__}: {error}"[:_ERROR_LENGTH])


def say(event: str, job: RetrainJob | None = None, **fields: object) -> None:
    """One log line for one change of state: its name, the job it is about, and fields as `key=value`."""
    about = {"job_id": job.id, "model": job.model} if job is not None else {}
    _LOG.info("%s %s", event, " ".join(f"{key}={_shown(field)}" for key, field in (about | fields).items()))


def _shown(field: object) -> str:
    """
    >>> _shown(0.123456), _shown("v12"), _shown("no data")
    ('0.1235', 'v12', "'no data'")
    """
    text = f"{field:.4g}" if isinstance(field, float) else str(field)
    return repr(text) if " " in text or not text else text
