"""The gate: from how a candidate and the champion served the same users to a verdict, with all the numbers behind it.

- A candidate passes when it is better, or when it is no worse than a margin; both by an interval over users, not by means. Lack
  of data is never success: what cannot be told is refused as inconclusive, and a drifted champion is still replaceable, for its
  drift goes on triggering jobs, and each later job has more events since the champion to be judged on.
- Beside quality stands a family of checks: what the candidate has forgotten, calibration, coverage, overlap, and how it does in
  the reader. Each is one row of a report; one that fails refuses the candidate.
- Quality is what has to be shown; forgetting is refused on evidence alone, and not where at least as large a share is gained on
  the events of today: after a shift the champion's own time is what has passed, and holding on to it would hold every later
  candidate up.
- A first model has no rival but popularity, and is refused only when it is absurd beside it.
- Offline figures are no proof: an accepted candidate goes on to a canary, which has the sequential test.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from retrain_workers.validation.evaluation import CUTOFF, Scores, distinct_items, jaccard, rank_biased_overlap
from retrain_workers.validation.intervals import Interval, interval, stake_of

CHALLENGES: Final = 4
"""Candidates that a champion may meet before one of them is called better by chance with probability alpha."""


@dataclass(frozen=True, slots=True)
class Gate:
    """margin : share of the champion's NDCG that a candidate may lose and still be as good; alpha : error of an interval's bound
    absurd_share : a first model must reach this share of popularity's mean NDCG
    min_users : fewer paired users say nothing
    old_margin : share of the champion's NDCG on its own old events that may be forgotten with nothing gained; 1 for all.
        The champion was trained on these very events and knows them by heart, so that much of it is no loss
    coverage_share : different items in the candidate's lists, as a share of the champion's, at least
    overlap_floor : mean Jaccard overlap of the two rankers' lists, at least; 0 asks for nothing
    calibration_error : expected calibration error of a model's probabilities, at most
    request_ms : 99th percentile of a request in the reader's code, at most
    unseen_first : whether a first model may pass on fewer than min_users; not where it takes the place of a champion that cannot
        be read
    """

    margin: float = 0.05
    absurd_share: float = 0.5
    min_users: int = 20
    alpha: float = 0.05
    old_margin: float = 0.75
    coverage_share: float = 0.5
    overlap_floor: float = 0.0
    calibration_error: float = 0.1
    request_ms: float = 100.0
    unseen_first: bool = True

    def for_each_of(self, looks: int) -> "Gate":
        """The gate for each of several looks at the same events, which share the error that one may make.

        >>> Gate(alpha=0.05).for_each_of(2).alpha
        0.025
        """
        return replace(self, alpha=self.alpha / looks)


class Verdict(enum.StrEnum):
    """What became of a candidate; the first three may go on to a canary.

    `failed` : quality was shown, another check was not passed
    """

    BETTER = "better"
    NON_INFERIOR = "non-inferior"
    FIRST = "first"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"

    @property
    def accepts(self) -> bool:
        """Whether the candidate goes on."""
        return self in (Verdict.BETTER, Verdict.NON_INFERIOR, Verdict.FIRST)


class Check(msgspec.Struct, frozen=True):
    """One thing that a candidate was asked: the figure, its limit (None where nothing is asked of it), and what they mean."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    detail: str


class GateReport(msgspec.Struct, frozen=True):
    """The verdict with its checks, quality first, and all figures by metric name."""

    verdict: Verdict
    checks: list[Check]
    figures: dict[str, float]

    @property
    def accepted(self) -> bool:
        """Whether the candidate may go on to a canary."""
        return self.verdict.accepts

    def reason(self) -> str:
        """One line: the verdict, and the checks that decided it; of an accepted candidate all of them."""
        failed = [check for check in self.checks if not check.passed]
        return f"{self.verdict}: " + "; ".join(check.detail for check in failed or self.checks)

    def metrics(self) -> dict[str, float]:
        """All figures and the values of all checks, for the manifest."""
        values = {f"gate_{check.name}": check.value for check in self.checks if check.value is not None}
        return {**self.figures, **values}

    def encode(self) -> bytes:
        """As JSON, for the row of the job."""
        return msgspec.json.encode(self)

    def with_checks(self, more: Sequence[Check]) -> "GateReport":
        """The report after further checks, such as those of the finished artifact."""
        verdict = self.verdict
        if verdict.accepts and not all(check.passed for check in more):
            verdict = Verdict.FAILED
        return GateReport(verdict, [*self.checks, *more], self.figures)


