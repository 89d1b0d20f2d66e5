"""Rows of items against a dict: the order of first appearance, and none ever moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import hash64
from online_models.item_table import ItemTable

IDS = st.lists(st.text(max_size=3), max_size=12)


def hashes(ids: list[str]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([hash64(item) for item in ids], np.uint64)


@given(st.lists(IDS, max_size=6), IDS)
def test_items_get_the_next_rows_in_order_of_appearance_and_keep_them(
    batches: list[list[str]], asked: list[str]
) -> None:
    table, expected = ItemTable(), dict[str, int]()
    for batch in batches:
        for item in batch:
            expected.setdefault(item, len(expected))
        assert table.add(batch).tolist() == [expected[item] for item in batch]
        assert table.ids == list(expected)
        assert len(table) == len(expected)
        assert table.hashes.tolist() == hashes(table.ids).tolist()
        assert table.rows(table.hashes).tolist() == list(range(len(expected)))
        assert table.rows(hashes(asked)).tolist() == [expected.get(item, -1) for item in asked]


@given(IDS, st.integers(0, 12))
def test_how_items_come_in_batches_makes_no_difference(ids: list[str], cut: int) -> None:
    whole, parts = ItemTable.of(ids), ItemTable.of(ids[:cut])
    parts.add(ids[cut:])
    assert whole.ids == parts.ids
    assert np.array_equal(whole.hashes, parts.hashes)


def test_an_empty_table_knows_nothing() -> None:
    table = ItemTable()
    assert table.rows(hashes(["a", "b"])).tolist() == [-1, -1]
    assert table.add([]).tolist() == []
    assert len(table) == 0


@pytest.mark.parametrize("before", [0, 1, 1_000])
def test_many_items_at_once_are_found_among_those_before(before: int) -> None:
    table = ItemTable.of([f"old-{n}" for n in range(before)])
    fresh = [f"new-{n}" for n in range(5_000)]
    assert table.add(fresh).tolist() == list(range(before, before + 5_000))
    assert table.rows(hashes(fresh)).tolist() == list(range(before, before + 5_000))
    assert table.rows(hashes([f"old-{n}" for n in range(before)])).tolist() == list(range(before))
