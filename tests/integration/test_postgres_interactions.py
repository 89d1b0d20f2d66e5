"""Events as rows: exactly once by event_id, byte for byte, and on the disk after a flush."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_models.contracts.events import EVENT_TYPES, Event, EventType, Item
from online_models.contracts.ids import UserId
from online_models.errors import StoreUnavailable
from online_models.interactions import DAY_MS, EventDay, EventView
from online_models.stores.postgres import MIGRATIONS, Cursor, Database, migrate, one, query
from online_models.stores.postgres_interactions import PostgresInteractions
from tests.samples import batch, event, event_id

SQL = Path(__file__).resolve().parents[2] / "online_models/stores"
HISTORY_TABLES = ("watch_history", "purchase_history", "impressions", "feedback")

# Any text that PostgreSQL can hold; what COPY and JSON treat specially is drawn often.
TEXT = st.text(
    st.one_of(st.sampled_from('\\\t\n\r"N.\x7f\u2028'), st.characters(codec="utf-8", exclude_characters="\0")),
    max_size=12,
)
IDENTIFIER = TEXT.filter(bool)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FEATURES = st.dictionaries(TEXT, st.one_of(FINITE, TEXT, st.lists(TEXT, max_size=3)), max_size=3)
EVENTS = st.builds(
    Event,
    event_id=st.uuids().map(str),
    type=st.sampled_from(EVENT_TYPES),
    user_id=IDENTIFIER,
    item_id=IDENTIFIER,
    ts=st.integers(0, 4_102_444_800_000),
    domain=IDENTIFIER,
    value=st.none() | FINITE,
    request_id=st.none() | TEXT,
    position=st.none() | st.integers(0, 2**31 - 1),
    model_version=st.none() | TEXT,
    rollout_id=st.none() | st.integers(0, 2**31 - 1),
    propensity=st.none() | FINITE,
    features=st.none() | FEATURES,
)


def stored(database: Database) -> dict[str, Event]:
    """All rows of all tables as the events they came from."""
    found: dict[str, Event] = {}
    kinds = {"watch_history": "'watch'", "purchase_history": "'purchase'", "impressions": "'impression'"}
    with database.transaction() as cursor:
        for table in HISTORY_TABLES:
            cursor.execute(
                f"SELECT event_id::text, {kinds.get(table, 'type')}, user_id, item_id, ts_ms, domain, value, request_id,"
                f" position, model_version, rollout_id, propensity, features::text FROM {table}"
            )
            for *scalars, features in cursor:
                known = None if features is None else msgspec.json.decode(features)
                fields = dict(zip(msgspec.structs.asdict(event(0)), [*scalars, known], strict=True))
                row = msgspec.convert(fields, Event)
                assert row.event_id not in found
                found[row.event_id] = row
    return found


def clear(database: Database) -> None:
    with database.transaction() as cursor:
        for table in (*HISTORY_TABLES, "users"):
            cursor.execute(f"DELETE FROM {table}")


def users(database: Database) -> set[str]:
    with database.transaction() as cursor:
        cursor.execute("SELECT user_id FROM users")
        return {user_id for (user_id,) in cursor}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, max_size=8, unique_by=lambda one: one.event_id))
def test_any_text_and_number_come_back_as_they_went_in(postgres: str, events: list[Event]) -> None:
    with closing(Database(postgres)) as database:
        clear(database)
        assert PostgresInteractions(database).write([batch(events[:3]), batch(events[3:])]) == len(events)
        found = stored(database)
        assert found == {one.event_id: one for one in events}
        assert users(database) == {one.user_id for one in events}


def test_each_kind_of_event_has_its_table(postgres: str) -> None:
    database = Database(postgres)
    events = [event(n, kind) for n, kind in enumerate(EventType)]
    assert PostgresInteractions(database).write([batch(events)]) == len(events)
    with database.transaction() as cursor:
        counts = {}
        for table in HISTORY_TABLES:
            cursor.execute(f"SELECT count(*) FROM {table}")
            counts[table] = one(cursor)[0]
    assert counts == {"watch_history": 1, "purchase_history": 1, "impressions": 1, "feedback": 3}


def test_an_event_is_stored_once_however_often_it_is_written(postgres: str) -> None:
    database = Database(postgres)
    store = PostgresInteractions(database)
    first = [event(n, user_id=f"u{n % 3}") for n in range(10)]
    assert store.write([batch(first), batch(first[:5]), batch([*first, *first])]) == 10
    assert store.write([batch(first)]) == 0
    assert store.write([batch([*first[5:], event(10)])]) == 1
    assert len(stored(database)) == 11
    assert store.write([]) == store.write([batch([])]) == 0


def test_a_rewritten_event_id_keeps_the_first_row(postgres: str) -> None:
    database = Database(postgres)
    store = PostgresInteractions(database)
    store.write([batch([event(1, value=2.0)])])
    assert store.write([batch([event(1, value=5.0)])]) == 0
    assert stored(database)[event_id(1)].value == 2.0


def test_concurrent_writers_of_overlapping_events_lose_and_repeat_nothing(postgres: str) -> None:
    events = [event(n, user_id=f"u{n % 50}") for n in range(400)]

    def write(seed: int) -> int:
        rng = random.Random(seed)
        store = PostgresInteractions(Database(postgres))
        return sum(store.write([batch(rng.sample(events, 200))]) for _ in range(8))

    with ThreadPoolExecutor(4) as pool:
        added = sum(pool.map(write, range(4)))
    rows = stored(Database(postgres))
    assert added == len(rows)
    assert set(rows) <= {one.event_id for one in events}
    assert len(rows) > 390


@pytest.mark.parametrize("spelling", ["urn:uuid:{}", "{{{}}}", "{}".upper()])
def test_every_spelling_of_a_uuid_that_python_reads_is_stored(postgres: str, spelling: str) -> None:
    database = Database(postgres)
    odd = msgspec.structs.replace(event(1), event_id=spelling.format(event_id(1)))
    store = PostgresInteractions(database)
    assert store.write([batch([odd, event(2)])]) == 2
    assert store.write([batch([event(1)])]) == 0
    assert set(stored(database)) == {event_id(1), event_id(2)}


def test_a_flush_brings_earlier_commits_to_the_disk(postgres: str) -> None:
    database = Database(postgres)
    store = PostgresInteractions(database)

    def unflushed_bytes(cursor: Cursor, written: str) -> int:
        cursor.execute("SELECT greatest(%s::pg_lsn - pg_current_wal_flush_lsn(), 0)", (written,))
        return int(one(cursor)[0])

    waited_for_disk = 0
    for attempt in range(20):  # the WAL writer may come first, five times a second
        store.write([batch([event(100 * attempt + n) for n in range(100)])])
        with database.transaction() as cursor:
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            written = str(one(cursor)[0])
            before = unflushed_bytes(cursor, written)
        store.flush()
        with database.transaction() as cursor:
            assert unflushed_bytes(cursor, written) == 0
        waited_for_disk += before > 0
    assert waited_for_disk > 0


def test_a_connection_lost_before_a_flush_is_not_papered_over(postgres: str) -> None:
    database = Database(postgres)
    store = PostgresInteractions(database)
    store.write([batch([event(1)])])
    database.close()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="resume from the last flushed position"):
            store.flush()
        with pytest.raises(StoreUnavailable, match="resume from the last flushed position"):
            store.write([batch([event(2)])])


def test_a_connection_lost_after_a_flush_is_replaced(postgres: str) -> None:
    database = Database(postgres)
    store = PostgresInteractions(database)
    store.write([batch([event(1)])])
    store.flush()
    database.close()
    assert store.write([batch([event(2)])]) == 1
    store.flush()


def test_training_reads_one_domain_in_time_order_up_to_a_time(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    events = [
        event(1, EventType.CLICK, ts=30, value=None),
        event(2, EventType.WATCH, ts=10, user_id="u2", value=90.0, request_id="r1"),
        event(3, EventType.PURCHASE, ts=20, item_id="i3", value=9.5, features={"category": "toys", "n": 1.5}),
        event(4, EventType.SKIP, ts=20, value=None, features={"genres": ["a", "b"]}),
        event(5, EventType.RATING, ts=40),
        event(6, EventType.IMPRESSION, ts=5),
        event(7, EventType.CLICK, ts=5, domain="products"),
    ]
    store.write([batch(events)])
    rows = store.interactions("movies", until_ms=30)
    assert rows.user_id == ["u2", "u1", "u1", "u1"]
    assert rows.item_id == ["i1", "i3", "i1", "i1"]
    assert [EVENT_TYPES[code] for code in rows.type] == [
        EventType.WATCH, EventType.PURCHASE, EventType.SKIP, EventType.CLICK,
    ]  # fmt: skip
    assert rows.ts_ms.tolist() == [10, 20, 20, 30]
    np.testing.assert_array_equal(rows.value, [90.0, 9.5, np.nan, np.nan])
    assert rows.recommended.tolist() == [True, False, False, False]
    assert rows.features == [None, {"category": "toys", "n": 1.5}, {"genres": ["a", "b"]}, None]
    assert [str(column.dtype) for column in (rows.type, rows.ts_ms, rows.value)] == ["int8", "int64", "float64"]
    assert len(store.interactions("movies")) == 5
    assert len(store.interactions("books")) == 0


def test_what_answers_a_recommendation_comes_back_marked_in_every_table(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    kinds = [EventType.WATCH, EventType.PURCHASE, EventType.CLICK, EventType.RATING, EventType.SKIP]
    requests = [None, "r1", ""]  # an empty request is one that the log names
    pairs = list(product(kinds, requests))
    store.write([batch([event(n, kind, ts=n, request_id=request) for n, (kind, request) in enumerate(pairs)])])
    rows = store.interactions("movies")
    assert rows.recommended.dtype == np.bool_
    assert rows.recommended.tolist() == [request is not None for _, request in pairs]


def csv_of(view: EventView, days: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    view.copy(days, pieces.append)
    assert all(piece.endswith(b"\n") for piece in pieces)
    return b"".join(pieces).splitlines()


def days_of(store: PostgresInteractions, until_ms: int | None = None) -> list[EventDay]:
    return store.view("movies", until_ms, lambda view: view.days())


def test_a_view_tells_the_days_and_copies_the_rows_of_some_in_time_order(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    store.write(
        [
            batch(
                [
                    event(1, EventType.CLICK, ts=2 * DAY_MS, value=None, request_id=""),
                    event(2, EventType.IMPRESSION, ts=DAY_MS + 5, value=None, features={"g": ["a,b"]}),
                    event(3, EventType.WATCH, ts=DAY_MS + 4, user_id='"u"\n2', value=1.5),
                    event(4, EventType.PURCHASE, ts=5 * DAY_MS),
                    event(5, EventType.RATING, ts=DAY_MS, domain="products"),
                ]
            )
        ]
    )
    assert [(day.day, day.events) for day in days_of(store)] == [(1, 2), (2, 1), (5, 1)]
    assert [(day.day, day.events) for day in days_of(store, DAY_MS + 4)] == [(1, 1)]
    ids = [event_id(number).encode() for number in range(6)]
    assert store.view("movies", None, lambda view: csv_of(view, [2, 1])) == [
        ids[3] + b',"""u""',
        b'2",i1,watch,86400004,1.5,,,,,',
        ids[2] + b',u1,i1,impression,86400005,,,,,,"{""g"": [""a,b""]}"',
        ids[1] + b',u1,i1,click,172800000,,"",,,,',
    ]
    assert store.view("movies", None, lambda view: csv_of(view, [])) == []


