"""The mirror over real HTTP: everything arrives, twice does no harm, and a server that is away holds nothing up."""

import dataclasses
import math
import socket
import time
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace

from online_models.contracts.ids import ModelVersion
from online_models.contracts.registry import Happening
from online_models.contracts.rollouts import Phase
from online_models.errors import StoreError, StoreUnavailable
from online_models.rollout_store import Act
from online_models.stores.postgres import Database
from online_models.stores.postgres_outbox import PostgresOutbox
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from retrain_workers.registry.mirror import Mirrored, mirror, never, run_of, runs_of, waiting_lines
from retrain_workers.registry.mlflow_rest import MlflowServer
from tests.samples import MOVIES, SHA256, canary, manifest
from tests.tracking_server import Tracked, tracking_server

V1, V2 = ModelVersion("v1"), ModelVersion("v2")
SECOND = timedelta(seconds=1)


class Told:
    """The stores of one test."""

    def __init__(self, dsn: str) -> None:
        self.database = Database(dsn)
        self.registry, self.rollouts = PostgresRegistry(self.database), PostgresRollouts(self.database)
        self.outbox = PostgresOutbox(self.database)

    def mirror(self, uri: str, limit: timedelta = 10 * SECOND) -> Mirrored:
        return mirror(self.outbox, self.registry, MlflowServer(uri, 5 * SECOND), limit)

    def register(self, version: ModelVersion) -> None:
        self.registry.register(manifest(version), SHA256, "test")

    def waiting(self) -> int:
        return sum(state.entries for state in self.outbox.waiting())

    def make_due(self) -> None:
        """As if the pause were over."""
        self.database.execute("UPDATE registry_outbox SET not_before = now()", {})


@pytest.fixture
def told(postgres: str) -> Told:
    return Told(postgres)


def promote(told: Told) -> None:
    """v1 is champion, v2 challenges it and wins."""
    told.register(V1)
    told.register(V2)
    told.rollouts.adopt(MOVIES, V1, "test")
    rollout = told.rollouts.create(canary(V1, V2), Act("test", "test", {}))
    told.rollouts.transition(rollout, msgspec.structs.replace(rollout, phase=Phase.PROMOTED), Act("test", "better", {}))


def of_version(tracked: Tracked, version: ModelVersion) -> dict[str, str]:
    (tags,) = [run.tags for run in tracked.runs.values() if run.tags["penstock.version"] == version]
    return tags


def test_a_version_arrives_with_its_parameters_figures_tags_and_aliases(told: Told) -> None:
    promote(told)
    with tracking_server() as (tracked, uri):
        assert told.mirror(uri) == Mirrored(sent=2)
    assert list(tracked.experiments) == ["penstock/movies"]
    assert {run.name for run in tracked.runs.values()} == {"movies v1", "movies v2"}
    (first, _) = tracked.runs.values()
    assert first.params == {"factors": "8", "kind": "als", "regularization": "1e-05", "seed": "0"}
    assert first.metrics == {"ndcg_at_10": 0.25}
    assert of_version(tracked, V1)["penstock.state"] == Happening.REPLACED
    assert of_version(tracked, V2)["penstock.state"] == Happening.PROMOTED
    assert tracked.pointed() == {"champion": "v2", "previous": "v1"}
    assert told.waiting() == 0


def test_aliases_follow_what_happens_later(told: Told) -> None:
    with tracking_server() as (tracked, uri):
        told.register(V1)
        told.register(V2)
        told.mirror(uri)
        assert tracked.pointed() == {}
        told.rollouts.adopt(MOVIES, V1, "test")
        rollout = told.rollouts.create(canary(V1, V2), Act("test", "test", {}))
        told.mirror(uri)
        assert tracked.pointed() == {"champion": "v1", "challenger": "v2"}
        ended = msgspec.structs.replace(rollout, phase=Phase.ROLLED_BACK)
        told.rollouts.transition(rollout, ended, Act("test", "worse", {}))
        told.mirror(uri)
        assert tracked.pointed() == {"champion": "v1"}


