"""What the flow has counted of rollouts: sums by stage, variant and version, by group of users, and the traffic of a week."""

import numpy as np
import pytest
from msgspec.structs import replace

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import (
    GROUPS,
    GroupedCounts,
    Kind,
    Plan,
    Rollout,
    ShadowCounts,
    StageCounts,
    VariantWindow,
)
from online_models.errors import StoreError
from online_models.rollout_store import Act, Grouped, NewRollout, Shadowed, Traffic
from online_models.stores.postgres import Database, query
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.postgres_windows import PostgresWindows
from tests.samples import MOVIES, SHA256, canary, manifest

V1, V2 = ModelVersion("v1"), ModelVersion("v2")
PRODUCTS = ModelName("products")
DAY_MS = 86_400_000
TEST = Act("test", "test", {})


@pytest.fixture
def windows(database: Database) -> PostgresWindows:
    return PostgresWindows(database)


@pytest.fixture
def rollouts(database: Database) -> PostgresRollouts:
    registry, rollouts = PostgresRegistry(database), PostgresRollouts(database)
    for version in (V1, V2):
        registry.register(manifest(version), SHA256, "test")
    rollouts.adopt(MOVIES, V1, "test")
    return rollouts


@pytest.fixture
def rollout(rollouts: PostgresRollouts) -> Rollout:
    return rollouts.create(canary(V1, V2), TEST)


def window(
    version: ModelVersion, rollout_id: int, stage: int, start_ms: int, users: int, variant: str = "stable"
) -> VariantWindow:
    """A window of ten milliseconds in which every count is another."""
    return VariantWindow(
        MOVIES, version, rollout_id, stage, start_ms, start_ms + 10, users, 1, 2, 3, 4, 5, variant, 6, 7, 8
    )


def grouped(
    rollout_id: int, counts: Grouped, stage: int = 0, variant: str = "stable", since_ms: int = 0,
    version: ModelVersion = V1,
) -> GroupedCounts:  # fmt: skip
    raw = counts.astype("<u4").tobytes()
    return GroupedCounts(MOVIES, version, rollout_id, stage, variant, since_ms, raw)


def drawn(seed: int) -> Grouped:
    return np.random.default_rng(seed).integers(0, 2**32, (4, GROUPS))


def test_a_rollout_without_counts_has_measured_nothing(rollouts: PostgresRollouts, rollout: Rollout) -> None:
    assert rollouts.measured(rollout) == []
    assert rollouts.windows(rollout) == []


def test_sums_are_of_one_version_as_one_variant_in_one_stage(
    windows: PostgresWindows, rollouts: PostgresRollouts, rollout: Rollout
) -> None:
    windows.put_variant_windows(
        [
            window(V2, rollout.id, 0, 0, 7, "canary"),
            window(V2, rollout.id, 0, 10, 5, "canary"),
            window(V2, rollout.id, 1, 10, 100, "canary"),
            window(V1, rollout.id, 0, 10, 50),
            window(V1, rollout.id, 0, 10, 3, "fallback"),
            window(V2, 0, 0, 10, 100, "canary"),
            window(V2, rollout.id + 1, 0, 10, 100, "canary"),
        ]
    )
    windows.put_variant_windows([window(V2, rollout.id, 0, 10, 6, "canary")])
    found = rollouts.measured(rollout)
    assert [(each.stage, each.variant, each.version) for each in found] == [
        (0, "canary", V2), (0, "fallback", V1), (0, "stable", V1), (1, "canary", V2),
    ]  # fmt: skip
    assert found[0].counts == StageCounts(13, 2, 4, 6, 8, 10, 12, 14, 16)
    assert [each.counts.users for each in found] == [13, 3, 50, 100]
    assert all(not each.grouped.any() and each.grouped.shape == (4, GROUPS) for each in found)


