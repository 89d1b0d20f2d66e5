"""Compiled XXH64 against the one of the contract, for texts of any length anywhere in a buffer."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import example, given, settings
from numba import njit

from online_models.contracts.ids import hash64
from online_models.hashing import Text, borrowed, byte_at, hash_bytes, text_of, trailing_zeros, word_at


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=120), st.binary(max_size=9), st.binary(max_size=9))
@example("", b"", b"")
def test_a_text_has_the_hash_of_the_contract_wherever_it_stands(text: str, before: bytes, after: bytes) -> None:
    inside = text.encode()
    array = np.frombuffer(before + inside + after, np.uint8)
    assert int(hash_bytes(text_of(array), len(before), len(before) + len(inside))) == hash64(text)


def test_each_length_has_the_hash_of_the_contract() -> None:
    letters = "".join(chr(97 + i % 26) for i in range(200))
    array = np.frombuffer(letters.encode(), np.uint8)
    for length in range(201):
        assert int(hash_bytes(text_of(array), 0, length)) == hash64(letters[:length])


def test_a_hash_never_changes() -> None:
    assert (hash64(""), hash64("movie-1")) == (0xEF46DB3751D8E999, 0x9AF088C83FAB801F)


def test_beyond_its_end_a_text_is_zeros() -> None:
    array = np.arange(1, 11, dtype=np.uint8)
    assert int(word_at(text_of(array), 1)) == int.from_bytes(bytes(range(2, 10)), "little")
    assert int(word_at(text_of(array), 7)) == int.from_bytes(bytes([8, 9, 10]), "little")
    assert byte_at(text_of(array), 9) == 10


@njit()
def _lowest_bits(words: np.ndarray[tuple[int], np.dtype[np.uint64]], text: Text) -> list[int]:
    return [trailing_zeros(word) for word in borrowed(words)] + [text.size]


def test_trailing_zeros_are_counted() -> None:
    words = np.array([1, 0x80, 1 << 63, 0xFF00], np.uint64)
    assert _lowest_bits(words, text_of(np.zeros(3, np.uint8))) == [0, 7, 63, 8, 3]
