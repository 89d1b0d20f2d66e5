"""Snapshots against the database: the same events give the same hash, and no event is missed or read without need."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_models.contracts.events import EVENT_TYPES, Event, EventType, Item
from online_models.contracts.ids import FencingToken, ModelVersion
from online_models.errors import ArtifactError, TrainingError
from online_models.interactions import DAY_MS, EventView, Interactions
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from retrain_workers.attempt import Unwatched, Watched
from retrain_workers.checkpoints import JobCheckpoints
from retrain_workers.data.datasets import content_sha256, dataset_of
from retrain_workers.data.impressions import NEVER
from retrain_workers.data.partitions import FILE_EVENTS
from retrain_workers.data.sampling import negatives
from retrain_workers.data.snapshots import GRACE, Snapshot, opened, take
from retrain_workers.data.training_data import TrainingData, read_training_data
from tests.samples import MOVIES, batch, event
from tests.strategies import events as any_events

T = TypeVar("T")
T0 = 20_000 * DAY_MS
TABLES = ("watch_history", "purchase_history", "impressions", "feedback")


def log(count: int, days: int, seed: int = 0) -> list[Event]:
    """Events of every kind, spread evenly over some days that begin with a block, oldest first."""
    rng = random.Random(seed)
    start = 20_020 * DAY_MS  # 715 * 28
    return [
        msgspec.structs.replace(
            event(
                seed * 1_000_000 + n,
                rng.choice(EVENT_TYPES),
                user_id=f"u{rng.randrange(20)}",
                item_id=f"i{rng.randrange(30)}",
                ts=start + n * days * DAY_MS // count,
                value=rng.choice([None, 1.5, 4.0]),
                request_id=rng.choice([None, "", f"r{n // 4}"]),
                features={"genres": ["a", "b"]} if n % 3 else None,
            ),
            propensity=rng.choice([None, 0.25]),
            position=rng.choice([None, 3]),
        )
        for n in range(count)
    ]


def store_of(dsn: str, events: Sequence[Event] = ()) -> PostgresInteractions:
    store = PostgresInteractions(Database(dsn))
    store.write([batch(events)] if events else [])
    return store


def run(dsn: str, statement: str) -> None:
    with closing(Database(dsn)) as database, database.transaction() as cursor:
        cursor.execute(statement)


def partitions(directory: Path) -> dict[str, int]:
    """Name -> inode: a file that was written again has another."""
    return {path.name: path.stat().st_ino for path in (directory / "movies").glob("*.parquet")}


def assert_same(found: Interactions, expected: Interactions) -> None:
    assert found.user_id == expected.user_id
    assert found.item_id == expected.item_id
    assert found.features == expected.features
    for name in ("type", "ts_ms", "value", "recommended"):
        column, wanted = getattr(found, name), getattr(expected, name)
        assert column.dtype == wanted.dtype
        np.testing.assert_array_equal(column, wanted)
    assert content_sha256(found) == content_sha256(expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(any_events(st.integers(T0, T0 + 60 * DAY_MS)), max_size=20, unique_by=lambda each: each.event_id),
    until_ms=st.none() | st.integers(T0, T0 + 60 * DAY_MS),
)
def test_a_snapshot_holds_what_the_store_gives(
    postgres: str, tmp_path: Path, events: list[Event], until_ms: int | None
) -> None:
    run(postgres, "; ".join(f"DELETE FROM {table}" for table in TABLES))
    store = store_of(postgres, events)
    snapshot = take(store, "movies", tmp_path, until_ms)
    assert_same(snapshot.interactions(), store.interactions("movies", until_ms))
    within = [each for each in events if each.domain == "movies" and int(each.ts) <= (until_ms or 2**62)]
    times = [int(each.ts) for each in within]
    window = snapshot.window
    assert window.events == len(within)
    assert (window.start_ms, window.end_ms) == ((min(times), max(times)) if times else (0, 0))
    shown = snapshot.impressions()
    expected = sorted((e for e in within if e.type is EventType.IMPRESSION), key=lambda e: (e.ts, e.event_id))
    assert list(shown.user_id) == [each.user_id for each in expected]
    assert list(shown.request_id) == [each.request_id for each in expected]
    assert shown.position.tolist() == [-1 if each.position is None else each.position for each in expected]
    propensities = [np.nan if each.propensity is None else each.propensity for each in expected]
    np.testing.assert_array_equal(shown.propensity, propensities)


def test_equal_events_have_one_hash_whenever_and_in_whatever_order_they_came(
    fresh_stores: Endpoints, twin_stores: Endpoints, tmp_path: Path
) -> None:
    events = log(600, days=70)
    whole = take(store_of(fresh_stores.postgres_dsn, events), "movies", tmp_path / "whole")
    shuffled = random.Random(1).sample(events, len(events))
    store = store_of(twin_stores.postgres_dsn)
    for start in range(0, 600, 150):
        store.write([batch(shuffled[start : start + 150])])
        step = take(store, "movies", tmp_path / "steps")
    assert step.sha256 == whole.sha256
    assert step.window == whole.window
    assert [each.content_sha256 for each in step.partitions] == [each.content_sha256 for each in whole.partitions]
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / root / "movies").glob("*.parquet")}
        for root in ("whole", "steps")
    ]
    assert files[0].items() <= files[1].items()


def test_only_partitions_whose_events_changed_are_read_again(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(300, days=112))
    first = take(store, "movies", tmp_path)
    before = partitions(tmp_path)
    assert len(before) == len(first.partitions) == 4
    assert take(store, "movies", tmp_path) == first
    assert partitions(tmp_path) == before
    late = event(999_999, ts=first.window.start_ms + 30 * DAY_MS)  # in the second block
    store.write([batch([late])])
    second = take(store, "movies", tmp_path)
    assert [a == b for a, b in zip(first.partitions, second.partitions, strict=True)] == [True, False, True, True]
    after = partitions(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == 5
    assert second.window.events == first.window.events + 1
    assert_same(second.interactions(), store.interactions("movies"))


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM feedback WHERE ts_ms = (SELECT min(ts_ms) FROM feedback)",
        "UPDATE feedback SET value = 2.5 WHERE ts_ms = (SELECT max(ts_ms) FROM feedback)",
        "UPDATE watch_history SET features = '{\"a\": 1}' WHERE ts_ms = (SELECT max(ts_ms) FROM watch_history)",
        "UPDATE purchase_history SET ts_ms = ts_ms + 1 WHERE ts_ms = (SELECT min(ts_ms) FROM purchase_history)",
        "UPDATE impressions SET domain = 'products' WHERE ts_ms = (SELECT min(ts_ms) FROM impressions)",
    ],
)
def test_events_that_were_rewritten_by_hand_are_noticed(postgres: str, tmp_path: Path, change: str) -> None:
    store = store_of(postgres, log(100, days=50))
    before = take(store, "movies", tmp_path)
    run(postgres, change)
    after = take(store, "movies", tmp_path)
    assert before.sha256 != after.sha256
    assert_same(after.interactions(), store.interactions("movies"))
    assert after.sha256 == take(store, "movies", tmp_path / "anew").sha256


def test_the_catalogue_is_part_of_a_snapshot_and_of_its_hash(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(100, days=50))
    items = [Item("a", "movies", "Alien", ["horror"], available_ms=5), Item("B", "movies", "Brazil")]
    store.put_items([*items, Item("a", "products", "Axe")])
    first = take(store, "movies", tmp_path)
    assert first.catalogue() == sorted(items, key=lambda item: item.item_id)
    renamed = msgspec.structs.replace(items[0], title="Aliens")
    store.put_items([renamed])
    second = take(store, "movies", tmp_path)
    assert second.partitions == first.partitions
    assert second.sha256 != first.sha256
    assert (first.catalogue()[1], second.catalogue()[1]) == (items[0], renamed)
    store.put_items([items[0]])
    assert take(store, "movies", tmp_path / "anew").sha256 == first.sha256


class Renaming(PostgresInteractions):
    """A store whose catalogue is written again as soon as a view has told its days."""

    def __init__(self, dsn: str) -> None:
        super().__init__(Database(dsn))
        self._other = store_of(dsn)

    def view(self, domain: str, until_ms: int | None, work: Callable[[EventView], T]) -> T:
        def renamed_meanwhile(view: EventView) -> T:
            view.days()
            self._other.put_items([Item("a", "movies", "after")])
            return work(view)

        return super().view(domain, until_ms, renamed_meanwhile)


def test_the_catalogue_is_of_the_moment_of_the_events(postgres: str, tmp_path: Path) -> None:
    store_of(postgres, log(10, days=5)).put_items([Item("a", "movies", "before")])
    assert [item.title for item in take(Renaming(postgres), "movies", tmp_path).catalogue()] == ["before"]
    assert [item.title for item in store_of(postgres).items("movies")] == ["after"]


def test_a_snapshot_is_opened_by_its_hash_after_the_log_has_grown(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(200, days=112))
    store.put_items([Item("a", "movies", "Alien")])
    first = take(store, "movies", tmp_path)
    store.write([batch([event(999_999, ts=first.window.end_ms)])])
    store.put_items([Item("a", "movies", "Aliens")])
    assert take(store, "movies", tmp_path).sha256 != first.sha256
    assert opened("movies", tmp_path, first.sha256) == first
    assert opened("movies", tmp_path, "0" * 64) is None
    assert opened("products", tmp_path, first.sha256) is None


def test_a_snapshot_that_was_opened_is_kept_for_another_grace(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(200, days=112))
    first = take(store, "movies", tmp_path)
    old = time.time() - GRACE.total_seconds() - 60
    for path in (tmp_path / "movies").iterdir():
        os.utime(path, (old, old))
    assert opened("movies", tmp_path, first.sha256) == first
    store.write([batch([event(999_999, ts=first.window.end_ms)])])
    store.put_items([Item("a", "movies", "Alien")])
    take(store, "movies", tmp_path)
    take(store, "movies", tmp_path)
    assert opened("movies", tmp_path, first.sha256) == first


@pytest.mark.parametrize("part", ["snapshot-*", "catalogue-*", "2*.parquet"])
@pytest.mark.parametrize("damage", ["missing", "torn", "altered"])
def test_a_snapshot_with_a_part_that_is_not_whole_is_not_opened(
    postgres: str, tmp_path: Path, part: str, damage: str
) -> None:
    store = store_of(postgres, log(100, days=10))
    store.put_items([Item("a", "movies", "Alien")])
    taken = take(store, "movies", tmp_path)
    (path,) = (tmp_path / "movies").glob(part)
    raw = path.read_bytes()
    path.unlink()
    if damage == "torn":
        path.write_bytes(raw[:-1])
    elif damage == "altered":
        path.write_bytes(
            raw.replace(b'"events":100', b'"events":101').replace(b"Alien", b"Alias").replace(b"PAR1", b"PAR2")
        )
    assert opened("movies", tmp_path, taken.sha256) is None
    assert take(store, "movies", tmp_path) == taken
    assert opened("movies", tmp_path, taken.sha256) == taken


def attempt_of(home: Path, token: int) -> Watched:
    return Watched(JobCheckpoints(home, FencingToken(token), bytes(32)), lambda _: None, time.monotonic)


def test_a_later_attempt_trains_on_what_the_first_one_read_while_that_is_there(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(200, days=50))
    store.put_items([Item("a", "movies", "Alien")])

    def attempted(token: int, champion: ModelVersion | None = None) -> TrainingData:
        attempt = attempt_of(tmp_path / "job", token)
        return read_training_data(store, MOVIES, tmp_path, None, champion, attempt, impressions=True)

    first = attempted(1)
    store.write([batch([event(999_999, ts=20_060 * DAY_MS)])])
    store.put_items([Item("a", "movies", "Aliens")])
    again = attempted(2)
    assert again.snapshot_sha256 == first.snapshot_sha256
    assert_same(again.interactions, first.interactions)
    assert again.catalogue == first.catalogue
    another = read_training_data(store, MOVIES, tmp_path, None, None, Unwatched(), impressions=False)
    assert len(another.interactions) == len(first.interactions) + 1
    for path in (tmp_path / "movies").glob("2*.parquet"):
        path.unlink()
    anew = attempted(3)
    assert anew.snapshot_sha256 == another.snapshot_sha256 != first.snapshot_sha256
    assert anew.catalogue["a"].title == "Aliens"
    store.write([batch([event(999_998, ts=20_061 * DAY_MS)])])
    assert attempted(4).snapshot_sha256 == anew.snapshot_sha256
    beside_another = attempted(5, ModelVersion("v7"))  # whose data may reach further than what was read before it came
    assert len(beside_another.interactions) == len(anew.interactions) + 1
    assert attempted(6, ModelVersion("v7")).snapshot_sha256 == beside_another.snapshot_sha256


def test_a_busy_block_has_a_file_a_day_and_a_late_event_costs_one(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(FILE_EVENTS, days=4))
    assert len(take(store, "movies", tmp_path).partitions) == 1
    store.write([batch([event(999_998, ts=20_021 * DAY_MS)])])
    first = take(store, "movies", tmp_path)
    assert len(first.partitions) == 4
    store.write([batch([event(999_999, ts=20_021 * DAY_MS)])])
    second = take(store, "movies", tmp_path)
    assert len(set(second.partitions) - set(first.partitions)) == 1
    assert_same(second.interactions(), store.interactions("movies"))


def test_torn_and_missing_files_are_read_from_the_database_again(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(200, days=112))
    first = take(store, "movies", tmp_path)
    torn, missing = (tmp_path / "movies" / each.name for each in first.partitions[:2])
    torn.write_bytes(torn.read_bytes()[:-1])
    missing.unlink()
    with pytest.raises(ArtifactError):
        first.interactions()
    assert take(store, "movies", tmp_path) == first
    assert_same(first.interactions(), store.interactions("movies"))
    (manifest,) = (tmp_path / "movies").glob("snapshot-*.json")
    manifest.write_bytes(b"{")
    assert take(store, "movies", tmp_path) == first


def test_workers_that_take_snapshots_while_events_arrive_disturb_nobody(postgres: str, tmp_path: Path) -> None:
    events = log(2_000, days=100)

    def write() -> None:
        store = store_of(postgres)
        for start in range(20):
            store.write([batch(events[start::20])])  # some of every partition each time

    def snapshots() -> list[Snapshot]:
        store = store_of(postgres)
        return [take(store, "movies", tmp_path) for _ in range(6)]

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        taken = [pool.submit(snapshots) for _ in range(2)]
        writing.result()
        seen = [snapshot for each in taken for snapshot in each.result()]
    for snapshot in seen:
        assert len(snapshot.interactions()) + len(snapshot.impressions()) == snapshot.window.events
    store = store_of(postgres)
    assert take(store, "movies", tmp_path).sha256 == take(store, "movies", tmp_path / "anew").sha256


def test_what_no_later_snapshot_needs_is_removed_after_a_grace(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(100, days=50))
    first = take(store, "movies", tmp_path)
    directory = tmp_path / "movies"
    (directory / ".writing-1-00.parquet").write_bytes(b"left by a crash")
    store.write([batch([event(999_999, ts=first.window.end_ms)])])
    second = take(store, "movies", tmp_path)
    assert len(first.interactions()) + 1 == len(second.interactions())  # both can be read within the grace
    old = time.time() - GRACE.total_seconds() - 60
    for path in directory.iterdir():
        os.utime(path, (old, old))
    take(store, "movies", tmp_path)  # forgets the first snapshot, whose partitions it has just looked at
    for path in directory.iterdir():
        os.utime(path, (old, old))
    assert take(store, "movies", tmp_path) == second
    kept = {path.name for path in directory.iterdir()}
    catalogue = f"catalogue-{second.catalogue_sha256}.json"
    assert kept == {f"snapshot-{second.sha256}.json", catalogue, *(each.name for each in second.partitions)}


def test_a_worker_killed_while_it_reads_leaves_nothing_that_harms(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(60_000, days=28))
    script = (
        "import sys; from pathlib import Path; from online_models.stores.postgres import Database\n"
        "from online_models.stores.postgres_interactions import PostgresInteractions\n"
        "from retrain_workers.data.snapshots import take\n"
        "take(PostgresInteractions(Database(sys.argv[1])), 'movies', Path(sys.argv[2]))"
    )
    directory = tmp_path / "movies"
    child = subprocess.Popen([sys.executable, "-c", script, postgres, str(tmp_path)])
    while child.poll() is None and not list(directory.glob("2*.parquet")):
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    # it has some 28 files to write: killed among them, unless this process was held up meanwhile
    assert child.wait() == -signal.SIGKILL or list(directory.glob("snapshot-*"))
    assert_same(take(store, "movies", tmp_path).interactions(), store.interactions("movies"))


def test_the_same_data_gives_the_same_training_rows_twice(postgres: str, tmp_path: Path) -> None:
    store = store_of(postgres, log(800, days=40))
    made = []
    for root in ("one", "two"):
        snapshot = take(store, "movies", tmp_path / root)
        dataset = dataset_of(snapshot.interactions())
        drawn = negatives(dataset, np.flatnonzero(dataset.strength > 0), 4, 7, snapshot.impressions())
        made.append((snapshot.sha256, drawn.item.tobytes(), drawn.weight.tobytes()))
    assert made[0] == made[1]


def test_an_impression_is_taken_by_its_request_or_soon_after(postgres: str, tmp_path: Path) -> None:
    shown = [event(n, EventType.IMPRESSION, ts=T0 + n, item_id=f"i{n}", request_id="r1") for n in range(4)]
    answers = [
        event(10, EventType.CLICK, ts=T0 + DAY_MS, item_id="i0", request_id="r1"),  # late, but of the request
        event(11, EventType.WATCH, ts=T0 + 60_000, item_id="i1"),
        event(12, EventType.WATCH, ts=T0 + DAY_MS, item_id="i2"),  # found much later, elsewhere
        event(13, EventType.SKIP, ts=T0 + 60_000, item_id="i3", request_id="r1"),
    ]
    snapshot = take(store_of(postgres, [*shown, *answers]), "movies", tmp_path)
    assert snapshot.impressions().taken_ms.tolist() == [T0 + DAY_MS, T0 + 60_000, NEVER, NEVER]
    longer = snapshot.impressions(window_ms=2 * DAY_MS)
    assert longer.clicked.tolist() == [True, True, True, False]
    assert longer.before(T0 + DAY_MS).clicked.tolist() == [False, True, False, False]


@pytest.mark.parametrize("domain", ["", "..", "a/b", ".hidden"])
def test_a_domain_that_names_no_directory_is_refused(postgres: str, tmp_path: Path, domain: str) -> None:
    with pytest.raises(TrainingError, match="name a directory"):
        take(store_of(postgres), domain, tmp_path)


def test_no_events_are_a_snapshot_too(postgres: str, tmp_path: Path) -> None:
    snapshot = take(store_of(postgres), "movies", tmp_path)
    assert (snapshot.window.events, len(snapshot.interactions()), len(snapshot.impressions())) == (0, 0, 0)
    assert snapshot == take(store_of(postgres), "movies", tmp_path)
    assert replace(snapshot, directory=tmp_path).sha256 == snapshot.sha256
