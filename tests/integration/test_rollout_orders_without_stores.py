"""Operators' calls while a store is away: what can be done is done, and what cannot is said."""

from contextlib import closing
from pathlib import Path

import pytest

from online_models.contracts.rollouts import Phase
from online_models.stores import postgres as postgres_store
from online_models.stores.embedded import Endpoints
from serving_api.rollouts.route_projection import project
from tests.operator_world import MOVIES, operator_desk
from tests.own_redis import running_redis


def test_an_abort_stands_while_redis_is_away_and_the_route_follows(postgres: str, tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "redis") as server,
        operator_desk(Endpoints(server.url, postgres), tmp_path) as desk,
    ):
        desk.started()
        desk.world.ramp(2)
        server.stop()
        look = desk.get()
        assert (look.status_code, "cannot be asked now" in look.json()["outlook"]) == (200, True)
        assert desk.post("promote").status_code == 503, "nobody knows whether the readers are ready"
        aborted = desk.post("abort", Idempotency_Key="a")
        assert (aborted.status_code, aborted.json()["routed"]) == (200, False)
        assert desk.world.latest().phase is Phase.ABORTED
        server.start()
        again = desk.post("abort", Idempotency_Key="a")
        assert (again.status_code, again.json()["routed"]) == (200, True)
        route = desk.world.route()
        assert (route.canary, route.weight_bp) == (None, 0)
        assert project(desk.world.rollouts, desk.world.routes, MOVIES) == route


@pytest.mark.parametrize("table", ["api_keys", "rollouts"])
def test_a_database_that_hangs_is_told_of_and_not_waited_for(
    fresh_stores: Endpoints, tmp_path: Path, table: str
) -> None:
    with (
        operator_desk(fresh_stores, tmp_path) as desk,
        closing(postgres_store.connect(fresh_stores.postgres_dsn)) as blocker,
    ):
        with blocker.transaction() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            answer = desk.post("abort", matched=False)
            assert (answer.status_code, "PostgreSQL" in answer.text) == (503, True)
        assert desk.start().status_code == 201
