"""Feature declarations inferred from the first events of a log: what `[[flow.features]]` of a new log may start from.

- Numbers get a range outside of which about one value in a thousand lies; when most of them crowd into few of the uniform
  bins of that range, bins between quantiles instead.
- Words are categories, several in one event multi-valued, texts of words the set of these words.
- What is different in almost every event, like a session's id, is declared a ghost: it is ranked, its drift means nothing.
- What impressions say of the answer that they are part of follows rollouts, not people: it is left out.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain

import msgspec
import numpy as np
import numpy.typing as npt

from flows.chunks import Chunk, Limits, Lines
from flows.formats import open_reader
from flows.offline import Log
from flows.parse import parse
from online_models.columns import MappingColumns
from online_models.contracts.columns import Column
from online_models.contracts.events import (
    API_FEATURES,
    EVENT_TYPES,
    LANGUAGE_VERSION_FEATURE,
    TYPE_CODES,
    EventBatch,
    EventType,
    TimeBounds,
)
from online_models.contracts.features import NUMERIC_BINS, FeatureKind, FeatureSpec
from online_models.errors import SourceError

SAMPLE_ROWS = 100_000

_OUTSIDE = 0.001
_PADDING = 0.05
_MIDDLE_BINS = 16
"""At least so many uniform bins should hold the middle half of the values."""
_QUANTILE_BINS = 64
_CARRIED = 0.01
"""A type or domain carries a feature when this share of its events does."""
_ID_LIKE = 0.9
_TEXT_WORDS = 3
_TEXTS_READ = 200
_FEWEST_IDS = 100
_NEARLY = 1e-9
"""Of a bin's width: what is so close to a border lies on it."""
_LARGEST = 1e300
"""Between numbers within this, differences are finite."""

OF_ANSWERS = API_FEATURES | {LANGUAGE_VERSION_FEATURE}
"""What impressions of our API say of the version that answered, and how it came to do so."""

_VALUES = {EventType.RATING: "rating", EventType.WATCH: "watch_seconds", EventType.PURCHASE: "amount"}
_ANY_TIME = TimeBounds(-(2**62), 2**62)
_READ = Limits(rows=8192)

Counts = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Seen:
    """What the sample holds of one feature.

    texts : of the first words; several : some event has more than one word
    types : type codes of the events that carry it; domains : how many of each domain these are
    """

    numbers: list[npt.NDArray[np.float64]] = field(default_factory=list)
    words: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    several: bool = False
    types: list[npt.NDArray[np.int8]] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)

    @property
    def of_impressions(self) -> bool:
        """Whether no event of another type carries it."""
        return all(bool((types == TYPE_CODES[EventType.IMPRESSION]).all()) for types in self.types)

    def add(self, column: Column, batch: EventBatch) -> None:
        """Count a column of a batch."""
        every = np.arange(len(batch))
        number_rows = every if column.number_rows is None else column.number_rows
        word_rows = every if column.word_rows is None else column.word_rows
        rows = np.union1d(number_rows, word_rows)
        self.numbers.append(column.numbers)
        self.words.append(column.words)
        self.several |= len(np.unique(word_rows)) < len(word_rows)
        for place in range(min(len(column.words), _TEXTS_READ - len(self.texts))):
            self.texts.append(column.text(place))
        self.types.append(batch.type[rows])
        _count_domains(self.domains, batch, batch.domain[rows])


