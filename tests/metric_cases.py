"""Every metric of the package: columns to measure, what is best, what knows nothing; for running ones the batch twin.

A new metric joins by a line in a table; one that does not fails the last of `tests/laws/test_metric_laws.py`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from online_models import metrics
from online_models.metrics.pointwise import CLIP
from online_models.metrics.prequential import PrequentialMetric
from online_models.metrics.windows import SlidingWindow

Rng = np.random.Generator
Array = npt.NDArray[Any]
Columns = tuple[Array, ...]
Draw = Callable[[Rng, int], Columns]

ITEMS, K, SEGMENTS = 12, 4, 3
EVENTS, STREAM, SIZE = 40, 100, 25
SEEDS = range(10)
COUNTS = np.array([40, 21, 9, 9, 3, 2, 1, 1, 1, 0, 0, 0])
VECTORS = np.random.default_rng(0).normal(size=(ITEMS, 3))
CATEGORIES = np.random.default_rng(1).random((ITEMS, 4)) < 0.5


def likelihoods(rng: Rng, events: int) -> Columns:
    """Probabilities in tenths, so that many tie, and outcomes of both classes."""
    predicted = rng.integers(0, 11, events) / 10
    observed = (rng.random(events) < predicted).astype(np.float64)
    observed[:2] = 0, 1
    return predicted, observed


def ratings(rng: Rng, events: int) -> Columns:
    return rng.normal(3, 1, events).round(1), rng.integers(1, 6, events).astype(np.float64)


def lists(rng: Rng, events: int) -> Columns:
    """Recommendations (n, K): different items, the last two never; places here and there empty, no list altogether."""
    rows = rng.random((events, ITEMS - 2)).argsort(1)[:, :K]
    rows[:, 1:][rng.random((events, K - 1)) < 0.2] = -1
    return (rows,)


def ranks(rng: Rng, events: int) -> Columns:
    return (rng.integers(-1, 2 * K, events),)


def rankings(rng: Rng, events: int) -> Columns:
    """Whole rankings of the catalogue, and whether each item is relevant, one at least, side by side (n, 2, ITEMS)."""
    relevant = rng.random((events, ITEMS)) < 0.3
    relevant[:, 0] = True
    return (np.stack([rng.random((events, ITEMS)).argsort(1), relevant], 1),)


def counts(rng: Rng, items: int) -> Columns:
    drawn = rng.poisson(1.0, items)
    drawn[0] = 1
    return (drawn,)


def figures(rng: Rng, events: int) -> Columns:
    return (rng.random(events),)


def users_figures(rng: Rng, events: int) -> Columns:
    return rng.random(events), rng.integers(0, 6, events)


def paired_figures(rng: Rng, events: int) -> Columns:
    return rng.random(events), rng.random(events), rng.integers(0, 6, events)


def segments_figures(rng: Rng, events: int) -> Columns:
    return rng.integers(0, SEGMENTS, events), rng.random(events), rng.integers(0, 6, events)


def as_came(_: Array, observed: Array) -> Columns:
    return observed, observed


def at_base_rate(_: Array, observed: Array) -> Columns:
    return np.full(len(observed), observed.mean()), observed


def target_first(rank: Array) -> Columns:
    return (np.zeros_like(rank),)


def relevant_first(pairs: Array) -> Columns:
    relevant = pairs[:, 1]
    return (np.stack([np.argsort(1 - relevant, axis=1, kind="stable"), relevant], 1),)


def the_whole_catalogue(rows: Array) -> Columns:
    return (np.arange(rows.size).reshape(rows.shape) % ITEMS,)


def all_alike(count: Array) -> Columns:
    return (np.ones_like(count),)


def wanted(pairs: Array) -> list[set[int]]:
    return [set(np.flatnonzero(relevant).tolist()) for relevant in pairs[:, 1]]


def each_ranking(metric: metrics.Metric) -> Callable[[Array], Array]:
    """The metric at K of each of many rankings with what is relevant, (n, 2, ITEMS)."""
    return lambda pairs: np.array(
        [metric(row, items, K) for row, items in zip(pairs[:, 0], wanted(pairs), strict=True)], np.float64
    )


def mean_of_rankings(pairs: Array) -> float:
    return metrics.mean_metrics(list(pairs[:, 0]), wanted(pairs), K).ndcg


def at_k(metric: Callable[[Array, int], Array]) -> Callable[[Array], Array]:
    return lambda rank: metric(rank, K)


def covered_by_rankings(rows: Array) -> float:
    return metrics.catalogue_coverage([row[row >= 0] for row in rows], ITEMS, K)


def of_counts(metric: Callable[[Array], float]) -> Callable[[Array], float]:
    return lambda rows: metric(metrics.recommendation_counts(rows, ITEMS))


def each_segment(segment: Array, *columns: Array) -> Array:
    means = metrics.per_segment(metrics.clustered_mean, segment, *columns)
    return np.array([estimate.mean for estimate in means.values()])


@dataclass(frozen=True)
class Case:
    """A batch metric, called with columns that have a row for each event.

    names : what of the package it is
    each : whether it has a figure for each event, or says one thing of all
    least, most : its range
    best : the same events foreseen at best; `worth` what, if that is always the same: an end of the range
    ignorant : the same events with the same prediction for all, their base rate; `ignorance` what that is worth
    of_none : of no events; None where that is an error
    """

    names: tuple[str, ...]
    of: Callable[..., Any]
    draw: Draw
    each: bool = False
    least: float = 0.0
    most: float = 1.0
    best: Callable[..., Columns] | None = None
    worth: float | None = None
    ignorant: Callable[..., Columns] | None = None
    ignorance: float = math.nan
    of_none: float | None = None

    @property
    def id(self) -> str:
        return self.names[0]


MOST_NATS = -math.log(CLIP) + 1e-9
MOST_BITS = math.log2(COUNTS.sum())

OF_RANKINGS = (
    *(
        Case((metric.__name__,), each_ranking(metric), rankings, True, best=relevant_first, worth=worth)
        for metric, worth in (
            (metrics.hit_rate, 1.0),
            (metrics.precision, None),
            (metrics.recall, None),
            (metrics.ndcg, 1.0),
            (metrics.average_precision, 1.0),
            (metrics.reciprocal_rank, 1.0),
        )
    ),
    *(
        Case((metric.__name__,), at_k(metric), ranks, True, best=target_first, worth=1.0)
        for metric in (metrics.hit_at, metrics.ndcg_at, metrics.reciprocal_rank_at)
    ),
    Case(("mean_metrics",), mean_of_rankings, rankings, best=relevant_first, worth=1.0),
)

BEYOND_ACCURACY = (
    Case(("catalogue_coverage",), covered_by_rankings, lists, best=the_whole_catalogue, worth=1.0, of_none=0.0),
    Case(
        ("covered_share", "recommendation_counts"),
        of_counts(metrics.covered_share),
        lists,
        best=the_whole_catalogue,
        worth=1.0,
        of_none=0.0,
    ),
    Case(("gini",), metrics.gini, counts, best=all_alike, worth=0.0),
    Case(
        ("self_information",), lambda each: metrics.self_information(each).mean(), counts, most=math.log2(10 * EVENTS)
    ),
    Case(("novelty",), lambda rows: metrics.novelty(rows, COUNTS), lists, True, most=MOST_BITS),
    Case(("vector_diversity",), lambda rows: metrics.vector_diversity(rows, VECTORS), lists, True, most=2.0),
    Case(("category_diversity",), lambda rows: metrics.category_diversity(rows, CATEGORIES), lists, True),
)

POINTWISE = (
    Case(("squared_errors",), metrics.squared_errors, ratings, True, 0, math.inf, as_came, 0.0),
    Case(("absolute_errors",), metrics.absolute_errors, ratings, True, 0, math.inf, as_came, 0.0),
    Case(("cross_entropies",), metrics.cross_entropies, likelihoods, True, 0, MOST_NATS, as_came, 0.0),
    Case(("rmse",), metrics.rmse, ratings, False, 0, math.inf, as_came, 0.0),
    Case(("mae",), metrics.mae, ratings, False, 0, math.inf, as_came, 0.0),
    Case(("cross_entropy",), metrics.cross_entropy, likelihoods, False, 0, MOST_NATS, as_came, 0.0),
    Case(
        ("normalised_cross_entropy",),
        *(metrics.normalised_cross_entropy, likelihoods, False, 0, math.inf),
        *(as_came, 0.0, at_base_rate, 1.0),
    ),
    Case(("auc",), metrics.auc, likelihoods, False, 0, 1, as_came, 1.0, at_base_rate, 0.5),
    Case(
        ("calibration_ratio",),
        *(metrics.calibration_ratio, likelihoods, False, 0, math.inf),
        ignorant=at_base_rate,
        ignorance=1.0,
    ),
    Case(
        ("expected_calibration_error", "reliability"),
        *(metrics.expected_calibration_error, likelihoods, False, 0, 1),
        *(as_came, 0.0, at_base_rate, 0.0),
    ),
)

ESTIMATES = (
    Case(("clustered_mean",), lambda *events: metrics.clustered_mean(*events).mean, users_figures),
    Case(("clustered_mean",), lambda *events: metrics.clustered_mean(*events).standard_error, users_figures),
    Case(("clustered_difference",), lambda *both: metrics.clustered_difference(*both).mean, paired_figures, least=-1.0),
    Case(("clustered_difference",), lambda *both: metrics.clustered_difference(*both).standard_error, paired_figures),
    Case(("per_segment",), each_segment, segments_figures),
)

CASES = (*OF_RANKINGS, *BEYOND_ACCURACY, *POINTWISE, *ESTIMATES)


def over(cases: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", tuple(cases), ids=lambda case: case.id)


@dataclass(frozen=True)
class Running:
    """A running metric, the batch metric it is of its latest events, and what its constructor must refuse.

    latest : how many events those are; None of a fading mean, whose sums round as they go
    """

    id: str
    make: Callable[[], PrequentialMetric]
    of: Callable[..., Any]
    draw: Draw
    refused: tuple[Callable[[], object], ...]
    latest: int | None = SIZE


def faded_mean(figure: Array) -> float:
    return float(np.average(figure, weights=0.9 ** np.arange(len(figure) - 1, -1, -1)))


def windowed(make: Callable[[int], SlidingWindow], of: Callable[..., Any], draw: Draw) -> Running:
    return Running(make.__name__, lambda: make(SIZE), of, draw, (lambda: make(0), lambda: make(-1)))


def reaching(make: type[metrics.WindowedCoverage | metrics.WindowedGini], of: Callable[[Array], float]) -> Running:
    refused = (lambda: make(0, K), lambda: make(ITEMS, 0), lambda: make(ITEMS, K, 0))
    return Running(make.__name__, lambda: make(ITEMS, K, SIZE), of_counts(of), lists, refused)


RUNNING = (
    Running(
        "Prequential",
        lambda: metrics.Prequential(0.9),
        faded_mean,
        figures,
        (lambda: metrics.Prequential(0.0), lambda: metrics.Prequential(1.1), lambda: metrics.Prequential(math.nan)),
        latest=None,
    ),
    windowed(metrics.WindowedMean, lambda figure: float(figure.mean()), figures),
    windowed(metrics.WindowedRmse, metrics.rmse, ratings),
    windowed(metrics.WindowedMae, metrics.mae, ratings),
    windowed(metrics.WindowedAuc, metrics.auc, likelihoods),
    windowed(metrics.WindowedCrossEntropy, metrics.cross_entropy, likelihoods),
    windowed(metrics.WindowedNormalisedCrossEntropy, metrics.normalised_cross_entropy, likelihoods),
    windowed(metrics.WindowedCalibrationRatio, metrics.calibration_ratio, likelihoods),
    windowed(metrics.WindowedCalibrationError, metrics.expected_calibration_error, likelihoods),
    Running(
        "WindowedCalibrationError of other bins",
        lambda: metrics.WindowedCalibrationError(SIZE, 3, metrics.Binning.EQUAL_WIDTH),
        lambda *pair: metrics.expected_calibration_error(pair[0], pair[1], 3, metrics.Binning.EQUAL_WIDTH),
        likelihoods,
        (lambda: metrics.WindowedCalibrationError(bins=0),),
    ),
    reaching(metrics.WindowedCoverage, metrics.covered_share),
    reaching(metrics.WindowedGini, metrics.gini),
)

each_running = pytest.mark.parametrize("case", RUNNING, ids=lambda case: case.id)


def drawn(case: Case | Running, seed: int, events: int = EVENTS) -> Columns:
    return case.draw(np.random.default_rng(seed), events)


def in_batches(columns: Columns, seed: int) -> list[Columns]:
    """The same events cut at random places: some batches are empty, some longer than a window."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(columns[0]) + 1, int(rng.integers(0, 12))))
    return list(zip(*(np.split(column, cuts) for column in columns), strict=True))


def poisoned(columns: Columns, at: int) -> Columns:
    """The same with a last value in one column that nobody may take in."""
    column = columns[at].copy()
    column[-1] = np.nan if column.dtype.kind == "f" else -7
    return (*columns[:at], column, *columns[at + 1 :])


def torn(columns: Columns, at: int) -> Columns:
    """The same with one column an event short."""
    return (*columns[:at], columns[at][:-1], *columns[at + 1 :])
