"""The queue of retrain jobs in PostgreSQL.

- Claiming takes a row lock with SKIP LOCKED, so workers never wait for each other or take one job twice.
- Leases run by the database's clock alone; a worker whose clock is wrong harms nobody.
- Each claim draws a fencing token from a sequence. Every later write names it and is refused with `LeaseLost`
  when the job has been claimed again: execution is at least once, publication at most once.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from online_models.contracts.artifacts import Manifest
from online_models.contracts.ids import JobId, ModelName, ModelVersion
from online_models.contracts.jobs import (
    Cost,
    Estimate,
    JobKind,
    JobPayload,
    JobState,
    JobStatus,
    NewJob,
    Progress,
    RetrainJob,
    kind_of,
    level_of,
    until_of,
    version_of,
)
from online_models.errors import LeaseLost, StoreError, StoreUnavailable
from online_models.job_queue import CostOutlook
from online_models.stores.postgres import Cursor, Database, T, one, query
from online_models.stores.postgres_registry import insert_version

PAST_JOBS: Final = 5
"""Finished jobs that an estimate goes by: enough for a median that one odd run does not move, few enough to follow the data."""

COUNT_TIMEOUT: Final = timedelta(seconds=5)

LATEST_MS: Final = 2**63 - 1


class PostgresJobs:
    """`JobQueue` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, job: NewJob) -> JobId | None:
        """Queue a job, or find the one that its trigger has queued before; None when the model has another open job
        of the same component, the language model or the recommender. Idempotent by trigger_id."""
        values = {
            "model": job.model,
            "trigger_id": job.trigger_id,
            "reason": job.reason,
            "payload": msgspec.json.encode(job.payload).decode(),
        }

        def work(cursor: Cursor) -> JobId | None:
            cursor.execute(query("submit_job"), values)
            row = cursor.fetchone()
            return None if row is None else JobId(row[0])

        return self._database.run(work, idempotent=True)

    def claim(self, worker: str, lease: timedelta, kinds: Sequence[JobKind] = ()) -> RetrainJob | None:
        """Lease the next job that is due, or whose lease ran out; of these kinds only, where some are given. A job out of
        attempts is buried instead, and so is one whose payload this release cannot read. Repeated after a broken connection:
        a claim nobody heard of ends with its lease."""
        values = {"worker": worker, "lease": lease, "kinds": list(kinds) or None}

        def work(cursor: Cursor) -> RetrainJob | None:
            cursor.execute(query("bury_exhausted_jobs"))
            while True:
                cursor.execute(query("claim_job"), values)
                row = cursor.fetchone()
                if row is None:
                    return None
                try:
                    return _job(row)
                except msgspec.ValidationError as error:
                    _finish(cursor, row[0], row[7], JobState.DEAD, f"payload not understood: {error}")

        return self._database.run(work, idempotent=True)

    def outlook(self, job: RetrainJob) -> CostOutlook:
        """What an estimate of the job's cost goes by. Counting reads the events' tables as a whole and holds up the lease, so it
        is given up after `COUNT_TIMEOUT`, and the events of the last job are taken instead."""
        until_ms = until_of(job.payload)
        values = {"domain": job.model, "until_ms": LATEST_MS if until_ms is None else until_ms}
        like = {"model": job.model, "kind": kind_of(job.payload), "level": level_of(job.payload), "count": PAST_JOBS}

        def select(cursor: Cursor) -> list[Cost]:
            cursor.execute(query("select_past_costs"), like)
            return [msgspec.json.decode(cost, type=Cost) for (cost,) in cursor.fetchall()]

        def count(cursor: Cursor) -> int:
            cursor.execute(query("limit_statement"), {"milliseconds": COUNT_TIMEOUT // timedelta(milliseconds=1)})
            cursor.execute(query("count_training_events"), values)
            return int(one(cursor)[0])

        past = self._database.run(select, idempotent=True)
        try:
            events = self._database.run(count, idempotent=True)
        except StoreUnavailable:
            events = past[0].events if past else 0
        return CostOutlook(events, past)

    def reserve(self, job: RetrainJob, estimate: Estimate, budget_cpu_seconds: float) -> float | None:
        """Keep the estimate and have the day's budget (UTC; of all models; 0 for none) bear it: compare-and-set under a lock.

        None when that is so. Otherwise the CPU seconds that the day's jobs have used or reserved, which leave too little. A job
        of a model without champion is always let through, and so is the first of a day, or it might never be.

        Raises
        ------
        LeaseLost
            When the token is no longer the job's.
        """
        values = {"id": job.id, "model": job.model, "token": job.token, "estimate": _json(estimate)}

        def work(cursor: Cursor) -> float | None:
            if budget_cpu_seconds > 0:
                cursor.execute(query("lock_budget"))
                cursor.execute(query("select_spent"), values)
                spent, champion = one(cursor)
                if champion is not None and 0 < spent > budget_cpu_seconds - estimate.cpu_seconds:
                    return float(spent)
            cursor.execute(query("keep_estimate"), values)
            if cursor.rowcount == 0:
                raise _lost(cursor, job)
            return None

        return self._database.run(work, idempotent=True)

    def put_off(self, job: RetrainJob, reason: str) -> None:
        """Give the lease back until the next day (UTC), without counting the attempt. Raises LeaseLost."""
        self._fenced("put_off_job", job, None, error=reason)

    def heartbeat(
        self, job: RetrainJob, lease: timedelta, progress: Progress | None = None, cost: Cost | None = None
    ) -> None:
        """Extend the lease, and tell how far the job is; idempotent. Raises LeaseLost when the token is no longer the job's."""
        # One statement without a transaction around it: a worker that freezes here must not keep its job's row locked.
        values = {"id": job.id, "token": job.token, "lease": lease, "progress": _json(progress), "cost": _json(cost)}
        if self._database.execute(query("extend_lease"), values) == 0:
            raise self._database.run(lambda cursor: _lost(cursor, job), idempotent=True)

    def publish(
        self,
        job: RetrainJob,
        manifest: Manifest,
        manifest_sha256: str,
        cost: Cost | None = None,
        report: bytes = b"",
    ) -> None:
        """Finish the job and register its version as a candidate, in one transaction; idempotent by token.

        Raises
        ------
        LeaseLost
            When the job has been claimed by another worker, or is finished otherwise.
        StoreError
            When the manifest is of another model, or its version is not the one the token stands for.
        """
        expected = (job.model, version_of(job.token))
        if (manifest.model, manifest.version) != expected:
            found = (manifest.model, manifest.version)
            raise StoreError(f"job {job.id}: expected a manifest of {expected}, got one of {found}")

        def work(cursor: Cursor) -> None:
            if not _finish(cursor, job.id, job.token, JobState.DONE, None, cost, report):
                if _lease(cursor, job) == (JobState.DONE, job.token):
                    return  # this very publication, committed before its connection broke
                raise _lost(cursor, job)
            insert_version(cursor, manifest, manifest_sha256, actor=f"job {job.id}")

        self._database.run(work, idempotent=True)

    def reject(self, job: RetrainJob, reason: str, cost: Cost | None = None, report: bytes = b"") -> None:
        """Finish the job without a version: the gate refused the candidate. Raises LeaseLost."""
        self._fenced("finish_job", job, cost, state=JobState.REJECTED, error=reason, report=_report(report))

    def retry(self, job: RetrainJob, after: timedelta, error: str, cost: Cost | None = None) -> None:
        """Queue the job again. Raises LeaseLost."""
        self._fenced("retry_job", job, cost, after=after, error=error)

    def bury(self, job: RetrainJob, error: str, cost: Cost | None = None) -> None:
        """Give the job up (state `dead`). Raises LeaseLost."""
        self._fenced("finish_job", job, cost, state=JobState.DEAD, error=error, report=None)

    def release(self, job: RetrainJob, cost: Cost | None = None) -> None:
        """Give the lease back without counting the attempt (the worker is asked to stop). Raises LeaseLost."""
        self._fenced("release_job", job, cost)

    def states(self, model: ModelName | None = None) -> dict[JobState, int]:
        """How many jobs are in each state, all states named."""

        def work(cursor: Cursor) -> dict[str, int]:
            cursor.execute(query("count_jobs"), {"model": model})
            return dict(cursor.fetchall())

        counts = self._database.run(work, idempotent=True)
        return {state: counts.get(state, 0) for state in JobState}

    def statuses(self, model: ModelName | None, count: int) -> list[JobStatus]:
        """The youngest jobs of one model, or of all: at most `count`, oldest first."""

        def work(cursor: Cursor) -> list[JobStatus]:
            cursor.execute(query("select_job_statuses"), {"model": model, "count": count})
            return [_status(row) for row in reversed(cursor.fetchall())]

        return self._database.run(work, idempotent=True)

    def publishable(self, model: ModelName) -> set[ModelVersion]:
        """The versions that jobs in work may still publish: also under a lease that ran out, until somebody takes it over."""

        def work(cursor: Cursor) -> set[ModelVersion]:
            cursor.execute(query("select_tokens_in_work"), {"model": model})
            return {version_of(token) for (token,) in cursor}

        return self._database.run(work, idempotent=True)

    def finished(self, jobs: Sequence[JobId]) -> set[JobId]:
        """Those of the jobs that are in a final state."""

        def work(cursor: Cursor) -> set[JobId]:
            cursor.execute(query("select_finished"), {"ids": list(jobs)})
            return {JobId(row[0]) for row in cursor.fetchall()}

        return self._database.run(work, idempotent=True) if jobs else set()

    def _fenced(self, name: str, job: RetrainJob, cost: Cost | None, **values: object) -> None:
        def work(cursor: Cursor) -> None:
            cursor.execute(query(name), {"id": job.id, "token": job.token, "cost": _json(cost), **values})
            if cursor.rowcount == 0:
                raise _lost(cursor, job)

        self._database.run(work)


def _json(struct: msgspec.Struct | None) -> str | None:
    return None if struct is None else msgspec.json.encode(struct).decode()


def _report(raw: bytes) -> str | None:
    return raw.decode() or None


def _decoded(raw: str | None, kind: type[T]) -> T | None:
    return None if raw is None else msgspec.json.decode(raw, type=kind)


def _job(row: tuple[Any, ...]) -> RetrainJob:
    job_id, model, trigger_id, reason, payload, attempt, max_attempts, token, lease_until, cost = row
    decoded = msgspec.json.decode(payload, type=JobPayload)
    spent = _decoded(cost, Cost) or Cost()
    return RetrainJob(job_id, model, trigger_id, reason, decoded, attempt, max_attempts, token, lease_until, spent)


def _status(row: tuple[Any, ...]) -> JobStatus:
    job_id, model, kind, level, reason, state, attempt, max_attempts, owner = row[:9]
    error, not_before, created_at, finished_at = row[13:]
    return JobStatus(
        id=job_id,
        model=model,
        kind=kind,
        level=level,
        reason=reason,
        state=JobState(state),
        attempt=attempt,
        max_attempts=max_attempts,
        owner=owner,
        progress=_decoded(row[9], Progress),
        estimate=_decoded(row[10], Estimate),
        cost=_decoded(row[11], Cost),
        report=_decoded(row[12], dict[str, Any]),
        error=error,
        not_before=not_before,
        created_at=created_at,
        finished_at=finished_at,
    )


def _finish(
    cursor: Cursor,
    job_id: int,
    token: int,
    state: JobState,
    error: str | None,
    cost: Cost | None = None,
    report: bytes = b"",
) -> bool:
    values = {
        "id": job_id,
        "token": token,
        "state": state,
        "error": error,
        "cost": _json(cost),
        "report": _report(report),
    }
    cursor.execute(query("finish_job"), values)
    return cursor.rowcount == 1


def _lease(cursor: Cursor, job: RetrainJob) -> tuple[str, int]:
    cursor.execute(query("select_lease"), {"id": job.id})
    state, token = one(cursor)
    return state, token


def _lost(cursor: Cursor, job: RetrainJob) -> LeaseLost:
    state, token = _lease(cursor, job)
    return LeaseLost(
        f"job {job.id} of {job.model!r}: expected state running under token {job.token}, "
        f"found state {state} under token {token}"
    )
