"""The panel: its verdicts, its memory, quiet windows, seasons, and what it says."""

import itertools
import math
import pickle

import numpy as np
import numpy.typing as npt
import pytest

from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.drift.panel import Memory, Panel
from online_models.drift.policy import Policy
from online_models.drift.quiet import MOST, Stretch, grow, kept
from online_models.drift.seasons import DAY_MS, WEEK_MS, season_of, too_short
from online_models.drift.verdict import Verdict, WindowVerdict
from online_models.histograms import Counts, count_hashed, count_numeric, rebin

Rng = np.random.Generator
NUMBER = FeatureSpec("number", FeatureKind.NUMERIC, "value", (EventType.RATING,), -4.0, 4.0)
WORD = FeatureSpec("word", FeatureKind.CATEGORICAL, "item_id", (EventType.CLICK,))
TAGS = FeatureSpec("tags", FeatureKind.MULTI_VALUED, "features.genres", (EventType.CLICK,))
M, N, HOUR = 20_000, 2_000, 3_600_000


def numbers(rng: Rng, n: int, shift: float = 0.0, missing: float = 0.02) -> Counts:
    values = np.where(rng.random(n) < missing, np.nan, rng.normal(shift, 1.0, n))
    counts: Counts = count_numeric(values, np.zeros(n, np.int64), 1, NUMBER.low, NUMBER.high, NUMBER.cells)[0]
    return counts


def words(rng: Rng, n: int, first: int = 0) -> Counts:
    hashes = ((rng.zipf(1.5, n) + first) * 7919).astype(np.uint64)
    none = np.empty(0, np.int64)
    counts: Counts = count_hashed(hashes, np.zeros(n, np.int64), none, 1, WORD.cells)[0]
    return counts


def sketch(spec: FeatureSpec, panes: list[Counts], pane_ms: int = HOUR) -> FeatureSketch:
    total = np.sum(panes, 0)
    coarse = rebin(total, spec.kind)
    starts = [place * pane_ms for place in range(len(panes))]
    return FeatureSketch(spec, total.tolist(), [coarse.apply(pane).tolist() for pane in panes], starts, pane_ms)


