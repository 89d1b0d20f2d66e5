"""The laws of every drift detector. A new detector joins by a line in `CASES`; one that does not fails the last law."""

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import online_models.drift
from online_models.contracts.features import FeatureKind
from online_models.drift.adwin import Adwin, AdwinMany
from online_models.drift.base import Detector, Snapshot
from online_models.drift.chi_square import ChiSquareDetector
from online_models.drift.ddm import Ddm
from online_models.drift.eddm import Eddm
from online_models.drift.js import JsDetector
from online_models.drift.kl import KlDetector
from online_models.drift.ks import KsDetector
from online_models.drift.page_hinkley import PageHinkley
from online_models.drift.prequential import Prequential, Worse
from online_models.drift.psi import PsiDetector
from online_models.drift.wasserstein import WassersteinDetector
from online_models.histograms import Counts, count_hashed, count_numeric

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]
EVENTS = 1000
FEATURES = 3
WINDOWS = 200


@dataclass(frozen=True)
class Case:
    """A detector, what it sees in a clean and in a shifted world, and what its constructor must refuse.

    false_alarms : share of clean observations that may fire
    """

    id: str
    make: Callable[[], Detector[Any]]
    observe: Callable[[Rng, bool], Any]
    refused: tuple[Callable[[], object], ...]
    false_alarms: float = 0.01


def numbers(rng: Rng, shifted: bool, events: int = EVENTS) -> Counts:
    values = rng.normal(1.0 if shifted else 0.0, 1.0, events)
    counts: Counts = count_numeric(values, np.zeros(events, np.int64), 1, -8.0, 8.0, 128)[0]
    return counts


def words(rng: Rng, shifted: bool, events: int = EVENTS) -> Counts:
    drawn = (rng.zipf(1.6, events) * (7 if shifted else 1)).astype(np.uint64)
    none = np.empty(0, np.int64)
    counts: Counts = count_hashed(drawn, np.zeros(events, np.int64), none, 1, 64)[0]
    return counts


def hits(rng: Rng, shifted: bool) -> Floats:
    return (rng.random(EVENTS) < (0.1 if shifted else 0.3)).astype(np.float64)


def mistakes(rng: Rng, shifted: bool) -> Floats:
    return (rng.random(EVENTS) < (0.6 if shifted else 0.1)).astype(np.float64)


def many_hits(rng: Rng, shifted: bool) -> Floats:
    """Of several features, of which the last moves; values are missing here and there."""
    values = np.stack([hits(rng, False), hits(rng, False), hits(rng, shifted)])
    return np.where(rng.random(values.shape) < 0.1, np.nan, values)


REFERENCES = {
    FeatureKind.NUMERIC: numbers(np.random.default_rng(0), False, 20_000),
    FeatureKind.CATEGORICAL: words(np.random.default_rng(0), False, 20_000),
}

Distance = (
    type[PsiDetector]
    | type[KsDetector]
    | type[KlDetector]
    | type[JsDetector]
    | type[ChiSquareDetector]
    | type[WassersteinDetector]
)
DISTANCES: tuple[Distance, ...] = (
    PsiDetector,
    KsDetector,
    KlDetector,
    JsDetector,
    ChiSquareDetector,
    WassersteinDetector,
)


def histogram_case(detector: Distance, kind: FeatureKind) -> Case:
    reference = REFERENCES[kind]
    return Case(
        id=f"{detector.name}-{kind.value}",
        make=lambda: detector(reference, kind),
        observe=numbers if kind is FeatureKind.NUMERIC else words,
        refused=(
            lambda: detector(reference, kind, threshold=0.0),
            lambda: detector(reference, kind, threshold=-1.0),
            lambda: detector(reference, kind, threshold=float("nan")),
            lambda: detector(reference, kind, threshold=float("inf")),
            lambda: detector(reference, kind, min_events=0),
            lambda: detector(reference[:3], kind),
            lambda: detector(-reference, kind),
            lambda: KsDetector(reference, kind, significance=0.0),
            lambda: KsDetector(reference, kind, significance=1.0),
            lambda: KsDetector(reference, kind, threshold=1.0),
        ),
        # a lone test at p < 0.05 may be wrong one time in twenty
        false_alarms=0.08 if detector is KsDetector else 0.01,
    )