def declare(logs: Sequence[Log], sample_rows: int = SAMPLE_ROWS) -> list[FeatureSpec]:
    """Specs of the `value` of each event type and of every feature that the first valid events of the logs carry.

    A feature whose name holds `*`, which would declare a cross, is left out.

    Parameters
    ----------
    sample_rows : most events looked at, of each log

    Raises
    ------
    SourceError
        When a file cannot be read, or a log has no valid event; the reason to refuse its first row is then said.
    """
    features: dict[str, _Seen] = {}
    values: dict[EventType, list[npt.NDArray[np.float64]]] = {}
    type_counts = np.zeros(len(EVENT_TYPES), np.int64)
    domain_counts: dict[str, int] = {}
    for batch in chain.from_iterable(_sample(log, sample_rows) for log in logs):
        type_counts += np.bincount(batch.type, minlength=len(EVENT_TYPES))
        _count_domains(domain_counts, batch, batch.domain)
        for kind in EventType:
            found = batch.value[(batch.type == EVENT_TYPES.index(kind)) & ~np.isnan(batch.value)]
            if len(found):
                values.setdefault(kind, []).append(found)
        for name in batch.features.names():
            features.setdefault(name, _Seen()).add(batch.features.column(name), batch)
    specs = [_of_value(kind, np.concatenate(found)) for kind, found in values.items()]
    for name, seen in features.items():
        if "*" not in name and any(map(len, seen.types)) and not (name in OF_ANSWERS and seen.of_impressions):
            specs.append(_of_feature(name, seen, type_counts, domain_counts))
    return _distinctly_named(specs)


def main_declare(logs: Sequence[Log]) -> str:
    """What `python -m flows declare` prints: tables for `penstock.toml`."""
    specs = declare(logs)
    names = "; ".join(map(str, logs))
    return f"# {len(specs)} features, from the first {SAMPLE_ROWS:,} events of {names}\n\n{toml_of(specs)}"


def toml_of(specs: Sequence[FeatureSpec]) -> str:
    """The specs as TOML that `FlowSettings` loads, without what is the default.

    >>> print(toml_of([FeatureSpec("age", FeatureKind.NUMERIC, "features.age", (EventType.CLICK,), 0.0, 99.0)]))
    [[flow.features]]
    name = "age"
    kind = "numeric"
    source = "features.age"
    types = ["click"]
    high = 99.0
    <BLANKLINE>
    """
    tables = []
    for spec in specs:
        lines = ["[[flow.features]]"]
        for name, default in zip(spec.__struct_fields__, _defaults(spec), strict=True):
            value = getattr(spec, name)
            if value != default:
                lines.append(f"{name} = {_literal(value)}")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _defaults(spec: FeatureSpec) -> tuple[object, ...]:
    """The default of each field; of required ones something that no value is."""
    required = len(spec.__struct_fields__) - len(spec.__struct_defaults__)
    return (None,) * required + spec.__struct_defaults__


