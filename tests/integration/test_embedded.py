"""The embedded servers against real processes: started, joined, killed, damaged and started again.

- Users of a home are real processes (`USER`), because what is tested is what the kernel does as they end.
- A home is made directly under /tmp: pytest's own directories are closed to the account that runs PostgreSQL.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from online_models.errors import EmbeddedError
from online_models.settings import StoreSettings
from online_models.stores.embedded import Endpoints, embedded, wheel_file
from online_models.stores.servers import open_servers

SUPERVISOR = "-m online_models.stores.embedded"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 15.0
USER = """
import dataclasses, json, pathlib, sys
from online_models.stores.embedded import embedded
with embedded(pathlib.Path(sys.argv[1])) as endpoints:
    print(json.dumps(dataclasses.asdict(endpoints)), flush=True)
    sys.stdin.read()
"""


@contextmanager
def new_home() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    parent.chmod(0o755)
    try:
        yield parent / ".penstock"
    finally:
        wait_until(lambda: not server_processes(parent / ".penstock"))
        shutil.rmtree(parent)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that no server has seen yet."""
    with new_home() as home:
        yield home


@pytest.fixture(scope="module")
def home_with_data() -> Iterator[Path]:
    with new_home() as home:
        with embedded(home) as endpoints:
            assert count_visit(endpoints) == (1, 1)
        yield home


@pytest.fixture
def used_home(home_with_data: Path) -> Path:
    """A home with data and no process; sharing it saves each test the making of a database cluster."""
    wait_until(lambda: not server_processes(home_with_data))
    return home_with_data


class User:
    """A process inside an `embedded` block."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(home)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def endpoints(self) -> Endpoints:
        assert self.process.stdout
        return Endpoints(**json.loads(self.process.stdout.readline()))

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def user_of(home: Path) -> Iterator[User]:
    user = User(home)
    try:
        yield user
    finally:
        user.kill()


def wait_until(condition: Callable[[], bool]) -> float:
    """Wait for the condition and return the seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + PATIENCE_SECONDS, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - start