STREAMS = (
    Case(
        id="adwin",
        make=Adwin,
        observe=hits,
        refused=(
            lambda: Adwin(delta=0.0),
            lambda: Adwin(delta=1.0),
            lambda: Adwin(delta=float("nan")),
            lambda: Adwin(clock=0),
            lambda: Adwin(max_buckets=1),
            lambda: Adwin(min_window_length=0),
            lambda: Adwin(grace_period=-1),
        ),
    ),
    Case(
        id="adwin-many",
        make=lambda: AdwinMany(FEATURES),
        observe=many_hits,
        refused=(lambda: AdwinMany(0), lambda: AdwinMany(2, delta=0.0), lambda: AdwinMany(2, clock=0)),
    ),
    Case(
        id="ddm",
        make=Ddm,
        observe=mistakes,
        refused=(
            lambda: Ddm(warm_start=-1),
            lambda: Ddm(warning_threshold=0.0),
            lambda: Ddm(warning_threshold=5.0, drift_threshold=4.0),
            lambda: Ddm(drift_threshold=float("nan")),
            lambda: Ddm(drift_threshold=float("inf")),
        ),
    ),
    Case(
        id="eddm",
        make=Eddm,
        observe=mistakes,
        refused=(
            lambda: Eddm(warm_start=-1),
            lambda: Eddm(alpha=1.1),
            lambda: Eddm(beta=0.0),
            lambda: Eddm(alpha=0.7, beta=0.8),
            lambda: Eddm(beta=float("nan")),
        ),
    ),
    Case(
        id="page-hinkley",
        make=PageHinkley,
        observe=hits,
        refused=(
            lambda: PageHinkley(min_instances=-1),
            lambda: PageHinkley(delta=-0.1),
            lambda: PageHinkley(delta=float("nan")),
            lambda: PageHinkley(threshold=0.0),
            lambda: PageHinkley(threshold=float("inf")),
            lambda: PageHinkley(alpha=0.0),
            lambda: PageHinkley(alpha=1.1),
        ),
    ),
    Case(
        id="prequential",
        make=lambda: Prequential(window=500, worse=Worse.LOWER),
        observe=hits,
        refused=(
            lambda: Prequential(window=0),
            lambda: Prequential(window=100, past=100),
            lambda: Prequential(window=100, false_alarm_every=100),
            lambda: Prequential(fraction=0.0),
            lambda: Prequential(fraction=1.0),
            lambda: Prequential(fraction=float("nan")),
        ),
    ),
)

CASES = (*(histogram_case(detector, kind) for detector in DISTANCES for kind in REFERENCES), *STREAMS)

each_detector = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
each_stream_detector = pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)


def same(one: Snapshot, other: Snapshot) -> bool:
    return len(one) == len(other) and all(
        type(a) is type(b)
        and (np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b)
        for a, b in zip(one, other, strict=True)
    )


