"""`python -m flows report` on a real PostgreSQL: what the rows say is printed, drawn and written as one page."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.__main__ import main
from online_models.contracts.ids import ModelName, hash64
from online_models.ports import FeatureWindowRow, FeatureWord
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres import Database
from online_models.stores.postgres_windows import PostgresWindows
from tests.samples import MOVIES

DAY_MS = 86_400_000
PRODUCTS = ModelName("products")
Run = Callable[..., tuple[int, str, str]]


def window(feature: str, day: int, model: ModelName = MOVIES, verdict: str = "stable") -> FeatureWindowRow:
    bucket = f"bucket {hash64('War') % 64}"
    return FeatureWindowRow(
        model=model,
        window_start_ms=(day - 1) * DAY_MS,
        window_end_ms=day * DAY_MS,
        feature=feature,
        kind="multi-valued",
        champion="v1",
        events=1_000,
        missing=10 * day,
        verdict=verdict,
        why=f"{feature}: '{bucket}' 50 % -> 90 %" if verdict == "drift" else "",
        cardinality=20.0,
        statistics={"psi": day / 100, "ks": 0.1},
        p_value=0.5,
        effect=day / 100,
        detectable=0.02,
        information=0.2,
        rank=1,
        bins=(f"{bucket} of 64", "other", "missing"),
        counts=(900, 90, 10),
        reference=(500, 490, 10),
    )


@pytest.fixture
def run(
    fresh_stores: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command on stores that hold 10 days of two features of `movies` and a day of `products`."""
    database = Database(fresh_stores.postgres_dsn)
    store = PostgresWindows(database)
    days = [window(name, day) for day in range(1, 10) for name in ("genres", "title")]
    last = [window("genres", 10, verdict="drift"), window("title", 10)]
    store.put_feature_windows([*days, *last, window("category", 4, PRODUCTS)])
    store.put_feature_words([FeatureWord(MOVIES, "genres", hash64("War") >> 32, "War")])
    database.close()
    monkeypatch.setenv("PENSTOCK_POSTGRES_DSN", fresh_stores.postgres_dsn)
    monkeypatch.setenv("PENSTOCK_REDIS_URL", fresh_stores.redis_url)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main(["report", *arguments])
        out, error = capsys.readouterr()
        return status, out, error

    return command


def test_the_latest_window_of_every_model_is_told(run: Run) -> None:
    status, out, error = run("latest")
    assert (status, error) == (0, "")
    assert "movies: window 1970-01-10T00:00:00Z to 1970-01-11T00:00:00Z, against v1" in out
    assert "products: window 1970-01-04T00:00:00Z to 1970-01-05T00:00:00Z, against v1" in out
    assert "1970-01-11T00:00:00Z  drift: genres: 'War' 50 % -> 90 %" in out
    assert "No drift in 1 window." in out


def test_a_range_tells_its_last_window_and_all_that_was_found(run: Run) -> None:
    status, out, _ = run("1970-01-03..1970-01-11", "--model", "movies", "--feature", "genres")
    assert status == 0
    assert "1 finding in 8 windows:" in out
    assert "title" not in out
    assert "0.1000" in out
    assert "0.0900" not in out


def test_a_window_is_found_by_its_end(run: Run) -> None:
    status, out, _ = run("1970-01-05T00:00:00Z", "--model", "movies")
    assert status == 0
    assert "window 1970-01-04T00:00:00Z to 1970-01-05T00:00:00Z" in out
    assert "0.0400" in out


def test_plots_and_page_are_written(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("latest", "--model", "movies", "--out", "plots", "--html", "page.html")
    assert status == 0
    assert "wrote 6 plots into plots" in out
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "movies-psi.png", "movies-coverage.png", "movies-cardinality.png", "movies-ranking.png",
        "movies-histogram-genres.png", "movies-histogram-title.png",
    }  # fmt: skip
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4
    assert "<th>War</th>" in page
    assert "&#39;War&#39; 50 % -&gt; 90 %" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yesterday",), "expected a time such as 2011-03-01"),
        (("2011-01-01..2010-01-01",), "expected a range that ends after it begins"),
        (("latest", "--model", "songs"), "no windows of model 'songs' are stored; known are movies, products"),
        (("latest", "--model", "movies", "--feature", "x"), "no window of feature 'x' is stored for latest"),
        (("1970-02-01", "--model", "movies"), "the latest of movies ended at 1970-01-11T00:00:00Z"),
        (("latest", "--html", "no/such/page.html"), "--html: no such directory"),
    ],
)
def test_what_is_not_there_is_one_line_and_status_1(run: Run, arguments: tuple[str, ...], message: str) -> None:
    status, out, error = run(*arguments)
    assert (status, out) == (1, "")
    assert error.count("\n") == 1
    assert error.startswith("penstock: ")
    assert message in error


def test_an_empty_store_says_how_to_fill_it(
    fresh_stores: Endpoints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_POSTGRES_DSN", fresh_stores.postgres_dsn)
    monkeypatch.setenv("PENSTOCK_REDIS_URL", fresh_stores.redis_url)
    assert main(["report", "latest"]) == 1
    assert "replay a log first" in capsys.readouterr().err


def test_a_row_of_a_longer_window_does_not_hide_the_shorter(run: Run, fresh_stores: Endpoints) -> None:
    database = Database(fresh_stores.postgres_dsn)
    longer = dataclasses.replace(window("genres", 10, verdict="drift"), window_start_ms=3 * DAY_MS, effect=0.77)
    PostgresWindows(database).put_feature_windows([longer])
    database.close()
    _, out, _ = run("latest", "--model", "movies")
    assert out.index("1970-01-10T00:00:00Z to 1970-01-11") < out.index("1970-01-04T00:00:00Z to 1970-01-11")
    assert "2 findings in 1 window:" in out
