"""`python -m serving_api` as a process of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from online_models.stores.embedded import Endpoints

ROOT = Path(__file__).parents[1]


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