def world(case: Case, seed: int) -> list[Any]:
    """Observations that are clean, then shifted, then clean again, with an odd one in between."""
    rng = np.random.default_rng(seed)
    told = [case.observe(rng, shifted) for shifted in [False] * 6 + [True] * 4 + [False] * 4]
    told.insert(3, told[0][..., : EVENTS // 2] if case in STREAMS else told[0] // 100)
    return told


@each_detector
def test_restoring_and_going_on_equals_never_having_stopped(case: Case) -> None:
    told = world(case, 1)
    for stop in range(len(told)):
        steady = case.make()
        for x in told[:stop]:
            steady.update(x)
        stored = pickle.loads(pickle.dumps(steady.snapshot()))
        again = type(steady).restore(stored)
        assert same(again.snapshot(), steady.snapshot())
        for x in told[stop:]:
            steady.update(x)
            again.update(x)
            assert again.drift_detected == steady.drift_detected
            assert again.statistic == steady.statistic
            assert again.threshold == steady.threshold
            assert same(again.snapshot(), steady.snapshot())


@each_detector
def test_a_snapshot_is_plain_values_beginning_with_name_and_schema_version(case: Case) -> None:
    detector = case.make()
    for x in world(case, 2):
        detector.update(x)
        name, version, *state = detector.snapshot()
        assert isinstance(name, str)
        assert case.id.startswith(name)
        assert type(version) is int
        assert version >= 1
        assert {type(part) for part in state} <= {str, int, float, bool, NoneType, np.ndarray}


@each_detector
def test_a_snapshot_does_not_move_with_the_detector(case: Case) -> None:
    detector = case.make()
    told = world(case, 3)
    detector.update(told[0])
    taken = detector.snapshot()
    copy = pickle.loads(pickle.dumps(taken))
    restored = type(detector).restore(taken)
    for x in told[1:]:
        detector.update(x)
        restored.update(x)
    assert same(taken, copy)


@each_detector
def test_a_foreign_or_torn_snapshot_is_refused(case: Case) -> None:
    detector = case.make()
    taken = detector.snapshot()
    for wrong in (
        ("somebody", *taken[1:]),
        (taken[0], 999, *taken[2:]),
        taken[:-1],
        (*taken, 1),
        (),
    ):
        with pytest.raises(ValueError, match="expected a snapshot of"):
            type(detector).restore(wrong)


@each_detector
def test_the_constructor_refuses_bad_hyperparameters(case: Case) -> None:
    for refused in case.refused:
        with pytest.raises(ValueError, match="expected"):
            refused()


@each_detector
def test_nothing_is_detected_before_the_first_observation(case: Case) -> None:
    detector = case.make()
    assert not detector.drift_detected
    assert detector.statistic == 0


@each_detector
def test_a_clean_stream_fires_rarely(case: Case) -> None:
    rng = np.random.default_rng(4)
    detector = case.make()
    fired = 0
    for _ in range(WINDOWS):
        detector.update(case.observe(rng, False))
        fired += detector.drift_detected
    assert fired <= case.false_alarms * WINDOWS


@each_detector
def test_a_large_shift_fires_at_once(case: Case) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        detector = case.make()
        for _ in range(3):
            detector.update(case.observe(rng, False))
        detector.update(case.observe(rng, True))
        assert detector.drift_detected
        assert detector.statistic > 0


@each_stream_detector
def test_how_a_stream_is_batched_changes_nothing(case: Case) -> None:
    rng = np.random.default_rng(6)
    stream = np.concatenate(world(case, 7), axis=-1)
    last = case.observe(rng, False)
    whole = case.make()
    whole.update(stream)
    for pieces in (2, 7, 300):
        parts, detected, largest = case.make(), False, 0.0
        for part in np.split(stream, np.sort(rng.integers(0, stream.shape[-1], pieces)), axis=-1):
            parts.update(part)
            detected |= parts.drift_detected
            largest = max(largest, parts.statistic)
        assert detected == whole.drift_detected
        assert largest >= whole.statistic
        again = type(whole).restore(whole.snapshot())
        for detector in (parts, again):
            detector.update(last)
        assert same(parts.snapshot(), again.snapshot())


@each_stream_detector
def test_an_empty_batch_is_no_news(case: Case) -> None:
    detector = case.make()
    stream = np.concatenate(world(case, 8), axis=-1)
    detector.update(stream)
    assert detector.drift_detected
    detector.update(stream[..., :0])
    assert not detector.drift_detected


@each_stream_detector
def test_an_update_that_is_refused_takes_nothing_in(case: Case) -> None:
    detector = case.make()
    detector.update(case.observe(np.random.default_rng(9), False))
    taken = detector.snapshot()
    wrong = case.observe(np.random.default_rng(9), False)
    wrong[..., -1] = np.inf
    with pytest.raises(ValueError, match="expected"):
        detector.update(wrong)
    assert same(detector.snapshot(), taken)


def test_every_detector_of_the_package_obeys_these_laws() -> None:
    modules = [
        importlib.import_module(f"{online_models.drift.__name__}.{found.name}")
        for found in pkgutil.iter_modules(online_models.drift.__path__)
    ]
    detectors = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if hasattr(kind, "drift_detected") and hasattr(kind, "restore")
        if not inspect.isabstract(kind) and kind is not Detector
    }
    assert detectors == {type(case.make()) for case in CASES}