def test_the_champion_against_itself_is_counted_by_variant(
    windows: PostgresWindows, rollouts: PostgresRollouts
) -> None:
    against_itself = rollouts.create(NewRollout(MOVIES, V1, V1, Plan(), Kind.AA, automatic=False), TEST)
    windows.put_variant_windows(
        [window(V1, against_itself.id, 0, 0, 7, "canary"), window(V1, against_itself.id, 0, 0, 9)]
    )
    assert [(each.variant, each.counts.users) for each in rollouts.measured(against_itself)] == [
        ("canary", 7), ("stable", 9),
    ]  # fmt: skip


def test_groups_are_summed_over_the_runs_that_counted_them(
    windows: PostgresWindows, rollouts: PostgresRollouts, rollout: Rollout
) -> None:
    """Sums above 2 ** 32 too; of one run the last sums count."""
    early, first, second, other = (drawn(seed) for seed in range(4))
    windows.put_grouped_counts([])
    windows.put_grouped_counts([grouped(rollout.id, early), grouped(rollout.id, first)])
    windows.put_grouped_counts([grouped(rollout.id, second, since_ms=1), grouped(rollout.id + 1, other)])
    windows.put_grouped_counts([grouped(rollout.id, other, variant="canary", version=V2)])
    windows.put_variant_windows([window(V1, rollout.id, 0, 0, 9)])
    by_canary, by_stable = rollouts.measured(rollout)
    assert by_stable.grouped.dtype == np.int64
    np.testing.assert_array_equal(by_stable.grouped, first + second)
    assert by_stable.grouped.max() >= 2**32
    np.testing.assert_array_equal(by_canary.grouped, other)
    assert (by_stable.counts.users, by_canary.counts) == (9, StageCounts())


@pytest.mark.parametrize("raw", [b"", b"1234", bytes(4 * 4 * GROUPS + 4)])
def test_counts_of_another_shape_are_refused(windows: PostgresWindows, rollout: Rollout, raw: bytes) -> None:
    with pytest.raises(StoreError, match="grouped_metrics"):
        windows.put_grouped_counts([replace(grouped(rollout.id, drawn(0)), counts=raw)])


def in_shadow(counts: Shadowed, version: ModelVersion = V2, since_ms: int = 0) -> ShadowCounts:
    return ShadowCounts(MOVIES, version, since_ms, counts.astype("<u4").tobytes())


def test_counts_of_a_shadow_are_summed_over_the_runs_that_counted_them(
    windows: PostgresWindows, rollouts: PostgresRollouts
) -> None:
    early, first, second, other = (
        np.random.default_rng(seed).integers(0, 2**32, (2, 20, 61), np.int64) for seed in range(4)
    )
    assert rollouts.shadowed(MOVIES, V2).tolist() == np.zeros((2, 20, 61), int).tolist()
    windows.put_shadow_counts([])
    windows.put_shadow_counts([in_shadow(early), in_shadow(first)])
    windows.put_shadow_counts([in_shadow(second, since_ms=1), in_shadow(other, V1)])
    windows.put_shadow_counts([replace(in_shadow(other), model=PRODUCTS)])
    found = rollouts.shadowed(MOVIES, V2)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, first + second)
    np.testing.assert_array_equal(rollouts.shadowed(MOVIES, V1), other)


@pytest.mark.parametrize("raw", [b"", bytes(4 * 2 * 20 * 61 + 4)])
def test_counts_of_a_shadow_of_another_shape_are_refused(windows: PostgresWindows, raw: bytes) -> None:
    with pytest.raises(StoreError, match="shadow_metrics"):
        windows.put_shadow_counts([ShadowCounts(MOVIES, V2, 0, raw)])


def test_windows_come_back_as_they_were_written_oldest_first(
    windows: PostgresWindows, rollouts: PostgresRollouts, rollout: Rollout
) -> None:
    written = [
        window(V2, rollout.id, 0, 0, 7, "canary"),
        window(V1, rollout.id, 0, 0, 2**40),
        window(V2, rollout.id, 1, 10, 1, "canary"),
        window(V1, rollout.id, 0, 20, 5),
    ]
    windows.put_variant_windows([*written[::-1], window(V1, 0, 0, 0, 9)])
    assert rollouts.windows(rollout) == written


