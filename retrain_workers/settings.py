"""Settings of the worker process: section `[worker]`, environment prefix `PENSTOCK_WORKER_`."""

import os
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from online_models.contracts.jobs import JobKind
from online_models.settings import Settings


class WorkerSettings(Settings):
    """How long work may take, how often it is tried again, and what a candidate has to show.

    lease_seconds : a job whose worker says nothing for this long is given to another
    heartbeat_seconds : how often a busy worker extends its lease; well below `lease_seconds`
    poll_seconds : pause between two looks at an empty queue
    types : kinds of jobs that are taken (`als`, `two_tower`, `lora`); empty for all
    progress_seconds : how often, at most, the progress of a running job is written to its row and to the log
    job_timeout_seconds : a training process that runs longer is killed, and the job tried again
    job_memory_bytes : a training process that takes more, its children included, is killed, and the job tried once more; 0 for no
        limit. Without it three quarters of the machine's memory, or of the control group's where that has a limit: several
        workers on one machine are to be given their shares. Needs Linux; elsewhere there is no limit unless one is asked for
    budget_cpu_seconds_per_day : CPU time that the trainings of a day (UTC) may take together, all workers and models; a job whose
        estimate does not fit waits for the next day; 0 for no limit
    retry_base_seconds, retry_cap_seconds : first and longest pause before another attempt
    min_positive_events, min_items : fewer than these cannot give a model, and the job is buried
    device : what networks are trained on: `cpu`, `cuda`, or `auto` for whichever there is
    scoring_threads : that a language model scores users with on a CPU; 0 for half the cores, as the stream and the readers may
        share them. Networks are trained with one: so their bytes are the same anywhere
    base_model_dir : a local directory with the causal language model that adapters are trained for, in the form of transformers;
        nothing is ever downloaded. Without one a tiny model is pretrained on the catalogue's text
    scored_users, language_scores_seconds : users with the newest events, whose candidates a language model scores for the readers
        as its version is published, and how long these scores count. When half of that time is over, a worker without a job
        publishes the champion's anew
    recency_half_life_events : in a fold-in, an event counts half when this many newer ones follow it
    keep_champions : former champions whose artifacts are kept to go back to, the previous one among them
    collect_grace_seconds : how long an artifact that nothing needs any more is kept, one that was never registered among them
    mlflow_uri : an MLflow tracking server that versions are mirrored to, `http://host:port`, with `user:password@` where it asks
        for them; empty for none
    mlflow_timeout_seconds : of one request to it
    gate_margin : share of the champion's NDCG (at 5 % of the catalogue, between 10 and 100) that a candidate may lose and
        still go on to a canary
    gate_alpha : error of that decision: how often a candidate that loses just the margin goes on
    gate_absurd_share : a first model below this share of popularity's NDCG@10 is refused
    gate_min_users : holdout users below which a comparison says nothing
    gate_old_margin : share of the champion's NDCG on its own old events that a candidate may have forgotten; 1 for all
    gate_coverage_share : different items in a candidate's lists, at least this share of those in the champion's
    gate_overlap_floor : mean Jaccard overlap of a candidate's lists with the champion's, at least; 0 asks for nothing
    gate_calibration_error : expected calibration error of a model that gives probabilities, at most
    gate_request_ms, gate_smoke_seconds : of a finished artifact in the reader's code the 99th percentile of a request, and
        how long the whole test may take
    """

    section: ClassVar[str] = "worker"

    lease_seconds: float = Field(60.0, gt=0)
    heartbeat_seconds: float = Field(15.0, gt=0)
    poll_seconds: float = Field(1.0, gt=0)
    types: tuple[JobKind, ...] = ()
    progress_seconds: float = Field(5.0, gt=0)
    job_timeout_seconds: float = Field(3600.0, gt=0)
    job_memory_bytes: int | None = Field(None, ge=0)
    budget_cpu_seconds_per_day: float = Field(0.0, ge=0)
    retry_base_seconds: float = Field(5.0, gt=0)
    retry_cap_seconds: float = Field(300.0, gt=0)
    min_positive_events: int = Field(50, ge=1)
    min_items: int = Field(5, ge=2)
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    scoring_threads: int = Field(0, ge=0)
    base_model_dir: Path | None = None
    scored_users: int = Field(5_000, ge=1)
    language_scores_seconds: float = Field(604_800.0, gt=0)
    recency_half_life_events: float = Field(10.0, gt=0)
    keep_champions: int = Field(2, ge=1)
    collect_grace_seconds: float = Field(86_400.0, ge=0)
    mlflow_uri: str = Field("", pattern=r"^(https?://[^\s/]\S*)?$")
    mlflow_timeout_seconds: float = Field(5.0, gt=0)
    gate_margin: float = Field(0.05, gt=0, lt=1)
    gate_alpha: float = Field(0.05, gt=0, lt=0.5)
    gate_absurd_share: float = Field(0.5, ge=0, le=1)
    gate_min_users: int = Field(20, ge=2)
    gate_old_margin: float = Field(0.75, ge=0, le=1)
    gate_coverage_share: float = Field(0.5, ge=0, le=1)
    gate_overlap_floor: float = Field(0.0, ge=0, le=1)
    gate_calibration_error: float = Field(0.1, gt=0, le=1)
    gate_request_ms: float = Field(100.0, gt=0)
    gate_smoke_seconds: float = Field(120.0, gt=0)

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="PENSTOCK_WORKER_")

    @property
    def lease(self) -> timedelta:
        """The lease as a duration."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def heartbeat(self) -> timedelta:
        """Time between heartbeats: never more than a third of the lease, so that two may fail."""
        return timedelta(seconds=min(self.heartbeat_seconds, self.lease_seconds / 3))


def under_torchrun() -> bool:
    """Whether torchrun has launched this process, as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ
