"""The event contract: one interaction, impression or feedback, and a batch of them as columns.

- One flat Struct on the wire with a closed `type`; `Interaction | Impression | Feedback` are its three roles (`role`).
- Unknown fields are ignored, missing or mistyped ones are a reason for the dead letter.
- `EventBatch` is what flows through the stream job: columns, never single events.
"""

import enum
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never, overload

import msgspec
import numpy as np
import numpy.typing as npt

from online_models.contracts.columns import FeatureColumns

FeatureValue = float | str | list[str]

MAX_ID_LENGTH = 256
"""Longest accepted user, item, domain or request identifier, in characters."""

MAX_LINE_BYTES = 262_144
"""Longest accepted NDJSON line of one event, in bytes without its newline."""


class EventType(enum.StrEnum):
    """What happened. The order is the wire code in `EventBatch.type` and never changes; new types are appended."""

    IMPRESSION = "impression"
    CLICK = "click"
    WATCH = "watch"
    PURCHASE = "purchase"
    RATING = "rating"
    SKIP = "skip"


EVENT_TYPES: tuple[EventType, ...] = tuple(EventType)
TYPE_CODES: dict[EventType, int] = {kind: code for code, kind in enumerate(EVENT_TYPES)}

ANSWERS: tuple[EventType, ...] = (EventType.CLICK, EventType.WATCH, EventType.PURCHASE)
"""What takes an impression."""

ATTRIBUTION_MS = 1_800_000
"""How long after an impression an answer to no request still takes it, unless another time is asked for."""


class Role(enum.Enum):
    """Which of the three kinds of message an event is, and so which table and branch it belongs to."""

    IMPRESSION = "impression"  # we showed an item
    INTERACTION = "interaction"  # the user consumed an item: watch, purchase
    FEEDBACK = "feedback"  # the user said something about an item: click, rating, skip


