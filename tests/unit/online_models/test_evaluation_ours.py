"""Our learner in an evaluation learns at the pace of the stream job, from the past alone, and what popularity cannot know."""

from dataclasses import replace

import numpy as np
import pytest

from online_models.evaluation import ours
from online_models.evaluation.contenders import CONTENDERS, Study, study_of
from online_models.evaluation.log import Log
from online_models.evaluation.protocol import CUTOFF, Outcome, prequential
from online_models.metrics import hit_at
from tests.evaluation_logs import log_of, tastes

LOG = log_of(tastes(7, events=2_500))


def outcome_of(study: Study, name: str) -> Outcome:
    return prequential(CONTENDERS[name](study), study.log, study.split.test, study.log.groups)


@pytest.mark.parametrize("name", CONTENDERS)
def test_no_model_sees_the_future(name: str) -> None:
    """What happens in the last tenth of the log changes no rank and no list before it."""
    study = study_of(LOG, 0.8)
    group = int(np.searchsorted(LOG.begins, int(0.9 * len(LOG))))
    cut = int(LOG.begins[group])
    item = LOG.item.copy()
    item[cut:] = len(LOG.ids) + np.arange(len(LOG) - cut)  # others, none of them known
    ids = [*LOG.ids, *(f"other{number}" for number in range(len(LOG) - cut))]
    other = Log.of(ids, LOG.user, item, LOG.ts_ms, LOG.strength)
    assert np.array_equal(other.begins, LOG.begins)
    one, two = outcome_of(study, name), outcome_of(replace(study, log=other, _known={}), name)
    before, lists = cut - int(LOG.begins[study.split.test]), group - study.split.test
    assert 100 < before < len(one.ranks)
    np.testing.assert_array_equal(one.ranks[:before], two.ranks[:before])
    np.testing.assert_array_equal(one.lists[:lists], two.lists[:lists])


def test_it_learns_tastes_that_popularity_cannot_know() -> None:
    study = study_of(LOG, 0.8)
    hits = {name: hit_at(outcome_of(study, name).ranks, CUTOFF).mean() for name in ("popularity", "als-frozen", "ours")}
    assert hits["ours"] > 1.2 * hits["popularity"]
    assert hits["ours"] > 1.2 * hits["als-frozen"]


def test_a_retrained_version_keeps_what_the_blend_has_learned() -> None:
    study = study_of(LOG, 0.8)
    model = ours.ours(LOG, study.split, study.trained)
    blend = model.version.blend
    assert int(blend.steps.sum()) > 100
    model.retrain(study.trained(study.split.test))
    assert model.version.blend is blend
    known = len(study.factors(study.split.test).items)
    np.testing.assert_array_equal(model.version.vectors[:known], study.factors(study.split.test).items)
