"""Rows of neighbours against dicts of dicts: halving at the mass limit, eviction of the lightest, storage and growth."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.neighbours import CAPACITY, Neighbours, add_pair, entries_of
from tests.oracles.item_sources import PlainNeighbours

SEEDS = st.integers(0, 2**32 - 1)
Pair = tuple[int, int, float]


def drawn_pairs(rng: np.random.Generator, pairs: int, rows: int, neighbours: int) -> list[Pair]:
    weights = rng.choice([1.0, 0.5, 1 / 3, 0.1], pairs)
    return list(
        zip(rng.integers(0, rows, pairs).tolist(), rng.integers(0, neighbours, pairs).tolist(), weights, strict=True)
    )


def add_all(rows: Neighbours, pairs: list[Pair]) -> Neighbours:
    for row, neighbour, weight in pairs:
        rows.make_room(CAPACITY)
        add_pair(rows.arrays, row, neighbour, np.float32(weight), rows.mass_limit)
    return rows


def empty(mass_limit: float, items: int) -> Neighbours:
    rows = Neighbours(mass_limit)
    rows.grow(items)
    return rows


def packed_bits(rows: Neighbours) -> list[tuple[str, bytes]]:
    return [(name, array.tobytes()) for name, array in rows.packed().items()]


@given(SEEDS, st.integers(0, 400), st.integers(1, 4), st.sampled_from([1.5, 7.0, 300.0]))
@settings(max_examples=40, deadline=None)
def test_rows_are_dicts_that_are_halved_when_their_mass_passes_the_limit(
    seed: int, count: int, rows: int, mass_limit: float
) -> None:
    pairs = drawn_pairs(np.random.default_rng(seed), count, rows, 20)
    found = add_all(empty(mass_limit, 20), pairs)
    plain = PlainNeighbours(mass_limit, np.float32)
    for pair in pairs:
        plain.add(*pair)
    for row in range(20):
        assert found.of(row) == plain.of(row)
        assert found.arrays.mass[row] == plain.mass.get(row, 0)


@given(SEEDS, st.integers(0, 400))
@settings(max_examples=20, deadline=None)
def test_below_the_limit_weights_are_sums_to_five_digits(seed: int, count: int) -> None:
    pairs = drawn_pairs(np.random.default_rng(seed), count, 3, 20)
    found, plain = add_all(empty(1e6, 20), pairs), PlainNeighbours(1e6, np.float64)
    for pair in pairs:
        plain.add(*pair)
    for row in range(3):
        items, weights = plain.of(row)
        assert found.of(row)[0] == items
        assert found.of(row)[1] == pytest.approx(weights, rel=1e-5)
        assert found.arrays.mass[row] == pytest.approx(sum(weights), rel=1e-5)


@given(SEEDS, st.integers(0, 3), st.sampled_from([20.0, 1e6]))
@settings(max_examples=20, deadline=None)
def test_a_full_row_gives_the_place_of_its_lightest_neighbour_to_a_new_one(
    seed: int, spare: int, mass_limit: float
) -> None:
    rng = np.random.default_rng(seed)
    first = [(0, neighbour, 1.0) for neighbour in rng.permutation(CAPACITY - spare).tolist()]
    pairs = [*first, *drawn_pairs(rng, 150, 2, CAPACITY + 60)]
    found, plain = add_all(empty(mass_limit, CAPACITY + 60), pairs), PlainNeighbours(mass_limit, np.float32)
    for pair in pairs:
        plain.add(*pair)
    assert found.of(0) == plain.of(0)
    assert found.of(1) == plain.of(1)
    assert len(found.of(0)[0]) == CAPACITY


def test_of_equally_light_neighbours_the_first_one_goes() -> None:
    rows = add_all(empty(1e6, CAPACITY + 2), [(0, neighbour, 1.0) for neighbour in range(CAPACITY)])
    add_all(rows, [(0, 0, 1.0), (0, CAPACITY, 3.0), (0, CAPACITY + 1, 0.5)])
    items, weights = rows.of(0)
    assert items[:4] == [0, CAPACITY, CAPACITY + 1, 3]
    assert weights[:4] == [2.0, 3.0, 0.5, 1.0]


def test_a_row_is_halved_before_what_comes_next_is_added_and_its_mass_with_it() -> None:
    rows = add_all(empty(2.0, 3), [(0, 1, 2.0), (0, 2, 1.0)])
    assert rows.of(0) == ([1, 2], [2.0, 1.0])  # at the limit, not past it
    add_all(rows, [(0, 2, 1.0)])
    assert rows.of(0) == ([1, 2], [1.0, 1.5])
    assert rows.arrays.mass.tolist() == [2.5, 0.0, 0.0]


@given(SEEDS, st.integers(0, 300), st.integers(0, 300), st.integers(1, 5), st.sampled_from([3.0, 300.0]))
@settings(max_examples=40, deadline=None)
def test_to_unpack_and_go_on_is_never_to_have_stopped(
    seed: int, count: int, cut: int, rows: int, mass_limit: float
) -> None:
    pairs = drawn_pairs(np.random.default_rng(seed), count, rows, 40)
    whole = add_all(empty(mass_limit, 40), pairs)
    stored = add_all(empty(mass_limit, 40), pairs[:cut]).packed()
    resumed = add_all(Neighbours.unpacked(mass_limit, **stored), pairs[cut:])  # type: ignore[arg-type]
    assert packed_bits(resumed) == packed_bits(whole)
    assert len(stored["item"]) == len(stored["weight"]) == stored["length"].astype(np.int64).sum()


@given(SEEDS, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3000)), max_size=8))
@settings(max_examples=40, deadline=None)
def test_no_entry_is_lost_when_rows_move_and_the_pool_and_the_table_grow(
    seed: int, growth: list[tuple[int, int]]
) -> None:
    rng, rows, plain, items = np.random.default_rng(seed), empty(50.0, 4), PlainNeighbours(50.0, np.float32), 4
    for more, entries in growth:
        items += more
        rows.grow(items)
        rows.make_room(entries)
        pairs = drawn_pairs(rng, 60, items, items)
        add_all(rows, pairs)
        for pair in pairs:
            plain.add(*pair)
        assert len(rows) == items
        assert all(rows.of(row) == plain.of(row) for row in range(items))
    a = rows.arrays
    assert a.used[0] <= len(a.item) == len(a.weight)
    assert len(np.unique(entries_of(a))) == a.length.sum()  # no place belongs to two rows
    rows.grow(1)
    assert len(rows) == items


def test_a_weight_that_is_halved_to_nothing_stays_a_neighbour_of_weight_0() -> None:
    rows = add_all(empty(1.5, 3), [(0, 1, 1.0), *[(0, 2, 1.0)] * 400])
    items, weights = rows.of(0)
    assert (items, weights[0]) == ([1, 2], 0.0)
    assert 1.0 <= weights[1] <= 2.5


def good() -> dict[str, npt.NDArray[Any]]:
    return {
        "length": np.array([2, 0, 1], np.int32),
        "mass": np.array([3, 0, 1], np.float32),
        "item": np.array([1, 2, 0], np.int32),
        "weight": np.array([2, 1, 1], np.float32),
    }


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("length", np.array([2, 0], np.int32)),
        ("length", np.array([2, 0, 2], np.int32)),
        ("length", np.array([4, -2, 1], np.int32)),
        ("length", np.array([[2, 0, 1]], np.int32)),
        ("length", np.array([2, 0, 1], np.int64)),
        ("length", np.array([2, 0, np.nan])),
        ("mass", np.array([3, 0], np.float32)),
        ("mass", np.array([3, np.nan, 1], np.float32)),
        ("mass", np.array([3, -1, 1], np.float32)),
        ("item", np.array([1, 3, 0], np.int32)),
        ("item", np.array([1, -1, 0], np.int32)),
        ("item", np.array([1, 2], np.int32)),
        ("weight", np.array([2, np.inf, 1], np.float32)),
        ("weight", np.array([2, -1, 1], np.float32)),
        ("weight", np.array([2, 1], np.float32)),
        ("weight", np.array([2.0, 1.0, 1.0])),
    ],
)
def test_arrays_that_are_no_rows_are_refused(name: str, array: npt.NDArray[Any]) -> None:
    assert Neighbours.unpacked(300.0, **good()).of(0) == ([1, 2], [2.0, 1.0])
    with pytest.raises(ValueError, match="expected"):
        Neighbours.unpacked(300.0, **{**good(), name: array})


def test_a_row_of_more_than_the_capacity_is_refused() -> None:
    many = CAPACITY + 1
    rows = (np.array([many] + [0] * many, np.int32), np.zeros(many + 1, np.float32))
    with pytest.raises(ValueError, match=f"in \\[0, {CAPACITY}\\]"):
        Neighbours.unpacked(300.0, *rows, np.arange(many, dtype=np.int32), np.ones(many, np.float32))


def test_a_mass_limit_that_would_halve_every_weight_is_refused() -> None:
    for limit in (1.0, 0.0, -3.0, np.nan):
        with pytest.raises(ValueError, match="above 1"):
            Neighbours(limit)


@given(SEEDS, st.integers(0, 400), st.integers(1, 5), st.integers(0, 12), st.sampled_from([3.0, 300.0]))
@settings(max_examples=40, deadline=None)
def test_the_heaviest_of_each_row_are_kept_with_its_mass(
    seed: int, count: int, rows: int, most: int, mass_limit: float
) -> None:
    whole = add_all(empty(mass_limit, 40), drawn_pairs(np.random.default_rng(seed), count, rows, 40))
    kept = whole.heaviest(most)
    for row in range(40):
        # of equal ones the first stays
        expected = sorted(zip(*whole.of(row), strict=True), key=lambda entry: -entry[1])[:most]
        assert list(zip(*kept.of(row), strict=True)) == expected
    assert kept.arrays.mass.tolist() == whole.arrays.mass.tolist()
    assert packed_bits(whole.heaviest(CAPACITY).heaviest(most)) == packed_bits(kept)


def test_of_no_rows_there_are_no_heaviest() -> None:
    assert len(Neighbours(300.0).heaviest(3)) == 0
