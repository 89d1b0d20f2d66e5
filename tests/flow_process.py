"""The flow as a process: replays a log on given stores, may be killed, and tells what it left behind."""

import json
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import redis

from online_models.contracts import keys
from online_models.contracts.ids import ModelName
from online_models.sources import restored
from online_models.stores.embedded import Endpoints
from online_models.stores.redis import RedisEmbeddings

ROOT = Path(__file__).parents[1]

TABLES = {
    "watch_history": "event_id",
    "purchase_history": "event_id",
    "impressions": "event_id",
    "feedback": "event_id",
    "users": "user_id",
    "window_reports": "model, window_start_ms",
    "model_metrics": "model, version, rollout_id, stage, variant, window_start_ms",
    "grouped_metrics": "rollout_id, stage, variant, version, since_ms",
    "shadow_metrics": "model, version, since_ms",
    "drift_events": "id",
    "retrain_jobs": "trigger_id",
}
OF_THE_DATABASE = {"created_at", "updated_at", "id", "not_before"}
"""Columns that say when or in which order a row was written, not what it is."""

PUBLISHED = re.compile(r"m:\{[^}]*\}:(sources|sources:log|publication|v:[^:]*:item_vectors)")
"""Keys whose content depends on when something was published."""


def start(stores: Endpoints, home: Path, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
    """`python -m flows ...` on these stores."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PENSTOCK_HOME": str(home),
        "PENSTOCK_REDIS_URL": stores.redis_url,
        "PENSTOCK_POSTGRES_DSN": stores.postgres_dsn,
        **settings,
    }
    command = [sys.executable, "-m", "flows", *arguments]
    with open(home / "flow.log", "ab") as log:
        return subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)


def replay(stores: Endpoints, home: Path, log: Path, *arguments: str, **settings: str) -> dict[str, float]:
    """Replay to the end; the report."""
    report = home / "report.json"
    process = start(stores, home, "replay", str(log), "--report", str(report), *arguments, **settings)
    assert process.wait(120) == 0, (home / "flow.log").read_text()[-4000:]
    figures: dict[str, float] = json.loads(report.read_text())
    return figures


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9, and gone."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def rows(dsn: str, table: str) -> list[dict[str, object]]:
    """A table's rows in the order of their key, without what only the database knows."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT to_jsonb(t) FROM {table} t ORDER BY {TABLES[table]}")
        found: list[dict[str, object]] = [row[0] for row in cursor]
    own_id = OF_THE_DATABASE - ({"id"} if table == "drift_events" else set())
    return [{name: value for name, value in row.items() if name not in own_id} for row in found]


def all_rows(dsn: str) -> dict[str, list[dict[str, object]]]:
    """Everything the flow writes to PostgreSQL."""
    return {table: rows(dsn, table) for table in TABLES}


def all_values(redis_url: str) -> dict[str, object]:
    """Everything the flow writes to Redis, but for the positions of its run.

    The wall clock says when sources are published, so state, log and publication are there as the one state that a restart
    would go on from. Item vectors are left out: they are the moved items as of some publication, and those are compared.
    """
    with closing(redis.Redis.from_url(redis_url)) as client:
        found: dict[str, object] = {}
        models = set()
        for key in sorted(client.scan_iter(count=1000)):
            name = key.decode()
            if PUBLISHED.fullmatch(name):
                models.add(ModelName(name[len("m:{") : name.index("}")]))
            elif ":applied:" not in name:
                found[name] = client.hgetall(name) if client.type(name) == b"hash" else client.get(name)
        for model in models:
            state = RedisEmbeddings(client).sources(model)
            found[keys.sources(model)] = restored(state.published, state.steps).encode()
        return found
