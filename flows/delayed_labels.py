"""How well a language model's scores tell what is taken from what is only shown, once that is known: by its version, pure.

- Unlabelled monitors were measured blind to a change of taste: the same words in the same shares, and yet wrong scores. So labels
  decide, late as they are: an impression is labelled when the time for an answer to it is over.
- The version is the language model's own, whichever recommenders it stands beside: a new one of those begins nothing anew.
- It is held against its own beginning, not against its validation: in a list that the model helped to choose the scores
  lie close together, and a lower AUC is no fall.
- Windows are of event time and of enough labels: with few, a window goes on until it has them.

A fall is an alarm when AUC < A - f (A - 1/2) at 99 % one-sided, A being the AUC of the beginning and f the tolerated share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final

from flows.labelled_scores import ONE, Auc, Labelled, auc, calibration_error, coarse, packed, unpacked
from flows.triggers import LANGUAGE_MODEL, Family, Signal
from online_models.contracts.events import LANGUAGE_FEATURE
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.ports import FeatureWindowRow

REFERENCE_WINDOWS: Final = 4
"""First windows of a version that it is held against, as far as none of them has fallen itself."""

RECENT_WINDOWS: Final = 4
"""Newest windows that are also judged together: a small fall shows in many labels only."""

CONFIDENCE: Final = 0.99
UNCOUNTED: Final = 65_536
"""Most items of a window that are not counted yet."""
VERSIONS: Final = 4
"""Versions that are remembered: live ones, and those before them."""


@dataclass(slots=True)
class _Version:
    """One version's windows.

    open_until_ms : where its open window ends if it has enough labels by then
    users, scores, taken : items that are not counted in it yet, see `Labelled.add`
    """

    start_ms: int
    open_until_ms: int
    open: Labelled = field(default_factory=Labelled)
    users: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    taken: list[bool] = field(default_factory=list)
    reference: Labelled | None = None
    reference_windows: int = 0
    recent: list[Labelled] = field(default_factory=list)
    last_ms: int = 0

    def counted(self) -> Labelled:
        """The open window with all its items. Counting a request at a time was measured ten times as slow."""
        if self.users:
            self.open.add(self.users, self.scores, self.taken)
            self.users, self.scores, self.taken = [], [], []
        return self.open


@dataclass(frozen=True, slots=True)
class Fall:
    """What a window says beside the beginning of its version.

    p_value : that the AUC has not fallen by more than is tolerated; now : the AUC that this is about
    """

    p_value: float
    now: Auc
    reference: Auc

    @property
    def certain(self) -> bool:
        """Whether it is an alarm."""
        return self.p_value < 1 - CONFIDENCE

    @property
    def share(self) -> float:
        """How much of what the AUC was above chance is gone."""
        return (self.reference.value - self.now.value) / max(self.reference.value - 0.5, 1e-9)


def fall(now: Auc, reference: Auc, drop_fraction: float) -> Fall:
    """Test of AUC < A - f (A - 1/2), the normal approximation; a reference that is not above chance cannot fall.

    >>> steady, fallen = Auc(0.80, 0.01), Auc(0.70, 0.01)
    >>> fall(steady, steady, 0.1).certain, fall(fallen, steady, 0.1).certain
    (False, True)
    """
    floor = reference.value - drop_fraction * (reference.value - 0.5)
    error = math.hypot(now.error, (1 - drop_fraction) * reference.error)
    known = math.isfinite(error) and error > 0 and not math.isnan(now.value) and reference.value > 0.5
    p_value = NormalDist().cdf((now.value - floor) / error) if known else 1.0
    return Fall(p_value, now, reference)


class DelayedLabels:
    """One model's versions, their label windows, and alarms of a fall.

    Parameters
    ----------
    window_ms, least : least length of a window, and fewest taken and untaken items in it; it goes on until it has them
    drop_fraction : share of the AUC above 1/2 that may be lost
    settle_ms : as in `Signal`
    """

    def __init__(self, window_ms: int, least: int, drop_fraction: float, settle_ms: int) -> None:
        self._window_ms = window_ms
        self._least = least
        self._drop_fraction = drop_fraction
        self._settle_ms = settle_ms
        self._versions: dict[ModelVersion, _Version] = {}

    def add(
        self,
        model: ModelName,
        version: ModelVersion,
        ts_ms: int,
        user: int,
        scores: Sequence[float],
        taken: Sequence[bool],
    ) -> list[FeatureWindowRow | Signal]:
        """Take in a request's labelled scores, by event time; returns a row per window that it closes, and a signal per fall."""
        found: list[FeatureWindowRow | Signal] = []
        for name, held in self._versions.items():
            if ts_ms >= held.open_until_ms:
                found += self._close(model, name, held, ts_ms)
        held = self._of(version, ts_ms)
        held.users += [user] * len(scores)
        held.scores += scores
        held.taken += taken
        if len(held.users) >= UNCOUNTED:
            held.counted()
        held.last_ms = max(held.last_ms, ts_ms)
        return found

    def _of(self, version: ModelVersion, ts_ms: int) -> _Version:
        if version not in self._versions:
            start_ms = ts_ms // self._window_ms * self._window_ms
            if len(self._versions) == VERSIONS:
                silent = min(self._versions, key=lambda name: (self._versions[name].last_ms, name))
                del self._versions[silent]
            self._versions[version] = _Version(start_ms, start_ms + self._window_ms)
        return self._versions[version]

    def _close(
        self, model: ModelName, version: ModelVersion, held: _Version, ts_ms: int
    ) -> list[FeatureWindowRow | Signal]:
        window, start_ms, end_ms = held.counted(), held.start_ms, held.open_until_ms
        next_ms = ts_ms // self._window_ms * self._window_ms
        held.open_until_ms = next_ms + self._window_ms
        if min(window.taken, window.shown - window.taken) < self._least:
            return []  # it goes on
        held.open, held.start_ms = Labelled(), next_ms
        fell = self._judge(held, window)
        found: list[FeatureWindowRow | Signal] = [_row(model, version, start_ms, end_ms, window, held.reference, fell)]
        fallen = fell is not None and fell.certain
        if fell is not None and fallen:
            found.append(self._signal(model, version, start_ms, end_ms, fell))
        if held.reference_windows < REFERENCE_WINDOWS and not fallen:
            held.reference = window if held.reference is None else held.reference.merged(window)
            held.reference_windows += 1
        else:
            held.recent = [*held.recent, window][-(RECENT_WINDOWS - 1) :]
        return found

    def _judge(self, held: _Version, window: Labelled) -> Fall | None:
        """The newest window alone and the newest ones together, whichever says more; the p-value is for two looks."""
        if held.reference is None:
            return None
        together = window
        for each in held.recent:
            together = together.merged(each)
        reference = auc(held.reference)
        looks = [fall(auc(each), reference, self._drop_fraction) for each in (window, together)]
        strongest = min(looks, key=lambda look: look.p_value)
        return Fall(min(1.0, 2 * strongest.p_value), strongest.now, reference)

    def _signal(self, model: ModelName, version: ModelVersion, start_ms: int, end_ms: int, fell: Fall) -> Signal:
        reason = f"AUC of {version} fell from {fell.reference.value:.3f} to {fell.now.value:.3f} (p {fell.p_value:.1g})"
        return Signal(
            *(model, "llm_auc", start_ms, end_ms, True, True, reason, self._settle_ms, Family.LABELS, LANGUAGE_MODEL),
            feature=feature_of(version),
        )

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values and arrays; `restore` continues exactly from here."""
        return tuple(
            (
                *(version, held.start_ms, held.open_until_ms, packed(held.counted())),
                None if held.reference is None else packed(held.reference),
                *(held.reference_windows, tuple(map(packed, held.recent)), held.last_ms),
            )
            for version, held in self._versions.items()
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        self._versions = {
            version: _Version(
                start_ms,
                until_ms,
                unpacked(opened),
                reference=None if reference is None else unpacked(reference),
                reference_windows=reference_windows,
                recent=[unpacked(each) for each in recent],
                last_ms=last_ms,
            )
            for version, start_ms, until_ms, opened, reference, reference_windows, recent, last_ms in snapshot
        }


def feature_of(version: ModelVersion) -> str:
    """What the windows of a version's scores are called, as if they were of a feature."""
    return f"{LANGUAGE_FEATURE}@{version}"


