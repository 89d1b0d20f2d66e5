"""HTML pages: one self-contained file each, light and dark, without a script; every word of an event is escaped.

- Of a page's plots, lines over time are drawn by matplotlib as SVG whose ink is the page's; histograms are a few rectangles.
- A page of very many features shows fewer words of each, so that a phone still opens it at once.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from flows import plots
from flows.charts import HEIGHT, WIDTH
from flows.compare import Comparison
from flows.feature_rows import MOST_BARS, VERDICT_WORDS, coverage, shown_bins
from flows.ranges import moment_text
from flows.reports import ALARMING, HEADER, Report, against, cells, last_windows, number
from online_models.errors import SourceError
from online_models.ports import FeatureWindowRow

OPEN_DETAILS: Final = 12
"""Findings, and drifted features, that are unfolded."""

MANY_FEATURES: Final = 150
FEW_BARS: Final = 8
MOST_FINDINGS: Final = 200
MOST_HISTOGRAMS: Final = 150


@matplotlib.rc_context({"text.parse_math": False})  # a word may hold a dollar sign
def compare_page(comparison: Comparison) -> str:
    """The page of two logs."""
    template = _environment().get_template("compare.html")
    bars = most_bars(len(comparison.features))
    return template.render(comparison=comparison, open_details=OPEN_DETAILS, most_bars=bars)


@matplotlib.rc_context({"text.parse_math": False})  # a word may hold a dollar sign
def report_page(reports: Sequence[Report]) -> str:
    """The page of stored windows."""
    parts = []
    for report in reports:
        alarms = [row for row in reversed(report.rows) if row.verdict in ALARMING]
        parts.append(
            {
                "report": report,
                "alarms": alarms[:MOST_FINDINGS],
                "found": len(alarms),
                "untold": max(0, len(alarms) - MOST_FINDINGS),
                "plots": [svg_of(figure) for figure in plots.over_time(report.history).values()],
                "last": last_windows(report),
            }
        )
    template = _environment().get_template("report.html")
    return template.render(
        parts=parts,
        header=HEADER,
        alarming=ALARMING,
        open_details=OPEN_DETAILS,
        most_histograms=MOST_HISTOGRAMS,
        most_bars=most_bars(sum(len(last_windows(report)) for report in reports)),
    )


def most_bars(features: int) -> int:
    """Words shown of each feature: fewer where there are so many features that the page would grow beyond a megabyte."""
    return MOST_BARS if features <= MANY_FEATURES else FEW_BARS


def write_page(page: str, path: Path) -> None:
    """Write a page.

    Raises
    ------
    SourceError
        When the file cannot be written.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SourceError(f"--html: {path}: cannot be written: {error}") from error


def svg_of(figure: Figure) -> Markup:
    """A figure to stand in a page: transparent, its ink and lines in the page's colours."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "penstock", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(plots.INK, "currentColor").replace(plots.FAINT, "var(--line)")
    # Identifiers are shared by all figures of a page only where what they name is the same.
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flows"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "width": WIDTH,
        "height": HEIGHT,
        "verdict_words": VERDICT_WORDS,
        "shown_bins": shown_bins,
        "percent": percent,
        "number": number,
        "missing": _missing,
        "moment": moment_text,
        "cells": cells,
        "against": against,
    }
    return environment


def percent(share: float) -> str:
    """A share as people read it.

    >>> percent(0.5), percent(0.012345), percent(0.0)
    ('50.0 %', '1.2 %', '0.0 %')
    """
    return f"{100 * share:.1f} %"


def _missing(row: FeatureWindowRow) -> str:
    covered = coverage(row)
    return "-" if covered is None else percent(1 - covered)
