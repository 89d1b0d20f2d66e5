"""The mirror: sends what happened in the registry to MLflow, from the outbox, and never stands in anybody's way.

- Publishing and promoting only write the outbox, in their own transaction. Idle workers empty it, within a time; a server that is
  away costs a postponed entry and a log line.
- What is sent is a version as it is now, not the event: an entry delivered twice or late does no harm.
- Only what was tried and failed counts as a failure, and is paused longer each time.
- A worker that is asked to stop gives the rest back untried, once the request that it waits for is over: of an abandoned one
  nobody would know what it does to the server, and when.
- An outbox keeps its youngest entries, however long the server is away, or whether any worker knows of one. `refill` has
  everything sent again.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from online_models.contracts.ids import JobId
from online_models.contracts.registry import Alias, Happening, Origin, Pointer, RegistryEvent
from online_models.errors import StoreError
from online_models.model_registry import ModelRegistry, OutboxEntry, RegisteredVersion, RegistryOutbox
from retrain_workers.registry.mlflow_rest import VersionRun

_LOG = logging.getLogger(__name__)

LIMIT: Final = 10_000
"""Entries that wait for a server, at most."""

PASS: Final = timedelta(seconds=20)
"""An idle worker gives the mirror no more time than this at once."""

_LEASE: Final = timedelta(minutes=5)  # a pass and its last version, ten requests of some seconds, end well within it
_BATCH: Final = 50
_FIRST_PAUSE: Final = timedelta(seconds=30)
_LONGEST_PAUSE: Final = timedelta(hours=1)


class Tracker(Protocol):
    """Where versions are mirrored to."""

    def put(self, run: VersionRun, stopped: Callable[[], bool]) -> bool:
        """Have it show the version as it is now; False when it was `stopped` before all was told. Idempotent. Raises StoreError,
        StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a pass did.

    sent : versions put; postponed : entries that failed, by `error`; forgotten : entries given up
    """

    sent: int = 0
    postponed: int = 0
    forgotten: int = 0
    error: str = ""


def never() -> bool:
    """That nobody asks to stop."""
    return False


def mirror(
    outbox: RegistryOutbox,
    registry: ModelRegistry,
    tracker: Tracker | None,
    limit: timedelta = PASS,
    stopped: Callable[[], bool] = never,
) -> Mirrored:
    """Send what waits, for no longer than the limit and one version. Raises StoreError only when PostgreSQL fails.

    tracker : None where no server is configured; stopped : whether to end it now, looked at before each request
    """
    done = Mirrored(forgotten=outbox.trim(LIMIT))
    if tracker is None:  # another worker may know of one
        return done
    deadline = time.monotonic() + limit.total_seconds()

    def over() -> bool:
        return stopped() or time.monotonic() >= deadline

    while not over() and (entries := outbox.claim(_LEASE, _BATCH)):
        done = _send(done, entries, outbox, registry, tracker, over, stopped)
    return done


def _send(
    done: Mirrored,
    entries: Sequence[OutboxEntry],
    outbox: RegistryOutbox,
    registry: ModelRegistry,
    tracker: Tracker,
    over: Callable[[], bool],
    stopped: Callable[[], bool],
) -> Mirrored:
    """One model's entries, version by version."""
    left, sent = list(entries), 0
    for run in runs_of(entries, registry):
        tried = [entry for entry in left if entry.event.version == run.version]
        try:
            if over() or not tracker.put(run, stopped):
                break
        except StoreError as failed:
            error = str(failed)
            _postpone(tried, error, outbox)
            outbox.give_back([entry for entry in left if entry not in tried])
            return Mirrored(done.sent + sent, done.postponed + len(tried), done.forgotten, error)
        outbox.sent(tried)
        left = [entry for entry in left if entry not in tried]
        sent += 1
    outbox.give_back(left)
    return Mirrored(done.sent + sent, done.postponed, done.forgotten, done.error)


def _postpone(tried: Sequence[OutboxEntry], error: str, outbox: RegistryOutbox) -> None:
    failures = 1 + max(entry.failures for entry in tried)
    after = pause(failures)
    _LOG.warning("mirror.postponed model=%s after=%s error=%r", tried[0].event.model, after, error)
    outbox.postpone(tried, after, failures, error)


def pause(failures: int) -> timedelta:
    """How long entries wait after so many failures in a row, twice as long each time.

    >>> [pause(n).total_seconds() for n in (1, 2, 3, 99)]
    [30.0, 60.0, 120.0, 3600.0]
    """
    doublings: int = 2 ** min(failures - 1, 20)
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * doublings)


def runs_of(entries: Sequence[OutboxEntry], registry: ModelRegistry) -> Iterator[VersionRun]:
    """The versions of one model that entries are about, as they are now, in the order of their first entries."""
    model = entries[0].event.model
    aliases, origins, events = registry.aliases(model), registry.origins(model), registry.events(model)
    for version in dict.fromkeys(entry.event.version for entry in entries):
        registered = registry.version(model, version)
        if registered is not None:
            yield run_of(registered, aliases, origins, [event for event in events if event.version == version])


def run_of(
    registered: RegisteredVersion,
    aliases: Mapping[Alias, Pointer],
    origins: Mapping[JobId, Origin],
    events: Sequence[RegistryEvent],
) -> VersionRun:
    """What MLflow is told of a version; events : its own, oldest first."""
    manifest = registered.manifest
    params = {name: f"{setting:g}" for name, setting in sorted(manifest.hyperparameters.items())}
    return VersionRun(
        model=registered.model,
        version=registered.version,
        created_at=registered.created_at,
        params={"kind": manifest.kind, "seed": str(manifest.seed), **params},
        metrics={name: figure for name, figure in sorted(manifest.metrics.items()) if math.isfinite(figure)},
        tags=_tags(registered, origins, events),
        aliases=frozenset(alias for alias, pointer in aliases.items() if pointer.version == registered.version),
    )


def _tags(
    registered: RegisteredVersion, origins: Mapping[JobId, Origin], events: Sequence[RegistryEvent]
) -> dict[str, str]:
    manifest, window = registered.manifest, registered.manifest.data_window
    origin = origins.get(JobId(manifest.job_id)) if manifest.job_id is not None else None
    told: dict[str, object] = {
        "version": registered.version,
        "model": registered.model,
        "kind": manifest.kind,
        "start": manifest.start or None,
        "parent": manifest.parent,
        "language_model": manifest.language_model,
        "state": state_of(events),
        "job": manifest.job_id,
        "trigger": origin.trigger_id if origin else None,
        "reason": origin.reason if origin else None,
        "cpu_seconds": f"{origin.cost.cpu_seconds:.1f}" if origin and origin.cost else None,
        "code_version": manifest.code_version or None,
        "manifest_sha256": registered.manifest_sha256,
        "snapshot_sha256": manifest.snapshot_sha256 or None,
        "data_start_ms": window.start_ms,
        "data_end_ms": window.end_ms,
        "data_events": window.events,
        "data_sha256": window.sha256 or None,
    }
    return {f"penstock.{name}": str(tag) for name, tag in told.items() if tag is not None}


def state_of(events: Sequence[RegistryEvent]) -> Happening | None:
    """The last thing that happened to a version; its own events, oldest first."""
    return events[-1].happening if events else None


def waiting_lines(outbox: RegistryOutbox) -> list[str]:
    """What waits for the mirror, for people."""
    return [
        f"{state.model}: {state.entries} waiting, {state.failures} failures{f', {state.error}' if state.error else ''}"
        for state in outbox.waiting()
    ] or ["nothing waits for the mirror"]
