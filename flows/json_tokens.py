"""Tokens of JSON read straight from a buffer, compiled: texts, numbers, moments of time and the space between.

- A reader takes the place where its token begins and gives the place after it, or `SURPRISE` for all that it does not know to
  be right: an escape, a number too long, any mistake. What surprised is for the exact decoder to judge, never for these.
- Every line ends with a newline, which no token holds: so no reader runs over the end of the text.
"""

import numpy as np
from numba import njit

from flows.decimals import MOST_DIGITS, float_of
from online_models.hashing import Text, byte_at, trailing_zeros, word_at

SURPRISE = -1

NEWLINE, QUOTE, COMMA, COLON, MINUS, PLUS, DOT = (ord(mark) for mark in '\n",:-+.')
BRACE, END_BRACE, BRACKET, END_BRACKET, SMALL_N = (ord(mark) for mark in "{}[]n")
_SPACE, _TAB, _RETURN, _ZERO, _SMALL_E, _BIG_E = (ord(mark) for mark in " \t\r0eE")
_SMALL_F, _SMALL_T, _SMALL_Z, _BIG_T, _BIG_Z = (ord(mark) for mark in "ftzTZ")

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_SPACES, _QUOTES, _BACKSLASHES = (_ONES * np.uint64(ord(mark)) for mark in ' "\\')
_DASHES, _ZEROS = (_ONES * np.uint64(ord(mark)) for mark in "-0")
_FROM_0, _AFTER_9, _FROM_A, _AFTER_F = (_ONES * np.uint64(128 - ord(mark)) for mark in "0:ag")
_SECOND, _THIRD = np.uint64(0x0000FF00000000FF), np.uint64(0xFF00000000FF0000)
"""Where the dashes of a UUID stand in its second and third word."""
_NULL, _TRUE, _FALSE = (np.uint64(int.from_bytes(word, "little")) for word in (b"null", b"true", b"false"))
_FOUR_BYTES, _FIVE_BYTES = np.uint64(0xFFFFFFFF), np.uint64(0xFFFFFFFFFF)


@njit(cache=True, nogil=True, inline="always")
def after_space(text: Text, at: int) -> int:
    """The place of the first byte from `at` on that is no blank."""
    byte = byte_at(text, at)
    while byte <= _SPACE and byte in (_SPACE, _TAB, _RETURN):
        at += 1
        byte = byte_at(text, at)
    return at


@njit(cache=True, nogil=True)
def text_end(text: Text, at: int, utf8: bool) -> int:
    """Where the closing quote of the text stands whose first byte is at `at`.

    utf8 : whether the whole text is known to be UTF-8; otherwise a byte beyond ASCII surprises
    """
    while True:
        word = word_at(text, at)
        quotes, backslashes = word ^ _QUOTES, word ^ _BACKSLASHES
        # (w - 0x01..) & ~w has the high bit of a byte that is zero, and of none below the first such byte
        found = (
            ((quotes - _ONES) & ~quotes) | ((backslashes - _ONES) & ~backslashes) | ((word - _SPACES) & ~word) | word
        )
        found &= _HIGHS
        if found == 0:
            at += 8
            continue
        at += trailing_zeros(found) >> 3
        byte = byte_at(text, at)
        if byte == QUOTE:
            return at
        if byte < 128 or not utf8:
            return SURPRISE
        at += 1


@njit(cache=True, nogil=True, inline="always")
def _are_hex(word: np.uint64) -> bool:
    """Whether all eight bytes are 0-9 or a-f: the high bit of byte + 128 - c tells whether it is c or more."""
    digits = (word + _FROM_0) & ~(word + _AFTER_9)
    letters = (word + _FROM_A) & ~(word + _AFTER_F)
    return bool((digits | letters) & ~word & _HIGHS == _HIGHS)


