"""The queue of retrain jobs as people look at it: a table or JSON, once or again and again."""

from collections.abc import Sequence
from datetime import UTC
from typing import Final

import msgspec

from online_models.contracts.jobs import Cost, Estimate, JobState, JobStatus
from online_models.text_columns import text_columns
from retrain_workers.progress_line import text_of

SHOWN: Final = 20
"""Jobs of a table, unless another number is asked for."""

_HEAD: Final = ("id", "model", "kind", "level", "state", "attempt", "estimate", "cost", "progress")


def table(jobs: Sequence[JobStatus]) -> list[str]:
    """One line per job, under a head line; the reason of a job, its error and when it is due stand behind."""
    if not jobs:
        return ["no jobs"]
    lines = text_columns([_HEAD, *(_cells(job) for job in jobs)])
    return [lines[0], *(f"{line}  {_remark(job)}".rstrip() for line, job in zip(lines[1:], jobs, strict=True))]


def as_json(jobs: Sequence[JobStatus]) -> str:
    """One JSON array of `JobStatus` on one line."""
    return msgspec.json.encode(jobs).decode()


def _cells(job: JobStatus) -> tuple[str, ...]:
    return (
        str(job.id),
        job.model,
        job.kind,
        job.level,
        job.state,
        f"{job.attempt}/{job.max_attempts}",
        price(job.estimate),
        price(job.cost),
        text_of(job.progress) if job.progress is not None and job.state is JobState.RUNNING else "-",
    )


def price(figures: Estimate | Cost | None) -> str:
    """
    >>> price(Cost(1_000, 12.34, 15.6, 500 << 20)), price(None)
    ('12.3 CPU s, 15.6 s, 500 MiB', '-')
    """
    if figures is None:
        return "-"
    return f"{figures.cpu_seconds:.3g} CPU s, {figures.wall_seconds:.3g} s, {figures.peak_bytes >> 20} MiB"


def _remark(job: JobStatus) -> str:
    due = f"due {job.not_before.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if job.state is JobState.QUEUED else ""
    error = job.error.splitlines()[0] if job.error else ""
    return "; ".join(remark for remark in (due, error or job.reason) if remark)
