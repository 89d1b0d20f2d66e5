"""The worker: leases a job, has a child process train, finishes it under its fencing token; knows no model.

- The parent does nothing but wait, watch and extend the lease, so that training can starve it of nothing and a crash of native
  code costs one attempt, not the worker.
- All that decides who may publish is the queue's fencing token. Processes may die, stall or run twice at any point; the next
  attempt goes on from the checkpoints of the last.
- A child that takes more memory or time than it may is killed. Memory is watched, not limited by the kernel: a limit of the
  address space would count what torch and numba only reserve. In a container, stay below its own, which kills anything.
- The estimate is made here, before a process is started: counting rows is cheap, and what is put off must not start a training.
- A worker that has nothing to do does its chores.
- A worker asked to stop kills its child and gives the lease back; the attempt does not count.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Final, assert_never

from online_models.contracts.jobs import Cost, Estimate, JobKind, Progress, RetrainJob, kind_of, level_of
from online_models.errors import LeaseLost, StoreError, StoreUnavailable
from online_models.ports import ArtifactStore, JobQueue, ModelRegistry
from retrain_workers.checkpoints import drop_checkpoints
from retrain_workers.chores import Chores
from retrain_workers.cost import estimate, over_budget, with_attempt
from retrain_workers.progress_line import ProgressLine, text_of
from retrain_workers.publish import Prepared, Refused, discard
from retrain_workers.retry import ErrorKind, GiveUp, RetryAt, RetryPolicy, decide
from retrain_workers.training_process import Failed, Outcome, Train, TrainingProcess

_LOG = logging.getLogger(__name__)

_GLANCE: Final = timedelta(milliseconds=100)
"""Pause between two looks at a child: what it could allocate meanwhile is what the memory limit may be exceeded by."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The worker was asked to stop while the child was training."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things may take, and what they may use. `heartbeat` is well below `lease`.

    progress : shortest pause between two notes of how far a job is
    kinds : of jobs that are taken; all where none is named
    memory_bytes : of a training process and its children; 0 for no limit
    budget_cpu_seconds : of a day (UTC), of all models; 0 for no limit
    """

    lease: timedelta
    heartbeat: timedelta
    progress: timedelta
    poll: timedelta
    job_timeout: timedelta
    retry: RetryPolicy
    kinds: Sequence[JobKind] = ()
    memory_bytes: int = 0
    budget_cpu_seconds: float = 0.0


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


class Pulse:
    """When a running job's heartbeat is due: once a while, and sooner when there is progress to tell."""

    def __init__(self, terms: Terms, now_seconds: float) -> None:
        self._terms = terms
        self._last = now_seconds
        self._told: Progress | None = None

    def due(self, progress: Progress | None, now_seconds: float) -> bool:
        """Whether it is due now (monotonic seconds); it is then taken to be done."""
        pause = self._terms.heartbeat
        if progress != self._told:
            pause = min(pause, self._terms.progress)
        if now_seconds < self._last + pause.total_seconds():
            return False
        self._last, self._told = now_seconds, progress
        return True


