"""Figures of features in windows: histogram against reference, statistics over time, ranking over time.

- A figure is drawn without pyplot: no global state, no display; whoever asks writes it to a file.
- Event time runs along the x axis in UTC. A red dot is an alarm, a hollow amber one waits for confirmation.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from flows.feature_rows import OTHER, VERDICT_WORDS, coverage, readable, shown_bins
from flows.reports import Report, last_windows
from online_models.contracts.events import utc
from online_models.contracts.features import FeatureKind
from online_models.errors import SourceError
from online_models.ports import FeatureWindowRow

Rows = Sequence[FeatureWindowRow]
Figured = Callable[[FeatureWindowRow], float | None]

WINDOW_COLOUR: Final = "#2563eb"
REFERENCE_COLOUR: Final = "#9ca3af"
ALARM_COLOUR: Final = "#dc2626"
WAITING_COLOUR: Final = "#d97706"
INK: Final = "#1f2937"
FAINT: Final = "#e5e7eb"

MOST_PANELS: Final = 12
MOST_RANKED: Final = 10
MOST_HISTOGRAMS: Final = 50
MOST_LABEL: Final = 32
MANY_WINDOWS: Final = 40
"""Beyond, marks are smaller."""
WRAP: Final = 100
"""Characters of a line under a title."""


def histogram(row: FeatureWindowRow) -> Figure:
    """A window's shares in the coarse bins beside the reference's."""
    bins = shown_bins(row)
    numeric = row.kind == FeatureKind.NUMERIC
    figure = Figure(figsize=(9, 5) if numeric else (9, 1.9 + 0.32 * len(bins)), layout="constrained")
    axes = figure.subplots()
    places, width = np.arange(len(bins)), 0.4
    series = [("this window", WINDOW_COLOUR, -1, [share for _, share, _ in bins])]
    if row.reference:
        series.append(("reference", REFERENCE_COLOUR, 1, [share for _, _, share in bins]))
    for name, colour, side, shares in series:
        draw = axes.bar if numeric else axes.barh
        draw(places + side * width / 2, shares, width, color=colour, label=name)
    labels = [label for label, _, _ in bins]
    if not numeric and OTHER in labels:
        _beyond(axes, labels.index(OTHER), bins)
    if numeric:
        axes.set_xticks(places, labels, rotation=35, ha="right", rotation_mode="anchor")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylabel("share of events")
    else:
        axes.set_yticks(places, [textwrap.shorten(label, MOST_LABEL, placeholder="…") for label in labels])
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("share of values")
    _plain(axes, "y" if numeric else "x")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    _title(
        figure,
        f"{row.feature}: {VERDICT_WORDS.get(row.verdict, row.verdict)}",
        _span(row.window_start_ms, row.window_end_ms),
    )
    return figure


def _beyond(axes: Axes, place: int, bins: Sequence[tuple[str, float, float]]) -> None:
    """All other words together may be so many that nothing else would be seen beside them: they are told, not drawn."""
    top = max((max(now, then) for label, now, then in bins if label != OTHER), default=0.0)
    _, now, then = bins[place]
    if 0 < 2 * top < max(now, then):
        axes.set_xlim(0, 1.1 * top)
        text = f"{now:.1%}, in the reference {then:.1%}: beyond this scale"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.annotate(text, (0.02 * top, place), va="center", fontsize=9, color=INK, bbox=box)


def psi_over_time(rows: Rows) -> Figure:
    """PSI of each feature and, dashed, the smallest effect that a window of its size would show."""
    return _over_time(
        rows, "Population stability index", "PSI", lambda row: row.statistics.get("psi"), lambda row: row.detectable
    )


def coverage_over_time(rows: Rows) -> Figure:
    """Share of the events that carry each feature."""
    return _over_time(rows, "Coverage", "events with a value", coverage)


def cardinality_over_time(rows: Rows) -> Figure:
    """Distinct words of each feature."""
    return _over_time(rows, "Cardinality", "distinct words", lambda row: row.cardinality)


def ranking_over_time(rows: Rows) -> Figure:
    """Ranks by mutual information with the target, of the features that were among the best at the end."""
    named = _by_feature([row for row in rows if row.rank is not None])
    last = {name: own[-1].rank or 0 for name, own in named.items()}
    best = sorted(last, key=lambda name: (last[name], name))[:MOST_RANKED]
    figure = Figure(figsize=(10, 2 + 0.4 * len(best)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(best):
        own = named[name]
        colour = f"C{place}"
        axes.plot(_times(own), [row.rank or 0 for row in own], color=colour, linewidth=2, marker="o", markersize=4)
        text = f"{last[name]}. {name}"
        axes.annotate(
            text, (_times(own)[-1], last[name]), (8, 0), textcoords="offset points", va="center", color=colour
        )
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("rank, 1 is best")
    _plain(axes, "y")
    _time_axis(axes)
    _title(figure, "What tells most of the target", f"Mutual information; {_of(best, named)}")
    return figure


def _over_time(rows: Rows, title: str, unit: str, figure_of: Figured, floor_of: Figured | None = None) -> Figure:
    """A panel per feature, those with most alarms and the largest effect first."""
    named = {name: own for name, own in _by_feature(rows).items() if any(figure_of(row) is not None for row in own)}
    order = sorted(named, key=lambda name: _urgency(named[name]))[:MOST_PANELS]
    columns = 1 if len(order) == 1 else 2
    down = max(1, -(-len(order) // columns))
    figure = Figure(figsize=(10, 1.4 + 2.1 * down), layout="constrained")
    grid = figure.subplots(down, columns, squeeze=False, sharex=True)
    for axes in grid.flat[len(order) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, order, strict=False):
        _panel(axes, named[name], figure_of, floor_of)
        axes.set_title(name, loc="left", fontsize=10, color=INK)
        if unit.startswith("events"):
            _share_axis(axes)
        else:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: readable(number)))
    figure.supylabel(unit, fontsize=10, color=INK)
    _title(figure, title, _of(order, named))
    _legend(figure, unit, floor_of is not None, [row for name in order for row in named[name]])
    return figure


def _panel(axes: Axes, rows: Rows, figure_of: Figured, floor_of: Figured | None) -> None:
    known = [row for row in rows if figure_of(row) is not None]
    axes.plot(_times(known), _figures(known, figure_of), color=WINDOW_COLOUR, linewidth=1.6)
    if floor_of is not None:
        floors = [row for row in known if floor_of(row) is not None]
        axes.plot(_times(floors), _figures(floors, floor_of), color=REFERENCE_COLOUR, linestyle="--", linewidth=1.2)
    size = 5 if len(known) <= MANY_WINDOWS else 3
    for verdict, edge, fill in _MARKS:
        marked = [row for row in known if row.verdict == verdict]
        axes.plot(
            _times(marked),
            _figures(marked, figure_of),
            "o",
            markersize=size,
            markeredgecolor=edge,
            markerfacecolor=fill,
        )
    _plain(axes, "y")
    _time_axis(axes)
    axes.margins(y=0.15)
    if floor_of is not None:
        axes.set_ylim(bottom=0)


def _share_axis(axes: Axes) -> None:
    """Percent up to a hundred, at least five points of them: what is complete lies along the top."""
    low, high = axes.get_ylim()
    high = min(high, 1.0) + 0.002  # room for the line's own width
    axes.set_ylim(max(0.0, min(low, high - 0.05)), high)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


_MARKS: Final = (("unconfirmed", WAITING_COLOUR, "white"), ("drift", ALARM_COLOUR, ALARM_COLOUR))
_NAMES: Final = {"unconfirmed": "not yet confirmed", "drift": "alarm"}


def _figures(rows: Rows, figure_of: Figured) -> list[float]:
    return [figure for row in rows if (figure := figure_of(row)) is not None]


def _urgency(rows: Rows) -> tuple[int, float, str]:
    """Sorts what to look at first: many alarms, then a large effect."""
    alarms = sum(row.verdict == "drift" for row in rows)
    return (-alarms, -max(row.effect or 0.0 for row in rows), rows[0].feature)


def _by_feature(rows: Rows) -> dict[str, list[FeatureWindowRow]]:
    """Feature -> its rows by time; of windows that end together the shortest."""
    named: dict[str, dict[int, FeatureWindowRow]] = {}
    for row in sorted(rows, key=lambda row: (row.window_end_ms, row.window_start_ms)):
        named.setdefault(row.feature, {})[row.window_end_ms] = row
    return {name: list(own.values()) for name, own in named.items()}


def _times(rows: Rows) -> list[float]:
    return [float(date2num(utc(row.window_end_ms))) for row in rows]  # type: ignore[no-untyped-call]


def _time_axis(axes: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=7, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]


def _plain(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right", "left" if grid == "y" else "bottom"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(FAINT)
    axes.tick_params(length=0, labelcolor=INK, labelsize=9)
    axes.grid(axis=grid, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _title(figure: Figure, title: str, below: str) -> None:
    text = "\n".join(textwrap.wrap(below, WRAP))
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.011, 0.99, f"\n\n{text}", ha="left", va="top", fontsize=9, color="#6b7280", linespacing=1.1)


def _legend(figure: Figure, unit: str, floored: bool, rows: Rows) -> None:
    handles = [Line2D([], [], color=WINDOW_COLOUR, linewidth=1.6, label=unit)]
    if floored:
        handles.append(Line2D([], [], color=REFERENCE_COLOUR, linestyle="--", label="smallest drift detectable"))
    seen = {row.verdict for row in rows}
    handles += [
        Line2D([], [], linestyle="", marker="o", markeredgecolor=edge, markerfacecolor=fill, label=_NAMES[verdict])
        for verdict, edge, fill in _MARKS
        if verdict in seen
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)


def _of(shown: Sequence[str], all_of_them: Mapping[str, object]) -> str:
    if len(shown) == len(all_of_them):
        return f"{len(shown)} features" if len(shown) != 1 else "1 feature"
    return f"{len(shown)} of {len(all_of_them)} features"


def _span(start_ms: int, end_ms: int) -> str:
    return f"window {utc(start_ms):%Y-%m-%d %H:%M} to {utc(end_ms):%Y-%m-%d %H:%M} UTC"


@matplotlib.rc_context({"text.parse_math": False})  # a word may hold a dollar sign
def write_plots(report: Report, directory: Path) -> list[Path]:
    """Write PNGs: PSI, coverage, cardinality and ranking over time, and a histogram per feature of the last window.

    Raises
    ------
    SourceError
        When the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = []
        for name, figure in figures_of(report).items():
            path = directory / f"{name}.png"
            figure.savefig(path, dpi=120)
            written.append(path)
    except OSError as error:
        raise SourceError(f"--out: {directory}: cannot be written: {error}") from error
    return written


def figures_of(report: Report) -> dict[str, Figure]:
    """File name without its ending -> figure."""
    model = _file_name(report.model)
    found = {f"{model}-{name}": figure for name, figure in over_time(report.history).items()}
    for row in last_windows(report)[:MOST_HISTOGRAMS]:
        found[f"{model}-histogram-{_file_name(row.feature)}"] = histogram(row)
    return found


def over_time(history: Rows) -> dict[str, Figure]:
    """Name -> figure of what has more than one point in time."""
    if len({row.window_end_ms for row in history}) < 2:
        return {}
    figures = {"coverage": coverage_over_time}
    if any("psi" in row.statistics for row in history):
        figures = {"psi": psi_over_time, **figures}
    if any(row.cardinality is not None for row in history):
        figures["cardinality"] = cardinality_over_time
    if any(row.information for row in history):  # without any, the order says nothing
        figures["ranking"] = ranking_over_time
    return {name: draw(history) for name, draw in figures.items()}


def _file_name(text: str) -> str:
    return quote(text, safe="")[:100]
