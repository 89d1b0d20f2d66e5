"""Stores that do what they are asked, until the process that asks is killed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from serving_api.rollouts.readiness import RolloutStores

S = TypeVar("S")


class Killed(BaseException):
    """The process is gone. No `except Exception` of it runs."""


@dataclass
class Fuse:
    """Kills at one call, counted from 1, before or after the store has done it; None never.

    calls : of stores so far
    """

    at: int | None = None
    after: bool = False
    calls: int = 0
    blown: bool = False

    def call(self, work: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> object:
        """Do it, unless it is the one."""
        self.calls += 1
        deadly = self.calls == self.at
        if deadly and not self.after:
            self.blown = True
            raise Killed
        done = work(*args, **named)
        if deadly:
            self.blown = True
            raise Killed
        return done


class _Fused:
    """A store behind a fuse."""

    def __init__(self, store: object, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    def __getattr__(self, name: str) -> Callable[..., object]:
        work = getattr(self._store, name)
        return lambda *args, **named: self._fuse.call(work, args, named)


def fused(stores: RolloutStores, fuse: Fuse) -> RolloutStores:
    """The same stores, each of whose calls goes through the fuse."""
    return replace(
        stores,
        registry=_behind(stores.registry, fuse),
        rollouts=_behind(stores.rollouts, fuse),
        routes=_behind(stores.routes, fuse),
        artifacts=_behind(stores.artifacts, fuse),
    )


def _behind(store: S, fuse: Fuse) -> S:
    return cast(S, _Fused(store, fuse))
