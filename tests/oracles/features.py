"""Features of events one event and one value at a time, in plain Python: the oracle of construction and of every sketch."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt

from online_models.columns import MappingColumns
from online_models.construction import CLOCK
from online_models.contracts.columns import FeatureColumns
from online_models.contracts.events import EVENT_TYPES, EventType, utc
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64

M64 = 2**64 - 1


@dataclass(frozen=True)
class Row:
    """One event."""

    type: EventType = EventType.CLICK
    ts_ms: int = 0
    value: float = math.nan
    item_id: str = "i"
    user_id: str = "u"
    features: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Rows:
    """The same events as columns."""

    type: npt.NDArray[np.int8]
    ts_ms: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    item_hash: npt.NDArray[np.uint64]
    user_hash: npt.NDArray[np.uint64]
    features: FeatureColumns
    events: Sequence[Row] = field(repr=False)


def observed(rows: Sequence[Row]) -> Rows:
    """Columns of some events."""
    return Rows(
        np.array([EVENT_TYPES.index(row.type) for row in rows], np.int8),
        np.array([row.ts_ms for row in rows], np.int64),
        np.array([row.value for row in rows], np.float64),
        np.array([hash64(row.item_id) for row in rows], np.uint64),
        np.array([hash64(row.user_id) for row in rows], np.uint64),
        MappingColumns([row.features for row in rows]),
        rows,
    )


Word = tuple[int, str]
"""Hash and text."""


def given(source: str, row: Row) -> float | list[Word] | None:
    """What one event holds under a plain source: a number, words, or nothing."""
    match source:
        case "value":
            return row.value
        case "hour":
            return float(utc(row.ts_ms).hour)
        case "minute":
            return float(utc(row.ts_ms).hour * 60 + utc(row.ts_ms).minute)
        case "weekday":
            return float(utc(row.ts_ms).weekday())
        case "type":
            return [word(row.type.value)]
        case "item_id":
            return [word(row.item_id)]
        case "user_id":
            return [word(row.user_id)]
        case _:
            return given_in(row.features or {}, source)


def given_in(features: Mapping[str, object], source: str) -> float | list[Word] | None:
    """The same of a source in the event's features."""
    found = features.get(source.removeprefix("tokens:").removeprefix("features."))
    texts = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    if source.startswith("tokens:"):
        texts = [token for text in texts if isinstance(text, str) for token in re.findall(r"\w+", text.lower())]
    elif isinstance(found, int | float) and not isinstance(found, bool):
        return (
            float(found) if isinstance(found, float) or abs(found) < 10**308 else math.inf if found > 0 else -math.inf
        )
    return [word(text) for text in dict.fromkeys(text for text in texts if isinstance(text, str))]


def word(text: str) -> Word:
    return hash64(text.encode(errors="replace").decode()), text


def mixed(z: int) -> int:
    """SplitMix64."""
    z = (z + 0x9E3779B97F4A7C15) & M64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & M64
    return z ^ (z >> 31)


def values_of(spec: FeatureSpec, row: Row) -> list[float] | list[Word]:
    """The numbers or the words of one event, by the feature's kind; NaN is none."""
    parts = [given(source, row) for source in spec.source.split("*")]
    held = parts[0] if len(parts) == 1 else crossed(parts)
    if isinstance(held, float) and math.isnan(held):
        held = None
    if spec.kind is FeatureKind.NUMERIC:
        return [held] if isinstance(held, float) else []
    if isinstance(held, float) and spec.kind is FeatureKind.CATEGORICAL and spec.edges:
        held = [bucket(held, spec.edges)]
    elif isinstance(held, float) and spec.kind is FeatureKind.CATEGORICAL and spec.source in CLOCK:
        held = number_words(held)
    words = held if isinstance(held, list) else []
    return [] if spec.kind is FeatureKind.CATEGORICAL and len(words) > 1 else words


def crossed(parts: Sequence[float | list[Word] | None]) -> list[Word]:
    """Every combination of the parts' words."""
    listed = [number_words(part) if isinstance(part, float) else part or [] for part in parts]
    combinations = []
    for combination in product(*listed):
        hashed, text = combination[0]
        for right, right_text in combination[1:]:
            hashed, text = mixed(mixed(hashed) ^ right), f"{text} × {right_text}"
        combinations.append((hashed, text))
    return combinations


def number_words(number: float) -> list[Word]:
    if math.isnan(number):
        return []
    whole = math.floor(min(max(number, -(2.0**62)), 2.0**62))
    return [(mixed(whole & M64), str(whole))]


def bucket(number: float, edges: Sequence[float]) -> Word:
    borders = [-math.inf, *edges, math.inf]
    place = sum(edge <= number for edge in edges)
    return word(f"[{borders[place]}, {borders[place + 1]})")


def cell(value: float | Word, spec: FeatureSpec) -> int:
    """The cell that one value is counted in."""
    if not isinstance(value, float):
        return 1 + value[0] % spec.cells
    if spec.edges:
        return sum(edge <= value for edge in spec.edges)
    if value < spec.low:
        return 0
    if value >= spec.high:
        return spec.cells + 1
    return 1 + min(int((value - spec.low) * (spec.cells / (spec.high - spec.low))), spec.cells - 1)


def counts_of(spec: FeatureSpec, rows: Sequence[Row]) -> tuple[list[int], int]:
    """The histogram of some events, and how many of them are of the feature's types."""
    counts, events = [0] * (spec.cells + 3), 0
    for row in rows:
        if row.type in spec.types:
            events += 1
            values = values_of(spec, row)
            for value in values:
                counts[cell(value, spec)] += 1
            counts[-1] += not values
    return counts, events
