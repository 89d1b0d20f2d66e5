"""Settings of the worker process: section `[worker]`, environment prefix `PENSTOCK_WORKER_`."""

from datetime import timedelta
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from online_models.settings import Settings


class WorkerSettings(Settings):
    """How long work may take, how often it is tried again, and what a candidate has to show.

    lease_seconds : a job whose worker says nothing for this long is given to another
    heartbeat_seconds : how often a busy worker extends its lease; well below `lease_seconds`
    poll_seconds : pause between two looks at an empty queue
    job_timeout_seconds : a training process that runs longer is killed, and the job tried again
    retry_base_seconds, retry_cap_seconds : first and longest pause before another attempt
    min_positive_events, min_items : fewer than these cannot give a model, and the job is buried
    recency_half_life_events : in a fold-in, an event counts half when this many newer ones follow it
    gate_tolerance : share of the champion's NDCG@10 that a candidate may lose and still go on to a canary
    gate_absurd_share : a first model below this share of popularity's NDCG@10 is refused
    gate_min_users : holdout users below which a comparison says nothing
    """

    section: ClassVar[str] = "worker"

    lease_seconds: float = Field(60.0, gt=0)
    heartbeat_seconds: float = Field(15.0, gt=0)
    poll_seconds: float = Field(1.0, gt=0)
    job_timeout_seconds: float = Field(3600.0, gt=0)
    retry_base_seconds: float = Field(5.0, gt=0)
    retry_cap_seconds: float = Field(300.0, gt=0)
    min_positive_events: int = Field(50, ge=1)
    min_items: int = Field(5, ge=2)
    recency_half_life_events: float = Field(10.0, gt=0)
    gate_tolerance: float = Field(0.05, ge=0, lt=1)
    gate_absurd_share: float = Field(0.5, ge=0, le=1)
    gate_min_users: int = Field(20, ge=1)

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="PENSTOCK_WORKER_")

    @property
    def lease(self) -> timedelta:
        """The lease as a duration."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def heartbeat(self) -> timedelta:
        """Time between heartbeats: never more than a third of the lease, so that two may fail."""
        return timedelta(seconds=min(self.heartbeat_seconds, self.lease_seconds / 3))
