"""How recipes fare as time goes on: each model fitted anew at one cut after the other, and measured on what came next.

- One cut tells of one stretch of time; a recipe that is best by chance or by season shows over several.
- By sliding splits each history is as long as the others, and the oldest events drop out; by expanding ones it grows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from online_models.contracts.events import utc
from online_models.errors import TrainingError
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.splits import Split, expanding_splits, sliding_splits
from retrain_workers.reports.comparison import Fit
from retrain_workers.validation.evaluation import CUTOFF, score, unaided_cases

ROLLING: Final = {"sliding": sliding_splits, "expanding": expanding_splits}

WINDOWS: Final = 4
"""Cuts, over the later half of the time."""


class Window(msgspec.Struct, frozen=True):
    """One cut: NDCG at CUTOFF by model, means over users, of the models that could be fitted."""

    cut_ms: int
    history_events: int
    users: int
    ndcg: dict[str, float]


def rolling(dataset: Dataset, kind: str, windows: int = WINDOWS) -> Iterator[Split]:
    """Splits of a kind of `ROLLING`: the first history is the first half of the time, holdouts share the other half."""
    half_ms = max(1, int(np.ptp(dataset.ts_ms)) // 2) if len(dataset) else 1
    return ROLLING[kind](dataset, half_ms, -(-half_ms // windows) + 1)


def over_time(models: Mapping[str, Fit], splits: Iterable[Split], min_users: int = 20) -> list[Window]:
    """Each model at each cut that has users with something new to them after it.

    Raises TrainingError when there is no such cut.
    """
    found = []
    for parts in splits:
        if cases := unaided_cases(parts, min_users):
            gains: dict[str, float] = {}
            for name, fit in models.items():
                try:
                    gains[name] = float(score(fit(parts.history).ranker, cases).ndcg.mean())
                except TrainingError:  # too little to learn from yet
                    continue
            found.append(Window(parts.cut_ms, len(parts.history), len(cases), gains))
    if not found:
        raise TrainingError("expected users with unseen items after some cut, got none")
    return found


def write_over_time(windows: Sequence[Window], folder: Path, title: str) -> list[Path]:
    """Write `over_time.md` and `over_time.json` into a folder, made if need be; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data = (folder / f"over_time.{kind}" for kind in ("md", "json"))
    text.write_text(markdown_of(windows, title), encoding="utf-8")
    data.write_bytes(msgspec.json.format(msgspec.json.encode(list(windows)), indent=1))
    return [text, data]


def markdown_of(windows: Sequence[Window], title: str) -> str:
    """The windows as Markdown, a column for each model; its mean and deviation are over the cuts that all models have."""
    names = list(dict.fromkeys(name for window in windows for name in window.ndcg))
    rows = [
        [f"{utc(window.cut_ms):%Y-%m-%d %H:%M}", f"{window.history_events:,}", f"{window.users:,}"]
        + [f"{window.ndcg[name]:.4f}" if name in window.ndcg else "" for name in names]
        for window in windows
    ]
    common = [window for window in windows if len(window.ndcg) == len(names)]
    gains = [np.array([window.ndcg[name] for window in common]) for name in names] if common else []
    summary = [f"mean ± sd of {len(common)}", "", "", *(f"{gain.mean():.4f} ± {gain.std():.4f}" for gain in gains)]
    summary += [""] * (len(names) - len(gains))
    heads = ["cut, UTC", "events before", "users", *names]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows, summary]
    return f"# NDCG@{CUTOFF} over time: {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
