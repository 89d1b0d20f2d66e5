"""Real Redis and PostgreSQL from wheels under a home directory, shared by all processes of a run.

- A detached supervisor (`python -m online_models.stores.embedded HOME`) owns both servers. Every user
  process holds a shared `flock` on `run/users.lock`; once the supervisor gets it exclusively, nobody is
  left and it stops the servers. The kernel drops locks on kill -9 too, so nothing can be counted wrong.
- `run/supervisor.lock` admits one supervisor. `run/redis.lock` and `run/postgres.lock` are inherited by
  the servers: while one is free its server is dead and its pid file and socket are stale. No pid is trusted.
- If the supervisor is killed, Linux signals the servers, and the next `embedded()` starts afresh.
- Either server can be left out, for a user who has one elsewhere; who joins must not want more than runs.
- Unix sockets only, unless ports are given. No passwords: other accounts cannot enter the socket directory.
- PostgreSQL refuses to run as root. There it runs as `nobody`, under /var/tmp if that cannot reach the home.
- Redis is stopped by SIGTERM, which flushes and fsyncs the append-only file. There is no RDB snapshot: with
  an append-only file it is never read.
"""

import argparse
import fcntl
import hashlib
import json
import logging
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from online_models.errors import EmbeddedError
from online_models.stores.embedded_servers import (
    POLL_SECONDS,
    POSTGRES_PORT,
    START_SECONDS,
    STOP_SECONDS,
    Account,
    Places,
    Postgres,
    Redis,
    Server,
    last_lines,
    lock_now,
    locked,
    open_to_all,
    try_locked,
    wheel_file,
)

__all__ = ["Endpoints", "Wanted", "embedded", "wheel_file"]

_LOG = logging.getLogger(__name__)

_LONGEST_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103


@dataclass(frozen=True)
class Endpoints:
    """Where the running servers listen: a URL for redis-py and a DSN for libpq; empty for one that was left out."""

    redis_url: str
    postgres_dsn: str


@dataclass(frozen=True)
class Wanted:
    """Which servers, and their TCP ports on 127.0.0.1 beside the unix sockets; None for sockets only."""

    redis: bool = True
    postgres: bool = True
    redis_port: int | None = None
    postgres_port: int | None = None


