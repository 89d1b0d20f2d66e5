"""Servers in processes of their own, and wrk that loads them from another: what was answered, how fast, at what CPU cost."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.report import environment

START_SECONDS: Final = 600.0
STOP_SECONDS: Final = 30.0

SCRIPT: Final = """
local first
function setup(thread) first = first or thread end
function init(args)
  path, users, user, degraded = args[1], tonumber(args[2]), 0, 0
  if args[3] == "watch" then
    response = function(status, headers, body)
      if body:find('"degraded":true', 1, true) then degraded = degraded + 1 end
    end
  end
end
function request()
  user = (user + 1) % users
  return wrk.format("GET", (path:gsub("USER", "u" .. user)))
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,"errors":%d,"degraded":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, e.connect + e.read + e.write + e.status + e.timeout, first:get("degraded")))
end
"""
"""Asks for another user each time. With `watch`, answers are searched for the mark of a degraded one."""


class LoadError(Exception):
    """A server did not start, or wrk is missing or failed: what to do about it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw.

    p50_ms, p99_ms : wrk adds what a stalled connection would have asked for meanwhile (coordinated omission)
    errors : refused, broken and late connections, and answers of 400 and above
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int
    degraded: int


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and the path to ask it for, in which USER stands for a user's id."""

    name: str
    process: psutil.Popen
    port: int
    path: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """CPU time of its process so far, all threads, user and system."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def serving(
    name: str, module: Sequence[str], path: str, ready: str, settings: Mapping[str, str], log: Path
) -> Iterator[Server]:
    """A server of `python -m MODULE... PORT` that answers `ready` with 200, stopped at the end; what it writes goes to `log`.

    Raises
    ------
    LoadError
        When it ends or stays silent.
    """
    port = free_port()
    command = [sys.executable, "-m", *module, str(port)]
    with (
        log.open("w") as written,
        psutil.Popen(command, cwd=log.parent, env=environment(settings), stderr=written) as process,
    ):
        try:
            server = Server(name, process, port, path)
            await_answer(server, ready)
            yield server
        except LoadError as error:
            raise LoadError(f"{error}\n{log.read_text()[-2_000:]}") from error
        finally:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
            process.wait(STOP_SECONDS)


def await_answer(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise LoadError(f"{server.name}: ended with status {server.process.returncode} before it answered")
        try:
            with urllib.request.urlopen(server.url + path, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise LoadError(f"{server.name}: no answer to {path} within {START_SECONDS:.0f} s")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wrk() -> str:
    """Where wrk is. Raises LoadError when it is nowhere."""
    found = shutil.which("wrk")
    if found is None:
        raise LoadError("wrk makes the load and is not installed: `apt-get install wrk`")
    return found


def start_load(
    server: Server, script: Path, connections: int, seconds: int, users: int, *, watch: bool
) -> "subprocess.Popen[str]":
    """wrk against the server, in its own process and on one thread."""
    script.write_text(SCRIPT)
    command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), server.url, "--"]
    command += [server.path, str(users), *(["watch"] if watch else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish_load(load: "subprocess.Popen[str]") -> Load:
    """What it saw. Raises LoadError when it failed."""
    output, _ = load.communicate()
    if load.returncode:
        raise LoadError(f"wrk failed: {output}")
    return Load(**json.loads(output.splitlines()[-1]))


def measured(server: Server, script: Path, connections: int, seconds: int, users: int) -> tuple[Load, float]:
    """A run of load, and the CPU microseconds that the server spent on each request."""
    before = server.cpu_seconds()
    load = finish_load(start_load(server, script, connections, seconds, users, watch=False))
    return load, (server.cpu_seconds() - before) / max(load.requests, 1) * 1e6
