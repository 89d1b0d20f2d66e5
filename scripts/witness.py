"""What the demo sees of the loop: it reads the rows that the processes write, and only tells."""

import time
from collections import Counter
from pathlib import Path
from typing import Final

import psycopg2

from online_models.contracts.ids import ModelName
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts

LOOK_EVERY_SECONDS: Final = 0.5

EVENT_TABLES: Final = ("watch_history", "purchase_history", "impressions", "feedback")


class Witness:
    """Polls PostgreSQL, at most twice a second, and puts what is new into words."""

    def __init__(self, dsn: str, home: Path) -> None:
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        database = Database(dsn)
        self._registry, self._rollouts_of = PostgresRegistry(database), PostgresRollouts(database)
        self._home = home
        self._told: set[str] = set()
        self._next_look = 0.0
        self._shift_ms = 0

    def rows(self, sql: str, *arguments: object) -> list[tuple[object, ...]]:
        """All rows of a query."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return list(cursor.fetchall())

    def news(self) -> list[str]:
        """Lines for what has happened since the last look."""
        if time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + LOOK_EVERY_SECONDS
        lines = [*self._drift(), *self._jobs(), *self._versions(), *self._rollouts()]
        fresh = [line for key, line in lines if key not in self._told]
        self._told.update(key for key, _ in lines)
        return fresh

    def _drift(self) -> list[tuple[str, str]]:
        found = self.rows(
            "SELECT id, kind, model, detector, feature, reason FROM drift_events ORDER BY window_end_ms, kind"
        )
        return [
            (f"drift {row[0]}", f"{row[1]} in {row[2]} ({row[3]}): {str(row[5]).partition(';')[0]}") for row in found
        ]

    def _jobs(self) -> list[tuple[str, str]]:
        found = self.rows("SELECT id, model, state, attempt, error, kind FROM retrain_jobs ORDER BY id")
        return [
            (
                f"job {row[0]} {row[2]} {row[3]}",
                f"job {row[0]} ({row[5]} of {row[1]}) is {row[2]}" + (f": {row[4]}" if row[4] else ""),
            )
            for row in found
        ]

    def _versions(self) -> list[tuple[str, str]]:
        found = self.rows("SELECT model, version FROM model_versions ORDER BY created_at")
        return [(f"version {row[1]}", f"version {row[1]} of {row[0]} is registered") for row in found]

    def _rollouts(self) -> list[tuple[str, str]]:
        found = self.rows(
            "SELECT e.id, r.model, r.canary, e.to_phase, e.weight_bp, e.reason "
            "FROM rollout_events e JOIN rollouts r ON r.id = e.rollout_id ORDER BY e.id"
        )
        return [
            (
                f"rollout {row[0]}",
                f"rollout of {row[2]} ({row[1]}): {row[3]} at {int(str(row[4])) / 100:g} % - {row[5]}",
            )
            for row in found
        ]

    def champions(self) -> int:
        """How many models have a champion."""
        return int(str(self.rows("SELECT count(*) FROM model_aliases WHERE alias = 'champion'")[0][0]))

    def champion(self, model: str) -> str:
        """A model's champion; empty without one."""
        return self._registry.champion(ModelName(model)) or ""

    def drift_counts_from(self, event_time_ms: int) -> None:
        """Only triggers whose window ends after this belong to the shift."""
        self._shift_ms = event_time_ms

    def triggered(self, model: str) -> bool:
        """Whether a trigger was made since the shift."""
        sql = "SELECT 1 FROM drift_events WHERE kind = 'trigger' AND model = %s AND window_end_ms >= %s"
        return bool(self.rows(sql, model, self._shift_ms))

    def candidate(self, model: str, champion: str) -> str:
        """The first version that is younger than this champion; empty until it is registered."""
        versions = self._registry.versions(ModelName(model))
        return next((found.version for found in versions if int(found.version[1:]) > int(champion[1:])), "")

    def ended(self, model: str, canary: str) -> str:
        """The final phase of a candidate's rollout; empty while it has none."""
        sql = "SELECT phase FROM rollouts WHERE model = %s AND canary = %s AND phase NOT IN ('preparing', 'ramping', 'paused')"
        found = self.rows(sql, model, canary)
        return str(found[0][0]) if found else ""

    def language_model(self, model: str) -> str:
        """What became of the first training of a model's language model; empty while that is open."""
        jobs = "SELECT id, state, error FROM retrain_jobs WHERE model = %s AND kind = 'lora' ORDER BY id LIMIT 1"
        found = self.rows(jobs, model)
        if not found or found[0][1] in ("queued", "running"):
            return ""
        if found[0][1] != "done":
            return f"not published: {found[0][2]}"
        versions = "SELECT version FROM model_versions WHERE model = %s AND manifest ->> 'job_id' = %s"
        version = str(self.rows(versions, model, str(found[0][0]))[0][0])
        if version in self._rollouts_of.adapters(ModelName(model)):
            return ""
        tried = self.rows("SELECT 1 FROM rollouts WHERE model = %s AND canary = %s", model, version)
        if not tried:
            return f"passed over as {version}: the recommender that it came with serves no more"
        phase = self.ended(model, version)
        return f"{phase.replace('_', ' ')} as {version}" if phase else ""

    def kinds_judged(self) -> set[str]:
        """The kinds of models that were trained and judged, published or not."""
        sql = "SELECT DISTINCT kind FROM retrain_jobs WHERE state IN ('done', 'rejected')"
        return {str(row[0]) for row in self.rows(sql)}

    def stored(self) -> int:
        """How many events are in PostgreSQL."""
        return sum(int(str(self.rows(f"SELECT count(*) FROM {table}")[0][0])) for table in EVENT_TABLES)

    def figures(self) -> dict[str, object]:
        """Counts of the whole run, from the stores and the dead-letter file."""
        letters = list(self._home.glob("flow/*/dead-letters.ndjson"))
        jobs = Counter(str(row[0]) for row in self.rows("SELECT state FROM retrain_jobs"))
        kinds = Counter(f"{row[0]} {row[1]}" for row in self.rows("SELECT kind, state FROM retrain_jobs"))
        drift = Counter(str(row[0]) for row in self.rows("SELECT kind FROM drift_events"))
        return {
            "events": self.stored(),
            "rejected": sum(len(path.read_bytes().splitlines()) for path in letters),
            "drift_events": drift["drift"],
            "triggers": drift["trigger"],
            "suppressed": drift["suppressed"],
            "jobs_done": jobs["done"],
            "jobs": dict(jobs),
            "jobs_by_kind": dict(sorted(kinds.items())),
            "versions": len(self.rows("SELECT 1 FROM model_versions")),
            "rollouts": [
                {"model": row[0], "canary": row[1], "phase": row[2]}
                for row in self.rows("SELECT model, canary, phase FROM rollouts ORDER BY id")
            ],
        }
