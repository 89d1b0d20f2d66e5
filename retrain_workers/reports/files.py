"""Reports as files: the comparison of models as Markdown, JSON and a figure, and the reliability of probabilities as a figure.

Drawn without pyplot: no global state, no display.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from online_models.contracts.events import utc
from online_models.metrics import reliability
from retrain_workers.reports.comparison import Comparison, Row
from retrain_workers.validation.calibration import BINS, Calibration, Numbers, Uncalibrated, probabilities, quality
from retrain_workers.validation.evaluation import CUTOFF

INK: Final = "#1f2937"
FAINT: Final = "#e5e7eb"
BLUE: Final = "#2563eb"
GREY: Final = "#9ca3af"

_HEADS: Final = (
    "model",
    f"hit@{CUTOFF}",
    f"NDCG@{CUTOFF}",
    "±",
    "MRR",
    "coverage",
    "RMSE",
    "MAE",
    "fit, CPU s",
    "list, CPU ms",
    "disk, KiB",
    "memory, KiB",
)


def write_comparison(found: Comparison, folder: Path, title: str = "models") -> list[Path]:
    """Write `comparison.md`, `comparison.json` and `comparison.png` into a folder, made if need be; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data, figure = (folder / f"comparison.{kind}" for kind in ("md", "json", "png"))
    text.write_text(markdown_of(found, title), encoding="utf-8")
    data.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    comparison_figure(found, title).savefig(figure, dpi=130)
    return [text, data, figure]


def markdown_of(found: Comparison, title: str) -> str:
    """The report as Markdown."""
    lines = [
        f"# Comparison of models: {title}",
        "",
        f"{found.users:,} users, on what they liked after {utc(found.cut_ms):%Y-%m-%d %H:%M} UTC and had not met before; "
        f"fitted to the {found.history_events:,} events before that, over {found.items:,} items. ± is one standard error "
        "over users.",
        "",
        _line(_HEADS),
        _line(["---", *["---:"] * (len(_HEADS) - 1)]),
        *(_line(_cells(row)) for row in found.rows),
    ]
    if found.mean_rating is not None:
        lines += [
            "",
            f"{found.ratings:,} later ratings, each predicted by a line over the model's score; always the mean: "
            f"RMSE {found.mean_rating.rmse:.3f}, MAE {found.mean_rating.mae:.3f}.",
        ]
    lines += [f"\nLeft out: {name}, {reason}." for name, reason in found.left_out.items()]
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    errors = ["", ""] if row.rating is None else [f"{row.rating.rmse:.3f}", f"{row.rating.mae:.3f}"]
    return [
        row.name,
        f"{row.hit_rate:.4f}",
        f"{row.ndcg:.4f}",
        f"{row.ndcg_error:.4f}",
        f"{row.mrr:.4f}",
        f"{row.coverage:.3f}",
        *errors,
        f"{row.fit_cpu_seconds:.2f}",
        f"{row.rank_cpu_ms:.3f}",
        f"{row.disk_bytes / 1024:,.0f}",
        f"{row.memory_bytes / 1024:,.0f}",
    ]


def comparison_figure(found: Comparison, title: str) -> Figure:
    """NDCG with its standard error, and what a model costs to fit and to ask, one bar for each model."""
    figure = Figure(figsize=(12, 1.6 + 0.4 * len(found.rows)), layout="constrained")
    gain, fitting, asking = figure.subplots(1, 3)
    names = [row.name for row in found.rows]
    places = np.arange(len(names))
    gain.barh(places, [row.ndcg for row in found.rows], xerr=[row.ndcg_error for row in found.rows], color=BLUE)
    fitting.barh(places, [row.fit_cpu_seconds for row in found.rows], color=GREY)
    asking.barh(places, [row.rank_cpu_ms for row in found.rows], color=GREY)
    heads = (f"NDCG@{CUTOFF}, ± one standard error", "CPU seconds to fit", "CPU ms for a list")
    for axes, head in zip((gain, fitting, asking), heads, strict=True):
        _plain(axes, head)
        axes.set_yticks(places, names if axes is gain else [""] * len(names))
        axes.invert_yaxis()
        axes.set_xlim(left=0)
    figure.suptitle(f"Models compared: {title}", x=0.01, ha="left", fontsize=13, color=INK)
    return figure


def write_reliability(found: Calibration, scores: Numbers, labels: Numbers, path: Path) -> Path:
    """Draw how probabilities of scores (n,) match labels (n,) before and after calibration; PNG or SVG by the file's name.

    The events should be others than the calibrator was fitted to. Raises ValueError as `calibration.quality` does.
    """
    figure = Figure(figsize=(6.5, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.5, zorder=0)
    name = msgspec.to_builtins(found.calibrator)["method"]
    for label, calibrator, colour in (("before", Uncalibrated(), GREY), (f"after ({name})", found.calibrator, BLUE)):
        predicted = probabilities(calibrator, scores)
        table, told = reliability(predicted, labels, BINS), quality(predicted, labels)
        text = f"{label}: ECE {told.ece:.4f}, Brier {told.brier:.4f}, NLL {told.nll:.4f}"
        axes.plot(table.predicted, table.observed, color=colour, marker="o", linewidth=2, label=text)
    _plain(axes, f"{len(labels):,} events in at most {BINS} bins of equal mass")
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("observed", color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(loc="upper left", frameon=False, labelcolor=INK)
    figure.suptitle("Reliability", x=0.01, ha="left", fontsize=13, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
