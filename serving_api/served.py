"""What requests of a rollout came to, counted by one reader and told to the controller through Redis.

- Counted while the route has a rollout in one of its stages, the arms of a bandit each apart: among many, one that fails would
  be lost in the others. Sums never fall: the controller takes differences of what it reads.
- A user's first request in a rollout at this reader is counted apart, for the first `MOST_USERS` of them; later ones are not told
  from returning ones and count as no user's first. In a shadow nobody is exposed: no user is taken for met there.
- Counted by the requests' thread and the shadow's, read by the publisher's: a lock, held for a microsecond, is between them.
- The publisher is a thread of its own, so that no slow poll of another store keeps back that a version fails: an error of a
  version on trial is in Redis at once, and the next such news half a second later at the earliest.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from online_models.contracts.ids import ModelName, RolloutId, hash64
from online_models.contracts.rollouts import LATENCY_EDGES_MS, Route, Served, Variant, served_arm
from online_models.ports import RouteStore
from serving_api.assignment import Assignment
from serving_api.quiet import Quiet

log: Final = logging.getLogger(__name__)

MOST_USERS: Final = 200_000
"""Users of one rollout that a reader tells apart: about 14 MB."""

KEPT_ROLLOUTS: Final = 2
"""Of a model: the present one, and the one before, of which requests may still be under way and sums to be told."""

NEWS_SECONDS: Final = 0.5
"""Between two tellings of news."""

CLOSE_SECONDS: Final = 5.0

Sums = dict[tuple[int, str], Served]
"""By stage and variant."""


def in_stage(route: Route) -> bool:
    """Whether it has a rollout in one of its stages."""
    return route.rollout_id is not None and route.stage >= 0


def shows_arms(route: Route) -> bool:
    """Whether that stage shows its arms to people, so that requests count for them: any but a shadow's."""
    return in_stage(route) and not route.shadow


class Outcome(NamedTuple):
    """What one request came to.

    error : the version could not answer; empty : no item; fallback : answered by popularity, or a version that stands in
    seconds : from the request's beginning to its list
    stood_in : a fallback because the version was not held or raised
    """

    error: bool
    empty: bool
    fallback: bool
    seconds: float
    stood_in: bool = False


class Agreement(NamedTuple):
    """A shadow's list beside the one shown: the share of the shown items that it has too, and whether both begin alike."""

    overlap: float
    first_same: bool


@dataclass(slots=True)
class _Tally:
    """`Served`, being counted: its whole numbers by name, latencies and the overlap apart."""

    counts: Counter[str] = field(default_factory=Counter)
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_EDGES_MS) + 1))
    overlap: float = 0.0

    def add(self, outcome: Outcome, slow_ms: float, *, first: bool) -> None:
        """Count one request; first : its user's in this rollout."""
        took_ms, counts = outcome.seconds * 1000, self.counts
        slow = 0.0 < slow_ms < took_ms
        counts["requests"] += 1
        counts["errors"] += outcome.error
        counts["empty"] += outcome.empty
        counts["fallbacks"] += outcome.fallback
        counts["stood_in"] += outcome.stood_in
        counts["slow"] += slow
        self.latency[bisect_left(LATENCY_EDGES_MS, took_ms)] += 1
        if first:
            counts["users"] += 1
            counts["user_errors"] += outcome.error
            counts["user_empty"] += outcome.empty
            counts["user_fallbacks"] += outcome.fallback
            counts["user_slow"] += slow

    def served(self) -> Served:
        """As it stands."""
        return Served(**self.counts, latency=tuple(self.latency), overlap=self.overlap)


@dataclass(slots=True)
class _Rollout:
    """met : hashes of users; changed : since it was last taken"""

    tallies: dict[tuple[int, str], _Tally] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)
    changed: bool = False

    def tally(self, stage: int, variant: str) -> _Tally:
        self.changed = True
        found = self.tallies.get((stage, variant))
        if found is None:
            found = self.tallies[stage, variant] = _Tally()
        return found

    def meets(self, user_id: str, most: int) -> bool:
        """Whether this is the first that is met of a user."""
        user = hash64(user_id)
        if user in self.met or len(self.met) >= most:
            return False
        self.met.add(user)
        return True


