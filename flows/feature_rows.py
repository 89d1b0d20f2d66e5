"""Rows of features in windows: what a sketch and a verdict say, as `FeatureWindowRow` keeps it and people read it.

- Counts are told in the coarse bins of the reference, so that a window and what it is compared with stand side by side.
- A bin of numbers is labelled by its range in the feature's own unit; a bucket of words by its number, until a reader who
  knows the texts puts the words in: what is stored never depends on which text was met first.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np

from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import ModelName, hash64
from online_models.drift.verdict import FeatureVerdict, Verdict
from online_models.histograms import Assignment, Counts, rebin
from online_models.ports import QUANTILES, FeatureWindowRow
from online_models.sketches import FeatureState

MISSING: Final = "missing"
OTHER: Final = "other"
UNSEEN: Final = "unseen"
LONGEST_LABEL: Final = 60
"""Characters of a word that a label shows."""

HEAVY_WORDS: Final = 20
"""Most frequent words of a row."""

MOST_BARS: Final = 24
"""Bins of words that a chart shows."""

VERDICT_WORDS: Final = {
    "drift": "drift",
    "unconfirmed": "drift, not yet confirmed",
    "seasonal": "seasonal change",
    "stable": "as in the reference",
    "inconclusive": "too little data",
    "unjudged": "no reference",
}
"""Each verdict as a heading says it, the gravest first."""

_BUCKET: Final = re.compile(r"bucket (\d+) of (\d+)")

Words = Mapping[str, Mapping[int, str]]
"""Feature -> fingerprint -> text."""


def feature_row(
    model: ModelName,
    start_ms: int,
    end_ms: int,
    champion: str | None,
    state: FeatureState,
    reference: "Beside | None" = None,
    verdict: FeatureVerdict | None = None,
    information: float | None = None,
    rank: int | None = None,
    detailed: bool = True,
) -> FeatureWindowRow:
    """One feature in one window.

    reference : what the verdict compares with; information, rank : of the feature by mutual information with the target
    detailed : False leaves out bins, quantiles, cardinality and frequent words, of which a handful of events says nothing
    """
    bins = Bins((), (), ())
    if detailed:
        bins = coarse_bins(state.spec, state.counts) if reference is None else reference.bins(state.counts)
    row = FeatureWindowRow(
        model=model,
        window_start_ms=start_ms,
        window_end_ms=end_ms,
        feature=state.spec.name,
        kind=state.spec.kind.value,
        champion=champion,
        events=state.events,
        missing=state.missing,
        verdict="unjudged",
        mean=state.mean,
        sd=state.sd,
        minimum=state.minimum,
        maximum=state.maximum,
        quantiles=state.quantiles(QUANTILES) if detailed else (),
        cardinality=state.cardinality if detailed else None,
        new_share=None if reference is None else new_share(state.spec, state.counts, reference.counts),
        heavy=state.heavy(HEAVY_WORDS) if detailed else (),
        information=information,
        rank=rank,
        bins=bins.labels,
        counts=bins.counts,
        reference=bins.reference,
    )
    return row if verdict is None else _judged(row, verdict)


def _judged(row: FeatureWindowRow, verdict: FeatureVerdict) -> FeatureWindowRow:
    row = replace(row, verdict=verdict.verdict.value, why=verdict.why)
    if verdict.verdict is Verdict.INCONCLUSIVE:
        return row
    return replace(
        row,
        statistics={reading.detector: reading.statistic for reading in verdict.readings},
        p_value=verdict.p_value,
        effect=verdict.effect,
        detectable=verdict.detectable if math.isfinite(verdict.detectable) else None,
    )


def new_share(spec: FeatureSpec, counts: Counts, reference: Counts | None) -> float | None:
    """Share of the values in buckets that the reference never filled; None of numbers, without values or a reference."""
    values = int(counts[:-1].sum())
    if spec.kind is FeatureKind.NUMERIC or reference is None or values == 0:
        return None
    return int(counts[:-1][reference[:-1] == 0].sum()) / values


@dataclass(frozen=True, slots=True)
class Bins:
    """Coarse bins side by side: labels, the window's counts and the reference's, all of one length."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    reference: tuple[int, ...]


class Beside:
    """A reference that windows are told beside: its coarse bins and their labels, worked out once.

    counts : int64 (cells + 3,)

    >>> from online_models.contracts.events import EventType
    >>> spec = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 3.0, 3)
    >>> found = Beside(spec, np.array([1, 4, 4, 4, 1, 0])).bins(np.array([0, 1, 5, 0, 0, 2]))
    >>> list(zip(found.labels, found.counts, found.reference))
    [('below 0', 0, 1), ('0 to 1', 1, 4), ('1 to 2', 5, 4), ('2 to 3', 0, 4), ('3 or more', 0, 1), ('missing', 2, 0)]
    """

    def __init__(self, spec: FeatureSpec, counts: Counts) -> None:
        self.counts = counts
        self._assignment = rebin(counts, spec.kind)
        self._then = self._assignment.apply(counts)
        self._words = spec.kind is not FeatureKind.NUMERIC
        self._labels = word_labels(self._assignment) if self._words else range_labels(spec, self._assignment)
        self._unseen = np.flatnonzero(counts[:-1] == 0)

    @classmethod
    def of(cls, sketch: FeatureSketch) -> Self:
        """A champion's reference."""
        return cls(sketch.feature, np.array(sketch.counts, np.int64))

    def bins(self, counts: Counts) -> Bins:
        """A window's fine counts (cells + 3,) beside the reference's."""
        labels, now, then = self._labels, self._assignment.apply(counts), self._then
        if self._words:
            labels, now, then = _with_unseen(labels, now, then, int(counts[self._unseen].sum()))
        return Bins(tuple(labels), tuple(now.tolist()), tuple(then.tolist()))


