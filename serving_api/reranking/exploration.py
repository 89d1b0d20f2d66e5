"""One place of a list given to chance, with the probability of what is shown there.

- Without such a place every propensity is 1: the list follows from what is known.
- The drawn item is one that the list does not hold, so that every item of the pool can be learned about.
"""

from dataclasses import dataclass

from serving_api.reranking.candidates import Places


@dataclass(frozen=True, slots=True)
class Explored:
    """What chance has made of a place: the item that stands there, whether it was drawn, and its propensity."""

    item: int
    drawn: bool
    propensity: float


def explore(incumbent: int, pool: Places, probability: float, draw: float) -> Explored:
    """The incumbent of a place, or with the given probability an item drawn evenly from a pool (m,) without it.

    The propensity of what is shown there, given all that is known before the draw, is

        1 - epsilon  of the incumbent,  epsilon / m  of each item of the pool

    which sum to 1; with an empty pool the incumbent stays, with propensity 1.

    Parameters
    ----------
    probability : epsilon, in [0, 1]
    draw : one number drawn evenly from [0, 1): below epsilon the pool, and which of it, by where below

    >>> import numpy as np
    >>> explore(3, np.array([5, 8]), 0.1, draw=0.06), explore(3, np.array([5, 8]), 0.1, draw=0.6)
    (Explored(item=8, drawn=True, propensity=0.05), Explored(item=3, drawn=False, propensity=0.9))
    """
    if not len(pool) or not probability:
        return Explored(incumbent, False, 1.0)
    if draw >= probability:
        return Explored(incumbent, False, 1.0 - probability)
    which = min(int(draw / probability * len(pool)), len(pool) - 1)
    return Explored(int(pool[which]), True, probability / len(pool))
