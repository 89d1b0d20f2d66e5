"""Two logs, or two stretches of one, feature by feature: what changed, how sure that is, and in which direction.

- The first is the reference. Both are read once, without Redis or PostgreSQL, and judged as the stream job judges a window.
- There is no next window to confirm an alarm, so a drift that the stream job would wait with counts as one.
- The settings' features are compared where the logs have them; otherwise features are declared from what is in the logs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from flows.charts import Overlay, overlay
from flows.declare import declare
from flows.feature_rows import Beside, Words, coverage, feature_row, readable, with_words
from flows.offline import Log, Tallied, batches
from flows.profiles import Profile, by_domain, in_domain, profiles_of
from flows.reports import ALARMING, number, told, urgent
from flows.settings import FlowSettings
from flows.text_table import text_table
from online_models.contracts.events import TimeBounds
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.drift.panel import Memory, Panel
from online_models.drift.policy import Policy
from online_models.errors import SourceError
from online_models.ports import QUANTILES, FeatureWindowRow

SAMPLE_ROWS: Final = 50_000
"""Events of each log that are looked at to find which features there are."""

MOST_WORDS: Final = 15


@dataclass(frozen=True, slots=True)
class Compared:
    """One feature in both logs.

    row : the second log judged against the first; before : the first one alone
    chart : shapes of a numeric feature
    figures : (what, now, before) as text; words : (word, share now, share before) of the most frequent
    """

    name: str
    row: FeatureWindowRow
    before: FeatureWindowRow
    chart: Overlay | None
    figures: Sequence[tuple[str, str, str]]
    words: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the report of two logs says; features with what to look at first on top."""

    before: str
    after: str
    before_tally: Tallied
    after_tally: Tallied
    features: Sequence[Compared]

    @property
    def drifted(self) -> list[Compared]:
        """Those that changed."""
        return [each for each in self.features if each.row.verdict == "drift"]

    @property
    def judged(self) -> list[Compared]:
        """Those with enough events in both logs for a verdict."""
        return [each for each in self.features if each.row.verdict not in ("inconclusive", "unjudged")]

    @property
    def unjudged(self) -> list[Compared]:
        """Those without a verdict."""
        return [each for each in self.features if each.row.verdict in ("inconclusive", "unjudged")]


def compare(before: Log, after: Log, settings: FlowSettings, bounds: TimeBounds) -> Comparison:
    """Judge the second log against the first.

    Raises
    ------
    SourceError
        When a log has no event in its range, or the two have no domain in common.
    """
    specs = features_of([before, after], settings, bounds)
    sides = [
        profiles_of(log, specs, settings.dedupe_capacity, bounds, stretched=log is before) for log in (before, after)
    ]
    (then, then_tally), (now, now_tally) = sides
    common = [model for model in then if model in now]
    if not common:
        raise SourceError(f"no domain in common: {before} has {', '.join(then)}; {after} has {', '.join(now)}")
    compared = [
        each for model in common for each in _compared(then[model], now[model], settings, prefixed=len(common) > 1)
    ]
    place = {id(row): rank for rank, row in enumerate(urgent([each.row for each in compared]))}
    compared.sort(key=lambda each: place[id(each.row)])
    return Comparison(str(before), str(after), then_tally, now_tally, compared)


def features_of(logs: Sequence[Log], settings: FlowSettings, bounds: TimeBounds) -> tuple[FeatureSpec, ...]:
    """The settings' features that the logs have; when they have none, features declared from what is there.

    Raises
    ------
    SourceError
        When a log has no event in its range.
    """
    found: dict[str, FeatureSpec] = {}
    for log in logs:
        left, tally = SAMPLE_ROWS, Tallied()
        for batch in batches(log, bounds, settings.dedupe_capacity, tally, settings.features):
            profiled = [spec for spec in settings.features if spec.name not in found]
            for model, own in by_domain(batch):
                profile = Profile(model, [spec for spec in profiled if in_domain(spec, model)], stretched=False)
                profile.add(own)
                found |= {spec.name: spec for spec in profile.specs if profile.state(spec.name).values}
            left -= len(batch)
            if left <= 0:
                break
        if left == SAMPLE_ROWS:
            raise tally.nothing(log)
    if found:
        return tuple(spec for spec in settings.features if spec.name in found)
    return tuple(declare(logs, SAMPLE_ROWS))


