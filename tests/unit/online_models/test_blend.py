"""One step against a dense one; many steps against what choices were drawn from."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load, save

from online_models import blend as module
from online_models.blend import BEGIN, BUCKETS, FADING, Blend, bucket_of
from online_models.errors import StoreError
from online_models.evidence import FEATURES
from tests.oracles.blending import natural_gradient_step, softmax

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SEEDS = st.integers(0, 2**32 - 1)
SPREAD = module._SPREAD
MANY = len(FEATURES)


def drawn_features(rng: np.random.Generator, items: int) -> F32:
    """Features as far around their means as the blend takes them to lie."""
    return np.asarray(rng.normal(size=(items, MANY)) * SPREAD + rng.normal(size=MANY), np.float32)


def experienced(rng: np.random.Generator, steps: int) -> Blend:
    blend = Blend.begin()
    for _ in range(steps):
        features = drawn_features(rng, 20)
        blend.learn(int(rng.integers(0, 30)), features, rng.integers(0, 20, 1))
    return blend


@given(SEEDS, st.integers(0, 20), st.integers(2, 40), st.integers(1, 5), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_step_is_the_dense_natural_gradient_step_in_its_bucket_alone(
    seed: int, steps: int, items: int, many: int, events: int
) -> None:
    rng = np.random.default_rng(seed)
    blend = experienced(rng, steps)
    features, taken = drawn_features(rng, items), rng.integers(0, items, many)
    before, bucket = blend.copy(), bucket_of(events)
    assert blend.learn(events, features, taken)
    weights, curvature = natural_gradient_step(
        before.weights[bucket],
        before.curvature[bucket],
        features,
        taken.tolist(),
        FADING,
        SPREAD**2,
        module._LONGEST_STEP,
    )
    assert blend.weights[bucket] == pytest.approx(weights, rel=1e-6, abs=1e-6)
    assert blend.curvature[bucket] == pytest.approx(curvature, rel=1e-6, abs=1e-6)
    others = [other for other in range(len(BUCKETS)) if other != bucket]
    assert np.array_equal(blend.weights[others], before.weights[others])
    assert np.array_equal(blend.curvature[others], before.curvature[others])
    assert (blend.steps - before.steps).tolist() == [int(each == bucket) for each in range(len(BUCKETS))]


def log_loss(features: F32, taken: int, weights: F64) -> float:
    scores = features.astype(np.float64) @ weights
    return float(np.logaddexp.reduce(scores) - scores[taken])


def test_choices_of_a_known_model_teach_which_features_matter_and_test_then_train_loss_falls() -> None:
    rng, blend = np.random.default_rng(1), Blend.begin()
    true = np.zeros(MANY)
    for name, weight in {"als_recent": 8.0, "follows": 40.0, "together_log": 0.6, "popularity_7_days": -0.5}.items():
        true[FEATURES.index(name)] = weight
    loss, best = [], []
    for _ in range(4_000):
        features = drawn_features(rng, 50)
        taken = int(rng.choice(50, p=softmax(features.astype(np.float64) @ true)))
        loss.append(log_loss(features, taken, blend.weights[3]))
        best.append(log_loss(features, taken, true))
        assert blend.learn(20, features, np.array([taken]))
    early, late = (np.mean(loss[part]) - np.mean(best[part]) for part in (slice(50), slice(-1_000, None)))
    assert early > 0.5
    assert late < 0.02
    # in units of what a feature's spread changes of the score
    learned = (blend.weights[3] - true) * SPREAD
    assert np.abs(learned).max() < 0.15
    assert np.array_equal(blend.weights[:3], np.tile(BEGIN, (3, 1)))


def test_what_has_turned_is_learned_anew_by_a_blend_that_had_become_sure_of_it() -> None:
    rng, blend, follows = np.random.default_rng(2), Blend.begin(), FEATURES.index("follows")
    # what 20,000 choices of the item that most follows lead to: their curvature is next to nothing
    blend.weights[3, follows], blend.curvature[3] = 800.0, 0.0

    def loss(choices: int) -> float:
        """Mean over choices of the item that least follows."""
        total = 0.0
        for _ in range(choices):
            features = np.zeros((50, MANY), np.float32)
            features[:, follows] = rng.uniform(0, 0.5, 50)
            taken = int(np.argmin(features[:, follows]))
            total += log_loss(features, taken, blend.weights[3])
            blend.learn(20, features, np.array([taken]))
        return total / choices

    assert loss(3) > 200
    loss(200)
    assert loss(100) < 2.5


def test_a_basket_counts_for_more_than_one_choice_and_for_less_than_as_many() -> None:
    features = drawn_features(np.random.default_rng(3), 30)
    moved = []
    for many in (1, 4):
        blend = Blend.begin()
        blend.learn(0, features, np.full(many, 7))
        moved.append(np.abs(blend.curvature[0] - FADING * Blend.begin().curvature[0]).max())
    assert moved[1] == pytest.approx(2 * moved[0])


ANY_FEATURES = arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.just(MANY)),
    elements=st.floats(width=32) | st.floats(-1000, 1000, width=32) | st.floats(-9, 9, width=32),
)


@given(SEEDS, st.lists(ANY_FEATURES, max_size=6), st.data())
@settings(max_examples=100, deadline=None)
def test_weights_stay_finite_for_any_features_and_a_step_is_never_longer_than_the_longest(
    seed: int, choices: list[F32], data: st.DataObject
) -> None:
    blend = experienced(np.random.default_rng(seed), 3)
    for features in choices:
        before = blend.copy()
        taken = data.draw(st.lists(st.integers(0, max(0, len(features) - 1)), max_size=len(features)))
        learned = blend.learn(5, features, np.array(taken, np.int64))
        assert np.isfinite(blend.weights).all()
        assert np.isfinite(blend.curvature).all()
        assert np.abs(blend.weights - before.weights).max() <= 50 * (1 + 1e-9)
        if not learned:
            assert blend.encode() == before.encode()
    # and whatever it was, the next usual choice is learned from
    assert blend.learn(5, drawn_features(np.random.default_rng(seed), 20), np.array([3]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20, -2e3])
def test_features_that_no_source_gives_change_nothing(bad: float) -> None:
    blend, features = experienced(np.random.default_rng(4), 5), drawn_features(np.random.default_rng(5), 10)
    before = blend.encode()
    features[3, 2] = bad
    assert not blend.learn(5, features, np.array([1]))
    assert blend.encode() == before


def test_no_choice_teaches_nothing() -> None:
    blend, features = Blend.begin(), drawn_features(np.random.default_rng(6), 10)
    assert not blend.learn(5, features, np.empty(0, np.int64))
    assert not blend.learn(5, features[:1], np.array([0]))
    assert not blend.learn(5, features[:0], np.empty(0, np.int64))
    assert blend.encode() == Blend.begin().encode()


@pytest.mark.parametrize("taken", [[10], [-1], [0, 11]])
def test_a_taken_row_that_was_not_among_the_choices_is_refused(taken: list[int]) -> None:
    with pytest.raises(ValueError, match=r"rows in \[0, 10\)"):
        Blend.begin().learn(5, drawn_features(np.random.default_rng(7), 10), np.array(taken))


@given(SEEDS, st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_to_decode_and_go_on_is_never_to_have_stopped(seed: int, steps: int, more: int) -> None:
    whole = experienced(np.random.default_rng(seed), steps)
    whole.tried[0] = steps
    resumed = Blend.decode(whole.encode())
    assert resumed.encode() == whole.encode()
    for blend in (whole, resumed):
        rng = np.random.default_rng(seed + 1)
        for _ in range(more):
            blend.learn(int(rng.integers(0, 30)), drawn_features(rng, 10), rng.integers(0, 10, 1))
    assert resumed.encode() == whole.encode()


def test_a_copy_learns_on_its_own() -> None:
    blend = experienced(np.random.default_rng(8), 5)
    copy, before = blend.copy(), blend.encode()
    assert copy.encode() == before
    copy.learn(5, drawn_features(np.random.default_rng(9), 10), np.array([1]))
    assert copy.encode() != before
    assert blend.encode() == before


def test_bytes_that_are_no_blend_are_refused() -> None:
    raw = Blend.begin().encode()
    for torn in (b"", raw[:5], raw[:-1], raw[: len(raw) // 2]):
        with pytest.raises(StoreError, match="a blend"):
            Blend.decode(torn)
    tensors = load(raw)
    for name, tensor in (
        ("weights", tensors["weights"][:, 1:]),
        ("curvature", tensors["curvature"][:2]),
        ("steps", tensors["steps"][:2]),
        ("tried", np.zeros(2, np.int64)),
        ("weights", np.full_like(tensors["weights"], np.nan)),
        ("weights", tensors["weights"].astype(np.float32)),
        ("steps", tensors["steps"].astype(np.float64)),
    ):
        with pytest.raises(StoreError, match="a blend"):
            Blend.decode(save({**tensors, name: np.ascontiguousarray(tensor)}))
    with pytest.raises(StoreError, match="a blend"):
        Blend.decode(save({name: tensors[name] for name in ("weights", "steps", "tried")}))


def test_a_user_s_bucket_gives_the_weights() -> None:
    blend = Blend.begin()
    blend.weights[:] = np.arange(len(BUCKETS))[:, None]
    assert [blend.of(events)[0] for events in (0, 1, 4, 5, 19, 20, 10_000)] == [0, 1, 1, 2, 2, 3, 3]
    assert blend.of(0).dtype == np.float32
    assert blend.of(0).shape == (MANY,)
