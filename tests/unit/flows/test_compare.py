"""Two logs compared without stores: what changed is found, what did not is not, whatever the format and the split."""

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flows.__main__ import main
from flows.compare import compare, features_of, text_of
from flows.offline import Tallied, batches, parse_log
from flows.pages import compare_page
from flows.profiles import LENGTHS_MS, Profile, Stretches
from flows.ranges import TimeRange
from flows.settings import FlowSettings
from online_models.contracts.events import Event, EventType, TimeBounds
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.errors import SourceError
from online_models.sketches import Layout
from tests.log_files import WRITERS
from tests.samples import MOVIES, event
from tests.strategies import ndjson

ROOT = Path(__file__).parents[3]
HOUR_MS = 3_600_000
START_MS = 1_300_000_000_000 // (24 * HOUR_MS) * (24 * HOUR_MS)
BOUNDS = TimeBounds(0, 2**62)
RATING = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 10.0, 100)
GENRES = FeatureSpec("genres", FeatureKind.MULTI_VALUED, "features.genres", (EventType.RATING,))
SETTINGS = FlowSettings(features=(RATING, GENRES))


def log_of(
    count: int, *, seed: int, mean: float = 5.0, start_ms: int = START_MS, domain: str = "movies"
) -> list[Event]:
    """Ratings around a mean, of a few genres, over 48 hours."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 48 * HOUR_MS, count))
    names = ["Drama", "War", "<b>Noir</b>", "Comedy"]
    return [
        event(
            seed * 1_000_000 + number,
            ts=start_ms + int(at),
            value=float(np.clip(value, 0, 9.9)),
            domain=domain,
            features={"genres": [names[k] for k in sorted({first, second})]},
        )
        for number, (at, value, first, second) in enumerate(
            zip(times, rng.normal(mean, 1, count), *rng.integers(0, 4, (2, count)), strict=True)
        )
    ]


def write(path: Path, log: Sequence[Event]) -> str:
    path.write_bytes(ndjson(log))
    return str(path)


def verdicts(before: str, after: str) -> dict[str, str]:
    found = compare(parse_log(before), parse_log(after), SETTINGS, BOUNDS)
    return {each.name: each.row.verdict for each in found.features}


def test_what_changed_is_found_and_told_first(tmp_path: Path) -> None:
    before = write(tmp_path / "a.ndjson", log_of(8_000, seed=1))
    after = write(tmp_path / "b.ndjson", log_of(4_000, seed=2, mean=5.5))
    found = compare(parse_log(before), parse_log(after), SETTINGS, BOUNDS)
    assert [(each.name, each.row.verdict) for each in found.features] == [("rating", "drift"), ("genres", "stable")]
    rating = found.features[0]
    assert rating.row.mean == pytest.approx(5.5, abs=0.06)
    assert rating.before.mean == pytest.approx(5.0, abs=0.04)
    assert rating.row.effect is not None
    assert rating.row.effect > 0.1
    told = text_of(found)
    assert "1 of 2 features drifted" in told
    assert "drift: rating: drift, 4,000 events against 8,000" in told


def test_two_halves_of_one_world_do_not_differ(tmp_path: Path) -> None:
    before = write(tmp_path / "a.ndjson", log_of(6_000, seed=3))
    after = write(tmp_path / "b.ndjson", log_of(6_000, seed=4))
    assert verdicts(before, after) == {"rating": "stable", "genres": "stable"}


def test_stretches_of_one_log_are_compared(tmp_path: Path) -> None:
    whole = log_of(5_000, seed=5) + log_of(5_000, seed=6, mean=6.0, start_ms=START_MS + 48 * HOUR_MS)
    path = write(tmp_path / "a.ndjson", whole)
    cut = "2011-03-15"
    assert parse_log(f"{path}@..{cut}").span.end_ms == START_MS + 48 * HOUR_MS
    assert verdicts(f"{path}@..{cut}", f"{path}@{cut}..") == {"rating": "drift", "genres": "stable"}


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.ndjson.gz"])
def test_the_format_of_a_log_does_not_matter(tmp_path: Path, name: str) -> None:
    before, after = log_of(3_000, seed=7), log_of(2_000, seed=8, mean=5.2)
    WRITERS[name](tmp_path / name, before)
    plain, other = write(tmp_path / "b.ndjson", after), write(tmp_path / "c.ndjson", before)
    found = [compare(parse_log(each), parse_log(plain), SETTINGS, BOUNDS) for each in (str(tmp_path / name), other)]
    assert [each.row for each in found[0].features] == [each.row for each in found[1].features]


def test_repeated_and_broken_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    log = log_of(3_000, seed=9)
    clean, spoiled = tmp_path / "a.ndjson", tmp_path / "b.ndjson"
    write(clean, log)
    spoiled.write_bytes(ndjson(log) + b"{broken\n" + ndjson(log[:500]))
    found = compare(parse_log(str(clean)), parse_log(str(spoiled)), SETTINGS, BOUNDS)
    assert found.after_tally == Tallied(3_000, 1, 500)
    assert [each.row.counts for each in found.features] == [each.row.reference for each in found.features]
    page = compare_page(found)
    assert "1 rows were no valid events and\n500 came twice" in page


def test_the_page_is_small_whole_and_escapes_words(tmp_path: Path) -> None:
    before = write(tmp_path / "a.ndjson", log_of(4_000, seed=10))
    after = write(tmp_path / "b.ndjson", log_of(4_000, seed=11, mean=6.0))
    page = compare_page(compare(parse_log(before), parse_log(after), SETTINGS, BOUNDS))
    assert "<h1>1 of 2 features drifted</h1>" in page
    assert page.count("<details") == 2
    assert page.count("<svg") == 1
    assert "<b>Noir" not in page
    assert "&lt;b&gt;Noir&lt;/b&gt;" in page
    assert "http" not in page
    assert len(page) < 30_000


def test_only_domains_that_both_have_are_compared(tmp_path: Path) -> None:
    both = log_of(2_000, seed=12) + log_of(2_000, seed=13, domain="songs")
    mixed, movies = write(tmp_path / "a.ndjson", both), write(tmp_path / "b.ndjson", log_of(2_000, seed=14))
    assert set(verdicts(mixed, movies)) == {"rating", "genres"}
    assert set(verdicts(mixed, mixed)) == {"movies: rating", "songs: rating", "movies: genres", "songs: genres"}
    songs = write(tmp_path / "c.ndjson", log_of(2_000, seed=13, domain="songs"))
    with pytest.raises(SourceError, match="no domain in common"):
        verdicts(songs, movies)


def test_features_that_no_event_has_are_not_compared(tmp_path: Path) -> None:
    other = FeatureSpec("price", FeatureKind.NUMERIC, "features.price", (EventType.PURCHASE,))
    path = write(tmp_path / "a.ndjson", log_of(1_000, seed=15))
    assert features_of([parse_log(path)], FlowSettings(features=(other, GENRES)), BOUNDS) == (GENRES,)


@pytest.mark.parametrize("most", [2, 7, 100])
def test_stretches_hold_the_same_however_the_log_is_split(most: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", log_of(2_000, seed=16))
    (batch,) = batches(parse_log(path), BOUNDS, 2**16, Tallied())
    whole, split = (Stretches(Layout([RATING, GENRES], profile=False), most) for _ in range(2))
    whole.add(batch)
    rows = np.arange(len(batch))
    for part in np.array_split(np.random.default_rng(1).permutation(len(batch)), 9):
        split.add(batch.take(np.isin(rows, part)))
    assert whole.length_ms == split.length_ms
    assert len(whole.held) <= most
    assert whole.held.keys() == split.held.keys()
    for number, held in whole.held.items():
        assert (held.sums == split.held[number].sums).all()


def test_the_lengths_of_stretches_nest() -> None:
    assert all(longer % shorter == 0 for shorter, longer in itertools.pairwise(LENGTHS_MS))


def test_a_reference_s_panes_sum_to_its_histogram(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", log_of(2_000, seed=17))
    profile = Profile(MOVIES, [RATING, GENRES], stretched=True)
    for batch in batches(parse_log(path), BOUNDS, 2**16, Tallied()):
        profile.add(batch)
    for sketch in profile.references():
        assert sketch.pane_ms == LENGTHS_MS[2]
        assert len(sketch.panes) == len(sketch.pane_starts_ms) == 192
        assert sum(map(sum, sketch.panes)) == sum(sketch.counts)
        assert sketch.pane_starts_ms == sorted(sketch.pane_starts_ms)


def test_a_log_may_be_several_files_and_a_catalogue_is_none(tmp_path: Path) -> None:
    log = log_of(100, seed=18)
    write(tmp_path / "a-1.ndjson", log[:50])
    write(tmp_path / "a-2.ndjson", log[50:])
    (tmp_path / "a-1.items.ndjson").write_text("{}")
    found = parse_log(f"{tmp_path}/a-*")
    assert [path.name for path in found.paths] == ["a-1.ndjson", "a-2.ndjson"]
    assert found.span == TimeRange()
    assert sum(len(batch) for batch in batches(found, BOUNDS, 2**16, Tallied())) == 100


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("none.ndjson", "no such file"),
        ("b.ndjson@1999-01-01..2000-01-01", "no acceptable event"),
        ("b.ndjson@x..y", "expected a time such as"),
        ("b.txt", "expected a name ending in"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], after: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "b.ndjson", log_of(100, seed=19))
    write(tmp_path / "b.txt", [])
    assert main(["compare", "b.ndjson", after]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.ndjson", log_of(1_500, seed=20))
    assert main(["compare", "a.ndjson", "a.ndjson", "--html", "page.html"]) == 0
    out = capsys.readouterr().out
    assert "0 of 2 features drifted" in out
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_without_the_extra_for_pages_only_pages_are_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", log_of(1_500, seed=21))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; sys.modules |= {'matplotlib': None, 'jinja2': None, 'markupsafe': None}\n"
        code += "from flows.__main__ import main; sys.exit(main(sys.argv[1:]))"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    for arguments in (["declare", path], ["tune", path], ["compare", path, path]):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    done = run("compare", path, path, "--html", str(tmp_path / "page.html"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'penstock[report]'" in done.stderr


def test_features_of_the_second_log_alone_are_declared_too(tmp_path: Path) -> None:
    before, after = write(tmp_path / "a.ndjson", log_of(500, seed=22)), tmp_path / "b.ndjson"
    after.write_bytes(ndjson([event(number, ts=START_MS, features={"late": 1.0}) for number in range(500)]))
    logs = [parse_log(before), parse_log(str(after))]
    assert {spec.name for spec in features_of(logs, FlowSettings(features=()), BOUNDS)} == {"rating", "genres", "late"}
