"""Prequential error (Gama, Sebastião, Rodrigues 2013) against its own past, for losses and for rates such as CTR.

- Two fading means of the same values: a fast one, as precise as the mean of the last `window`, and a slow one for the
  past. Their difference is a weighted sum of the values, so its variance is known: that of a value times the sum of
  the squared weights, which five more fading sums give exactly.
- The bound is Bernstein's at every look, and looks are `window / 10` values apart: by adding up their chances there is
  on average at most one false alarm in `false_alarm_every` independent values, however long the stream.
- What is significant need not matter: drift must also be worse by more than `fraction` of the past.
"""

import enum
from typing import ClassVar, Final, Self

import numpy as np
from numba import njit

from online_models.drift.base import Snapshot, not_a_snapshot_of
from online_models.drift.composite import DROP_FRACTION
from online_models.drift.stream import ENDED, OWN, Floats, StreamDetector, note

_BEFORE, _AFTER, _MARGIN = range(OWN, OWN + 3)
_N, _FAST, _FAST_WEIGHT, _SLOW, _SLOW_WEIGHT, _SQUARES, _FAST_FAST, _FAST_SLOW, _SLOW_SLOW, _RANGE = range(
    OWN + 3, OWN + 13
)
_FRESH: Final = (0.0,) * 13


class Worse(enum.StrEnum):
    """Which way a mean gets worse: a loss or an error higher, a gain such as hit rate, CTR or accuracy lower."""

    HIGHER = "higher"
    LOWER = "lower"


