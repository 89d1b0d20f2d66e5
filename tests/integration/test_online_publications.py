"""What a learner publishes and logs on a real Redis: restarts go on from both, repeats change nothing, readers get the whole."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
import redis as redis_client

from online_models.contracts import keys
from online_models.contracts.ids import ModelVersion
from online_models.learner import decode_item_vectors
from online_models.ports import Published, SourcesState
from online_models.sources import restored
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.redis_reads import RedisStreamReads
from tests.engagements import busy_log, pieces_of
from tests.flow_process import all_values
from tests.online_learners import V1, learner, store_at
from tests.samples import MOVIES

LOG = busy_log(400, seed=1, users=12, first_item=0, items=60)
PIECES = pieces_of(LOG, range(25, 400, 25))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis_client.Redis]:
    with closing(redis.connect(redis_url)) as client:
        yield client


@pytest.fixture
def twin_redis_url(twin_stores: Endpoints) -> str:
    """A second Redis database, for a test that compares two runs."""
    return twin_stores.redis_url


def everything(url: str) -> dict[bytes, bytes | None]:
    """Every key with its serialised value, publications too."""
    with closing(redis.connect(url)) as client:
        found: list[bytes] = list(client.scan_iter())
        return {key: client.dump(key) for key in found}


def vectors_of(found: Published, version: ModelVersion) -> dict[str, bytes]:
    ids, vectors = decode_item_vectors(found.item_vectors[version])
    return dict(zip(ids, map(bytes, vectors), strict=True))


def moved_at(url: str) -> dict[str, bytes]:
    with store_at(url) as store:
        return {item: each.vector.tobytes() for item, each in store.moved_items(MOVIES, V1).items()}


def state_at(url: str) -> SourcesState:
    with store_at(url) as store:
        return store.sources(MOVIES)


def test_the_first_batch_is_published_and_later_ones_are_logged_until_the_next_publication(
    redis_url: str, tmp_path: Path, client: redis_client.Redis
) -> None:
    with learner(redis_url, tmp_path) as going:
        for number, piece in enumerate(PIECES[:12], 1):
            going.learn(piece)
            state = state_at(redis_url)
            assert (state.number, len(state.steps)) == (number, number - 1)
            assert client.get(keys.publication(MOVIES)) == b"1"
            assert restored(state.published, state.steps).encode() == going.sources.encode()
    with learner(redis_url, tmp_path) as again:
        again.learn(PIECES[12])
        state = state_at(redis_url)
        assert (state.number, len(state.steps)) == (13, 0)
        assert client.get(keys.publication(MOVIES)) == b"13"
        assert state.published == again.sources.encode()


def test_a_restart_goes_on_from_what_is_published_and_logged(
    redis_url: str, tmp_path: Path, client: redis_client.Redis
) -> None:
    with learner(redis_url, tmp_path) as going:
        for piece in PIECES[:12]:
            going.learn(piece)
        expected = going.sources.encode()
    with learner(redis_url, tmp_path) as restarted:
        assert restarted.sources.encode() == expected
    client.delete(keys.sources_log(MOVIES))
    with learner(redis_url, tmp_path) as forgetful:
        assert forgetful.sources.encode() != expected


def test_what_was_logged_can_be_published_without_another_batch(
    redis_url: str, tmp_path: Path, client: redis_client.Redis
) -> None:
    reads = RedisStreamReads(client)
    with learner(redis_url, tmp_path) as going:
        going.publish(at_once=True)
        assert reads.publication(MOVIES) == 0  # nothing to tell yet
        for piece in PIECES[:12]:
            going.learn(piece)
        before = everything(redis_url)
        going.publish()
        assert everything(redis_url) == before  # not due yet
        expected = all_values(redis_url)
        going.publish(at_once=True)
        found = reads.published(MOVIES, [V1])
        assert (found.number, found.sources) == (12, going.sources.encode())
        assert vectors_of(found, V1) == moved_at(redis_url)
        assert state_at(redis_url) == SourcesState(12, found.sources, [])
        assert all_values(redis_url) == expected
        going.learn(PIECES[12])
        assert (state_at(redis_url).number, len(state_at(redis_url).steps)) == (13, 1)


def test_batches_are_numbered_on_after_every_restart(
    redis_url: str, tmp_path: Path, client: redis_client.Redis
) -> None:
    numbers, publications = [], []
    for start in range(0, 12, 3):
        with learner(redis_url, tmp_path) as going:
            for piece in PIECES[start : start + 3]:
                going.learn(piece)
                numbers.append(state_at(redis_url).number)
                publications.append(RedisStreamReads(client).publication(MOVIES))
    assert numbers == list(range(1, 13))
    assert publications == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10, 10, 10]


def test_a_batch_applied_before_changes_nothing_and_writes_no_vector(redis_url: str, tmp_path: Path) -> None:
    first, second = PIECES[:2]
    with learner(redis_url, tmp_path) as going:
        assert going.learn(first) > 0
        assert going.learn(second) > 0
        expected = everything(redis_url)
        assert going.learn(first) == going.learn(second) == 0
    with learner(redis_url, tmp_path) as resumed:
        assert resumed.learn(first) == resumed.learn(second) == 0
    assert everything(redis_url) == expected


def test_of_a_batch_that_ends_further_on_than_before_only_the_new_rows_count(
    redis_url: str, tmp_path: Path, twin_redis_url: str
) -> None:
    with learner(redis_url, tmp_path) as going:
        going.learn(pieces_of(LOG[:130])[0])
        going.learn(pieces_of(LOG)[0])
    with learner(twin_redis_url, tmp_path) as whole:
        whole.learn(pieces_of(LOG)[0])
    assert all_values(redis_url) == all_values(twin_redis_url)


def test_a_log_read_again_by_another_run_counts_once(redis_url: str, tmp_path: Path) -> None:
    with learner(redis_url, tmp_path) as going:
        going.learn(pieces_of(LOG)[0])
    expected = all_values(redis_url)
    with learner(redis_url, tmp_path, run_id="another run") as again:
        again.learn(pieces_of(LOG)[0])
    assert all_values(redis_url) == expected


def test_connections_lost_at_any_time_change_nothing(
    redis_url: str, tmp_path: Path, twin_redis_url: str, client: redis_client.Redis
) -> None:
    pieces, rng = pieces_of(LOG, range(0, 400, 4)), random.Random(0)

    def cut_soon(seconds: float) -> None:
        time.sleep(seconds)
        client.client_kill_filter(_type="normal", skipme=True)

    with learner(redis_url, tmp_path) as undisturbed:
        for piece in pieces:
            undisturbed.learn(piece)
    with learner(twin_redis_url, tmp_path) as disturbed, ThreadPoolExecutor(1) as pool:
        for piece in pieces:
            cutting = pool.submit(cut_soon, rng.uniform(0, 0.005))  # also while an answer is awaited
            disturbed.learn(piece)
            cutting.result()
    assert all_values(twin_redis_url) == all_values(redis_url)


# --- readers


def test_readers_get_the_sources_items_and_blend_of_the_published_batch(
    redis_url: str, tmp_path: Path, client: redis_client.Redis
) -> None:
    reads = RedisStreamReads(client)
    assert reads.publication(MOVIES) == 0
    nothing = reads.published(MOVIES, [V1])
    assert (nothing.number, nothing.sources, dict(nothing.item_vectors), dict(nothing.blends)) == (0, None, {}, {})
    with learner(redis_url, tmp_path) as going:
        for piece in PIECES[:5]:
            going.learn(piece)
    with learner(redis_url, tmp_path) as again:
        again.learn(PIECES[5])
        found = reads.published(MOVIES, [V1])
        assert found.number == reads.publication(MOVIES) == 6
        assert found.sources == again.sources.encode()
        assert vectors_of(found, V1) == moved_at(redis_url)
        with store_at(redis_url) as store:
            assert found.blends == {V1: store.blend(MOVIES, V1)}
        again.learn(PIECES[6])
        later = reads.published(MOVIES, [V1])
        assert (later.number, later.sources, later.item_vectors) == (6, found.sources, found.item_vectors)


def test_readers_get_a_publication_at_most_every_so_many_seconds(
    redis_url: str, tmp_path: Path, client: redis_client.Redis
) -> None:
    seconds, reads = 0.3, RedisStreamReads(client)
    pieces = pieces_of(busy_log(1_000, seed=2), range(1_000))
    publications: list[tuple[int, float, float]] = []
    with learner(redis_url, tmp_path, publish_seconds=seconds) as going:
        for number, piece in enumerate(pieces, 1):
            before = time.monotonic()
            going.learn(piece)
            published, after = reads.publication(MOVIES), time.monotonic()
            if not publications or published != publications[-1][0]:
                assert published == number  # the batch itself
                publications.append((published, before, after))
            if len(publications) == 4:
                break
            time.sleep(0.01)
    assert len(publications) == 4
    assert all(after - before >= seconds for (_, before, _), (_, _, after) in pairwise(publications))
