"""How the readings of several detectors become one verdict on a feature, per component of the system.

- Calibrated, the default: each detector's p-value, what is usual in the reference taken into account, is combined into
  one per feature; Benjamini-Hochberg over the features, a floor of effect and a second look decide.
- Not calibrated: the fixed thresholds that are published, for those who must have them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec
import numpy as np

from online_models.drift.base import MIN_EVENTS, Floats

Rule = Literal["any", "two_of_three", "weighted"]

WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {"chi_square": 1.0, "shares": 1.0, "bursts": 1.0, "popularity": 1.0}
)
"""PSI, KL and JS answer the same question as chi-square, and KS a part of it: they explain, and need not be asked twice."""

PUBLISHED: Final[Mapping[str, float]] = MappingProxyType({"psi": 0.2, "kl": 0.1, "ks": 0.05})
"""What practice calls drift. KS is a p-value, hence an alarm below it; the others are alarms from it on."""

IMMEDIATE: Final = 100
"""Evidence that would still pass at this fraction of q needs no second look."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the policy matrix.

    rule : `any` one detector, `two_of_three` (the second strongest of psi, ks and kl), or all `weighted`
    calibrated : whether p-values decide; else the thresholds do
    q : share of false ones among the alarms of windows, by Benjamini and Hochberg
    effect : smallest bias-corrected divergence that matters, a fifth of what practice calls moderate on PSI's scale;
        significant drift below it is none
    confirm : whether an alarm must already be visible in the window one hop earlier, unless it is overwhelming
    min_events : fewest events of a window and of a reference for a verdict
    weights : detector -> weight; empty for the usual ones; a detector without a weight only explains
    thresholds : detector -> threshold of its statistic (KS: of its p-value); those that are not given are published ones
    """

    rule: Rule = "weighted"
    calibrated: bool = True
    q: float = 0.01
    effect: float = 0.02
    confirm: bool = True
    min_events: int = MIN_EVENTS
    weights: dict[str, float] = {}
    thresholds: dict[str, float] = {}

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ValueError(f"policy: expected q between 0 and 1, got {self.q}")
        if not 0 <= self.effect < np.inf or self.min_events < 1:
            raise ValueError(
                f"policy: expected effect >= 0 and min_events >= 1, got {self.effect} and {self.min_events}"
            )
        for name, given in (("weights", self.weights), ("thresholds", self.thresholds)):
            if not all(0 <= each < np.inf for each in given.values()):
                raise ValueError(f"policy: expected {name} that are finite and not negative, got {given}")
        if self.weights and not any(self.weights.values()):
            raise ValueError("policy: expected at least one positive weight")

    def weight(self, detector: str) -> float:
        """How much a detector counts."""
        if self.weights:
            return self.weights.get(detector, 0.0)
        if self.rule == "two_of_three" or not self.calibrated:
            return float(detector in PUBLISHED)
        return WEIGHTS.get(detector, 0.0)

    def threshold(self, detector: str) -> float:
        """From where on a detector alarms when thresholds decide; infinite for one that has none."""
        return self.thresholds.get(detector, PUBLISHED.get(detector, np.inf))


def combine(p_values: Floats, weights: Floats, rule: Rule) -> Floats:
    """One p-value (F,) of those of D detectors (F, D); weights (D,), and NaN where a detector does not apply.

    `any` is Bonferroni's, `two_of_three` Rüger's D/2 p_(2), `weighted` Cauchy's, which holds however the detectors
    depend on one another as long as p is small.

    >>> p = np.array([[0.0001, 0.5, 0.02]])
    >>> [float(combine(p, np.ones(3), rule)[0].round(5)) for rule in ("any", "two_of_three", "weighted")]
    [0.0003, 0.03, 0.0003]

    References
    ----------
    Rüger: Das maximale Signifikanzniveau des Tests "Lehne H0 ab, wenn k unter n gegebenen Tests zur Ablehnung führen".
    Metrika 25 (1978). Liu, Xie: Cauchy combination test. J. American Statistical Association 115 (2020).
    """
    asked = (weights > 0) & ~np.isnan(p_values)
    count = asked.sum(1)
    p = np.where(asked, np.nan_to_num(p_values, nan=1.0), np.inf)
    match rule:
        case "any":
            found = np.where(asked, p, 1.0).min(1) * count
        case "two_of_three":
            ranked = np.sort(p, 1)
            found = np.where(count >= 2, ranked[:, min(1, p.shape[1] - 1)] * count / 2, ranked[:, 0])
        case "weighted":
            found = _cauchy(np.where(asked, p, 0.5), np.where(asked, weights, 0.0))
    return np.where(count > 0, np.minimum(found, 1.0), 1.0)


def _cauchy(p: Floats, weights: Floats) -> Floats:
    p = np.clip(p, 1e-300, 0.99)  # one p-value of 1 must not outweigh all others
    # tan(pi (1/2 - p)), which is 1 / (pi p) for small p
    terms = np.where(p < 1e-12, 1 / (np.pi * p), np.tan(np.pi * (0.5 - np.maximum(p, 1e-12))))
    mean = (weights * terms).sum(1) / np.maximum(weights.sum(1), 1e-12)
    found: Floats = np.where(mean > 1e12, 1 / (np.pi * np.maximum(mean, 1.0)), 0.5 - np.arctan(mean) / np.pi)
    return found
