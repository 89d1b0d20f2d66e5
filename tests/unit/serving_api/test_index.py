"""The exact index equals plain sorting; the inverted file finds what it says it finds, or is not taken."""

import logging
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_api.index import MARGIN, ExactIndex, FaissIndex, build_index, load_index, recall_of, spread

F32 = npt.NDArray[np.float32]
ITEMS, K = 6_000, 16


def factors_of(seed: int, items: int) -> F32:
    """Vectors with a decaying spectrum and lengths that differ by an order of magnitude."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(items, K)) / np.sqrt(np.arange(1, K + 1))
    made: F32 = (directions * np.exp(0.7 * rng.normal(size=(items, 1)))).astype(np.float32)
    return made


FACTORS = factors_of(1, ITEMS)
QUERIES, LATER = factors_of(2, 300), factors_of(3, 200)


@pytest.fixture(scope="module")
def inverted() -> FaissIndex:
    index = build_index(FACTORS, QUERIES, exact_items=1_000)
    assert isinstance(index, FaissIndex)
    return index


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 6), st.integers(1, 50))
def test_exact_search_equals_plain_sorting(seed: int, items: int, k: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    factors, vector = (rng.integers(-2, 3, shape).astype(np.float32) for shape in ((items, k), (k,)))
    rows, scores = ExactIndex(factors).search(vector, count)
    plain = [float(row @ vector) for row in factors]
    assert rows.tolist() == sorted(range(items), key=lambda row: (-plain[row], row))[:count]
    assert scores.tolist() == [plain[row] for row in rows]


def test_few_items_are_searched_exactly_without_a_copy_of_their_factors() -> None:
    index = build_index(FACTORS, QUERIES, exact_items=ITEMS)
    assert isinstance(index, ExactIndex)
    assert index.recall == 1.0
    assert np.shares_memory(index.item_factors, FACTORS)


def test_an_inverted_file_finds_the_wanted_share_for_queries_that_it_was_not_tuned_on(inverted: FaissIndex) -> None:
    exact = ExactIndex(FACTORS)
    truth = [exact.search(query, 10)[0] for query in LATER]
    assert inverted.recall >= 0.95 + MARGIN
    assert recall_of(inverted, LATER, truth) >= 0.95
    looked_at = sum(probed_items(inverted, query) for query in LATER) / len(LATER)
    assert looked_at < ITEMS / 3  # else a pass over all of them would be as good


def probed_items(index: FaissIndex, query: F32) -> int:
    cells = index._cells
    assert cells.invlists is not None
    nearest: list[int] = cells.quantizer.search(query[np.newaxis], index.probes)[1][0].tolist()
    sizes: list[int] = [cells.invlists.list_size(cell) for cell in nearest]
    return sum(sizes)


@settings(deadline=None)
@given(st.integers(0, 199), st.integers(1, 60))
def test_what_an_inverted_file_finds_has_the_exact_scores_in_their_order(
    inverted: FaissIndex, query: int, count: int
) -> None:
    rows, scores = inverted.search(LATER[query], count)
    assert len(rows) == count
    np.testing.assert_allclose(scores, FACTORS[rows] @ LATER[query], rtol=1e-4, atol=1e-5)
    assert np.lexsort((rows, -scores)).tolist() == list(range(count))


def test_equal_items_are_found_in_the_order_of_their_rows() -> None:
    twice = np.concatenate([FACTORS, FACTORS])
    index = build_index(twice, QUERIES, exact_items=1_000)
    assert isinstance(index, FaissIndex)
    rows, _ = index.search(LATER[0], 10)
    assert rows[1::2].tolist() == (rows[::2] + ITEMS).tolist()


@pytest.mark.parametrize("count", [ITEMS, ITEMS + 5])
def test_whoever_asks_for_everything_gets_everything_exactly(inverted: FaissIndex, count: int) -> None:
    rows, _ = inverted.search(LATER[0], count)
    assert rows.tolist() == ExactIndex(FACTORS).search(LATER[0], count)[0].tolist()


def test_a_recall_that_cells_do_not_reach_is_given_by_exact_search_and_said(caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(4).normal(size=(2_000, 64)).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        index = build_index(noise, noise[:50] + noise[50:100], exact_items=1_000, recall=1.0)
    assert isinstance(index, ExactIndex)
    assert "kind=exact items=2000" in caplog.text
    assert "wanted=1.000 queries=50" in caplog.text


def test_without_queries_there_is_no_recall_and_so_no_inverted_file(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(build_index(FACTORS, QUERIES[:0], exact_items=1_000), ExactIndex)
    assert "queries=0" in caplog.text


def test_a_saved_index_finds_the_same(inverted: FaissIndex, tmp_path: Path) -> None:
    inverted.save(tmp_path / "cells")
    loaded = load_index(tmp_path / "cells", FACTORS, QUERIES)
    assert isinstance(loaded, FaissIndex)
    assert (loaded.probes, loaded.recall) == (inverted.probes, inverted.recall)
    for query in LATER[:20]:
        (rows, scores), (same_rows, same_scores) = inverted.search(query, 10), loaded.search(query, 10)
        assert (rows.tolist(), scores.tolist()) == (same_rows.tolist(), same_scores.tolist())


def test_a_file_that_is_no_index_of_the_factors_is_refused(inverted: FaissIndex, tmp_path: Path) -> None:
    inverted.save(tmp_path / "cells")
    with pytest.raises(ValueError, match="expected an index of"):
        load_index(tmp_path / "cells", FACTORS[:-1], QUERIES)
    (tmp_path / "torn").write_bytes((tmp_path / "cells").read_bytes()[:1_000])
    with pytest.raises(ValueError, match="torn"):
        load_index(tmp_path / "torn", FACTORS, QUERIES)
    faiss.write_index(faiss.IndexFlatIP(K), str(tmp_path / "flat"))
    with pytest.raises(ValueError, match="expected an inverted file"):
        load_index(tmp_path / "flat", FACTORS, QUERIES)


def test_building_leaves_the_threads_of_others_alone() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        build_index(FACTORS, QUERIES, exact_items=1_000)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("recall", [0.0, 1.01])
def test_a_recall_that_is_none_is_refused(recall: float) -> None:
    with pytest.raises(ValueError, match="expected a recall"):
        build_index(FACTORS, QUERIES, recall=recall)


def test_a_count_below_one_is_refused(inverted: FaissIndex) -> None:
    for index in (inverted, ExactIndex(FACTORS)):
        with pytest.raises(ValueError, match="count >= 1"):
            index.search(LATER[0], 0)


def test_queries_are_taken_from_all_of_them() -> None:
    many = np.arange(1_000, dtype=np.float32)[:, np.newaxis]
    assert spread(many)[:, 0].tolist() == list(range(0, 1_000, 5))
    assert spread(many[:300])[:5, 0].tolist() == [0, 1, 3, 4, 6]
    assert len(spread(many[:399])) == 200
    assert [len(spread(many[:few])) for few in (0, 7)] == [0, 7]
