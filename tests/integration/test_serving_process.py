"""`python -m serving_api` as a process: it starts, says what is wrong, and leaves when it is asked to."""

import os
import signal
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import Route
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisRoutes
from serving_api.__main__ import main
from serving_api.routes.recommendations import PREFIX
from tests.api_process import eventually, logged_events
from tests.artifacts import publish, small_model
from tests.serving_process import answers, free_port, start

MOVIES = ModelName("movies")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_over_http_and_leaves_in_order(
    fresh_stores: Endpoints, tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    with start(fresh_stores, tmp_path, "serve", "--port", str(port)) as process:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(f"{url}/readyz"), "the API is ready", seconds=30)
        assert httpx.get(f"{url}/v1/recommendations/u1?domain=movies").json()["items"] == []
        process.send_signal(number)
        assert process.wait(20) == 0


def test_what_was_answered_before_the_end_is_on_the_log_after_it(fresh_stores: Endpoints, tmp_path: Path) -> None:
    port = free_port()
    routed(fresh_stores, tmp_path)
    with start(fresh_stores, tmp_path, "serve", "--port", str(port)) as process:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(f"{url}/readyz"), "the API is ready", seconds=30)
        asked = {httpx.get(f"{url}/v1/recommendations/u{n}?domain=movies&k=3").json()["request_id"] for n in range(20)}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    events = logged_events(tmp_path)
    assert len(events) == 60
    assert {event.request_id for event in events} == asked


def test_several_workers_answer_count_together_and_are_replaced_when_they_die(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    port = free_port()
    version = routed(fresh_stores, tmp_path)
    with start(fresh_stores, tmp_path, "serve", "--port", str(port), "--workers", "2") as process:
        url = f"http://127.0.0.1:{port}"
        assert process.stderr is not None
        log = Lines(process.stderr)
        eventually(lambda: log.count("startup complete") == 2, "both workers serve", seconds=60)
        sharing = workers(process.pid, tmp_path)
        assert len(sharing) == 2
        for n in range(10):
            answer = httpx.get(f"{url}/v1/recommendations/u{n % 6}?domain=movies").json()
            assert (answer["model_version"], answer["source"]) == (version, "factors")
        text = httpx.get(f"{url}/metrics").text
        assert f'penstock_requests_total{{route="{PREFIX}{{user_id:path}}",status="200"}} 10.0' in text
        assert 'penstock_reader_epoch{model="movies"} 1.0' in text
        os.kill(sharing[0], signal.SIGKILL)
        eventually(lambda: log.count("startup complete") == 3, "the dead one is replaced", seconds=60)
        assert len(set(workers(process.pid, tmp_path)) - {sharing[0]}) == 2
        assert answers(f"{url}/readyz")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


class Lines:
    """What a process writes, read as it comes, so that it never waits for us."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: list[str] = []
        threading.Thread(target=lambda: self._lines.extend(iter(stream.readline, "")), daemon=True).start()

    def count(self, words: str) -> int:
        return sum(words in line for line in list(self._lines))


def workers(pid: int, home: Path) -> list[int]:
    """Descendants of a process that have the one file of factors mapped."""
    (factors,) = (home / "artifacts").rglob("factors.safetensors")
    inode = str(factors.stat().st_ino)
    found = psutil.Process(pid).children(recursive=True)
    maps = {each.pid: Path(f"/proc/{each.pid}/maps").read_text().splitlines() for each in found}
    return [each for each, lines in maps.items() if any(line.split()[4] == inode for line in lines)]


def routed(endpoints: Endpoints, home: Path) -> ModelVersion:
    version = published(endpoints, home)
    with closing(redis_store.connect(endpoints.redis_url)) as client:
        RedisRoutes(client).put_route(MOVIES, Route(epoch=1, stable=version))
    return version


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_number_of_workers_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], count: str) -> None:
    with pytest.raises(SystemExit):
        main(["serve", f"--workers={count}"])
    assert f"expected 1 or more, got '{count}'" in capsys.readouterr().err


def test_serve_with_a_store_away_ends_with_one_line(postgres: str, tmp_path: Path) -> None:
    away = Endpoints(f"unix://{tmp_path}/none.sock", postgres)
    with start(away, tmp_path, "serve", "--port", "0") as process:
        assert process.stderr is not None
        message = process.stderr.read()
        assert process.wait(30) == 1
    assert "penstock-api: Redis" in message
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1


def published(endpoints: Endpoints, home: Path) -> ModelVersion:
    with closing(postgres_store.connect(endpoints.postgres_dsn)) as database:
        artifacts = FilesystemArtifacts(home / "artifacts")
        return publish(artifacts, PostgresRegistry(database), MOVIES, small_model(1))


def stable_version(endpoints: Endpoints) -> ModelVersion | None:
    with closing(redis_store.connect(endpoints.redis_url)) as client:
        route = RedisRoutes(client).route(MOVIES)
        return None if route is None else route.stable


def test_control_once_ticks_and_leaves(fresh_stores: Endpoints, tmp_path: Path) -> None:
    version = published(fresh_stores, tmp_path)
    with start(fresh_stores, tmp_path, "control", "--once") as process:
        assert process.wait(30) == 0
    assert stable_version(fresh_stores) == version


def test_control_leaves_on_sigterm_without_waiting_for_its_next_tick(fresh_stores: Endpoints, tmp_path: Path) -> None:
    version = published(fresh_stores, tmp_path)
    with start(fresh_stores, tmp_path, "control", PENSTOCK_SERVING_CONTROL_SECONDS="600") as process:
        eventually(lambda: stable_version(fresh_stores) == version, "its first tick", seconds=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PENSTOCK_SERVING_PROT", "1", "unknown setting PENSTOCK_SERVING_PROT"),
        ("PENSTOCK_SERVING_PORT", "eighty", "port"),
        ("PENSTOCK_SERVING_STAGE_PERCENTS", "[50, 5]", "stage_percents"),
    ],
)
def test_a_bad_setting_ends_it_with_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["control", "--once"]) == 1
    assert words in capsys.readouterr().err


def test_a_port_in_use_ends_it_with_a_message(fresh_stores: Endpoints, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with start(fresh_stores, tmp_path, "serve", "--port", str(taken.getsockname()[1])) as process:
            assert process.stderr is not None
            message = process.stderr.read()
            assert process.wait(30) != 0
    assert "address already in use" in message
