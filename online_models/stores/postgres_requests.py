"""Operators' requests that carry an idempotency key, in PostgreSQL: asked again, the first answer is given again.

- The answer is noted in the transaction of what it answers: both are there, or neither.
- Who changes a model holds its champion's row before looking here, so that of two requests with one key the second finds the
  first. A key that is used for two models at once is told apart by the primary key.
"""

import msgspec

from online_models.contracts.rollouts import Rollout
from online_models.errors import RequestReused, StoreError
from online_models.rollout_store import Act
from online_models.stores.postgres import Cursor, query


def answered(cursor: Cursor, actor: str, request: tuple[str, str] | None) -> Rollout | None:
    """What a request did when it was first seen; None when it was not, or has no key. Raises RequestReused."""
    if request is None:
        return None
    key, fingerprint = request
    cursor.execute(query("select_operator_request"), {"actor": actor, "key": key})
    row = cursor.fetchone()
    if row is None:
        return None
    if row[0] != fingerprint:
        raise _reused(key, actor)
    try:
        return msgspec.json.decode(row[1], type=Rollout)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"idempotency key {key!r} of {actor}: expected a rollout as its answer, got {error}"
        ) from error


def note_answer(cursor: Cursor, act: Act, rollout: Rollout) -> None:
    """Note what a request has done, if it has a key. Raises RequestReused when the key was taken meanwhile."""
    if act.request is None:
        return
    key, fingerprint = act.request
    answer = msgspec.json.encode(rollout).decode()
    values = {"actor": act.actor, "key": key, "fingerprint": fingerprint, "answer": answer}
    cursor.execute(query("insert_operator_request"), values)
    if cursor.rowcount == 0:
        raise _reused(key, act.actor)


def _reused(key: str, actor: str) -> RequestReused:
    return RequestReused(f"idempotency key {key!r} of {actor}: expected a new key for another request")
