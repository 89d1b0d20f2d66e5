"""Redis: vectors, histories, sources and blends of the models, and the route documents.

- Vectors are written by variadic MSET: redis-py spends its time per command, and one command for 1000 vectors
  is 7 to 10 times as fast as a pipeline of SETs.
- A batch and its position are one MULTI/EXEC, so a crash leaves both or neither.
- The codecs are functions of their own: the asynchronous reader decodes with them what the flow encoded.
- Nothing of redis-py leaves the stores: its errors become `StoreUnavailable` and `StoreError`.
"""

import functools
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import numpy as np
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from online_models import history
from online_models.contracts import keys
from online_models.contracts.ids import Epoch, ItemId, ModelName, ModelVersion, RolloutId, UserId
from online_models.contracts.rollouts import ReaderStatus, Route, Served
from online_models.errors import StoreError, StoreUnavailable
from online_models.history import UserHistory
from online_models.learner import MovedItem
from online_models.ports import EmbeddingUpdate, SourcesState, Vector, VersionUpdate
from online_models.stores import redis_served

if TYPE_CHECKING:
    from redis.client import Pipeline
    from redis.connection import Connection

STATUS_TTL: Final = timedelta(seconds=15)
"""A reader that has been silent for longer no longer counts."""

POSITION_TTL: Final = timedelta(days=7)
SERVED_TTL: Final = timedelta(days=30)
FORGET_READER: Final = timedelta(days=1)

_KEYS_PER_COMMAND = 1000
_RETRIES = 3

_VERSION = struct.Struct("<q")
_POPULARITY = struct.Struct("<dd")
_MOVED = struct.Struct("<qd")
_FLOAT32 = np.dtype("<f4")

T = TypeVar("T")


def connect(url: str) -> redis.Redis:
    """A client whose server answers; one per process, it is thread-safe.

    A lost connection is opened again and the command repeated, which is safe: every command of these stores
    overwrites or compares.

    Parameters
    ----------
    url : `redis://host:port/db` or `unix:///path?db=0`

    Raises
    ------
    StoreUnavailable
        When the server cannot be reached.
    """
    retry = Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), _RETRIES)
    client = redis.Redis.from_pool(_PatientPool.from_url(url, retry=retry))
    with translated():
        client.ping()
    return client


class _PatientPool(redis.ConnectionPool):
    """A pool that tries once more where the connection it has just opened in place of a lost one is lost too.

    redis-py repeats a command whose connection breaks, but not the pool's own check before it.
    """

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> "Connection":
        try:
            return super().get_connection()
        except redis.ConnectionError:
            return super().get_connection()


def encode_vector(version_ms: int, vector: Vector) -> bytes:
    """The stored form of a vector (k,): its event-time version (int64), then k float32, all little-endian.

    >>> decode_vector(encode_vector(7, np.array([0.5, -1.0], np.float32)))
    (7, array([ 0.5, -1. ], dtype=float32))
    """
    return _VERSION.pack(version_ms) + np.asarray(vector, _FLOAT32).tobytes()


def decode_vector(raw: bytes) -> tuple[int, Vector]:
    """The version (epoch ms) and the read-only vector (k,) behind a stored string. Raises StoreError when
    torn."""
    if len(raw) < _VERSION.size or len(raw) % _FLOAT32.itemsize:
        raise StoreError(f"a vector: expected 8 + 4 k bytes, got {len(raw)}")
    return _VERSION.unpack_from(raw)[0], np.frombuffer(raw, _FLOAT32, offset=_VERSION.size)


def encode_popularity(count: float, at_ms: int) -> bytes:
    """The stored form of a decayed count and the time (epoch ms) that it is decayed to: two float64."""
    return _POPULARITY.pack(count, at_ms)


def decode_popularity(raw: bytes) -> tuple[float, int]:
    """The decayed count and its time. Raises StoreError when torn.

    >>> decode_popularity(encode_popularity(2.5, 1767225600000))
    (2.5, 1767225600000)
    """
    if len(raw) != _POPULARITY.size:
        raise StoreError(f"a popularity: expected {_POPULARITY.size} bytes, got {len(raw)}")
    count, at_ms = _POPULARITY.unpack(raw)
    return count, int(at_ms)


def encode_moved_item(item: MovedItem) -> bytes:
    """The stored form: its event-time version (int64), its weight (float64), then k float32, all little-endian."""
    return _MOVED.pack(item.ts_ms, item.weight) + np.asarray(item.vector, _FLOAT32).tobytes()


def decode_moved_item(raw: bytes) -> MovedItem:
    """A moved item, its vector read-only. Raises StoreError when torn.

    >>> decode_moved_item(encode_moved_item(MovedItem(7, 2.5, np.array([0.5, -1.0], np.float32))))
    MovedItem(ts_ms=7, weight=2.5, vector=array([ 0.5, -1. ], dtype=float32))
    """
    if len(raw) < _MOVED.size or len(raw) % _FLOAT32.itemsize:
        raise StoreError(f"a moved item: expected 16 + 4 k bytes, got {len(raw)}")
    ts_ms, weight = _MOVED.unpack_from(raw)
    return MovedItem(ts_ms, weight, np.frombuffer(raw, _FLOAT32, offset=_MOVED.size))


