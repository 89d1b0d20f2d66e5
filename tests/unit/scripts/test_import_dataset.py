"""The importer: public data sets in their own forms become event logs that the stream job accepts row for row."""

import csv
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from online_models.contracts.events import Event, EventType, Item, TimeBounds
from scripts.import_dataset import main
from tests.reading import events_of, parse_log, rejects_of

ROOT = Path(__file__).parents[3]
RECORDED = Path(os.environ.get("PENSTOCK_DATA", ROOT / "../shared/data"))
BOUNDS = TimeBounds(0, 2_000_000_000_000)
MOVIELENS_RATINGS = 100_836
GENERATED_RATINGS = 3000


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def write_movielens(folder: Path, ratings: Sequence[Sequence[object]], movies: Sequence[Sequence[object]]) -> Path:
    write_csv(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], ratings)
    write_csv(folder / "movies.csv", ["movieId", "title", "genres"], movies)
    return folder


def small_movielens(folder: Path) -> Path:
    ratings = [(1, 10, 4.0, 900), (2, 10, 0.5, 800), (1, 11, 3.5, 800), (2, 12, 5.0, 850)]
    movies = [
        (10, 'American President, The "1995"', "Comedy|Drama"),
        (11, "Æon Flux (2005)", "Action"),
        (12, "Unsorted", "(no genres listed)"),
    ]
    return write_movielens(folder, ratings, movies)


def movielens_with_count(kind: str, folder: Path) -> tuple[Path, int]:
    """The recorded data set where there is one, else one of its form."""
    recorded = RECORDED / "ml-latest-small"
    if kind == "recorded" and recorded.is_dir():
        return recorded, MOVIELENS_RATINGS
    rng = random.Random(kind)
    movies = [(movie, f"Movie {movie}, The", rng.choice(["Drama", "Comedy|Drama"])) for movie in range(1, 400)]
    pairs = rng.sample([(user, movie) for user in range(1, 60) for movie in range(1, 400)], GENERATED_RATINGS)
    ratings = [(*pair, rng.randrange(1, 11) / 2, rng.randrange(10**9, 10**9 + 5000)) for pair in pairs]
    return write_movielens(folder / "src", ratings, movies), GENERATED_RATINGS


def write_retail(path: Path) -> Path:
    at = datetime(2010, 12, 1, 8, 26)  # noqa: DTZ001 (the data set has no zone)
    rows = [
        ("WHITE HANGING HEART T-LIGHT HOLDER", 6, at, 2.55, 17850.0, "United Kingdom"),
        (" RED RETROSPOT CAKE STAND ", 2, at, 10.95, 17850.0, "United Kingdom"),
        ("JUMBO BAG PINK POLKADOT", 10, at, 1.95, 12347.0, "Iceland"),
        ("WHITE HANGING HEART T-LIGHT HOLDER", -6, at + timedelta(minutes=1), 2.55, 17850.0, "United Kingdom"),
        ("WHITE METAL LANTERN", 1, at, 3.39, None, "United Kingdom"),
        (None, 5, at, 0.0, 12347.0, "Iceland"),
        ("JUMBO BAG PINK POLKADOT", 1, at - timedelta(days=1), 1.95, 17850.0, "United Kingdom"),
    ]
    names = ("Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    schema = pa.schema(
        [
            ("Description", pa.string()),
            ("Quantity", pa.int32()),
            ("InvoiceDate", pa.timestamp("ns")),
            ("UnitPrice", pa.float64()),
            ("CustomerID", pa.float64()),
            ("Country", pa.string()),
        ]
    )
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


def write_bandit(folder: Path) -> Path:
    users = [f"user_feature_{number}" for number in range(4)]
    header = ["", "timestamp", "item_id", "position", "click", "propensity_score", *users, "user-item_affinity_0"]
    first = [
        (0, "2019-11-24 00:01:03.979311+00:00", 2, 2, 1, 0.0455, "a", "b", "c", "d", 0.0),
        (1, "2019-11-24 00:01:04.100000+00:00", 9, 3, 0, 0.0593, "a", "b", "c", "e", 0.0),
    ]
    second = [(0, "2019-11-24 00:01:03+00:00", 9, 1, 0, 0.0294, "a", "b", "c", "d", 0.0)]
    write_csv(folder / "obd_bts_men_men.csv", header, first)
    write_csv(folder / "obd_random_men_men.csv", header, second)
    return folder


def imported(dataset: str, src: Path, dst: Path, *options: str) -> list[Event]:
    """The events of a log that was imported and then read by the stream job."""
    assert main([dataset, str(src), str(dst), *options]) == 0
    parsed = parse_log(dst, BOUNDS)
    assert rejects_of(parsed) == []
    return events_of(parsed)


