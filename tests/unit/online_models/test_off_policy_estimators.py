"""IPS, SNIPS, DR and replay on bandits of known truth, beside plain loops, and what they refuse."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.off_policy import Bias, Estimated, Logged, Reason, Refused, Terms, dr, ips, lift, replay, snips
from tests.off_policy_worlds import Bandit, Drawn
from tests.oracles import off_policy as oracle

WORLDS = 400
ROWS = 2_000
NAMES = ("IPS", "SNIPS", "DR")
USUAL, FEW = Terms(), Terms(min_ess=1.0)


def told(found: Estimated | Refused) -> Estimated:
    assert isinstance(found, Estimated), found
    return found


def reason(found: Estimated | Refused) -> Reason:
    assert isinstance(found, Refused), found
    return found.reason


def estimates(drawn: Drawn, terms: Terms = USUAL) -> dict[str, Estimated]:
    """DR with a model that is a fifth too low."""
    model = drawn.model(0.8 * drawn.world.expected)
    found = (ips(drawn.logged, drawn.target, terms), snips(drawn.logged, drawn.target, terms))
    return dict(zip(NAMES, map(told, (*found, dr(drawn.logged, drawn.target, *model, terms))), strict=True))


def test_the_mean_over_worlds_is_the_truth_and_the_intervals_hold_it() -> None:
    errors: dict[str, list[float]] = {name: [] for name in NAMES}
    held: dict[str, list[bool]] = {name: [] for name in NAMES}
    for seed in range(WORLDS):
        world = Bandit.drawn(seed)
        for name, found in estimates(world.logged(ROWS, seed)).items():
            errors[name].append(found.value - world.truth)
            held[name].append(found.covers(world.truth))
    for name in NAMES:
        off = np.array(errors[name])
        assert abs(off.mean()) < 4 * off.std() / np.sqrt(WORLDS), name
        assert 0.92 <= np.mean(held[name]) <= 0.98, name


def test_rows_of_one_user_are_no_independent_draws() -> None:
    """Users who are easily pleased, 20 rows each: an interval that takes rows for independent holds the truth far too seldom."""
    held, naive = [], []
    for seed in range(300):
        world = Bandit.drawn(seed, contexts=1)
        drawn = world.logged(4_000, seed, per_unit=20, spread=0.9)
        alone = Logged(drawn.logged.reward, drawn.logged.propensity)
        held.append(told(ips(drawn.logged, drawn.target)).covers(world.truth))
        naive.append(told(ips(alone, drawn.target)).covers(world.truth))
    assert 0.9 <= np.mean(held) <= 0.98
    assert np.mean(naive) < 0.9


def test_a_good_model_makes_dr_calm_and_a_bad_one_does_not_make_it_wrong() -> None:
    found: dict[str, list[float]] = {"IPS": [], "good": [], "bad": [], "model alone": []}
    for seed in range(WORLDS):
        world = Bandit.drawn(7, rate=0.4)
        drawn = world.logged(ROWS, seed)
        bad = 1 - world.expected
        found["IPS"].append(told(ips(drawn.logged, drawn.target)).value - world.truth)
        for name, model in (("good", world.expected), ("bad", bad)):
            found[name].append(told(dr(drawn.logged, drawn.target, *drawn.model(model))).value - world.truth)
        found["model alone"].append(float(drawn.model(bad)[1].mean()) - world.truth)
    spread = {name: np.std(errors) for name, errors in found.items()}
    assert spread["good"] < 0.85 * spread["IPS"]
    assert abs(np.mean(found["bad"])) < 4 * spread["bad"] / np.sqrt(WORLDS)
    assert abs(np.mean(found["model alone"])) > 0.1


columns = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(columns, st.sampled_from([np.inf, 2.0, 0.5]))
def test_they_agree_with_plain_loops(rng: np.random.Generator, clip: float) -> None:
    n = int(rng.integers(20, 60))
    reward, propensity, target = rng.normal(size=n), rng.uniform(0.2, 1, n), rng.uniform(0, 1, n)
    unit = rng.integers(0, 8, n)
    of_action, of_target = rng.normal(size=(2, n))
    logged, terms = Logged(reward, propensity, unit), Terms(clip=clip, min_ess=1, max_unsupported=1)
    found = ips(logged, target, terms), snips(logged, target, terms), dr(logged, target, of_action, of_target, terms)
    if any(isinstance(each, Refused) and each.reason is Reason.WRONG_PROPENSITY for each in found):
        return
    columns_of = reward.tolist(), propensity.tolist(), target.tolist()
    models = list(zip(of_action.tolist(), of_target.tolist(), strict=True))
    expected = (
        oracle.ips(*columns_of, clip=clip),
        oracle.snips(*columns_of, clip=clip),
        oracle.dr(*columns_of, models=models, clip=clip),
    )
    np.testing.assert_allclose([told(each).value for each in found], expected, rtol=1e-9, atol=1e-12)
    weights = np.minimum(target / propensity, clip)
    assert told(found[0]).diagnosis.ess == pytest.approx(oracle.effective_rows(weights.tolist()))
    influences = {
        "IPS": weights * reward - expected[0],
        "SNIPS": weights * (reward - expected[1]) / weights.mean(),
        "DR": of_target + weights * (reward - of_action) - expected[2],
    }
    for each, influence in zip(found, influences.values(), strict=True):
        assert told(each).standard_error == pytest.approx(oracle.clustered_error(influence.tolist(), unit.tolist()))


def test_snips_moves_with_its_rewards_and_ips_does_not() -> None:
    drawn = Bandit.drawn(3).logged(ROWS, 3)
    moved = Logged(100 + 7 * drawn.logged.reward, drawn.logged.propensity)
    was, now = (told(snips(logged, drawn.target)) for logged in (drawn.logged, moved))
    assert now.value == pytest.approx(100 + 7 * was.value)
    assert now.standard_error == pytest.approx(7 * was.standard_error)
    restless = told(ips(moved, drawn.target)).standard_error
    assert restless > 3 * now.standard_error


def test_replay_is_the_mean_of_the_rows_in_which_both_do_the_same() -> None:
    rng = np.random.default_rng(1)
    reward, matched = (rng.random(6_000) < 0.3).astype(np.float64), rng.random(6_000) < 0.1
    reward[matched] = rng.random(int(matched.sum())) < 0.5
    found = told(replay(Logged(reward, np.full(6_000, 0.1)), matched))
    assert found.value == pytest.approx(reward[matched].mean())
    assert found.diagnosis.ess == pytest.approx(matched.sum())
    own = reward[matched].std(ddof=1) / np.sqrt(matched.sum())
    assert found.standard_error == pytest.approx(own, rel=0.01)


def test_replay_holds_the_truth_of_a_deterministic_policy() -> None:
    held = []
    for seed in range(300):
        world = Bandit.drawn(seed)
        even = Bandit(world.expected, np.full_like(world.expected, 0.2), world.target)
        drawn = even.logged(4_000, seed)
        best = even.expected.argmax(axis=1)
        held.append(
            told(replay(drawn.logged, drawn.action == best[drawn.context])).covers(even.expected.max(axis=1).mean())
        )
    assert 0.9 <= np.mean(held) <= 0.98


def test_clipping_is_told_with_its_direction_and_bounds_the_bias() -> None:
    drawn = Bandit.drawn(5).logged(ROWS, 5)
    whole, cut = (told(ips(drawn.logged, drawn.target, terms)) for terms in (Terms(), Terms(clip=1.5)))
    assert (whole.diagnosis.bias, whole.diagnosis.clipped_share) == (Bias.NONE, 0)
    assert cut.diagnosis.bias is Bias.DOWN
    assert cut.diagnosis.clipped_share == pytest.approx((drawn.target / drawn.logged.propensity > 1.5).mean())
    assert whole.value - cut.diagnosis.clipped_mass <= cut.value < whole.value
    assert cut.diagnosis.ess > whole.diagnosis.ess
    assert cut.diagnosis.mean_weight == whole.diagnosis.mean_weight
    owed = Logged(-drawn.logged.reward, drawn.logged.propensity)
    assert told(ips(owed, drawn.target, Terms(clip=1.5))).diagnosis.bias is Bias.UP
    assert told(snips(drawn.logged, drawn.target, Terms(clip=1.5))).diagnosis.bias is Bias.TO_LOGGED
    assert (
        told(dr(drawn.logged, drawn.target, *drawn.model(drawn.world.expected), Terms(clip=1.5))).diagnosis.bias
        is Bias.TO_MODEL
    )


def test_weights_average_one_and_none_is_all() -> None:
    diagnosis = told(ips(*_usual())).diagnosis
    assert diagnosis.mean_weight == pytest.approx(1.0, abs=0.05)
    assert 1 / diagnosis.rows < diagnosis.largest_share < 0.01
    assert (diagnosis.rows, diagnosis.units, diagnosis.unsupported) == (ROWS, ROWS, 0)


def _usual() -> tuple[Logged, npt.NDArray[np.float64]]:
    drawn = Bandit.drawn(2).logged(ROWS, 2)
    return drawn.logged, drawn.target


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (np.nan, Reason.MISSING_PROPENSITY),
        (0.0, Reason.IMPOSSIBLE_PROPENSITY),
        (-0.1, Reason.IMPOSSIBLE_PROPENSITY),
        (1.01, Reason.IMPOSSIBLE_PROPENSITY),
        (5e-324, Reason.IMPOSSIBLE_PROPENSITY),
        (9e-101, Reason.IMPOSSIBLE_PROPENSITY),
    ],
)
def test_one_propensity_that_is_missing_or_impossible_is_refused(bad: float, expected: Reason) -> None:
    logged, target = _usual()
    logged.propensity[17] = bad
    for found in (ips(logged, target), snips(logged, target), dr(logged, target, target, target)):
        assert reason(found) is expected
        assert isinstance(found, Refused)
        assert f"1 of {ROWS}" in found.detail


def test_a_row_beside_which_no_other_weighs_is_a_sample_of_one() -> None:
    logged, target = _usual()
    logged.propensity[17] = 1e-99
    for found in (ips(logged, target), snips(logged, target), dr(logged, target, target, target)):
        assert found == Refused(Reason.SMALL_SAMPLE, f"1 effective rows of {ROWS}, 500 needed", 1.0)


def test_a_target_that_does_what_the_log_never_does_is_refused() -> None:
    """Half of the target's choices are an action that the log does not take: told by the weights' mean, at once where known."""
    drawn = Bandit.drawn(4).logged(ROWS, 4)
    found = snips(drawn.logged, 0.5 * drawn.target)
    assert reason(found) is Reason.UNSUPPORTED
    known = snips(drawn.logged, drawn.target, Terms(), np.full(ROWS, 0.2))
    assert isinstance(known, Refused)
    assert known.detail == "the log never does 20.0% of what the target does, at most 5.0% allowed"
    allowed = told(snips(drawn.logged, drawn.target, Terms(max_unsupported=0.25), np.full(ROWS, 0.2)))
    assert allowed.diagnosis.unsupported == pytest.approx(0.2)


def test_propensities_that_are_too_small_are_found_by_the_weights_mean() -> None:
    logged, target = _usual()
    assert reason(ips(Logged(logged.reward, 0.5 * logged.propensity), target)) is Reason.WRONG_PROPENSITY


def test_too_few_effective_rows_are_refused_with_their_number() -> None:
    logged, target = _usual()
    found = snips(logged, target, Terms(min_ess=ROWS))
    assert reason(found) is Reason.SMALL_SAMPLE
    assert isinstance(found, Refused)
    assert 0 < found.ess < ROWS
    assert f"{found.ess:.0f} effective rows of {ROWS}, {ROWS} needed" == found.detail


def test_no_row_and_no_difference_between_rows_are_refused() -> None:
    nothing, some = np.empty(0), np.zeros(1_000)
    assert reason(ips(Logged(nothing, nothing), nothing)) is Reason.NO_ROWS
    assert reason(snips(Logged(some, np.full(1_000, 0.5)), np.full(1_000, 0.5))) is Reason.NO_VARIATION


def test_replay_asks_for_even_draws() -> None:
    logged, _ = _usual()
    assert reason(replay(logged, logged.reward > 0)) is Reason.NOT_UNIFORM


def test_few_heavy_rows_make_a_wide_interval() -> None:
    """The same standard error, spread over all rows or hanging on two."""

    def width(reward: npt.NDArray[np.float64]) -> float:
        found = told(ips(Logged(reward, np.ones(1_000)), np.ones(1_000), FEW))
        return (found.upper - found.lower) / found.standard_error

    even, heavy = np.tile([1.0, -1.0], 500), np.zeros(1_000)
    heavy[:2] = [1.0, -1.0]
    assert width(even) == pytest.approx(2 * 1.962, abs=0.01)
    assert width(heavy) > 2 * 2.5


def test_one_user_has_no_interval() -> None:
    logged = Logged(np.tile([1.0, 0.0], 500), np.full(1_000, 0.5), np.zeros(1_000))
    found = told(snips(logged, np.full(1_000, 0.5)))
    assert (found.lower, found.upper) == (-np.inf, np.inf)


def test_a_lift_is_a_ratio_with_its_interval_on_the_scale_of_logarithms() -> None:
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ours, theirs = rng.poisson(0.6, 400).astype(float), rng.poisson(0.5, 400).astype(float)
        ones = np.ones(400)
        found = lift((ours, ones), (theirs, ones), None, told(ips(Logged(ours, ones), ones, FEW)).diagnosis, 0.05)
        assert found.value == pytest.approx(ours.sum() / theirs.sum() - 1)
        held.append(found.covers(0.2))
    assert 0.92 <= np.mean(held) <= 0.98


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Logged(np.ones(3), np.ones(2)),
        lambda: Logged(np.array([np.nan]), np.ones(1)),
        lambda: ips(Logged(np.ones(3), np.ones(3)), np.ones(2)),
        lambda: ips(Logged(np.ones(3), np.ones(3)), np.array([0.5, 0.5, 1.5])),
        lambda: dr(Logged(np.ones(3), np.ones(3)), np.ones(3), np.ones(2), np.ones(3)),
        lambda: Terms(clip=0),
        lambda: Terms(alpha=1),
        lambda: Terms(max_unsupported=2),
    ],
)
def test_columns_that_do_not_fit_are_errors(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError):
        wrong()
