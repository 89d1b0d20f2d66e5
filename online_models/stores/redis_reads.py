"""What serving reads of the stream job's results in Redis: one user per request, and what a reader polls.

- Requests do not ask one by one: all that ask in one pass of the event loop, or while an answer is under way, share one MGET.
- A request waits no longer than the timeout. Then the connection is dropped, so that a late answer meets nobody, and reads
  fail at once until Redis has answered again: of a store that is away, only those who found out have waited.
- Histories and vectors are views of the bytes that came, not copies.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import Final, cast

import msgspec
import redis

from online_models import history
from online_models.contracts import keys
from online_models.contracts.ids import ItemId, ModelName, ModelVersion, UserId
from online_models.contracts.preferences import NO_PREFERENCES, Preferences
from online_models.errors import StoreError, StoreUnavailable
from online_models.ports import Published, UserState
from online_models.stores.redis import decode_vector, translated
from online_models.stores.redis_connection import Address, RedisConnection, Reply

log: Final = logging.getLogger(__name__)

decode_preferences: Final = msgspec.json.Decoder(Preferences).decode

READS_PER_COMMAND: Final = 256
"""Of up to five keys each; more readers wait for the next command, so that one slow reply does not hold up all."""

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Between two tries to reach a Redis that does not answer."""

_GRACE_SECONDS: Final = 0.002
"""An event loop that was held up itself first reads what has come meanwhile, then judges."""


class _Read:
    """One request's keys and their values to come; `since` is the loop's time, `repeated` whether a connection broke under it."""

    __slots__ = ("keys", "repeated", "since", "values")

    def __init__(self, keys: Sequence[str], since: float, values: "asyncio.Future[list[bytes | None]]") -> None:
        self.keys = keys
        self.since = since
        self.values = values
        self.repeated = False

    def succeed(self, values: list[bytes | None]) -> None:
        if not self.values.done():  # done: the request was cancelled
            self.values.set_result(values)

    def fail(self, error: StoreError) -> None:
        if not self.values.done():
            self.values.set_exception(error)


