"""What recorded logs say of lists: every impression with its position, its propensity, and whether it was taken.

- An impression is taken by an answer (click, watch, purchase) to its own request, or by one of the same user on the same item
  soon after it, as in training.
- A log is at-least-once: an event that comes twice counts once.
- An impression without a request, or without a position that a list can have, belongs to no list; it is counted and left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.contracts.events import (
    ANSWERS,
    ATTRIBUTION_MS,
    SHADOW_PLACE_FEATURE,
    SHADOW_VERSION_FEATURE,
    Event,
    EventType,
)
from online_models.contracts.ids import hash64
from online_models.stores.recorded import Refused, read_events

I64 = npt.NDArray[np.int64]

NOWHERE: Final = -1

MOST_PLACES: Final = 65_536
"""No list is longer: a position or a place from here on is none, and no column grows to its size."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Impressions of lists, in the order of the log, as columns of one length n.

    users, items, requests, versions : ids, in order of appearance; "" for no version
    user, item, request, version : int64 (n,), index into these
    position : int64 (n,), from 0; propensity : float64 (n,), NaN where not told; taken : bool (n,)
    shadow, shadow_place : int64 (n,), version scored in the shadow, -1 for none, and its place for the item, -1 for none
    listless : impressions left out; refused : kind of reason -> rows that are no events
    """

    users: list[str]
    items: list[str]
    requests: list[str]
    versions: list[str]
    user: I64
    item: I64
    request: I64
    version: I64
    position: I64
    propensity: npt.NDArray[np.float64]
    taken: npt.NDArray[np.bool_]
    shadow: I64
    shadow_place: I64
    listless: int
    refused: Mapping[str, Refused]

    def __len__(self) -> int:
        return len(self.position)


@dataclass(slots=True)
class _Reading:
    """A log as it is read. Mutable."""

    users: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, int, int, int, int, int, int, int]] = field(default_factory=list)
    propensity: list[float] = field(default_factory=list)
    named: set[tuple[str, str]] = field(default_factory=set)
    answered: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    met: set[int] = field(default_factory=set)
    listless: int = 0

    def add(self, event: Event, ts_ms: int) -> None:
        fingerprint = hash64(event.event_id)
        if fingerprint in self.met:
            return
        self.met.add(fingerprint)
        if event.type in ANSWERS:
            self.answered[event.user_id, event.item_id].append(ts_ms)
            if event.request_id is not None:
                self.named.add((event.request_id, event.item_id))
        elif event.type is EventType.IMPRESSION:
            self._show(event, ts_ms)

    def _show(self, event: Event, ts_ms: int) -> None:
        if event.request_id is None or event.position is None or not 0 <= event.position < MOST_PLACES:
            self.listless += 1
            return
        said = event.features or {}
        shadow, place = said.get(SHADOW_VERSION_FEATURE), said.get(SHADOW_PLACE_FEATURE)
        self.rows.append(
            (
                _code(self.users, event.user_id),
                _code(self.items, event.item_id),
                _code(self.requests, event.request_id),
                _code(self.versions, event.model_version or ""),
                event.position,
                ts_ms,
                _code(self.versions, shadow) if isinstance(shadow, str) else NOWHERE,
                int(place) if isinstance(place, float) and _is_place(place) else NOWHERE,
            )
        )
        self.propensity.append(np.nan if event.propensity is None else event.propensity)

    def shown(self, attribution_ms: int, refused: Mapping[str, Refused]) -> Shown:
        columns = np.array(self.rows, np.int64).reshape(-1, 8)
        users, items, requests, versions = (
            list(codes) for codes in (self.users, self.items, self.requests, self.versions)
        )
        user, item, request, version, position, _, shadow, place = columns.T
        return Shown(
            users=users,
            items=items,
            requests=requests,
            versions=versions,
            user=user,
            item=item,
            request=request,
            version=version,
            position=position,
            propensity=np.array(self.propensity, np.float64),
            taken=self._taken(columns, users, items, requests, attribution_ms),
            shadow=shadow,
            shadow_place=place,
            listless=self.listless,
            refused=refused,
        )

    def _taken(
        self, columns: I64, users: list[str], items: list[str], requests: list[str], attribution_ms: int
    ) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(columns), np.bool_)
        for row, (user, item, request, _, _, ts_ms, _, _) in enumerate(columns.tolist()):
            times = self.answered.get((users[user], items[item]))
            found[row] = times is not None and (
                (requests[request], items[item]) in self.named
                or any(ts_ms <= time <= ts_ms + attribution_ms for time in times)
            )
        return found


def read_shown(paths: Iterable[Path], domain: str | None = None, attribution_ms: int = ATTRIBUTION_MS) -> Shown:
    """The impressions of log files, of one domain or of all. Raises SourceError when a file cannot be read, see `read_log`."""
    reading, refused = _Reading(), dict[str, Refused]()
    for event, ts_ms in read_events(paths, refused):
        if domain is None or event.domain == domain:
            reading.add(event, ts_ms)
    return reading.shown(attribution_ms, refused)


def _is_place(told: float) -> bool:
    return 0 <= told < MOST_PLACES and told.is_integer()


def _code(codes: dict[str, int], name: str) -> int:
    return codes.setdefault(name, len(codes))