@contextmanager
def embedded(
    home: Path,
    *,
    redis: bool = True,
    postgres: bool = True,
    redis_port: int | None = None,
    postgres_port: int | None = None,
    min_free_bytes: int = 200 * 2**20,
) -> Iterator[Endpoints]:
    """Start Redis and PostgreSQL under `home`, or the one of them that is not left out; or join those that another live
    process uses there.

    The servers live until the last process in such a block leaves it or dies; the data stays. Blocks nest.

    Raises EmbeddedError when a wheel is missing, `home` cannot be written or has fewer than `min_free_bytes`
    free (checked by whoever starts the servers, not by those who join), a port is taken or is not the running
    server's, a server dies at its start, or those who started left out one that is wanted here.
    """
    home = home.resolve()
    run = _make_run_directory(home)
    users = os.open(run / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield _join_or_start(home, Wanted(redis, postgres, redis_port, postgres_port), min_free_bytes)
    finally:
        # Closed, not unlocked: a forked child shares this lock and may still be using the servers.
        os.close(users)
        _wait_if_last(run)


def _join_or_start(home: Path, wanted: Wanted, min_free_bytes: int) -> Endpoints:
    run = home / "run"
    ready = run / "ready.json"
    deadline = time.monotonic() + 2 * START_SECONDS
    with locked(run / "start.lock"):
        while time.monotonic() < deadline:
            with try_locked(run / "supervisor.lock") as unsupervised:
                if unsupervised:
                    ready.unlink(missing_ok=True)
            if unsupervised:
                _start_supervisor(home, wanted, min_free_bytes)
            elif ready.exists():
                return _read_ready(ready, wanted)
            else:
                time.sleep(POLL_SECONDS / 5)
    raise EmbeddedError(f"the servers of {home} were not ready in {2 * START_SECONDS:.0f} s; see {run}/*.log")


def _start_supervisor(home: Path, wanted: Wanted, min_free_bytes: int) -> None:
    places = find_places(home)
    _refuse_full_disk((places.redis, places.postgres), min_free_bytes)
    if home not in places.postgres.parents:
        _LOG.warning("PostgreSQL data goes to %s: account nobody cannot enter %s", places.postgres, home)
    command = [sys.executable, "-m", "online_models.stores.embedded"]
    for option, port in (("--redis-port", wanted.redis_port), ("--postgres-port", wanted.postgres_port)):
        command += [] if port is None else [option, str(port)]
    command += ([] if wanted.redis else ["--no-redis"]) + ([] if wanted.postgres else ["--no-postgres"])
    command.append(str(home))
    log_path = places.run / "supervisor.log"
    with log_path.open("ab") as log:
        # From the package's own root, so that it is found however this process found it.
        finished = subprocess.run(
            command,
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    answer = finished.stdout.decode()
    if answer not in ("ready", "busy"):
        raise EmbeddedError(answer or f"the supervisor died at its start:\n{last_lines(log_path)}")


def _read_ready(ready: Path, wanted: Wanted) -> Endpoints:
    document = json.loads(ready.read_text())
    running = Wanted(**document["running"])
    for name, want, runs, port, actual in (
        ("Redis", wanted.redis, running.redis, wanted.redis_port, running.redis_port),
        ("PostgreSQL", wanted.postgres, running.postgres, wanted.postgres_port, running.postgres_port),
    ):
        if want and not runs:
            raise EmbeddedError(f"{name} was wanted, but the servers were started without it ({ready})")
        if want and port not in (None, actual):
            raise EmbeddedError(f"{name} was wanted on port {port}, but already runs with port {actual} ({ready})")
    return Endpoints(**document["endpoints"])


def _wait_if_last(run: Path) -> None:
    """Leave no server behind for a caller that removes the home next; return at once while others use it."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        with try_locked(run / "redis.lock") as no_redis, try_locked(run / "postgres.lock") as no_postgres:
            pass
        if (no_redis and no_postgres) or _has_users(run / "users.lock"):
            return
        time.sleep(POLL_SECONDS / 5)


def _has_users(lock: Path) -> bool:
    # Users share the lock and a stopping supervisor excludes: only with users is it shareable but not free.
    with try_locked(lock) as free:
        pass
    with try_locked(lock, fcntl.LOCK_SH) as shareable:
        return shareable and not free


def find_places(home: Path) -> Places:
    """Decide where the servers of `home` keep data and sockets, and make those directories."""
    account, base = Account(), home
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account, base = Account(nobody.pw_uid, nobody.pw_gid, ()), _reachable_base(home)
    try:
        if base != home:
            _make_private(base, Account(), 0o711)
        redis = _make_private(home / "redis", Account())
        postgres = _make_private(base / "postgres", account)
        sockets = _make_private(_socket_directory(base), account)
    except OSError as error:
        raise _cannot_write(home, error) from error
    return Places(home / "run", redis, postgres, sockets, account)


def _reachable_base(home: Path) -> Path:
    outside = Path("/var/tmp") / _short_name(home)
    has_data = (home / "postgres" / "data").exists()
    if open_to_all(home):
        return outside if (outside / "postgres" / "data").exists() and not has_data else home
    if has_data:
        raise EmbeddedError(f"account nobody can no longer reach {home}/postgres/data; chmod o+x the path to it")
    return outside


def _socket_directory(base: Path) -> Path:
    # libpq and postgresql.conf split lists at commas and quotes, so unusual names go the way of long ones.
    for directory in (base / "sockets", Path(tempfile.gettempdir()).resolve() / _short_name(base)):
        longest = os.fsencode(directory / f".s.PGSQL.{POSTGRES_PORT}")
        if len(longest) <= _LONGEST_SOCKET_PATH_BYTES and re.fullmatch(rb"[\w./+@:-]+", longest):
            return directory
    raise EmbeddedError(f"unix sockets have at most {_LONGEST_SOCKET_PATH_BYTES} plain bytes, not {directory}")


def _short_name(home: Path) -> str:
    return "penstock-" + hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def _make_run_directory(home: Path) -> Path:
    try:
        if not home.exists():
            home.mkdir(parents=True, exist_ok=True)
            # For nobody, when root's umask is tight; the directories inside are closed one by one.
            home.chmod(home.stat().st_mode | 0o011)
        return _make_private(home / "run", Account())
    except OSError as error:
        raise _cannot_write(home, error) from error


def _make_private(path: Path, account: Account, mode: int = 0o700) -> Path:
    path.mkdir(mode=mode, exist_ok=True)
    found = path.lstat().st_uid
    # In a shared directory such as /tmp somebody else could have made it first, or put a link in its place.
    if path.is_symlink() or found not in (os.geteuid(), account.uid):
        raise EmbeddedError(f"{path} should be a directory of uid {os.geteuid()}, but is a link or of uid {found}")
    path.chmod(mode)
    if account.uid is not None and account.gid is not None:
        os.chown(path, account.uid, account.gid)
    return path


def _cannot_write(path: Path, error: OSError) -> EmbeddedError:
    there = next(step for step in (path, *path.parents) if step.exists())
    free = shutil.disk_usage(there).free
    return EmbeddedError(f"cannot write under {path} ({error}); {free} bytes are free there")


def _refuse_full_disk(directories: Sequence[Path], min_free_bytes: int) -> None:
    for path in directories:
        free = shutil.disk_usage(path).free
        if free < min_free_bytes:
            raise EmbeddedError(f"{path} has {free} bytes free; Redis and PostgreSQL need {min_free_bytes}")


def _refuse_used_port(name: str, port: int | None) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except (OSError, OverflowError) as error:
            raise EmbeddedError(f"{name} cannot listen on 127.0.0.1:{port}: {error}") from error


def supervise(home: Path, wanted: Wanted, announce: Callable[[], None]) -> None:
    """Run the wanted servers until no process holds users.lock; `announce` is called once, when they answer."""
    places = find_places(home)
    ready = places.run / "ready.json"
    with ExitStack() as stack:
        # Closed last: once it is locked below, a new user waits here until the servers have stopped.
        users = os.open(places.run / "users.lock", os.O_RDWR)
        stack.callback(os.close, users)
        servers = _make_servers(places, wanted)
        stack.callback(_stop, servers)
        for server in servers:
            server.start()
        stack.callback(ready.unlink, missing_ok=True)
        _write_ready(ready, places, wanted)
        announce()
        while not lock_now(users, fcntl.LOCK_EX):
            _restart_dead(servers)
            time.sleep(POLL_SECONDS)


def _make_servers(places: Places, wanted: Wanted) -> list[Server]:
    servers: list[Server] = []
    if wanted.redis:
        _refuse_used_port("Redis", wanted.redis_port)
        servers.append(Redis(places, wanted.redis_port))
    if wanted.postgres:
        _refuse_used_port("PostgreSQL", wanted.postgres_port)
        servers.append(Postgres(places, wanted.postgres_port))
    return servers


def _write_ready(ready: Path, places: Places, running: Wanted) -> None:
    port = running.postgres_port or POSTGRES_PORT
    endpoints = Endpoints(
        redis_url=f"unix://{places.sockets}/redis.sock" if running.redis else "",
        postgres_dsn=f"host={places.sockets} port={port} dbname=penstock user=postgres" if running.postgres else "",
    )
    aside = ready.with_suffix(".new")
    aside.write_text(json.dumps({"endpoints": asdict(endpoints), "running": asdict(running)}))
    aside.rename(ready)


def _restart_dead(servers: Sequence[Server]) -> None:
    for server in servers:
        if server.has_died():
            _LOG.error("%s died and is started again; its log ended:\n%s", server.name, server.last_lines())
            server.start()


def _stop(servers: Sequence[Server]) -> None:
    for server in servers:
        server.ask_to_stop()
    for server in servers:
        server.wait_stopped()


def _report(answer: str) -> None:
    """Answer the process that waits for the start, and let go of its pipe."""
    with suppress(BrokenPipeError):
        os.write(1, answer.encode())
    os.dup2(2, 1)


def main() -> None:
    """Entry point of the supervisor; `embedded` starts it."""
    parser = argparse.ArgumentParser(description="Run Redis and PostgreSQL for the users of a home.")
    parser.add_argument("--no-redis", action="store_true")
    parser.add_argument("--no-postgres", action="store_true")
    parser.add_argument("home", type=Path)
    parser.add_argument("--redis-port", type=int)
    parser.add_argument("--postgres-port", type=int)
    options = parser.parse_args()
    wanted = Wanted(not options.no_redis, not options.no_postgres, options.redis_port, options.postgres_port)
    # Forked so that it is no child, and later no zombie, of the process that happened to start it.
    if os.fork():
        os._exit(0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with try_locked(options.home / "run" / "supervisor.lock") as alone:
        if not alone:
            _report("busy")
            return
        try:
            supervise(options.home, wanted, lambda: _report("ready"))
        except Exception as error:  # noqa: BLE001 - the process boundary: the answer goes to the starter
            _LOG.exception("stopped")
            _report(str(error) if isinstance(error, EmbeddedError) else repr(error))


if __name__ == "__main__":
    main()