def decode_report(raw: bytes) -> GateReport:
    """From `GateReport.encode`. Raises msgspec.DecodeError when it is something else."""
    return msgspec.json.decode(raw, type=GateReport)


def judge(
    candidate: Scores,
    champion: Scores | None,
    popularity: Scores,
    gate: Gate,
    old_regime: tuple[Scores, Scores] | None = None,
    checks: Sequence[Check] = (),
    figures: Mapping[str, float] | None = None,
) -> GateReport:
    """Whether the candidate may be published. Scores are paired: row u is the same user in all.

    Parameters
    ----------
    old_regime : candidate and champion on cases of the champion's own time, see `evaluation.old_regime_cases`
    checks : further ones, such as of calibration
    figures : further ones, to be kept with the verdict

    >>> even, worse = (Scores(*[np.full(300, x)] * 3) for x in (0.5, 0.4))
    >>> report = judge(even, even, even, Gate())
    >>> report.accepted, str(report.verdict), str(judge(worse, even, even, Gate()).verdict)
    (True, 'non-inferior', 'worse')
    >>> judge(worse, None, even, Gate()).reason()
    'first: NDCG@10 0.4000 against 0.5000 of popularity on 300 users, at least 50% needed'
    """
    verdict, quality = _quality(candidate, champion, popularity, gate)
    family = [quality]
    if champion is not None and len(candidate):
        family += [_coverage(candidate, champion, gate), _overlap(candidate, champion, gate)]
    if old_regime is not None:
        gained = _gained_share(candidate, champion) if verdict is Verdict.BETTER else 0.0
        family.append(_old_regime(*old_regime, gained, gate))
    if champion is not None and candidate.depth > CUTOFF and len(candidate) >= gate.min_users:
        family.append(_list(candidate, champion, gate))
    all_figures = {
        **candidate.figures(),
        **(champion.figures("champion_") if champion is not None else {}),
        **popularity.figures("popularity_"),
        **(figures or {}),
    }
    return GateReport(verdict, [quality], all_figures).with_checks([*family[1:], *checks])


def _quality(candidate: Scores, champion: Scores | None, popularity: Scores, gate: Gate) -> tuple[Verdict, Check]:
    users = len(candidate)
    if users < gate.min_users:
        first = champion is None and gate.unseen_first
        verdict = Verdict.FIRST if first else Verdict.INCONCLUSIVE
        tail = "; there is no champion to lose" if first else ""
        return verdict, Check(
            "quality", None, None, verdict.accepts, f"{users} holdout users, {gate.min_users} needed{tail}"
        )
    return _first(candidate, popularity, gate) if champion is None else _paired(candidate, champion, gate)


def _first(candidate: Scores, popularity: Scores, gate: Gate) -> tuple[Verdict, Check]:
    ours, theirs = float(candidate.ndcg.mean()), float(popularity.ndcg.mean())
    verdict = Verdict.FIRST if ours >= gate.absurd_share * theirs else Verdict.WORSE
    detail = (
        f"NDCG@{CUTOFF} {ours:.4f} against {theirs:.4f} of popularity on {len(candidate)} users, "
        f"at least {gate.absurd_share:.0%} needed"
    )
    return verdict, Check("quality", ours, gate.absurd_share * theirs, verdict.accepts, detail)


def _paired(candidate: Scores, champion: Scores, gate: Gate) -> tuple[Verdict, Check]:
    """Better, or worse, when the interval of the difference leaves 0 out; non-inferior when the lower bound of what is left
    beyond the margin is above 0:

    better        lower_{alpha / CHALLENGES}(ours - theirs) > 0
    non-inferior  lower_alpha(ours - (1 - margin) theirs) > 0
    """
    ours, theirs = candidate.judged, champion.judged
    stake = stake_of(ours, theirs)
    gained = interval(ours - theirs, stake, gate.alpha / CHALLENGES)
    spared = interval(ours - (1 - gate.margin) * theirs, stake, gate.alpha)
    if gained.lower > 0:
        verdict = Verdict.BETTER
    elif spared.lower > 0:
        verdict = Verdict.NON_INFERIOR
    else:
        verdict = Verdict.WORSE if gained.upper < 0 else Verdict.INCONCLUSIVE
    return verdict, Check("quality", spared.lower, 0.0, verdict.accepts, _difference(candidate, champion, gained, gate))