@njit(cache=True, nogil=True)
def is_uuid(text: Text, at: int) -> bool:
    """Whether the 36 bytes from `at` on are a UUID in lower case: 8-4-4-4-12 digits."""
    second, third = word_at(text, at + 8), word_at(text, at + 16)  # -hhhh-hh, hh-hhhh-
    marks = (second ^ _DASHES) & _SECOND | (third ^ _DASHES) & _THIRD
    digits = _are_hex(second & ~_SECOND | _ZEROS & _SECOND) and _are_hex(third & ~_THIRD | _ZEROS & _THIRD)
    ends = _are_hex(word_at(text, at + 24)) and _are_hex(word_at(text, at + 28))
    return marks == 0 and digits and ends and _are_hex(word_at(text, at))


@njit(cache=True, nogil=True, inline="always")
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@njit(cache=True, nogil=True)
def integer(text: Text, at: int) -> tuple[int, int]:
    """The place after an integer of at most 18 digits, and the integer."""
    negative = byte_at(text, at) == MINUS
    if negative:
        at += 1
    first, magnitude = at, 0
    while _is_digit(byte_at(text, at)):
        magnitude = magnitude * 10 + (byte_at(text, at) - _ZERO)
        at += 1
    if not 0 < at - first <= 18 or (byte_at(text, first) == _ZERO and at - first > 1):
        return SURPRISE, 0
    return at, -magnitude if negative else magnitude


@njit(cache=True, nogil=True)
def number(text: Text, at: int) -> tuple[int, float]:
    """The place after a number, and the float64 nearest to it."""
    negative = byte_at(text, at) == MINUS
    if negative:
        at += 1
    first, mantissa, exponent = at, np.uint64(0), 0
    while _is_digit(byte_at(text, at)):
        mantissa = mantissa * np.uint64(10) + np.uint64(byte_at(text, at) - _ZERO)
        at += 1
    digits, zero, whole = at - first, byte_at(text, first) == _ZERO, byte_at(text, at) != DOT
    if digits == 0 or (zero and (digits > 1 or (negative and whole))):
        return SURPRISE, 0.0
    if not whole:
        point = at + 1
        significant = _after_zeros(text, point) if zero else point
        at = significant
        while _is_digit(byte_at(text, at)):
            mantissa = mantissa * np.uint64(10) + np.uint64(byte_at(text, at) - _ZERO)
            at += 1
        if at == point:
            return SURPRISE, 0.0
        digits += at - significant
        exponent = point - at
    if byte_at(text, at) == _SMALL_E or byte_at(text, at) == _BIG_E:
        at, power = _exponent(text, at + 1)
        exponent += power
    if at < 0 or digits > MOST_DIGITS:
        return SURPRISE, 0.0
    known, magnitude = float_of(mantissa, exponent)
    if not known:
        return SURPRISE, 0.0
    return at, -magnitude if negative else magnitude


@njit(cache=True, nogil=True)
def _after_zeros(text: Text, at: int) -> int:
    while byte_at(text, at) == _ZERO:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _exponent(text: Text, at: int) -> tuple[int, int]:
    negative = byte_at(text, at) == MINUS
    if negative or byte_at(text, at) == PLUS:
        at += 1
    first, power = at, 0
    while _is_digit(byte_at(text, at)):
        power = power * 10 + (byte_at(text, at) - _ZERO)
        at += 1
    if not 0 < at - first <= 4:
        return SURPRISE, 0
    return at, -power if negative else power


@njit(cache=True, nogil=True)
def null_end(text: Text, at: int) -> int:
    """The place after a null."""
    return at + 4 if word_at(text, at) & _FOUR_BYTES == _NULL else SURPRISE


@njit(cache=True, nogil=True)
def skipped(text: Text, at: int, utf8: bool) -> int:
    """The place after a value of any kind that nobody wants, except an object or a list with more than texts and numbers."""
    byte = byte_at(text, at)
    if byte == BRACKET:
        return _skipped_list(text, at, utf8)
    return _skipped_scalar(text, at, utf8)


@njit(cache=True, nogil=True)
def _skipped_scalar(text: Text, at: int, utf8: bool) -> int:
    byte, word = byte_at(text, at), word_at(text, at)
    if byte == QUOTE:
        end = text_end(text, at + 1, utf8)
        return end + 1 if end >= 0 else SURPRISE
    if byte == SMALL_N:
        return null_end(text, at)
    if byte == _SMALL_T:
        return at + 4 if word & _FOUR_BYTES == _TRUE else SURPRISE
    if byte == _SMALL_F:
        return at + 5 if word & _FIVE_BYTES == _FALSE else SURPRISE
    return number(text, at)[0]


