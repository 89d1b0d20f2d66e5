"""An evaluation as text, as JSON and as figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from online_models.evaluation.contenders import OURS, Result, run, study_of
from online_models.evaluation.measures import SEGMENTS
from online_models.evaluation.plots import OURS_COLOUR, curves, moving_mean, segments, write_plots
from online_models.evaluation.report import Evaluation, evaluation_of, json_of, text_of
from online_models.stores.recorded import Recorded, Refused
from tests.evaluation_logs import log_of, tastes

NAMES = ("popularity", "rules", OURS)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    none = np.empty(0, np.int64)
    refused = {"JSON is malformed": Refused(3, "log, row 1: JSON is malformed")}
    recorded = Recorded([], [], [], none, none, none, none.astype(np.int8), none, none.astype(np.float64), refused)
    study = study_of(log_of(tastes(2, events=900)), 0.8)
    results = [*run(study, NAMES), Result("ease", None, 0.1, "99999 items: too many")]
    return evaluation_of("log.ndjson", "movies", recorded, study, results)


def test_the_text_has_a_row_for_each_model_and_says_what_did_not_run(evaluation: Evaluation) -> None:
    text = text_of(evaluation)
    head, accuracy, by_segment, lead, skipped = text.split("\n\n")
    assert "3 rows: JSON is malformed" in head
    assert [line.split()[0] for line in accuracy.splitlines()[1:]] == list(NAMES)
    assert len({len(line) for line in accuracy.splitlines()}) == 1
    for name, row in zip(NAMES, accuracy.splitlines()[1:], strict=True):
        found = evaluation.measures[name].accuracy
        assert f"{found.hit.mean:.4f}  {found.hit.standard_error:.4f}  " in row
    assert [line.split()[0] for line in by_segment.splitlines()[3:]] == list(NAMES)
    assert lead.startswith("ours - ")
    assert skipped == "ease did not run: 99999 items: too many"


def test_a_run_in_which_nothing_could_take_part_has_a_text(evaluation: Evaluation) -> None:
    nothing = replace(evaluation, results=evaluation.results[-1:], measures={})
    assert "ease did not run" in text_of(nothing)
    assert json.loads(json_of(nothing))["models"] == {}


def test_json_holds_every_figure_and_null_for_one_that_is_not_finite(evaluation: Evaluation) -> None:
    alone = evaluation.measures["rules"]
    hit = replace(alone.accuracy.hit, standard_error=np.inf)
    changed = replace(evaluation, measures={"rules": replace(alone, accuracy=replace(alone.accuracy, hit=hit))})
    found = json.loads(json_of(changed))
    assert found["models"]["rules"]["accuracy"]["hit"]["standard_error"] is None
    assert found["models"]["rules"]["accuracy"]["ndcg"]["mean"] == alone.accuracy.ndcg.mean
    assert set(found["models"]["rules"]["segments"]) <= set(SEGMENTS)
    assert found["did_not_run"] == {"ease": "99999 items: too many"}
    assert found["refused"] == {"JSON is malformed": 3}
    assert found["test"]["events"] == len(evaluation.yardstick.users)


def test_an_error_of_which_nothing_is_known_is_shown_as_that(evaluation: Evaluation) -> None:
    one = evaluation.measures["rules"]
    name = next(iter(one.segments))
    lonely = replace(one.segments[name], hit=replace(one.segments[name].hit, standard_error=np.inf))
    changed = replace(evaluation, measures={"rules": replace(one, segments={**one.segments, name: lonely})})
    assert "±?" in text_of(changed)


def test_curves_are_of_the_last_events_and_of_all_so_far(evaluation: Evaluation) -> None:
    recent, so_far = curves(evaluation).axes
    for name, lines in zip(NAMES, zip(recent.get_lines(), so_far.get_lines(), strict=True), strict=True):
        assert {str(line.get_label()) for line in lines} == {name}
        assert float(np.asarray(lines[1].get_ydata())[-1]) == pytest.approx(evaluation.measures[name].accuracy.hit.mean)
    assert recent.get_lines()[-1].get_color() == OURS_COLOUR


def test_bars_are_the_hit_rates_of_the_segments(evaluation: Evaluation) -> None:
    shown = [axes for axes in segments(evaluation).axes if axes.axison]
    names = [name for name in SEGMENTS if name in evaluation.measures[OURS].segments]
    assert len(shown) == len(names)
    for axes, name in zip(shown, names, strict=True):
        assert isinstance(axes, Axes)
        widths = [patch.get_width() for patch in axes.patches]  # type: ignore[attr-defined]
        assert widths == [evaluation.measures[model].segments[name].hit.mean for model in NAMES]
        assert name in axes.get_title(loc="left")


def test_figures_are_written_as_png(evaluation: Evaluation, tmp_path: Path) -> None:
    paths = write_plots(evaluation, tmp_path / "a" / "b")
    assert [path.name for path in paths] == ["prequential.png", "segments.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_moving_mean_is_of_at_most_the_window() -> None:
    figures = np.random.default_rng(0).random(50)
    expected = [figures[max(0, n - 6) : n + 1].mean() for n in range(50)]
    np.testing.assert_allclose(moving_mean(figures, 7), expected)
