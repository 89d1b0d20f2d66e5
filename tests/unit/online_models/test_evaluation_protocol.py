"""The protocol: ranks as their definition says, prediction before learning, and cuts in time."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.errors import SourceError
from online_models.evaluation.log import Log, Moment
from online_models.evaluation.protocol import CUTOFF, prequential, ranks_of, split_of
from tests.evaluation_logs import log_of, tastes
from tests.oracles import evaluation as oracle

F32 = npt.NDArray[np.float32]

scores = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5, 2.0]), min_size=1, max_size=12)


@given(scores, st.sets(st.integers(0, 11)), st.lists(st.integers(0, 13), max_size=4))
def test_a_rank_is_the_place_among_all_that_the_user_has_not_met(
    given_scores: list[float], met: set[int], targets: list[int]
) -> None:
    seen = {row for row in met if row < len(given_scores)}
    found = ranks_of(np.array(given_scores, np.float32), np.array(sorted(seen), np.int64), np.array(targets, np.int64))
    assert found.tolist() == [oracle.rank_of(given_scores, seen, target) for target in targets]


class Noted:
    """Scores by a seed and notes in which order it is asked and taught."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int]] = []

    def scores(self, at: Moment) -> F32:
        self.notes.append(("predict", at.begin))
        return np.random.default_rng(at.begin).integers(0, 4, at.items).astype(np.float32)

    def learn(self, at: Moment) -> None:
        self.notes.append(("learn", at.begin))


def test_each_group_is_predicted_and_then_learned_and_its_lists_are_the_best_of_what_was_not_met() -> None:
    log = log_of(tastes(0, events=400))
    split = split_of(log, 0.8)
    model = Noted()
    outcome = prequential(model, log, split.test, log.groups)
    begins = log.begins[split.test : -1].tolist()
    assert model.notes == [(what, begin) for begin in begins for what in ("predict", "learn")]
    first = begins[0]
    for group in range(split.test, log.groups):
        at = log.moment(group)
        given_scores = Noted().scores(at).tolist()
        met = set(log.item[at.history].tolist())
        targets = log.item[at.begin : at.end].tolist()
        assert outcome.ranks[at.begin - first : at.end - first].tolist() == [
            oracle.rank_of(given_scores, met, target) for target in targets
        ]
        listed = [row for row in outcome.lists[group - split.test].tolist() if row >= 0]
        assert [oracle.rank_of(given_scores, met, row) for row in listed] == list(range(len(listed)))
        assert len(listed) == min(CUTOFF, at.items - len(met))


def test_time_is_told_by_the_clock_that_is_given() -> None:
    log = log_of(tastes(0, events=200))
    ticks = iter(range(10_000))
    outcome = prequential(Noted(), log, 10, 20, clock=lambda: float(next(ticks)))
    assert outcome.predict_seconds.tolist() == [1.0] * 10
    assert outcome.learn_seconds.tolist() == [1.0] * 10


def test_a_model_that_scores_other_items_is_refused() -> None:
    class TooMany(Noted):
        def scores(self, at: Moment) -> F32:
            return np.zeros(at.items + 1, np.float32)

    with pytest.raises(ValueError, match="expected scores of"):
        prequential(TooMany(), log_of(tastes(0, events=200)), 10, 20)


def test_the_cut_is_in_time_at_whole_groups_with_a_stretch_before_it_for_tuning() -> None:
    log = log_of(tastes(1))
    split = split_of(log, 0.8)
    tuning, test = (int(log.begins[group]) for group in (split.tuning, split.test))
    assert 0.8 <= test / len(log) < 0.81
    assert 0.7 <= tuning / len(log) < 0.71
    assert log.ts_ms[:test].max() <= log.ts_ms[test:].min()


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_split_is_a_share(share: float) -> None:
    with pytest.raises(SourceError, match="split within"):
        split_of(log_of(tastes(1)), share)


@pytest.mark.parametrize("events", [0, 1, 30])
def test_too_small_a_log_is_refused_with_its_size(events: int) -> None:
    log: Log = log_of(tastes(1, events=events))
    with pytest.raises(SourceError, match=f"of {len(log)} positive events"):
        split_of(log, 0.8)
