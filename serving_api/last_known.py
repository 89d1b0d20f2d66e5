"""What was last read of the users of late, for the time when Redis does not answer: those whose last read is oldest go first."""

from collections import OrderedDict
from itertools import chain
from typing import Final

from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.ports import UserState

OVERHEAD_BYTES: Final = 1_000
"""About what Python keeps for a user besides the arrays: seven objects and a place in the table."""


class LastKnown:
    """User states as last read, at most `limit_bytes` of them.

    >>> from online_models.history import EMPTY
    >>> known, movies, user = LastKnown(10_000), ModelName("movies"), UserId("u1")
    >>> known.put(movies, ModelVersion("v1"), user, UserState(None, EMPTY))
    >>> known.get(movies, ModelVersion("v1"), user) is None, known.get(movies, None, UserId("u2")) is None
    (False, True)
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._states: OrderedDict[tuple[ModelName, UserId], tuple[ModelVersion | None, UserState]] = OrderedDict()

    def put(self, model: ModelName, version: ModelVersion | None, user_id: UserId, state: UserState) -> None:
        """Remember a state, with the version that its vector belongs to."""
        key = (model, user_id)
        before = self._states.pop(key, None)
        if before is not None:
            self._bytes -= size_bytes(before[1])
        self._states[key] = (version, state)
        self._bytes += size_bytes(state)
        while self._bytes > self._limit_bytes:
            _, (_, oldest) = self._states.popitem(last=False)
            self._bytes -= size_bytes(oldest)

    def get(self, model: ModelName, version: ModelVersion | None, user_id: UserId) -> UserState | None:
        """The last state known; without vector and list when those were another version's."""
        found = self._states.get((model, user_id))
        if found is None:
            return None
        of, state = found
        return state if of == version else UserState(None, state.history, state.preferences)


def size_bytes(state: UserState) -> int:
    """About the memory that a state holds."""
    vector = 0 if state.vector is None else state.vector.nbytes
    said = sum(map(len, chain(state.preferences.items, state.preferences.categories)))
    listed = len(state.precomputed or b"") + len(state.language or b"")
    return OVERHEAD_BYTES + vector + said + listed + state.history.recent.nbytes + state.history.seen.nbytes
