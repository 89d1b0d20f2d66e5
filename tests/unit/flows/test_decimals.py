"""Decimal numbers as floats: what Python reads, or not known."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from flows.decimals import float_of

mantissas = st.integers(0, 10**19 - 1) | st.integers(0, 2**54)


def agrees(w: int, q: int) -> bool:
    """Whether the number is known; if so it is the one that Python reads."""
    known, found = float_of(np.uint64(w), q)
    assert not known or found == float(f"{w}e{q}")
    return bool(known)


@settings(deadline=None, max_examples=500)
@given(mantissas, st.integers(-400, 400))
def test_a_known_float_is_the_nearest(w: int, q: int) -> None:
    agrees(w, q)


@settings(deadline=None, max_examples=500)
@given(st.floats(1e-20, 1e15), st.integers(-1, 1))
def test_next_to_the_middle_of_two_floats_too(number: float, off: int) -> None:
    middle = (Fraction(number) + Fraction(math.nextafter(number, math.inf))) / 2
    q = math.floor(math.log10(number)) - 17
    agrees(int(middle / Fraction(10) ** q) + off, q)


@settings(deadline=None, max_examples=300)
@given(st.floats(1e-250, 1e250))
def test_the_shortest_spelling_of_a_float_is_known(number: float) -> None:
    digits, _, power = f"{number:.16e}".partition("e")
    assert agrees(int(digits.replace(".", "")), int(power) - 16)


@pytest.mark.parametrize(("w", "q"), [(1, 309), (1, -320), (10**18, -330)])
def test_beyond_normal_floats_nothing_is_known(w: int, q: int) -> None:
    assert not float_of(np.uint64(w), q)[0]


def test_zero_is_zero_at_any_power() -> None:
    assert [float_of(np.uint64(0), q) for q in (-999, 0, 999)] == [(True, 0.0)] * 3
