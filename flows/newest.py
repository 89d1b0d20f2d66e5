"""State of the newest two of numbered periods, such as days, or the rollouts of a model.

- The one before the newest goes on counting: what comes late is still of it, and a number from nowhere, far above the true ones,
  takes the place of one and not of both.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

State = TypeVar("State")

KEPT: Final = 2


class Newest(Generic[State]):
    """A state for each of the newest two numbers that have come; an older one has none any more.

    Parameters
    ----------
    make : the state of a number that comes for the first time

    >>> met: Newest[set[int]] = Newest(set)
    >>> [met.of(day) is None for day in (1, 1, 3, 2, 1)], sorted(met.states)
    ([False, False, False, False, True], [2, 3])
    """

    def __init__(self, make: Callable[[], State]) -> None:
        self._make = make
        self.states: dict[int, State] = {}

    def of(self, number: int) -> State | None:
        """The state of a number; None where both that are kept are newer."""
        found = self.states.get(number)
        if found is not None or (len(self.states) == KEPT and number < min(self.states)):
            return found
        made = self.states[number] = self._make()
        if len(self.states) > KEPT:
            del self.states[min(self.states)]
        return made