def role_of(kind: EventType) -> Role:
    """The role of an event type."""
    match kind:
        case EventType.IMPRESSION:
            return Role.IMPRESSION
        case EventType.WATCH | EventType.PURCHASE:
            return Role.INTERACTION
        case EventType.CLICK | EventType.RATING | EventType.SKIP:
            return Role.FEEDBACK
        case _:
            assert_never(kind)


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One event on the wire (NDJSON line, Kafka value, Parquet or Arrow row).

    `ts` is RFC 3339 text or epoch milliseconds, UTC; `value` is a rating, seconds watched or an amount, by type.
    """

    event_id: str
    type: EventType
    user_id: str
    item_id: str
    ts: int | str
    domain: str
    value: float | None = None
    request_id: str | None = None
    position: int | None = None
    model_version: str | None = None
    rollout_id: int | None = None
    propensity: float | None = None
    features: dict[str, FeatureValue] | None = None


def timestamp_ms(ts: int | str) -> int:
    """Epoch milliseconds of an event's `ts`.

    Raises
    ------
    ValueError
        When a text is not RFC 3339 with an offset.

    >>> timestamp_ms("2026-01-01T00:00:00Z"), timestamp_ms(1767225600000)
    (1767225600000, 1767225600000)
    """
    if isinstance(ts, int):
        return ts
    moment = datetime.fromisoformat(ts)
    if moment.tzinfo is None:
        raise ValueError(f"ts {ts!r} has no UTC offset")
    return round(moment.timestamp() * 1000)


def utc(ts_ms: int) -> datetime:
    """The aware UTC moment of epoch milliseconds."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """Event times outside `[earliest_ms, latest_ms]` are rejected: they would tear the watermark."""

    earliest_ms: int
    latest_ms: int


def reason_to_reject(event: Event, ts_ms: int, bounds: TimeBounds) -> str | None:
    """Why a well-typed event is still not acceptable, or None.

    Checks what types cannot say: the id is a UUID, no id is empty or longer than `MAX_ID_LENGTH`,
    numbers are finite, and the time lies within the bounds.
    """
    try:
        uuid.UUID(event.event_id)
    except ValueError:
        return f"event_id: expected a UUID, got {event.event_id[:64]!r}"
    for name in ("user_id", "item_id", "domain"):
        text: str = getattr(event, name)
        if not 0 < len(text) <= MAX_ID_LENGTH or "\x00" in text:
            return f"{name}: expected 1 to {MAX_ID_LENGTH} characters without NUL, got {len(text)} in {text[:32]!r}"
    if not bounds.earliest_ms <= ts_ms <= bounds.latest_ms:
        return f"ts: expected within [{bounds.earliest_ms}, {bounds.latest_ms}] ms, got {ts_ms}"
    return _unusable_option(event)


def _unusable_option(event: Event) -> str | None:
    for name, number in (("value", event.value), ("propensity", event.propensity)):
        if number is not None and not math.isfinite(number):
            return f"{name}: expected a finite number, got {number}"
    for text in (event.request_id, event.model_version):
        if text is not None and (len(text) > MAX_ID_LENGTH or "\x00" in text):
            return f"request_id, model_version: expected at most {MAX_ID_LENGTH} characters without NUL"
    for integer in (event.position, event.rollout_id):
        if integer is not None and not 0 <= integer < 2**31:
            return f"position, rollout_id: expected 0 to 2^31 - 1, got {integer}"
    return _unusable_feature(event.features) if event.features else None


def _unusable_feature(features: dict[str, FeatureValue]) -> str | None:
    for name, feature in features.items():
        if isinstance(feature, float) and not math.isfinite(feature):
            return f"features.{name}: expected a finite number, got {feature}"
        words = [feature] if isinstance(feature, str) else feature if isinstance(feature, list) else []
        if "\x00" in name or any("\x00" in word for word in words):
            return f"features.{name[:32]!r}: NUL is not allowed in text"
    return None


class Selected(Sequence[Event]):
    """Some of the events of a sequence, none of them decoded before it is asked for.

    >>> list(Selected(["a", "b", "c"], np.array([0, 2])))
    ['a', 'c']
    """

    def __init__(self, events: Sequence[Event], places: npt.NDArray[np.integer]) -> None:
        self._events = events
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return Selected(self._events, self._places[index])
        return self._events[int(self._places[index])]


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of one chunk as columns of one length `n`, in source order.

    events : the n accepted events, for what needs their text; a fast parser decodes each when it is asked for
    event_hash, user_hash, item_hash : uint64 (n,)
    type : int8 (n,), index into `EVENT_TYPES`
    ts_ms : int64 (n,), UTC epoch milliseconds
    value : float64 (n,), NaN where absent
    domain : int16 (n,), index into `domains`, the distinct domains of the batch in order of appearance
    offset : int64 (n,), where each event stands in its source (byte offset, or row number of a columnar file)
    requested : bool (n,), whether the event carries a request_id
    features : their features as columns
    source, position : the file, and the offset at which the chunk ends there: what comes later has no smaller `offset`
    """

    events: Sequence[Event]
    event_hash: npt.NDArray[np.uint64]
    user_hash: npt.NDArray[np.uint64]
    item_hash: npt.NDArray[np.uint64]
    type: npt.NDArray[np.int8]
    ts_ms: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    domain: npt.NDArray[np.int16]
    domains: tuple[str, ...]
    offset: npt.NDArray[np.int64]
    requested: npt.NDArray[np.bool_]
    features: FeatureColumns
    source: str
    position: int

    def __len__(self) -> int:
        return len(self.ts_ms)

    def take(self, rows: npt.NDArray[np.bool_]) -> "EventBatch":
        """The batch with only the rows where `rows` (n,) is true."""
        return EventBatch(
            events=Selected(self.events, np.flatnonzero(rows)),
            event_hash=self.event_hash[rows],
            user_hash=self.user_hash[rows],
            item_hash=self.item_hash[rows],
            type=self.type[rows],
            ts_ms=self.ts_ms[rows],
            value=self.value[rows],
            domain=self.domain[rows],
            domains=self.domains,
            offset=self.offset[rows],
            requested=self.requested[rows],
            features=self.features.take(rows),
            source=self.source,
            position=self.position,
        )


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that is not a valid event: why, where it stood, and its bytes (`raw` may be cut, `length` tells)."""

    reason: str
    source: str
    offset: int
    raw: bytes
    length: int


LANGUAGE_FEATURE = "llm_score"
"""Feature of an impression that tells what a language model said of its item: calibrated log-odds that it is taken."""

LANGUAGE_VERSION_FEATURE = "llm_version"
"""Feature beside it that tells whose score it is: the version that the language model was trained for, see
`Manifest.language_model`. An impression of an earlier release has none."""

STAGE_FEATURE, WEIGHT_FEATURE, VARIANT_FEATURE = "stage", "weight_bp", "variant"
"""Features of an impression that tell where its model's rollout stood, and who answered: an arm, or `fallback`."""

ASKED_VARIANT_FEATURE, ASKED_VERSION_FEATURE = "asked_variant", "asked_version"
"""Features of an impression that tell which arm its user is in, and the version of that arm; there in a stage that shows people
the canary where another answered. The request counts for this arm all the same: arms differ in whom they can answer, and only
all of an arm's people are a fair sample."""

ARM_PROPENSITY_FEATURE = "arm_propensity"
"""Feature of an impression that tells how likely its user was to be in their arm; there while a rollout or a bandit splits
users, whoever answered."""

SHADOW_VERSION_FEATURE = "shadow_version"
"""Feature of an impression that tells which version was scored in the shadow for the same user, history and time."""

SHADOW_PLACE_FEATURE = "shadow_place"
"""Feature beside it that tells where that version's list has the item, from 0; absent where a list of three times as many items
has not."""

API_FEATURES: frozenset[str] = frozenset(
    {
        *(STAGE_FEATURE, WEIGHT_FEATURE, VARIANT_FEATURE, ASKED_VARIANT_FEATURE, ASKED_VERSION_FEATURE),
        *(ARM_PROPENSITY_FEATURE, SHADOW_VERSION_FEATURE, SHADOW_PLACE_FEATURE),
    }
)
"""Features of impressions that rollouts are judged by: the API's own, which it takes from nobody else."""


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One catalogue entry: what an item is called and what it is. The line format of a catalogue file.

    min_age : years that a user must be old to be shown it; available_ms : when it came, epoch ms
    """

    item_id: str
    domain: str
    title: str
    categories: list[str] = []
    price: float | None = None
    min_age: float | None = None
    available_ms: int | None = None
