"""`ids.hash64` of bytes inside a buffer, compiled: for readers that never make a Python object of a text.

- Eight bytes are read as one little-endian word; numba has no such load of its own, so it is written here.
- A word never reaches beyond the text: at its end the missing bytes are zero.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic


class Text(NamedTuple):
    """Bytes in memory. An array would cost compiled functions a counted reference, which is dear, at every call."""

    address: int
    size: int


def text_of(array: npt.NDArray[np.uint8]) -> Text:
    """The bytes of a contiguous array (n,), which must live as long as they are read."""
    return Text(array.ctypes.data, array.size)


_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_FOUR_BYTES = np.uint64(0xFFFFFFFF)


def _lower_byte(typing: Any, address: types.Integer) -> tuple[Any, Callable[..., Any]]:
    def lower(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(place), ir.IntType(64))

    return types.int64(types.int64), lower


def _lower_word(typing: Any, address: types.Integer) -> tuple[Any, Callable[..., Any]]:
    def lower(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), lower


def _lower_zeros(typing: Any, word: types.Integer) -> tuple[Any, Callable[..., Any]]:
    def lower(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), lower


def _lower_borrowed(typing: Any, array: types.Array) -> tuple[Any, Callable[..., Any]]:
    def lower(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        view = context.make_array(array)(context, builder, args[0])
        view.meminfo = context.get_constant_null(types.MemInfoPointer(array.dtype))  # type: ignore[no-untyped-call]
        return view._getvalue()

    return array(array), lower


Array = TypeVar("Array", bound=npt.NDArray[Any])

borrowed = cast(Callable[[Array], Array], intrinsic(_lower_borrowed))
"""The same array without a counted reference to it: its caller's must last. Only in compiled code."""

_byte = cast(Callable[[int], int], intrinsic(_lower_byte))
_word = cast(Callable[[int], np.uint64], intrinsic(_lower_word))

trailing_zeros = cast(Callable[[np.uint64], int], intrinsic(_lower_zeros))
"""Number of zero bits below the lowest one of a word that is not zero; only in compiled code."""


@njit(cache=True, nogil=True, inline="always")
def byte_at(text: Text, at: int) -> int:
    """The byte at a place within the text."""
    return _byte(text.address + at)


@njit(cache=True, nogil=True, inline="always")
def word_at(text: Text, at: int) -> np.uint64:
    """Little-endian word of the eight bytes from `at` on; zeros stand for what is beyond the text."""
    return _word(text.address + at) if at + 8 <= text.size else _last_word(text, at)


@njit(cache=True, nogil=True)
def _last_word(text: Text, at: int) -> np.uint64:
    word = np.uint64(0)
    for i in range(text.size - 1, at - 1, -1):
        word = word << np.uint64(8) | np.uint64(byte_at(text, i))
    return word


@njit(cache=True, nogil=True, inline="always")
def _rotated(word: np.uint64, by: int) -> np.uint64:
    return (word << np.uint64(by)) | (word >> np.uint64(64 - by))


@njit(cache=True, nogil=True, inline="always")
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotated(lane + word * _PRIME_2, 31) * _PRIME_1


@njit(cache=True, nogil=True)
def _stripes(text: Text, start: int, end: int) -> np.uint64:
    """What the 32-byte stripes of [start, end) leave; at least one."""
    a, b, c, d = _PRIME_1 + _PRIME_2, _PRIME_2, np.uint64(0), np.uint64(0) - _PRIME_1
    for at in range(start, end - 31, 32):
        a = _round(a, _word(text.address + at))
        b = _round(b, _word(text.address + at + 8))
        c = _round(c, _word(text.address + at + 16))
        d = _round(d, _word(text.address + at + 24))
    total = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
    for lane in (a, b, c, d):
        total = (total ^ _round(np.uint64(0), lane)) * _PRIME_1 + _PRIME_4
    return total


@njit(cache=True, nogil=True)
def hash_bytes(text: Text, start: int, end: int) -> np.uint64:
    """XXH64 (seed 0) of `text[start:end]`: what `ids.hash64` is of the text with these bytes.

    >>> from online_models.contracts.ids import hash64
    >>> array = np.frombuffer(b"a movie", np.uint8)
    >>> int(hash_bytes(text_of(array), 2, 7)) == hash64("movie")
    True

    References
    ----------
    Collet, Y. (2016). xxHash fast digest algorithm, specification of XXH64.
    """
    size, at = end - start, start
    total = _PRIME_5
    if size >= 32:
        total = _stripes(text, start, end)
        at = end - size % 32
    total += np.uint64(size)
    while at + 8 <= end:
        total = _rotated(total ^ _round(np.uint64(0), _word(text.address + at)), 27) * _PRIME_1 + _PRIME_4
        at += 8
    if at + 4 <= end:
        total = _rotated(total ^ ((word_at(text, at) & _FOUR_BYTES) * _PRIME_1), 23) * _PRIME_2 + _PRIME_3
        at += 4
    while at < end:
        total = _rotated(total ^ (np.uint64(byte_at(text, at)) * _PRIME_5), 11) * _PRIME_1
        at += 1
    total = (total ^ (total >> np.uint64(33))) * _PRIME_2
    total = (total ^ (total >> np.uint64(29))) * _PRIME_3
    return total ^ (total >> np.uint64(32))
