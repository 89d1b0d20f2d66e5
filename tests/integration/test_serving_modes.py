"""`precompute` as people run it, and who is answered from its lists."""

import os
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from online_models.contracts import keys
from online_models.contracts.ids import ModelVersion, UserId
from online_models.contracts.preferences import PrecomputedList
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Route
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from online_models.stores.redis_serving import RedisServing
from serving_api.precompute import BATCH_USERS
from serving_api.settings import Mode
from tests.api_process import FAST, item_ids, logged_events, started_api
from tests.samples import batch, event
from tests.served_world import MOVIES, World

ROOT = Path(__file__).parents[2]


def known(world: World, *users: str) -> None:
    """Users in PostgreSQL, as the stream job makes them known."""
    world.interactions.write([batch([event(n, user_id=user) for n, user in enumerate(users)])])
    world.interactions.flush()


def precompute(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    environment |= {
        "PENSTOCK_HOME": str(world.settings.home),
        "PENSTOCK_REDIS_URL": str(world.settings.redis_url),
        "PENSTOCK_POSTGRES_DSN": str(world.settings.postgres_dsn),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "serving_api", "precompute", *arguments]
    home = world.settings.home
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)


def listed(world: World, user: str, items: list[str], version: ModelVersion | None = None) -> None:
    """A list as `precompute` writes it."""
    one = PrecomputedList(5, items, [float(len(items) - place) for place in range(len(items))])
    with closing(RedisServing(str(world.settings.redis_url), timedelta(seconds=5))) as kept:
        kept.put_lists(MOVIES, [(UserId(user), version or world.version, one)], timedelta(hours=1))


def now_ms() -> int:
    return round(time.time() * 1000)


def test_lists_in_redis_are_what_a_request_would_have_been_answered(world: World) -> None:
    world.learn("reader", ["i1", "i3"], vector=True)
    world.learn("newcomer", ["i2"])
    known(world, "reader", "newcomer", "u1", "stranger")
    done = precompute(world, "--top", "7")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("4 users, 3 lists in ")
    assert done.stderr.rstrip().endswith(" users/s")
    with started_api(world.settings) as api:
        for user in ("reader", "newcomer", "u1"):
            raw = world.client.get(keys.precomputed_list(MOVIES, world.version, user))
            assert isinstance(raw, bytes)
            answer = api.recommend(user, "domain=movies&k=7")
            items = answer["items"]
            assert isinstance(items, list)
            assert f'"items":{[item["item_id"] for item in items]}'.replace("'", '"').replace(" ", "") in raw.decode()
    assert world.client.get(keys.precomputed_list(MOVIES, world.version, "stranger")) is None
    assert 0 < world.client.ttl(keys.precomputed_list(MOVIES, world.version, "u1")) <= FAST.precomputed_seconds


def test_a_torn_history_costs_its_user_the_list_and_nobody_else(world: World) -> None:
    known(world, "u1", "u2")
    world.client.set(keys.history(MOVIES, UserId("u1")), b"torn" * 10)
    done = precompute(world)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("2 users, 1 lists, 1 left out as torn in ")
    assert world.client.get(keys.precomputed_list(MOVIES, world.version, "u1")) is None
    assert world.client.get(keys.precomputed_list(MOVIES, world.version, "u2")) is not None


def test_who_precomputes_is_no_reader_and_lists_go_with_their_version(world: World) -> None:
    known(world, "u1")
    assert precompute(world).returncode == 0
    assert world.client.keys("*:ready:*") == []
    assert world.client.zcard(keys.readers(MOVIES)) == 0
    RedisEmbeddings(world.client).drop_version(MOVIES, world.version)
    assert world.client.keys("*:top:*") == []


