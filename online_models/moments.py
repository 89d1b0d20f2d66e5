"""Mean, standard deviation and extremes of numbers as sums and maxima that do not depend on the order of the events.

- A sum of floats depends on how the stream was split. Here every number is rounded to a multiple of a fixed unit first,
  range / 2^24, and the multiples are added as integers: merging is exact.
- The price: the mean is off by at most 2^-25 of the declared range, and what lies further than 128 ranges from `low`
  counts as lying there: one absurd value moves the mean by 128 ranges / n at most. The extremes are exact.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

UNITS: Final = 2.0**24
"""Steps in the declared range."""

LIMIT: Final = 2.0**31 - 1
"""Numbers further than this many units from `low` are clipped. Sums of 2^31 such numbers still fit in 64 bits."""

SUMS: Final = 3
"""Sum of x, and of the lower and of the upper 32 bits of x^2, x the multiple of the unit."""


@njit(cache=True, nogil=True)
def add_moments(
    numbers: npt.NDArray[np.float64],
    low: float,
    high: float,
    sums: npt.NDArray[np.int64],
    extremes: npt.NDArray[np.float64],
) -> None:
    """Add numbers (n,), none of them NaN, to `sums` (3,) and `extremes` (2,) = [max of -x, max of x].

    The loop has no branch and reduces integers only, extremes by the order of their bits, so that compilers vectorise it.
    """
    per_unit = UNITS / (high - low)
    bits = numbers.view(np.int64)
    magnitude = np.int64(0x7FFFFFFFFFFFFFFF)
    least, most = magnitude, ~magnitude
    total, lower, upper = np.int64(0), np.int64(0), np.int64(0)
    for i in range(numbers.size):
        x = np.int64(np.int32(np.rint(min(max((numbers[i] - low) * per_unit, -LIMIT), LIMIT))))
        square = x * x
        total += x
        lower += square & np.int64(0xFFFFFFFF)
        upper += square >> np.int64(32)
        # as integers, floats order by magnitude: turn the negative ones round
        key = bits[i] ^ ((bits[i] >> np.int64(63)) & magnitude)
        least, most = min(least, key), max(most, key)
    sums[0] += total
    sums[1] += lower
    sums[2] += upper
    if numbers.size > 0:
        ends = np.empty(2, np.int64)
        ends[0], ends[1] = least, most
        ends ^= (ends >> np.int64(63)) & magnitude
        found = ends.view(np.float64)
        # + 0 turns -0 into 0: the two are equal, so which one a maximum returns depends on the order
        extremes[0] = max(extremes[0], -found[0]) + 0.0
        extremes[1] = max(extremes[1], found[1]) + 0.0


def mean_and_sd(sums: npt.NDArray[np.int64], count: int, low: float, high: float) -> tuple[float, float]:
    """Mean and standard deviation (of the numbers themselves: divided by their count) of `count` > 0 numbers.

    Exact integers up to the last division: no cancellation, however far the numbers lie from zero.

    >>> sums, extremes = np.zeros(3, np.int64), np.full(2, -np.inf)
    >>> add_moments(np.array([1.0, 2.0, 3.0, 6.0]), 0.0, 8.0, sums, extremes)
    >>> mean_and_sd(sums, 4, 0.0, 8.0), extremes.tolist()
    ((3.0, 1.8708286933869707), [-1.0, 6.0])
    """
    unit = (high - low) / UNITS
    total, squares = int(sums[0]), int(sums[1]) + (int(sums[2]) << 32)
    # var = (n Σx² - (Σx)²) / n²
    variance = (count * squares - total * total) / (count * count)
    return low + total / count * unit, float(np.sqrt(variance)) * unit