class RedisUserReads:
    """`UserReads` on Redis; used by one event loop.

    Parameters
    ----------
    url : as for `redis.connect`
    timeout : longest wait of a read
    lists : read precomputed lists too
    """

    def __init__(self, url: str, timeout: timedelta, *, lists: bool = False) -> None:
        self._address = Address.of(url)
        self._timeout = timeout.total_seconds()
        self._lists = lists
        self._connection: RedisConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[_Read] = []
        self._asked: list[_Read] = []
        self._flush_due = False
        self._watch: asyncio.TimerHandle | None = None
        self._down = ""

    async def user(
        self,
        model: ModelName,
        version: ModelVersion | None,
        user_id: UserId,
        language_model: ModelVersion | None = None,
    ) -> UserState:
        """Vector, history, preferences, scores and perhaps a list, from an MGET that all who ask now share.

        Raises
        ------
        StoreUnavailable
            When Redis does not answer in time, or has not answered since it last did not.
        StoreError
            When what it holds is torn.
        """
        wanted = state_keys(model, version, user_id, language_model, lists=self._lists)
        values = await self._values(list(wanted.values()))
        return decoded_state(model, user_id, dict(zip(wanted, values, strict=True)))

    async def close(self) -> None:
        """Close the connection; reads under way fail."""
        self._down = "Redis: the reads are closed"
        if self._watch is not None:
            self._watch.cancel()
        self._drop_all()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])

    def _values(self, wanted: Sequence[str]) -> "asyncio.Future[list[bytes | None]]":
        """The values of the keys, to come."""
        if self._down:
            raise StoreUnavailable(self._down)
        loop = asyncio.get_running_loop()
        read = _Read(wanted, loop.time(), loop.create_future())
        self._waiting.append(read)
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        if self._watch is None:
            self._watch = loop.call_later(self._timeout, self._look)
        return read.values

    def _flush(self) -> None:
        """Send what waits as one command, unless the one before is still under way."""
        self._flush_due = False
        if self._asked or not self._waiting:
            return
        if self._connection is None or not self._connection.is_open:
            self._connect_soon()
            return
        batch, self._waiting = self._waiting[:READS_PER_COMMAND], self._waiting[READS_PER_COMMAND:]
        self._asked = batch
        command = ("MGET", *chain.from_iterable(read.keys for read in batch))
        self._connection.send(command, partial(self._answered, batch))

    def _answered(self, batch: list[_Read], reply: Reply) -> None:
        if batch is not self._asked:  # given up meanwhile
            return
        self._asked = []
        if isinstance(reply, list):
            place = 0
            for read in batch:
                read.succeed(reply[place : place + len(read.keys)])
                place += len(read.keys)
        elif isinstance(reply, OSError):
            self._repeat(batch, reply)
        else:
            for read in batch:
                read.fail(StoreError(f"Redis: {reply}"))
        self._flush()

    def _repeat(self, batch: list[_Read], error: OSError) -> None:
        """A connection may have died of old age: ask once more on a new one."""
        if batch[0].repeated:
            self._give_up(str(error))
            return
        for read in batch:
            read.repeated = True
        self._waiting = [*batch, *self._waiting]

    def _look(self) -> None:
        """The timeout may have passed for the oldest read; judge it, or look again when it has."""
        self._watch = None
        oldest = next((read for read in chain(self._asked, self._waiting) if not read.values.done()), None)
        if oldest is None:
            return
        loop = asyncio.get_running_loop()
        due = oldest.since + self._timeout
        if loop.time() < due:
            self._watch = loop.call_at(due, self._look)
        else:
            self._watch = loop.call_later(_GRACE_SECONDS, self._judge, oldest)

    def _judge(self, oldest: _Read) -> None:
        if not oldest.values.done():
            self._give_up(f"no answer within {self._timeout:g} s")
        self._look()

    def _give_up(self, reason: str) -> None:
        """Fail all reads, and every later one until Redis answers again."""
        if not self._down:
            log.warning("redis_reads_stopped reason=%s", reason)
        self._down = f"Redis: {reason}"
        self._drop_all()
        self._connect_soon()

    def _drop_all(self) -> None:
        reads, self._asked, self._waiting = [*self._asked, *self._waiting], [], []
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        for read in reads:
            read.fail(StoreUnavailable(self._down))

    def _connect_soon(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        """Connect, whatever goes wrong and however many tries it takes; then send what waits."""
        try:
            await self._reach()
        finally:
            self._connecting = None
        if self._down:
            log.info("redis_reads_resumed")
        self._down = ""
        self._flush()

    async def _reach(self) -> None:
        """Try until there is a connection; reads fail from the first failure on until then."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    self._connection = await RedisConnection.open(self._address)
                return
            except (OSError, StoreError) as error:  # a TimeoutError is an OSError
                self._give_up(str(error) or f"no answer within {self._timeout:g} s")
            except Exception as error:  # a task that died of it would leave reads failing for good
                log.exception("redis_reads_cannot_connect")
                self._give_up(f"{type(error).__name__}: {error}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def state_keys(
    model: ModelName,
    version: ModelVersion | None,
    user_id: UserId,
    language_model: ModelVersion | None = None,
    *,
    lists: bool,
) -> dict[str, str]:
    """The keys of what is known of a user, by what it is; `decoded_state` takes their values so."""
    known = {"history": keys.history(model, user_id), "preferences": keys.preferences(model, user_id)}
    if version is not None:
        known["vector"] = keys.user_vector(model, version, user_id)
        if lists:
            known["list"] = keys.precomputed_list(model, version, user_id)
        if language_model is not None:
            known["language"] = keys.language_scores(model, language_model, user_id)
    return known


def decoded_state(model: ModelName, user_id: UserId, values: Mapping[str, bytes | None]) -> UserState:
    """What is known of a user, from the values of `state_keys`. Raises StoreError when one is torn."""
    known, said, vector = values["history"], values["preferences"], values.get("vector")
    try:
        met = history.EMPTY if known is None else history.decode(known)
        likes = NO_PREFERENCES if said is None else decode_preferences(said)
    except ValueError as error:  # a DecodeError is one
        raise StoreError(f"{model} {user_id}: {error}") from error
    return UserState(
        None if vector is None else decode_vector(vector)[1], met, likes, values.get("list"), values.get("language")
    )


class RedisStreamReads:
    """`StreamReads` on Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def publication(self, model: ModelName) -> int:
        """Number of the last batch that is published; 0 before the first publication. Raises StoreUnavailable, StoreError."""
        with translated():
            return int(cast(bytes | None, self._client.get(keys.publication(model))) or 0)

    def published(self, model: ModelName, versions: Sequence[ModelVersion]) -> Published:
        """The last publication, read as one. Raises StoreUnavailable, StoreError."""
        with translated(), self._client.pipeline(transaction=True) as pipe:
            pipe.get(keys.publication(model))
            pipe.get(keys.sources(model))
            for version in versions:
                pipe.get(keys.item_vectors(model, version))
                pipe.get(keys.blend(model, version))
            number, sources, *parts = pipe.execute()
        vectors, blends = dict(zip(versions, parts[::2], strict=True)), dict(zip(versions, parts[1::2], strict=True))
        return Published(
            int(number or 0),
            sources,
            {version: raw for version, raw in vectors.items() if raw is not None},
            {version: raw for version, raw in blends.items() if raw is not None},
        )

    def segments(self, model: ModelName, version: ModelVersion) -> bytes | None:
        """What a version's language model says of new items by segment; None without one. Raises StoreUnavailable, StoreError."""
        with translated():
            return cast(bytes | None, self._client.get(keys.segment_scores(model, version)))

    def popular(self, model: ModelName) -> list[ItemId]:
        """The most popular item ids, best first; empty when nothing is known. Raises StoreUnavailable, StoreError."""
        with translated():
            raw = self._client.get(keys.popular_items(model))
        try:
            return [] if raw is None else msgspec.json.decode(raw, type=list[ItemId])
        except msgspec.DecodeError as error:
            raise StoreError(f"{keys.popular_items(model)}: {error}") from error
