"""Two published versions ranked on the same later events, for people who want to know which is better.

- Later than the data of both: neither has learned them by heart. What each user gains is paired, as in the gate.
"""

from dataclasses import dataclass

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.errors import ArtifactError
from retrain_workers.champions import Champion, champion_of
from retrain_workers.data.datasets import dataset_of
from retrain_workers.job_rules import TrainingRules, TrainingStores
from retrain_workers.validation.evaluation import CUTOFF, Scores, parts_and_cases, score
from retrain_workers.validation.intervals import Interval, interval, stake_of

_HOLDOUT_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """How two versions did on the same users.

    since_ms : event time from which the events are; overlaps : whether some of them were in the data of one version
    first, second : means by metric; empty without users
    gain : of the second over the first in NDCG, by user; None without users
    """

    users: int
    since_ms: int
    overlaps: bool
    first: dict[str, float]
    second: dict[str, float]
    gain: Interval | None


def head_to_head(
    model: ModelName, first: ModelVersion, second: ModelVersion, stores: TrainingStores, rules: TrainingRules
) -> HeadToHead:
    """Rank the events after both versions' data by each of them.

    Raises
    ------
    ArtifactError
        When the artifact of one is missing, torn or altered.
    TrainingError
        When there are too few events to rank anything.
    """
    rivals = [_opened(model, version, stores) for version in (first, second)]
    windows = [rival.manifest.data_window for rival in rivals]
    later = max(windows, key=lambda window: window.end_ms)
    dataset = dataset_of(stores.interactions.interactions(model))
    parts, cases = parts_and_cases(dataset, _HOLDOUT_FRACTION, later, rules.gate.min_users, new_share=1.0)
    ours, theirs = (score(rival.ranker, cases) for rival in rivals)
    return HeadToHead(
        users=len(cases),
        since_ms=parts.cut_ms,
        overlaps=parts.cut_ms <= later.end_ms,
        first=ours.figures(),
        second=theirs.figures(),
        gain=_gain(ours, theirs, rules.gate.alpha) if cases else None,
    )


def _gain(first: Scores, second: Scores, alpha: float) -> Interval:
    return interval(second.ndcg - first.ndcg, stake_of(first.ndcg, second.ndcg), alpha)


def lines_of(first: ModelVersion, second: ModelVersion, found: HeadToHead) -> list[str]:
    """The comparison for people."""
    if found.gain is None:
        return [f"no events after the data of both {first} and {second}: nothing to compare them on"]
    overlap = "; some were in the data of one of them" if found.overlaps else ""
    width = max(len(name) for name in found.first)
    table = [
        f"{name:{width}}  {found.first[name]:10.4f}  {found.second[name]:10.4f}  {found.second[name] - found.first[name]:+10.4f}"
        for name in found.first
    ]
    gain = found.gain
    return [
        f"{found.users} users on events since {found.since_ms} ms{overlap}",
        f"{'':{width}}  {first:>10}  {second:>10}  {'gain':>10}",
        *table,
        f"NDCG@{CUTOFF} of {second} over {first}: {gain.mean:+.4f} in [{gain.lower:+.4f}, {gain.upper:+.4f}]: {_verdict(gain)}",
    ]


def _verdict(gain: Interval) -> str:
    if gain.lower > 0:
        return "better"
    return "worse" if gain.upper < 0 else "no difference shown"


def _opened(model: ModelName, version: ModelVersion, stores: TrainingStores) -> Champion:
    rival = champion_of(model, version, stores.registry, stores.artifacts)
    if rival is None:
        raise ArtifactError(f"{model} {version}: expected a whole artifact, found none")
    return rival
