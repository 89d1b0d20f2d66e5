"""Small logs of what a few users do with a few items, and the batches that such a log may be cut into."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from online_models.als import event_strength
from online_models.contracts.events import TYPE_CODES, Event, EventBatch, EventType
from online_models.contracts.ids import hash64
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory, merge
from tests.samples import batch, event

START_MS = 1_767_225_600_000
KINDS = [EventType.CLICK, EventType.SKIP, EventType.WATCH, EventType.PURCHASE, EventType.RATING]


def engagement(number: int, ts_ms: int, user: int, item: int, kind: EventType, value: float | None = None) -> Event:
    return event(number, kind, user_id=f"u{user}", item_id=f"i{item}", ts=ts_ms, value=value)


@st.composite
def logs(draw: st.DrawFn, ordered: bool, max_size: int = 40) -> list[Event]:
    """Engagements of four users with `i14` to `i25`. Times repeat."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 12).map(lambda second: START_MS + 1000 * second),
                st.integers(0, 3),
                st.integers(14, 25),
                st.sampled_from(KINDS),
                st.none() | st.sampled_from([2.0, 5.0, 900.0]),
            ),
            min_size=1,
            max_size=max_size,
        )
    )
    return [engagement(n, *row) for n, row in enumerate(sorted(rows, key=lambda row: row[0]) if ordered else rows)]


def busy_log(events: int, seed: int, users: int = 5, first_item: int = 14, items: int = 12) -> list[Event]:
    """Seeded engagements in order of time, some at one time: clicks mostly, few skips; low item numbers are the popular ones."""
    rng = np.random.default_rng(seed)
    item = first_item + (items * rng.random(events) ** 2).astype(np.int64)
    ts_ms = START_MS + np.cumsum(rng.integers(0, 3, events) * 60_000)
    kinds = rng.choice(len(KINDS), events, p=[0.6, 0.1, 0.15, 0.05, 0.1])
    rows = zip(ts_ms.tolist(), rng.integers(0, users, events).tolist(), item.tolist(), kinds.tolist(), strict=True)
    return [engagement(n, ts, user, row, KINDS[kind], 5.0) for n, (ts, user, row, kind) in enumerate(rows)]


def strength_of(one: Event) -> float:
    value = np.array([np.nan if one.value is None else one.value])
    return float(event_strength(np.array([TYPE_CODES[one.type]], np.int8), value)[0])


def entries_of(log: Sequence[Event]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    """What a log adds to a history: its positive events, and all that was met."""
    rows = [(one.ts, hash64(one.event_id), hash64(one.item_id), strength_of(one)) for one in log]
    met = np.array(rows, ENTRY) if rows else np.empty(0, ENTRY)
    return met[met["strength"] > 0], met[["ts_ms", "item"]].astype(SEEN)


def history_of(log: Sequence[Event], user: str) -> UserHistory:
    """A user's history after a log."""
    return merge(EMPTY, *entries_of([one for one in log if one.user_id == user]))


def pieces_of(log: Sequence[Event], cuts: Sequence[int] = ()) -> list[EventBatch]:
    """The log as batches whose rows stand at their number in the log."""
    ends = sorted({0, *(cut for cut in cuts if 0 < cut < len(log)), len(log)})
    whole = batch(log)
    return [_placed(whole.take((whole.offset >= start) & (whole.offset < end)), end) for start, end in pairwise(ends)]


def _placed(taken: EventBatch, position: int) -> EventBatch:
    kept = {name: getattr(taken, name) for name in EventBatch.__slots__ if name != "position"}
    return EventBatch(**kept, position=position)
