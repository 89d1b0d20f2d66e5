"""What a stream teaches the sources, against plain dicts; cuts, restarts and torn bytes."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from online_models.contexts import Contexts
from online_models.contracts.ids import hash64
from online_models.errors import StoreError
from online_models.history import ENTRY
from online_models.item_table import ItemTable
from online_models.neighbours import CAPACITY, Neighbours
from online_models.popularity import Popularity
from online_models.sources import (
    FOLLOW_MASS,
    FOLLOW_WINDOW,
    TOGETHER_MASS,
    TOGETHER_WINDOW,
    Sources,
    Steps,
    decode_steps,
    encode_steps,
    restored,
    steps_of,
)
from tests.oracles.item_sources import DAY_MS, PlainSources

SEEDS = st.integers(0, 2**32 - 1)
CUTS = st.lists(st.integers(0, 60), max_size=4)


def ids(items: int) -> list[str]:
    return [f"item-{row}" for row in range(items)]


def drawn_steps(rng: np.random.Generator, events: int, items: int) -> Steps:
    many = rng.integers(0, 45, events)
    return Steps(
        item=rng.integers(0, items, events),
        ts_ms=rng.integers(0, 400 * DAY_MS, events),
        context=rng.integers(0, items, many.sum()).astype(np.int32),
        ptr=np.concatenate([[0], np.cumsum(many)]),
    )


def learned(items: int, *batches: Steps) -> Sources:
    sources = Sources()
    sources.rows_of(ids(items))
    for steps in batches:
        sources.learn(steps)
    return sources


def cut(steps: Steps, cuts: list[int]) -> list[Steps]:
    bounds = [0, *sorted(min(at, len(steps)) for at in cuts), len(steps)]
    return [steps.slice(*pair) for pair in pairwise(bounds)]


@given(SEEDS, st.integers(0, 60), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_rules_companions_and_popularity_are_those_of_plain_dicts(seed: int, events: int, items: int) -> None:
    steps = drawn_steps(np.random.default_rng(seed), events, items)
    sources = learned(items, steps)
    plain = PlainSources(FOLLOW_WINDOW, TOGETHER_WINDOW, FOLLOW_MASS, TOGETHER_MASS)
    for n in range(events):
        context = steps.context[steps.ptr[n] : steps.ptr[n + 1]].tolist()
        plain.learn(int(steps.item[n]), int(steps.ts_ms[n]), context)
    for row in range(items):
        assert sources.followers.of(row) == plain.followers.of(row)
        assert sources.companions.of(row) == plain.companions.of(row)
        assert sources.companions.arrays.mass[row] == plain.companions.mass.get(row, 0)
    shares = sources.popularity.shares(401 * DAY_MS)
    assert shares == pytest.approx(plain.popularity.shares(items, 401 * DAY_MS), abs=1e-4)


@given(SEEDS, st.integers(0, 60), CUTS)
@settings(max_examples=25, deadline=None)
def test_to_learn_in_any_cut_is_to_learn_at_once(seed: int, events: int, cuts: list[int]) -> None:
    steps = drawn_steps(np.random.default_rng(seed), events, 20)
    assert learned(20, *cut(steps, cuts)).encode() == learned(20, steps).encode()


def test_pools_that_overflow_in_the_middle_of_a_batch_lose_nothing() -> None:
    rng = np.random.default_rng(1)
    steps = drawn_steps(rng, 3_000, 2_000)
    whole = learned(2_000, steps)
    assert len(whole.companions.arrays.item) > 4 * 2 * TOGETHER_WINDOW * CAPACITY  # it grew more than once
    assert learned(2_000, *(steps.slice(n, n + 1) for n in range(3_000))).encode() == whole.encode()


@given(SEEDS, st.integers(0, 60), st.integers(0, 60), CUTS)
@settings(max_examples=25, deadline=None)
def test_what_is_restored_from_a_published_state_and_the_log_is_never_to_have_stopped(
    seed: int, events: int, published: int, cuts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    steps, at = drawn_steps(rng, events, 30), min(published, events)
    whole = Sources()
    log, state = list[bytes](), None
    for batch in [*cut(steps.slice(0, at), cuts), None, *cut(steps.slice(at, events), cuts)]:
        if batch is None:
            log, state = [], whole.encode()
            continue
        known = len(whole.items)
        # items come as the stream meets them
        most = max(batch.item.max(initial=-1), batch.context.max(initial=-1)) + 1
        whole.rows_of(ids(int(most)))
        whole.learn(batch)
        log.append(encode_steps(whole.items.ids[known:], batch))
    resumed = restored(state, log)
    assert resumed.encode() == whole.encode()
    assert resumed.items.ids == whole.items.ids
    more = drawn_steps(rng, 20, max(1, len(whole.items)))
    for sources in (resumed, whole):
        sources.rows_of(ids(1))
        sources.learn(more)
    assert resumed.encode() == whole.encode()


def test_nothing_published_and_no_log_is_nothing_known() -> None:
    assert restored(None, []).encode() == Sources().encode()
    assert len(Sources.decode(Sources().encode()).items) == 0


@given(SEEDS, st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_steps_keep_what_the_table_knows_of_the_last_items_of_each_context(seed: int, events: int, known: int) -> None:
    rng = np.random.default_rng(seed)
    many = rng.integers(0, 45, events)
    ptr = np.concatenate([[0], np.cumsum(many)])
    entries = np.zeros(int(ptr[-1]), ENTRY)
    names = [f"item-{row}" for row in rng.integers(0, 15, len(entries))]
    entries["item"] = [hash64(name) for name in names]
    table = ItemTable.of(ids(known))
    item, ts_ms = rng.integers(0, 15, events), rng.integers(0, 99, events)
    steps = steps_of(item, ts_ms, Contexts(entries, ptr, ptr[1:], np.ones(events, np.bool_)), table)
    assert steps.item.tolist() == item.tolist()
    assert steps.ts_ms.tolist() == ts_ms.tolist()
    for n in range(events):
        last = names[ptr[n] : ptr[n + 1]][-TOGETHER_WINDOW:]
        expected = [table.ids.index(name) for name in last if name in table.ids]
        assert steps.context[steps.ptr[n] : steps.ptr[n + 1]].tolist() == expected
    assert steps.ptr[-1] == len(steps.context)


def same(one: Steps, other: Steps) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("item", "ts_ms", "context", "ptr")
    )


@given(SEEDS, st.integers(0, 40), st.lists(st.text(max_size=4), max_size=5), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_steps_come_back_from_their_bytes(seed: int, events: int, new_items: list[str], begin: int) -> None:
    steps = drawn_steps(np.random.default_rng(seed), events, 9)
    steps = steps.slice(min(begin, events), events)
    raw = encode_steps(new_items, steps)
    items, back = decode_steps(raw)
    assert items == new_items
    assert same(back, steps)
    assert encode_steps(items, back) == raw


@given(SEEDS, st.integers(0, 60))
@settings(max_examples=20, deadline=None)
def test_the_same_state_gives_the_same_bytes_wherever_its_rows_lie(seed: int, events: int) -> None:
    steps = drawn_steps(np.random.default_rng(seed), events, 20)
    sources = learned(20, steps)
    compact = Sources.decode(sources.encode())
    assert compact.encode() == sources.encode() == learned(20, steps).encode()
    for row in range(20):
        assert compact.followers.of(row) == sources.followers.of(row)
        assert compact.companions.of(row) == sources.companions.of(row)
    assert np.array_equal(compact.popularity.shares(0), sources.popularity.shares(0))


STATE = learned(6, drawn_steps(np.random.default_rng(2), 30, 6)).encode()
LOGGED = encode_steps(ids(6), drawn_steps(np.random.default_rng(3), 10, 6))


@pytest.mark.parametrize(("read", "raw"), [(Sources.decode, STATE), (decode_steps, LOGGED)])
def test_torn_bytes_are_refused(read: Callable[[bytes], object], raw: bytes) -> None:
    read(raw)
    for end in [0, 1, 7, 8, 9, 100, len(raw) // 2, len(raw) - 1]:
        with pytest.raises(StoreError, match="expected what"):
            read(raw[:end])
    with pytest.raises(StoreError, match="expected what"):
        read(raw + b"\0")
    tensors = load(raw)
    for name in tensors:
        with pytest.raises(StoreError, match="expected"):
            read(save({other: tensor for other, tensor in tensors.items() if other != name}))
        with pytest.raises(StoreError, match="expected"):
            read(save({**tensors, name: np.zeros(tensors[name].shape, np.float16)}))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_bytes_are_changed_a_restart_ends_in_a_state_or_in_a_store_error(data: st.DataObject) -> None:
    published, logged = bytearray(STATE), bytearray(LOGGED)
    for raw in (published, logged):
        for _ in range(data.draw(st.integers(0, 2))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        sources = restored(bytes(published), [bytes(logged)])
    except StoreError:
        return
    assert Sources.decode(sources.encode()).encode() == sources.encode()


def packed_items(names: list[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(msgspec.json.encode(names), np.uint8)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("schema", np.array([2])),
        ("items", packed_items(ids(5))),
        ("items", packed_items([*ids(5), "item-0"])),
        ("items", np.frombuffer(b'["\xff"]', np.uint8)),
        ("items", np.frombuffer(b"[1, 2]", np.uint8)),
        ("followers.item", load(STATE)["followers.item"] + 6),
        ("companions.weight", -load(STATE)["companions.weight"]),
        ("popularity.events", np.zeros(2, np.int64)),
        ("popularity.another", np.zeros(2, np.int64)),
        ("another.item", np.zeros(2, np.int64)),
    ],
)
def test_a_state_that_does_not_fit_itself_is_refused(name: str, tensor: npt.NDArray[Any]) -> None:
    with pytest.raises(StoreError, match="sources: expected"):
        Sources.decode(save({**load(STATE), name: tensor}))


def test_a_log_that_does_not_go_on_from_the_published_state_is_refused() -> None:
    steps = drawn_steps(np.random.default_rng(3), 10, 6)
    with pytest.raises(StoreError, match="to go on from 2 items"):
        restored(None, [encode_steps(ids(2), steps)])
    with pytest.raises(StoreError, match="steps: expected"):
        restored(STATE, [encode_steps([], Steps(steps.item, steps.ts_ms, steps.context[:-1], steps.ptr))])


@pytest.mark.parametrize(
    "change",
    [
        {"item": np.array([0, 6])},
        {"item": np.array([-1, 0])},
        {"item": np.array([0])},
        {"ts_ms": np.array([0])},
        {"context": np.array([0, 6], np.int32)},
        {"context": np.array([0, -1], np.int32)},
        {"context": np.array([0], np.int32)},
        {"ptr": np.array([0, 1])},
        {"ptr": np.array([0, 2, 1])},
        {"ptr": np.array([-1, 1, 2])},
        {"ptr": np.empty(0, np.int64)},
    ],
)
def test_columns_that_do_not_fit_are_refused_and_nothing_is_learned(change: dict[str, npt.NDArray[Any]]) -> None:
    columns: dict[str, Any] = {
        "item": np.array([0, 1]),
        "ts_ms": np.array([5, 6]),
        "context": np.array([2, 3], np.int32),
        "ptr": np.array([0, 1, 2]),
    }
    sources = learned(6)
    before = sources.encode()
    with pytest.raises(ValueError, match="expected"):
        sources.learn(Steps(**{**columns, **change}))
    assert sources.encode() == before
    sources.learn(Steps(**columns))
    assert sources.encode() != before


def test_parts_that_are_given_are_kept_empty_ones_too() -> None:
    items, popularity = ItemTable(), Popularity()
    followers, companions = Neighbours(3.0), Neighbours(4.0)
    sources = Sources(items, followers, companions, popularity)
    assert sources.items is items
    assert sources.popularity is popularity
    assert sources.followers is followers
    assert sources.companions is companions


def test_new_items_get_rows_everywhere() -> None:
    sources = Sources()
    assert sources.rows_of(["a", "b", "a"]).tolist() == [0, 1, 0]
    assert sources.rows_of(["c", "b"]).tolist() == [2, 1]
    parts = (sources.items, sources.followers, sources.companions, sources.popularity)
    assert [len(part) for part in parts] == [3, 3, 3, 3]