def of_labels(row: FeatureWindowRow) -> bool:
    """Whether a row is of scores and labels, not of a declared feature: its window is a version's own."""
    return row.feature.startswith(f"{LANGUAGE_FEATURE}@")


def _row(
    model: ModelName,
    version: ModelVersion,
    start_ms: int,
    end_ms: int,
    window: Labelled,
    reference: Labelled | None,
    fell: Fall | None,
) -> FeatureWindowRow:
    value, error = auc(window)
    statistics = {
        "auc": value,
        "auc_error": error,
        "ece": calibration_error(window),
        "nll": float(window.surprise[0]) / ONE / window.shown,
        "taken": float(window.taken),
    }
    verdict, why = "unjudged", ""
    if fell is not None:
        statistics["reference_auc"] = fell.reference.value
        verdict = "drift" if fell.certain else "stable"
        then = f"{fell.reference.value:.3f} ± {fell.reference.error:.3f} as it went live"
        why = f"{feature_of(version)}: {verdict}, AUC {value:.3f} ± {error:.3f}, {then}"
    labels, counts = coarse(window)
    return FeatureWindowRow(
        model,
        start_ms,
        end_ms,
        feature_of(version),
        "numeric",
        version,
        events=window.shown,
        missing=0,
        verdict=verdict,
        why=why,
        statistics=statistics,
        p_value=fell.p_value if fell else None,
        effect=fell.share if fell else None,
        bins=labels,
        counts=counts,
        reference=coarse(reference)[1] if reference else (),
    )