def _difference(candidate: Scores, champion: Scores, gained: Interval, gate: Gate) -> str:
    return (
        f"NDCG@{candidate.depth} {candidate.judged.mean():.4f} against {champion.judged.mean():.4f} of the champion, difference "
        f"{gained.mean:+.4f} ({100 * (1 - 2 * gate.alpha / CHALLENGES):g} % interval {gained.lower:+.4f} to {gained.upper:+.4f}) "
        f"on {gained.users} users, margin {gate.margin:.0%}, hit rate {candidate.hit_rate.mean():.3f} against "
        f"{champion.hit_rate.mean():.3f}"
    )


def _list(candidate: Scores, champion: Scores, gate: Gate) -> Check:
    """Who is as good in depth may not be worse in what people see: refused where upper_alpha(ours - (1 - margin) theirs) < 0 at
    CUTOFF."""
    ours, theirs = candidate.ndcg, champion.ndcg
    left = interval(ours - (1 - gate.margin) * theirs, stake_of(ours, theirs), gate.alpha)
    share = float(ours.mean() / theirs.mean()) if theirs.any() else 1.0
    detail = (
        f"lists of {CUTOFF}: NDCG {ours.mean():.4f} against {theirs.mean():.4f}, hit rate {candidate.hit_rate.mean():.3f} "
        f"against {champion.hit_rate.mean():.3f}"
    )
    return Check("list", share, 1 - gate.margin, left.upper >= 0, detail)


def _coverage(candidate: Scores, champion: Scores, gate: Gate) -> Check:
    ours, theirs = distinct_items(candidate.lists), distinct_items(champion.lists)
    share = ours / theirs if theirs else 1.0
    detail = (
        f"{ours} items in lists of {CUTOFF} against {theirs} of the champion, at least {gate.coverage_share:.0%} needed"
    )
    return Check("coverage", share, gate.coverage_share, share >= gate.coverage_share, detail)


def _overlap(candidate: Scores, champion: Scores, gate: Gate) -> Check:
    pairs = list(zip(candidate.lists, champion.lists, strict=True))
    common = float(np.mean([jaccard(*pair) for pair in pairs])) if pairs else 1.0
    ranked = float(np.mean([rank_biased_overlap(*pair) for pair in pairs])) if pairs else 1.0
    detail = f"overlap with the champion's lists {common:.2f} (Jaccard), {ranked:.2f} (rank-biased)"
    return Check("overlap", common, gate.overlap_floor, common >= gate.overlap_floor, detail)


def _gained_share(candidate: Scores, champion: Scores | None) -> float:
    """ours / theirs - 1, in mean NDCG; infinite where the champion gives nothing."""
    theirs = 0.0 if champion is None else float(champion.judged.mean())
    return float(candidate.judged.mean()) / theirs - 1 if theirs else np.inf


def _old_regime(candidate: Scores, champion: Scores, gained: float, gate: Gate) -> Check:
    """Too much is forgotten when upper_alpha(ours - (1 - old margin) theirs) < 0 on the old events, and
    1 - ours / theirs there is more than the share that is gained on the new ones."""
    users = len(candidate)
    if users < gate.min_users:
        return Check(
            "old_regime", None, 1 - gate.old_margin, True, f"old regime: {users} users, {gate.min_users} needed"
        )
    ours, theirs = candidate.judged, champion.judged
    left = interval(ours - (1 - gate.old_margin) * theirs, stake_of(ours, theirs), gate.alpha)
    share = float(ours.mean() / theirs.mean()) if theirs.any() else 1.0
    detail = (
        f"old regime: NDCG@{candidate.depth} {ours.mean():.4f} against {theirs.mean():.4f} of the champion on {users} users, "
        f"at least {1 - gate.old_margin:.0%} needed"
    )
    if gained > 0:
        detail += f", or {gained:+.0%} of today's for {share - 1:+.0%}"
    return Check("old_regime", share, 1 - gate.old_margin, left.upper >= 0 or gained >= 1 - share, detail)
