"""Reads of user states: shared commands, deadlines, late answers, and a Redis that comes and goes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import redis

from online_models import history
from online_models.contracts import keys
from online_models.contracts.ids import ItemId, ModelVersion, UserId
from online_models.errors import StoreError, StoreUnavailable
from online_models.history import ENTRY, SEEN, UserHistory
from online_models.ports import EmbeddingUpdate, UserState, Vector, VersionUpdate
from online_models.stores import redis as store
from online_models.stores.redis import RedisEmbeddings
from online_models.stores.redis_connection import Address, RedisConnection
from online_models.stores.redis_language import RedisLanguageScores
from online_models.stores.redis_reads import READS_PER_COMMAND, RedisUserReads
from online_models.stores.redis_serving import RedisServing
from tests.own_redis import OwnRedis, running_redis
from tests.samples import MOVIES

V0, V1 = ModelVersion("v0"), ModelVersion("v1")
TIMEOUT = timedelta(seconds=0.25)
USERS = [UserId(f"user {n}") for n in range(40)]


def vector_of(user: int) -> Vector:
    return np.full(8, user, np.float32)


def history_of(user: int) -> UserHistory:
    met = np.array([(ts, ts, user, 1.0) for ts in range(1, 2 + user % 3)], ENTRY)
    return history.merge(history.EMPTY, met, met[["ts_ms", "item"]].astype(SEEN))


def fill(url: str) -> None:
    """Every user has a vector and a history that tell whose they are."""
    with closing(store.connect(url)) as client:
        RedisEmbeddings(client).apply(
            EmbeddingUpdate(
                model=MOVIES,
                run_id="run",
                source="log",
                position=1,
                histories={user: history_of(n) for n, user in enumerate(USERS)},
                versions=[VersionUpdate(V1, {user: (1, vector_of(n)) for n, user in enumerate(USERS)})],
                popularity={},
                popular=[ItemId("i")],
            )
        )


@asynccontextmanager
async def reading(url: str, timeout: timedelta = TIMEOUT) -> AsyncIterator[RedisUserReads]:
    reads = RedisUserReads(url, timeout)
    try:
        yield reads
    finally:
        await reads.close()


def run(url: str, work: Callable[[RedisUserReads], Awaitable[None]], timeout: timedelta = TIMEOUT) -> None:
    async def main() -> None:
        async with reading(url, timeout) as reads:
            await work(reads)

    asyncio.run(main())


def is_of(state: UserState, user: int) -> bool:
    assert state.vector is not None
    known = history_of(user)
    return (state.vector.tolist(), state.history.recent.tolist(), state.history.seen.tolist()) == (
        vector_of(user).tolist(),
        known.recent.tolist(),
        known.seen.tolist(),
    )


def mgets(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    assert isinstance(stats, dict)
    return int(stats.get("cmdstat_mget", {"calls": 0})["calls"])


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    with running_redis(tmp_path / "redis") as server:
        fill(server.url)
        yield server


@pytest.fixture
def client(own_redis: OwnRedis) -> Iterator[redis.Redis]:
    with closing(store.connect(own_redis.url)) as client:
        yield client


async def all_users(reads: RedisUserReads) -> None:
    states = await asyncio.gather(*(reads.user(MOVIES, V1, user) for user in USERS))
    assert all(is_of(state, n) for n, state in enumerate(states))


async def wait_for(reads: RedisUserReads, user: int, seconds: float = 10.0) -> float:
    """Seconds until the user is read again."""
    start = time.monotonic()
    while True:
        try:
            state = await reads.user(MOVIES, V1, USERS[user])
        except StoreUnavailable:
            assert time.monotonic() - start < seconds
            await asyncio.sleep(0.01)
        else:
            assert is_of(state, user)
            return time.monotonic() - start


def test_reads_of_one_moment_are_one_command(own_redis: OwnRedis, client: redis.Redis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)  # while it connects
        await all_users(reads)

    before = mgets(client)
    run(own_redis.url, work)
    assert mgets(client) - before == 2


def test_reads_that_come_while_an_answer_is_under_way_share_the_next_command(
    own_redis: OwnRedis, client: redis.Redis
) -> None:
    async def work(reads: RedisUserReads) -> None:
        await reads.user(MOVIES, V1, USERS[0])
        own_redis.freeze()
        first = asyncio.create_task(reads.user(MOVIES, V1, USERS[0]))
        await asyncio.sleep(0.01)
        later = [asyncio.create_task(reads.user(MOVIES, V1, user)) for user in USERS[1:5]]
        await asyncio.sleep(0.01)
        later += [asyncio.create_task(reads.user(MOVIES, V1, user)) for user in USERS[5:9]]
        await asyncio.sleep(0.01)
        own_redis.thaw()
        states = await asyncio.gather(first, *later)
        assert all(is_of(state, n) for n, state in enumerate(states))

    before = mgets(client)
    run(own_redis.url, work, timedelta(seconds=5))
    assert mgets(client) - before == 3  # the very first, the held up one, and one for the eight behind it


def test_a_command_reads_a_bounded_number_of_users(own_redis: OwnRedis, client: redis.Redis) -> None:
    async def work(reads: RedisUserReads) -> None:
        many = [n % len(USERS) for n in range(2 * READS_PER_COMMAND + 1)]
        states = await asyncio.gather(*(reads.user(MOVIES, V1, USERS[n]) for n in many))
        assert all(is_of(state, n) for n, state in zip(many, states, strict=True))

    before = mgets(client)
    run(own_redis.url, work, timedelta(seconds=5))
    assert mgets(client) - before == 3


def test_one_command_serves_users_with_and_without_a_version_and_unknown_ones(
    own_redis: OwnRedis, client: redis.Redis
) -> None:
    async def work(reads: RedisUserReads) -> None:
        plain, full, unknown = await asyncio.gather(
            reads.user(MOVIES, None, USERS[1]),
            reads.user(MOVIES, V1, USERS[2]),
            reads.user(MOVIES, V1, UserId("nobody")),
        )
        assert plain.vector is None
        assert plain.history.seen.tolist() == history_of(1).seen.tolist()
        assert is_of(full, 2)
        assert (unknown.vector, unknown.history) == (None, history.EMPTY)

    before = mgets(client)
    run(own_redis.url, work)
    assert mgets(client) - before == 1


def test_scores_of_a_language_model_come_with_the_same_command_and_expire(
    own_redis: OwnRedis, client: redis.Redis
) -> None:
    users = {user: user.encode() for user in USERS[:3]}
    RedisLanguageScores(client).put_scores(MOVIES, V0, users, timedelta(hours=1))
    assert 3_590 < client.ttl(keys.language_scores(MOVIES, V0, USERS[0])) <= 3_600

    async def work(reads: RedisUserReads) -> None:
        scored, unscored, plain = await asyncio.gather(
            reads.user(MOVIES, V1, USERS[1], V0), reads.user(MOVIES, V1, USERS[9], V0), reads.user(MOVIES, V1, USERS[2])
        )
        assert [scored.language, unscored.language, plain.language] == [b"user 1", None, None]
        assert is_of(scored, 1)
        assert is_of(unscored, 9)

    before = mgets(client)
    run(own_redis.url, work)
    assert mgets(client) - before == 1
    with closing(RedisServing(own_redis.url, timedelta(seconds=5))) as serving:
        read = serving.states(MOVIES, [(USERS[1], V1, V0), (USERS[2], V1, None)])
    assert [state.language for state in read if state is not None] == [b"user 1", None]
    assert all(state is not None and is_of(state, n) for n, state in enumerate(read, start=1))


def test_what_is_read_is_not_copied(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        state = await reads.user(MOVIES, V1, USERS[2])
        assert state.vector is not None
        for view in (state.vector, state.history.recent, state.history.seen):
            assert isinstance(view.base, bytes)

    run(own_redis.url, work)


def test_a_torn_value_fails_its_own_reader_alone(own_redis: OwnRedis, client: redis.Redis) -> None:
    async def work(reads: RedisUserReads) -> None:
        torn, whole = await asyncio.gather(
            reads.user(MOVIES, V1, USERS[0]), reads.user(MOVIES, V1, USERS[1]), return_exceptions=True
        )
        assert isinstance(torn, StoreError)
        assert f"{MOVIES} {USERS[0]}: history" in str(torn)
        assert isinstance(whole, UserState)
        assert is_of(whole, 1)

    client.set(keys.history(MOVIES, USERS[0]), b"torn" * 10)
    run(own_redis.url, work)


def test_a_read_that_gets_no_answer_fails_in_time_and_later_ones_at_once(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)
        own_redis.freeze()
        start = time.monotonic()
        failed = await asyncio.gather(*(reads.user(MOVIES, V1, user) for user in USERS), return_exceptions=True)
        assert 0.24 < time.monotonic() - start < 1.0
        assert {type(error) for error in failed} == {StoreUnavailable}
        start = time.monotonic()
        for user in USERS:
            with pytest.raises(StoreUnavailable, match="no answer within"):
                await reads.user(MOVIES, V1, user)
        assert time.monotonic() - start < 0.1
        own_redis.thaw()
        await wait_for(reads, 7)
        await all_users(reads)

    run(own_redis.url, work)


def test_a_deadline_counts_from_the_read_and_not_from_its_command(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)
        own_redis.freeze()
        asking = [asyncio.create_task(reads.user(MOVIES, V1, USERS[0]))]
        await asyncio.sleep(0.15)
        asking.append(asyncio.create_task(reads.user(MOVIES, V1, USERS[1])))  # waits behind the first command
        start = time.monotonic()
        await asyncio.wait(asking)
        assert time.monotonic() - start < 0.3
        own_redis.thaw()

    run(own_redis.url, work)


def test_an_answer_that_comes_late_reaches_nobody_else(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await reads.user(MOVIES, V1, USERS[0])
        for n in range(1, 8):
            own_redis.freeze()
            late = asyncio.create_task(reads.user(MOVIES, V1, USERS[n]))
            await asyncio.sleep(0.06)
            own_redis.thaw()  # the answer to the first read is under way from now on
            await asyncio.wait([late])
            await wait_for(reads, n + 8)
            await all_users(reads)

    run(own_redis.url, work, timedelta(seconds=0.05))


def test_a_connection_that_died_while_idle_costs_no_read(own_redis: OwnRedis, client: redis.Redis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)
        for _ in range(5):
            assert client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == 1  # type: ignore[no-untyped-call]
            await all_users(reads)

    run(own_redis.url, work)


def test_a_connection_that_breaks_under_a_read_is_replaced_and_the_read_repeated(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)
        own_redis.freeze()
        asking = [asyncio.create_task(reads.user(MOVIES, V1, user)) for user in USERS]
        await asyncio.sleep(0.01)
        own_redis.stop()
        own_redis.start()
        fill(own_redis.url)
        states = await asyncio.gather(*asking)
        assert all(is_of(state, n) for n, state in enumerate(states))

    run(own_redis.url, work, timedelta(seconds=10))


def test_a_redis_that_stops_and_starts_again_is_used_again(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)
        own_redis.stop()
        with pytest.raises(StoreUnavailable, match="Redis"):
            await reads.user(MOVIES, V1, USERS[0])
        own_redis.start()
        fill(own_redis.url)
        await wait_for(reads, 3)
        await all_users(reads)

    run(own_redis.url, work)


def test_a_redis_that_is_away_at_the_start_is_found_later(tmp_path: Path) -> None:
    async def work(reads: RedisUserReads) -> None:
        with pytest.raises(StoreUnavailable):
            await reads.user(MOVIES, V1, USERS[0])
        server.start()
        fill(server.url)
        await wait_for(reads, 3)

    server = OwnRedis(tmp_path)
    try:
        run(server.url, work)
    finally:
        server.stop()


def test_whatever_keeps_it_from_connecting_reads_resume_when_it_is_gone(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        # a name with a label too long to be encoded is no OSError
        reads._address = Address.of(f"redis://{'x' * 64}.invalid:6379")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="UnicodeE"):
                await reads.user(MOVIES, V1, USERS[0])
        reads._address = Address.of(own_redis.url)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert is_of(await reads.user(MOVIES, V1, USERS[1]), 1)
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return
        pytest.fail("reads did not resume")

    run(own_redis.url, work)


def test_a_command_on_a_connection_that_is_not_open_gets_an_os_error() -> None:
    replies: list[object] = []
    RedisConnection().send(("PING",), replies.append)
    assert [type(reply) for reply in replies] == [ConnectionResetError]


def test_a_reader_that_leaves_disturbs_no_other(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        asking = [asyncio.create_task(reads.user(MOVIES, V1, user)) for user in USERS]
        await asyncio.sleep(0)
        for task in asking[::2]:
            task.cancel()
        states = await asyncio.gather(*asking, return_exceptions=True)
        for n, state in enumerate(states):
            if n % 2:
                assert isinstance(state, UserState)
                assert is_of(state, n)
            else:
                assert isinstance(state, asyncio.CancelledError)

    run(own_redis.url, work)


def test_readers_that_all_leave_do_not_hide_a_silent_redis_from_those_behind_them(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)
        own_redis.freeze()
        leaving = asyncio.create_task(reads.user(MOVIES, V1, USERS[0]))
        await asyncio.sleep(0.01)
        leaving.cancel()
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await reads.user(MOVIES, V1, USERS[1])
        assert time.monotonic() - start < 1.0
        own_redis.thaw()

    run(own_redis.url, work)


def test_a_closed_reader_fails_what_waits_and_what_comes(own_redis: OwnRedis) -> None:
    async def work(reads: RedisUserReads) -> None:
        await all_users(reads)
        own_redis.freeze()
        waiting = asyncio.create_task(reads.user(MOVIES, V1, USERS[0]))
        await asyncio.sleep(0.01)
        await reads.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await waiting
        with pytest.raises(StoreUnavailable, match="closed"):
            await reads.user(MOVIES, V1, USERS[0])
        own_redis.thaw()

    run(own_redis.url, work)


def test_a_database_with_a_password_and_a_number_is_read(tmp_path: Path) -> None:
    async def refused(reads: RedisUserReads) -> None:
        with pytest.raises(StoreUnavailable, match="AUTH"):
            await reads.user(MOVIES, V1, USERS[0])

    with running_redis(tmp_path / "redis") as server:
        other = server.url.replace("db=0", "db=5")
        fill(other)
        with closing(store.connect(other)) as client:
            client.config_set("requirepass", "pass word")
        run(other.replace("unix://", "unix://:pass%20word@"), all_users)
        run(other.replace("unix://", "unix://:wrong@"), refused)
        run(other, noauth_refused)


async def noauth_refused(reads: RedisUserReads) -> None:
    with pytest.raises(StoreUnavailable, match="NOAUTH"):
        await reads.user(MOVIES, V1, USERS[0])


@pytest.mark.parametrize(
    ("url", "path", "host", "port", "greeting"),
    [
        ("redis://somewhere:7000/3", "", "somewhere", 7000, (("SELECT", "3"), ("PING",))),
        ("redis://", "", "localhost", 6379, (("PING",),)),
        ("redis://me:secret@h", "", "h", 6379, (("AUTH", "me", "secret"), ("PING",))),
        ("unix:///run/r.sock", "/run/r.sock", "localhost", 6379, (("PING",),)),
    ],
)
def test_an_address_is_read_as_redis_py_reads_it(
    url: str, path: str, host: str, port: int, greeting: tuple[tuple[str, ...], ...]
) -> None:
    address = Address.of(url)
    assert (address.path, address.host, address.port, address.greeting) == (path, host, port, greeting)
    assert address.tls is None


def test_a_tls_address_checks_certificates_unless_told_otherwise() -> None:
    checked, unchecked = Address.of("rediss://h").tls, Address.of("rediss://h?ssl_cert_reqs=none").tls
    assert checked is not None
    assert unchecked is not None
    assert (checked.check_hostname, unchecked.check_hostname) == (True, False)
