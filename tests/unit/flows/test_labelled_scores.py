"""Labelled scores: AUC, its standard error and calibration against slow oracles, and counts that merge exactly."""

import math
import pickle

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from flows.labelled_scores import BINS, HIGH, LOW, Labelled, auc, bins_of, calibration_error, coarse, packed, unpacked

Requests = list[tuple[int, list[float], list[bool]]]

ITEMS = st.lists(st.tuples(st.floats(-12, 12), st.booleans()), min_size=1, max_size=5)


@st.composite
def some_requests(draw: st.DrawFn) -> Requests:
    """A user's hash, scores of what was shown, and what of it was taken, of a few requests."""
    made: Requests = []
    for items in draw(st.lists(ITEMS, max_size=12)):
        made.append((draw(st.integers(0, 2**64 - 1)), [score for score, _ in items], [taken for _, taken in items]))
    return made


REQUESTS = some_requests()


def labelled(requests: Requests) -> Labelled:
    made = Labelled()
    for user, scores, taken in requests:
        made.add([user] * len(scores), scores, taken)
    return made


def columns(requests: Requests) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    scores = np.array([score for _, each, _ in requests for score in each])
    return scores, np.array([taken for _, _, each in requests for taken in each], np.bool_)


def same(one: Labelled, other: Labelled) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Labelled.__dataclass_fields__)


def drawn(events: int, seed: int, users: int = 10**6, spread: float = 0.0) -> Requests:
    """Single items with calibrated scores; `spread` : of how ready each user is to take anything, which no score knows."""
    rng = np.random.default_rng(seed)
    user, scores = rng.integers(0, users, events), rng.normal(-1, 1.2, events)
    ready = rng.normal(0, spread, users) if spread else np.zeros(users)
    taken = rng.random(events) < 1 / (1 + np.exp(-(scores + ready[user])))
    rows = zip(user.tolist(), scores.tolist(), taken.tolist(), strict=True)
    return [(one, [score], [label]) for one, score, label in rows]


@given(REQUESTS)
@settings(max_examples=80, deadline=None)
def test_the_auc_is_scikit_learn_s_of_the_binned_scores(requests: Requests) -> None:
    scores, taken = columns(requests)
    value, error = auc(labelled(requests))
    if len(set(taken.tolist())) < 2:
        assert math.isnan(value)
        return
    assert value == pytest.approx(roc_auc_score(taken, bins_of(scores)))
    assert error >= 0


def test_binning_costs_hardly_any_auc() -> None:
    requests = drawn(4_000, seed=1)
    scores, taken = columns(requests)
    assert auc(labelled(requests)).value == pytest.approx(roc_auc_score(taken, scores), abs=2e-3)


def delong(scores: npt.NDArray[np.float64], taken: npt.NDArray[np.bool_]) -> float:
    """Pair by pair."""
    win = np.sign(scores[taken][:, None] - scores[~taken][None]) / 2 + 0.5  # (P, N)
    return float(np.sqrt(win.mean(1).var(ddof=1) / win.shape[0] + win.mean(0).var(ddof=1) / win.shape[1]))


def test_the_standard_error_is_delong_s_or_that_of_users_who_answer_alike() -> None:
    alone = drawn(1_500, seed=2)
    scores, taken = columns(alone)
    expected = delong(bins_of(scores).astype(float), taken)
    of_one = auc(labelled([(0, shown, each) for _, shown, each in alone])).error  # no groups: nothing to leave out
    assert of_one == pytest.approx(expected)
    assert expected <= auc(labelled(alone)).error < 2 * expected


def test_the_standard_error_covers_the_spread_between_samples_where_users_differ() -> None:
    samples = [auc(labelled(drawn(1_200, seed, users=40, spread=2.0))) for seed in range(40)]
    spread = float(np.std([sample.value for sample in samples], ddof=1))
    assert 0.85 * spread < float(np.mean([sample.error for sample in samples]))


@given(REQUESTS, st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_counts_merge_to_the_bit_and_survive_a_snapshot(requests: Requests, cut: int) -> None:
    whole = labelled(requests)
    assert same(labelled(requests[:cut]).merged(labelled(requests[cut:])), whole)
    assert same(labelled(requests[::-1]), whole)
    assert same(unpacked(pickle.loads(pickle.dumps(packed(whole)))), whole)


@given(REQUESTS.filter(bool))
@settings(max_examples=50, deadline=None)
def test_the_surprise_is_the_log_loss(requests: Requests) -> None:
    scores, taken = columns(requests)
    made = labelled(requests)
    expected = log_loss(taken, 1 / (1 + np.exp(-scores)), labels=[False, True], normalize=False)
    assert made.surprise[0] / 2**24 == pytest.approx(expected, abs=1e-5)
    assert made.probability.sum() / 2**24 == pytest.approx(float((1 / (1 + np.exp(-scores))).sum()), abs=1e-5)


def test_a_calibrated_score_has_nearly_no_calibration_error_and_a_shifted_one_has() -> None:
    requests = drawn(10_000, seed=3)
    assert calibration_error(labelled(requests)) < 0.02
    shifted = labelled([(user, [score + 1 for score in scores], taken) for user, scores, taken in requests])
    scores, taken = columns(requests)
    bias = float((1 / (1 + np.exp(-scores - 1))).mean() - taken.mean())
    assert calibration_error(shifted) == pytest.approx(bias, abs=0.02)
    assert math.isnan(calibration_error(Labelled()))


def test_bins_are_half_open_and_what_lies_outside_has_its_own() -> None:
    width = (HIGH - LOW) / BINS
    scores = np.array([-1e300, LOW - 1e-9, LOW, LOW + width, HIGH - 1e-9, HIGH, 1e300])
    assert bins_of(scores).tolist() == [0, 0, 1, 2, BINS, BINS + 1, BINS + 1]


def test_a_report_s_bins_hold_every_item() -> None:
    made = labelled([(1, [-9.0, -8.0, 0.5, 9.0], [False, False, True, True])])
    labels, counts = coarse(made)
    assert len(labels) == len(counts)
    told = {label: count for label, count in zip(labels, counts, strict=True) if count}
    assert told == {"< -8": 1, "[-8, -7)": 1, "[0, 1)": 1, ">= 8": 1}
