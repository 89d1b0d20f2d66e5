"""The queue of retrain jobs in PostgreSQL.

- Claiming takes a row lock with SKIP LOCKED, so workers never wait for each other or take one job twice.
- Leases run by the database's clock alone; a worker whose clock is wrong harms nobody.
- Each claim draws a fencing token from a sequence. Every later write names it and is refused with `LeaseLost`
  when the job has been claimed again: execution is at least once, publication at most once.
"""

from datetime import timedelta
from typing import Any

import msgspec

from online_models.contracts.artifacts import Manifest
from online_models.contracts.ids import JobId, ModelName
from online_models.contracts.jobs import JobPayload, JobState, NewJob, RetrainJob, version_of
from online_models.errors import LeaseLost, StoreError
from online_models.stores.postgres import Cursor, Database, one, query
from online_models.stores.postgres_registry import insert_version


class PostgresJobs:
    """`JobQueue` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, job: NewJob) -> JobId | None:
        """Queue a job, or find the one that its trigger has queued before; None when the model has another open job.
        Idempotent by trigger_id."""
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

    def claim(self, worker: str, lease: timedelta) -> RetrainJob | None:
        """Lease the next job that is due, or whose lease ran out. A job out of attempts is buried instead,
        and so is one whose payload this release cannot read. Repeated after a broken connection: a claim
        nobody heard of ends with its lease."""

        def work(cursor: Cursor) -> RetrainJob | None:
            cursor.execute(query("bury_exhausted_jobs"))
            while True:
                cursor.execute(query("claim_job"), {"worker": worker, "lease": lease})
                row = cursor.fetchone()
                if row is None:
                    return None
                try:
                    return _job(row)
                except msgspec.ValidationError as error:
                    _finish(cursor, row[0], row[7], JobState.DEAD, f"payload not understood: {error}")

        return self._database.run(work, idempotent=True)

    def heartbeat(self, job: RetrainJob, lease: timedelta) -> None:
        """Extend the lease; idempotent. Raises LeaseLost when the token is no longer the job's."""
        # One statement without a transaction around it: a worker that freezes here must not keep its job's row locked.
        values = {"id": job.id, "token": job.token, "lease": lease}
        if self._database.execute(query("extend_lease"), values) == 0:
            raise self._database.run(lambda cursor: _lost(cursor, job), idempotent=True)

    def publish(self, job: RetrainJob, manifest: Manifest, manifest_sha256: str) -> None:
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
            if not _finish(cursor, job.id, job.token, JobState.DONE, None):
                if _lease(cursor, job) == (JobState.DONE, job.token):
                    return  # this very publication, committed before its connection broke
                raise _lost(cursor, job)
            insert_version(cursor, manifest, manifest_sha256, actor=f"job {job.id}")

        self._database.run(work, idempotent=True)

    def reject(self, job: RetrainJob, reason: str) -> None:
        """Finish the job without a version: the gate refused the candidate. Raises LeaseLost."""
        self._fenced("finish_job", job, state=JobState.REJECTED, error=reason)

    def retry(self, job: RetrainJob, after: timedelta, error: str) -> None:
        """Queue the job again. Raises LeaseLost."""
        self._fenced("retry_job", job, after=after, error=error)

    def bury(self, job: RetrainJob, error: str) -> None:
        """Give the job up (state `dead`). Raises LeaseLost."""
        self._fenced("finish_job", job, state=JobState.DEAD, error=error)

    def release(self, job: RetrainJob) -> None:
        """Give the lease back without counting the attempt (the worker is asked to stop). Raises
        LeaseLost."""
        self._fenced("release_job", job)

    def states(self, model: ModelName | None = None) -> dict[JobState, int]:
        """How many jobs are in each state, all states named."""

        def work(cursor: Cursor) -> dict[str, int]:
            cursor.execute(query("count_jobs"), {"model": model})
            return dict(cursor.fetchall())

        counts = self._database.run(work, idempotent=True)
        return {state: counts.get(state, 0) for state in JobState}

    def _fenced(self, name: str, job: RetrainJob, **values: object) -> None:
        def work(cursor: Cursor) -> None:
            cursor.execute(query(name), {"id": job.id, "token": job.token, **values})
            if cursor.rowcount == 0:
                raise _lost(cursor, job)

        self._database.run(work)


def _job(row: tuple[Any, ...]) -> RetrainJob:
    job_id, model, trigger_id, reason, payload, attempt, max_attempts, token, lease_until = row
    decoded = msgspec.json.decode(payload, type=JobPayload)
    return RetrainJob(job_id, model, trigger_id, reason, decoded, attempt, max_attempts, token, lease_until)


def _finish(cursor: Cursor, job_id: int, token: int, state: JobState, error: str | None) -> bool:
    cursor.execute(query("finish_job"), {"id": job_id, "token": token, "state": state, "error": error})
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
