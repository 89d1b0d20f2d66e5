"""KLL sketches of several features: accuracy, merging, and what is refused."""

import numpy as np
import numpy.typing as npt
import pytest

from online_models.quantiles import KllQuantiles

SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)


def rows_of(seed: int, n: int = 20_000) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(size=n), rng.lognormal(sigma=3, size=n)])


def worst_rank_error(sketch: KllQuantiles, rows: npt.NDArray[np.float64]) -> float:
    found = sketch.quantiles(SHARES)
    ranks = np.array([[(rows[:, j] <= q).mean() for q in found[j]] for j in range(2)])
    return float(np.abs(ranks - SHARES).max())


def test_ranks_are_within_the_promised_error_alone_and_merged() -> None:
    left, right, both = rows_of(1), rows_of(2), np.concatenate([rows_of(1), rows_of(2)])
    a, b = KllQuantiles(2), KllQuantiles(2)
    a.update(left)
    b.update(right)
    assert worst_rank_error(a, left) < 0.02
    a.merge(b)
    assert a.count.tolist() == [40_000, 40_000]
    assert worst_rank_error(a, both) < 0.02


def test_what_was_packed_comes_back_the_same() -> None:
    sketch = KllQuantiles(2)
    sketch.update(rows_of(3))
    again = KllQuantiles.unpacked(sketch.packed())
    assert again.quantiles(SHARES).tolist() == sketch.quantiles(SHARES).tolist()
    assert again.packed() == sketch.packed()


def test_missing_numbers_are_not_seen() -> None:
    rows = rows_of(4)
    rows[::2, 0] = np.nan
    sketch = KllQuantiles(2)
    sketch.update(rows)
    assert sketch.count.tolist() == [10_000, 20_000]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="accuracy"):
        KllQuantiles(2, accuracy=4)
    with pytest.raises(ValueError, match="features"):
        KllQuantiles(0)
    with pytest.raises(ValueError, match="rows of 2 features"):
        KllQuantiles(2).update(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="sketches of 2 features"):
        KllQuantiles(2).merge(KllQuantiles(3))