@njit(cache=True, nogil=True)
def _skipped_list(text: Text, at: int, utf8: bool) -> int:
    at = after_space(text, at + 1)
    if byte_at(text, at) == END_BRACKET:
        return at + 1
    while True:
        at = _skipped_scalar(text, after_space(text, at), utf8)
        if at < 0:
            return SURPRISE
        at = after_space(text, at)
        if byte_at(text, at) == END_BRACKET:
            return at + 1
        if byte_at(text, at) != COMMA:
            return SURPRISE
        at += 1


@njit(cache=True, nogil=True)
def _two_digits(text: Text, at: int) -> int:
    """The number of two digits, or a large negative one: a sum with it is negative too."""
    if _is_digit(byte_at(text, at)) and _is_digit(byte_at(text, at + 1)):
        return (byte_at(text, at) - _ZERO) * 10 + (byte_at(text, at + 1) - _ZERO)
    return -1_000_000


@njit(cache=True, nogil=True)
def moment_ms(text: Text, at: int, end: int) -> int:
    """Epoch milliseconds of the text [at, end): `YYYY-MM-DDTHH:MM:SS[.f]Z`, or `+00:00` for Z, of the years 1970 to 2199.

    As `events.timestamp_ms`: digits beyond microseconds are cut, then the nearest millisecond counts.
    """
    if end - at < 20 or not _has_marks(text, at):
        return SURPRISE
    year = _two_digits(text, at) * 100 + _two_digits(text, at + 2)
    month, day = _two_digits(text, at + 5), _two_digits(text, at + 8)
    hour, minute, second = _two_digits(text, at + 11), _two_digits(text, at + 14), _two_digits(text, at + 17)
    if not (1970 <= year < 2200 and 1 <= month <= 12 and 1 <= day <= _days_of_month(year, month)):
        return SURPRISE
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return SURPRISE
    zone, micros = _fraction(text, at + 19, end)
    if not _is_utc(text, zone, end):
        return SURPRISE
    seconds = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    # The same roundings as round(datetime.timestamp() * 1000): halves go to the even millisecond as floats see them.
    return int(np.rint((seconds * 1_000_000 + micros) / 1e6 * 1e3))


@njit(cache=True, nogil=True)
def _has_marks(text: Text, at: int) -> bool:
    dashes = byte_at(text, at + 4) == MINUS and byte_at(text, at + 7) == MINUS
    colons = byte_at(text, at + 13) == COLON and byte_at(text, at + 16) == COLON
    return dashes and colons and byte_at(text, at + 10) == _BIG_T


@njit(cache=True, nogil=True)
def _days_of_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


@njit(cache=True, nogil=True)
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar, counted in years that begin in March."""
    if month <= 2:
        year -= 1
    since_march = (month + 9) % 12
    return year * 365 + year // 4 - year // 100 + year // 400 + (since_march * 153 + 2) // 5 + day - 719_469


@njit(cache=True, nogil=True)
def _fraction(text: Text, at: int, end: int) -> tuple[int, int]:
    """The place after the fraction of a second at `at`, and its whole microseconds; without one, `at` and 0."""
    if byte_at(text, at) != DOT:
        return at, 0
    first, micros, scale = at + 1, 0, 100_000
    at = first
    while at < end and _is_digit(byte_at(text, at)):
        micros += (byte_at(text, at) - _ZERO) * scale
        scale //= 10
        at += 1
    return (at, micros) if at > first else (SURPRISE, 0)


@njit(cache=True, nogil=True)
def _is_utc(text: Text, at: int, end: int) -> bool:
    if at < 0:
        return False
    if end - at == 1:
        return bool(byte_at(text, at) == _BIG_Z)
    zeros = _two_digits(text, at + 1) == 0 and byte_at(text, at + 3) == COLON and _two_digits(text, at + 4) == 0
    return bool(end - at == 6 and byte_at(text, at) == PLUS and zeros)
