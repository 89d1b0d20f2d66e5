"""Several actions begun at one moment, each on a connection of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from online_models.errors import StoreError


def outcomes(actions: Sequence[Callable[[], object]]) -> list[object]:
    """What each of several actions, begun together, returned, or the StoreError that it raised."""
    together = Barrier(len(actions))

    def act(action: Callable[[], object]) -> object:
        together.wait()
        try:
            return action()
        except StoreError as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(act, actions))