class RedisEmbeddings:
    """`EmbeddingStore` on Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def applied_position(self, model: ModelName, run_id: str, source: str) -> int:
        """Position up to which a run's source is applied; -1 when nothing is."""
        raw = _call(self._client, "GET", keys.applied_position(model, run_id, source))
        return -1 if raw is None else int(raw)

    def histories(self, model: ModelName, users: Sequence[UserId]) -> list[UserHistory]:
        """Histories in the order asked; `history.EMPTY` for unknown users. One round trip."""
        if not users:
            return []
        found = _call(self._client, "MGET", *(keys.history(model, user) for user in users))
        try:
            return [history.EMPTY if raw is None else history.decode(raw) for raw in found]
        except ValueError as error:
            raise StoreError(f"a history of {model!r}: {error}") from error

    def popularity(self, model: ModelName) -> dict[ItemId, tuple[float, int]]:
        """Item id -> (decayed count, epoch ms it is decayed to)."""
        table = self._hash(keys.popularity(model))
        return {item: decode_popularity(raw) for item, raw in table.items()}

    def moved_items(self, model: ModelName, version: ModelVersion) -> dict[ItemId, MovedItem]:
        """Items that the stream has moved since the version was trained, or that are newer."""
        return {item: decode_moved_item(raw) for item, raw in self._hash(keys.moved_items(model, version)).items()}

    def blend(self, model: ModelName, version: ModelVersion) -> bytes | None:
        """What a version's blend has learned; None before it has."""
        raw: bytes | None = _call(self._client, "GET", keys.blend(model, version))
        return raw

    def sources(self, model: ModelName) -> SourcesState:
        """What the sources have learned; read as one."""
        with translated(), self._client.pipeline(transaction=True) as pipe:
            pipe.get(keys.sources(model))
            pipe.get(keys.publication(model))
            pipe.hgetall(keys.sources_log(model))
            state, published, log = pipe.execute()
        steps = {int(number): raw for number, raw in log.items()}
        return SourcesState(max([int(published or 0), *steps]), state, [steps[number] for number in sorted(steps)])

    def apply(self, update: EmbeddingUpdate) -> int:
        """Write a batch's changes and its position in one MULTI/EXEC; idempotent, since all are overwrites.

        Returns the number of vectors written. Batches of one source are applied in order, by its only writer.
        """
        model = update.model
        with translated(), self._client.pipeline(transaction=True) as pipe:
            changed = update.histories.items()
            _mset(pipe, {keys.history(model, user): history.encode(known) for user, known in changed})
            for version in update.versions:
                _put_version(pipe, model, version)
            _hset(
                pipe,
                keys.popularity(model),
                {item: encode_popularity(*count) for item, count in update.popularity.items()},
            )
            pipe.set(keys.popular_items(model), msgspec.json.encode(update.popular))
            _put_sources(pipe, update)
            position = keys.applied_position(model, update.run_id, update.source)
            pipe.set(position, update.position, ex=POSITION_TTL)
            pipe.execute()
        return sum(len(version.users) + len(version.items) for version in update.versions)

    def drop_version(self, model: ModelName, version: ModelVersion) -> int:
        """Delete a retired version's keys; idempotent. Returns how many were deleted. Scans all keys."""
        # A version's keys begin like the key of the user with the empty name.
        prefix = keys.user_vector(model, version, "").removesuffix("u:")
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        deleted = 0
        with translated():
            found = list(self._client.scan_iter(match=pattern, count=_KEYS_PER_COMMAND))
        for start in range(0, len(found), _KEYS_PER_COMMAND):
            deleted += _call(self._client, "UNLINK", *found[start : start + _KEYS_PER_COMMAND])
        return deleted

    def _hash(self, key: str) -> dict[ItemId, bytes]:
        with translated():
            table: Mapping[bytes, bytes] = self._client.hgetall(key)  # type: ignore[assignment]
        return {ItemId(field.decode()): raw for field, raw in table.items()}


def _put_version(pipe: "Pipeline", model: ModelName, update: VersionUpdate) -> None:
    version = update.version
    _mset(pipe, {keys.user_vector(model, version, u): encode_vector(*row) for u, row in update.users.items()})
    _hset(pipe, keys.moved_items(model, version), {item: encode_moved_item(row) for item, row in update.items.items()})
    if update.blend is not None:
        pipe.set(keys.blend(model, version), update.blend)
    if update.item_vectors is not None:
        pipe.set(keys.item_vectors(model, version), update.item_vectors)


