"""How much of what scoring every item would give is found: by the index of a version, and by an answer over HTTP."""

import json
import statistics
import time
import urllib.request
from collections.abc import Iterator, Set
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.serving_load import Server
from benchmarks.serving_world import DOMAIN, Known, user_id
from online_models.contracts.ids import ModelVersion
from online_models.ports import UserState
from online_models.settings import StoreSettings
from online_models.stores import postgres
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_registry import PostgresRegistry
from serving_api.facts import Facts
from serving_api.index import ExactIndex, Index
from serving_api.model_cache import load_version
from serving_api.ranked_list import RankedList
from serving_api.ranking import Visit, rank, user_vectors
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from serving_api.views import Views

ASKED_USERS: Final = 200
NO_FACTS: Final = Facts.of({}, (), DOMAIN)


@dataclass(frozen=True, slots=True)
class Recall:
    """Mean shares of the exact k best: by what users' vectors ask the index for, and in their answers."""

    index: float
    answers: float


def recall(
    server: Server, stream: Known, version: ModelVersion, settings: StoreSettings, endpoints: Endpoints, k: int
) -> Recall:
    """Over users spread over all of them; an index that looks at every item misses none."""
    index, view = exact(stream, version, settings, endpoints)
    answers = [share(best(view, user, state, k), answered(server, user, k)) for user, state in asked(stream)]
    if index is None:
        return Recall(1.0, statistics.mean(answers))
    everything = ExactIndex(view.loaded.item_factors)
    found = []
    for user, state in asked(stream):
        _, vectors = user_vectors(view.loaded, user_id(user), state)
        query = view.query(vectors, len(state.history.recent))
        exact_rows, rows = (each.search(query, k)[0].tolist() for each in (everything, index))
        found.append(share({*exact_rows}, {*rows}))
    return Recall(statistics.mean(found), statistics.mean(answers))


def share(wanted: Set[object], found: Set[object]) -> float:
    """How much of what is wanted was found.

    >>> share({"a", "b"}, {"b", "c"})
    0.5
    """
    return len(wanted & found) / len(wanted)


def asked(stream: Known) -> Iterator[tuple[int, UserState]]:
    for user in range(0, len(stream.states), max(1, len(stream.states) // ASKED_USERS)):
        yield user, stream.states[user]


def exact(
    stream: Known, version: ModelVersion, settings: StoreSettings, endpoints: Endpoints
) -> tuple[Index | None, VersionView]:
    """The version's index, and what the server ranks by, without it."""
    with closing(postgres.connect(endpoints.postgres_dsn)) as database:
        registered = PostgresRegistry(database).version(DOMAIN, version)
    assert registered is not None
    loaded = load_version(FilesystemArtifacts(settings.artifacts), registered)
    views = Views(DOMAIN, NO_FACTS).with_versions({version: replace(loaded, nearest=None)})
    return loaded.nearest, views.with_publication(stream.published).built[version]


def best(view: VersionView, user: int, state: UserState, k: int) -> set[str]:
    """A user's best items, every item scored."""
    visit = Visit(user_id(user), k, round(time.time() * 1000))
    return {item.item_id for item in rank(view, RankedList.of([]), NO_FACTS, visit, state, Reranking()).items}


def answered(server: Server, user: int, k: int) -> set[str]:
    """The items that a user is shown."""
    path = server.path.replace("USER", user_id(user))
    with urllib.request.urlopen(server.url + path) as answer:
        items = json.load(answer)["items"]
    assert len(items) == k
    return {item["item_id"] for item in items}
