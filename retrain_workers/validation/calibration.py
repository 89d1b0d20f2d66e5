"""From scores to probabilities: isotonic regression, Platt scaling, temperature scaling, and the best of them on held-out events.

- Scores are log-odds as the model gives them; a calibrator never changes their order, only what they are worth.
- The calibrator is chosen by cross-entropy on events later than those it was fitted to, none at all among the choices, and then
  fitted again to all of them. The figures are those of the held-out events.
- Kept as a few numbers in JSON, applied by numpy: nothing of scikit-learn is needed where it is used.
- No probability is 0 or 1: n events cannot tell that something never happens.
"""

from typing import Final, assert_never

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from online_models.metrics import cross_entropy, reliability
from retrain_workers.validation.gate import Check

F64 = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.number | np.bool_]

BINS: Final = 10
"""Of equal mass, see `online_models.metrics.calibration`."""

HELD_OUT: Final = 0.5
"""Share of the events, the latest, that a calibrator is chosen by."""

HOTTEST: Final = 100.0
"""Temperatures are looked for between 1 / HOTTEST and HOTTEST."""

_NONE, PLATT, _TEMPERATURE, _ISOTONIC = "none", "platt", "temperature", "isotonic"


class Uncalibrated(msgspec.Struct, frozen=True, tag=_NONE, tag_field="method"):
    """p = σ(s)"""


class Platt(msgspec.Struct, frozen=True, tag=PLATT, tag_field="method"):
    """p = σ(slope s + intercept), slope >= 0"""

    slope: float
    intercept: float


class Temperature(msgspec.Struct, frozen=True, tag=_TEMPERATURE, tag_field="method"):
    """p = σ(s / temperature), temperature > 0"""

    temperature: float


class Isotonic(msgspec.Struct, frozen=True, tag=_ISOTONIC, tag_field="method"):
    """p by straight lines between (scores, probabilities), both rising, and level beyond the ends."""

    scores: list[float]
    probabilities: list[float]


Calibrator = Uncalibrated | Platt | Temperature | Isotonic


class Quality(msgspec.Struct, frozen=True):
    """How far probabilities can be trusted on some events: expected and maximal calibration error, Brier score, cross-entropy."""

    events: int
    ece: float
    mce: float
    brier: float
    nll: float


class Calibration(msgspec.Struct, frozen=True):
    """What was chosen and why.

    before, after : on the held-out events, of σ(s) and of the chosen kind as fitted to the earlier ones
    nll : on them, of each kind that was tried, by its name
    """

    calibrator: Calibrator
    before: Quality
    after: Quality
    nll: dict[str, float]


def encode_calibrator(calibrator: Calibrator) -> bytes:
    """As JSON."""
    return msgspec.json.encode(calibrator)


def decode_calibrator(raw: bytes) -> Calibrator:
    """From `encode_calibrator`. Raises msgspec.DecodeError when it is something else."""
    found: Calibrator = msgspec.json.decode(raw, type=Calibrator)
    return found


def probabilities(calibrator: Calibrator, scores: Numbers) -> F64:
    """Calibrated probabilities (n,) of scores (n,).

    >>> probabilities(Temperature(2.0), np.array([0.0, 2.0])).round(3).tolist()
    [0.5, 0.731]
    """
    s = np.asarray(scores, np.float64)
    found: F64
    match calibrator:
        case Uncalibrated():
            found = expit(s)
        case Platt(slope, intercept):
            found = expit(slope * s + intercept)
        case Temperature(temperature):
            found = expit(s / temperature)
        case Isotonic(knots, values):
            found = np.interp(s, knots, values)
        case _:
            assert_never(calibrator)
    return found


def calibrate(scores: Numbers, labels: Numbers, held_out: float = HELD_OUT, only: str = "") -> Calibration:
    """The best calibrator of scores (n,) by labels (n,), 0 or 1, oldest first; or the one of this name.

    Raises
    ------
    ValueError
        When there are fewer than two events, the columns differ in length, a score is not finite or a label neither 0 nor 1.
    """
    s, y = _checked(scores, labels)
    cut = min(max(int(len(s) * (1 - held_out)), 1), len(s) - 1)
    fitted = fits(s[:cut], y[:cut])
    measured = {name: quality(probabilities(each, s[cut:]), y[cut:]) for name, each in fitted.items()}
    best = only or min(measured, key=lambda name: (measured[name].nll, name != _NONE, name))
    nll = {name: each.nll for name, each in measured.items()}
    return Calibration(fits(s, y)[best], measured[_NONE], measured[best], nll)


