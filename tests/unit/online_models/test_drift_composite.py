"""Two of three, the drop rule, and the words for both."""

import itertools

import pytest

from online_models.drift.base import Reading
from online_models.drift.composite import drop_exceeds, explain_drop, two_of_three
from online_models.drift.verdict import Verdict


def readings(*fired: bool, enough: bool = True) -> list[Reading]:
    return [
        Reading(name, 0.2, 0.1, drifted, enough, 0.001 if name == "ks" else None, events=900)
        for name, drifted in zip(("psi", "ks", "kl"), fired, strict=True)
    ]


def test_any_two_of_the_three_are_drift_and_fewer_are_not() -> None:
    for fired in itertools.product((False, True), repeat=3):
        psi, ks, kl = readings(*fired)
        found = two_of_three(psi, ks, kl)
        assert found.verdict is (Verdict.DRIFT if sum(fired) >= 2 else Verdict.STABLE)
        assert len(found.alarms) == sum(fired)


def test_too_little_data_in_any_of_them_is_inconclusive_never_stable() -> None:
    for missing in range(3):
        each = readings(False, False, False)
        each[missing] = readings(False, False, False, enough=False)[missing]
        found = two_of_three(*each)
        assert found.verdict is Verdict.INCONCLUSIVE
        assert "too few events in the window (900)" in found.explain("hour")


def test_a_verdict_names_the_feature_each_alarm_and_its_numbers() -> None:
    text = two_of_three(*readings(True, True, False)).explain("genres")
    assert text.count("genres: ") == 2
    assert "PSI 0.200 >= 0.1 over 900 events" in text
    assert "KS 0.200 >= 0.1 (p = 0.001)" in text
    assert "KL" not in text


def test_a_lone_alarm_is_told_but_not_called_drift() -> None:
    text = two_of_three(*readings(False, True, False)).explain("hour")
    assert "KS 0.200" in text
    assert "alone is no drift" in text
    assert two_of_three(*readings(False, False, False)).explain("hour") == "hour: as in the reference"


@pytest.mark.parametrize(
    ("before", "after", "fraction", "exceeds"),
    [
        (0.5, 0.44, 0.10, True),
        (0.5, 0.46, 0.10, False),
        (0.5, 0.6, 0.10, False),
        (0.5, 0.39, 0.20, True),
        (0.0, 0.0, 0.10, False),
        (0.25, 0.0, 0.99, True),
    ],
)
def test_a_drop_counts_relative_to_what_the_rate_was(
    before: float, after: float, fraction: float, exceeds: bool
) -> None:
    assert drop_exceeds(before, after, fraction) is exceeds


def test_a_fraction_outside_0_to_1_is_refused() -> None:
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            drop_exceeds(0.5, 0.4, fraction)


def test_a_drop_from_nothing_can_be_explained() -> None:
    assert explain_drop("CTR", 0.0, 0.0) == "CTR fell from 0.0000 to 0.0000, by 0.0 %"