@pytest.mark.parametrize("column", ["value", "features", "request_id", "propensity", "rollout_id", "user_id", "type"])
def test_a_days_checksum_tells_every_field_of_a_row(postgres: str, column: str) -> None:
    database = Database(postgres)
    store = PostgresInteractions(database)
    store.write([batch([event(1, ts=5), event(2, ts=DAY_MS)])])
    before = days_of(store)
    to = {"features": "'[1]'", "request_id": "'r'", "user_id": "'u2'", "type": "'skip'"}.get(column, "1")
    with database.transaction() as cursor:
        cursor.execute(f"UPDATE feedback SET {column} = {to} WHERE ts_ms = 5")
    after = days_of(store)
    assert after[0].events == before[0].events
    assert after[0].checksum != before[0].checksum
    assert after[1] == before[1]


def test_a_view_is_of_one_moment(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    store.write([batch([event(1, ts=5)])])

    def work(view: EventView) -> list[bytes]:
        days = view.days()
        PostgresInteractions(Database(postgres)).write([batch([event(2, ts=6)])])
        assert view.days() == days
        return csv_of(view, [0])

    assert len(store.view("movies", None, work)) == 1
    assert len(store.view("movies", None, work)) == 2
    assert store.write([batch([event(3, ts=7)])]) == 1  # the isolation of a view ends with it


def test_a_receiver_that_fails_leaves_the_store_usable(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    store.write([batch([event(n, ts=n) for n in range(50_000)])])
    store.flush()

    def fail(_: bytes) -> None:
        raise OSError("no space left")

    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            store.view("movies", None, lambda view: view.copy([0], fail))
    assert days_of(store)[0].events == 50_000
    assert store.write([batch([event(50_000)])]) == 1


def test_more_rows_than_one_fetch_are_read_whole(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    count = 50_001
    store.write([batch([event(n, ts=n) for n in range(count)])])
    rows = store.interactions("movies")
    assert rows.ts_ms.tolist() == list(range(count))


def test_a_catalogue_entry_is_replaced_by_the_last_one_written(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    store.put_items([])
    store.put_items([Item("b", "movies", "B", ["x"]), Item("a", "movies", "old"), Item("a", "movies", "A")])
    store.put_items([Item("b", "movies", "B'", ["x", "y, 'z'"]), Item("a", "products", "other")])
    assert store.items("movies") == [Item("a", "movies", "A"), Item("b", "movies", "B'", ["x", "y, 'z'"])]
    assert store.items("products") == [Item("a", "products", "other")]


def test_users_are_counted_once(postgres: str) -> None:
    database = Database(postgres)
    store = PostgresInteractions(database)
    pairs = list(product(range(4), EventType))
    store.write([batch([event(n, kind, user_id=f"u{user}") for n, (user, kind) in enumerate(pairs)])])
    store.write([batch([event(1000, user_id="u0"), event(1001, user_id="u9")])])
    assert Counter(users(database)) == Counter(["u0", "u1", "u2", "u3", "u9"])


def test_users_are_gone_through_in_steps_each_once(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    known = ["u10", "u9", "B", "a b", "é", "u1"]
    store.write([batch([event(n, user_id=user) for n, user in enumerate([*known, *known])])])
    found: list[UserId] = []
    while more := store.users(found[-1] if found else None, 2):
        assert len(more) <= 2
        found += more
    assert sorted(found) == sorted(known)


CATALOGUE_ITEMS = st.builds(
    Item,
    item_id=IDENTIFIER,
    domain=st.sampled_from(["movies", "products"]),
    title=TEXT,
    categories=st.lists(TEXT, max_size=3),
    price=st.none() | FINITE,
    min_age=st.none() | FINITE,
    available_ms=st.none() | st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(CATALOGUE_ITEMS, max_size=8, unique_by=lambda item: (item.domain, item.item_id)))
def test_all_that_a_catalogue_says_comes_back_as_it_went_in(postgres: str, items: list[Item]) -> None:
    with closing(Database(postgres)) as database:
        with database.transaction() as cursor:
            cursor.execute("DELETE FROM items")
        store = PostgresInteractions(database)
        store.put_items(items)
        found = [item for domain in ("movies", "products") for item in store.items(domain)]
        assert {(item.domain, item.item_id): item for item in items} == {
            (item.domain, item.item_id): item for item in found
        }
        assert len(found) == len(items)


def test_what_a_catalogue_no_longer_says_is_forgotten(postgres: str) -> None:
    store = PostgresInteractions(Database(postgres))
    store.put_items([Item("a", "movies", "A", ["x"], price=2.5, min_age=18.0, available_ms=7)])
    store.put_items([Item("a", "movies", "A")])
    assert store.items("movies") == [Item("a", "movies", "A")]


def test_a_catalogue_of_the_first_schema_is_kept_and_says_nothing_of_price_age_and_day(empty_postgres: str) -> None:
    with closing(Database(empty_postgres)) as database:
        with database.transaction() as cursor:
            cursor.execute(query("create_schema_version"))
            cursor.execute((SQL / MIGRATIONS[0]).read_text())
            cursor.execute(query("insert_schema_version"), {"version": 1})
            cursor.execute("INSERT INTO items (domain, item_id, title, categories) VALUES ('movies', 'a', 'A', '{x}')")
        for _ in range(2):
            migrate(empty_postgres)
        store = PostgresInteractions(database)
        assert store.items("movies") == [Item("a", "movies", "A", ["x"])]
        store.put_items([Item("a", "movies", "A", ["x"], price=2.5, min_age=18.0, available_ms=7)])
        assert store.items("movies") == [Item("a", "movies", "A", ["x"], price=2.5, min_age=18.0, available_ms=7)]
