"""Seeded logs that are made by columns."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.wide_workloads import matrix, write_flat_json, write_wide_parquet
from flows.chunks import Chunk, Lines
from flows.parse import parse
from online_models.contracts.events import TimeBounds


def test_flat_json_has_the_same_bytes_for_the_same_seed_and_is_valid_in_time_order(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "same", "other")]
    for path, seed in zip(paths, (3, 3, 4), strict=True):
        write_flat_json(path, 2_000, seed)
    one, same, other = (path.read_bytes() for path in paths)
    assert one == same
    assert one != other
    parsed = parse(Chunk("log", "log.ndjson", 0, Lines(one, 0)), TimeBounds(0, 2**42))
    assert parsed.rejects == []
    assert len(set(parsed.batch.event_hash.tolist())) == 2_000
    assert (parsed.batch.ts_ms[1:] >= parsed.batch.ts_ms[:-1]).all()


def test_flat_json_has_twelve_fields_a_line(tmp_path: Path) -> None:
    write_flat_json(tmp_path / "log", 100, 0)
    for line in (tmp_path / "log").read_text().splitlines():
        event = json.loads(line)
        assert len(event) - 1 + len(event["features"]) == 12


def test_a_wide_log_has_the_same_rows_for_the_same_seed_with_a_fifth_missing(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "same", "other")]
    for path, seed in zip(paths, (3, 3, 4), strict=True):
        write_wide_parquet(path, 5_000, 7, 3, seed)
    one, same, other = (pq.read_table(path) for path in paths)
    assert one.equals(same)
    assert not one.equals(other)
    features = [name for name in one.schema.names if name.startswith("features.")]
    assert len(features) == 10
    missing = sum(one.column(name).null_count for name in features) / (5_000 * 10)
    assert abs(missing - 0.2) < 0.02
    assert set(pc.value_counts(one.column("type").cast("string")).field("values").to_pylist()) == {
        "impression",
        "click",
    }


def test_some_features_of_a_wide_log_tell_a_click(tmp_path: Path) -> None:
    write_wide_parquet(tmp_path / "log", 20_000, 7, 1, 0)
    log = pq.read_table(tmp_path / "log")
    clicked = np.array(log.column("type").cast("string").to_pylist()) == "click"
    shifts = []
    for name in ("features.n000", "features.n001"):
        values = log.column(name).to_numpy()
        shifts.append(np.nanmean(values[clicked]) - np.nanmean(values[~clicked]))
    assert shifts[0] > 0.3
    assert abs(shifts[1]) < 0.2


def test_a_matrix_is_seeded() -> None:
    (numbers, words), (same_numbers, same_words) = matrix(500, 4, 3, 5), matrix(500, 4, 3, 5)
    assert numbers.shape == (4, 500)
    assert words.shape == (3, 500)
    assert (numbers == same_numbers).all()
    assert (words == same_words).all()
    assert set(words[0].tolist()) == {0, 1}
    assert (numbers != matrix(500, 4, 3, 6)[0]).all()
