"""Every error that Penstock raises on purpose, as one tree.

    PenstockError
    ├── SettingsError            a setting is missing, unknown or out of range
    ├── EmbeddedError            an embedded Redis or PostgreSQL cannot be started
    ├── SourceError              an event log cannot be opened, or changed under a resumed job
    ├── RejectedEvent            one row is not a valid event (becomes a dead letter)
    ├── StoreError               a store cannot do what the contract promises
    │   ├── StoreUnavailable     it cannot be reached, or broke off; trying again later may help
    │   ├── StaleEpoch           compare-and-set lost: somebody else moved the row first
    │   ├── RequestReused        an idempotency key comes back with another request
    │   └── LeaseLost            a worker's lease was taken over; its result is refused
    ├── ArtifactError            an artifact is missing, torn or altered
    └── TrainingError            a training job cannot give a model (too little data, rejected, unknown type)

A message says what was expected, what came, and where.
"""


class PenstockError(Exception):
    """Base of every deliberate error."""


class SettingsError(PenstockError):
    """A setting is missing, unknown or out of range."""


class EmbeddedError(PenstockError):
    """An embedded Redis or PostgreSQL cannot be started or reached."""


class SourceError(PenstockError):
    """An event log cannot be opened, or changed under a resumed job."""


class RejectedEvent(PenstockError):
    """One row is not a valid event; the message is the reason in its dead letter."""


class StoreError(PenstockError):
    """A store cannot do what the contract promises."""


class StoreUnavailable(StoreError):
    """A store cannot be reached, or the connection broke; a write that was under way may or may not have happened."""


class StaleEpoch(StoreError):
    """A compare-and-set lost: the row's epoch moved on since it was read."""


class RequestReused(StoreError):
    """An idempotency key comes back with another request than the one it came with first."""


class LeaseLost(StoreError):
    """The worker's fencing token is no longer the job's: another worker took over."""


class ArtifactError(PenstockError):
    """An artifact is missing, torn or altered; it must not be served."""


class TrainingError(PenstockError):
    """A training job cannot give a model, and trying again would not help."""
