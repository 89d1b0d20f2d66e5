"""A small seeded world: users like the items of one group, and hardly anything else."""

import uuid
from collections.abc import Sequence

import numpy as np

from online_models.columns import MappingColumns
from online_models.contracts.events import TYPE_CODES, Event, EventBatch, EventType
from online_models.contracts.ids import hash64
from online_models.interactions import Interactions

USERS, ITEMS, GROUPS = 60, 100, 4
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def clustered_events(
    seed: int,
    domain: str = "movies",
    events: int = 1_500,
    start_ms: int = START_MS,
    loyalty: float = 0.95,
    grouping: Sequence[int] = tuple(range(ITEMS)),
) -> list[Event]:
    """Clicks, one an hour, oldest first: with probability `loyalty` on an item of the user's own group.

    grouping : item j belongs to group `grouping[j] % GROUPS`; another permutation is another world with the same items
    """
    rng = np.random.default_rng(seed)
    group = np.array(grouping) % GROUPS
    made = []
    for number in range(events):
        user = int(rng.integers(USERS))
        own = np.flatnonzero(group == user % GROUPS)
        item = int(rng.choice(own) if rng.random() < loyalty else rng.integers(ITEMS))
        made.append(
            Event(
                event_id=str(uuid.UUID(int=hash64(f"{seed}/{domain}/{start_ms}/{number}"))),
                type=EventType.CLICK,
                user_id=f"user-{user}",
                item_id=f"item-{item}",
                ts=start_ms + number * HOUR_MS,
                domain=domain,
                features={"genres": [f"group-{group[item]}"]},
            )
        )
    return made


def as_interactions(events: Sequence[Event]) -> Interactions:
    """What an interaction store gives back for the events."""
    return Interactions(
        user_id=[event.user_id for event in events],
        item_id=[event.item_id for event in events],
        type=np.array([TYPE_CODES[event.type] for event in events], np.int8),
        ts_ms=np.array([event.ts for event in events], np.int64),
        value=np.array([np.nan if event.value is None else event.value for event in events]),
        recommended=np.array([event.request_id is not None for event in events], np.bool_),
        features=[event.features for event in events],
    )


def as_batch(events: Sequence[Event]) -> EventBatch:
    """What the stream job writes to an interaction store; all events are of one domain."""
    columns = as_interactions(events)
    return EventBatch(
        events=events,
        event_hash=np.array([hash64(event.event_id) for event in events], np.uint64),
        user_hash=np.array([hash64(event.user_id) for event in events], np.uint64),
        item_hash=np.array([hash64(event.item_id) for event in events], np.uint64),
        type=columns.type,
        ts_ms=columns.ts_ms,
        value=columns.value,
        domain=np.zeros(len(events), np.int16),
        domains=(events[0].domain,),
        offset=np.arange(len(events)),
        requested=columns.recommended,
        features=MappingColumns(columns.features),
        source="world",
        position=len(events),
    )
