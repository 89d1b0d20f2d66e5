"""Scores and the best of them equal plain sorting, in memory of any kind."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_api.scoring import best_dots, best_rows, dot_rows, dot_some, scores, scores_of

F32 = npt.NDArray[np.float32]


def whole_numbers(seed: int, *shape: int, most: int = 3) -> F32:
    """Small integers: products and sums are exact in any order, and ties are many."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


def plain_best(found: F32, count: int) -> list[int]:
    return sorted((row for row in range(len(found)) if found[row] > -np.inf), key=lambda row: (-found[row], row))[
        :count
    ]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 60), st.integers(1, 9), st.integers(1, 80))
def test_the_best_rows_are_those_of_plain_sorting(seed: int, items: int, k: int, count: int) -> None:
    factors, vector = whole_numbers(seed, items, k), whole_numbers(seed + 1, k)
    rows, found = best_rows(factors, vector, count)
    plain = np.array([row @ vector for row in factors], np.float32)
    assert rows.tolist() == plain_best(plain, count)
    assert found.tolist() == plain[rows].tolist()
    assert scores(factors, vector).tolist() == plain.tolist()
    assert scores_of(factors, rows, vector).tolist() == found.tolist()


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 70))
def test_scores_of_any_factors_are_products_to_rounding(seed: int, items: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    factors, vector = rng.normal(size=(items, k)).astype(np.float32), rng.normal(size=k).astype(np.float32)
    np.testing.assert_allclose(scores(factors, vector), factors @ vector, rtol=1e-4, atol=1e-5)
    rows, found = best_rows(factors, vector, items)
    np.testing.assert_allclose(found, np.sort(factors @ vector)[::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores_of(factors, rows, vector), found, rtol=1e-4, atol=1e-5)


def test_a_score_that_is_no_number_is_never_among_the_best() -> None:
    factors = np.array([[np.nan], [1], [-np.inf], [2]], np.float32)
    rows, found = best_rows(factors, np.ones(1, np.float32), 4)
    assert (rows.tolist(), found.tolist()) == ([3, 1], [2.0, 1.0])


def test_a_read_only_mapped_file_is_compiled_for_once_and_not_copied(tmp_path: Path) -> None:
    factors, vector = whole_numbers(1, 50, 8), whole_numbers(2, 8)
    (tmp_path / "factors").write_bytes(factors.tobytes())
    mapped = np.memmap(tmp_path / "factors", np.float32, "r", shape=factors.shape)
    rows, _ = best_rows(mapped, vector, 5)
    assert rows.tolist() == best_rows(factors, vector, 5)[0].tolist()
    assert scores(mapped, vector).tolist() == scores(factors, vector).tolist()
    assert scores_of(mapped, rows, vector).tolist() == scores_of(factors, rows, vector).tolist()
    assert [len(kernel.signatures) for kernel in (best_dots, dot_rows, dot_some)] == [1, 1, 1]


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="count >= 1"):
        best_rows(whole_numbers(1, 2, 2), whole_numbers(2, 2), 0)
