"""Impressions behind the requests' backs: their lines, their appends, and what happens when the log is slow or broken."""

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.events import (
    LANGUAGE_FEATURE,
    LANGUAGE_VERSION_FEATURE,
    SHADOW_PLACE_FEATURE,
    SHADOW_VERSION_FEATURE,
    Event,
    EventType,
    FeatureValue,
    TimeBounds,
    reason_to_reject,
)
from online_models.contracts.ids import ModelName, UserId
from online_models.ports import EventLog
from online_models.stores.files import SegmentLog
from serving_api.impressions import ANSWERS_PER_APPEND, ImpressionLog, Shown, event_of, lines_of
from serving_api.instruments import Instruments

MOVIES = ModelName("movies")
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def shown(items: Sequence[str] = ("i1", "i2"), user: str = "u1") -> Shown:
    said: dict[str, FeatureValue] = {"stage": 1.0, "variant": "canary"}
    return Shown(MOVIES, UserId(user), 5, str(uuid.uuid4()), items, [1.0] * len(items), "v1", 7, said)


class CountedLog(SegmentLog):
    """The real log, which counts its appends and can be held up: an append waits until the gate is open."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, lambda: datetime.now(UTC))
        self.appends = 0
        self.gate = threading.Event()
        self.gate.set()

    def append(self, lines: Sequence[bytes]) -> None:
        self.gate.wait()
        super().append(lines)
        self.appends += 1


@pytest.fixture
def log(tmp_path: Path) -> Iterator[CountedLog]:
    log = CountedLog(tmp_path / "events")
    yield log
    log.gate.set()
    log.close()


def logged(directory: Path) -> list[Event]:
    lines = [line for path in sorted((directory / "events").glob("*")) for line in path.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Event) for line in lines]


def counted(instruments: Instruments) -> tuple[float, float]:
    """Impressions appended and lost."""
    count = instruments.registry.get_sample_value
    appended, lost = (count(f"penstock_impressions_{what}_total", {"domain": MOVIES}) for what in ("appended", "lost"))
    return appended or 0.0, lost or 0.0


def run(
    log: EventLog,
    work: Callable[[ImpressionLog], Awaitable[None]],
    capacity: int = 1_000,
    patience: timedelta = timedelta(seconds=5),
) -> tuple[float, float]:
    """Impressions appended and lost by the time the log is closed."""
    instruments = Instruments()

    async def main() -> None:
        impressions = ImpressionLog(log, instruments, capacity, patience)
        try:
            await work(impressions)
        finally:
            impressions.close()

    asyncio.run(main())
    return counted(instruments)


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


@given(
    items=st.lists(st.tuples(TEXT, st.just(1.0) | st.floats(0, 1)), max_size=5),
    texts=st.tuples(TEXT, TEXT),
    version=st.none() | TEXT,
    rollout_id=st.none() | st.integers(0, 2**31 - 1),
    ts_ms=st.integers(-(2**40), 2**42),
    features=st.dictionaries(TEXT, TEXT | st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
def test_a_line_is_its_event_encoded(
    items: list[tuple[str, float]],
    texts: tuple[str, str],
    version: str | None,
    rollout_id: int | None,
    ts_ms: int,
    features: dict[str, FeatureValue],
) -> None:
    model, user = ModelName(texts[0]), UserId(texts[1])
    ids, propensities = [item for item, _ in items], [propensity for _, propensity in items]
    one = Shown(model, user, ts_ms, str(uuid.uuid4()), ids, propensities, version, rollout_id, features)
    assert lines_of(one) == [msgspec.json.encode(event_of(one, item, place)) for place, item in enumerate(ids)]


def test_what_a_language_model_said_of_an_item_is_told_with_it() -> None:
    one = replace(shown(["a", "b"]), language=[0.25, None], language_model="v3")
    told = [msgspec.json.decode(line, type=Event) for line in lines_of(one)]
    assert told == [event_of(one, "a", 0), event_of(one, "b", 1)]
    assert [(each.features or {}).get(LANGUAGE_FEATURE) for each in told] == [0.25, None]
    assert [(each.features or {}).get(LANGUAGE_VERSION_FEATURE) for each in told] == ["v3", None]


def test_where_a_shadow_has_an_item_is_told_with_it() -> None:
    one = replace(shown(["a", "b", "c"]), shadow_version="v3", shadow_places=[4, None, 0])
    told = [msgspec.json.decode(line, type=Event) for line in lines_of(one)]
    assert told == [event_of(one, item, place) for place, item in enumerate("abc")]
    assert [(each.features or {})[SHADOW_VERSION_FEATURE] for each in told] == ["v3"] * 3
    assert [(each.features or {}).get(SHADOW_PLACE_FEATURE) for each in told] == [4.0, None, 0.0]
    assert [reason_to_reject(each, 5, TimeBounds(0, 9)) for each in told] == [None] * 3


@pytest.mark.parametrize("propensity", [1.0, 0.5])
def test_text_that_looks_like_a_field_stays_text(propensity: float) -> None:
    trap = f'"item_id":"","position":0,"propensity":{propensity}'
    one = Shown(
        ModelName(trap),
        UserId(trap),
        5,
        str(uuid.uuid4()),
        [trap],
        [propensity],
        trap,
        None,
        {trap: trap, "item_id": ""},
    )
    (line,) = lines_of(one)
    assert msgspec.json.decode(line, type=Event) == event_of(one, trap, 0)


def test_an_impression_is_an_event_that_the_stream_job_takes() -> None:
    events = [msgspec.json.decode(line, type=Event) for line in lines_of(shown([f"i{n}" for n in range(300)]))]
    assert [reason_to_reject(event, 5, TimeBounds(0, 9)) for event in events] == [None] * 300
    assert len({uuid.UUID(event.event_id) for event in events}) == 300
    assert {event.type for event in events} == {EventType.IMPRESSION}


def test_many_answers_share_one_append_in_the_order_given(log: CountedLog, tmp_path: Path) -> None:
    async def work(impressions: ImpressionLog) -> None:
        for n in range(100):
            await impressions.put(shown(user=f"u{n}"))

    assert run(log, work) == (200, 0)
    assert log.appends <= 2  # one, unless the thread was quicker than the first of them
    assert [event.user_id for event in logged(tmp_path)[::2]] == [f"u{n}" for n in range(100)]
    assert [event.position for event in logged(tmp_path)] == [0, 1] * 100


def test_answers_that_come_one_after_the_other_share_appends_too(log: CountedLog) -> None:
    async def work(impressions: ImpressionLog) -> None:
        for _ in range(60):
            await impressions.put(shown())
            await asyncio.sleep(0.001)

    assert run(log, work) == (120, 0)
    assert log.appends <= 30  # about seven; one each without gathering


def test_what_was_shown_is_on_the_log_within_a_moment(log: CountedLog, tmp_path: Path) -> None:
    waits = []

    async def work(impressions: ImpressionLog) -> None:
        for n in range(20):
            await impressions.put(shown())
            start = time.monotonic()
            while len(logged(tmp_path)) < 2 * (n + 1):
                await asyncio.sleep(0.001)
            waits.append(time.monotonic() - start)

    assert run(log, work) == (40, 0)
    assert sorted(waits)[len(waits) // 2] < 0.05


def test_nothing_that_was_taken_is_lost_when_the_log_closes(log: CountedLog, tmp_path: Path) -> None:
    async def work(impressions: ImpressionLog) -> None:
        log.gate.clear()
        for _ in range(3 * ANSWERS_PER_APPEND):
            await impressions.put(shown(["i1"]))
        threading.Timer(0.1, log.gate.set).start()

    assert run(log, work, capacity=10 * ANSWERS_PER_APPEND) == (3 * ANSWERS_PER_APPEND, 0)
    assert len(logged(tmp_path)) == 3 * ANSWERS_PER_APPEND


def test_a_full_queue_makes_requests_wait_for_room(log: CountedLog, tmp_path: Path) -> None:
    async def work(impressions: ImpressionLog) -> None:
        log.gate.clear()
        putting = [asyncio.create_task(impressions.put(shown())) for _ in range(60)]
        await asyncio.sleep(0.1)
        assert 0 < sum(not task.done() for task in putting) < 60
        log.gate.set()
        await asyncio.gather(*putting)

    assert run(log, work, capacity=10) == (120, 0)
    assert len(logged(tmp_path)) == 120


def hand_over(impressions: ImpressionLog, answers: int) -> None:
    for _ in range(answers):
        impressions.hand_over(shown())


def test_other_threads_hand_over_too_and_wait_for_room(log: CountedLog, tmp_path: Path) -> None:
    async def work(impressions: ImpressionLog) -> None:
        log.gate.clear()
        thread = threading.Thread(target=hand_over, args=(impressions, 60))
        thread.start()
        await asyncio.sleep(0.1)
        assert thread.is_alive()
        log.gate.set()
        await asyncio.to_thread(thread.join)
        await asyncio.sleep(0.05)
        assert impressions._idle
        impressions.hand_over(shown())

    assert run(log, work, capacity=10) == (122, 0)
    assert len(logged(tmp_path)) == 122


def test_a_queue_that_stays_full_costs_the_impressions_and_not_the_request(log: CountedLog, tmp_path: Path) -> None:
    waits = []

    async def work(impressions: ImpressionLog) -> None:
        log.gate.clear()
        await impressions.put(shown())
        await asyncio.sleep(0.1)  # the thread has taken it and hangs
        for _ in range(5):
            start = time.monotonic()
            await impressions.put(shown())
            waits.append(time.monotonic() - start)
        log.gate.set()

    assert run(log, work, capacity=2, patience=timedelta(seconds=0.05)) == (2 * 3, 2 * 3)
    assert len(logged(tmp_path)) == 2 * 3
    assert max(waits[:2]) < 0.04
    assert min(waits[2:]) > 0.04
    assert max(waits[2:]) < 1.0


def test_a_log_that_refuses_loses_what_it_refused_and_takes_what_comes_later(log: CountedLog, tmp_path: Path) -> None:
    blocked = tmp_path / "events"

    async def work(impressions: ImpressionLog) -> None:
        blocked.write_text("a file where the directory of segments belongs")
        await impressions.put(shown())
        await asyncio.sleep(0.1)
        blocked.unlink()
        await impressions.put(shown())

    assert run(log, work) == (2, 2)
    assert len(logged(tmp_path)) == 2


def test_after_the_close_impressions_count_as_lost(log: CountedLog) -> None:
    instruments = Instruments()

    async def main() -> None:
        impressions = ImpressionLog(log, instruments, 10, timedelta(seconds=1))
        impressions.close()
        await impressions.put(shown())

    asyncio.run(main())
    assert counted(instruments) == (0, 2)


def test_a_log_with_nothing_to_do_does_nothing(log: CountedLog) -> None:
    async def work(impressions: ImpressionLog) -> None:
        eventually(lambda: impressions._idle, "the thread sleeps")
        before = time.process_time()
        await asyncio.sleep(0.3)
        assert time.process_time() - before < 0.1
        await impressions.put(shown())

    assert run(log, work) == (2, 0)
