"""Maximum inner product search over item factors: exact while there are few items, faiss with measured recall beyond.

- Exact search is one compiled pass over memory (`scoring.best_rows`). Against BLAS on one thread and a partition it takes half
  the time for the best 10 of 10k items, as long for the best 200, and a half to two thirds of 100k and 1M.
- Pruning by length (Cauchy-Schwarz) looks at 3 to 30 % of 100k items, but in an order that memory cannot read ahead: no gain.
- Beyond, an inverted file over k-means cells. Cells are found by Euclidean distance although the search is by inner product:
  items' lengths differ by orders of magnitude, and with cells by angle a search of the same recall took two to six times as long.
- Vectors are kept as half floats and those found are scored again from the factors: half the memory, exact scores, ties by row.
  Bytes (SQ8) clip the longest vectors, which are the ones that matter: recall stayed below 0.89.
- HNSW answers faster at 100k items, but took 105 to 140 s of one core to build at 1M, against 20 s, and was slower there.
- Probes are raised until the recall measured on real queries passes with a margin; where it does not, exact search serves.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Final, Protocol

import faiss
import numpy as np

from serving_api.scoring import F32, Rows, best_rows, read_only, scores_of

log: Final = logging.getLogger(__name__)

RECALL_DEPTH: Final = 10
MARGIN: Final = 0.01
"""What the measured recall must have above the wanted one: it is an estimate from a few hundred queries."""

MOST_QUERIES: Final = 200
"""Queries that recall is measured on."""

_FEWEST_PROBES: Final = 8
_PROBED_SHARE: Final = 0.25
"""Where more of the cells than this must be probed, exact search is about as fast."""
_ROWS_PER_CELL: Final = 40
_ITERATIONS: Final = 10
_SEED: Final = 1
_ADDED_ROWS: Final = 65_536
_SPARE: Final = 8
"""Rows fetched beyond those asked for, so that the order of half floats costs nobody a place."""


class Index(Protocol):
    """Finds the items of the largest inner products with a vector."""

    @property
    def recall(self) -> float:
        """Measured recall@10 against exact search."""
        ...

    def search(self, vector: F32, count: int) -> tuple[Rows, F32]:
        """Rows int64 (m,) and scores float32 (m,) of the m <= count best items, best first, ties by row.

        Parameters
        ----------
        vector : x, float32 (k,)

        Raises
        ------
        ValueError
            When count is below 1.
        """
        ...


@dataclass(frozen=True, slots=True)
class ExactIndex:
    """Every item is looked at.

    item_factors : Y, float32 (items, k), C-contiguous; may be read-only memory, which is not copied

    >>> index = ExactIndex(np.array([[1, 0], [0, 1], [1, 1]], np.float32))
    >>> rows, scores = index.search(np.array([1, 2], np.float32), 2)
    >>> rows.tolist(), scores.tolist(), index.recall
    ([2, 1], [3.0, 2.0], 1.0)
    """

    item_factors: F32

    def __post_init__(self) -> None:
        """Take the factors as plain read-only memory, once and not at each search."""
        object.__setattr__(self, "item_factors", read_only(self.item_factors))

    @property
    def recall(self) -> float:
        """1: nothing is missed."""
        return 1.0

    def search(self, vector: F32, count: int) -> tuple[Rows, F32]:
        """As `Index.search` has it; m is less than count only where there are fewer items."""
        return best_rows(self.item_factors, vector, count)


class FaissIndex:
    """An inverted file: only the items in the most promising cells are looked at, on one thread."""

    def __init__(self, cells: faiss.IndexIVF, item_factors: F32, probes: int, recall: float) -> None:
        """cells : over the rows of item_factors (items, k); probes : cells looked at in a search; recall : measured with them

        Raises
        ------
        ValueError
            When the cells are not those of so many factors of that length.
        """
        if (cells.ntotal, cells.d) != item_factors.shape:
            raise ValueError(f"expected an index of {item_factors.shape} factors, got {(cells.ntotal, cells.d)}")
        self._cells = cells
        self._item_factors = read_only(item_factors)
        self.probes = probes
        self.recall = recall

    def search(self, vector: F32, count: int) -> tuple[Rows, F32]:
        """As `Index.search` has it; probes more cells where those of `probes` hold fewer than count items."""
        if count < 1:
            raise ValueError(f"expected count >= 1, got {count}")
        rows = self._nearest(vector, min(count + _SPARE, len(self._item_factors)))
        scores = scores_of(self._item_factors, rows, vector)
        best = np.lexsort((rows, -scores))[:count]
        return rows[best], scores[best]

    def save(self, path: Path) -> None:
        """Write the cells for `load_index`; the item factors are not part of it."""
        faiss.write_index(self._cells, str(path))

    def _nearest(self, vector: F32, count: int) -> Rows:
        """Rows of `count` items, by the scores of half floats."""
        query, how = np.asarray(vector, np.float32)[np.newaxis], faiss.IVFSearchParameters()
        how.nprobe = self.probes
        while True:
            rows: Rows = self._cells.search(query, count, params=how)[1][0]
            if rows[-1] >= 0 or how.nprobe >= self._cells.nlist:
                return rows[rows >= 0]
            how.nprobe *= 4


def build_index(item_factors: F32, queries: F32, exact_items: int = 100_000, recall: float = 0.95) -> Index:
    """The index for so many items: exact up to `exact_items`, beyond with at least the given recall@10, else exact.

    Takes about 25 s of one core for 1M x 64. What was chosen, and why, is one log line.

    Parameters
    ----------
    item_factors : Y, float32 (items, k), C-contiguous
    queries : float32 (q, k), vectors as users have them; at most 200, evenly from all of them, are used

    Raises
    ------
    ValueError
        When recall is not in (0, 1].
    """
    wanted = _with_margin(recall)
    if len(item_factors) <= exact_items:
        return ExactIndex(item_factors)
    return _measured(_cells_of(read_only(item_factors)), item_factors, queries, wanted)


def load_index(path: Path, item_factors: F32, queries: F32, recall: float = 0.95) -> Index:
    """What `FaissIndex.save` wrote, mapped and not read so that processes share it; measured as `build_index` does.

    Raises
    ------
    ValueError
        When the file is no index of so many factors of that length, or recall is not in (0, 1].
    """
    try:
        # Plain IO_FLAG_MMAP goes through on-disk lists: 1,500 us for a search that takes 40 us in this way.
        cells = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(cells, faiss.IndexIVF):
        raise ValueError(f"{path}: expected an inverted file, got {type(cells).__name__}")
    return _measured(cells, item_factors, queries, _with_margin(recall))


def _measured(cells: faiss.IndexIVF, item_factors: F32, queries: F32, wanted: float) -> Index:
    """The cells with the fewest probes that reach the wanted recall, or exact search."""
    sample = spread(queries)
    exact = ExactIndex(item_factors)
    truth = [exact.search(query, RECALL_DEPTH)[0] for query in sample]
    probes, recall = 0, 0.0
    for probes in _probes(cells.nlist) if truth else ():
        recall = recall_of(FaissIndex(cells, item_factors, probes, 0.0), sample, truth)
        if recall >= wanted:
            log.info("index_built kind=ivf items=%d probes=%d recall=%.3f", cells.ntotal, probes, recall)
            return FaissIndex(cells, item_factors, probes, recall)
    told = (cells.ntotal, probes, recall, wanted, len(sample))
    log.warning("index_built kind=exact items=%d probes=%d recall=%.3f wanted=%.3f queries=%d", *told)
    return exact


def _with_margin(recall: float) -> float:
    if not 0 < recall <= 1:
        raise ValueError(f"expected a recall in (0, 1], got {recall}")
    return min(1.0, recall + MARGIN)


def _probes(cells: int) -> Iterator[int]:
    """Numbers of probes to try, ascending."""
    most = max(1, int(cells * _PROBED_SHARE))
    probes = min(_FEWEST_PROBES, most)
    while probes < most:
        yield probes
        probes = min(most, probes * 3 // 2)
    yield most


def recall_of(index: Index, queries: F32, truth: list[Rows]) -> float:
    """Mean share of the exact best rows of each query (q, k) that a search for so many finds."""
    found = [
        len(np.intersect1d(index.search(query, len(best))[0], best)) for query, best in zip(queries, truth, strict=True)
    ]
    return sum(found) / sum(map(len, truth))


def spread(queries: F32) -> F32:
    """At most `MOST_QUERIES` of the queries (q, k), evenly from all of them."""
    count = min(len(queries), MOST_QUERIES)
    return queries[np.arange(count) * len(queries) // max(count, 1)]


def _cells_of(item_factors: F32) -> faiss.IndexIVF:
    """Items sorted into about 4 sqrt(items) k-means cells, with an index over the cells by inner product."""
    items, k = item_factors.shape
    count = min(items, int(4 * sqrt(items)))
    nearest = faiss.IndexFlatL2(k)
    half = faiss.ScalarQuantizer.QT_fp16
    cells = faiss.IndexIVFScalarQuantizer(nearest, k, count, half, faiss.METRIC_INNER_PRODUCT, False)
    cells.cp.spherical, cells.cp.niter, cells.cp.min_points_per_centroid = False, _ITERATIONS, 1
    # OpenMP keeps this number for each thread of its own: the threads that serve are not touched.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        cells.train(_sample(item_factors, count * _ROWS_PER_CELL))
        for start in range(0, items, _ADDED_ROWS):
            cells.add(item_factors[start : start + _ADDED_ROWS])
    finally:
        faiss.omp_set_num_threads(threads)
    by_product = faiss.IndexFlatIP(k)
    by_product.add(nearest.reconstruct_n(0, count))
    cells.quantizer = by_product
    return cells


def _sample(item_factors: F32, rows: int) -> F32:
    if rows >= len(item_factors):
        return item_factors
    chosen = np.random.default_rng(_SEED).choice(len(item_factors), rows, replace=False)
    return item_factors[np.sort(chosen)]
