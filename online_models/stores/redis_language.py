"""What a worker tells the readers of its language model's scores, in Redis."""

from collections.abc import Mapping
from datetime import timedelta

import redis

from online_models.contracts import keys
from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.stores.redis import translated

SCORES_PER_COMMAND = 500
"""Users whose scores are written with one round trip: about 300 KB."""


class RedisLanguageScores:
    """`LanguageScoreWrites` on Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put_scores(
        self, model: ModelName, version: ModelVersion, scores: Mapping[UserId, bytes], ttl: timedelta
    ) -> None:
        """Replace users' scores (`language_scores.encode_scores`). Idempotent. Raises StoreUnavailable."""
        users = list(scores)
        for start in range(0, len(users), SCORES_PER_COMMAND):
            with translated(), self._client.pipeline(transaction=False) as pipe:
                for user in users[start : start + SCORES_PER_COMMAND]:
                    pipe.set(keys.language_scores(model, version, user), scores[user], px=ttl)
                pipe.execute()

    def put_segments(self, model: ModelName, version: ModelVersion, segments: bytes, ttl: timedelta) -> None:
        """Replace the scores of new items by segment (`SegmentScores.encode`). Idempotent. Raises StoreUnavailable."""
        with translated():
            self._client.set(keys.segment_scores(model, version), segments, px=ttl)

    def put_complete(self, model: ModelName, version: ModelVersion, space: str, ttl: timedelta) -> None:
        """Note that all scores of a version are there, beside a recommender of this space (`Manifest.space`). Idempotent.

        Raises StoreUnavailable.
        """
        with translated():
            self._client.set(keys.complete_scores(model, version), space, px=ttl)

    def time_left(self, model: ModelName, version: ModelVersion, space: str) -> timedelta:
        """How long the scores of a version beside a recommender of this space still count; none where they are not there.

        Raises StoreUnavailable.
        """
        with translated(), self._client.pipeline(transaction=True) as pipe:
            pipe.get(keys.complete_scores(model, version))
            pipe.pttl(keys.complete_scores(model, version))
            made_in, left_ms = pipe.execute()
        return timedelta(milliseconds=left_ms) if made_in == space.encode() else timedelta()

    def claim_scoring(self, model: ModelName, version: ModelVersion, worker: str, lease: timedelta) -> bool:
        """Take it on oneself to score again for a version; False while somebody else does. Compare-and-set. Raises
        StoreUnavailable."""
        with translated():
            return bool(self._client.set(keys.scoring(model, version), worker, px=lease, nx=True))

    def release_scoring(self, model: ModelName, version: ModelVersion) -> None:
        """Let others score again. Idempotent. Raises StoreUnavailable."""
        with translated():
            self._client.delete(keys.scoring(model, version))
