"""An evaluation in words for people and as JSON for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from online_models.contracts.events import utc
from online_models.evaluation.contenders import OURS, Result, Study
from online_models.evaluation.measures import SEGMENTS, Measured, Yardstick, leads, measured
from online_models.evaluation.protocol import CUTOFF
from online_models.stores.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A study, what became of each contender, and what those that ran came to.

    title : what the log is called; refused : kind of reason -> how many rows were no events
    """

    title: str
    domain: str
    study: Study
    yardstick: Yardstick
    results: Sequence[Result]
    measures: Mapping[str, Measured]
    rows: int
    refused: Mapping[str, int]


def evaluation_of(title: str, domain: str, recorded: Recorded, study: Study, results: Sequence[Result]) -> Evaluation:
    """Measure the results of a study."""
    yardstick = Yardstick.of(study)
    return Evaluation(
        title,
        domain,
        study,
        yardstick,
        results,
        {each.name: measured(each.outcome, yardstick) for each in results if each.outcome is not None},
        len(recorded) + sum(refused.count for refused in recorded.refused.values()),
        {kind: refused.count for kind, refused in recorded.refused.items()},
    )


def text_of(evaluation: Evaluation) -> str:
    """Everything, for a terminal."""
    parts = [_head(evaluation), _accuracy(evaluation), _segments(evaluation), _leads(evaluation)]
    skipped = [f"{each.name} did not run: {each.reason}" for each in evaluation.results if each.outcome is None]
    return "\n\n".join(part for part in [*parts, "\n".join(skipped)] if part)


def _head(evaluation: Evaluation) -> str:
    log, test = evaluation.study.log, int(evaluation.study.log.begins[evaluation.study.split.test])
    users = len(set(evaluation.yardstick.users.tolist()))
    lines = [
        f"{evaluation.title}: {evaluation.rows:,} rows, of which {len(log):,} are a user's first positive event with an item "
        f"of {evaluation.domain}; {log.users:,} users, {len(log.ids):,} items",
        f"test: the last {len(log) - test:,} events, {utc(int(log.ts_ms[test])):%Y-%m-%d} to "
        f"{utc(int(log.ts_ms[-1])):%Y-%m-%d}, of {users:,} users; each event is predicted, then learned",
        *(f"left out {count:,} rows: {kind}" for kind, count in evaluation.refused.items()),
    ]
    return "\n".join(lines)


def _accuracy(evaluation: Evaluation) -> str:
    header = [
        "model",
        f"hit@{CUTOFF}",
        "± SE",
        f"NDCG@{CUTOFF}",
        "± SE",
        "MRR",
        "coverage",
        "Gini",
        "novelty",
        "diversity",
    ]
    header += ["µs to predict", "µs to learn"]
    rows = []
    for name, found in evaluation.measures.items():
        row = [name]
        for estimate in (found.accuracy.hit, found.accuracy.ndcg):
            row += [f"{estimate.mean:.4f}", f"{estimate.standard_error:.4f}"]
        row += [f"{found.accuracy.mrr.mean:.4f}", f"{found.coverage:.1%}", f"{found.gini:.3f}"]
        row += [f"{found.novelty_bits:.1f} bits", f"{found.diversity:.2f}"]
        rows.append([*row, f"{found.predict_us:,.0f}", f"{found.learn_us:,.0f}"])
    return table(header, rows)


def _segments(evaluation: Evaluation) -> str:
    any_of = next(iter(evaluation.measures.values()), None)
    named = [name for name in SEGMENTS if any_of and name in any_of.segments]
    if any_of is None:
        return ""
    rows = [["events of the test", *(f"{any_of.segments[name].hit.events:,}" for name in named)]]
    for model, found in evaluation.measures.items():
        hits = [found.segments[name].hit for name in named]
        rows.append([model, *(f"{hit.mean:.3f} ±{_error(hit.standard_error)}" for hit in hits)])
    return f"hit@{CUTOFF} by what was known of the user, and of the item\n" + table(["", *named], rows)


def _error(standard_error: float) -> str:
    """Of a single user's events nothing is known of it."""
    return f"{standard_error:.3f}" if math.isfinite(standard_error) else "?"


def _leads(evaluation: Evaluation) -> str:
    outcomes = {each.name: each.outcome for each in evaluation.results if each.outcome is not None}
    if OURS not in outcomes:
        return ""
    lines = [
        f"{OURS} - {lead.best}, the best other one by {lead.metric}: {lead.difference.mean:+.4f} "
        f"± {lead.difference.standard_error:.4f} (paired)"
        for lead in leads(OURS, outcomes, evaluation.yardstick.users)
    ]
    return "\n".join(lines)


def json_of(evaluation: Evaluation) -> str:
    """Everything, as one JSON object; a figure that is not finite is null."""
    log, split = evaluation.study.log, evaluation.study.split
    test = int(log.begins[split.test])
    found = {
        "log": evaluation.title,
        "domain": evaluation.domain,
        "rows": evaluation.rows,
        "refused": dict(evaluation.refused),
        "events": len(log),
        "users": log.users,
        "items": len(log.ids),
        "test": {"events": len(log) - test, "groups": log.groups - split.test, "begins_ms": int(log.ts_ms[test])},
        "models": {name: asdict(each) for name, each in evaluation.measures.items()},
        "did_not_run": {each.name: each.reason for each in evaluation.results if each.outcome is None},
    }
    return json.dumps(finite(found), indent=1)


def finite(found: Any) -> Any:
    """What `json.dumps` may write: a figure that is not finite is null."""
    match found:
        case dict():
            return {name: finite(each) for name, each in found.items()}
        case list():
            return [finite(each) for each in found]
        case float() if not math.isfinite(found):
            return None
        case _:
            return found


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left, all others to the right.

    >>> print(table(["model", "hit"], [["popularity", "0.1"], ["ours", "0.25"]]))
    model        hit
    popularity   0.1
    ours        0.25
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in (header, *rows)
    )
