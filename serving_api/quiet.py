"""Log lines that every request could write: one a minute for each cause is enough to be told; metrics count the rest."""

from datetime import timedelta
from typing import Final

EVERY: Final = timedelta(minutes=1)


class Quiet:
    """When something was last told, by cause. Causes are a closed set times the models: none is forgotten.

    >>> quiet = Quiet()
    >>> [quiet.tells("torn", now_seconds) for now_seconds in (0.0, 59.9, 60.0)], quiet.tells("away", 60.0)
    ([True, False, True], True)
    """

    def __init__(self, every: timedelta = EVERY) -> None:
        self._every_seconds = every.total_seconds()
        self._told: dict[str, float] = {}

    def tells(self, cause: str, now_seconds: float) -> bool:
        """Whether to tell of a cause now (monotonic seconds); it is then taken to be told."""
        told = self._told.get(cause)
        if told is not None and now_seconds < told + self._every_seconds:
            return False
        self._told[cause] = now_seconds
        return True
