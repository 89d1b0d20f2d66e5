"""The port of the queue of retrain jobs; `online_models.ports` gives it under its own name too."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from online_models.contracts.artifacts import Manifest
from online_models.contracts.ids import JobId, ModelName, ModelVersion
from online_models.contracts.jobs import Cost, Estimate, JobKind, JobState, JobStatus, NewJob, Progress, RetrainJob


@dataclass(frozen=True, slots=True)
class CostOutlook:
    """What an estimate of a job's cost goes by.

    events : interactions that the job would be trained on
    past : costs of the newest finished jobs of its model, kind and level, newest first
    """

    events: int
    past: Sequence[Cost]


class JobQueue(Protocol):
    """Retrain jobs. Execution is at least once, publication at most once per trigger: the fencing token decides.

    Every write of a leased job raises LeaseLost when the token is no longer the job's. `cost` is that of all attempts so far.
    """

    def submit(self, job: NewJob) -> JobId | None:
        """Queue a job, or find the one that its trigger has queued before; None when the model has another open job
        of the same component, the language model or the recommender. Idempotent by trigger_id."""

    def claim(self, worker: str, lease: timedelta, kinds: Sequence[JobKind] = ()) -> RetrainJob | None:
        """Lease the next job that is due, or whose lease ran out; of these kinds only, where some are given. A job out of
        attempts is buried instead."""

    def outlook(self, job: RetrainJob) -> CostOutlook:
        """What an estimate of the job's cost goes by."""

    def reserve(self, job: RetrainJob, estimate: Estimate, budget_cpu_seconds: float) -> float | None:
        """Keep the estimate and have the day's budget (UTC; of all models; 0 for none) bear it: compare-and-set.

        None when that is so. Otherwise the CPU seconds that the day's jobs have used or reserved, which leave too little. A job
        of a model without champion is always let through, and so is the first of a day, or it might never be.
        """

    def put_off(self, job: RetrainJob, reason: str) -> None:
        """Give the lease back until the next day (UTC), without counting the attempt."""

    def heartbeat(
        self, job: RetrainJob, lease: timedelta, progress: Progress | None = None, cost: Cost | None = None
    ) -> None:
        """Extend the lease, and tell how far the job is where that is given. Idempotent."""

    def publish(
        self,
        job: RetrainJob,
        manifest: Manifest,
        manifest_sha256: str,
        cost: Cost | None = None,
        report: bytes = b"",
    ) -> None:
        """Finish the job and register its version as a candidate, in one transaction; report : the gate's, JSON."""

    def reject(self, job: RetrainJob, reason: str, cost: Cost | None = None, report: bytes = b"") -> None:
        """Finish the job without a version: the gate refused the candidate."""

    def retry(self, job: RetrainJob, after: timedelta, error: str, cost: Cost | None = None) -> None:
        """Queue the job again."""

    def bury(self, job: RetrainJob, error: str, cost: Cost | None = None) -> None:
        """Give the job up (state `dead`)."""

    def release(self, job: RetrainJob, cost: Cost | None = None) -> None:
        """Give the lease back without counting the attempt (the worker is asked to stop)."""

    def states(self, model: ModelName | None = None) -> dict[JobState, int]:
        """How many jobs are in each state."""

    def statuses(self, model: ModelName | None, count: int) -> list[JobStatus]:
        """The youngest jobs of one model, or of all: at most `count`, oldest first."""

    def publishable(self, model: ModelName) -> set[ModelVersion]:
        """The versions that jobs in work may still publish, whether or not they are written."""

    def finished(self, jobs: Sequence[JobId]) -> set[JobId]:
        """Those of the jobs that are in a final state."""