def catalogue(path: Path) -> list[Item]:
    return [msgspec.json.decode(line, type=Item) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("kind", ["generated", "recorded"])
def test_every_rating_becomes_one_event_of_its_own(kind: str, tmp_path: Path) -> None:
    src, count = movielens_with_count(kind, tmp_path)
    events = imported("movielens", src, tmp_path / "ml.ndjson")

    assert len({event.event_id for event in events}) == len(events) == count
    assert [event.ts for event in events] == sorted(event.ts for event in events)
    titled = {item.item_id for item in catalogue(tmp_path / "ml.items.ndjson") if item.title}
    assert {event.item_id for event in events} <= titled


def test_a_rating_keeps_its_ids_value_and_genres(tmp_path: Path) -> None:
    events = imported("movielens", small_movielens(tmp_path), tmp_path / "ml.ndjson")
    found = [(e.user_id, e.item_id, e.value, e.ts, e.features, e.type, e.domain) for e in events]
    assert found == [
        ("2", "10", 0.5, 800_000, {"genres": ["Comedy", "Drama"]}, EventType.RATING, "movies"),
        ("1", "11", 3.5, 800_000, {"genres": ["Action"]}, EventType.RATING, "movies"),
        ("2", "12", 5.0, 850_000, None, EventType.RATING, "movies"),
        ("1", "10", 4.0, 900_000, {"genres": ["Comedy", "Drama"]}, EventType.RATING, "movies"),
    ]
    assert catalogue(tmp_path / "ml.items.ndjson") == [
        Item("10", "movies", 'American President, The "1995"', ["Comedy", "Drama"]),
        Item("11", "movies", "Æon Flux (2005)", ["Action"]),
        Item("12", "movies", "Unsorted"),
    ]


@pytest.mark.parametrize("name", ["ml.jsonl", "ml.ndjson.gz", "ml.ndjson.zst", "ml.parquet"])
def test_every_ending_holds_the_same_events(name: str, tmp_path: Path) -> None:
    src = small_movielens(tmp_path)
    assert imported("movielens", src, tmp_path / name) == imported("movielens", src, tmp_path / "plain.ndjson")
    assert (tmp_path / "ml.items.ndjson").exists()


@pytest.mark.parametrize("name", ["ml.ndjson", "ml.ndjson.gz", "ml.ndjson.zst"])
def test_importing_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    src = small_movielens(tmp_path)
    imported("movielens", src, tmp_path / "1" / name)
    imported("movielens", src, tmp_path / "2" / name)
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_limit_keeps_the_first_events_in_time(tmp_path: Path) -> None:
    src = small_movielens(tmp_path)
    events = imported("movielens", src, tmp_path / "all.ndjson")
    assert imported("movielens", src, tmp_path / "some.ndjson", "--limit", "3") == events[:3]


@pytest.mark.parametrize("by_folder", [True, False])
def test_retail_lines_that_are_no_purchase_are_left_out_with_a_reason(
    by_folder: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_retail(tmp_path / "src" / "online_retail.parquet")
    events = imported("online-retail", path.parent if by_folder else path, tmp_path / "shop.ndjson")
    assert len(events) == 4
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines[:3]] == ["7", "4", "3"]
    assert sorted(" ".join(line[2:]) for line in lines[3:]) == [
        "1 rows: cancelled or returned (quantity not positive)",
        "1 rows: no CustomerID",
        "1 rows: no description",
    ]


def test_a_purchase_says_amount_category_and_invoice(tmp_path: Path) -> None:
    src = write_retail(tmp_path / "online_retail.parquet")
    early, *invoice, other = imported("online-retail", src, tmp_path / "shop.ndjson")

    assert [(e.user_id, e.item_id, e.value) for e in invoice] == [
        ("17850", "white-hanging-heart-t-light-holder", 15.3),
        ("17850", "red-retrospot-cake-stand", 21.9),
    ]
    assert [e.features and e.features["category"] for e in (early, *invoice, other)] == [
        "bag",
        "holder",
        "stand",
        "bag",
    ]
    assert invoice[0].request_id == invoice[1].request_id
    assert len({event.request_id for event in (early, invoice[0], other)}) == 3
    assert [event.ts for event in (early, *invoice)] == [1_291_105_560_000, 1_291_191_960_000, 1_291_191_960_000]
    assert {item.title for item in catalogue(tmp_path / "shop.items.ndjson")} == {
        "WHITE HANGING HEART T-LIGHT HOLDER", "RED RETROSPOT CAKE STAND", "JUMBO BAG PINK POLKADOT",
    }  # fmt: skip


def test_a_bandit_click_follows_its_impression_by_a_second(tmp_path: Path) -> None:
    events = imported("open-bandit", write_bandit(tmp_path / "src"), tmp_path / "obd.ndjson")

    assert [event.type.value for event in events] == ["impression", "impression", "impression", "click"]
    random_one, shown, other, click = events
    assert (shown.position, shown.propensity, shown.item_id) == (1, 0.0455, "2")
    assert (click.request_id, click.item_id, click.user_id) == (shown.request_id, shown.item_id, shown.user_id)
    assert (shown.ts, click.ts) == (1_574_553_663_979, 1_574_553_664_979)
    assert click.propensity is None
    assert random_one.user_id == shown.user_id != other.user_id
    assert [e.features for e in events[:2]] == [{"policy": "obd_random_men_men"}, {"policy": "obd_bts_men_men"}]
    assert len({event.event_id for event in events}) == 4


def test_one_bandit_file_can_be_imported_alone(tmp_path: Path) -> None:
    src = write_bandit(tmp_path / "src") / "obd_bts_men_men.csv"
    assert len(imported("open-bandit", src, tmp_path / "obd.parquet")) == 3


@pytest.mark.parametrize("dst", ["out.ndjson", "out.parquet", "out.csv", "out.txt"])
def test_what_cannot_be_imported_says_why_and_leaves_nothing(
    dst: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = write_movielens(tmp_path / "src", [(1, 10, "good", 900)], [(10, "T", "Drama")])
    (tmp_path / "out").mkdir()
    assert main(["movielens", str(src), str(tmp_path / "out" / dst)]) == 1
    assert ("ratings.csv" in capsys.readouterr().err) == (dst in ("out.ndjson", "out.parquet"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("dataset", ["movielens", "online-retail", "open-bandit"])
def test_a_missing_source_is_named(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([dataset, str(tmp_path / "none"), str(tmp_path / "out.ndjson")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_it_runs_as_a_program_and_its_help_has_an_example() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = ROOT / "scripts" / "import_dataset.py"
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "example: scripts/import_dataset.py movielens" in done.stdout
