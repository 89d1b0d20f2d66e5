"""Figures of an evaluation: how accuracy went along the test, and where it lies by segment.

- Drawn without pyplot: no global state, no display.
- Our own learner is the thick blue line; every other model has a colour of its own, the same in all figures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from online_models.contracts.events import utc
from online_models.evaluation.contenders import OURS
from online_models.evaluation.measures import SEGMENTS, USER_SEGMENTS
from online_models.evaluation.protocol import CUTOFF, Outcome
from online_models.evaluation.report import Evaluation
from online_models.metrics import hit_at

F64 = npt.NDArray[np.float64]

INK: Final = "#1f2937"
FAINT: Final = "#e5e7eb"
OURS_COLOUR: Final = "#2563eb"
COLOURS: Final = (
    "#9ca3af", "#d97706", "#059669", "#65a30d", "#dc2626", "#7c3aed", "#6b4423", "#db2777", "#0891b2",
)  # fmt: skip

WINDOWS: Final = 10
LEAST_WINDOW: Final = 200
"""A window is a tenth of the test, at least so many events."""
MOST_POINTS: Final = 800


def write_plots(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the figures as PNG files; returns their paths."""
    figures = {"prequential": curves(evaluation), "segments": segments(evaluation)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    return [folder / f"{name}.png" for name in figures]


def curves(evaluation: Evaluation) -> Figure:
    """Hit rate over the test: of the last events, and of all so far."""
    outcomes = _outcomes(evaluation)
    figure = Figure(figsize=(11, 8), layout="constrained")
    recent, so_far = figure.subplots(2, 1, sharex=True)
    window = max(LEAST_WINDOW, len(evaluation.yardstick.users) // WINDOWS)
    for name, outcome in outcomes.items():
        hits = hit_at(outcome.ranks, CUTOFF)
        style = _style(name, outcomes)
        recent.plot(*_thinned(moving_mean(hits, window), window), **style)
        so_far.plot(*_thinned(np.cumsum(hits) / np.arange(1, len(hits) + 1), window), **style)
    _plain(recent, f"of the last {window:,} events", "y")
    _plain(so_far, "of all events of the test so far", "y")
    log, begin = evaluation.study.log, int(evaluation.study.log.begins[evaluation.study.split.test])
    span = f"{utc(int(log.ts_ms[begin])):%Y-%m-%d} to {utc(int(log.ts_ms[-1])):%Y-%m-%d}"
    so_far.set_xlabel(f"event of the test, {span}", color=INK)
    figure.legend(
        handles=_best_first(recent, outcomes), loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK
    )
    _title(figure, f"hit@{CUTOFF} along the test: {evaluation.title}")
    return figure


def segments(evaluation: Evaluation) -> Figure:
    """Hit rate with its standard error by segment of users and of items."""
    outcomes = _outcomes(evaluation)
    known = [name for name in SEGMENTS if any(name in found.segments for found in evaluation.measures.values())]
    columns = 4
    down = max(1, -(-len(known) // columns))
    figure = Figure(figsize=(12, 1 + (0.8 + 0.26 * len(outcomes)) * down), layout="constrained")
    grid = figure.subplots(down, columns, squeeze=False)
    for axes in grid.flat[len(known) :]:
        axes.axis("off")
    for place, (axes, segment) in enumerate(zip(grid.flat, known, strict=False)):
        _bars(axes, evaluation, segment, labels=place % columns == 0)
    _title(figure, f"hit@{CUTOFF} by what was known of the user and of the item: {evaluation.title}")
    return figure


def _bars(axes: Axes, evaluation: Evaluation, segment: str, *, labels: bool) -> None:
    names = list(evaluation.measures)
    hits = [evaluation.measures[name].segments[segment].hit for name in names]
    errors = [hit.standard_error if np.isfinite(hit.standard_error) else 0.0 for hit in hits]
    colours = [_style(name, evaluation.measures)["color"] for name in names]
    places = np.arange(len(names))
    axes.barh(places, [hit.mean for hit in hits], 0.7, xerr=errors, color=colours, error_kw={"ecolor": INK, "lw": 0.8})
    axes.set_yticks(places, names if labels else [""] * len(names))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    whose = "users of " if segment in USER_SEGMENTS else ""
    _plain(axes, f"{whose}{segment} (n = {hits[0].events:,})", "x")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def moving_mean(figures: F64, window: int) -> F64:
    """Mean of each figure (n,) and those before it, at most `window` of them.

    >>> moving_mean(np.array([1.0, 0.0, 0.0, 1.0]), 2).tolist()
    [1.0, 0.5, 0.0, 0.5]
    """
    total = np.concatenate([[0.0], np.cumsum(figures)])
    end = np.arange(1, len(figures) + 1)
    begin = np.maximum(end - window, 0)
    mean: F64 = (total[end] - total[begin]) / (end - begin)
    return mean


def _thinned(figures: F64, window: int) -> tuple[npt.NDArray[np.int64], F64]:
    """Evenly spaced points from the first full window on."""
    first = min(window, len(figures)) - 1
    at = np.unique(np.linspace(first, len(figures) - 1, MOST_POINTS).astype(np.int64))
    return at, figures[at]


def _outcomes(evaluation: Evaluation) -> dict[str, Outcome]:
    return {each.name: each.outcome for each in evaluation.results if each.outcome is not None}


def _style(name: str, among: Mapping[str, object]) -> dict[str, str | float]:
    if name == OURS:
        return {"color": OURS_COLOUR, "linewidth": 2.6, "zorder": 3, "label": name}
    others = [other for other in among if other != OURS]
    return {"color": COLOURS[others.index(name) % len(COLOURS)], "linewidth": 1.3, "label": name}


def _best_first(axes: Axes, outcomes: Mapping[str, Outcome]) -> list[object]:
    lines = zip(axes.get_lines(), outcomes.values(), strict=True)
    order = sorted(lines, key=lambda pair: -hit_at(pair[1].ranks, CUTOFF).mean())
    return [line for line, _ in order]


def _plain(axes: Axes, title: str, axis: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(axis="y" if axis == "y" else "x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    (axes.yaxis if axis == "y" else axes.xaxis).set_major_formatter(
        PercentFormatter(
            1,
        )
    )


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, color=INK)
