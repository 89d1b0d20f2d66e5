"""Reading tables: what is read of them, how much at once, and what damage costs."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from flows.chunks import MOST_TABLE_ROWS, Limits, Piece, Table
from flows.tables import TableReader, open_parquet, table_rows
from online_models.contracts.events import Event
from tests.log_files import as_table
from tests.reading import events_of, parse_log, rejects_of
from tests.strategies import sample_log

LOG = sample_log(3000, seed=3)


def pieces_of(path: Path, limits: Limits = Limits(), offset: int = 0) -> list[Piece]:  # noqa: B008 (frozen)
    pieces = []
    with closing(TableReader(path, offset, limits)) as reader:
        while (piece := reader.read()) is not None:
            pieces.append(piece)
    return pieces


def batches_of(path: Path, limits: Limits = Limits()) -> list[pa.RecordBatch]:  # noqa: B008 (frozen)
    return [piece.content.batch for piece in pieces_of(path, limits) if isinstance(piece.content, Table)]


def write_ipc(path: Path, batch: pa.RecordBatch) -> None:
    with pyarrow.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_only_columns_of_events_are_read(name: str, tmp_path: Path) -> None:
    table = as_table(LOG).append_column("features.a", pa.array(["x"] * len(LOG)))
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        write_ipc(tmp_path / name, table.combine_chunks().to_batches()[0])
    (batch,) = batches_of(tmp_path / name)
    assert set(batch.schema.names) == {*Event.__struct_fields__, "features.a"}


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_pieces_have_as_many_rows_as_allowed_whatever_the_file_holds_at_once(name: str, tmp_path: Path) -> None:
    table = pa.table({"ts": pa.array(range(2 * MOST_TABLE_ROWS + 10))})
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        write_ipc(tmp_path / name, table.combine_chunks().to_batches()[0])
    assert [batch.num_rows for batch in batches_of(tmp_path / name)] == [MOST_TABLE_ROWS, MOST_TABLE_ROWS, 10]
    greedy = Limits(table_rows=10**9)
    assert [batch.num_rows for batch in batches_of(tmp_path / name, greedy)] == [MOST_TABLE_ROWS, MOST_TABLE_ROWS, 10]
    small = batches_of(tmp_path / name, Limits(table_rows=20_000))
    assert [batch.num_rows for batch in small] == [20_000, 20_000, 20_000, 5_546]
    paced = Limits(rows=64)
    assert batches_of(tmp_path / name, paced)[0].num_rows == 64
    (last,) = pieces_of(tmp_path / name, offset=2 * MOST_TABLE_ROWS)
    assert isinstance(last.content, Table)
    assert (last.content.offset, last.end) == (2 * MOST_TABLE_ROWS, 2 * MOST_TABLE_ROWS + 10)


def test_texts_of_which_there_are_few_come_as_dictionaries(tmp_path: Path) -> None:
    rows = 5000
    few, many = [f"word {row % 7}" for row in range(rows)], [f"a longer text {row}" for row in range(rows)]
    columns = {"type": few, "user_id": many, "features.w": [[word] for word in few], "value": [1.0] * rows}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2000)
    with pa.OSFile(str(tmp_path / "a.parquet")) as file:
        schema = open_parquet(file).schema_arrow
    assert pa.types.is_dictionary(schema.field("type").type)
    assert pa.types.is_string(schema.field("user_id").type)
    found = [cell for batch in batches_of(tmp_path / "a.parquet") for cell in batch.column("type").to_pylist()]
    assert found == few


def test_a_large_row_group_is_read_in_buffers_to_the_same_rows(tmp_path: Path) -> None:
    table = as_table(LOG)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.parquet")) as file:
        found = open_parquet(file, whole_group_bytes=0).read()
    assert found.cast(table.schema) == table


def test_columns_of_one_name_are_no_table_of_events(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["ts", "ts", "other"])
    write_ipc(tmp_path / "a.arrow", batch)
    (refused,) = rejects_of(parse_log(tmp_path / "a.arrow"))
    assert "expected distinct column names, got ts, ts, other" in refused.reason


def test_codes_outside_a_dictionary_are_damage_not_a_crash(tmp_path: Path) -> None:
    (good,) = as_table(LOG).combine_chunks().to_batches()
    codes = pa.array([0] * (len(LOG) - 1) + [99], pa.int8())
    bad = pa.DictionaryArray.from_arrays(codes, pa.array(["click"]), safe=False)
    at = good.schema.get_field_index("type")
    write_ipc(tmp_path / "a.arrow", good.set_column(at, "type", bad))
    parsed = parse_log(tmp_path / "a.arrow")
    assert events_of(parsed) == []
    (refused,) = rejects_of(parsed)
    assert refused.reason.startswith("table is corrupt: ")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_text_that_is_not_utf8_costs_its_row(name: str, tmp_path: Path) -> None:
    table = as_table(LOG[:9])
    users = [event.user_id.encode() for event in LOG[:9]]
    users[4] = b"\xff\xfe"
    at = table.schema.get_field_index("user_id")
    table = table.set_column(at, "user_id", pa.array(users, pa.binary()).view(pa.string()))
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        write_ipc(tmp_path / name, table.combine_chunks().to_batches()[0])
    parsed = parse_log(tmp_path / name)
    assert events_of(parsed) == [*LOG[:4], *LOG[5:9]]
    (refused,) = rejects_of(parsed)
    assert (refused.offset, refused.reason) == (4, "Expected `str`, got `bytes` - at `$.user_id`")


def test_rows_are_read_one_by_one_as_they_are_together() -> None:
    cells = [float("nan"), 3.0, None, 2.5]
    maps = pa.array([None, [("a", 1)], None, []], pa.map_(pa.string(), pa.int8()))
    batch = pa.RecordBatch.from_pydict({"position": cells, "features.map": maps})
    whole = table_rows(batch)
    assert [table_rows(batch.slice(row, 1))[0] for row in (1, 2, 3)] == whole[1:]
    assert whole[1:] == [
        {"position": 3, "features": {"map": [("a", 1)]}},
        {},
        {"position": 2.5, "features": {"map": []}},
    ]
