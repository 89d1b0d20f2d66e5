"""The live flow: a real process follows two segments of two writers; killed, stopped, and started again."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from flows.app import bounds_of
from flows.chunks import Chunk, Lines
from flows.live import LiveVersions
from flows.online_learning import OnlineLearner
from flows.parse import parse
from flows.settings import FlowSettings
from online_models import als
from online_models import history as histories
from online_models.blend import Blend
from online_models.contracts import keys
from online_models.contracts.events import Event, EventBatch, EventType, timestamp_ms, utc
from online_models.contracts.ids import ItemId, UserId, hash64
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory
from online_models.sources import restored
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from tests.artifacts import small_model
from tests.engagements import strength_of
from tests.flow_process import ROOT, kill, rows, start
from tests.integration.test_flow_replay import FAST, MOVIES, START_MS, V1, make_live, recorded_log
from tests.oracles import online_learning as oracle
from tests.strategies import ndjson

TABLE_OF = {
    EventType.IMPRESSION: "impressions",
    EventType.WATCH: "watch_history",
    EventType.PURCHASE: "purchase_history",
    EventType.CLICK: "feedback",
    EventType.RATING: "feedback",
    EventType.SKIP: "feedback",
}
HALF_LIFE_MS = FlowSettings.model_fields["popularity_half_life_days"].default * 86_400_000

WRITER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from online_models.stores.files import SegmentLog
segments, source, pause_seconds = sys.argv[1:]
log = SegmentLog(Path(segments), lambda: datetime.now(UTC))
lines = Path(source).read_bytes().splitlines()
for at in range(0, len(lines), 5):
    log.append(lines[at : at + 5])
    time.sleep(float(pause_seconds))
"""


