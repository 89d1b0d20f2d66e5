"""The laws of every metric, batch and running. A new one joins by a line in a table; one that does not fails the last laws."""

import importlib
import inspect
import math
import pickle
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from online_models import metrics
from online_models.metrics.pointwise import CLIP
from online_models.metrics.prequential import PrequentialMetric, Snapshot
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


def told_alike(case: Running, one: float | None, other: float | None) -> bool:
    """To the bit, but for the rounding of a fading mean."""
    return one == other if case.latest is not None else one == pytest.approx(other)


def same(one: Snapshot, other: Snapshot) -> bool:
    return len(one) == len(other) and all(
        type(a) is type(b)
        and (np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b)
        for a, b in zip(one, other, strict=True)
    )


@over(CASES)
def test_a_metric_stays_in_its_range(case: Case) -> None:
    for seed in SEEDS:
        values = np.asarray(case.of(*drawn(case, seed)))
        assert np.isfinite(values).all()
        assert case.least <= values.min()
        assert values.max() <= case.most
        assert not case.each or values.shape == (EVENTS,)


@over(CASES)
def test_the_order_of_events_changes_nothing(case: Case) -> None:
    for seed in SEEDS:
        columns = drawn(case, seed)
        order = np.random.default_rng(seed).permutation(EVENTS)
        expected = case.of(*columns)[order] if case.each else case.of(*columns)
        np.testing.assert_allclose(case.of(*(column[order] for column in columns)), expected, rtol=1e-12, atol=1e-14)


@over(case for case in CASES if case.draw is lists)
def test_the_order_within_a_list_changes_nothing_beyond_accuracy(case: Case) -> None:
    for seed in SEEDS:
        (rows,) = drawn(case, seed)
        shuffled = np.random.default_rng(seed).permuted(rows, axis=1)
        np.testing.assert_allclose(case.of(shuffled), case.of(rows), rtol=1e-12, atol=1e-14)


@over(case for case in CASES if case.best is not None)
def test_nothing_is_better_than_perfect(case: Case) -> None:
    assert case.best is not None
    for seed in SEEDS:
        columns = drawn(case, seed)
        usual, perfect = np.asarray(case.of(*columns)), np.asarray(case.of(*case.best(*columns)))
        if case.worth is not None:
            np.testing.assert_allclose(perfect, case.worth, atol=1e-12)
        ahead = usual - perfect if case.worth == case.least else perfect - usual
        assert ahead.min() >= -1e-12
        assert ahead.max() > 0


@over(case for case in CASES if case.ignorant is not None)
def test_predictions_that_all_tie_are_worth_what_knowing_nothing_is(case: Case) -> None:
    assert case.ignorant is not None
    for seed in SEEDS:
        assert case.of(*case.ignorant(*drawn(case, seed))) == pytest.approx(case.ignorance, abs=1e-12)


@over(CASES)
def test_a_metric_leaves_its_columns_as_they_were(case: Case) -> None:
    columns = drawn(case, 0)
    for column in columns:
        column.flags.writeable = False
    case.of(*columns)


@over(CASES)
def test_no_events_have_no_figures_and_no_mean(case: Case) -> None:
    nothing = tuple(column[:0] for column in drawn(case, 0))
    if case.each:
        assert case.of(*nothing).shape == (0,)
    elif case.of_none is not None:
        assert case.of(*nothing) == case.of_none
    else:
        with pytest.raises(ValueError, match=r"expected .* got"):
            case.of(*nothing)


@over(case for case in CASES if case.draw is not rankings and case.id != "catalogue_coverage")
def test_what_is_no_figure_rank_or_row_is_refused(case: Case) -> None:
    columns = drawn(case, 0)
    # users and segments may have any label; figures and predictions come as floats, ranks and rows alone
    for at in [at for at, column in enumerate(columns) if column.dtype.kind == "f" or len(columns) == 1]:
        with pytest.raises(ValueError, match=r"expected .* got"):
            case.of(*poisoned(columns, at))


@over(case for case in CASES if len(drawn(case, 0)) > 1)
def test_columns_of_different_lengths_are_refused(case: Case) -> None:
    columns = drawn(case, 0)
    for at in range(len(columns)):
        with pytest.raises(ValueError, match=r"expected .* got"):
            case.of(*torn(columns, at))


@over(case for case in CASES if case.each)
def test_the_figures_of_events_run_through_both_running_means(case: Case) -> None:
    for seed in SEEDS:
        columns = drawn(case, seed)
        running, recent = metrics.Prequential(), metrics.WindowedMean(SIZE)
        for batch in in_batches(columns, seed):
            running.update(case.of(*batch))
            recent.update(case.of(*batch))
        expected = case.of(*columns)
        assert running.value == pytest.approx(expected.mean())
        assert recent.value == pytest.approx(expected[-SIZE:].mean())


@each_running
def test_a_running_metric_is_the_batch_metric_of_its_latest_events(case: Running) -> None:
    for seed in SEEDS:
        columns = drawn(case, seed, STREAM)
        metric, seen, told = case.make(), 0, 0
        assert (metric.count, metric.value) == (0, None)
        for batch in in_batches(columns, seed):
            metric.update(*batch)
            seen += len(batch[0])
            assert metric.count == seen
            begin = 0 if case.latest is None else max(0, seen - case.latest)
            if metric.value is not None:
                told += 1
                assert told_alike(case, metric.value, case.of(*(column[begin:seen] for column in columns)))
        assert told > 0


