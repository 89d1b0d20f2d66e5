"""What the wiring does to the process around it."""

import gc
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

from serving_api.app import GC_THRESHOLDS, SWITCH_SECONDS, random_uuids, tuned_interpreter


def test_the_interpreter_is_tuned_while_requests_are_answered_and_itself_again_after() -> None:
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    with tuned_interpreter():
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() == GC_THRESHOLDS
        assert sys.getswitchinterval() == SWITCH_SECONDS
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == thresholds
    assert sys.getswitchinterval() == interval


def test_ids_are_distinct_uuids_of_version_4() -> None:
    source = random_uuids()
    found = [source() for _ in range(1_000)]
    assert len(set(found)) == 1_000
    assert all(str(uuid.UUID(one)) == one and uuid.UUID(one).version == 4 for one in found)
    assert {uuid.UUID(one).variant for one in found} == {uuid.RFC_4122}


def test_threads_that_share_a_source_never_get_the_same_id() -> None:
    source = random_uuids()
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda _: [source() for _ in range(2_000)], range(8)))
    assert len({one for part in parts for one in part}) == 16_000
