"""An artifact in the reader's own code, before anybody is served by it: is it whole, does it answer, how quickly.

- Read, verified and asked as by a reader: mapped files, hashes, shapes, golden queries, views, retrieval, ranking. Neither Redis
  nor PostgreSQL is needed; users are what their histories say.
- Users are given, or drawn with a seed from what the artifact calls popular; some have no history, some are known to it by their
  id alone.
- At once means tasks of one event loop, as in a reader process: a request's time includes its turn among the others.
"""

import asyncio
import hashlib
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.contracts.artifacts import MANIFEST_NAME, decode_manifest
from online_models.contracts.ids import ModelName, hash64, hashes_of
from online_models.contracts.smoke import SmokeFigures
from online_models.errors import ArtifactError
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory, merge
from online_models.ports import RegisteredVersion, UserState
from online_models.stores.filesystem import FilesystemArtifacts
from serving_api.facts import Facts
from serving_api.model_cache import load_version
from serving_api.ranked_list import RankedList
from serving_api.ranking import RankedItem, Visit, rank, warm_up
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from serving_api.views import Views

LONGEST_HISTORY: Final = 30
POPULAR: Final = 2_000
"""Histories are drawn from so many of the most popular items."""

DRAWN_USERS: Final = 500
STRANGERS_EVERY: Final = 10
"""Of so many drawn users one has no history, and another is known by the id alone."""

Milliseconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked: so many requests one at a time, as many again by `clients` at once, for k items each."""

    requests: int = 1_000
    clients: int = 8
    k: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """Who is asked for: an id, and the items met, oldest first."""

    user_id: str
    items: Sequence[str]


@dataclass(slots=True)
class Tally:
    """What went wrong with answers, see `SmokeFigures`."""

    errors: int = 0
    first_error: str = ""
    empty: int = 0
    short: int = 0
    wrong: int = 0

    def fail(self, error: Exception) -> None:
        """Count a request that raised something."""
        self.errors += 1
        self.first_error = self.first_error or f"{type(error).__name__}: {error}"

    def take(self, answer: Sequence[RankedItem], asked: "_Asked", k: int, items: int) -> None:
        """Count what is wrong with an answer; items : of the version."""
        hashes = [hash64(each.item_id) for each in answer]
        there = min(k, items - len(asked.met))
        self.empty += there > 0 and not answer
        self.short += len(answer) < there
        self.wrong += len(set(hashes)) < len(hashes) or not asked.met.isdisjoint(hashes)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A user as ranking takes them."""

    user_id: str
    state: UserState
    met: frozenset[int]


@dataclass(slots=True)
class _Reader:
    """A view under load."""

    view: VersionView
    users: Sequence[_Asked]
    k: int
    now_ms: int
    tally: Tally = field(default_factory=Tally)

    def ask(self, number: int) -> None:
        """One request."""
        asked = self.users[number % len(self.users)]
        try:
            visit = Visit(asked.user_id, self.k, self.now_ms)
            answer = rank(self.view, RankedList.of([]), self.view.facts, visit, asked.state, Reranking()).items
        except Exception as error:  # noqa: BLE001  the outermost boundary of a request: all of them are counted
            self.tally.fail(error)
        else:
            self.tally.take(answer, asked, self.k, len(self.view.loaded.item_ids))