def _put_sources(pipe: "Pipeline", update: EmbeddingUpdate) -> None:
    model = update.model
    if update.sources is not None:
        pipe.set(keys.sources(model), update.sources)
        pipe.set(keys.publication(model), update.number)
        pipe.delete(keys.sources_log(model))
    elif update.steps:
        pipe.hset(keys.sources_log(model), str(update.number), update.steps)


def _mset(pipe: "Pipeline", table: Mapping[str, bytes]) -> None:
    pairs = list(table.items())
    for start in range(0, len(pairs), _KEYS_PER_COMMAND):
        pipe.mset(dict(pairs[start : start + _KEYS_PER_COMMAND]))


def _hset(pipe: "Pipeline", key: str, table: Mapping[ItemId, bytes] | Mapping[str, bytes]) -> None:
    if table:
        pipe.hset(key, mapping={str(field): raw for field, raw in table.items()})


class RedisRoutes:
    """`RouteStore` on Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._unreadable: set[tuple[str, bytes]] = set()

    def route(self, model: ModelName) -> Route | None:
        """The current document. Raises StoreError when it cannot be read."""
        raw = _call(self._client, "HGET", keys.route(model), "document")
        return None if raw is None else _decoded(raw, Route, keys.route(model))

    def route_epoch(self, model: ModelName) -> Epoch | None:
        """The epoch of the document, which itself may be torn. Raises StoreError when it is no number."""
        raw = _call(self._client, "HGET", keys.route(model), "epoch")
        try:
            return None if raw is None else Epoch(int(raw))
        except ValueError as error:
            raise StoreError(f"{keys.route(model)}: expected an epoch: {error}") from error

    def put_route(self, model: ModelName, route: Route) -> bool:
        """Write the document unless there is one of a larger epoch (compare-and-set by Lua); False when there is. Idempotent."""
        script = self._client.register_script(_route_script())
        with translated():
            return bool(script(keys=[keys.route(model)], args=[route.epoch, msgspec.json.encode(route)]))

    def heartbeat(self, model: ModelName, reader_id: str, now: datetime) -> None:
        """A reader of the model says that it lives; readers silent for a day are forgotten. Idempotent."""
        with translated(), self._client.pipeline(transaction=False) as pipe:
            pipe.zadd(keys.readers(model), {reader_id: now.timestamp()})
            pipe.zremrangebyscore(keys.readers(model), "-inf", (now - FORGET_READER).timestamp())
            pipe.execute()

    def put_status(self, model: ModelName, reader_id: str, status: ReaderStatus) -> None:
        """A reader says what it holds (TTL 15 s). Idempotent."""
        key = keys.reader_status(model, status.version, reader_id)
        _call(self._client, "SET", key, msgspec.json.encode(status), "EX", int(STATUS_TTL.total_seconds()))

    def statuses(self, model: ModelName, version: ModelVersion, now: datetime) -> dict[str, ReaderStatus | None]:
        """Status of each reader of the model seen in the last 15 s; None where it has said nothing of this version."""
        oldest = (now - STATUS_TTL).timestamp()
        found = _call(self._client, "ZRANGEBYSCORE", keys.readers(model), oldest, "+inf")
        readers = [raw.decode() for raw in found]
        if not readers:
            return {}
        names = [keys.reader_status(model, version, reader) for reader in readers]
        said = _call(self._client, "MGET", *names)
        return {
            reader: None if raw is None else _decoded(raw, ReaderStatus, name)
            for reader, name, raw in zip(readers, names, said, strict=True)
        }

    def put_served(
        self, model: ModelName, rollout_id: RolloutId, reader_id: str, served: Mapping[tuple[int, str], Served]
    ) -> None:
        """A reader says what its requests of a rollout came to since it began, by stage and variant. Idempotent."""
        key, fields = keys.served(model, rollout_id), redis_served.encode(reader_id, served)
        if not fields:
            return
        with translated(), self._client.pipeline(transaction=True) as pipe:
            _hset(pipe, key, fields)
            pipe.expire(key, SERVED_TTL)
            pipe.execute()

    def served(self, model: ModelName, rollout_id: RolloutId) -> dict[tuple[int, str], Served]:
        """What all readers, living and gone, have said of a rollout, summed up by stage and variant; less what is torn."""
        key = keys.served(model, rollout_id)
        with translated():
            fields: Mapping[bytes, bytes] = self._client.hgetall(key)  # type: ignore[assignment]
        return redis_served.summed(fields, key, self._unreadable)


@functools.cache
def _route_script() -> str:
    return resources.files("online_models.stores").joinpath("route.lua").read_text(encoding="utf-8")


def _decoded(raw: bytes, kind: type[T], key: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise StoreError(f"{key}: expected a {kind.__name__}: {error}") from error


def _call(client: redis.Redis, *command: Any) -> Any:
    with translated():
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


@contextmanager
def translated() -> Iterator[None]:
    """The errors of redis-py inside become `StoreUnavailable` and `StoreError`."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailable(f"Redis: {error}") from error
    except redis.RedisError as error:
        raise StoreError(f"Redis: {error}") from error