def test_a_file_of_users_becomes_rows_of_a_parquet_file(world: World, tmp_path: Path) -> None:
    users, path = [f"u{n % 6}" for n in range(BATCH_USERS + 5)], tmp_path / "top.parquet"
    (tmp_path / "users.txt").write_text("\n".join([*users, "stranger", ""]))
    done = precompute(world, "--top", "3", "--to", "parquet", str(path), "--users", str(tmp_path / "users.txt"))
    assert done.returncode == 0, done.stderr
    table = pq.read_table(path).to_pylist()
    assert len(table) == 3 * len(users)
    with started_api(world.settings) as api:
        answer = api.recommend("u0", "domain=movies&k=3")
    assert [(row["user_id"], row["rank"], row["item_id"], row["version"]) for row in table[:3]] == [
        ("u0", rank, item, world.version) for rank, item in enumerate(item_ids(answer), start=1)
    ]
    assert [row["score"] for row in table[:3]] == pytest.approx([each["score"] for each in answer["items"]])  # type: ignore[attr-defined]
    assert world.client.keys("*:top:*") == []
    assert list(tmp_path.glob(".*part")) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--domain", "music"], "--domain: expected one of movies, products, got 'music'"),
        (["--domain", "products"], "expected a version that is routed to and loaded"),
        (["--to", "parquet"], "--to: expected `redis` or `parquet PATH`, got 'parquet'"),
        (["--users", "nowhere"], "--users: [Errno 2]"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_line(world: World, arguments: list[str], said: str) -> None:
    done = precompute(world, *arguments)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("mode", "idle_seconds", "source"),
    [
        ("realtime", 9_999, "vector"),
        ("hybrid", 9_999, "precomputed"),
        ("hybrid", 5, "vector"),
        ("precomputed", 5, "precomputed"),
    ],
)
def test_the_mode_and_the_last_event_decide_who_answers(
    world: World, mode: Mode, idle_seconds: int, source: str
) -> None:
    world.learn("reader", ["i1", "i3"], now_ms() - idle_seconds * 1000, vector=True)
    listed(world, "reader", ["i9", "i1", "i4", "i6", "i3", "i8"])
    with started_api(world.settings, FAST.model_copy(update={"mode": mode, "active_seconds": 3_600.0})) as api:
        answer = api.recommend("reader", "domain=movies&k=3")
    assert answer["source"] == source
    assert (answer["model_version"], answer["variant"]) == (world.version, "stable")
    assert (item_ids(answer) == ["i9", "i4", "i6"]) == (source == "precomputed")


def test_without_a_list_or_with_too_few_unseen_items_the_answer_is_ranked_now(world: World) -> None:
    world.learn("reader", ["i1", "i3"], vector=True)
    with started_api(world.settings, FAST.model_copy(update={"mode": "precomputed"})) as api:
        assert api.recommend("reader")["source"] == "vector"
        listed(world, "reader", ["i1", "i4", "i3"])
        assert api.recommend("reader", "domain=movies&k=2")["source"] == "vector"
        assert api.recommend("reader", "domain=movies&k=1")["source"] == "precomputed"
        world.client.set(keys.precomputed_list(MOVIES, world.version, "reader"), b"{")
        assert api.recommend("reader", "domain=movies&k=1")["source"] == "vector"


def test_a_list_of_another_version_answers_nobody(world: World) -> None:
    listed(world, "u1", ["i9"], ModelVersion("v0"))
    with started_api(world.settings, FAST.model_copy(update={"mode": "precomputed"})) as api:
        assert api.recommend("u1", "domain=movies&k=1")["source"] == "factors"


def test_a_list_s_answer_counts_for_its_arm_and_can_be_paged(world: World, tmp_path: Path) -> None:
    route = Route(2, world.version, world.version, FULL_WEIGHT_BP // 2, "salt", rollout_id=7, stage=1)
    assert RedisRoutes(world.client).put_route(MOVIES, route)
    listed(world, "u1", ["i9", "i4", "i6"])
    with started_api(world.settings, FAST.model_copy(update={"mode": "precomputed"})) as api:
        first = api.recommend("u1", "domain=movies&k=2&paged=true")
        second = api.recommend("u1", f"domain=movies&k=2&page_token={first['page_token']}")
    assert (first["source"], first["rollout_id"], second["page_token"]) == ("precomputed", 7, None)
    assert [*item_ids(first), *item_ids(second)] == ["i9", "i4", "i6"]
    shown = logged_events(tmp_path, at_least=3)
    assert [(each.item_id, each.position, each.rollout_id) for each in shown] == [
        ("i9", 0, 7),
        ("i4", 1, 7),
        ("i6", 2, 7),
    ]


def test_a_request_reads_once_in_every_mode(world: World) -> None:
    def reads() -> int:
        stats = world.client.info("commandstats")
        assert isinstance(stats, dict)
        return int(stats.get("cmdstat_mget", {"calls": 0})["calls"])

    for mode in ("realtime", "hybrid", "precomputed"):
        with started_api(world.settings, FAST.model_copy(update={"mode": mode})) as api:
            before = reads()
            api.recommend("u1")
            assert reads() - before == 1