def references(rng: Rng, panes: int = 40) -> list[FeatureSketch]:
    return [
        sketch(NUMBER, [numbers(rng, M // panes) for _ in range(panes)]),
        sketch(WORD, [words(rng, M // panes) for _ in range(panes)]),
    ]


def looks(
    panel: Panel, windows: list[dict[str, Counts]], memory: Memory | None = None, step: int = HOUR
) -> tuple[list[WindowVerdict], Memory]:
    memory, found = memory or Memory(), []
    for place, counts in enumerate(windows):
        start = 1000 * HOUR + place * step
        verdict, memory = panel.judge(counts, start, start + 4 * HOUR, memory)
        found.append(verdict)
    return found, memory


def test_drift_of_numbers_words_and_missing_values_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(1)
    panel = Panel(references(rng))
    clean, _ = looks(panel, [{"number": numbers(rng, N), "word": words(rng, N)} for _ in range(60)])
    assert sum(len(each.drifted) for each in clean) == 0
    for shifted in (
        {"number": numbers(rng, N, shift=0.6), "word": words(rng, N, first=1)},
        {"number": numbers(rng, N, missing=0.2), "word": words(rng, N, first=3)},
    ):
        found, _ = looks(panel, [shifted] * 2)
        assert set(found[-1].drifted) == {"number", "word"}


def test_judging_is_pure() -> None:
    rng = np.random.default_rng(2)
    sketches = references(rng)
    windows = [{"number": numbers(rng, 300, 0.2 * place), "word": words(rng, N, place)} for place in range(6)]
    one, left = looks(Panel(sketches), windows)
    panel = Panel(sketches)
    looks(panel, windows[::-1])
    other, right = looks(panel, windows)
    assert [each.features for each in one] == [each.features for each in other]
    assert pickle.dumps(left.snapshot()) == pickle.dumps(right.snapshot())


def test_restoring_the_memory_and_going_on_equals_never_having_stopped() -> None:
    rng = np.random.default_rng(3)
    panel = Panel(references(rng))
    windows = [{"number": numbers(rng, 200, 0.5), "word": words(rng, N, place // 3)} for place in range(8)]
    whole, _ = looks(panel, windows)
    memory, found = Memory(), []
    for place, counts in enumerate(windows):
        memory = Memory.restore(pickle.loads(pickle.dumps(memory.snapshot())))
        start = 1000 * HOUR + place * HOUR
        verdict, memory = panel.judge(counts, start, start + 4 * HOUR, memory)
        found.append(verdict)
    assert [each.features for each in found] == [each.features for each in whole]


def test_a_foreign_or_torn_snapshot_of_memory_is_refused() -> None:
    rng = np.random.default_rng(4)
    _, memory = looks(Panel(references(rng)), [{"number": numbers(rng, 200)}])
    taken = memory.snapshot()
    assert len(taken) > 5
    for wrong in (("psi", *taken[1:]), ("panel", 99, *taken[2:]), taken[:-1], (*taken[:-1], 7), ()):
        with pytest.raises(ValueError, match="expected a snapshot of"):
            Memory.restore(wrong)


def moderate(rng: Rng, panel: Panel) -> Counts:
    """A window that is significant, but not overwhelmingly."""
    for _ in range(200):
        counts = numbers(rng, 500, 0.2)
        found, _ = looks(panel, [{"number": counts}])
        if found[0].features["number"].verdict is Verdict.UNCONFIRMED:
            return counts
    raise AssertionError("no window of 200 needed a second look")


def test_a_moderate_alarm_waits_for_the_next_window_and_an_overwhelming_one_does_not() -> None:
    rng = np.random.default_rng(5)
    sketches = references(rng)[:1]
    panel = Panel(sketches)
    little, much = moderate(rng, panel), numbers(rng, N, 1.0)
    found, _ = looks(panel, [{"number": little}] * 2)
    assert [each.features["number"].verdict for each in found] == [Verdict.UNCONFIRMED, Verdict.DRIFT]
    assert 1e-4 < found[0].features["number"].p_value < 0.01
    found, _ = looks(panel, [{"number": much}])
    assert found[0].drifted == ("number",)
    hasty = Panel(sketches, {"recommender": Policy(confirm=False)})
    assert looks(hasty, [{"number": little}])[0][0].drifted == ("number",)


def test_an_alarm_of_long_ago_confirms_nothing() -> None:
    rng = np.random.default_rng(6)
    panel = Panel(references(rng)[:1])
    little = {"number": moderate(rng, panel)}
    found, _ = looks(panel, [little] * 2, step=5 * HOUR)
    assert [each.features["number"].verdict for each in found] == [Verdict.UNCONFIRMED] * 2


def test_significant_but_small_drift_is_stable() -> None:
    rng = np.random.default_rng(7)
    panel = Panel([sketch(NUMBER, [numbers(rng, 1_000_000)])])
    found, _ = looks(panel, [{"number": numbers(rng, 200_000, 0.03)}] * 2)
    verdict = found[-1].features["number"]
    assert (verdict.verdict, verdict.p_value < 1e-9, 0 < verdict.effect < 0.02) == (Verdict.STABLE, True, True)


def test_too_little_is_inconclusive_and_never_stable() -> None:
    rng = np.random.default_rng(8)
    empty = FeatureSketch(TAGS, [0] * (TAGS.cells + 3))
    panel = Panel([*references(rng), empty])
    counts = {"number": numbers(rng, 20), "word": np.zeros(WORD.cells + 3, np.int64), "tags": words(rng, N)}
    found, _ = looks(panel, [counts])
    for each in found[0].features.values():
        assert each.verdict is Verdict.INCONCLUSIVE
        assert "no verdict" in each.why
        assert math.isinf(each.detectable)


def test_a_quiet_feature_grows_until_there_is_enough_and_says_so() -> None:
    rng = np.random.default_rng(9)
    panel = Panel(references(rng)[:1])
    quiet = [{"number": numbers(rng, 300, 1.0)} for _ in range(4)]
    found, memory = looks(panel, quiet, step=4 * HOUR)
    first, *_, last = (each.features["number"] for each in found)
    assert first.verdict is Verdict.INCONCLUSIVE
    assert last.verdict is Verdict.DRIFT
    assert last.windows >= 1
    assert last.events >= 500
    assert "earlier quiet windows" in last.why
    assert len(memory.quiet["number"]) == 4
    assert "number" not in looks(panel, [{"number": numbers(rng, N)}], memory)[1].quiet


def test_a_window_grows_only_over_disjoint_earlier_ones_of_bounded_number() -> None:
    counts = np.array([0, 10, 0, 0])
    earlier: tuple[Stretch, ...] = ()
    for start in range(40):
        earlier = kept(earlier, counts, 10, start, start + 4)
    assert len(earlier) <= MOST
    assert all(a.end_ms <= b.start_ms for a, b in itertools.pairwise(earlier))
    grown = grow(counts, 10, 42, 46, earlier, 10_000)
    used = [each for each in earlier if each.end_ms <= 42]
    assert grown.windows == len(used)
    weights = np.array([1.0, *(2 ** (-(46 - each.end_ms) / 4) for each in used)])
    assert grown.events == pytest.approx(10 * weights.sum() ** 2 / (weights**2).sum())
    assert grown.counts.sum() == pytest.approx(grown.events)


def test_several_words_of_one_event_are_not_several_events() -> None:
    rng = np.random.default_rng(10)

    def tags(events: int) -> Counts:
        return 5 * words(rng, events)

    panel = Panel([FeatureSketch(TAGS, tags(M).tolist())])
    found, memory = [], Memory()
    for place in range(40):
        verdict, memory = panel.judge({"tags": tags(N)}, place, place + 1, memory, {"tags": N})
        found.append(verdict.features["tags"].verdict)
    assert found.count(Verdict.DRIFT) + found.count(Verdict.UNCONFIRMED) <= 2
    few, _ = panel.judge({"tags": tags(200)}, 0, 1, Memory(), {"tags": 200})
    assert few.features["tags"].verdict is Verdict.INCONCLUSIVE


def daily(rng: Rng, hours: int) -> list[Counts]:
    return [numbers(rng, 2_000, 1.5 * (hour % 24 == 3)) for hour in range(hours)]


def test_what_the_same_hour_of_other_days_looked_like_is_seasonal() -> None:
    rng = np.random.default_rng(11)
    panes = daily(rng, 24 * 4)
    coarse = rebin(np.sum(panes, 0), FeatureKind.NUMERIC)
    held = np.array([coarse.apply(pane) for pane in panes])
    starts = np.arange(len(held)) * HOUR
    usual, odd = numbers(rng, 2_000, 1.5), numbers(rng, 2_000, -1.5)
    at = 10 * DAY_MS + 3 * HOUR

    def season(counts: Counts, start: int, kept_panes: int = len(held)) -> str | None:
        window = coarse.apply(counts).astype(np.float64)
        found = season_of(window, start, start + HOUR, held[:kept_panes], starts[:kept_panes], HOUR, 0.01)
        return found.period if found else None

    assert season(usual, at) == "day"
    assert season(usual, at + 5 * HOUR) is None
    assert season(odd, at) is None
    assert season(usual, at, kept_panes=30) is None


def test_a_reference_that_is_shorter_than_the_season_says_so() -> None:
    rng = np.random.default_rng(12)
    panel = Panel(references(rng)[:1])
    found, _ = looks(panel, [{"number": numbers(rng, N, 1.0)}])
    assert "the reference spans 40 hours, less than two days: may be seasonal" in found[0].features["number"].why
    assert "weeks" in too_short(3 * DAY_MS)
    assert too_short(2 * WEEK_MS) == ""


def test_an_alarm_is_explained_in_words_with_its_numbers() -> None:
    rng = np.random.default_rng(13)
    found, _ = looks(Panel(references(rng)), [{"number": numbers(rng, N, 1.0), "word": words(rng, N, 1)}] * 2)
    verdict = found[-1].features["number"]
    for part in ("number: drift, 2,000 events against 20,000", " % -> ", "p = ", "smallest drift"):
        assert part in verdict.why
    assert verdict.moved[0].label.startswith(("from ", "below "))
    assert {each.detector for each in verdict.readings} >= {"psi", "kl", "js", "ks", "wasserstein", "chi_square"}
    assert {each.detector for each in found[-1].features["word"].readings} >= {"shares", "bursts", "popularity"}
    assert 0 < verdict.detectable < 0.2
    named = Panel(references(rng), labels=lambda feature, place: f"{feature} no. {place}")
    told, _ = looks(named, [{"number": numbers(rng, N, 1.0)}])
    assert "number no. " in told[0].features["number"].why


@pytest.mark.parametrize("rule", ["any", "two_of_three", "weighted"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_every_rule_finds_a_large_shift_and_is_quiet_without_one(rule: str, calibrated: bool) -> None:
    rng = np.random.default_rng(14)
    policy = Policy(rule=rule, calibrated=calibrated)  # type: ignore[arg-type]
    panel = Panel(references(rng), {"recommender": policy})
    quiet, _ = looks(panel, [{"number": numbers(rng, N), "word": words(rng, N)} for _ in range(20)])
    loud, _ = looks(panel, [{"number": numbers(rng, N, 1.0), "word": words(rng, N, 2)}] * 2)
    false_alarms = sum(len(each.drifted) for each in quiet)
    assert false_alarms <= (4 if rule == "any" and not calibrated else 0)
    assert set(loud[-1].drifted) == {"number", "word"}


def test_components_are_judged_by_their_own_policies() -> None:
    rng = np.random.default_rng(15)
    text = FeatureSpec("text", FeatureKind.NUMERIC, "value", (EventType.CLICK,), -4.0, 4.0, component="llm")
    sketches = [references(rng)[0], sketch(text, [numbers(rng, M)])]
    panel = Panel(sketches, {"llm": Policy(effect=5.0)})
    window = numbers(rng, N, 0.6)
    found, _ = looks(panel, [{"number": window, "text": window}] * 2)
    assert found[-1].drifted == ("number",)


def test_ghosts_and_features_without_counts_have_no_verdict() -> None:
    rng = np.random.default_rng(16)
    ghost = FeatureSpec("ghost", FeatureKind.NUMERIC, "value", (EventType.CLICK,), -4.0, 4.0, ghost=True)
    panel = Panel([*references(rng), sketch(ghost, [numbers(rng, M)])])
    found, _ = looks(panel, [{"number": numbers(rng, N), "ghost": numbers(rng, N, 1.0)}])
    assert set(found[0].features) == {"number"}
    assert looks(Panel([]), [{}])[0][0].features == {}


def test_counts_and_panes_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(17)
    panel = Panel(references(rng))
    with pytest.raises(ValueError, match="number: expected 259 counts"):
        panel.judge({"number": np.ones(1000, np.int64)}, 0, 1, Memory())
    with pytest.raises(ValueError, match="ends after it starts"):
        panel.judge({}, 1, 1, Memory())
    with pytest.raises(ValueError, match="expected 259 counts"):
        Panel([FeatureSketch(NUMBER, [1, 2, 3])])
    whole = references(rng)[0]
    with pytest.raises(ValueError, match="expected panes"):
        Panel([FeatureSketch(NUMBER, whole.counts, [[1, 2]] * 40, whole.pane_starts_ms, HOUR)])


def test_one_absurd_value_changes_no_verdict() -> None:
    rng = np.random.default_rng(18)
    panel = Panel(references(rng)[:1])
    for shift in (0.0, 1.0):
        window = numbers(rng, N, shift)
        corrupt: npt.NDArray[np.int64] = window.copy()
        corrupt[-2] += 1
        plain, odd = (looks(panel, [{"number": each}] * 2)[0][-1].features["number"] for each in (window, corrupt))
        assert plain.verdict is odd.verdict is (Verdict.DRIFT if shift else Verdict.STABLE)
        assert odd.effect == pytest.approx(plain.effect, abs=0.005)