def test_what_is_sent_twice_is_there_once(told: Told) -> None:
    promote(told)
    with tracking_server() as (tracked, uri):
        told.mirror(uri)
        before = (dict(tracked.runs), dict(tracked.versions), dict(tracked.aliases))
        assert told.outbox.refill(MOVIES) == len(told.registry.events(MOVIES))
        assert told.mirror(uri).sent == 2
        assert (tracked.runs, tracked.versions, tracked.aliases) == before


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_server_that_is_away_postpones_and_gets_everything_when_it_is_back(told: Told) -> None:
    told.register(V1)
    port = free_port()
    away = told.mirror(f"http://127.0.0.1:{port}")
    assert (away.sent, away.postponed) == (0, 1)
    assert "Connection refused" in away.error
    (line,) = waiting_lines(told.outbox)
    assert line.startswith("movies: 1 waiting, 1 failures, MLflow: POST experiments/create: ")
    told.register(V2)  # publishing goes on, and waits with the rest of its model
    with tracking_server(port) as (tracked, uri):
        assert told.mirror(uri) == Mirrored()
        told.make_due()
        assert told.mirror(uri).sent == 2
        assert {run.name for run in tracked.runs.values()} == {"movies v1", "movies v2"}


@pytest.mark.parametrize(("status", "raised"), [(500, StoreUnavailable), (403, StoreError)])
def test_a_refusal_keeps_the_entry_with_the_reason(told: Told, status: int, raised: type[StoreError]) -> None:
    told.register(V1)
    with tracking_server() as (tracked, uri):
        tracked.failing = status
        (run,) = runs_of(told.outbox.claim(SECOND * 0, 10), told.registry)
        with pytest.raises(
            raised, match=f"MLflow: POST experiments/create: {status} INTERNAL_ERROR out of order"
        ) as info:
            MlflowServer(uri, SECOND).put(run, never)
        assert type(info.value) is raised
        failed = told.mirror(uri)
    assert failed.postponed == told.waiting() == 1


