"""Impressions: what answers showed, appended to the event log behind the requests' backs by a thread of its own.

- The thread gathers for a moment, so that many answers share one append: what was shown is on the log 10 ms later, and no
  request waits for a disk.
- The queue is bounded. A request that finds it full waits a moment for room; then its impressions are counted as lost, and
  it is answered all the same.
- What was accepted is appended before `close` returns.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec
from prometheus_client import Counter

from online_models.contracts.events import (
    LANGUAGE_FEATURE,
    LANGUAGE_VERSION_FEATURE,
    SHADOW_PLACE_FEATURE,
    SHADOW_VERSION_FEATURE,
    Event,
    EventType,
    FeatureValue,
)
from online_models.contracts.ids import ModelName, UserId
from online_models.ports import EventLog
from serving_api.instruments import Instruments

log: Final = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.01
CLOSE_SECONDS: Final = 30.0
ANSWERS_PER_APPEND: Final = 1_000
MOST_ITEMS: Final = 0x10000
"""Items of one request: their places are the last four digits of their impressions' ids."""

_LOOK_SECONDS: Final = 0.005

_PLACE: Final = len('{"event_id":"') + 36 - 4
"""Where those digits begin in a line."""

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Shown:
    """What one answer showed.

    request_id : a UUID; items : their ids, best first, at most `MOST_ITEMS`; ts_ms : event time, epoch milliseconds
    propensities : how likely each item was to stand where it stands
    language : calibrated log-odds that each is taken, where a language model had a say; empty where it had none
    language_model : under whose version its scores are kept
    features : what each impression says of the answer
    first : the first item's position, above 0 on later pages
    shadow_version : the version that was scored in the shadow, None where none was; shadow_places : where its list has each item
    """

    model: ModelName
    user_id: UserId
    ts_ms: int
    request_id: str
    items: Sequence[str]
    propensities: Sequence[float]
    model_version: str | None
    rollout_id: int | None
    features: dict[str, FeatureValue]
    first: int = 0
    language: Sequence[float | None] = ()
    language_model: str | None = None
    shadow_version: str | None = None
    shadow_places: Sequence[int | None] = ()


def lines_of(shown: Shown) -> list[bytes]:
    """One line of the event log for each item: what `event_of` gives, of which only the differing parts are encoded again.

    >>> from online_models.contracts.ids import ModelName, UserId
    >>> asked = "0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e"
    >>> lines_of(Shown(ModelName("movies"), UserId("u"), 5, asked, ["i"], [1.0], "v1", None, {}))[0][:52]
    b'{"event_id":"0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0000","'
    """
    if shown.shadow_version is not None or any(logit is not None for logit in shown.language):
        return [_encode(event_of(shown, item, place)) for place, item in enumerate(shown.items)]
    line = _encode(event_of(shown, "", 0))
    # No text of the line holds these bytes: a quotation mark within a text is escaped.
    head, _, rest = line.partition(b'"item_id":""')
    middle, _, tail = rest.partition(b'"position":%d' % shown.first)
    stem, head = head[:_PLACE], head[_PLACE + 4 :]
    tails = [tail] * len(shown.items)
    if any(propensity != 1.0 for propensity in shown.propensities):
        before, _, after = tail.partition(b'"propensity":' + _encode(shown.propensities[0]))
        tails = [b'%b"propensity":%b%b' % (before, _encode(propensity), after) for propensity in shown.propensities]
    return [
        b'%b%04x%b"item_id":%b%b"position":%d%b' % (stem, place, head, _encode(item), middle, place, end)
        for place, (item, end) in enumerate(zip(shown.items, tails, strict=True), start=shown.first)
    ]


def event_of(shown: Shown, item: str, place: int) -> Event:
    """The impression of one item at a place of its page, counted from 0.

    Its id is the request's with the item's position in the last four digits: as unique as requests are, and cheaper than a
    random one.
    """
    position = shown.first + place
    return Event(
        event_id=f"{shown.request_id[:-4]}{position:04x}",
        type=EventType.IMPRESSION,
        user_id=shown.user_id,
        item_id=item,
        ts=shown.ts_ms,
        domain=shown.model,
        request_id=shown.request_id,
        position=position,
        model_version=shown.model_version,
        rollout_id=shown.rollout_id,
        propensity=shown.propensities[place] if shown.propensities else 1.0,
        features={**shown.features, **_said(shown, place), **_shadowed(shown, place)},
    )