def _literal(value: object) -> str:
    """A TOML value. A JSON string is a TOML one, but for the one control character that JSON does not escape."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple():
            return f"[{', '.join(map(_literal, value))}]"
        case _:
            return repr(value)


def _sample(log: Log, most: int) -> Iterator[EventBatch]:
    """The first valid events of a log, at most so many."""
    left, refused = most, "there are no rows"
    for path in log.paths:
        with closing(open_reader(path, limits=_READ)) as reader:
            while left > 0 and (piece := reader.read()) is not None:
                parsed = parse(Chunk("log", str(path), piece.end, piece.content, piece.rejects), _ANY_TIME)
                if parsed.rejects and left == most:
                    refused = parsed.rejects[0].reason
                inside = (parsed.batch.ts_ms >= log.span.start_ms) & (parsed.batch.ts_ms < log.span.end_ms)
                if len(inside) and not inside.any():
                    refused = f"there are none in {log.span}"
                batch = parsed.batch.take(inside & (np.cumsum(inside) <= left))
                left -= len(batch)
                if isinstance(piece.content, Lines):  # a scanned text knows the names that it was scanned for
                    batch = replace(batch, features=MappingColumns([event.features for event in batch.events]))
                yield batch
    if left == most:
        raise SourceError(f"{log}: expected events to declare features from, but {refused}")


def _count_domains(counts: dict[str, int], batch: EventBatch, codes: npt.NDArray[np.int16]) -> None:
    for name, count in zip(batch.domains, np.bincount(codes, minlength=len(batch.domains)).tolist(), strict=True):
        counts[name] = counts.get(name, 0) + count


def _of_value(kind: EventType, numbers: npt.NDArray[np.float64]) -> FeatureSpec:
    low, high, bins, edges = bins_of(numbers)
    name = _VALUES.get(kind, f"{kind}_value")
    return FeatureSpec(name, FeatureKind.NUMERIC, "value", (kind,), low, high, bins, edges=edges)


def _of_feature(name: str, seen: _Seen, type_counts: Counts, domain_counts: dict[str, int]) -> FeatureSpec:
    counts = np.bincount(np.concatenate(seen.types), minlength=len(EVENT_TYPES))
    carrying = counts > 0 if not (counts > _CARRIED * type_counts).any() else counts > _CARRIED * type_counts
    types = tuple(kind for kind, carries in zip(EVENT_TYPES, carrying.tolist(), strict=True) if carries)
    domains = tuple(each for each, count in domain_counts.items() if seen.domains.get(each, 0) > _CARRIED * count)
    if len(domains) == len(domain_counts):
        domains = ()
    source = f"features.{name}"
    numbers, words = np.concatenate(seen.numbers), np.concatenate(seen.words)
    if len(numbers) >= len(words):
        low, high, bins, edges = bins_of(numbers)
        return FeatureSpec(name, FeatureKind.NUMERIC, source, types, low, high, bins, domains, edges)
    if seen.several:
        return FeatureSpec(name, FeatureKind.MULTI_VALUED, source, types, domains=domains)
    distinct = len(np.unique(words)) / len(words)
    if distinct > 0.5 and np.mean([len(text.split()) for text in seen.texts]) >= _TEXT_WORDS:
        return FeatureSpec(name, FeatureKind.MULTI_VALUED, f"tokens:{source}", types, domains=domains)
    ghost = len(words) >= _FEWEST_IDS and distinct > _ID_LIKE
    return FeatureSpec(name, FeatureKind.CATEGORICAL, source, types, domains=domains, ghost=ghost)


def bins_of(numbers: npt.NDArray[np.float64]) -> tuple[float, float, int, tuple[float, ...]]:
    """Low, high and number of uniform bins for values (n,), n > 0; or the borders of bins between their quantiles, else ().

    >>> bins_of(np.arange(1001.0))
    (0.0, 1050.0, 210, ())
    >>> low, high, bins, edges = bins_of(np.exp(np.linspace(0, 20, 10_000)))
    >>> (low, high, bins), len(edges)
    ((0.0, 1.0, 0), 65)
    """
    numbers = np.clip(numbers, -_LARGEST, _LARGEST)
    low, first, third, high = np.quantile(numbers, [_OUTSIDE / 2, 0.25, 0.75, 1 - _OUTSIDE / 2])
    padding = (high - low) * _PADDING or max(abs(high) * _PADDING, 0.5)
    if third - first < (high - low) * _MIDDLE_BINS / NUMERIC_BINS:
        borders = np.quantile(numbers, np.linspace(_OUTSIDE / 2, 1 - _OUTSIDE / 2, _QUANTILE_BINS + 1))
        borders[-1] += padding
        exact = np.unique(borders).tolist()
        rounded = [float(f"{border:.6g}") for border in exact]
        edges = tuple(rounded if len(set(rounded)) == len(exact) else exact)
        if len(edges) > 2:
            return 0.0, 1.0, 0, edges
    # What is never negative has no bin below zero.
    least = 0.0 if numbers.min() >= 0 else -np.inf
    return *_round_bins(max(float(low - padding), least), float(high + padding)), ()


def _round_bins(low: float, high: float) -> tuple[float, float, int]:
    """Bins over a range whose width is 1, 2 or 5 times a power of ten and whose borders are multiples of it: good to read.

    >>> _round_bins(0.28, 5.22)
    (0.28, 5.22, 247)
    """
    least = (high - low) / (NUMERIC_BINS - 2)  # two more, so that the ends are multiples too
    power = math.floor(math.log10(least))
    width = next(width for factor in (1, 2, 5, 10) if (width := factor * 10.0**power) >= least)
    first, last = math.floor(low / width + _NEARLY), math.ceil(high / width - _NEARLY)
    return round(first * width, -power), round(last * width, -power), last - first


def _distinctly_named(specs: list[FeatureSpec]) -> list[FeatureSpec]:
    """A feature may be called as the value of a type is; it is then declared under its source's name."""
    names: set[str] = set()
    found = []
    for spec in specs:
        name = spec.name if spec.name not in names else spec.source
        names.add(name)
        found.append(msgspec.structs.replace(spec, name=name))
    return found