class Worker:
    """Takes jobs from a queue until it is asked to stop.

    Parameters
    ----------
    name : who holds the lease, for people
    train : run in a spawned process per attempt
    checkpoints : directory of what running jobs keep
    rng : jitter of retries
    clock : the time now, aware; it only tells when chores are due
    line : where the progress of the running job is shown
    chores : what is done while there is no job
    """

    def __init__(
        self,
        name: str,
        queue: JobQueue,
        artifacts: ArtifactStore,
        registry: ModelRegistry,
        train: Train,
        checkpoints: Path,
        terms: Terms,
        rng: random.Random,
        clock: Callable[[], datetime],
        line: ProgressLine,
        chores: Chores,
    ) -> None:
        self._name = name
        self._queue = queue
        self._artifacts = artifacts
        self._registry = registry
        self._train = train
        self._checkpoints = checkpoints
        self._terms = terms
        self._rng = rng
        self._clock = clock
        self._line = line
        self._chores = chores

    def run(self, stop: StopRequest) -> None:
        """Work until asked to stop. An error of a store is logged and the next look taken after a pause."""
        kinds = ",".join(self._terms.kinds) or "all"
        say("worker.started", worker=self._name, pid=os.getpid(), types=kinds)
        while not stop.requested:
            try:
                busy = self.step(stop)
                if not busy:
                    self._chores.run_due(self._clock(), lambda: stop.requested)
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
        job = self._queue.claim(self._name, self._terms.lease, self._terms.kinds)
        if job is None:
            return False
        about = {"kind": kind_of(job.payload), "level": level_of(job.payload), "reason": job.reason}
        say("job.claimed", job, worker=self._name, attempt=job.attempt, token=job.token, **about)
        try:
            self._work(job, stop)
        except LeaseLost as lost:
            say("job.lease_lost", job, token=job.token, error=lost)
            discard(self._artifacts, self._registry, job)
        return True

    def _work(self, job: RetrainJob, stop: StopRequest) -> None:
        try:
            expected = self._admitted(job)
        except StoreUnavailable as error:
            return self._finish(job, Failed(ErrorKind.TRANSIENT, str(error)), job.cost, stop)
        if expected is not None:
            outcome, cost = self._attempt(job, expected.events, stop)
            self._finish(job, outcome, cost, stop)

    def _admitted(self, job: RetrainJob) -> Estimate | None:
        """What the job is expected to cost; None when that is too much for today, and the job waits for tomorrow."""
        outlook = self._queue.outlook(job)
        expected = estimate(kind_of(job.payload), outlook.events, outlook.past)
        say("job.estimated", job, **_fields(expected))
        budget = self._terms.budget_cpu_seconds
        spent = self._queue.reserve(job, expected, budget)
        if spent is None:
            return expected
        reason = over_budget(expected, spent, budget)
        self._queue.put_off(job, reason)
        say("job.put_off", job, reason=reason)
        return None

    def _attempt(self, job: RetrainJob, events: int, stop: StopRequest) -> tuple[Outcome | Stopped, Cost]:
        try:
            with TrainingProcess(self._train, job, self._checkpoints) as child:
                outcome = self._watched(job, events, child, stop)
        finally:
            self._line.clear()
        cost = _cost(job, events, child)
        say("job.attempt_ended", job, attempt=job.attempt, outcome=type(outcome).__name__, **_fields(cost))
        return outcome, cost

    def _watched(self, job: RetrainJob, events: int, child: TrainingProcess, stop: StopRequest) -> Outcome | Stopped:
        """The outcome of a running child, whatever ends it; keeps its lease, and tells how far it is, until then."""
        pulse = Pulse(self._terms, time.monotonic())
        glance = min(_GLANCE, self._terms.heartbeat)
        while True:
            outcome = child.outcome_within(glance, stop.heard) or self._ended(child, stop)
            if outcome is not None:
                return outcome
            if child.progress is not None:
                self._line.show(job, child.progress)
            if pulse.due(child.progress, time.monotonic()):
                self._heartbeat(job, child.progress, _cost(job, events, child))

    def _ended(self, child: TrainingProcess, stop: StopRequest) -> Failed | Stopped | None:
        """Why a child without an outcome must end now; None when it need not."""
        terms = self._terms
        if stop.requested:
            return Stopped()
        if 0 < terms.memory_bytes < child.usage.peak_bytes:
            used = f"{child.usage.peak_bytes >> 20} MiB of memory, {terms.memory_bytes >> 20} MiB are allowed"
            return Failed(ErrorKind.MEMORY, f"the training process took {used}")
        if child.wall_seconds >= terms.job_timeout.total_seconds():
            return Failed(ErrorKind.TIMEOUT, f"not finished in {terms.job_timeout}")
        return None

    def _heartbeat(self, job: RetrainJob, progress: Progress | None, cost: Cost) -> None:
        try:
            self._queue.heartbeat(job, self._terms.lease, progress, cost)
        except StoreUnavailable as error:  # the store may be back before the lease is over; the token decides
            _LOG.warning("job.heartbeat_failed job_id=%s model=%s error=%r", job.id, job.model, str(error))
        if progress is not None:
            say("job.progress", job, at=text_of(progress))

    def _finish(self, job: RetrainJob, outcome: Outcome | Stopped, cost: Cost, stop: StopRequest) -> None:
        """Write the outcome, again and again for one lease while the store is away: the token decides whether it still
        counts, and a write whose answer was lost is refused the second time."""
        deadline = time.monotonic() + self._terms.lease.total_seconds()
        while True:
            try:
                return self._write(job, outcome, cost)
            except StoreUnavailable as error:
                if stop.requested or time.monotonic() >= deadline:
                    raise
                _LOG.warning("job.finish_failed job_id=%s model=%s error=%r", job.id, job.model, str(error))
                wait([stop.heard], self._terms.poll.total_seconds())
            except LeaseLost:
                raise
            except StoreError as error:  # the registry refuses the version: another attempt may make one that it takes
                discard(self._artifacts, self._registry, job)
                return self._fail(job, ErrorKind.TRANSIENT, str(error), cost)

    def _write(self, job: RetrainJob, outcome: Outcome | Stopped, cost: Cost) -> None:
        match outcome:
            case Prepared(manifest, sha256, report):
                self._queue.publish(job, manifest, sha256, cost, report)
                say("job.published", job, version=manifest.version, parent=manifest.parent, **manifest.metrics)
                drop_checkpoints(self._checkpoints, job.id)
            case Refused(reason, report):
                self._queue.reject(job, reason, cost, report)
                say("job.rejected", job, reason=reason)
                drop_checkpoints(self._checkpoints, job.id)
            case Stopped():
                self._queue.release(job, cost)
                say("job.released", job, reason="the worker was asked to stop")
            case Failed(kind, error):
                self._fail(job, kind, error, cost)
            case _:
                assert_never(outcome)

    def _fail(self, job: RetrainJob, kind: ErrorKind, error: str, cost: Cost) -> None:
        match decide(kind, job.attempt, job.max_attempts, self._terms.retry, self._rng):
            case RetryAt(after):
                self._queue.retry(job, after, error, cost)
                say("job.retried", job, attempt=job.attempt, after=after, error=error)
            case GiveUp(reason):
                self._queue.bury(job, f"{reason}: {error}", cost)
                say("job.buried", job, attempt=job.attempt, reason=reason, error=error)
                drop_checkpoints(self._checkpoints, job.id)


def _cost(job: RetrainJob, events: int, child: TrainingProcess) -> Cost:
    return with_attempt(job.cost, events, child.usage.cpu_seconds, child.wall_seconds, child.usage.peak_bytes)


def _fields(figures: Cost | Estimate) -> dict[str, object]:
    return {name: getattr(figures, name) for name in figures.__struct_fields__}


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