def _said(shown: Shown, place: int) -> dict[str, FeatureValue]:
    """What a language model said of the item at a place, and which one."""
    logit = shown.language[place] if shown.language else None
    if logit is None:
        return {}
    whose: dict[str, FeatureValue] = {LANGUAGE_VERSION_FEATURE: shown.language_model} if shown.language_model else {}
    return {LANGUAGE_FEATURE: logit, **whose}


def _shadowed(shown: Shown, place: int) -> dict[str, FeatureValue]:
    """What a version in the shadow would have done with the item at a place."""
    if shown.shadow_version is None:
        return {}
    at = shown.shadow_places[place]
    where: dict[str, FeatureValue] = {} if at is None else {SHADOW_PLACE_FEATURE: float(at)}
    return {SHADOW_VERSION_FEATURE: shown.shadow_version, **where}


class ImpressionLog:
    """Appends impressions from a thread that lives until `close`; `put` is for one event loop, `hand_over` for other threads.

    Parameters
    ----------
    capacity : answers that wait for the log at most
    patience : how long a request waits for room
    """

    def __init__(self, event_log: EventLog, instruments: Instruments, capacity: int, patience: timedelta) -> None:
        self._event_log = event_log
        self._instruments = instruments
        self._capacity = capacity
        self._patience_seconds = patience.total_seconds()
        self._look_seconds = min(_LOOK_SECONDS, self._patience_seconds)
        self._queue: deque[Shown] = deque()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._idle = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    async def put(self, shown: Shown) -> None:
        """Take what an answer showed; when there is no room in time, count it as lost."""
        deadline = time.monotonic() + self._patience_seconds if self._full() else 0.0
        while self._full() and time.monotonic() < deadline:
            await asyncio.sleep(self._look_seconds)
        self._take(shown)

    def hand_over(self, shown: Shown) -> None:
        """`put`, for a thread that may wait."""
        deadline = time.monotonic() + self._patience_seconds
        while self._full() and time.monotonic() < deadline:
            time.sleep(self._look_seconds)
        self._take(shown)

    def close(self) -> None:
        """Append what was taken, and end the thread. A log that hangs is left alone after `CLOSE_SECONDS`."""
        self._closed.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.error("impressions_not_appended answers=%d error=the log hangs", len(self._queue))

    def _full(self) -> bool:
        return len(self._queue) >= self._capacity and not self._closed.is_set()

    def _take(self, shown: Shown) -> None:
        if self._closed.is_set() or len(self._queue) >= self._capacity:
            self._instruments.impressions_lost.labels(shown.model).inc(len(shown.items))
            return
        self._queue.append(shown)
        if self._idle:
            self._wake.set()

    def _run(self) -> None:
        while self._await_work():
            self._append([self._queue.popleft() for _ in range(min(len(self._queue), ANSWERS_PER_APPEND))])

    def _await_work(self) -> bool:
        """Whether there is something to append; False once all is done and closed."""
        while True:
            if len(self._queue) < ANSWERS_PER_APPEND:
                self._closed.wait(GATHER_SECONDS)
            if self._queue:
                return True
            if self._closed.is_set():
                return False
            # Said before the last look at the queue: whoever puts something there later sees it, and wakes this thread.
            self._idle = True
            if not self._queue and not self._closed.is_set():
                self._wake.wait()
            self._idle = False
            self._wake.clear()

    def _append(self, answers: Sequence[Shown]) -> None:
        """One append for all of them. A log that refuses costs the impressions and nothing else."""
        try:
            self._event_log.append([line for shown in answers for line in lines_of(shown)])
        except Exception as error:  # noqa: BLE001 - the boundary of the thread: the next append tries again
            if not self._failing:
                log.error("impressions_not_appended error=%s", error)
            self._failing = True
            _count(answers, self._instruments.impressions_lost)
        else:
            if self._failing:
                log.info("impressions_appended_again")
            self._failing = False
            _count(answers, self._instruments.impressions)


def _count(answers: Sequence[Shown], instrument: Counter) -> None:
    lines: dict[str, int] = {}
    for shown in answers:
        lines[shown.model] = lines.get(shown.model, 0) + len(shown.items)
    for model, count in lines.items():
        instrument.labels(model).inc(count)
