"""What a report says of rows: tables, findings, labels, charts and pages, whatever the words in the events are."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from flows import plots
from flows.__main__ import main
from flows.charts import HEIGHT, WIDTH, overlay
from flows.feature_rows import Beside, shown_bins, with_words, words_by_feature
from flows.pages import report_page, write_page
from flows.ranges import TimeRange, parse_range
from flows.reports import Report, against, last_windows, risen_words, text_of, told, urgent
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from online_models.errors import SourceError
from online_models.ports import FeatureWindowRow
from tests.samples import MOVIES

DAY_MS = 86_400_000
RATING = FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 5.0, 10)
GENRES = FeatureSpec("genres", FeatureKind.MULTI_VALUED, "features.genres", (EventType.RATING,), bins=64)


def row(feature: str, day: int, verdict: str = "stable", effect: float = 0.01) -> FeatureWindowRow:
    numeric = feature == "rating"
    return FeatureWindowRow(
        model=MOVIES,
        window_start_ms=(day - 1) * DAY_MS,
        window_end_ms=day * DAY_MS,
        feature=feature,
        kind="numeric" if numeric else "multi-valued",
        champion="v7",
        events=1_234,
        missing=617,
        verdict=verdict,
        why=f"{feature}: PSI {effect}" if verdict != "stable" else "",
        cardinality=None if numeric else 19.0,
        statistics={"psi": effect, "ks": 0.5},
        p_value=1e-9,
        effect=effect,
        detectable=0.02,
        information=0.2,
        rank=1 if numeric else 2,
        bins=("below 1", "1 or more", "missing") if numeric else ("<script>alert(1)</script>", "other", "missing"),
        counts=(100, 300, 600),
        reference=(250, 250, 500),
    )


def report(days: int = 3) -> Report:
    rows = [
        row(name, day, "drift" if name == "genres" and day == days else "stable", 0.3 if day == days else 0.01)
        for day in range(1, days + 1)
        for name in ("genres", "rating")
    ]
    return Report(MOVIES, rows[-2:], rows)


def test_the_text_shows_the_figures_and_every_finding() -> None:
    lines = text_of(report()).splitlines()
    assert lines[0] == "movies: window 1970-01-03T00:00:00Z to 1970-01-04T00:00:00Z, against v7"
    assert lines[1].split() == [
        *("feature", "events", "coverage", "cardinality", "PSI", "KS", "p"),
        *("effect", "detectable", "verdict", "rank"),
    ]
    assert lines[2].split() == [
        "genres",
        "1,234",
        "50.0%",
        "19",
        "0.3000",
        "0.5000",
        "1e-09",
        "0.3000",
        "0.0200",
        "drift",
        "2",
    ]
    assert lines[3].split() == [
        "rating",
        "1,234",
        "50.0%",
        "-",
        "0.3000",
        "0.5000",
        "1e-09",
        "0.3000",
        "0.0200",
        "stable",
        "1",
    ]
    assert lines[5:] == ["1 finding in 1 window:", "1970-01-04T00:00:00Z  drift: genres: PSI 0.3"]


def test_a_calm_report_says_so() -> None:
    calm = Report(MOVIES, [row("rating", 1)], [])
    assert text_of(calm).endswith("No drift in 1 window.")


def test_windows_that_end_together_are_told_one_after_the_other() -> None:
    long = dataclasses.replace(row("rating", 9), window_start_ms=0)
    both = Report(MOVIES, [long, row("rating", 9)], [])
    starts = re.findall(r"window (\S+) to", text_of(both))
    assert starts == ["1970-01-09T00:00:00Z", "1970-01-01T00:00:00Z"]
    assert last_windows(both) == [row("rating", 9)]


def test_what_to_look_at_first_comes_first() -> None:
    rows = [row("a", 1, "stable", 0.9), row("b", 1, "seasonal"), row("c", 1, "drift", 0.1), row("d", 1, "drift", 0.2)]
    assert [each.feature for each in urgent(rows)] == ["d", "c", "b", "a"]


def test_numbers_are_labelled_by_their_ranges_and_nothing_is_lost() -> None:
    fine = np.array([3, 0, 0, 10, 10, 10, 10, 10, 10, 10, 10, 2, 5])
    bins = Beside(RATING, fine).bins(fine[::-1].copy())
    assert bins.labels[0].startswith("below ")
    assert bins.labels[-2].endswith(" or more")
    assert bins.labels[-1] == "missing"
    assert (sum(bins.counts), sum(bins.reference), bins.reference[-1]) == (90, 90, 5)


def test_words_that_the_reference_never_had_stand_apart() -> None:
    reference, counts = np.zeros(67, np.int64), np.zeros(67, np.int64)
    reference[1:51] = np.arange(50, 0, -1)  # 30 buckets of their own, 20 others, 14 never filled
    counts[1], counts[45], counts[60], counts[-1] = 7, 5, 3, 2
    bins = Beside(GENRES, reference).bins(counts)
    found = dict(zip(bins.labels, zip(bins.counts, bins.reference, strict=True), strict=True))
    assert found["bucket 0 of 64"] == (7, 50)
    assert (found["other"], found["unseen"], found["missing"]) == ((5, 210), (3, 0), (2, 0))
    assert sum(bins.counts) == 17
    few = Beside(GENRES, np.where(np.arange(67) < 5, reference, 0)).bins(counts)
    assert few.labels == (*(f"bucket {n} of 64" for n in range(4)), "unseen", "missing")
    assert few.counts == (7, 0, 0, 0, 8, 2)


def test_a_known_word_replaces_its_bucket_in_labels_and_explanation() -> None:
    bucket, mark = hash64("War") % 64, hash64("War") >> 32
    labelled = dataclasses.replace(
        row("genres", 1), bins=(f"bucket {bucket} of 64", "bucket 63 of 64"), why=f"'bucket {bucket}' 1 % -> 2 %"
    )
    known = {("genres", mark): "War", ("genres", 5): "of another hash", ("title", mark): "Peace"}
    named = with_words(labelled, words_by_feature(known))
    assert named.bins == ("War", "bucket 63 of 64")
    assert named.why == "'War' 1 % -> 2 %"


def test_a_chart_of_many_words_shows_the_most_frequent() -> None:
    many = dataclasses.replace(
        row("genres", 1), bins=[f"w{n}" for n in range(60)], counts=range(60), reference=[0] * 59 + [9]
    )
    shown = shown_bins(many, most=10)
    assert [label for label, _, _ in shown] == [f"w{n}" for n in range(50, 60)]
    assert shown_bins(dataclasses.replace(many, counts=(), reference=(), bins=())) == []


def test_one_absurd_value_does_not_flatten_the_chart() -> None:
    wide = FeatureSpec("amount", FeatureKind.NUMERIC, "value", (EventType.PURCHASE,), 0.0, 1_000.0, 1_000)
    counts = np.zeros(1_003, np.int64)
    counts[1:41] = 500
    absurd = counts.copy()
    absurd[-3] = 1
    chart = overlay(wide, absurd, counts)
    assert chart is not None
    assert [text for _, text in chart.ticks][-1] == "40"
    assert chart.ticks[-1][0] == WIDTH
    assert overlay(wide, np.zeros(1_003, np.int64), np.zeros(1_003, np.int64)) is None


def test_the_steps_of_a_chart_hold_all_values() -> None:
    rng = np.random.default_rng(3)
    now, then = rng.integers(0, 50, (2, 13))
    chart = overlay(RATING, now, then)
    assert chart is not None
    heights = [HEIGHT - float(y) for y in re.findall(r"V([\d.]+)H", chart.window)]
    shares = [chart.top * height / HEIGHT for height in heights]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert max(*shares, 0) <= chart.top + 1e-9


def test_every_plot_is_a_picture_of_some_size(tmp_path: Path) -> None:
    written = plots.write_plots(report(), tmp_path / "new")
    assert sorted(path.name for path in written) == [
        "movies-cardinality.png", "movies-coverage.png", "movies-histogram-genres.png", "movies-histogram-rating.png",
        "movies-psi.png", "movies-ranking.png",
    ]  # fmt: skip
    for path in written:
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 0.01, f"{path.name} is blank"


def test_alarms_are_marked_in_red(tmp_path: Path) -> None:
    calm = dataclasses.replace(report(), history=[dataclasses.replace(r, verdict="stable") for r in report().history])
    red = []
    for name, shown in (("calm", calm), ("alarmed", report())):
        plots.psi_over_time(shown.history).savefig(tmp_path / name, format="png")
        pixels = imread(tmp_path / name)[..., :3]
        red.append(int(((pixels[..., 0] > 0.8) & (pixels[..., 1] < 0.25)).sum()))
    assert red[0] == 0
    assert red[1] > 20


def test_a_single_window_has_no_plots_over_time() -> None:
    alone = Report(MOVIES, report(1).rows, report(1).history)
    assert list(plots.figures_of(alone)) == ["movies-histogram-genres", "movies-histogram-rating"]


def test_a_page_escapes_words_and_needs_nothing_else(tmp_path: Path) -> None:
    page = report_page([report()])
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<!--.*?-->|<!DOCTYPE[^>]*>', "", page)
    assert page.count("<svg") == 4
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    write_page(page, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page
    with pytest.raises(SourceError, match="--html"):
        write_page(page, tmp_path)


@pytest.mark.parametrize("text", ["2011", "2011-01-02..2011-01-01", "2011-01-01T00:00:00..", "a..b", "..x"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="expected a"):
        parse_range(text)


def test_either_end_of_a_range_may_be_open() -> None:
    assert parse_range("..") == TimeRange()
    assert parse_range("..1970-01-02").end_ms == DAY_MS
    assert str(parse_range("1970-01-01T12:00:00Z..")) == "1970-01-01T12:00:00Z.."


def fingerprint(text: str) -> int:
    return hash64(text) >> 32


def test_an_alarm_names_the_words_that_the_reference_hardly_had() -> None:
    label = f"bucket {hash64('usual') % 64} of 64"
    words = {"genres": {fingerprint(text): text for text in ("usual", "new", "rare")}}
    heavy = ((fingerprint("usual"), 500), (fingerprint("new"), 300), (fingerprint("rare"), 40), (7, 300))
    found = dataclasses.replace(
        row("genres", 1, "drift"),
        why="genres: 'all other words' 10 % -> 50 %",
        heavy=heavy,
        bins=(label, "other", "missing"),
        counts=(500, 500, 200),
        reference=(60, 940, 0),
    )
    # 4 % is less than the rarest word with a bin of its own had; 7 is no known word
    assert risen_words(found, words) == [("new", 0.3)]
    assert told(found, words).bins == ("usual", "other", "missing")
    assert told(found, words).why.endswith("; not among the reference's frequent words: 'new' 30 %")
    assert told(dataclasses.replace(found, verdict="stable"), words).why == found.why
    assert told(found, {}).why == found.why


def test_what_tells_nothing_has_no_rank() -> None:
    rows = [dataclasses.replace(each, information=0.0) for each in report().history]
    assert "ranking" not in plots.over_time(rows)
    assert text_of(Report(MOVIES, rows[-2:], rows)).splitlines()[2].split()[-1] == "-"


def test_a_page_counts_also_the_findings_that_it_leaves_out() -> None:
    rows = [row("rating", day, "drift") for day in range(1, 204)]
    page = report_page([Report(MOVIES, rows, rows)])
    assert "movies: 203 findings" in page
    assert "and 3 earlier ones" in page


def test_coverage_never_reads_above_a_hundred_percent() -> None:
    rows = [dataclasses.replace(row("rating", day), missing=0) for day in (1, 2, 3)]
    (axes,) = plots.coverage_over_time(rows).axes
    low, high = axes.get_ylim()
    assert 0.9 < low <= 0.95
    assert 1 < high < 1.01


def test_other_words_do_not_flatten_the_frequent_ones() -> None:
    of_words = dataclasses.replace(row("genres", 1), bins=("War", "other", "missing"), counts=(20, 900, 0))
    (axes,) = plots.histogram(dataclasses.replace(of_words, reference=(30, 970, 0))).axes
    assert axes.get_xlim()[1] < 0.05
    assert [text.get_text() for text in axes.texts] == ["97.8%, in the reference 97.0%: beyond this scale"]


def test_bins_between_quantiles_are_drawn_equally_wide() -> None:
    spec = FeatureSpec("amount", FeatureKind.NUMERIC, "value", (EventType.PURCHASE,), edges=(0.0, 1.0, 2.0, 1_000.0))
    chart = overlay(spec, np.array([0, 10, 10, 10, 0, 0]), np.array([0, 10, 10, 10, 0, 0]))
    assert chart is not None
    assert chart.ticks == ((0.0, "0"), (133.3, "1"), (266.7, "2"), (400.0, "1,000"))


def test_a_report_says_what_windows_were_compared_with() -> None:
    champion = row("rating", 1)
    baseline = dataclasses.replace(champion, champion=None)
    assert against([champion]) == "against v7"
    assert against([baseline]) == "against the first part of the stream"
    assert against([dataclasses.replace(baseline, reference=())]) == "without a reference"


@pytest.mark.parametrize("windows", ["2020-13-01", "yesterday", "2020-01-01..2019-01-01"])
def test_what_is_no_time_is_refused_before_a_store_is_opened(
    windows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", windows]) == 1
    assert capsys.readouterr().err.startswith("penstock: expected a ")
    assert list(tmp_path.iterdir()) == []
