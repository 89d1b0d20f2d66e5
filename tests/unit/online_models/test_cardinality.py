"""HyperLogLog: its error and its bias over the whole range of sizes."""

import math

import numpy as np
import pytest

from online_models.cardinality import REGISTERS, Registers, add_words, cardinality


def registers_of(words: int, seed: int) -> Registers:
    registers = np.zeros(REGISTERS, np.uint8)
    add_words(np.random.default_rng(seed).integers(0, 2**64, words, np.uint64), registers)
    return registers


@pytest.mark.parametrize("words", [1, 10, 300, 3_000, 10_240, 30_000, 300_000])
def test_the_error_is_that_of_the_paper_and_the_bias_small(words: int) -> None:
    errors = np.array([cardinality(registers_of(words, seed)) / words - 1 for seed in range(40)])
    standard_error = 1.04 / 64
    assert errors.std() < 1.35 * standard_error
    # the mean of 40 has a standard error of a sixth of that
    assert abs(errors.mean()) < standard_error / 2


def test_no_words_are_none_and_repetition_adds_nothing() -> None:
    assert cardinality(np.zeros(REGISTERS, np.uint8)) == 0
    registers = np.zeros(REGISTERS, np.uint8)
    add_words(np.full(1_000, 12_345, np.uint64), registers)
    assert cardinality(registers) == pytest.approx(1, abs=0.01)


def test_the_extreme_hashes_have_the_extreme_ranks() -> None:
    registers = np.zeros(REGISTERS, np.uint8)
    add_words(np.array([0, 1, 2**52 - 1 + (1 << 52), 2**64 - 1], np.uint64), registers)
    assert registers[[0, 1, 4095]].tolist() == [53, 1, 1]
    assert cardinality(np.full(REGISTERS, 53, np.uint8)) == math.inf
