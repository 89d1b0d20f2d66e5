"""Any metric per segment of the events: new and old users, domains, lengths of history.

- Batch: `per_segment(clustered_mean, segments, figures, users)` is the mean, count and error of each segment, and
  `per_segment(auc, segments, scores, observed)` the AUC of each.
- Running: one metric per segment, kept by the caller, who thereby bounds how many there are.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from online_models.metrics.prequential import PrequentialMetric

T = TypeVar("T")
Segments = npt.NDArray[np.generic]
"""The segment (n,) of each event, as text or number."""


def per_segment(metric: Callable[..., T], segments: Segments, *columns: npt.NDArray[Any]) -> dict[Any, T]:
    """A batch metric of each segment's events, by segment, in the order of the segments' labels.

    Parameters
    ----------
    metric : of columns with a row for each event
    segments : (n,), the label of each event's segment
    columns : (n, ...) each

    Raises
    ------
    ValueError
        When the columns differ in length or there is no event, and, naming the segment, when the metric has no value there.

    >>> from online_models.metrics.pointwise import mae
    >>> per_segment(mae, np.array(["new", "old", "new"]), np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]))
    {'new': 1.0, 'old': 1.0}
    """
    _check_lengths(segments, columns)
    if not len(segments):
        raise ValueError("expected at least one event, got none")
    return {label: _named(metric, label, part) for label, part in _parts(segments, columns)}


def update_per_segment(
    metrics: Mapping[Any, PrequentialMetric], segments: Segments, *columns: npt.NDArray[Any]
) -> None:
    """Update the running metric of each segment with that segment's events; all of them, or none when one is refused.

    Parameters
    ----------
    metrics : a running metric for each label
    segments : (n,), the label of each event's segment
    columns : (n, ...) each, what the metrics' `update` takes

    Raises
    ------
    ValueError
        When the columns differ in length, a label has no metric, or a metric refuses its events.

    >>> from online_models.metrics.prequential import Prequential
    >>> hits = {"new": Prequential(), "old": Prequential()}
    >>> update_per_segment(hits, np.array(["new", "old", "new"]), np.array([1.0, 0.0, 0.0]))
    >>> {label: metric.value for label, metric in hits.items()}
    {'new': 0.5, 'old': 0.0}
    """
    _check_lengths(segments, columns)
    parts = list(_parts(segments, columns))
    for label, part in parts:
        if label not in metrics:
            raise ValueError(f"expected one of the segments {list(metrics)[:8]}, got {label!r}")
        _named(metrics[label].check, label, part)
    for label, part in parts:
        metrics[label].update(*part)


def _check_lengths(segments: Segments, columns: tuple[npt.NDArray[Any], ...]) -> None:
    lengths = [len(column) for column in columns]
    if segments.ndim != 1 or lengths != [len(segments)] * len(columns):
        raise ValueError(f"expected segments (n,) and columns of n rows, got {segments.shape} and {lengths}")


def _parts(
    segments: Segments, columns: tuple[npt.NDArray[Any], ...]
) -> Iterator[tuple[Any, tuple[npt.NDArray[Any], ...]]]:
    """Each label that has events, and their columns, in the order they came."""
    labels, of = np.unique(segments, return_inverse=True)
    order = np.argsort(of, kind="stable")
    ends = np.cumsum(np.bincount(of, minlength=len(labels)))[:-1]
    rows = np.split(order, ends) if len(labels) else []
    for label, mine in zip(labels.tolist(), rows, strict=True):
        yield label, tuple(column[mine] for column in columns)


def _named(metric: Callable[..., T], label: object, columns: tuple[npt.NDArray[Any], ...]) -> T:
    try:
        return metric(*columns)
    except ValueError as refused:
        raise ValueError(f"segment {label!r}: {refused}") from refused
