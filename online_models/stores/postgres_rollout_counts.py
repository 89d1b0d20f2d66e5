"""What the flow has counted of rollouts, as those who judge them read it from PostgreSQL. Works on the caller's cursor."""

from collections.abc import Mapping

import numpy as np

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import (
    GROUPS,
    SHADOW_PLACES,
    SHADOW_POSITIONS,
    Rollout,
    StageCounts,
    VariantWindow,
)
from online_models.interactions import DAY_MS
from online_models.rollout_store import Grouped, Shadowed, Traffic, VariantCounts
from online_models.stores.postgres import Cursor, one, query

_Key = tuple[int, str, ModelVersion]
"""Stage, variant, version."""


def measured(cursor: Cursor, rollout: Rollout) -> list[VariantCounts]:
    """What each variant and version did in each stage of a rollout; by stage, variant, version. Two statements."""
    sums, grouped = _sums(cursor, rollout), _grouped(cursor, rollout)
    nothing = np.zeros((4, GROUPS), np.int64)
    return [
        VariantCounts(*key, sums.get(key, StageCounts()), grouped.get(key, nothing))
        for key in sorted({*sums, *grouped})
    ]


def windows(cursor: Cursor, rollout: Rollout) -> list[VariantWindow]:
    """A rollout's windows, oldest first."""
    cursor.execute(query("select_variant_windows"), _of(rollout))
    return [VariantWindow(*row) for row in cursor]


def shadowed(cursor: Cursor, model: ModelName, version: ModelVersion) -> Shadowed:
    """Where a version in the shadow has had what others were shown, over all runs that counted it; zeros of none."""
    cursor.execute(query("select_shadow_counts"), {"model": model, "version": version})
    found = np.zeros((2, SHADOW_POSITIONS, SHADOW_PLACES + 1), np.int64)
    for (raw,) in cursor:
        found += np.frombuffer(raw, "<u4").reshape(found.shape)
    return found


def traffic(cursor: Cursor, model: ModelName, now_ms: int) -> Traffic:
    """What a model's people did in the seven days of event time before its newest window that began by `now_ms`.

    Users a day are the sum over the windows of first requests of a user's UTC day outside rollouts, and of first requests of a
    stage within them, divided by the time from the oldest of these windows to the end of the newest, which may be less than a
    day. Who comes every day of a long stage counts once in it, and who is met in two stages on one day twice.
    The success rate is that of all first exposures: of a user's day outside rollouts, of the rollout within them.
    """
    cursor.execute(query("sum_traffic"), {"model": model, "now_ms": now_ms})
    span_ms, users, exposed, successes = one(cursor)
    if not span_ms:
        return Traffic(0.0, 0.0)
    return Traffic(users / (span_ms / DAY_MS), successes / exposed if exposed else 0.0)


def _sums(cursor: Cursor, rollout: Rollout) -> dict[_Key, StageCounts]:
    cursor.execute(query("sum_variant_windows"), _of(rollout))
    return {(stage, variant, version): StageCounts(*sums) for stage, variant, version, *sums in cursor}


def _grouped(cursor: Cursor, rollout: Rollout) -> dict[_Key, Grouped]:
    cursor.execute(query("select_grouped_counts"), _of(rollout))
    found: dict[_Key, Grouped] = {}
    for stage, variant, version, raw in cursor:
        counts = np.frombuffer(raw, "<u4").reshape(4, GROUPS).astype(np.int64)
        key = (stage, variant, version)
        found[key] = found[key] + counts if key in found else counts
    return found


def _of(rollout: Rollout) -> Mapping[str, object]:
    return {"rollout_id": rollout.id, "model": rollout.model}
