"""`python -m serving_api` as a process: it starts, says what is wrong, and leaves when it is asked to."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisRoutes
from serving_api.__main__ import main
from tests.api_process import eventually
from tests.artifacts import publish, small_model

ROOT = Path(__file__).parents[2]
MOVIES = ModelName("movies")


def start(endpoints: Endpoints, home: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    environment |= {"PENSTOCK_HOME": str(home), "PYTHONPATH": str(ROOT), **extra}
    environment |= {"PENSTOCK_REDIS_URL": endpoints.redis_url, "PENSTOCK_POSTGRES_DSN": endpoints.postgres_dsn}
    command = [sys.executable, "-m", "serving_api", *arguments]
    return subprocess.Popen(command, cwd=home, env=environment, stderr=subprocess.PIPE, text=True)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


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