@contextmanager
def writing(home: Path, name: str, content: bytes, pause_seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process that appends lines to a segment of its own, five at a time."""
    source = home / f"{name}.lines"
    source.write_bytes(content)
    command = [sys.executable, "-c", WRITER, str(home / "events"), str(source), str(pause_seconds)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def stored(stores: Endpoints) -> Counter[str]:
    """Event ids in PostgreSQL, and how often each is there."""
    return Counter(str(row["event_id"]) for table in set(TABLE_OF.values()) for row in rows(stores.postgres_dsn, table))


def wait_for_rows(stores: Endpoints, count: int, process: subprocess.Popen[bytes]) -> None:
    """Return once so many events are stored; the flow must be running then."""
    deadline = time.monotonic() + 180  # the first flow of a fresh machine compiles its kernels: 40 s and more
    while stored(stores).total() < count:
        assert process.poll() is None, "the flow ended by itself"
        assert time.monotonic() < deadline, "the flow does not get on"
        time.sleep(0.05)


def drained(process: subprocess.Popen[bytes], home: Path) -> dict[str, float]:
    """The report that it prints when SIGTERM has let it end."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, (home / "flow.log").read_text()[-4000:]
    report: dict[str, float] = json.loads((home / "report.json").read_text())
    assert json.dumps(report, indent=1) in (home / "flow.log").read_text()
    return report


def live(stores: Endpoints, home: Path, **settings: str) -> subprocess.Popen[bytes]:
    """`python -m flows run`, once it listens to signals: compiling kernels may take a fresh machine a minute."""
    started, deadline = starts(home) + 1, time.monotonic() + 180
    process = start(stores, home, "run", "--report", str(home / "report.json"), **{**FAST, **settings})
    while starts(home) < started:
        assert process.poll() is None, (home / "flow.log").read_text()[-4000:]
        assert time.monotonic() < deadline, "the flow does not start"
        time.sleep(0.05)
    return process


def starts(home: Path) -> int:
    """How many flows have started here."""
    log = home / "flow.log"
    return log.read_text().count("flow_started") if log.exists() else 0


def expected_history(events: Sequence[Event]) -> UserHistory:
    """One user's events merged one by one."""
    known = EMPTY
    for event in events:
        batch = batch_of([event])
        strength = float(als.event_strength(batch.type, batch.value)[0])
        ts_ms, item = timestamp_ms(event.ts), hash64(event.item_id)
        recent = np.array([(ts_ms, hash64(event.event_id), item, strength)][: int(strength > 0)], ENTRY)
        known = histories.merge(known, recent, np.array([(ts_ms, item)], SEEN))
    return known


def batch_of(events: Sequence[Event], path: str = "a.ndjson", offset: int = 0) -> EventBatch:
    text = ndjson(events)
    bounds = bounds_of(FlowSettings(), utc(START_MS + 10 * 365 * 86_400_000))
    return parse(Chunk("segments", path, offset + len(text), Lines(text, offset)), bounds).batch


def engagements_of(log: Sequence[Event]) -> dict[UserId, list[Event]]:
    """Each user's events other than impressions."""
    found: dict[UserId, list[Event]] = {}
    for event in log:
        if event.type is not EventType.IMPRESSION:
            found.setdefault(UserId(event.user_id), []).append(event)
    return found


def expected_popularity(log: Sequence[Event], at_ms: int) -> dict[str, float]:
    """Each item's count, decayed to one time."""
    found: defaultdict[str, float] = defaultdict(float)
    for event in log:
        batch = batch_of([event])
        if event.type is not EventType.IMPRESSION and als.event_strength(batch.type, batch.value)[0] > 0:
            found[event.item_id] += 2 ** ((timestamp_ms(event.ts) - at_ms) / HALF_LIFE_MS)
    return dict(found)


def check_embeddings(stores: Endpoints, home: Path, log: Sequence[Event]) -> None:
    """Redis holds what the oracle says of a log: every event once."""
    with closing(redis.connect(stores.redis_url)) as client:
        store = redis.RedisEmbeddings(client)
        of_user = engagements_of(log)
        users = list(of_user)
        wanted = [expected_history(of_user[user]) for user in users]
        found = store.histories(MOVIES, users)
        assert [histories.encode(each) for each in found] == [histories.encode(each) for each in wanted]

        at_ms = START_MS
        counts = {
            item: count * 2 ** ((at - at_ms) / HALF_LIFE_MS) for item, (count, at) in store.popularity(MOVIES).items()
        }
        assert counts == pytest.approx(expected_popularity(log, at_ms))

        made = small_model(seed=1)
        for user in users:
            exact = oracle.vectors(made, oracle.recent_of(of_user[user], user))
            raw = client.get(keys.user_vector(MOVIES, V1, user))
            if exact.any():
                assert isinstance(raw, bytes)
                np.testing.assert_allclose(redis.decode_vector(raw)[1], exact, rtol=1e-4, atol=1e-5)
        assert store.moved_items(MOVIES, V1).keys() == {f"i{item}" for item in range(40)}
        check_sources(store, log)


def check_sources(store: redis.RedisEmbeddings, log: Sequence[Event]) -> None:
    """Sources have counted every positive event once, and a blend has looked at each choice of them."""
    positive = Counter(one.item_id for one in log if one.type is not EventType.IMPRESSION and strength_of(one) > 0)
    state, blend = store.sources(MOVIES), store.blend(MOVIES, V1)
    sources = restored(state.published, state.steps)
    ids = [item for item in sources.items.ids if item in positive]
    counts = sources.popularity.counts(sources.items.rows(np.array([hash64(item) for item in ids], np.uint64)))
    assert dict(zip(ids, counts.tolist(), strict=True)) == positive
    assert int(sources.popularity.arrays.events[0]) == positive.total()
    assert blend is not None
    assert Blend.decode(blend).tried.tolist() == [positive.total()]  # fewer than the first that are all looked at


def test_events_of_two_writers_are_there_once_after_two_crashes(fresh_stores: Endpoints, tmp_path: Path) -> None:
    make_live(fresh_stores, tmp_path)
    log = recorded_log(minutes=700, seed=11)
    halves = [ndjson([event for event in log if hash64(event.user_id) % 2 == half]) for half in range(2)]
    with writing(tmp_path, "one", halves[0], 0.006), writing(tmp_path, "two", halves[1] + b"garbage\n", 0.009):
        # Epochs are longer than the pauses of the kills: much is applied that no snapshot knows of.
        settings = {"PENSTOCK_FLOW_EPOCH_WALL_SECONDS": "1.5"}
        for fraction in (0.25, 0.6):
            process = live(fresh_stores, tmp_path, **settings)
            wait_for_rows(fresh_stores, int(fraction * len(log)), process)
            kill(process)
        process = live(fresh_stores, tmp_path, **settings)
        wait_for_rows(fresh_stores, len(log), process)
    report = drained(process, tmp_path)

    assert stored(fresh_stores) == Counter(event.event_id for event in log)
    check_embeddings(fresh_stores, tmp_path, log)
    assert len(list((tmp_path / "events").iterdir())) == 2
    assert (report["events"], report["rejected"], report["duplicates"]) == (len(log) + 1, 1, 0)
    (letter,) = map(json.loads, (tmp_path / "flow/live/dead-letters.ndjson").read_bytes().splitlines())
    assert "malformed" in letter["reason"]
    assert letter["offset"] == len(halves[1])


def test_an_event_appended_while_the_flow_is_down_is_read_after_the_restart(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    make_live(fresh_stores, tmp_path)
    log = recorded_log(minutes=20, seed=12)
    segment = tmp_path / "events" / "1.ndjson"
    segment.parent.mkdir()
    segment.write_bytes(ndjson(log[:-1]))
    process = live(fresh_stores, tmp_path)
    wait_for_rows(fresh_stores, len(log) - 1, process)
    assert drained(process, tmp_path)["events"] == len(log) - 1
    with segment.open("ab") as file:
        file.write(ndjson(log[-1:]))
    process = live(fresh_stores, tmp_path)
    wait_for_rows(fresh_stores, len(log), process)
    assert drained(process, tmp_path)["events"] == len(log)


@pytest.fixture
def learner(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[OnlineLearner]:
    make_live(fresh_stores, tmp_path)
    with closing(redis.connect(fresh_stores.redis_url)) as client:
        store = redis.RedisEmbeddings(client)
        live_versions = LiveVersions(
            redis.RedisRoutes(client), FilesystemArtifacts(tmp_path / "artifacts"), store, 60.0
        )
        yield OnlineLearner(MOVIES, "run", store, live_versions, FlowSettings().popularity_half_life_days, 1.0)


def watches(count: int) -> list[Event]:
    """Long views of one item by one user: more of them than a history keeps."""
    return [
        Event(f"00000000-0000-0000-0000-{n:012x}", EventType.WATCH, "u1", "i1", START_MS + n, "movies", value=3600.0)
        for n in range(count)
    ]


def popularity_of(learner: OnlineLearner, stores: Endpoints) -> float:
    with closing(redis.connect(stores.redis_url)) as client:
        count, at_ms = redis.RedisEmbeddings(client).popularity(learner.model)[ItemId("i1")]
    return float(count * 2 ** ((at_ms - START_MS) / HALF_LIFE_MS))


def test_of_a_chunk_that_ends_further_on_than_before_the_crash_only_the_new_rows_count(
    learner: OnlineLearner, fresh_stores: Endpoints
) -> None:
    events = watches(3 * histories.RECENT_EVENTS)
    before = len(events) // 2
    learner.learn(batch_of(events[:before]))
    learner.learn(batch_of(events))
    assert popularity_of(learner, fresh_stores) == pytest.approx(len(events), rel=1e-6)
    learner.learn(batch_of(events[:before]))
    learner.learn(batch_of(events))
    assert popularity_of(learner, fresh_stores) == pytest.approx(len(events), rel=1e-6)


def test_positions_of_one_segment_say_nothing_of_another(learner: OnlineLearner, fresh_stores: Endpoints) -> None:
    events = watches(20)
    learner.learn(batch_of(events[:15], "one.ndjson"))
    learner.learn(batch_of(events[15:], "two.ndjson"))
    assert popularity_of(learner, fresh_stores) == pytest.approx(len(events), rel=1e-6)