def _compared(then: Profile, now: Profile, settings: FlowSettings, *, prefixed: bool) -> list[Compared]:
    """Each feature of a domain, judged."""
    references = {reference.feature.name: reference for reference in then.references()}
    panel = Panel(list(references.values()), _policies(now.specs, settings))
    states = {spec.name: now.state(spec.name) for spec in now.specs}
    counts = {name: state.counts for name, state in states.items()}
    events = {name: state.events for name, state in states.items()}
    found, _ = panel.judge(counts, now.start_ms, now.end_ms, Memory(), events)
    words = {name: then.words[name] | own for name, own in now.words.items()}
    compared = []
    for spec in now.specs:
        before = feature_row(then.model, then.start_ms, then.end_ms, None, then.state(spec.name), None, None)
        verdict = found.features.get(spec.name)
        row = feature_row(
            now.model, now.start_ms, now.end_ms, None, states[spec.name], Beside.of(references[spec.name]), verdict
        )
        row, before = told(row, words), with_words(before, words)
        compared.append(
            Compared(
                name=f"{now.model}: {spec.name}" if prefixed else spec.name,
                row=row,
                before=before,
                chart=_chart(spec, now, then),
                figures=_figures(row, before),
                words=_words(row, before, words),
            )
        )
    return compared


def _policies(specs: Sequence[FeatureSpec], settings: FlowSettings) -> dict[str, Policy]:
    """The settings' policies; nothing waits for a window that does not come."""
    return {spec.component: msgspec.structs.replace(settings.policy(spec.component), confirm=False) for spec in specs}


def _chart(spec: FeatureSpec, now: Profile, then: Profile) -> Overlay | None:
    if spec.kind is not FeatureKind.NUMERIC:
        return None
    return overlay(spec, now.state(spec.name).counts, then.state(spec.name).counts)


def _figures(row: FeatureWindowRow, before: FeatureWindowRow) -> list[tuple[str, str, str]]:
    """What is known of either side, a line each."""
    names: list[tuple[str, Callable[[FeatureWindowRow], str | None]]] = [
        ("events", lambda each: f"{each.events:,}"),
        ("missing", _missing),
        ("mean", lambda each: _readable(each.mean)),
        ("standard deviation", lambda each: _readable(each.sd)),
        ("minimum", lambda each: _readable(each.minimum)),
        *((f"{share:.0%} quantile", _quantile(place)) for place, share in enumerate(QUANTILES)),
        ("maximum", lambda each: _readable(each.maximum)),
        ("distinct words (about)", lambda each: number(each.cardinality, "{:,.0f}") if each.cardinality else None),
        ("words never seen before", lambda each: None if each.new_share is None else f"{each.new_share:.1%}"),
    ]
    found = [(name, told(row), told(before)) for name, told in names]
    return [(name, now or "-", then or "-") for name, now, then in found if now is not None or then is not None]


def _readable(figure: float | None) -> str | None:
    return None if figure is None else readable(figure + 0.0)  # -0.0 is 0


def _missing(row: FeatureWindowRow) -> str | None:
    covered = coverage(row)
    return None if covered is None else f"{1 - covered:.1%}"


def _quantile(place: int) -> Callable[[FeatureWindowRow], str | None]:
    return lambda row: readable(row.quantiles[place]) if row.quantiles else None


def _words(row: FeatureWindowRow, before: FeatureWindowRow, words: Words) -> list[tuple[str, str, str]]:
    """The most frequent words of either side with their shares of the values, at most."""
    sides = [(dict(each.heavy), max(sum(each.counts) - each.counts[-1], 1)) for each in (row, before) if each.counts]
    if len(sides) < 2:
        return []
    shares = [{mark: count / total for mark, count in heavy.items()} for heavy, total in sides]
    marks = sorted(shares[0].keys() | shares[1].keys(), key=lambda mark: -max(side.get(mark, 0.0) for side in shares))
    return [
        (
            words.get(row.feature, {}).get(mark, f"word {mark:08x}"),
            _share(shares[0].get(mark)),
            _share(shares[1].get(mark)),
        )
        for mark in marks[:MOST_WORDS]
    ]


def _share(share: float | None) -> str:
    return "rare" if share is None else f"{share:.1%}"


def text_of(comparison: Comparison) -> str:
    """The comparison as a table and its findings in plain words."""
    title = f"{comparison.after} against {comparison.before}: "
    title += f"{len(comparison.drifted)} of {len(comparison.judged)} features drifted"
    if comparison.unjudged:
        title += f", {len(comparison.unjudged)} could not be judged"
    header = ["feature", "events", "coverage", "before", "PSI", "KS", "p", "effect", "detectable", "verdict"]
    parts = [title, text_table(header, [_cells(each) for each in comparison.features])]
    findings = [f"{each.row.verdict}: {each.row.why}" for each in comparison.features if each.row.verdict in ALARMING]
    return "\n\n".join([*parts, "\n".join(findings)] if findings else parts)


def _cells(each: Compared) -> list[str]:
    row = each.row
    return [
        each.name,
        f"{row.events:,}",
        number(coverage(row), "{:.1%}"),
        number(coverage(each.before), "{:.1%}"),
        number(row.statistics.get("psi"), "{:.4f}"),
        number(row.statistics.get("ks"), "{:.4f}"),
        number(row.p_value, "{:.2g}"),
        number(row.effect, "{:.4f}"),
        number(row.detectable, "{:.4f}"),
        row.verdict,
    ]