class Prequential(StreamDetector):
    """A mean that has become worse than its own past by more than chance and by more than a fraction.

    Parameters
    ----------
    window : values that the recent mean is as precise as the mean of; what a change of 10 % needs depends on the rate,
        see `margin`
    past : the same for the past, more than `window`; 20 windows by default
    fraction : drift when worse by more than this fraction of the past, in (0, 1)
    worse : which way the values get worse
    false_alarm_every : independent values in which at most one false alarm is expected, more than `window`

    Raises
    ------
    ValueError
        When a hyperparameter is out of range.

    >>> rng = np.random.default_rng(0)
    >>> clicks = Prequential(window=2000, worse=Worse.LOWER)
    >>> clicks.update((rng.random(20_000) < 0.2).astype(float))
    >>> clicks.drift_detected, clicks.margin < 0.2 * 0.3
    (False, True)
    >>> clicks.update((rng.random(4_000) < 0.1).astype(float))
    >>> clicks.drift_detected, clicks.mean_after < 0.9 * clicks.mean_before
    (True, True)

    References
    ----------
    Gama, Sebastião, Rodrigues: On evaluating stream learning algorithms. Machine Learning 90 (2013).
    Boucheron, Lugosi, Massart: Concentration inequalities, theorem 2.10. Oxford University Press, 2013.
    """

    name: ClassVar[str] = "prequential"

    def __init__(
        self,
        *,
        window: int = 5_000,
        past: int | None = None,
        fraction: float = DROP_FRACTION,
        worse: Worse = Worse.HIGHER,
        false_alarm_every: int = 1_000_000,
    ) -> None:
        past = 20 * window if past is None else past
        if not 1 <= window < min(past, false_alarm_every):
            raise ValueError(
                "prequential: expected 1 <= window < past and false_alarm_every, "
                f"got {window}, {past} and {false_alarm_every}"
            )
        if not 0 < fraction < 1:
            raise ValueError(f"prequential: expected a fraction between 0 and 1, got {fraction}")
        super().__init__(_FRESH)
        self.window, self.past, self.fraction = window, past, float(fraction)
        self.worse, self.false_alarm_every = worse, false_alarm_every

    @property
    def threshold(self) -> float:
        """Drift when worse by more than this fraction of the past, and by more than chance."""
        return self.fraction

    @property
    def mean_before(self) -> float:
        """Mean of the past at the latest detection; 0 before the first."""
        return float(self._state[_BEFORE])

    @property
    def mean_after(self) -> float:
        """Recent mean at the latest detection; 0 before the first."""
        return float(self._state[_AFTER])

    @property
    def margin(self) -> float:
        """What chance can move the recent mean by, as of the latest look, in the values' unit; 0 before the first."""
        return float(self._state[_MARGIN])

    def _take_in(self, values: Floats) -> None:
        # (1 - f) / (1 + f) = 1 / w, so that the weighted mean has the variance of the mean of w values
        fast, slow = ((w - 1) / (w + 1) for w in (self.window, self.past))
        clock = max(1, self.window // 10)
        log = float(np.log(self.false_alarm_every / clock))
        sign = 1.0 if self.worse is Worse.HIGHER else -1.0
        _take_in(values, fast, slow, 2 * self.window, clock, log, sign, self.fraction, self._state)

    def _hyperparameters(self) -> tuple[int | float | str, ...]:
        return self.window, self.past, self.fraction, self.worse.value, self.false_alarm_every

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The detector behind a snapshot. Raises ValueError when it is another detector's or another version's."""
        match snapshot:
            case (
                cls.name,
                cls.SCHEMA_VERSION,
                int(window),
                int(past),
                float(fraction),
                str(worse),
                int(every),
                np.ndarray() as state,
            ):
                detector = cls(window=window, past=past, fraction=fraction, worse=Worse(worse), false_alarm_every=every)
                return detector._resume(state, snapshot)
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)


@njit(cache=True, nogil=True)
def _take_in(
    values: Floats,
    fast: float,
    slow: float,
    grace: int,
    clock: int,
    log: float,
    sign: float,
    fraction: float,
    state: Floats,
) -> None:
    """Each value in turn; a look at every `clock` of them once there are `grace`."""
    for x in values:
        if state[ENDED]:
            state[ENDED], state[_N:] = 0.0, 0.0
        _fade(x, fast, slow, state)
        if state[_N] < grace or state[_N] % clock:
            continue
        state[_MARGIN] = _margin(log, state)
        past, recent = state[_SLOW], state[_FAST]
        worse = sign * (recent - past)
        relative = worse / abs(past) if past else 0.0
        drifted = worse > state[_MARGIN] and worse > fraction * abs(past)
        if drifted:
            state[_BEFORE], state[_AFTER] = past, recent
        note(state, relative, drifted)


@njit(cache=True, nogil=True)
def _fade(x: float, fast: float, slow: float, state: Floats) -> None:
    """Both means, the past's sum of squares about its own, and the sums of products of weights."""
    state[_N] += 1
    state[_RANGE] = max(state[_RANGE], abs(x - state[_SLOW]) if state[_N] > 1 else 0.0)
    state[_FAST_WEIGHT] = fast * state[_FAST_WEIGHT] + 1
    state[_FAST] += (x - state[_FAST]) / state[_FAST_WEIGHT]
    before = slow * state[_SLOW_WEIGHT]
    state[_SLOW_WEIGHT] = before + 1
    away = x - state[_SLOW]
    state[_SLOW] += away / state[_SLOW_WEIGHT]
    state[_SQUARES] = slow * state[_SQUARES] + before / state[_SLOW_WEIGHT] * away * away
    state[_FAST_FAST] = fast * fast * state[_FAST_FAST] + 1
    state[_FAST_SLOW] = fast * slow * state[_FAST_SLOW] + 1
    state[_SLOW_SLOW] = slow * slow * state[_SLOW_SLOW] + 1


@njit(cache=True, nogil=True)
def _margin(log: float, state: Floats) -> float:
    """Bernstein's bound on recent mean less past, exceeded with a chance of at most exp(-log) when nothing changed."""
    f, s = state[_FAST_WEIGHT], state[_SLOW_WEIGHT]
    # sum_k (fast^k / F - slow^k / S)^2
    squared = state[_FAST_FAST] / (f * f) - 2 * state[_FAST_SLOW] / (f * s) + state[_SLOW_SLOW] / (s * s)
    variance = state[_SQUARES] / s * squared
    # sqrt(2 V log) + b / 3 log, b = largest weight times largest deviation
    return float(np.sqrt(2 * variance * log) + state[_RANGE] / f / 3 * log)
