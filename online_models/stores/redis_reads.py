"""What serving reads of the stream job's results in Redis: one user per request, and what a reader polls.

- A request must not wait: the asynchronous client has a short timeout and tries once more, without a pause, for a
  connection that died in the pool.
- Both decode with the codecs of `redis.py`, which wrote it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import msgspec
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from online_models import history
from online_models.contracts import keys
from online_models.contracts.ids import ItemId, ModelName, ModelVersion, UserId
from online_models.errors import StoreError, StoreUnavailable
from online_models.ports import UserState, Vector
from online_models.stores.redis import decode_vector


class RedisUserReads:
    """`UserReads` on Redis; used by one event loop."""

    def __init__(self, url: str, timeout: timedelta) -> None:
        seconds = timeout.total_seconds()
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 1),
        )

    async def user(self, model: ModelName, version: ModelVersion | None, user_id: UserId) -> UserState:
        """Vector and history in one MGET.

        Raises
        ------
        StoreUnavailable
            When Redis does not answer in time.
        StoreError
            When what it holds is torn.
        """
        wanted = [keys.history(model, user_id)]
        if version is not None:
            wanted.append(keys.user_vector(model, version, user_id))
        with _translated():
            raws = cast(list[bytes | None], await self._client.mget(wanted))
        known, vector = raws[0], raws[1] if version is not None else None
        try:
            met = history.EMPTY if known is None else history.decode(known)
        except ValueError as error:
            raise StoreError(f"{wanted[0]}: {error}") from error
        return UserState(None if vector is None else decode_vector(vector)[1], met)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class RedisStreamReads:
    """`StreamReads` on Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def new_items(self, model: ModelName, version: ModelVersion) -> dict[ItemId, Vector]:
        """Vectors float32 (k,) of the items that are newer than the version. Raises StoreUnavailable, StoreError."""
        with _translated():
            table = cast(dict[bytes, bytes], self._client.hgetall(keys.new_items(model, version)))
        return {ItemId(item.decode()): decode_vector(raw)[1] for item, raw in table.items()}

    def popular(self, model: ModelName) -> list[ItemId]:
        """The most popular item ids, best first; empty when nothing is known. Raises StoreUnavailable, StoreError."""
        with _translated():
            raw = self._client.get(keys.popular_items(model))
        try:
            return [] if raw is None else msgspec.json.decode(raw, type=list[ItemId])
        except msgspec.DecodeError as error:
            raise StoreError(f"{keys.popular_items(model)}: {error}") from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailable(f"Redis: {error}") from error
    except redis.RedisError as error:
        raise StoreError(f"Redis: {error}") from error
