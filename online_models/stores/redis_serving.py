"""What the API and its `precompute` command keep in Redis: preferences, frozen lists of sessions, lists made beforehand.

Rare beside the reads of requests, and so by the ordinary client, from threads; it gives up soon.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import Final, cast

import msgspec
import redis

from online_models.contracts import keys
from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.contracts.preferences import NO_PREFERENCES, PrecomputedList, Preferences
from online_models.errors import StoreError
from online_models.ports import UserState
from online_models.stores.redis import translated
from online_models.stores.redis_reads import decode_preferences, decoded_state, state_keys

log: Final = logging.getLogger(__name__)

PREFERENCES_TTL: Final = timedelta(days=365)


class RedisServing:
    """`ServingStore` on Redis; thread-safe.

    Parameters
    ----------
    url : as for `redis.connect`; nothing is connected before it is needed
    timeout : longest wait for an answer
    """

    def __init__(self, url: str, timeout: timedelta) -> None:
        seconds = timeout.total_seconds()
        self._client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def preferences(self, model: ModelName, user_id: UserId) -> Preferences:
        """What a user has said to like; `NO_PREFERENCES` when nothing. Raises StoreUnavailable, StoreError."""
        key = keys.preferences(model, user_id)
        with translated():
            raw = cast(bytes | None, self._client.get(key))
        try:
            return NO_PREFERENCES if raw is None else decode_preferences(raw)
        except msgspec.DecodeError as error:
            raise StoreError(f"{key}: {error}") from error

    def put_preferences(self, model: ModelName, user_id: UserId, preferences: Preferences) -> None:
        """Replace what a user has said. Idempotent. Raises StoreUnavailable, StoreError."""
        with translated():
            self._client.set(keys.preferences(model, user_id), msgspec.json.encode(preferences), ex=PREFERENCES_TTL)

    def drop_preferences(self, model: ModelName, user_id: UserId) -> bool:
        """Forget it; whether there was anything. Idempotent. Raises StoreUnavailable, StoreError."""
        with translated():
            return bool(self._client.delete(keys.preferences(model, user_id)))

    def session(self, model: ModelName, request_id: str) -> bytes | None:
        """The frozen list behind a request's pages; None when it has expired, or never was. Raises StoreError."""
        with translated():
            return cast(bytes | None, self._client.get(keys.session(model, request_id)))

    def put_session(self, model: ModelName, request_id: str, raw: bytes, ttl: timedelta) -> None:
        """Keep a frozen list. Idempotent. Raises StoreUnavailable, StoreError."""
        with translated():
            self._client.set(keys.session(model, request_id), raw, px=ttl)

    def states(
        self, model: ModelName, users: Sequence[tuple[UserId, ModelVersion, ModelVersion | None]]
    ) -> list[UserState | None]:
        """What is known of users, each under a version and a language model, in the order asked; None where that is torn.

        One round trip. Raises StoreUnavailable, StoreError.
        """
        wanted = [state_keys(model, version, user, language, lists=False) for user, version, language in users]
        if not wanted:
            return []
        with translated():
            found = iter(cast(list[bytes | None], self._client.mget([key for each in wanted for key in each.values()])))
        values = [dict(zip(each, islice(found, len(each)), strict=True)) for each in wanted]
        return [_whole(model, user, of_user) for (user, *_), of_user in zip(users, values, strict=True)]

    def put_lists(
        self, model: ModelName, lists: Sequence[tuple[UserId, ModelVersion, PrecomputedList]], ttl: timedelta
    ) -> None:
        """Replace users' precomputed lists. Idempotent. One round trip. Raises StoreUnavailable, StoreError."""
        with translated(), self._client.pipeline(transaction=False) as pipe:
            for user, version, listed in lists:
                pipe.set(keys.precomputed_list(model, version, user), msgspec.json.encode(listed), px=ttl)
            pipe.execute()


def _whole(model: ModelName, user: UserId, values: Mapping[str, bytes | None]) -> UserState | None:
    try:
        return decoded_state(model, user, values)
    except StoreError as error:
        log.warning("user_state_torn model=%s error=%s", model, error)
        return None