def day(number: float, users: int, successes: int, rollout_id: int = 0, stage_users: int = 0) -> VariantWindow:
    """A window of one hour at the end of a day."""
    end = int(number * DAY_MS) + DAY_MS
    return VariantWindow(
        MOVIES, V1, rollout_id, 0, end - 3_600_000, end, users, successes, 0, 0, 0, 0, "stable", stage_users
    )


def test_a_model_without_windows_has_no_traffic(rollouts: PostgresRollouts) -> None:
    assert rollouts.traffic(MOVIES, 10 * DAY_MS) == Traffic(0.0, 0.0)


def test_traffic_is_users_a_day_and_the_share_of_first_requests_with_something_taken(
    windows: PostgresWindows, rollouts: PostgresRollouts
) -> None:
    """Of a full week and its hour: 8 days ago counts no more, and other models never."""
    windows.put_variant_windows([day(number, 240, 60) for number in (0, 0.25, 1, 2, 3, 4, 5, 6, 7)])
    windows.put_variant_windows([replace(day(7.5, 10_000, 0), model=PRODUCTS)])
    found = rollouts.traffic(MOVIES, 100 * DAY_MS)
    assert found.users_per_day == pytest.approx(8 * 240 / (6.75 + 1 / 24))
    assert found.success_rate == pytest.approx(0.25)


def test_within_rollouts_first_requests_of_a_stage_stand_for_those_of_a_day(
    windows: PostgresWindows, rollouts: PostgresRollouts
) -> None:
    windows.put_variant_windows([day(0, 100, 50), day(1 - 1 / 24, 20, 2, rollout_id=3, stage_users=90)])
    assert rollouts.traffic(MOVIES, 100 * DAY_MS) == Traffic(190.0, 52 / 120)


def test_traffic_of_less_than_a_day_is_carried_forward_to_one(
    windows: PostgresWindows, rollouts: PostgresRollouts
) -> None:
    windows.put_variant_windows([day(0, 100, 50)])
    assert rollouts.traffic(MOVIES, 100 * DAY_MS).users_per_day == pytest.approx(2_400)


def test_windows_of_a_wrong_clock_do_not_hide_the_traffic_of_now(
    windows: PostgresWindows, rollouts: PostgresRollouts
) -> None:
    windows.put_variant_windows([day(0, 100, 50), day(1, 100, 50), day(9_000, 1, 0)])
    assert rollouts.traffic(MOVIES, 3 * DAY_MS).users_per_day == pytest.approx(200 / (1 + 1 / 24))


def test_counts_of_a_rollout_are_found_by_an_index(database: Database, windows: PostgresWindows) -> None:
    windows.put_variant_windows([window(V1, number, 0, 0, 1) for number in range(3_000)])
    windows.put_grouped_counts([grouped(number, drawn(0)) for number in range(1_000)])
    for name in ("sum_variant_windows", "select_variant_windows", "select_grouped_counts"):
        plan = explained(database, name, {"model": MOVIES, "rollout_id": 500})
        assert "Index Scan" in plan or "Bitmap" in plan, name
        assert "Seq Scan" not in plan, name


def test_a_week_of_windows_is_found_by_an_index(database: Database, windows: PostgresWindows) -> None:
    windows.put_variant_windows([day(number / 24, 1, 1) for number in range(3_000)])
    plan = explained(database, "sum_traffic", {"model": MOVIES, "now_ms": 1_000 * DAY_MS})
    assert "model_metrics_by_time" in plan
    assert "Seq Scan" not in plan


def explained(database: Database, name: str, values: dict[str, object]) -> str:
    with database.transaction() as cursor:
        cursor.execute("ANALYZE model_metrics, grouped_metrics")
        cursor.execute("EXPLAIN " + query(name), values)
        return "\n".join(line for (line,) in cursor.fetchall())
