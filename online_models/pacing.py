"""How much is learned from each event. What decides are counts of the stream, never the clock: a log can be cut anywhere."""

from typing import Final

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

RARE_EVENTS: Final = 64
"""Up to so many events an item moves with each of them, then with every `MOVE_EVERY`th."""

MOVE_EVERY: Final = 4

CHOICES_AT_FIRST: Final = 2_000
"""A blend learns from so many choices, then from every `CHOOSE_EVERY`th event of the stream."""

CHOOSE_EVERY: Final = 32
ITEMS_AT_PACE: Final = 20_000


def moves(count: I64) -> npt.NDArray[np.bool_]:
    """Which events (n,) move their item, by how many events it has had before each.

    >>> moves(np.array([0, 63, 64, 65, 68])).tolist()
    [True, True, True, False, True]
    """
    moving: npt.NDArray[np.bool_] = (count < RARE_EVENTS) | (count % MOVE_EVERY == 0)
    return moving


def choices(tried: int, number: int, events: int, items: int = 0) -> list[int]:
    """Which of the next events (their places, from 0) a blend learns from.

    Parameters
    ----------
    tried : choices that the blend was shown before; number : events of the stream before
    items : of the version; a choice costs in proportion, so that of more than `ITEMS_AT_PACE` fewer are looked at

    >>> choices(1_998, 10, 30), choices(5_000, 60, 40)
    ([0, 1, 22], [4, 36])
    """
    first = min(max(CHOICES_AT_FIRST - tried, 0), events)
    later, every = number + np.arange(first, events), CHOOSE_EVERY * max(1, items // ITEMS_AT_PACE)
    return [*range(first), *(first + np.flatnonzero(later % every == 0)).tolist()]
