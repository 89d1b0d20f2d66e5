"""Reports of stored windows: what each feature looked like, what the detectors said, and why, from PostgreSQL's rows.

- A report is of one model: the windows that were asked for, and those before them for the plots over time.
- With several window lengths, the windows that end together are told one after the other, the shortest first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from flows.feature_rows import Words, coverage, readable, shortened, with_words, words_by_feature
from flows.ranges import is_range, moment_text, parse_moment, parse_range
from flows.text_table import text_table
from online_models.contracts.ids import ModelName, hash64
from online_models.drift.verdict import share
from online_models.errors import SourceError
from online_models.ports import FeatureWindowRow, WindowStore

LATEST: Final = "latest"

CONTEXT_WINDOWS: Final = 60
"""Window lengths before a single window that its plots over time show."""

ALARMING: Final = ("drift", "unconfirmed", "seasonal")
"""Verdicts that ask for somebody's eyes, the gravest first."""

MOST_RISEN: Final = 3
"""Words that the reference hardly had which an alarm names."""

_BUCKET: Final = re.compile(r"bucket (\d+) of (\d+)")

HEADER: Final = (
    *("feature", "events", "coverage", "cardinality", "PSI", "KS", "p", "effect", "detectable", "verdict", "rank"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of one model by (window end, window start, feature).

    rows : of the windows that were asked for; history : those and, of a single window, the ones before it
    """

    model: ModelName
    rows: Sequence[FeatureWindowRow]
    history: Sequence[FeatureWindowRow]


def reports(store: WindowStore, windows: str, model: str | None = None, feature: str | None = None) -> list[Report]:
    """What is stored of some windows, a report for each model.

    Parameters
    ----------
    windows : `latest`, the RFC 3339 time at which a window ended, or a range `A..B` in which windows ended
    model, feature : only this one

    Raises
    ------
    SourceError
        When there is no such window, model or feature.
    """
    latest = store.latest_windows()
    if model is not None and model not in latest:
        raise SourceError(f"no windows of model {model!r} are stored; known are {', '.join(latest) or 'none'}")
    models = [ModelName(model)] if model is not None else list(latest)
    found = [_report(store, windows, each, latest[each], feature) for each in models]
    told = [report for report in found if report.rows]
    if not told:
        ends = "; ".join(f"the latest of {each} ended at {moment_text(latest[each])}" for each in models)
        of = f" of feature {feature!r}" if feature else ""
        raise SourceError(
            f"no window{of} is stored for {windows}; {ends or 'none is stored at all: replay a log first'}"
        )
    return told


def check_windows(windows: str) -> None:
    """Refuse what names no windows, before a store is opened for it.

    Raises
    ------
    SourceError
        When it is not `latest`, a time or a range.
    """
    if is_range(windows):
        parse_range(windows)
    elif windows != LATEST:
        parse_moment(windows)


def _report(store: WindowStore, windows: str, model: ModelName, latest_ms: int, feature: str | None) -> Report:
    if is_range(windows):
        span = parse_range(windows)
        rows = store.feature_windows(model, span.start_ms, span.end_ms, feature)
        context = rows
    else:
        end_ms = latest_ms if windows == LATEST else parse_moment(windows)
        rows = store.feature_windows(model, end_ms - 1, end_ms, feature)
        length_ms = min((row.window_end_ms - row.window_start_ms for row in rows), default=0)
        context = store.feature_windows(model, end_ms - CONTEXT_WINDOWS * length_ms, end_ms, feature) if rows else []
    words = words_by_feature(store.feature_words(model))
    return Report(model, [told(row, words) for row in rows], [told(row, words) for row in context])


def told(row: FeatureWindowRow, words: Words) -> FeatureWindowRow:
    """The row with words for bucket numbers; an alarm also names what the reference counts among all other words.

    Without it, one new word that everybody uses would only show as `all other words` that rose.
    """
    named = with_words(row, words)
    if row.verdict not in ALARMING or not (risen := risen_words(row, words)):
        return named
    listed = ", ".join(f"'{shortened(text)}' {share(part)}" for text, part in risen[:MOST_RISEN])
    return replace(named, why=f"{named.why}; not among the reference's frequent words: {listed}")


def risen_words(row: FeatureWindowRow, words: Words) -> list[tuple[str, float]]:
    """Words without a bin of their own in the reference that are now as frequent as some that have one: (word, share).

    row : whose bins are still told by bucket numbers

    >>> row = FeatureWindowRow("m", 0, 1, "word", "categorical", None, 9, 0, "drift", heavy=((hash64("new") >> 32, 60),),
    ...     bins=("bucket 2 of 8", "other", "missing"), counts=(40, 60, 0), reference=(50, 50, 0))
    >>> risen_words(row, {"word": {hash64("new") >> 32: "new"}})
    [('new', 0.6)]
    """
    total, then = sum(row.counts) - sum(row.counts[-1:]), sum(row.reference)
    own = {
        int(found[1]): (int(found[2]), count / max(then, 1))
        for label, count in zip(row.bins, row.reference, strict=False)
        if (found := _BUCKET.fullmatch(label))
    }
    if not own or not total:
        return []
    buckets, floor = next(iter(own.values()))[0], min(part for _, part in own.values())
    texts = words.get(row.feature, {})
    risen = []
    for mark, count in row.heavy:
        text = texts.get(mark)
        # A cross has another hash than its text; which bucket it is in cannot be told
        known = text is not None and hash64(text) >> 32 == mark
        if known and text is not None and hash64(text) % buckets not in own and count / total > floor:
            risen.append((text, count / total))
    return sorted(risen, key=lambda each: (-each[1], each[0]))


def text_of(report: Report) -> str:
    """The last windows as tables, then every alarm of the range in plain words."""
    last_ms = report.rows[-1].window_end_ms
    starts = sorted({row.window_start_ms for row in report.rows if row.window_end_ms == last_ms}, reverse=True)
    parts = []
    for start_ms in starts:
        rows = [row for row in report.rows if (row.window_start_ms, row.window_end_ms) == (start_ms, last_ms)]
        span = f"{moment_text(start_ms)} to {moment_text(last_ms)}"
        parts.append(
            f"{report.model}: window {span}, {against(rows)}\n"
            + text_table(HEADER, [cells(row) for row in urgent(rows)])
        )
    alarms = [row for row in report.rows if row.verdict in ALARMING]
    ends = len({row.window_end_ms for row in report.rows})
    if alarms:
        lines = [f"{moment_text(row.window_end_ms)}  {row.verdict}: {row.why}" for row in alarms]
        parts.append(f"{counted(len(alarms), 'finding')} in {counted(ends, 'window')}:\n" + "\n".join(lines))
    else:
        parts.append(f"No drift in {counted(ends, 'window')}.")
    return "\n\n".join(parts)


def against(rows: Sequence[FeatureWindowRow]) -> str:
    """What rows of one window were compared with."""
    if rows[-1].champion:
        return f"against {rows[-1].champion}"
    return "against the first part of the stream" if any(row.reference for row in rows) else "without a reference"


def urgent(rows: Sequence[FeatureWindowRow]) -> list[FeatureWindowRow]:
    """Rows with what to look at first on top: by verdict, then by effect."""
    gravity = {verdict: place for place, verdict in enumerate(ALARMING)}
    return sorted(rows, key=lambda row: (gravity.get(row.verdict, len(gravity)), -(row.effect or 0.0), row.feature))


def cells(row: FeatureWindowRow) -> list[str]:
    """A row's cells under `HEADER`."""
    covered = coverage(row)
    return [
        row.feature,
        f"{row.events:,}",
        "-" if covered is None else f"{covered:.1%}",
        number(row.cardinality, "{:,.0f}"),
        number(row.statistics.get("psi"), "{:.4f}"),
        number(row.statistics.get("ks"), "{:.4f}"),
        number(row.p_value, "{:.2g}"),
        number(row.effect, "{:.4f}"),
        number(row.detectable, "{:.4f}"),
        row.verdict,
        number(row.rank if row.information else None, "{:d}"),
    ]


def counted(count: int, thing: str) -> str:
    """How many of a thing there are.

    >>> counted(1, "window"), counted(1_200, "window")
    ('1 window', '1,200 windows')
    """
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def number(figure: float | None, form: str = "") -> str:
    """A number by a format, or as people write it; a dash for none.

    >>> number(0.25, "{:.1f}"), number(14_400.0), number(None)
    ('0.2', '14,400', '-')
    """
    if figure is None:
        return "-"
    return form.format(figure) if form else readable(figure)


def last_windows(report: Report) -> list[FeatureWindowRow]:
    """Each feature's last window, of those that end together the shortest; what to look at first on top."""
    latest = {row.feature: row for row in sorted(report.rows, key=lambda row: (row.window_end_ms, row.window_start_ms))}
    return urgent(list(latest.values()))