@each_running
def test_how_a_stream_is_batched_changes_nothing(case: Running) -> None:
    columns = drawn(case, 1, STREAM)
    whole = case.make()
    whole.update(*columns)
    for seed in SEEDS:
        parts = case.make()
        for batch in in_batches(columns, seed):
            parts.update(*batch)
        assert parts.count == whole.count
        assert told_alike(case, parts.value, whole.value)
        assert case.latest is None or same(parts.snapshot(), whole.snapshot())


@each_running
def test_restoring_and_going_on_equals_never_having_stopped(case: Running) -> None:
    batches = [batch for seed in range(3) for batch in in_batches(drawn(case, seed), seed + 1)]
    assert len(batches) > 5
    for stop in range(len(batches) + 1):
        steady = case.make()
        for batch in batches[:stop]:
            steady.update(*batch)
        again = type(steady).restore(pickle.loads(pickle.dumps(steady.snapshot())))
        assert same(again.snapshot(), steady.snapshot())
        for batch in batches[stop:]:
            steady.update(*batch)
            again.update(*batch)
            assert (again.value, again.count) == (steady.value, steady.count)
            assert same(again.snapshot(), steady.snapshot())


@each_running
def test_a_snapshot_is_plain_and_does_not_move_with_the_metric(case: Running) -> None:
    for events in (SIZE // 2, EVENTS):
        metric = case.make()
        metric.update(*drawn(case, 3, events))
        taken = metric.snapshot()
        name, version, *state = taken
        assert (type(name), type(version)) == (str, int)
        assert {type(part) for part in state} <= {str, int, float, np.ndarray}
        copy = pickle.loads(pickle.dumps(taken))
        restored = type(metric).restore(taken)
        metric.update(*drawn(case, 4))
        restored.update(*drawn(case, 5))
        assert same(taken, copy)


@each_running
def test_a_foreign_or_torn_snapshot_is_refused(case: Running) -> None:
    metric = case.make()
    metric.update(*drawn(case, 4))
    taken = metric.snapshot()
    for wrong in (
        ("somebody", *taken[1:]),
        (taken[0], 999, *taken[2:]),
        taken[:-1],
        (*taken[:3], *taken[4:]),
        (*taken, 1),
        (*taken[:3], "1", *taken[4:]),
        (),
    ):
        with pytest.raises(ValueError, match="expected a snapshot of"):
            type(metric).restore(wrong)


@each_running
def test_memory_is_bounded(case: Running) -> None:
    metric = case.make()
    for seed in range(4):
        metric.update(*drawn(case, seed, STREAM))
        # at most 8 bytes for each of K numbers of an event
        assert len(pickle.dumps(metric.snapshot())) <= SIZE * 8 * K + 1000
        assert len(pickle.dumps(metric)) <= SIZE * 8 * K + 1000


@each_running
def test_an_update_that_is_refused_takes_nothing_in(case: Running) -> None:
    metric = case.make()
    columns = drawn(case, 6)
    metric.update(*columns)
    taken = metric.snapshot()
    bad = [poisoned(columns, at) for at in range(len(columns))]
    bad += [torn(columns, at) for at in range(len(columns)) if len(columns) > 1]
    for batch in bad:
        for attempt in (metric.check, metric.update):
            with pytest.raises(ValueError, match=r"expected .* got"):
                attempt(*batch)
            assert same(metric.snapshot(), taken)


@each_running
def test_an_empty_batch_is_no_news_and_a_check_neither(case: Running) -> None:
    metric = case.make()
    columns = drawn(case, 7)
    metric.update(*columns)
    taken = metric.snapshot()
    metric.update(*(column[:0] for column in columns))
    metric.check(*columns)
    assert same(metric.snapshot(), taken)


@each_running
def test_the_constructor_refuses_bad_hyperparameters(case: Running) -> None:
    for refused in case.refused:
        with pytest.raises(ValueError, match=r"expected .* got"):
            refused()


def test_every_metric_of_the_package_obeys_these_laws() -> None:
    public = {name: getattr(metrics, name) for name in metrics.__all__}
    functions = {name for name, value in public.items() if inspect.isfunction(value)}
    # it has no figure of its own: it hands events to running metrics
    functions -= {"update_per_segment"}
    assert functions == {name for case in CASES for name in case.names}
    running = {value for value in public.values() if inspect.isclass(value) and hasattr(value, "restore")}
    assert running - {PrequentialMetric} == {type(case.make()) for case in RUNNING}


def test_the_package_exports_every_metric_of_its_modules_and_nothing_else() -> None:
    names = [found.name for found in pkgutil.iter_modules(metrics.__path__)]
    modules = [importlib.import_module(f"{metrics.__name__}.{name}") for name in names if name != "inputs"]
    own = {
        name
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        if inspect.isfunction(value) or (inspect.isclass(value) and not inspect.isabstract(value))
    }
    # the aliases have no module of their own, the error of snapshots is for metrics alone
    assert own - {"not_a_snapshot_of"} == set(metrics.__all__) - {"Metric", "Ranking"}