def coarse_bins(spec: FeatureSpec, counts: Counts) -> Bins:
    """A window in bins of its own, with nothing beside it."""
    assignment = rebin(counts, spec.kind)
    labels = range_labels(spec, assignment) if spec.kind is FeatureKind.NUMERIC else word_labels(assignment)
    return Bins(tuple(labels), tuple(assignment.apply(counts).tolist()), ())


def _with_unseen(labels: list[str], now: Counts, then: Counts, unseen: int) -> tuple[list[str], Counts, Counts]:
    """Coarse bins (B,) in which what the reference never had stands apart from its rarer words, if it has such."""
    rest = labels.index(OTHER)
    if then[rest] == 0:
        return [*labels[:rest], UNSEEN, MISSING], now, then
    now = np.insert(now, rest + 1, unseen)
    now[rest] -= unseen
    return [*labels[:rest], OTHER, UNSEEN, MISSING], now, np.insert(then, rest + 1, 0)


def range_labels(spec: FeatureSpec, assignment: Assignment) -> list[str]:
    """What each coarse bin of a numeric feature spans; the outermost are open."""
    borders = fine_borders(spec)
    # Cell i of [under, cells..., over] ends at borders[i]; coarse bins are runs of cells.
    cuts = np.flatnonzero(np.diff(assignment.coarse_of[:-1]))
    ends = [readable(float(borders[cut])) for cut in cuts]
    if not ends:
        return ["any number", MISSING]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(ends)]
    return [f"below {ends[0]}", *between, f"{ends[-1]} or more", MISSING]


def fine_borders(spec: FeatureSpec) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Borders of the fine bins, float64 (cells + 1,)."""
    if spec.edges:
        return np.array(spec.edges, np.float64)
    return np.linspace(spec.low, spec.high, spec.cells + 1)


def word_labels(assignment: Assignment) -> list[str]:
    """What is in each coarse bin of a feature of words: a bucket has one of its own, or is among the `other` ones."""
    labels = [OTHER] * (assignment.bins - 1) + [MISSING]
    coarse_of = assignment.coarse_of[1:-2]
    for bucket in np.flatnonzero(coarse_of < assignment.bins - 2).tolist():
        labels[coarse_of[bucket]] = f"bucket {bucket} of {len(coarse_of)}"
    return labels


def words_by_feature(words: Mapping[tuple[str, int], str]) -> Words:
    """(feature, fingerprint) -> text, as `WindowStore.feature_words` gives them, by feature."""
    found: dict[str, dict[int, str]] = {}
    for (feature, mark), text in words.items():
        found.setdefault(feature, {})[mark] = text
    return found


def with_words(row: FeatureWindowRow, words: Words) -> FeatureWindowRow:
    """The row with words for bucket numbers, where a known word of the feature falls into the bucket.

    >>> row = FeatureWindowRow("movies", 0, 1, "genres", "categorical", None, 5, 0, "stable", bins=("bucket 2 of 8", "other"))
    >>> with_words(row, {"genres": {hash64("War") >> 32: "War"}}).bins
    ('War', 'other')
    """
    numbered = [(label, found) for label in row.bins if (found := _BUCKET.fullmatch(label))]
    own = words.get(row.feature, {})
    if not numbered or not own:
        return row
    inside = _by_bucket(own, int(numbered[0][1][2]))
    named = {
        label: shortened(" or ".join(inside[bucket])) for label, at in numbered if (bucket := int(at[1])) in inside
    }
    why = row.why
    for label, text in named.items():
        why = why.replace(f"'{label.partition(' of ')[0]}'", f"'{text}'")
    return replace(row, bins=tuple(named.get(label, label) for label in row.bins), why=why)


def _by_bucket(own: Mapping[int, str], buckets: int) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for mark, text in sorted(own.items()):
        hashed = hash64(text)
        # The bucket is in the lower half of a word's hash, the fingerprint is the upper one. (A cross has another hash.)
        if hashed >> 32 == mark:
            found.setdefault(hashed % buckets, []).append(text)
    return found


def coverage(row: FeatureWindowRow) -> float | None:
    """Share of the events that carry the feature; None without events."""
    return 1 - row.missing / row.events if row.events else None


def shown_bins(row: FeatureWindowRow, most: int = MOST_BARS) -> list[tuple[str, float, float]]:
    """(label, share in the window, share in the reference) of the bins that either fills; the rarest words are left out."""
    now, then = shares(row.counts), shares(row.reference or [0] * len(row.counts))
    bins = [each for each in zip(row.bins, now, then, strict=True) if each[1] or each[2]]
    if row.kind == FeatureKind.NUMERIC or len(bins) <= most:
        return bins
    floor = sorted((max(now, then) for _, now, then in bins), reverse=True)[most - 1]
    return [each for each in bins if max(each[1:]) >= floor][:most]


def shares(counts: Sequence[int]) -> list[float]:
    """Each count's share of them all; zeros when there is nothing."""
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def shortened(text: str) -> str:
    """A text cut to what fits a label."""
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def readable(number: float) -> str:
    """A number with about four digits, as people write it.

    >>> [readable(each) for each in (0.30000000000000004, 12.5, 14_400.0, 1e9, 1e-7, 123.456)]
    ['0.3', '12.5', '14,400', '1,000,000,000', '1e-07', '123.5']
    """
    if not math.isfinite(number):
        return str(number)
    return f"{number:,.0f}" if 1_000 <= abs(number) < 1e12 else f"{number:.4g}"