def test_a_server_that_does_not_answer_holds_a_worker_up_no_longer_than_the_timeout(told: Told) -> None:
    told.register(V1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        done = mirror(told.outbox, told.registry, MlflowServer(uri, 0.2 * SECOND))
        assert time.monotonic() - begin < 5
    assert done.postponed == 1
    assert "timed out" in done.error


def test_what_is_no_mlflow_is_said_to_be_none(told: Told) -> None:
    told.register(V1)
    (run,) = runs_of(told.outbox.claim(SECOND * 0, 10), told.registry)
    with tracking_server() as (_, uri), pytest.raises(StoreError, match="404"):
        MlflowServer(f"{uri}/elsewhere", SECOND).put(run, never)


def test_a_pass_that_is_out_of_time_leaves_the_rest_due(told: Told) -> None:
    told.register(V1)
    told.register(V2)
    with tracking_server() as (_, uri):
        assert told.mirror(uri, limit=timedelta(0)) == Mirrored()
        assert told.mirror(uri).sent == 2


def test_what_was_not_tried_has_not_failed(told: Told) -> None:
    """Passes that were out of time, and a version behind one that is refused."""
    told.register(V1)
    told.register(V2)
    with tracking_server() as (tracked, uri):
        tracked.slow_seconds = 0.02
        for _ in range(5):
            assert told.mirror(uri, limit=timedelta(seconds=0.01)).sent <= 1
            told.outbox.refill()
        tracked.slow_seconds, tracked.refused = 0, "v2"
        tracked.runs.clear()
        (before,) = told.outbox.waiting()
        assert (before.entries, before.failures, before.error) == (2, 0, None)
        failed = told.mirror(uri)
        assert (failed.sent, failed.postponed) == (1, 1)
        (after,) = told.outbox.waiting()
        assert (after.entries, after.failures) == (1, 1)
        assert after.error is not None
        assert "not this one" in after.error
        told.make_due()
        told.mirror(uri)
        assert [state.failures for state in told.outbox.waiting()] == [2]


def test_entries_behind_a_refused_one_wait_with_it_and_count_no_failure(told: Told) -> None:
    told.register(V1)
    told.register(V2)
    with tracking_server() as (tracked, uri):
        tracked.refused = "v1"
        assert told.mirror(uri).postponed == 1
        assert told.mirror(uri) == Mirrored()  # the model waits as a whole
        told.make_due()
        found = {entry.event.version: entry.failures for entry in told.outbox.claim(SECOND, 10)}
    assert found == {V1: 1, V2: 0}


@pytest.mark.parametrize("requests", [0, 1, 4, 9])
def test_a_pass_that_is_stopped_makes_no_further_request_and_leaves_the_rest_due(told: Told, requests: int) -> None:
    promote(told)
    events = told.waiting()
    with tracking_server() as (tracked, uri):

        def stopped() -> bool:
            return len(tracked.asked) >= requests

        server = MlflowServer(uri, 5 * SECOND)
        done = mirror(told.outbox, told.registry, server, stopped=stopped)
        assert (len(tracked.asked), done.postponed, done.error) == (requests, 0, "")
        assert told.waiting() == (events if done.sent == 0 else events - 3)
        assert told.mirror(uri).sent == 2 - done.sent
        assert told.waiting() == 0
        assert {run.name for run in tracked.runs.values()} == {"movies v1", "movies v2"}
        assert (len(tracked.runs), len(tracked.versions)) == (2, 2)
        assert tracked.pointed() == {"champion": "v2", "previous": "v1"}


def test_an_entry_in_the_hands_of_one_worker_is_not_given_to_another(told: Told, postgres: str) -> None:
    told.register(V1)
    assert [entry.event.version for entry in told.outbox.claim(60 * SECOND, 10)] == [V1]
    told.register(V2)
    assert Told(postgres).outbox.claim(SECOND, 10) == []
    told.make_due()  # the first has died
    again = Told(postgres).outbox.claim(SECOND, 10)
    assert [(entry.event.version, entry.failures) for entry in again] == [(V1, 0), (V2, 0)]  # nobody has refused them


def test_without_a_server_the_outbox_waits_for_a_worker_that_knows_of_one_and_can_be_filled_again(told: Told) -> None:
    promote(told)
    events = len(told.registry.events(MOVIES))
    assert mirror(told.outbox, told.registry, None) == Mirrored()
    assert told.waiting() == events
    assert told.outbox.trim(0) == events
    with tracking_server() as (tracked, uri):
        assert told.outbox.refill() == events
        told.mirror(uri)
        assert len(tracked.runs) == 2


def test_an_outbox_keeps_its_youngest_entries(told: Told) -> None:
    promote(told)
    assert told.outbox.trim(2) == len(told.registry.events(MOVIES)) - 2
    kept = [entry.event.happening for entry in told.outbox.claim(SECOND, 10)]
    assert kept == [Happening.PROMOTED, Happening.REPLACED]
    assert told.outbox.trim(2) == 0


def test_credentials_in_the_address_are_sent_as_a_header_and_nowhere_else(told: Told) -> None:
    told.register(V1)
    with tracking_server() as (tracked, uri):
        told.mirror(uri.replace("//", "//ann:pa%20ss@"))
        assert tracked.authorization == "Basic YW5uOnBhIHNz"
        assert [path for path in tracked.asked if "ann" in path] == []


def test_a_figure_that_is_no_number_is_left_out(told: Told) -> None:
    odd = replace(manifest(V1), metrics={"ndcg_at_10": 0.5, "auc": math.nan, "loss": math.inf})
    told.register(V1)
    found = told.registry.version(MOVIES, V1)
    assert found is not None
    assert run_of(dataclasses.replace(found, manifest=odd), {}, {}, []).metrics == {"ndcg_at_10": 0.5}


def test_an_event_and_its_entry_are_written_together_or_not_at_all(told: Told) -> None:
    told.register(V1)
    with pytest.raises(StoreError, match="expected a new version"):
        told.register(V1)
    assert told.waiting() == len(told.registry.events(MOVIES)) == 1
