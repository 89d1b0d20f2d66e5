"""What the requests of the last seconds came to, from sums that only grow: what breakers look at."""

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta

from online_models.contracts.rollouts import Phase, Rollout, RolloutEvent, Served


class BreakerWindow:
    """The sums of one variant in one stage, remembered for `seconds`.

    begun : when the sums were zero, see `entered_at`. It counts as long as it is within the last seconds: a controller that has
        just started need not wait for the canary's next failures

    >>> start = datetime(2026, 1, 1)
    >>> window = BreakerWindow(60.0, start)
    >>> for second, requests in ((10, 5), (40, 20), (90, 50)):
    ...     recent = window.update(start + timedelta(seconds=second), Served(requests=requests))
    >>> recent.requests  # since second 10, the youngest that is 60 s old
    45
    """

    def __init__(self, seconds: float, begun: datetime | None) -> None:
        self._length = timedelta(seconds=seconds)
        self._begun = begun
        self._seen: deque[tuple[datetime, Served]] = deque()
        self._fallen_at: datetime | None = None

    def update(self, now: datetime, sums: Served) -> Served:
        """What was added in the last seconds.

        Sums fall when a reader's cannot be read for a moment, or Redis lost them until the readers say them again: nothing is
        known until they are back, and after `seconds` they count from where they are.
        """
        if self._seen and sums.requests < self._seen[-1][1].requests:
            self._fallen_at = self._fallen_at or now
            if now - self._fallen_at < self._length:
                return Served()
            self._seen.clear()
            self._begun = None
        self._fallen_at = None
        if not self._seen and self._begun is not None and now - self._begun <= self._length:
            self._seen.append((self._begun, Served()))
        self._seen.append((now, sums))
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._length:
            self._seen.popleft()
        return difference(sums, self._seen[0][1])


def entered_at(rollout: Rollout, events: Iterable[RolloutEvent]) -> datetime | None:
    """When a rollout came into its stage; None once it was resumed there, which sets `stage_started_at` anew but no sum to zero.

    events : its audit trail
    """
    resumed = any(
        event.from_phase is Phase.PAUSED and event.from_stage == event.to_stage == rollout.stage for event in events
    )
    return None if resumed else rollout.stage_started_at


def difference(later: Served, earlier: Served) -> Served:
    """What was added between two sums.

    >>> difference(Served(requests=5, errors=2), Served(requests=3, errors=2)).requests
    2
    """
    added = {
        name: getattr(later, name) - getattr(earlier, name) for name in Served.__struct_fields__ if name != "latency"
    }
    latency = tuple(after - before for after, before in zip(later.latency, earlier.latency, strict=True))
    return Served(**added, latency=latency)
