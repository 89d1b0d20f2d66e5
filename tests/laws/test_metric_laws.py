"""Laws of every metric over whole columns: its range, its order, its best, what it refuses."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

from online_models import metrics
from online_models.metrics.prequential import PrequentialMetric
from tests.metric_cases import (
    CASES,
    EVENTS,
    RUNNING,
    SEEDS,
    SIZE,
    Case,
    drawn,
    in_batches,
    lists,
    over,
    poisoned,
    rankings,
    torn,
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