class ServedCounts:
    """Sums of one reader by model, rollout, stage and variant; for any thread.

    news : set when a version on trial has failed

    >>> from online_models.contracts.ids import ModelVersion
    >>> counts, movies = ServedCounts(), ModelName("movies")
    >>> route = Route(3, ModelVersion("v1"), ModelVersion("v2"), 500, "salt", rollout_id=7, stage=1, slow_ms=100.0)
    >>> asked = Assignment(ModelVersion("v2"), Variant.CANARY, 0.05)
    >>> for _ in range(2):
    ...     counts.add(movies, route, asked, "user", Outcome(False, False, False, 0.2))
    >>> said = counts.taken()[movies, RolloutId(7)][1, "canary"]
    >>> (said.requests, said.slow, said.users), counts.taken()
    ((2, 2, 1), {})
    """

    def __init__(self, most_users: int = MOST_USERS) -> None:
        self.news = threading.Event()
        self._most_users = most_users
        self._rollouts: dict[ModelName, dict[RolloutId, _Rollout]] = {}
        self._lock = threading.Lock()

    def add(self, model: ModelName, route: Route, asked: Assignment, user_id: str, outcome: Outcome) -> None:
        """Count a request that asked for a variant's version, under a route that is `in_stage`."""
        variant = served_arm(asked.version) if asked.variant is Variant.ARM else str(asked.variant)
        with self._lock:
            rollout = self._rollout(model, route)
            first = not route.shadow and rollout.meets(user_id, self._most_users)
            rollout.tally(route.stage, variant).add(outcome, route.slow_ms, first=first)
        if outcome.error and asked.variant is not Variant.STABLE:
            self.news.set()

    def add_shadow(self, model: ModelName, route: Route, outcome: Outcome, agreement: Agreement | None) -> None:
        """Count what was scored in the shadow of a request; agreement : None where there was nothing to compare."""
        with self._lock:
            tally = self._rollout(model, route).tally(route.stage, Variant.CANARY.value)
            tally.add(outcome, route.slow_ms, first=False)
            if agreement is not None:
                tally.counts["compared"] += 1
                tally.counts["first_same"] += agreement.first_same
                tally.overlap += agreement.overlap
        if outcome.error:
            self.news.set()

    def drop_shadow(self, model: ModelName, route: Route) -> None:
        """Count a request in whose shadow there was no time to score."""
        with self._lock:
            self._rollout(model, route).tally(route.stage, Variant.CANARY.value).counts["dropped"] += 1

    def taken(self) -> dict[tuple[ModelName, RolloutId], Sums]:
        """The sums of each rollout that has changed since they were last taken."""
        with self._lock:
            changed = {
                (model, rollout_id): rollout
                for model, rollouts in self._rollouts.items()
                for rollout_id, rollout in rollouts.items()
                if rollout.changed
            }
            for rollout in changed.values():
                rollout.changed = False
            return {of: {key: tally.served() for key, tally in each.tallies.items()} for of, each in changed.items()}

    def untold(self, model: ModelName, rollout_id: RolloutId) -> None:
        """Sums that were taken could not be told: they count as changed."""
        with self._lock:
            rollout = self._rollouts[model].get(rollout_id)
            if rollout is not None:
                rollout.changed = True

    def _rollout(self, model: ModelName, route: Route) -> _Rollout:
        rollouts, rollout_id = self._rollouts.setdefault(model, {}), RolloutId(route.rollout_id or 0)
        found = rollouts.get(rollout_id)
        if found is None:
            found = rollouts[rollout_id] = _Rollout()
            for ended in sorted(rollouts)[:-KEPT_ROLLOUTS]:
                del rollouts[ended]
        return found


class ServedPublisher:
    """Tells the sums of a reader from a thread that lives until `close`.

    Parameters
    ----------
    every_seconds : between two looks for what has changed; news is told at once
    """

    def __init__(self, counts: ServedCounts, routes: RouteStore, reader_id: str, every_seconds: float) -> None:
        self._counts = counts
        self._routes = routes
        self._reader_id = reader_id
        self._every_seconds = every_seconds
        self._closed = threading.Event()
        self._quiet = Quiet()
        self._thread = threading.Thread(target=self._run, name="served", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell what was counted, and end the thread."""
        self._closed.set()
        self._counts.news.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set():
            news = self._counts.news.wait(self._every_seconds)
            self._counts.news.clear()
            self._tell(self._counts.taken())
            if news:
                self._closed.wait(NEWS_SECONDS)
        self._tell(self._counts.taken())

    def _tell(self, changed: Mapping[tuple[ModelName, RolloutId], Sums]) -> None:
        """Write the sums. What a store does not take is told with the next ones."""
        for (model, rollout_id), sums in changed.items():
            try:
                self._routes.put_served(model, rollout_id, self._reader_id, sums)
            except Exception as error:  # noqa: BLE001 - the boundary of a tick: the next one tries again
                self._counts.untold(model, rollout_id)
                if self._quiet.tells(f"served {model}", time.monotonic()):
                    log.warning("served_not_told model=%s rollout=%d error=%s", model, rollout_id, error)
