"""`python -m serving_api keys ...` and `rollout ...` against a served API: what operators type and see, and what it does."""

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import uvicorn

from online_models.contracts.rollouts import Phase
from online_models.stores.embedded import Endpoints
from serving_api.__main__ import main, server_config
from serving_api.app import create_app
from tests.api_process import FAST, eventually
from tests.operator_world import Operators, operators
from tests.serving_process import free_port

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; gives its exit status, output and errors."""
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))

    def of(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return of


@pytest.fixture
def run(command: Run, fresh_stores: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command over these stores."""
    monkeypatch.setenv("PENSTOCK_REDIS_URL", fresh_stores.redis_url)
    monkeypatch.setenv("PENSTOCK_POSTGRES_DSN", fresh_stores.postgres_dsn)
    return command


@pytest.fixture
def world(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Operators]:
    with operators(fresh_stores, tmp_path) as world:
        yield world


@pytest.fixture
def url(world: Operators) -> Iterator[str]:
    """Where an API over these stores answers HTTP."""
    server = uvicorn.Server(server_config(create_app(FAST, world.settings), FAST.model_copy(update={"port": 0})))
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        eventually(lambda: server.started, "the API is ready")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        serving.join()


@pytest.fixture
def rollout(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command about the rollouts of movies, with the key of an approver."""
    monkeypatch.setenv("PENSTOCK_SERVING_API_KEY", key_of(run, "approver"))
    return lambda verb, *more: run("rollout", verb, "movies", "--url", url, *more)


def key_of(run: Run, role: str, name: str = "alice", *more: str) -> str:
    status, out, err = run("keys", "create", "--role", role, "--name", name, *more)
    assert status == 0
    assert re.fullmatch(r"pk_[0-9a-f]{8}_[A-Za-z0-9_-]{43}\n", out)
    assert out.strip() not in err
    return out.strip()


def test_keys_are_made_listed_and_revoked_on_the_machine(run: Run) -> None:
    assert run("keys", "list")[1].splitlines() == ["prefix  name  role  state  created  expires"]
    key = key_of(run, "admin", "alice", "--expires-days", "90")
    key_of(run, "viewer", "bob")
    listed = run("keys", "list")[1]
    rows = [line.split()[:4] for line in listed.splitlines()[1:]]
    assert rows == [[key[3:11], "alice", "admin", "valid"], [rows[1][0], "bob", "viewer", "valid"]]
    assert key[12:] not in listed
    assert run("keys", "revoke", key[3:11])[0] == 0
    assert "revoked" in run("keys", "list")[1].splitlines()[1]
    status, _, err = run("keys", "revoke", "00000000")
    assert (status, "expected the prefix of a key" in err) == (1, True)
    status, _, err = run("keys", "create", "--role", "admin", "--name", "two words")
    assert (status, "expected a name" in err) == (1, True)


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_a_key_s_days_are_days(command: Run, days: str) -> None:
    with pytest.raises(SystemExit) as left:
        command("keys", "create", "--role", "admin", "--name", "alice", "--expires-days", days)
    assert left.value.code == 2


def test_a_rollout_is_started_with_a_gate_of_one_s_own_and_one_at_a_time(world: Operators, rollout: Run) -> None:
    status, out, _ = rollout("start", "--reason", "a new catalogue", "--gate", '{"margin": 0.2}')
    assert (status, "movies rollout" in out, "warning: no traffic is known" in out) == (0, True, True)
    assert world.latest().plan.policy.margin == 0.2
    status, _, err = rollout("start", "--reason", "once more")
    assert (status, "refused: 409" in err, "is open" in err) == (1, True, True)


def test_the_status_tells_where_a_rollout_is_and_of_no_request(rollout: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert rollout("start", "--reason", "a new catalogue")[0] == 0
    caplog.set_level(logging.INFO)
    status, out, _ = rollout("status")
    assert "httpx" not in [record.name for record in caplog.records]
    assert (status, "preparing before its first stage" in out, "by key:alice" in out) == (0, True, True)
    assert json.loads(rollout("status", "--json")[1])["canary"] == "v3"


def test_a_rollout_is_paused_resumed_and_promoted(world: Operators, rollout: Run) -> None:
    assert rollout("start", "--reason", "a new catalogue")[0] == 0
    assert rollout("pause", "--reason", "looking at it")[0] == 0
    assert world.latest().phase is Phase.PAUSED
    status, _, err = rollout("pause", "--reason", "again")
    assert (status, "paused already" in err) == (1, True)
    assert rollout("resume", "--reason", "seen enough")[0] == 0
    eventually(lambda: rollout("promote", "--reason", "it is better")[0] == 0, "the readers are ready")
    assert world.registry.champion(world.latest().model) == "v3"


def test_champions_are_undone_and_experiments_aborted_and_history_knows_why(world: Operators, rollout: Run) -> None:
    assert rollout("start", "--reason", "a new catalogue")[0] == 0
    eventually(lambda: rollout("promote", "--reason", "it is better")[0] == 0, "the readers are ready")
    status, out, _ = rollout("rollback", "--reason", "it was not")
    assert (status, "(rollback): v2 beside v3" in out) == (0, True)
    assert rollout("rollback", "--to", "v1", "--reason", "nor was that")[0] == 0
    assert world.route().stable == "v1"
    assert rollout("start", "--canary", "v3", "--kind", "ab", "--reason", "which is better")[0] == 0
    assert rollout("abort", "--reason", "nobody knows")[0] == 0
    status, out, _ = rollout("history")
    assert status == 0
    assert [word in out for word in ("a new catalogue", "it was not", "nor was that", "nobody knows")] == [True] * 4


def test_a_key_may_come_in_a_file_and_is_good_for_its_role(run: Run, rollout: Run, tmp_path: Path) -> None:
    assert rollout("start", "--reason", "a new catalogue")[0] == 0
    key_file = tmp_path / "key"
    key_file.write_text(key_of(run, "viewer") + "\n")
    assert rollout("status", "--key-file", str(key_file))[0] == 0
    status, _, err = rollout("abort", "--reason", "may I", "--key-file", str(key_file))
    assert (status, "takes the role operator; this key is viewer" in err) == (1, True)


def test_what_the_api_refuses_is_told_as_it_told_it(run: Run, rollout: Run) -> None:
    assert rollout("start", "--reason", "a new catalogue")[0] == 0
    status, _, err = rollout("abort", "--reason", "x")
    assert (status, "body.reason" in err) == (1, True)
    run("keys", "revoke", os.environ["PENSTOCK_SERVING_API_KEY"][3:11])
    status, _, err = rollout("status")
    assert (status, "refused: 401" in err) == (1, True)


def test_who_cannot_be_asked_is_told_from_who_refuses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SERVING_API_KEY", key_of(run, "viewer"))
    url = f"http://127.0.0.1:{free_port()}"
    status, out, err = run("rollout", "status", "movies", "--url", url)
    assert (status, out, "no answer" in err, url in err) == (2, "", True, True)
    for verb in ("pause", "abort"):
        assert run("rollout", verb, "movies", "--url", url, "--reason", "no matter")[0] == 2


def test_an_answer_of_another_release_or_of_something_else_is_no_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SERVING_API_KEY", key_of(run, "viewer"))

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "movies" in self.path else 404)
            self.end_headers()
            self.wfile.write(b'{"epoch": "many"}')

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        answers = [run("rollout", "status", model, "--url", url) for model in ("movies", "books")]
        server.shutdown()
    assert [(status, out) for status, out, _ in answers] == [(2, ""), (2, "")]
    assert ["another release" in answers[0][2], "404" in answers[1][2]] == [True, True]


@pytest.mark.parametrize("key", ["", "secret", "pk_00000000_é"])
def test_without_a_key_it_says_where_one_goes(command: Run, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("PENSTOCK_SERVING_API_KEY", key)
    status, _, err = command("rollout", "status", "movies")
    assert (status, "PENSTOCK_SERVING_API_KEY" in err) == (1, True)


@pytest.mark.parametrize("verb", ["start", "pause", "resume", "promote", "abort", "rollback"])
def test_a_change_wants_a_reason(command: Run, verb: str) -> None:
    with pytest.raises(SystemExit) as left:
        command("rollout", verb, "movies")
    assert left.value.code == 2


def test_every_command_s_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = ("start", "status", "pause", "resume", "promote", "abort", "rollback", "history")
    asked = [("rollout",), ("keys",), *(("rollout", verb) for verb in verbs)]
    for words in (*asked, ("keys", "create"), ("keys", "list"), ("keys", "revoke")):
        with pytest.raises(SystemExit) as left:
            main([*words, "--help"])
        assert left.value.code == 0
        assert f"python -m serving_api {' '.join(words)}" in capsys.readouterr().out.split("example")[1]
