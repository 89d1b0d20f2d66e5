"""What the registry says of versions beside their manifests: aliases, an append-only record of events, and where a job came from.

- An alias moves in the transaction that makes it true, with an event; the one with the larger epoch is the younger.
- A version's row stays for ever. Its artifact may go: `collecting` is written before its files are removed, `collected` after,
  and from the first on nobody may begin to use it.
"""

import enum
from datetime import datetime

import msgspec

from online_models.contracts.ids import Epoch, JobId, ModelName, ModelVersion
from online_models.contracts.jobs import Cost


class Alias(enum.StrEnum):
    """Names that point at one version of a model each."""

    CHAMPION = "champion"  # what a candidate has to beat, and drift is measured against
    CHALLENGER = "challenger"  # the canary of the open rollout
    PREVIOUS = "previous"  # the champion before the last promotion


class Happening(enum.StrEnum):
    """What can happen to a version."""

    REGISTERED = "registered"
    ADOPTED = "adopted"  # became the first champion, without a rollout
    CHALLENGING = "challenging"  # a rollout of it began
    WITHDRAWN = "withdrawn"  # that rollout ended without a promotion
    PROMOTED = "promoted"  # became the champion
    REPLACED = "replaced"  # was the champion until now, and is `previous`
    COLLECTING = "collecting"  # its files are about to be removed
    COLLECTED = "collected"  # they are


class Pointer(msgspec.Struct, frozen=True):
    """Where an alias points, and the epoch and time since which it does."""

    version: ModelVersion
    epoch: Epoch
    since: datetime


class RegistryEvent(msgspec.Struct, frozen=True):
    """One line of a model's record; a larger id is younger.

    detail : by happening, such as `rollout_id`, `epoch`, `reason`, `manifest_sha256`
    """

    id: int
    model: ModelName
    version: ModelVersion
    happening: Happening
    actor: str
    detail: dict[str, str | int | float | None]
    at: datetime


class Origin(msgspec.Struct, frozen=True):
    """The job that made a version, and why it was asked for; kind and level are those of `jobs.JobStatus`."""

    job_id: JobId
    trigger_id: str
    reason: str
    asked_at: datetime
    finished_at: datetime | None
    cost: Cost | None
