"""The float64 nearest to a decimal number w * 10^q, compiled: exact, or it says that it does not know.

- Up to 2^53 and 10^22 both are floats themselves, so one multiplication or division rounds once (Clinger).
- Beyond, the product of w and a 128-bit 5^q decides, unless it lies too near to the middle of two floats (Eisel and Lemire).

References
----------
Clinger, W. D. (1990). How to read floating point numbers accurately. PLDI 90.
Lemire, D. (2021). Number parsing at a gigabyte per second. Software: Practice and Experience 51(8).
"""

import math

import numpy as np
from numba import njit

MOST_DIGITS = 19
"""A mantissa of more digits may not fit a word."""

_LOWEST, _HIGHEST = -290, 270
"""Powers of ten for which no result is subnormal or infinite, whatever a word w is."""

_EXACT = 22
_POWERS = 10.0 ** np.arange(_EXACT + 1)


def _fifth_power(q: int) -> tuple[int, int]:
    """The first 128 bits of 5^q as two words, cut; but rounded up where 5^-q fits a word, so that exact quotients stay exact."""
    if q >= 0:
        bits = (5**q << 128) >> (5**q).bit_length()
    else:
        divisor = 5**-q
        bits = (1 << (divisor.bit_length() + 127)) // divisor + (q >= -27)
    return bits >> 64, bits & 0xFFFFFFFFFFFFFFFF


_FIVES = np.array([_fifth_power(q) for q in range(_LOWEST, _HIGHEST + 1)], np.uint64)
_ONE, _HALF_WORD, _LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, nogil=True)
def float_of(w: np.uint64, q: int) -> tuple[bool, float]:
    """Whether the float64 nearest to w * 10^q is known, and that float.

    >>> float_of(np.uint64(15), -1), float_of(np.uint64(37454011884736255), -17)
    ((True, 1.5), (True, 0.37454011884736255))
    """
    if w <= np.uint64(1 << 53) and -_EXACT <= q <= _EXACT:
        exact = float(w)
        return True, exact / _POWERS[-q] if q < 0 else exact * _POWERS[q]
    if w == 0:
        return True, 0.0
    if not _LOWEST <= q <= _HIGHEST:
        return False, 0.0
    return _eisel_lemire(w, q)


@njit(cache=True, nogil=True)
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The upper and the lower word of a * b."""
    a1, a0, b1, b0 = a >> _HALF_WORD, a & _LOW, b >> _HALF_WORD, b & _LOW
    middle = a1 * b0 + (a0 * b0 >> _HALF_WORD)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _HALF_WORD) + (other >> _HALF_WORD), a * b


@njit(cache=True, nogil=True)
def _eisel_lemire(w: np.uint64, q: int) -> tuple[bool, float]:
    zeros = 0
    while not w >> np.uint64(63):
        w <<= _ONE
        zeros += 1
    upper, lower = _product(w, _FIVES[q - _LOWEST, 0])
    if upper & np.uint64(0x1FF) == np.uint64(0x1FF):  # the lower 64 bits of 5^q could matter
        more, _ = _product(w, _FIVES[q - _LOWEST, 1])
        lower += more
        if lower < more:
            upper += _ONE
    if lower == _ALL and not -27 <= q <= 55:
        return False, 0.0
    top = upper >> np.uint64(63)
    mantissa = upper >> (top + np.uint64(9))  # 54 bits: one more than a float has
    # floor(log2(10^q)) = 217706 q / 2^16
    binary = ((217_706 * q) >> 16) + 63 + int(top) - zeros
    middle = lower <= _ONE and mantissa & np.uint64(3) == _ONE and mantissa << (top + np.uint64(9)) == upper
    if middle and -4 <= q <= 23:  # exactly between two floats
        return False, 0.0
    mantissa = (mantissa + (mantissa & _ONE)) >> _ONE
    return True, math.ldexp(float(mantissa), binary - 52)