def smoke(directory: Path, model: ModelName, load: Load, users: Sequence[User] | None = None) -> SmokeFigures:
    """Load the artifact in `directory` (`<root>/<model>/<version>`) as a reader does, and ask it.

    users : who is asked for; drawn when none are given

    Raises
    ------
    ArtifactError
        When a reader would refuse it; names why.
    """
    began = time.perf_counter()
    view = opened(directory, model)
    load_seconds = time.perf_counter() - began
    loaded = view.loaded
    asked = [_asked(user) for user in users or drawn_users(view, load.seed)]
    reader = _Reader(view, asked, load.k, max(1, loaded.manifest.data_window.end_ms))
    alone = asyncio.run(_under_load(reader, load.requests, 1))
    began = time.perf_counter()
    busy = asyncio.run(_under_load(reader, load.requests, load.clients))
    return SmokeFigures(
        version=loaded.version,
        kind=loaded.manifest.kind,
        items=len(loaded.item_ids),
        load_seconds=load_seconds,
        rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        requests=2 * load.requests,
        clients=load.clients,
        p50_ms=float(np.quantile(alone, 0.5)),
        p99_ms=float(np.quantile(alone, 0.99)),
        busy_p50_ms=float(np.quantile(busy, 0.5)),
        busy_p99_ms=float(np.quantile(busy, 0.99)),
        requests_per_second=load.requests / (time.perf_counter() - began),
        errors=reader.tally.errors,
        first_error=reader.tally.first_error,
        empty=reader.tally.empty,
        short=reader.tally.short,
        wrong=reader.tally.wrong,
    )


def opened(directory: Path, model: ModelName) -> VersionView:
    """The artifact's view, warm: as it is before the stream has published anything. Raises ArtifactError."""
    directory = directory.resolve()
    try:
        raw = (directory / MANIFEST_NAME).read_bytes()
        manifest = decode_manifest(raw)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{directory}: expected an artifact: {error}") from error
    if directory.parts[-2:] != (model, manifest.version):
        raise ArtifactError(f"expected a directory {model}/{manifest.version}, got {directory}")
    registered = RegisteredVersion(
        model=model,
        version=manifest.version,
        manifest_sha256=hashlib.sha256(raw).hexdigest(),
        manifest=manifest,
        created_at=datetime.fromisoformat(manifest.created_at),
    )
    loaded = load_version(FilesystemArtifacts(directory.parents[1]), registered)
    views = Views(model, Facts.of({}, (), model)).with_versions({manifest.version: loaded})
    view = views.built[manifest.version]
    warm_up(view)
    return view


def drawn_users(view: VersionView, seed: int) -> list[User]:
    """Users with seeded histories of popular items; some strangers, and some that the artifact knows by their id alone."""
    rng = np.random.default_rng(seed)
    popular = list(view.loaded.popular.ids[:POPULAR]) or view.loaded.item_ids[:POPULAR]
    known = list(view.loaded.user_rows)
    users = []
    for number in range(DRAWN_USERS):
        many = 0 if number % STRANGERS_EVERY in (0, 1) else int(rng.integers(1, LONGEST_HISTORY + 1))
        met = rng.choice(len(popular), min(many, len(popular) // 2), replace=False).tolist()
        by_id = number % STRANGERS_EVERY == 1 and known
        name = known[int(rng.integers(len(known)))] if by_id else f"drawn-{number}"
        users.append(User(name, [popular[place] for place in met]))
    return users


def _asked(user: User) -> _Asked:
    hashes = hashes_of(user.items)
    recent = np.zeros(len(hashes), ENTRY)
    recent["ts_ms"], recent["event"], recent["item"] = (
        np.arange(1, len(hashes) + 1),
        np.arange(1, len(hashes) + 1),
        hashes,
    )
    recent["strength"] = 1.0
    history: UserHistory = merge(EMPTY, recent, recent[["ts_ms", "item"]].astype(SEEN))
    return _Asked(user.user_id, UserState(None, history), frozenset(hashes.tolist()))


async def _under_load(reader: _Reader, requests: int, clients: int) -> Milliseconds:
    """Milliseconds of each request, by so many clients that ask again as soon as they have an answer."""
    took: list[float] = []
    numbers = iter(range(requests))

    async def client() -> None:
        for number in numbers:
            began = time.perf_counter()
            await asyncio.sleep(0)  # where a reader waits for Redis, the others have their turn
            reader.ask(number)
            took.append((time.perf_counter() - began) * 1_000)

    await asyncio.gather(*(client() for _ in range(clients)))
    return np.array(took)
