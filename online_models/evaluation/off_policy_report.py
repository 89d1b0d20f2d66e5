"""A study of positions and of a candidate's lists in words for people and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from online_models.evaluation.off_policy import SAME, Study
from online_models.evaluation.report import finite, table
from online_models.evaluation.shown import Shown
from online_models.off_policy import Bias, Diagnosis, Estimated, Ranked, Refused


def text_of(title: str, shown: Shown, study: Study, same: str) -> str:
    """Everything, for a terminal."""
    parts = [_head(title, shown), _positions(study, same), _candidate(study), _slots(study)]
    return "\n\n".join(part for part in parts if part)


def _head(title: str, shown: Shown) -> str:
    lines = [
        f"{title}: {len(shown):,} impressions in {len(shown.requests):,} lists of {len(shown.users):,} users, "
        f"{int(shown.taken.sum()):,} of them taken"
    ]
    if shown.listless:
        lines.append(f"left out {shown.listless:,} impressions without a request or a position")
    lines += [f"left out {refused.count:,} rows: {kind}" for kind, refused in shown.refused.items()]
    return "\n".join(lines)


def _positions(study: Study, same: str) -> str:
    """Positions are counted from 0, as in the events."""
    found = study.positions
    if found is None:
        given = ", ".join(f"{theta:g}" for theta in study.looks.tolist())
        return f"positions are looked at as given: {given}"
    lines = [f"positions: {SAME[same]}"]
    if found.known.any():
        columns = (found.theta, found.standard_error, found.rows, found.clicks)
        rows = [
            [str(place), *_figures((theta, error)), f"{shown:,}", f"{clicks:,}"]
            for place, (theta, error, shown, clicks) in enumerate(
                zip(*(each.tolist() for each in columns), strict=True)
            )
            if np.isfinite(theta)
        ]
        lines.append(table(["position", "looked at", "± SE", "impressions", "clicks"], rows))
    if found.reason:
        lines.append(f"cannot be told: {found.reason}")
    return "\n".join(lines)


def _candidate(study: Study) -> str:
    match study.ranked:
        case None:
            return ""
        case Refused() as refused:
            return f"the candidate's lists: refused, {refused.detail}"
        case Ranked() as found:
            return _compared(found)


def _compared(found: Ranked) -> str:
    rows = [
        ["clicks a list, as logged", *_interval(found.logged)],
        ["clicks a list of the candidate, at least", *_interval(found.per_list)],
        ["by its order alone, on what both show", *_interval(found.order)],
    ]
    lines = [
        f"the candidate on {found.requests:,} lists",
        table(["", "value", "± SE", "95 % interval"], rows),
        _behind(found.per_list.diagnosis),
        f"{found.coverage:.1%} of the candidate's looks fall on items that were shown; it drops items with "
        f"{found.dropped_clicks:.1%} of the clicks",
    ]
    if np.isfinite(found.break_even):
        dropped = f", and those it drops are at {found.dropped_rate:.4f}" if np.isfinite(found.dropped_rate) else ""
        lines.append(
            f"it earns as much as the log's ranker where what it alone shows is taken at {found.break_even:.4f} a look{dropped}"
        )
    return "\n".join(lines)


def _behind(diagnosis: Diagnosis) -> str:
    line = (
        f"{diagnosis.ess:,.0f} effective impressions of {diagnosis.rows:,}, {diagnosis.units:,} users, mean weight "
        f"{diagnosis.mean_weight:.3f}, largest {diagnosis.largest_share:.2%} of all"
    )
    if diagnosis.clipped_share:
        direction = "" if diagnosis.bias is Bias.NONE else f", bias {diagnosis.bias}"
        line += f", {diagnosis.clipped_share:.2%} clipped{direction}"
    return line


def _slots(study: Study) -> str:
    if not study.slots:
        return ""
    rows, lines = [], []
    for name, found in study.slots.items():
        if isinstance(found, Refused):
            lines.append(f"{name}: refused, {found.detail}")
        else:
            rows.append([name, *_interval(found)])
            lines.append(f"{name}: {_behind(found.diagnosis)}")
    head = "places given to chance: how often the candidate's item is taken there"
    return "\n".join([head, *([table(["", "value", "± SE", "95 % interval"], rows)] if rows else []), *lines])


def _interval(found: Estimated) -> list[str]:
    return [*_figures((found.value, found.standard_error)), f"{found.lower:.4f} to {found.upper:.4f}"]


def _figures(values: Sequence[float]) -> list[str]:
    return [f"{value:.4f}" for value in values]


def json_of(title: str, shown: Shown, study: Study, same: str) -> str:
    """Everything, as one JSON object; a figure that is not finite is null, and a refusal has a `reason`."""
    found = {
        "log": title,
        "impressions": len(shown),
        "lists": len(shown.requests),
        "users": len(shown.users),
        "taken": int(shown.taken.sum()),
        "left_out": shown.listless,
        "refused": {kind: refused.count for kind, refused in shown.refused.items()},
        "looks": study.looks.tolist(),
        "positions": _estimated_positions(study, same),
        "requests": study.requests,
        "candidate": None if study.ranked is None else asdict(study.ranked),
        "slots": {name: asdict(each) for name, each in (study.slots or {}).items()},
    }
    return json.dumps(finite(found), indent=1)


def _estimated_positions(study: Study, same: str) -> dict[str, Any] | None:
    if study.positions is None:
        return None
    columns = {
        name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in asdict(study.positions).items()
    }
    return {"same": same, **columns}
