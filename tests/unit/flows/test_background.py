"""Writes in the background: in order, together when they wait, a bounded number, and no failure is swallowed."""

import threading
import time

import pytest

from flows.background import BackgroundWriter
from online_models.errors import StoreUnavailable

PATIENCE_SECONDS = 10


class Store:
    """Keeps what it is given, call by call; writes only while its gate is open."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def write(self, batches: list[int]) -> None:
        assert self.gate.wait(PATIENCE_SECONDS)
        self.threads.add(threading.get_ident())
        self.calls.append(batches)
        if -1 in batches:
            raise StoreUnavailable("gone")

    @property
    def written(self) -> list[int]:
        return [batch for call in self.calls for batch in call]


def test_batches_are_written_in_order_on_one_other_thread() -> None:
    store = Store()
    writer = BackgroundWriter[int]("test", store.write)
    for number in range(200):
        writer.submit(number)
    writer.drain()
    assert store.written == list(range(200))
    assert all(store.calls)
    assert len(store.threads) == 1
    assert threading.get_ident() not in store.threads
    writer.close()


def test_what_waits_for_a_slow_store_is_written_in_one_call() -> None:
    store = Store()
    writer = BackgroundWriter[int]("test", store.write, max_pending=9)
    store.gate.clear()
    for number in range(6):
        writer.submit(number)
    store.gate.set()
    writer.drain()
    assert store.written == list(range(6))
    assert len(store.calls) <= 2
    writer.close()


def test_a_full_queue_makes_the_caller_wait() -> None:
    store, accepted = Store(), list[int]()
    writer = BackgroundWriter[int]("test", store.write, max_pending=2)
    store.gate.clear()

    def submit_all() -> None:
        for number in range(5):
            writer.submit(number)
            accepted.append(number)

    caller = threading.Thread(target=submit_all)
    caller.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(accepted) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert accepted == [0, 1]
    store.gate.set()
    caller.join(PATIENCE_SECONDS)
    writer.drain()
    assert accepted == store.written == [0, 1, 2, 3, 4]
    writer.close()


def test_drain_returns_when_everything_is_written() -> None:
    store = Store()
    writer = BackgroundWriter[int]("test", store.write)
    store.gate.clear()
    writer.submit(1)
    threading.Timer(0.05, store.gate.set).start()
    writer.drain()
    assert store.written == [1]
    writer.drain()
    writer.close()


def test_a_failed_write_stops_the_caller_at_the_next_drain() -> None:
    writer = BackgroundWriter[int]("test", Store().write)
    writer.submit(-1)
    with pytest.raises(StoreUnavailable, match="gone"):
        writer.drain()


def test_a_failed_write_stops_the_caller_before_the_queue_is_full_again() -> None:
    writer = BackgroundWriter[int]("test", Store().write, max_pending=3)

    def go_on() -> None:
        for number in (-1, 1, 2, 3):
            writer.submit(number)

    with pytest.raises(StoreUnavailable, match="gone"):
        go_on()


def test_close_raises_what_the_last_write_raised() -> None:
    writer = BackgroundWriter[int]("test", Store().write)
    writer.submit(-1)
    with pytest.raises(StoreUnavailable, match="gone"):
        writer.close()


def test_close_ends_the_thread() -> None:
    writer = BackgroundWriter[int]("a thread of this test", Store().write)
    writer.submit(1)
    assert any(thread.name.startswith("a thread of this test") for thread in threading.enumerate())
    writer.close()
    assert not any(thread.name.startswith("a thread of this test") for thread in threading.enumerate())


def test_after_a_failed_write_nothing_behind_it_is_written() -> None:
    store = Store()
    writer = BackgroundWriter[int]("test", store.write)
    store.gate.clear()
    writer.submit(-1)
    writer.submit(1)
    store.gate.set()
    with pytest.raises(StoreUnavailable, match="gone"):
        writer.drain()
    with pytest.raises(StoreUnavailable, match="gone"):
        writer.submit(2)
    assert len(store.calls) == 1