def server_processes(home: Path) -> dict[str, list[psutil.Process]]:
    """Supervisor, redis-server and postmaster of a home, by the home's path on their command lines."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline())
            if f"{home}/" in f"{words}/":
                for kind in (SUPERVISOR, "redis-server", "bin/postgres"):
                    if kind in words:
                        found.setdefault(kind, []).append(process)
    return found


def kill_servers(home: Path) -> None:
    processes = [process for kind in server_processes(home).values() for process in kind]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.kill()
    wait_until(lambda: not server_processes(home))


def count_visit(endpoints: Endpoints) -> tuple[int, int]:
    """Add one to a counter in each server and return both counters."""
    with closing(redis.Redis.from_url(endpoints.redis_url)) as client:
        in_redis = int(client.incr("visits"))
    with (
        closing(psycopg2.connect(endpoints.postgres_dsn)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE IF NOT EXISTS visits (at timestamptz NOT NULL DEFAULT now())")
        cursor.execute("INSERT INTO visits DEFAULT VALUES")
        cursor.execute("SELECT count(*) FROM visits")
        return in_redis, int(cursor.fetchall()[0][0])


def answers(endpoints: Endpoints) -> bool:
    with suppress(redis.RedisError, psycopg2.Error):
        count_visit(endpoints)
        return True
    return False


def test_both_servers_start_and_answer(home: Path) -> None:
    with embedded(home) as endpoints:
        assert count_visit(endpoints) == (1, 1)


def test_servers_are_durable_and_refuse_to_evict(used_home: Path) -> None:
    with embedded(used_home) as endpoints:
        with closing(redis.Redis.from_url(endpoints.redis_url)) as client:
            config = client.config_get("*")
        assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")
        assert (config["maxmemory-policy"], config["port"]) == ("noeviction", "0")
        with closing(psycopg2.connect(endpoints.postgres_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('fsync'), current_setting('listen_addresses'), current_database()")
            assert cursor.fetchall() == [("on", "", "penstock")]


def test_a_nested_block_shares_the_servers(used_home: Path) -> None:
    with embedded(used_home) as outer:
        with embedded(used_home) as inner:
            assert inner == outer
        assert answers(outer)


def test_leaving_the_last_block_leaves_no_process(used_home: Path) -> None:
    with embedded(used_home):
        assert server_processes(used_home)
    wait_until(lambda: not server_processes(used_home))


def test_data_outlives_the_servers(used_home: Path) -> None:
    with embedded(used_home) as endpoints:
        before = count_visit(endpoints)
    with embedded(used_home) as endpoints:
        assert count_visit(endpoints) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("departure", [User.leave, User.kill])
def test_servers_outlive_their_starter_while_a_joiner_lives(used_home: Path, departure: Callable[[User], None]) -> None:
    with user_of(used_home) as starter, user_of(used_home) as joiner:
        endpoints = starter.endpoints()
        assert joiner.endpoints() == endpoints
        departure(starter)
        # Ten polls of the supervisor.
        time.sleep(1.0)
        assert answers(endpoints)
        departure(joiner)
        wait_until(lambda: not server_processes(used_home))


def test_servers_end_soon_after_kill_9_of_their_only_user(used_home: Path) -> None:
    with user_of(used_home) as user:
        user.endpoints()
        user.kill()
        assert wait_until(lambda: not server_processes(used_home)) < 5.0


def test_four_first_starts_at_once_make_one_pair(home: Path) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(user_of(home)) for _ in range(4)]
        assert len({user.endpoints() for user in users}) == 1
        counts = {kind: len(processes) for kind, processes in server_processes(home).items()}
        assert counts == {SUPERVISOR: 1, "redis-server": 1, "bin/postgres": 1}


def test_starts_over_stale_pid_file_and_sockets(home: Path) -> None:
    with user_of(home) as user:
        assert count_visit(user.endpoints()) == (1, 1)
        # Redis writes its file to the disk within a second.
        time.sleep(1.5)
        user.process.send_signal(signal.SIGSTOP)
        kill_servers(home)
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    stale = [
        pid_file,
        home / "sockets" / "redis.sock",
        home / "sockets" / ".s.PGSQL.5432",
        home / "run" / "ready.json",
    ]
    assert all(path.exists() for path in stale)
    # The pid has been given to somebody else since, as it often is in a container.
    pid_file.write_text("\n".join([str(os.getpid()), *pid_file.read_text().splitlines()[1:]]) + "\n")
    with embedded(home) as endpoints:
        assert count_visit(endpoints) == (2, 2)


def test_starts_afresh_after_kill_9_of_the_supervisor(used_home: Path) -> None:
    with user_of(used_home) as user:
        before = count_visit(user.endpoints())
        supervisor = server_processes(used_home)[SUPERVISOR][0]
        supervisor.kill()
        supervisor.wait()
        with embedded(used_home) as endpoints:
            assert count_visit(endpoints) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("server", ["redis-server", "bin/postgres"])
def test_a_killed_server_is_started_again(used_home: Path, server: str) -> None:
    with embedded(used_home) as endpoints:
        assert answers(endpoints)
        server_processes(used_home)[server][0].kill()
        wait_until(lambda: answers(endpoints))


def test_a_long_home_gets_short_private_sockets(home: Path) -> None:
    with embedded(home / ("long" * 30)) as endpoints:
        sockets = Path(endpoints.redis_url.removeprefix("unix://")).parent
        assert sockets.parent == Path(tempfile.gettempdir()).resolve()
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert count_visit(endpoints) == (1, 1)
    shutil.rmtree(sockets)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another account")
def test_a_home_closed_to_nobody_keeps_postgres_outside(home: Path) -> None:
    home.mkdir()
    home.chmod(0o700)
    with embedded(home) as endpoints:
        outside = Path(endpoints.redis_url.removeprefix("unix://")).parents[1]
        assert outside.parent == Path("/var/tmp")
        assert count_visit(endpoints) == (1, 1)
    with embedded(home) as endpoints:
        assert count_visit(endpoints) == (2, 2)
    shutil.rmtree(outside)


def test_ports_are_opened_beside_the_sockets_on_request(used_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        redis_port, postgres_port = first.getsockname()[1], second.getsockname()[1]
    with embedded(used_home, redis_port=redis_port, postgres_port=postgres_port) as endpoints:
        before = count_visit(endpoints)
        dsn = f"host=127.0.0.1 port={postgres_port} dbname=penstock user=postgres"
        over_tcp = Endpoints(f"redis://127.0.0.1:{redis_port}", dsn)
        assert count_visit(over_tcp) == (before[0] + 1, before[1] + 1)
        with (
            pytest.raises(EmbeddedError, match=rf"Redis was wanted on port 1, .* {redis_port}"),
            embedded(used_home, redis_port=1),
        ):
            pass


@pytest.mark.parametrize("configured", ["redis_url", "postgres_dsn"])
def test_only_the_server_without_a_configured_address_is_started(
    used_home: Path, postgres: str, redis_url: str, configured: str
) -> None:
    elsewhere = {"redis_url": redis_url, "postgres_dsn": postgres}[configured]
    with open_servers(StoreSettings(home=used_home).model_copy(update={configured: elsewhere})) as endpoints:
        assert getattr(endpoints, configured) == elsewhere
        assert answers(endpoints)
        own = "bin/postgres" if configured == "redis_url" else "redis-server"
        assert server_processes(used_home).keys() == {SUPERVISOR, own}
        missing = "Redis" if configured == "redis_url" else "PostgreSQL"
        with pytest.raises(EmbeddedError, match=f"{missing} was wanted, but .* without it"), embedded(used_home):
            pass


def test_with_both_addresses_configured_no_server_is_started(home: Path, fresh_stores: Endpoints) -> None:
    settings = StoreSettings(home=home, redis_url=fresh_stores.redis_url, postgres_dsn=fresh_stores.postgres_dsn)
    with open_servers(settings) as endpoints:
        assert endpoints == fresh_stores
        assert server_processes(home) == {}


def test_who_wants_less_joins_what_runs(used_home: Path) -> None:
    with embedded(used_home) as both, embedded(used_home, redis=False) as joined:
        assert joined == both


def test_a_used_port_is_named(used_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(EmbeddedError, match=rf"PostgreSQL .* 127\.0\.0\.1:{port}"),
            embedded(used_home, postgres_port=port),
        ):
            pass


def test_too_full_a_disk_is_refused_with_its_path_and_free_bytes(home: Path) -> None:
    with (
        pytest.raises(EmbeddedError, match=rf"{home}/\w+ has \d+ bytes free"),
        embedded(home, min_free_bytes=2**62),
    ):
        pass


def test_an_unwritable_home_is_refused_with_its_path_and_free_bytes(home: Path) -> None:
    home.write_text("a file, so that not even root can make a directory under it")
    with (
        pytest.raises(EmbeddedError, match=rf"cannot write under {home}/below .* \d+ bytes are free"),
        embedded(home / "below"),
    ):
        pass


def test_a_missing_wheel_names_the_extra() -> None:
    with pytest.raises(EmbeddedError, match=r"no_such_wheel.*pip install 'penstock\[embedded\]'"):
        wheel_file("no_such_wheel", "bin", "redis-server")


def test_a_server_that_dies_at_its_start_shows_its_log(home: Path) -> None:
    with embedded(home):
        pass
    with (home / "postgres" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with (
        pytest.raises(EmbeddedError, match=r"(?s)postgres died at its start.*no_such_setting"),
        embedded(home),
    ):
        pass
    wait_until(lambda: not server_processes(home))