def fits(scores: Numbers, labels: Numbers) -> dict[str, Calibrator]:
    """Each kind of calibrator by its name, fitted to scores (n,) and labels (n,). Raises as `calibrate` does, for no event."""
    s, y = _checked(scores, labels, least=1)
    return {
        _NONE: Uncalibrated(),
        _TEMPERATURE: fit_temperature(s, y),
        PLATT: fit_platt(s, y),
        _ISOTONIC: fit_isotonic(s, y),
    }


def fit_temperature(scores: F64, labels: F64) -> Temperature:
    """The temperature of least cross-entropy.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks. ICML 2017.
    """
    # log(1 + e^(-z)), z = ±s / T, is convex in 1 / T: one minimum
    signed = np.where(labels == 1, -scores, scores)
    reach = np.log(HOTTEST)
    found = minimize_scalar(
        lambda log_t: np.logaddexp(0, signed * np.exp(-log_t)).mean(), bounds=(-reach, reach), method="bounded"
    )
    return Temperature(float(np.exp(found.x)))


def fit_platt(scores: F64, labels: F64) -> Platt:
    """Logistic regression on the score, towards labels that are not quite 0 and 1; a falling one becomes the base rate.

    References
    ----------
    Platt: Probabilistic outputs for support vector machines. Advances in large margin classifiers (1999).
    """
    ones = float(labels.sum())
    # t+ = (N+ + 1) / (N+ + 2), t- = 1 / (N- + 2)
    target = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))
    rate = float(target.mean())
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    z = ((scores - centre) / spread)[:, None]  # (n, 1), for the optimiser
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1_000)
    both = np.repeat([1, 0], len(scores))
    model.fit(np.concatenate([z, z]), both, sample_weight=np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0:
        return Platt(0.0, float(np.log(rate / (1 - rate))))
    return Platt(slope, float(model.intercept_[0]) - slope * centre)


def fit_isotonic(scores: F64, labels: F64) -> Isotonic:
    """The rising step function of least squared error, its probabilities kept 1 / (n + 2) away from 0 and 1.

    References
    ----------
    Zadrozny, Elkan: Transforming classifier scores into accurate multiclass probability estimates. KDD 2002.
    """
    least = 1 / (len(scores) + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    model.fit(scores, labels)
    return Isotonic(model.X_thresholds_.tolist(), model.y_thresholds_.tolist())


def quality(predicted: Numbers, labels: Numbers, bins: int = BINS) -> Quality:
    """How far probabilities (n,) are from what came (n,). Raises ValueError as `online_models.metrics.reliability` does.

    >>> found = quality(np.array([0.2, 0.2, 0.2, 0.2, 0.6]), np.array([0, 0, 0, 1, 1]), bins=2)
    >>> found.events, round(found.ece, 3), round(found.mce, 3), round(found.brier, 3)
    (5, 0.12, 0.4, 0.184)
    """
    table = reliability(predicted, labels, bins)
    gaps = np.abs(table.predicted - table.observed)
    return Quality(
        events=len(labels),
        # ECE = sum_b n_b / n |gap_b|, MCE = max_b |gap_b|, Brier = mean (p - y)^2
        ece=float(table.events @ gaps / table.events.sum()),
        mce=float(gaps.max()),
        brier=float(np.mean((np.asarray(predicted, np.float64) - labels) ** 2)),
        nll=cross_entropy(predicted, labels),
    )


def calibration_check(found: Calibration, limit: float) -> Check:
    """The row of a gate's report: the expected calibration error after calibration is at most `limit`."""
    detail = (
        f"calibration error {found.after.ece:.4f} after {msgspec.to_builtins(found.calibrator)['method']} on "
        f"{found.after.events} events, {found.before.ece:.4f} before, at most {limit:g} allowed"
    )
    return Check("calibration", found.after.ece, limit, found.after.ece <= limit, detail)


def _checked(scores: Numbers, labels: Numbers, least: int = 2) -> tuple[F64, F64]:
    s, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if s.ndim != 1 or s.shape != y.shape or len(s) < least:
        raise ValueError(f"expected scores and labels (n,), n >= {least}, got {s.shape} and {y.shape}")
    if not np.isfinite(s).all() or not np.isin(y, (0, 1)).all():
        raise ValueError("expected finite scores and labels of 0 or 1, got others")
    return s, y
